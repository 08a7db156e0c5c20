"""The gate: whether a request comes in, is asked to come again later, or is shed. Asked before the router has it.

A shed request is an outcome of its own kind (status ``shed``, metric ``shed``): it has no latency, and counts as not good. One that is deferred stands
at the gate until the time that was named, and is asked about again; its latencies count from its arrival.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Policy
from rota.kernel.errors import PolicyError
from rota.kernel.tables import HOST_COLUMNS, FloatColumn, Hosts, Jobs
from rota.worlds.serving import doors
from rota.worlds.serving.kernels import layout as at

if TYPE_CHECKING:
    from rota.worlds.serving.fleet import Fleet

COMES_IN, SHED = 0.0, np.inf


class Admit(Policy):
    """Does this request come in?

    Asked at each arrival with a table of one request, and one of all hosts. State changes in hooks; `on_admit` and `on_defer` say that it came in, or waits.

    Attributes:
        reads: Host columns; those that depend on a request are about the arriving one. ``held`` counts the requests that wait at the router.
        reads_job: Columns of the request, as they are when it arrives.
        whole_line: The table of requests has those that wait at the router too, after the arriving one: they may be shed, nothing else.
    """

    reads_job: ClassVar[tuple[str, ...]] = ()
    whole_line: bool = False

    def verdicts(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        """A number a request: 0: it comes in, ``inf``: it is shed, a later time: it is asked about again then."""
        raise NotImplementedError(f"{type(self).__name__} does not say who comes in")

    def on_admit(self, job: int, now: float) -> None:
        """A request came in."""

    def on_defer(self, job: int, until: float, now: float) -> None:
        """A request stands at the gate until a time."""


class Gate:
    """The gate of one run."""

    def __init__(self, fleet: "Fleet", policy: Admit) -> None:
        from rota.worlds.serving.columns import SERVING_HOST_COLUMNS

        self.fleet, self.run, self.policy = fleet, fleet.run, policy
        self.run.state[at.GATE] = 1
        self._columns = {**HOST_COLUMNS, **SERVING_HOST_COLUMNS}

    def arrives(self, job: int, now: float) -> None:
        """A request stands at the gate."""
        from rota.worlds.serving.kernels import gate

        rows = [job]
        if self.policy.whole_line:
            held = doors.held(self.run)  # also those that a crash has sent back: who has begun is served to the end
            rows += held[np.isnan(self.run.seconds[at.SCHEDULED, held])].tolist()
        verdicts = self._ask(rows, now)
        for other in np.flatnonzero(verdicts[1:] == SHED).tolist():
            gate.shed_waiting(self.run.state, rows[1 + other], now)
        if verdicts[0] == SHED:
            gate.shed(self.run.state, job, now)
        elif verdicts[0] > now:
            until = float(verdicts[0])
            self.policy.on_defer(job, until, now)
            self.fleet.later(until, partial(self.arrives, job))
        else:
            doors.let_in(self.run, job)
            self.policy.on_admit(job, now)

    def _ask(self, rows: Sequence[int], now: float) -> FloatColumn:
        run, policy = self.run, self.policy
        chosen = np.array(rows)
        jobs: dict[str, npt.NDArray[Any]] = {"id": chosen} if "id" in policy.reads_job else {}
        jobs |= {
            name: column for name in policy.reads_job if (column := run.views.fixed_column(name, chosen)) is not None
        }
        hosts = run.views.host_values(policy.reads, rows[0])
        table = Hosts(hosts, self._columns.values(), rows=len(run.replicas))
        answer = np.asarray(policy.verdicts(Jobs(jobs, run.views.columns, rows=len(rows)), table, now), np.float64)
        name = type(policy).__name__
        if answer.shape != (len(rows),) or np.isnan(answer).any():
            raise PolicyError(
                f"{name}: verdicts at {now:g} s have shape {answer.shape} or contain NaN, expected ({len(rows)},) numbers"
            )
        wrong = (answer != COMES_IN) & ~(answer > now)
        if wrong.any() or ((answer[1:] != COMES_IN) & (answer[1:] != SHED)).any():
            raise PolicyError(
                f"{name}: verdicts at {now:g} s must be 0, inf or, for the one that arrives, a later time; found {answer.tolist()[:8]}"
            )
        return answer
