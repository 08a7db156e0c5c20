"""Dynasor: programs that reason end when their answer stands still, and the calls of one program go together, the least work still to come first.

Fu et al., Efficiently Scaling LLM Reasoning with Certaindex, NeurIPS 2025 (arXiv 2412.20993); the rule for chains of thought as in its code
(hao-ai-lab/Dynasor, `dynasor/cot.py`): a probe with each chunk, and the end when the last answers of a window are equal, of 8, 5, 3 or 2 with chunks of 64
tokens. Gang scheduling, approximate shortest first from history, and promotion of what has waited too long are recalled from the paper.

Approximated: samples and searches are judged by the same window over their rounds, where the paper takes the entropy of the answers or the rewards of a
search; what a probe says holds no words of doubt (its code looks for "wait", "hmm" and the like); what is still to come is learned from ended programs of
the kind, not also from the lengths of the program's own branches. Programs that get nowhere are not given up.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, IntColumn, Jobs
from rota.worlds.serving.rounds import Stop


@dataclass
class Certaindex(Stop):
    """Enough is a window of equal answers.

    Attributes:
        window: Rounds in a row with the same answer.
    """

    window: int = 3

    def __post_init__(self) -> None:
        if self.window < 1:
            raise InputError(f"certaindex: window must be at least 1 round, found {self.window}")

    def enough(self, answers: IntColumn, now: float) -> bool:
        last = answers[-self.window :]
        return len(last) == self.window and bool((last == last[0]).all())


@dataclass
class FixedRounds(Stop):
    """Enough is a number of rounds, whatever the answers: the same compute for every program.

    Attributes:
        rounds: Answers that there must be. The first chunk of a chain of thought gives none, so of a chain one chunk more is made.
    """

    rounds: int = 4
    probes = False

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"fixed_rounds: rounds must be at least 1, found {self.rounds}")

    def enough(self, answers: IntColumn, now: float) -> bool:
        return len(answers) >= self.rounds


@dataclass
class ProgramShortest(Order):
    """The program with the least expected output still to come first, all its calls together.

    Attributes:
        patience: Seconds that a call waits before it goes before all that have not waited as long.
    """

    patience: float = 60.0
    reads = ("release", "program", "program_release", "program_left")

    def __post_init__(self) -> None:
        if not self.patience > 0:
            raise InputError(f"dynasor: patience must be above 0 seconds, found {self.patience:g}")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        starved = now - jobs.release > self.patience
        left = np.where(starved, jobs.release, jobs.program_left)
        return np.column_stack([~starved, left, jobs.program_release, jobs.program]).astype(np.float64)
