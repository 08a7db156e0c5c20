"""Autoscaling by slack: how far the waits of the last minute stayed below their limit.

Ours, in the manner of the target trackers of cloud providers: the tracked figure is a quantile of the time that requests waited before their prompt began,
over the part of the limit that may be spent so. Above 1 the fleet grows in proportion, at least by one; it shrinks by one where the figure has stayed below
`low` for `down_seconds` and one replica less would still have slots for all that is there.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.tables import Hosts
from rota.worlds.serving.fleet import Scaler


@dataclass
class SloSlack(Scaler):
    """Waits against their limit.

    Attributes:
        limit: Seconds that a request may wait before its prompt begins.
        quantile: Of the waits in the window.
        window: Seconds that are looked back.
        low: Share of the limit below which a replica may go.
        fill: Share of the slots that those that stay may have taken then.
        growth: The most by which the fleet is multiplied at once.
        down_seconds: So long the waits must have been low, and so long the last change must be ago.
        every: Seconds between two questions.
    """

    limit: float = 0.5
    quantile: float = 0.95
    window: float = 60.0
    low: float = 0.25
    fill: float = 0.7
    growth: float = 2.0
    down_seconds: float = 180.0
    every: float = 10.0
    _arrived: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    _waits: list[tuple[float, float]] = field(default_factory=list, init=False, repr=False)
    _on: float | None = field(default=None, init=False, repr=False)
    _quiet_since: float | None = field(default=None, init=False, repr=False)

    reads = ("up", "running", "outstanding", "max_running")

    def __post_init__(self) -> None:
        if not (self.limit > 0 and 0 < self.quantile < 1 and self.window > 0 and self.every > 0):
            raise InputError(
                f"slo_slack: needs limit > 0, quantile in (0, 1), window > 0 and every > 0; "
                f"found {self.limit:g}, {self.quantile:g}, {self.window:g}, {self.every:g}"
            )
        if not (0 <= self.low < 1 and 0 < self.fill <= 1 and self.growth > 1 and self.down_seconds >= 0):
            raise InputError(
                f"slo_slack: needs low in [0, 1), fill in (0, 1], growth > 1 and down_seconds >= 0; "
                f"found {self.low:g}, {self.fill:g}, {self.growth:g}, {self.down_seconds:g}"
            )

    def on_arrival(self, job: int, now: float) -> None:
        self._arrived[job] = now

    def on_start(self, job: int, host: int, now: float) -> None:
        if job in self._arrived:
            self._waits.append((now, now - self._arrived.pop(job)))

    def on_leave(self, job: int, reason: str, now: float) -> None:
        self._arrived.pop(job, None)

    def wanted(self, hosts: Hosts, now: float) -> float:
        count = float((hosts.up > 0).sum())
        self._waits = [(time, wait) for time, wait in self._waits if time > now - self.window]
        waits = [wait for _, wait in self._waits] + [now - time for time in self._arrived.values()]
        use = float(np.quantile(waits, self.quantile)) / self.limit if waits else 0.0
        on = min(max(self._on or count, count), len(hosts))  # those that are starting with them
        if use > 1.0:
            self._quiet_since = None
            self._on = max(on, count + 1, float(np.ceil(count * min(use, self.growth))))
            return self._on
        if use > self.low:
            self._quiet_since, self._on = None, on
            return on
        self._quiet_since = now if self._quiet_since is None else self._quiet_since
        slots = float(hosts.max_running[hosts.up > 0].sum()) * (count - 1) / max(count, 1)
        if now - self._quiet_since < self.down_seconds or float(hosts.outstanding.sum()) > self.fill * slots:
            return on
        self._quiet_since, self._on = now, on - 1
        return self._on
