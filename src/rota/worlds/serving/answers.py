"""What a reasoning program would answer if it were ended early: a model of answers that settle.

Programs that reason (samples of one question, searches, chains of thought) come to an answer and often go on, and what they would answer changes no
more (Fu et al., Efficiently Scaling LLM Reasoning with Certaindex, 2025, arXiv 2412.20993, call this answer stabilisation). Here an answer is a number:
0 is right, others are wrong. In each program it settles at a hidden share of its rounds; before that it changes from round to round with
a probability, to any other candidate, so that it may also stand still for a while and be wrong. Programs that never settle end with what they
have then. The defaults are round figures, not fits: the paper's figures of this kind were not at hand.
"""

from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError

IntColumn = npt.NDArray[np.int64]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]

RIGHT, UNKNOWN = 0, -1


class AnswerSpec(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a scenario's ``answers`` say.

    The length of a probe's answer is that of Dynasor's code (`max_tokens=20`); that of the sentence that asks for it is about right.
    """

    settle: tuple[Share, Share] = (0.1, 0.9)  # share of its rounds after which an answer stands: evenly between these
    never: Share = 0.1  # of the programs: their answers do not settle
    accuracy: Share = 0.85  # of the answers that settle
    change: Share = 0.8  # probability that an answer that has not settled changes in a round
    candidates: Annotated[int, msgspec.Meta(ge=2)] = 5  # answers that there are
    probe_prompt: Count = 24  # tokens that ask a chain of thought for what it has
    probe_output: Count = 20  # tokens of what it says


@dataclass(frozen=True)
class Answers:
    """What is known of each program after each of its rounds, and what it answers at its end.

    Program ``p`` has the rounds ``offsets[p]:offsets[p + 1]``. The calls of a round wait for all calls of the one before.
    """

    round: IntColumn  # of each call, from 0 in each program
    probe: npt.NDArray[np.bool_]  # calls that only ask for the answer so far: made where somebody wants to know
    offsets: IntColumn  # (programs + 1,)
    known: IntColumn  # the answer that is known at the end of a round, UNKNOWN: none
    final: IntColumn  # (programs,): the answer after all rounds

    def of(self, program: int) -> IntColumn:
        """The answers that are known after each round of a program."""
        return self.known[self.offsets[program] : self.offsets[program + 1]]


def check_answers(spec: AnswerSpec, where: str) -> None:
    """Raises InputError where the shares are the wrong way round."""
    low, high = spec.settle
    if low > high:
        raise InputError(f"{where}.settle: [least, most] share of the rounds, found [{low:g}, {high:g}]")


def draw_answers(spec: AnswerSpec, rounds: int, rng: np.random.Generator) -> IntColumn:
    """What a program would answer after each of its rounds."""
    low, high = spec.settle
    never, right, share = rng.random(3)
    settled = rounds if never < spec.never else max(int(np.ceil((low + (high - low) * share) * rounds)), 1)
    final = RIGHT if right < spec.accuracy else int(rng.integers(1, spec.candidates))
    changes = rng.random(rounds) < spec.change
    steps = np.where(changes, rng.integers(1, spec.candidates, rounds), 0)
    steps[0] = rng.integers(spec.candidates)
    found = np.cumsum(steps) % spec.candidates
    if never >= spec.never:
        found[settled - 1 :] = final
    return np.asarray(found, np.int64)
