"""Programs in rounds while they run: whether one has reasoned enough, and how much is still to come.

At the end of a round the role `stop` is asked about the program, with the answers that it has had. If they are enough, the calls that would
have followed are never made: they are an outcome of their own kind (status ``spared``) without times, and count for no latency. Probes are made only
for a policy that wants them; otherwise they are spared too.

What is still to come is known from programs of the same kind that have ended: the mean of what those that were longer had yet to do.
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Policy
from rota.worlds.serving.answers import RIGHT, UNKNOWN, Answers
from rota.worlds.serving.kernels import layout as at

if TYPE_CHECKING:
    from rota.worlds.serving.simulate import Simulation

IntColumn = npt.NDArray[np.int64]
FloatColumn = npt.NDArray[np.float64]
LEFT = "program_left"
REMEMBERED = 1000  # ended programs of a kind


class Stop(Policy):
    """Has a program reasoned enough?

    Attributes:
        probes: It wants to know what a chain of thought has so far, which costs a call a round.
    """

    probes: bool = True

    def enough(self, answers: IntColumn, now: float) -> bool:
        """Asked at the end of a round, with the answers after each round so far, the first known one first; equal number, equal answer."""
        raise NotImplementedError(f"{type(self).__name__} does not say what is enough")


class Rounds:
    """The programs of one run that have answers."""

    def __init__(self, run: "Simulation", program: IntColumn, members: Sequence[IntColumn], answers: Answers) -> None:
        self.run, self.policy, self.answers = run, run.roles.stop, answers
        self._program, self._members = program, members
        self.right = np.zeros(len(members), np.bool_)
        self.early = np.zeros(len(members), np.bool_)  # ended by the policy
        asked = self.policy is not None and self.policy.probes
        self.unasked = np.flatnonzero(answers.probe & (not asked))  # probes that nobody wants
        self._spare(self.unasked)
        place = np.delete(answers.offsets[program] + answers.round, self.unasked)
        self._open = np.bincount(place, minlength=int(answers.offsets[-1])).tolist()  # calls of each round to come

    def _spare(self, rows: IntColumn) -> None:
        """Calls that are never made. They wait for others, so that no line and no heap has them."""
        self.run.jobs[at.STATE, rows] = at.SPARED
        self.run.state[at.FINISHED] += len(rows)

    def ended(self, job: int, now: float) -> bool:
        """A call has ended. Returns whether its program has too: nothing follows."""
        program, number = int(self._program[job]), int(self.answers.round[job])
        place = int(self.answers.offsets[program]) + number
        self._open[place] -= 1
        if self._open[place]:
            return False
        if place + 1 == self.answers.offsets[program + 1]:
            self.right[program] = self.answers.final[program] == RIGHT
            return True
        answers = self.answers.of(program)
        chain = bool(
            answers[0] == UNKNOWN
        )  # of thought: it has an answer from its second round on, and tells it to a probe
        known = answers[int(chain) : number + 1]
        shown = np.full(len(known), UNKNOWN) if chain and len(self.unasked) else known
        if self.policy is None or not len(known) or not self.policy.enough(shown, now):
            return False
        self.early[program], self.right[program] = True, known[-1] == RIGHT
        rows = self._members[program]
        self._spare(rows[(self.answers.round[rows] > number) & (self.run.jobs[at.STATE, rows] != at.SPARED)])
        return True

    def summary(self, status: npt.NDArray[np.str_], done: npt.NDArray[np.bool_]) -> dict[str, float]:
        """Metrics: how many ended early, how many are right, and what was not generated. `done`: programs that have ended."""
        tokens = self.run.workload.output_tokens
        whole = float(tokens[~self.answers.probe].sum())
        made = float(tokens[status == "finished"].sum())
        left_out = float(tokens[(status != "spared") & (status != "finished") & ~self.answers.probe].sum())
        return {
            "programs_early": float(self.early.sum()),
            "programs_right_share": float(self.right[done].mean()) if done.any() else float("nan"),
            "spared_token_share": (whole - left_out - made) / whole,
        }


class History:
    """Lengths of the programs that ended last, by kind, and what they say of those under way."""

    def __init__(self) -> None:
        self._ended: dict[int, deque[float]] = {}
        self._means: dict[
            int, tuple[FloatColumn, FloatColumn]
        ] = {}  # by kind: lengths in order, mean of each and all longer ones

    def observe(self, kind: int, tokens: float) -> None:
        """A program has ended."""
        self._ended.setdefault(kind, deque(maxlen=REMEMBERED)).append(tokens)
        self._means.clear()

    def left(self, kind: int, done: FloatColumn, calls: IntColumn) -> FloatColumn:
        """Expected tokens still to come to programs that have had `done` in so many calls.

        Of a kind of which none has ended all kinds tell. One more call of their mean length for those that are longer than any; 0 before any has ended.
        """
        if not self._ended:
            return np.zeros(len(done))
        if kind not in self._means:
            known = self._ended.get(kind) or [each for lengths in self._ended.values() for each in lengths]
            ordered = np.sort(np.array(known))
            self._means[kind] = ordered, np.cumsum(ordered[::-1])[::-1] / np.arange(len(ordered), 0, -1)
        ordered, means = self._means[kind]
        longer = np.searchsorted(ordered, done, side="right")
        expected = means[np.minimum(longer, len(means) - 1)] - done
        return np.where(longer < len(ordered), expected, done / np.maximum(calls, 1))


class ToCome:
    """The column `program_left` of one run, for policies that read it."""

    def __init__(
        self, run: "Simulation", program: IntColumn, members: Sequence[IntColumn], kind: IntColumn | None
    ) -> None:
        self.run, self._program, self._members = run, program, members
        self._kind = np.zeros(len(members), np.int64) if kind is None else kind
        self._done, self._made = np.zeros(len(members)), np.zeros(len(members), np.int64)  # tokens, calls
        self._calls = [len(each) for each in members]  # to come
        self._left = np.zeros(len(members))
        self.history = History()

    def ended(self, program: int, job: int, over: bool) -> None:
        """A call has ended; `over`: and no other one follows it."""
        self._done[program] += float(self.run.jobs[at.OUTPUT, job])
        self._made[program] += 1
        self._calls[program] -= 1
        kind = int(self._kind[program])
        if not over and self._calls[program]:
            only = slice(program, program + 1)
            self._left[only] = self.history.left(kind, self._done[only], self._made[only])
            self.run.views.tell_program(LEFT, self._members[program], float(self._left[program]))
            return
        self.history.observe(kind, float(self._done[program]))
        for each in np.unique(self._kind).tolist():
            mine = self._kind == each
            self._left[mine] = self.history.left(each, self._done[mine], self._made[mine])
        self.run.views.tell_program(LEFT, np.arange(len(self._program)), self._left[self._program])
