"""A slow replica with adapters: who may begin is looked up request by request, and a load is an event of the fleet."""

from tests.worlds.serving.slow import Block, Request, SlowReplica
from tests.worlds.serving.slow_fleet import FLEET, SlowFleet


class AdapterReplica(SlowReplica):
    """Places hold (adapter, loaded at, last asked for)."""

    places: list[tuple[int, float, float]]
    slots: int
    load_seconds: float
    names: list[int]  # of requests, -1: none
    loads = hits = 0

    def prepare(self, slots: int, load_seconds: float, names: list[int]) -> None:
        self.places, self.slots, self.load_seconds, self.names = [], slots, load_seconds, names
        self.passed: set[int] = set()
        self.loading: list[tuple[float, Request, int]] = []

    def admit(self) -> list[Request]:
        self.passed = set()
        return super().admit()

    def first(self) -> Request | None:
        """The first of the line that can have its adapter; those before it are passed over until the next iteration."""
        line = sorted(self.waiting, key=lambda each: (each.order_key, each.tie))
        for r in line:
            if r.number in self.passed:
                continue
            if self.could_have(self.names[r.number]):
                return r
            self.passed.add(r.number)
        return None

    def used(self, adapter: int) -> bool:
        return any(self.names[r.number] == adapter for r in self.running)

    def could_have(self, adapter: int) -> bool:
        here = [name for name, _, _ in self.places]
        return adapter < 0 or adapter in here or len(here) < self.slots or not all(self.used(name) for name in here)

    def start(self, r: Request, chunk: int, hits: list[Block]) -> None:
        ready = self.take(self.names[r.number])
        if ready <= self.now:
            super().start(r, chunk, hits)
            return
        super().start(r, 0, hits)
        r.moving, r.whole, r.target = True, r.target, r.computed  # type: ignore[attr-defined]
        self.loading.append((ready, r, r.preemptions))

    def take(self, adapter: int) -> float:
        """When the adapter is loaded."""
        if adapter < 0:
            return self.now
        for k, (name, ready, _) in enumerate(self.places):
            if name == adapter:
                self.places[k] = (name, ready, self.now)
                self.hits += 1
                return ready
        self.loads += 1
        new = (adapter, self.now + self.load_seconds, self.now)
        if len(self.places) < self.slots:
            self.places.append(new)
        else:
            idle = [k for k, (name, _, _) in enumerate(self.places) if not self.used(name)]
            self.places[min(idle, key=lambda k: (self.places[k][2], k))] = new
        return new[1]

    def loaded(self, number: int) -> None:
        now, r, _ = self.loading.pop(number)
        r.moving, r.target = False, r.whole  # type: ignore[attr-defined]
        self.running.remove(r)  # prompts go in the order in which they could begin
        self.running.append(r)
        if not self.busy and not self.ready:
            self.ready, self.now = True, now


class AdapterFleet(SlowFleet):
    """Loads end after other ends and arrivals of their time, in the order in which they began."""

    def use(self, slots: int, load_seconds: float, names: list[int]) -> None:
        made = []
        for engine in self.engines:
            new = AdapterReplica(engine.replica, engine.order, engine.victim, engine.pool)
            new.prepare(slots, load_seconds, names)
            made.append(new)
        self.engines = list(made)
        self.adapters = made
        self.began: dict[int, int] = {}

    def after(self) -> None:
        for engine in self.adapters:
            for _, r, _ in sorted(engine.loading, key=lambda each: each[1].number):
                self.began.setdefault(r.number * 1000 + r.preemptions, len(self.began))

    def next_event(self) -> tuple[float, float, int] | None:
        first = super().next_event()
        waits = [
            (ready, self.began[r.number * 1000 + r.preemptions], engine, k)
            for engine in self.adapters
            for k, (ready, r, _) in enumerate(engine.loading)
        ]
        if not waits:
            return first
        ready, _, engine, k = min(waits, key=lambda each: each[:2])
        self.due = (engine, k)
        return (ready, FLEET, 0) if first is None else min(first, (ready, FLEET, 0))

    def act(self, number: int) -> None:
        engine, k = self.due
        engine.loaded(k)
