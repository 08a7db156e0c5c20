"""Power over time: what each replica draws, read at equal intervals, and a policy that sets clocks.

A replica that is paid for draws its idle power all the time, and in an iteration what that takes besides (`power_model`). One that is off draws nothing.
"""

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Policy
from rota.kernel.errors import PolicyError
from rota.kernel.tables import Column, Hosts
from rota.worlds.serving import doors
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.power_model import CLOCK, IDLE, LIMIT

if TYPE_CHECKING:
    from rota.worlds.serving.fleet import Fleet

FloatColumn = npt.NDArray[np.float64]
LOWEST_CLOCK = 0.1
ENERGY_COLUMNS = {
    column.name: column
    for column in (
        Column("watts", "W", "what the host drew on average since the last question"),
        Column("limit_watts", "W", "the most that it can draw"),
        Column("clock", "", "its clock, as a share of the highest"),
        Column("busy", "", "share of the time since the last question that iterations would have taken at the highest clock"),
        Column("compute_share", "", "part of that which a lower clock stretches"),
        Column("step_seconds", "s", "an iteration at the highest clock, mean since the last question"),
        Column("urgent", "", "1 for hosts of high priority, 0 for those of low priority"),
        Column("budget_watts", "W", "what all hosts together may draw, the same in every row; inf: no limit"),
    )
}  # fmt: skip


class Clocks(Policy):
    """Which clock each host has.

    Asked every `every` seconds with the table of all hosts, `ENERGY_COLUMNS` with it.
    """

    every: float = 2.0

    def clocks(self, hosts: Hosts, now: float) -> FloatColumn:
        """A share of the highest clock for each host, above 0 and at most 1; it counts from the next iteration on."""
        raise NotImplementedError(f"{type(self).__name__} sets no clocks")


@dataclass(frozen=True)
class EnergyPlan:
    """What is known of the power of a fleet.

    Args:
        rows: A row a host, as `power_model.row_of` makes them.
        urgent: Which hosts are of high priority.
        budget: Watts for all together; inf: no limit. It is the policy's to keep.
        telemetry: Seconds between two readings.
    """

    rows: FloatColumn
    urgent: npt.NDArray[np.bool_]
    budget: float = inf
    telemetry: float = 1.0


@dataclass
class Energy:
    """The meters of a run."""

    fleet: "Fleet"
    plan: EnergyPlan
    times: list[float] = field(default_factory=list)  # ends of the intervals
    watts: list[FloatColumn] = field(default_factory=list)  # means over them, a value a host

    def __post_init__(self) -> None:
        run = self.fleet.run
        self.rows = doors.set_power(run, self.plan.rows)
        self.policy = run.roles.clocks
        self.begin = self._last = self.fleet.power.begin
        self._joules = np.zeros(len(run.replicas))
        self._asked = (self.begin, self._joules, np.zeros((3, len(run.replicas))))
        self.fleet.later(self.begin + self.plan.telemetry, self._read, outage=True)
        if self.policy is not None:
            self.fleet.later(self.begin + self.policy.every, self._ask, outage=True)

    @property
    def idle(self) -> FloatColumn:
        """Watts of each host that is on and does nothing."""
        return np.asarray(self.rows[:, LIMIT] * self.rows[:, IDLE])

    def joules(self, now: float) -> FloatColumn:
        """Of each host from the first arrival until now."""
        return doors.joules(self.fleet.run, now) + self.idle * self.fleet.power.seconds(now)

    def close(self, end: float) -> None:
        """The last, shorter interval; readings after the end are dropped."""
        while self.times and self.times[-1] > end:
            self.times.pop()
            self.watts.pop()
        last = self.times[-1] if self.times else self.begin
        if end > last:
            before = sum((w * s for w, s in zip(self.watts, self.lengths(), strict=True)), np.zeros(len(self.rows)))
            self.times.append(end)
            self.watts.append((self.joules(end) - before) / (end - last))

    def series(self, edges: FloatColumn) -> FloatColumn:
        """Mean watts of each host between these moments, shape (hosts, moments - 1)."""
        joules = np.cumsum(
            np.array(self.watts).reshape(len(self.times), len(self.rows)) * self.lengths()[:, None], axis=0
        )
        at_times = np.vstack([np.zeros(len(self.rows)), joules])
        moments = np.array([self.begin, *self.times])
        found = np.array([np.interp(edges, moments, column) for column in at_times.T])
        return np.asarray(np.diff(found, axis=1) / np.diff(edges))

    def lengths(self) -> FloatColumn:
        """Seconds of each interval."""
        return np.diff(np.array([self.begin, *self.times]))

    # -- in time --------------------------------------------------------------------------------------------------

    def _read(self, now: float) -> None:
        self.fleet.later(now + self.plan.telemetry, self._read, outage=True)
        joules = self.joules(now)
        self.times.append(now)
        self.watts.append((joules - self._joules) / (now - self._last))
        self._joules, self._last = joules, now

    def _ask(self, now: float) -> None:
        policy, run = self.policy, self.fleet.run
        if policy is None:
            return
        self.fleet.later(now + policy.every, self._ask, outage=True)
        answer = np.asarray(policy.clocks(run.views.question(policy, None, self._columns(now))[1], now), np.float64)
        if answer.shape != (len(self.rows),) or not ((answer >= LOWEST_CLOCK) & (answer <= 1.0)).all():
            raise PolicyError(
                f"{type(policy).__name__}: clocks at {now:g} s must be a share from {LOWEST_CLOCK} to 1 for each of {len(self.rows)} hosts, found {answer}"
            )
        self.rows[:, CLOCK] = answer

    def _columns(self, now: float) -> dict[str, FloatColumn]:
        run = self.fleet.run
        joules, clocks = self.joules(now), run.clocks
        totals = np.array([clocks[:, at.FULL_SECONDS], clocks[:, at.COMPUTE_SECONDS], run.hosts[:, at.ITERATIONS]])
        then, before, old = self._asked
        self._asked = (now, joules, totals)
        full, compute, steps = totals - old
        hosts, span = len(self.rows), max(now - then, 1e-12)
        return {
            "watts": (joules - before) / span,
            "limit_watts": self.rows[:, LIMIT].copy(),
            "clock": self.rows[:, CLOCK].copy(),
            "busy": full / span,
            "compute_share": np.divide(compute, full, out=np.zeros(hosts), where=full > 0),
            "step_seconds": np.divide(full, steps, out=np.zeros(hosts), where=steps > 0),
            "urgent": self.plan.urgent.astype(np.float64),
            "budget_watts": np.full(hosts, self.plan.budget),
        }

    # -- results --------------------------------------------------------------------------------------------------

    def summary(self, end: float, tokens: float) -> dict[str, float]:
        """Energy of the fleet until the last token, a token's share, and the mean and the largest power of an interval."""
        self.close(end)
        joules = float(self.joules(end).sum())
        drawn, lengths = np.array([watts.sum() for watts in self.watts]), self.lengths()
        above = lengths[drawn > self.plan.budget].sum() if len(drawn) else 0.0
        if (
            len(drawn) > 1 and lengths[-1] < 0.5 * self.plan.telemetry
        ):  # a sliver is no reading: it belongs to the one before
            drawn = np.append(drawn[:-2], np.average(drawn[-2:], weights=lengths[-2:]))
        span = end - self.begin
        return {
            "energy_kwh": joules / 3.6e6,
            "energy_per_token": joules / tokens if tokens > 0 else float("nan"),
            "power_mean": joules / span if span > 0 else float("nan"),
            "power_peak": float(drawn.max()) if len(drawn) else float("nan"),
            "over_budget_share": float(above / span) if span > 0 else float("nan"),
        }
