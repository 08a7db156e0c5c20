"""Predictive autoscaling: replicas for the arrivals that the trace's own past promises for the time at which a replica switched on now will be ready.

Arrivals are counted in intervals of `every` seconds and carried forward by one of three textbook methods: the exponentially weighted mean (Brown, Statistical
Forecasting for Inventory Control, 1959), level and trend (Holt 1957, reprinted in International Journal of Forecasting 20, 2004), and level, trend and an
additive season (Winters, Forecasting Sales by Exponentially Weighted Moving Averages, Management Science 6, 1960), which is Holt's until one season has been
seen.
"""

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from rota.kernel.errors import InputError
from rota.kernel.tables import Hosts
from rota.worlds.serving.fleet import Scaler


@dataclass
class Predictive(Scaler):
    """Forecast arrivals over what one replica can take.

    Attributes:
        rate: Requests a second that one replica serves within its limits.
        ahead: Seconds from the decision to the moment it is for: the start-up time.
        method: `ewma`, `holt` or `seasonal`.
        season: Seconds after which the load repeats; for `seasonal`.
        level, trend, seasonal: Weights of the newest interval in each part.
        backlog: Also replicas for what is outstanding, so many requests each; inf: only the forecast counts.
        every: Seconds of an interval, and between two questions.
    """

    source = (
        "Brown, Statistical Forecasting for Inventory Control, 1959; Holt 1957; Winters, Management Science 6, 1960"
    )

    rate: float = 3.0
    ahead: float = 60.0
    method: Literal["ewma", "holt", "seasonal"] = "holt"
    season: float = 3600.0
    level: float = 0.3
    trend: float = 0.1
    seasonal: float = 0.3
    backlog: float = inf
    every: float = 15.0
    _count: int = field(default=0, init=False, repr=False)
    _base: float | None = field(default=None, init=False, repr=False)
    _slope: float = field(default=0.0, init=False, repr=False)
    _past: list[float] = field(default_factory=list, init=False, repr=False)
    _offsets: list[float] = field(default_factory=list, init=False, repr=False)

    reads = ("outstanding",)

    def __post_init__(self) -> None:
        finite = self.rate < inf and self.ahead < inf and self.every < inf and self.season < inf
        if not (finite and self.rate > 0 and self.ahead >= 0 and self.every > 0 and self.backlog > 0):
            raise InputError(
                f"predictive: needs rate > 0, ahead >= 0, every > 0 and backlog > 0, all but backlog finite; "
                f"found {self.rate:g}, {self.ahead:g}, {self.every:g}, {self.backlog:g}, season {self.season:g}"
            )
        if not all(0 < weight <= 1 for weight in (self.level, self.trend, self.seasonal)):
            raise InputError(
                f"predictive: level, trend and seasonal are weights above 0 and at most 1; "
                f"found {self.level:g}, {self.trend:g}, {self.seasonal:g}"
            )
        if self.method == "seasonal" and self.season < 2 * self.every:
            raise InputError(
                f"predictive: a season needs at least two intervals of {self.every:g} s, found {self.season:g} s"
            )

    @property
    def intervals(self) -> int:
        """Intervals of a season."""
        return round(self.season / self.every)

    def on_arrival(self, job: int, now: float) -> None:
        self._count += 1

    def wanted(self, hosts: Hosts, now: float) -> float:
        self._learn(self._count / self.every)
        self._count = 0
        return max(self.forecast(self.ahead / self.every) / self.rate, float(hosts.outstanding.sum()) / self.backlog)

    def _learn(self, value: float) -> None:
        """Take in the rate of the interval that has ended."""
        seasonal, m = self.method == "seasonal", self.intervals
        step = len(self._past)
        self._past.append(value)
        if seasonal and step == m:  # one season is over: what it was beside its own mean
            mean = sum(self._past[:m]) / m
            self._offsets = [each - mean for each in self._past[:m]]
            self._base, self._slope = mean, 0.0
        offset = self._offsets[step % m] if self._offsets else 0.0
        if self._base is None:
            self._base = value
            return
        before = self._base
        slope = 0.0 if self.method == "ewma" else self._slope
        self._base = self.level * (value - offset) + (1 - self.level) * (before + slope)
        self._slope = self.trend * (self._base - before) + (1 - self.trend) * slope
        if self._offsets:
            self._offsets[step % m] = self.seasonal * (value - self._base) + (1 - self.seasonal) * offset

    def forecast(self, intervals: float) -> float:
        """Requests a second so many intervals after the last one that was seen."""
        if self._base is None:
            return 0.0
        slope = 0.0 if self.method == "ewma" else self._slope
        offset = self._offsets[(len(self._past) - 1 + round(intervals)) % self.intervals] if self._offsets else 0.0
        return max(0.0, self._base + slope * intervals + offset)
