"""Lengths that are learned while a run goes: the predictor `history` at work.

When a request arrives, its answer is predicted from the answers of its group that have ended in this run by then, under this policy; one that ends
at that instant counts. What is predicted then stays, whatever ends later, and is what everybody sees: the columns of requests, the work that is left at
replicas, memory that is set aside, dollars. Only answers that are whole teach: requests that are rejected, shed, recalled or spared do not, nor does an
attempt that a crash has cut short.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.worlds.serving.inside import expect
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.labels import ROLES
from rota.worlds.serving.model import Workload
from rota.worlds.serving.predictors import History, LengthHistory

if TYPE_CHECKING:
    from rota.worlds.serving.simulate import Simulation


def groups(work: Workload, by: str) -> npt.NDArray[np.int64]:
    """The group of each request: a number a tenant, a label or a session; those without a label or a session (-1) are a group too.

    Raises:
        InputError: the workload has no such label, or no sessions.
    """
    if by == "none":
        return np.zeros(len(work), np.int64)
    if by == "tenant":
        return work.tenant
    if by == "session":
        if len(work) and (work.session < 0).all():
            raise _missing("session")
        return work.session
    label = getattr(work.labels, ROLES[by])
    if label is None:
        raise _missing(by)
    return np.asarray(label.index, np.int64)


def _missing(by: str) -> InputError:
    return InputError(
        f"information.output_tokens.history.by: no request of the workload has a {by}; take tenant or none, or give requests one"
    )


class Learned:
    """What one run has learned so far."""

    def __init__(self, run: "Simulation", history: History) -> None:
        run.state[at.GATE] = 1  # every arrival stops here
        run.jobs[at.WATCHED] = 1  # and every end
        self.run = run
        self.lengths = LengthHistory(history.quantile, history.prior, history.window)
        self._group = groups(run.workload, history.group).tolist()
        rate, views = run.replicas[0], run.views
        self._tokens = run.workload.output_tokens.tolist()
        self._prompt = (rate.prefill_rate * run.workload.prompt_tokens).tolist()  # seconds
        self._each = rate.decode_rate  # seconds a token
        self._size, self._told = (
            run.seconds[at.SIZE],
            [views.fixed[views.codes[name]] for name in ("output_tokens", "size")],
        )

    def arrives(self, job: int) -> None:
        """A request arrives: its answer is predicted, for all who look at it from now on."""
        tokens = self.lengths.estimate(self._group[job])
        self._size[job] = tokens
        for column, value in zip(self._told, (tokens, self._prompt[job] + self._each * tokens), strict=True):
            column[job] = value
        if self.run.choice is not None:
            self.run.choice.expect(job, tokens)
        expect(self.run, job, tokens)

    def ended(self, job: int) -> None:
        """An answer is whole: its length is known."""
        self.lengths.observe(self._group[job], float(self._tokens[job]))
