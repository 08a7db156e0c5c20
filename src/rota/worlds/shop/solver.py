"""What a solver of shop problems is: a plan policy that yields steps, so that whoever drives it sees, stops and feeds it.

A solver is a generator. It yields a `Step` when it has found something and at least every quarter of a second when it
has not (a heartbeat), so that the driver can draw progress, keep the time and stop it by closing the generator. What the driver sends back
is a better schedule found elsewhere, or None. The same seed, problem and `Limit.work` give the same steps to the bit; a
solver that is limited by time looks at no clock of its own except between heartbeats.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from rota.kernel.decisions import Plan
from rota.worlds.shop.model import Problem
from rota.worlds.shop.schedule import Schedule

HEARTBEAT = 0.25  # seconds


@dataclass(frozen=True)
class Limit:
    """What a solver may spend.

    `work` counts what the solver counts (moves, nodes, iterations; `Solver.counts` says what) and makes a run repeatable; `seconds` are
    kept by the driver and are told so that a solver can pace itself.
    """

    seconds: float = math.inf
    work: int | None = None
    seed: int = 0
    workers: int = 1  # processes or threads that this solver may use itself


@dataclass(frozen=True)
class Step:
    """News from a solver, or a heartbeat when all is empty.

    `bound` is a proved lower bound of the value. `finished`: no better schedule exists ("optimal" when there is one, "infeasible" when
    there is none); a solver that merely stops just returns.
    """

    schedule: Schedule | None = None  # better than any before
    bound: int | None = None  # better than any before
    work: int = 0  # done so far
    finished: bool = False
    by: str = ""  # the member of a portfolio whose news it is
    note: str = ""  # one line the user should read, once


Steps = Generator[Step, Schedule | None, None]


class Solver(Plan):
    """A planner of shop problems; parameters are those of the constructor."""

    counts: ClassVar[str] = "iterations"  # what Limit.work counts
    proves: ClassVar[bool] = False  # whether it can finish with a proof
    takes: ClassVar[str] = (
        ""  # what may be written after its name, as in rule:mwkr; it is the constructor's first argument
    )

    def refuses(self, problem: Problem) -> str | None:
        """Why this solver cannot take a problem, in words that complete "tabu: ..."; None when it can."""
        raise NotImplementedError

    def prepare(self, problem: Problem) -> None:
        """Compile or import what a solve needs, before the clock starts."""

    def rehearse(self, problem: Problem) -> None:
        """A `prepare` that does one unit of work and forgets it."""
        next(iter(self.solve(problem, Limit(work=1))), None)

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        """Search, beginning from `start` where it is given (a feasible schedule, or a frozen part's continuation)."""
        raise NotImplementedError
