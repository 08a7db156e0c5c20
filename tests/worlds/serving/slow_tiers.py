"""A slow prefix cache with rules of eviction and tiers below, a replica whose prompts wait for what comes from there, and a router's index."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import inf

from rota.worlds.serving.caching import Index, block_cost
from rota.worlds.serving.replica import Replica
from tests.worlds.serving.slow import Block, Ranking, Request, SlowReplica
from tests.worlds.serving.slow_cache import CachingPool
from tests.worlds.serving.slow_fleet import FLEET, Cost, SlowFleet

Name = tuple[object, ...]


class Below(Block):
    """A block that is not in the cache, but in a tier."""


class TieredPool(CachingPool):
    """Who goes first is found by looking at all; tiers are ordered dictionaries, the one used longest ago first."""

    def __init__(self, replica: Replica, trace_tokens: int = 0) -> None:
        super().__init__(replica, trace_tokens)
        self.rule, self.cost = replica.eviction, block_cost(replica)
        self.tiers = [OrderedDict[Name, None]() for _ in replica.tiers]
        self.limits = [tier.blocks for tier in replica.tiers]
        self.seconds = [
            replica.kv_bytes * replica.block_tokens * tier.compress / tier.bandwidth for tier in replica.tiers
        ]
        self.latency = [tier.latency for tier in replica.tiers]
        self.channel = [0.0] * len(self.tiers)
        self.age, self.admissions = 0.0, 0
        self.facts: dict[Name, list[int]] = {}  # of a named block: uses, admission in which it was named, depth
        self.key: dict[int, float] = {}
        self.admission: dict[int, int] = {}
        self.tell: Callable[[Name, bool], None] = lambda name, stored: None

    def tier_of(self, name: Name) -> int | None:
        return next((t for t, tier in enumerate(self.tiers) if name in tier), None)

    def hits(self, r: Request) -> list[Block]:
        found: list[Block] = []
        while (len(found) + 1) * self.size < r.target:
            name = self.name(r, len(found))
            if name in self.named:
                found.append(self.named[name])
            elif self.tier_of(name) is not None:
                found.append(Below(name))
            else:
                break
        return found

    def take(self, r: Request, hits: list[Block]) -> None:
        self.admissions += 1
        self.admission[r.number] = self.admissions
        for block in hits:
            if block.name is not None and not isinstance(block, Below):
                self.facts[block.name][0] += 1
        super().take(r, [block for block in hits if not isinstance(block, Below)])
        r.blocks = list(hits)
        r.registered = next((k for k, block in enumerate(hits) if isinstance(block, Below)), len(hits))

    def load(self, r: Request, now: float) -> float:
        """Read what is below, then find blocks for it. When all is there."""
        ends = now
        for block in r.blocks:
            if isinstance(block, Below):
                assert block.name is not None
                t = self.tier_of(block.name)
                assert t is not None
                self.tiers[t].move_to_end(block.name)
                self.channel[t] = max(self.channel[t], now) + self.seconds[t]
                ends = max(ends, self.channel[t] + self.latency[t])
        r.blocks = [self.evict() if isinstance(block, Below) else block for block in r.blocks]
        return ends

    def evict(self) -> Block:
        if self.rule == "lru":
            block = self.free[0]
        else:
            empty = [block for block in self.free if block.name is None]
            block = empty[0] if empty else min(self.free, key=lambda each: self.key[id(each)])
            if not empty and self.rule == "recompute":
                self.age = self.key[id(block)]
        self.free.remove(block)
        if block.name is not None:
            del self.named[block.name]
            self.sink(block.name)
        block.name, block.holders = None, 1
        return block

    def sink(self, name: Name) -> None:
        for tier, limit in zip(self.tiers, self.limits, strict=True):
            tier[name] = None
            tier.move_to_end(name)
            if len(tier) <= limit:
                return
            name, _ = tier.popitem(last=False)
        if name not in self.named and self.tier_of(name) is None:
            self.tell(name, False)

    def extend(self, r: Request, tokens: int) -> None:
        while len(r.blocks) < self.need(tokens):
            r.blocks.append(self.evict())
        self.register(r, r.computed if r.decoding else tokens)

    def register(self, r: Request, tokens: int) -> None:
        before = set(self.named)
        super().register(r, tokens)
        for name in [name for name in self.named if name not in before]:
            self.facts[name] = [0, self.admission[r.number], self.depth(r, name)]
            self.tell(name, True)

    def depth(self, r: Request, name: Name) -> int:
        return next(k for k in range(len(r.blocks)) if self.name(r, k) == name)

    def release(self, r: Request) -> None:
        self.register(r, r.computed)
        self.let_go(r.blocks)
        r.blocks, r.registered = [], 0

    def let_go(self, blocks: list[Block]) -> None:
        for block in reversed(blocks):
            block.holders -= 1
            if block.holders == 0:
                self.free.append(block)
                if block.name is not None:
                    self.key[id(block)] = self.value(block.name)

    def keep(self, r: Request) -> list[Block]:
        """Hold what is in the cache of an ended request."""
        found: list[Block] = []
        for k in range((r.prompt + r.output - 1) // self.size):
            if self.name(r, k) not in self.named:
                break
            block = self.named[self.name(r, k)]
            if block.holders == 0:
                self.free.remove(block)
            block.holders += 1
            found.append(block)
        return found

    def value(self, name: Name) -> float:
        uses, born, depth = self.facts[name]
        first, slope = self.cost
        values = {"fifo": float(born), "lfu": float(uses), "two_class": float(min(uses, 1)), "lru": 0.0}
        return values[self.rule] if self.rule in values else self.age + (uses + 1) * (first + slope * depth)


class LoadingReplica(SlowReplica):
    """Prompts that wait for their blocks run, but nothing of them is computed; when they have come, they are the last of those under way."""

    pool: TieredPool

    def __init__(self, replica: Replica, order: Ranking, victim: Ranking | None, pool: TieredPool) -> None:
        super().__init__(replica, order, victim, pool)
        self.loads: dict[int, float] = {}
        self.ended: list[Request] = []
        self.yields = False

    def complete(self) -> None:
        super().complete()
        self.ended = list(self.finished)

    def give_way(self) -> bool:
        if not self.kept or (self.running and not self.yields):
            return False
        self.give_up()
        return True

    def give_up(self) -> None:
        """Let go of what would end first."""
        first = min(self.kept, key=lambda each: each[:2])
        self.kept.remove(first)
        self.pool.let_go(first[2])

    def begin(self, now: float) -> None:
        self.ready, self.now, self.review_at, self.known = False, now, inf, set()
        for r in [r for r in self.running if self.loads.get(r.number, inf) <= now]:
            del self.loads[r.number]
            self.running.remove(r)
            self.running.append(r)
            self.pool.register(r, r.computed)
        batch = self.compose()
        if self.rules.ahead:
            seen = bool(self.lagging or self.inbox)
            for r in self.lagging:
                self.pool.release(r)
            self.waiting += self.inbox
            self.lagging, self.inbox = [], []
            if seen and len(self.running) == len(self.loads):
                self.ready = True
                return
        if batch:
            self.batch, self.busy, self.ends = batch, True, now + self.seconds(batch)

    def cut_chunks(self) -> int:
        whole, self.running = self.running, [r for r in self.running if r.number not in self.loads]
        missing = super().cut_chunks()
        self.running = whole
        return missing

    def give_blocks(self) -> bool:
        displaced = False
        while self.running and self.stuck():
            if self.kept:
                self.give_up()
                continue
            self.displace(self.worst())
            displaced = True
        for r in sorted(self.running, key=lambda each: not each.decoding):
            if r.number not in self.loads:
                self.pool.extend(r, r.computed + (1 if r.decoding else r.chunk))
        return displaced

    def displace(self, r: Request) -> None:
        if self.loads.pop(r.number, None) is not None:
            r.computed = r.registered * self.pool.size
        super().displace(r)

    def start(self, r: Request, chunk: int, hits: list[Block]) -> None:
        if not any(isinstance(block, Below) for block in hits):
            super().start(r, chunk, hits)
            return
        self.waiting.remove(r)
        self.pool.take(r, hits)
        self.loads[r.number] = self.pool.load(r, self.now)
        r.computed, r.chunk = len(hits) * self.pool.size, 0
        r.scheduled = self.now if r.scheduled is None else r.scheduled
        r.cached = r.computed if r.cached is None else r.cached
        self.running.append(r)
        self.order.started(r)
        if self.order.asked == "pick":
            self.known.discard("order")


class SlowCaches(SlowFleet):
    """A fleet of such replicas, and a router that believes what it sent, or what it was told."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        order: Ranking,
        cost: Cost,
        trace_tokens: int,
        index: Index | None = None,
        victim: Ranking | None = None,
    ) -> None:
        super().__init__(replicas, order, cost, victim=victim)
        self.index = index or Index()
        self.engines = [
            LoadingReplica(replica, order, victim, TieredPool(replica, trace_tokens)) for replica in replicas
        ]
        self.sent = [OrderedDict[Name, None]() for _ in replicas]
        self.told: list[list[tuple[float, Name, bool]]] = [[] for _ in replicas]
        for engine, told in zip(self.engines, self.told, strict=True):
            engine.pool.tell = lambda name, stored, told=told, engine=engine: told.append((engine.now, name, stored))  # type: ignore[attr-defined]

    def next_event(self) -> tuple[float, float, int] | None:
        found = super().next_event()
        events = [found] if found is not None else []
        for number, engine in enumerate(self.engines):
            if not engine.busy and not engine.ready and engine.loads:  # type: ignore[attr-defined]
                events.append((min(engine.loads.values()), 3, number))  # type: ignore[attr-defined]
        return min(events, default=None)

    def believed(self, engine: SlowReplica, r: Request) -> int:
        """Leading blocks that the router believes to be there."""
        pool, number = engine.pool, self.engines.index(engine)
        if self.index.kind == "true":
            return len(pool.hits(r))
        names: set[Name] = set(self.sent[number])
        for time, name, stored in self.told[number] if self.index.kind == "events" else ():
            if time + self.index.delay <= self.now:
                (names.add if stored else names.discard)(name)
        found = 0
        while (found + 1) * pool.size < r.prompt and pool.name(r, found) in names:  # type: ignore[attr-defined]
            found += 1
        return found

    def choose(self, r: Request) -> int | None:
        chosen = super().choose(r)
        if chosen is not None and self.index.kind == "sent":
            pool, names = self.engines[chosen].pool, self.sent[chosen]
            for k in range(r.prompt // pool.size - 1, -1, -1):
                names[pool.name(r, k)] = None  # type: ignore[attr-defined]
                names.move_to_end(pool.name(r, k))  # type: ignore[attr-defined]
            while len(names) > (self.index.blocks or self.engines[chosen].replica.kv_blocks):
                names.popitem(last=False)
        return chosen


class SlowPins(SlowCaches):
    """What ended is kept for a time that a function of the request says."""

    def keep(self, seconds: Callable[[Request], float], yields: bool) -> None:
        self.seconds, self.due = seconds, list[tuple[float, int, LoadingReplica, Request]]()
        for engine in self.engines:
            engine.yields = yields  # type: ignore[attr-defined]

    def after(self) -> None:
        for engine in self.engines:
            assert isinstance(engine, LoadingReplica)
            for r in sorted(engine.ended, key=lambda each: each.number):
                blocks = engine.pool.keep(r) if self.seconds(r) > 0 else []
                if blocks:
                    ends = self.now + self.seconds(r)
                    engine.kept.append((ends, r.number, blocks))
                    self.due.append((ends, len(self.due), engine, r))
            engine.ended = []

    def next_event(self) -> tuple[float, float, int] | None:
        found = super().next_event()
        due = [(min(self.due)[0], FLEET, 0)] if self.due else []
        return min([*due, *([found] if found is not None else [])], default=None)

    def act(self, number: int) -> None:
        first = min(self.due, key=lambda each: each[:2])
        self.due.remove(first)
        _, _, engine, r = first
        for kept in engine.kept:
            if kept[1] == r.number:
                engine.kept.remove(kept)
                engine.pool.let_go(kept[2])
                if not engine.busy and not engine.ready:
                    engine.ready, engine.now = True, self.now
                return
