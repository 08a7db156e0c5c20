"""Autoscalers: as many replicas as the load asks for.

`reactive` counts requests; `utilisation` is the rule of Kubernetes' horizontal pod autoscaler, wanted = on x use / target, with its tolerance and its slow way
down; `freeness` is Llumnix's: one more when freeness is low, one less when it is high. Its mean over replicas is ruled by one that has just been switched on
and is empty; here it is that of all of them together.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.tables import Hosts
from rota.worlds.serving.fleet import Scaler
from rota.worlds.serving.policies.llumnix import READS, freeness, reads_with


@dataclass
class Reactive(Scaler):
    """Replicas for the requests that are there.

    Attributes:
        per_replica: Outstanding requests that one replica should have.
        every: Seconds between two questions.
    """

    source = "None: requests counted, as any autoscaler can"

    per_replica: float = 32.0
    every: float = 10.0

    reads = ("outstanding",)

    def __post_init__(self) -> None:
        if not (self.per_replica > 0 and self.every > 0):
            raise InputError(
                f"reactive: per_replica and every must be above 0, found {self.per_replica:g} and {self.every:g}"
            )

    def wanted(self, hosts: Hosts, now: float) -> float:
        return float(hosts.outstanding.sum()) / self.per_replica


@dataclass
class Utilisation(Scaler):
    """Kubernetes' horizontal pod autoscaler on KV use.

    Attributes:
        target: KV use that is aimed at.
        tolerance: Relative deviation that changes nothing.
        down_seconds: Only the largest of the answers of so many seconds is followed downwards.
        every: Seconds between two questions.
    """

    source = "Kubernetes, horizontal pod autoscaler"

    target: float = 0.6
    tolerance: float = 0.1
    down_seconds: float = 300.0
    every: float = 15.0
    _answers: list[tuple[float, float]] = field(default_factory=list, init=False, repr=False)

    reads = ("kv_use", "up")

    def __post_init__(self) -> None:
        if not (0 < self.target <= 1 and self.tolerance >= 0 and self.down_seconds >= 0 and self.every > 0):
            raise InputError(
                f"utilisation: needs target in (0, 1], tolerance >= 0, down_seconds >= 0, every > 0; "
                f"found {self.target:g}, {self.tolerance:g}, {self.down_seconds:g}, {self.every:g}"
            )

    def wanted(self, hosts: Hosts, now: float) -> float:
        up = hosts.up > 0
        count = float(up.sum())
        ratio = float(hosts.kv_use[up].mean()) / self.target if up.any() else 1.0
        answer = count if abs(ratio - 1) <= self.tolerance else float(np.ceil(count * ratio))
        self._answers = [(time, value) for time, value in self._answers if time > now - self.down_seconds] + [
            (now, answer)
        ]
        return max(value for _, value in self._answers) if answer < count else answer


@dataclass
class FleetFreeness(Scaler):
    """Llumnix: between two bounds of freeness.

    Attributes:
        below: Freeness under which one more is switched on.
        above: Freeness over which one is switched off.
        every: Seconds between two questions.
        headroom: KV tokens that a replica with urgent requests keeps free, as for `freest`.
    """

    source = "Sun et al., Llumnix: Dynamic Scheduling for Large Language Model Serving, OSDI 2024"

    below: float = 30.0
    above: float = 120.0
    every: float = 10.0
    headroom: float = 0.0

    reads = READS

    def __post_init__(self) -> None:
        if not (self.below < self.above and self.every > 0):
            raise InputError(
                f"freeness: needs below < above and every > 0; found {self.below:g}, {self.above:g}, {self.every:g}"
            )
        self.reads = reads_with(self.headroom, "freeness", READS)

    def wanted(self, hosts: Hosts, now: float) -> float:
        up = hosts.up > 0
        count, running = float(up.sum()), np.maximum(hosts.running, 1)
        left = freeness(hosts, self.headroom) * running
        free = float(left[up].sum() / hosts.running[up].sum().clip(1)) if up.any() else 0.0
        return count + (free < self.below) - (free > self.above)
