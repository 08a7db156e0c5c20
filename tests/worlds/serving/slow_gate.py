"""A slow gate before a slow fleet: the rules of admission written again, one request and one replica at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from tests.worlds.serving.slow import Request
from tests.worlds.serving.slow_fleet import FLEET, SlowFleet, possible

Verdict = Callable[["GatedFleet", Request, float], float]  # 0: comes in, inf: shed, a time: again then


class GatedFleet(SlowFleet):
    """Asks a rule about each arrival; `shed` has the numbers of those that were turned away."""

    verdict: Verdict
    shed: list[int]
    waiting_at_gate: list[tuple[float, Request]]

    def gate(self, verdict: Verdict) -> None:
        self.verdict, self.shed, self.waiting_at_gate = verdict, [], []

    def run(self, requests: list[Request], concurrency: int = 0, think: Sequence[float] = ()) -> None:
        self.all = requests
        super().run(requests, concurrency, think)

    def arrive(self, r: Request) -> None:
        if not any(possible(engine.replica, r) for engine in self.engines):
            self.send(self.now)
            return
        self.judge(r)

    def judge(self, r: Request) -> None:
        answer = self.verdict(self, r, self.now)
        if answer == inf:
            self.turn_away(r)
        elif answer > self.now:
            self.waiting_at_gate.append((answer, r))
        else:
            self.held.append(r)
            self.something_changed = True

    def turn_away(self, r: Request) -> None:
        self.shed.append(r.number)
        self.send(self.now)

    def next_event(self) -> tuple[float, float, int] | None:
        """Those that wait at the gate come after the ends and arrivals of their time, first deferred first."""
        first = super().next_event()
        if not self.waiting_at_gate:
            return first
        position = min(range(len(self.waiting_at_gate)), key=lambda k: (self.waiting_at_gate[k][0], k))
        again = (self.waiting_at_gate[position][0], FLEET, position)
        return again if first is None else min(first, again)

    def act(self, number: int) -> None:
        self.judge(self.waiting_at_gate.pop(number)[1])

    @property
    def ended(self) -> list[Request]:
        return [r for r in self.all if r.generated == r.output]

    @property
    def inside(self) -> int:
        return len(self.held) + sum(engine.outstanding for engine in self.engines)


def limited(limit: int) -> Verdict:
    """No more than `limit` requests a replica."""
    return lambda fleet, r, now: inf if fleet.inside >= limit * len(fleet.engines) else 0.0


def lowest(limit: int) -> Verdict:
    """At the limit the least urgent goes, the latest of these; the arriving one is the last in the list."""

    def verdict(fleet: GatedFleet, r: Request, now: float) -> float:
        if fleet.inside < limit * len(fleet.engines):
            return 0.0
        worst = max([*fleet.held, r], key=lambda each: (each.priority, each.arrival, each.number))
        if worst is r:
            return inf
        fleet.held.remove(worst)
        fleet.turn_away(worst)
        fleet.something_changed = True
        return 0.0

    return verdict


@dataclass
class Buckets:
    """A bucket for each tenant, filled second by second of its own clock."""

    rate: float
    burst: float
    answer: float
    defer: bool
    tenant: list[int]
    weight: list[float]
    levels: dict[int, list[float]] = field(default_factory=dict)
    paid: set[int] = field(default_factory=set)

    def __call__(self, fleet: GatedFleet, r: Request, now: float) -> float:
        if r.number in self.paid:
            return 0.0
        weight, owner = self.weight[r.number], self.tenant[r.number]
        full = self.burst * weight
        level, since = self.levels.setdefault(owner, [full, now])
        level = min(full, level + self.rate * weight * (now - since))
        price = min(r.prompt + self.answer, full)
        if level < price and not self.defer:
            return inf
        self.levels[owner] = [level - price, now]
        if level >= price:
            return 0.0
        self.paid.add(r.number)
        return now + (price - level) / (self.rate * weight)


def rejecting(limits: list[float], window: float) -> Verdict:
    """The best replica's prompts to compute, and the requests in front of a free slot over the rate of ends."""

    def verdict(fleet: GatedFleet, r: Request, now: float) -> float:
        waits = []
        for engine in fleet.engines:
            size = engine.replica.prefill_rate
            waiting = engine.waiting + engine.inbox
            computing = [each for each in engine.running if not each.decoding]
            prompts = sum(each.prompt for each in waiting) + sum(max(0, e.prompt - e.computed) for e in computing)
            free_slots = engine.replica.max_running - len(engine.running)
            free_tokens = len(engine.pool.free) * engine.pool.size - sum(each.prompt for each in waiting)
            queued = len(waiting) + len(fleet.held) / len(fleet.engines) + 1
            ahead = queued if free_tokens < r.prompt else max(0.0, queued - free_slots)
            ends = [each.token_times[-1] for each in fleet.ended if each.host == fleet.engines.index(engine)]
            recent = sum(1 for end in ends if now - window < end) / window
            waits.append((prompts + r.prompt) * size + (ahead / recent if recent else 0.0))
        return inf if now + min(waits) > r.arrival + limits[r.number] else 0.0

    return verdict
