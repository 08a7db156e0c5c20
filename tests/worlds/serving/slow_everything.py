"""A slow fleet in which everything happens at once: requests move, replicas fail, slow down, are switched on and off, and go in step.

Lists of requests, recomputed at every event. It shares no code with the simulator's fleet; what it builds on is its own slow replica, router and moves.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, inf

from rota.worlds.serving.batching import RESERVE_FIXED
from rota.worlds.serving.fleet import Outage, Scaling
from rota.worlds.serving.links import Link
from rota.worlds.serving.replica import Replica
from rota.worlds.serving.timing.features import GANG_TOKENS, iteration
from tests.worlds.serving.slow import Pool, Ranking, Request, SlowReplica
from tests.worlds.serving.slow_fleet import FLEET, Cost, no_cost
from tests.worlds.serving.slow_moves import SlowMoves, can_decode

Pairs = Callable[[list[SlowReplica], float], Iterable[tuple[int, int]]]
Wanted = Callable[[list[SlowReplica], float], float]


@dataclass
class Copy:
    """KV that is copied while its request decodes on."""

    request: Request
    source: SlowReplica
    target: SlowReplica
    displaced: int  # how often it had been before: a copy of a displaced request is worth nothing
    stages: int = 0  # that have begun
    copied: int = 0  # tokens that are there, or on their way
    reserved: int = 0  # blocks that wait for it at the target
    last: bool = False  # it stands still


@dataclass
class Switches:
    """Which replicas are paid for, since when, and in which state."""

    since: dict[int, float]
    starting: set[int] = field(default_factory=set)
    draining: dict[int, float] = field(default_factory=dict)
    bill: list[tuple[int, float, float]] = field(default_factory=list)


class SlowEverything(SlowMoves):
    """Adds migration, autoscaling, slow replicas and gangs.

    Args:
        pairs: Which replicas give a request to which others, asked every `every_pairs` seconds; None: nothing migrates.
        stop: Seconds that a migrated request stands still, besides its last copy.
        last_blocks: Blocks that may be left for the last copy.
        stages: Copies at most.
        wanted: How many replicas should be on, asked every `every_wanted` seconds; None: all are.
        scaling: What the autoscaler may do.
        pool: Makes the KV blocks of a replica.
        parents: For each request those that it waits for, and `delays` the seconds after the last of them has ended; None: it waits for none.
    """

    def __init__(self, replicas: Sequence[Replica], order: Ranking, cost: Cost = no_cost, decode: Cost = no_cost, link: Link | None = None,
                 outages: Sequence[Outage] = (), pairs: Pairs | None = None, every_pairs: float = 0.0, stop: float = 0.0, wanted: Wanted | None = None,
                 every_wanted: float = 0.0, scaling: Scaling | None = None, pool: Callable[[Replica], Pool] = Pool,
                 parents: Sequence[Sequence[int]] | None = None, delays: Sequence[float] = (), last_blocks: int = 16, stages: int = 3) -> None:  # fmt: skip
        super().__init__(replicas, order, cost, decode, link, outages)
        self.pool, self.pairs, self.wanted, self.scaling = pool, pairs, wanted, scaling or Scaling()
        for engine, replica in zip(self.engines, replicas, strict=True):
            engine.pool = pool(replica)
        self.every_pairs, self.stop, self.every_wanted = every_pairs, stop, every_wanted
        self.parents, self.delays = parents, delays
        self.copies: list[Copy] = []
        self.last_blocks, self.stages = last_blocks, stages
        self.shut: set[int] = set()
        self.migrations = self.given_up = self.preempted = 0
        self.seen: list[object] = [None] * len(replicas)
        self.touched = [0.0] * len(replicas)
        self.begun: dict[int, float] = {}  # when the iteration of a replica began that is under way

    def run(self, requests: list[Request], concurrency: int = 0, think: Sequence[float] = ()) -> None:
        first = min(think[:concurrency]) if concurrency else min(r.arrival for r in requests)  # the first user's
        self.power = Switches(dict.fromkeys(range(len(self.engines)), first))
        if self.pairs is not None:
            self.later(first + self.every_pairs, "pairs", None)
        if self.wanted is not None:
            on = self.scaling.least if self.scaling.first is None else self.scaling.first
            for host in self.first_off(on):
                del self.power.since[host]
                self.shut.add(host)
            self.later(first + self.every_wanted, "wanted", None)
        self.all, self.rejected = requests, set()
        self.ended: set[int] = set()
        roots = [r for r in requests if not self.parents or not self.parents[r.number]]
        super(SlowMoves, self).run(roots, concurrency, think)

    # -- time -----------------------------------------------------------------------------------------------------

    def next_event(self) -> tuple[float, float, int] | None:
        event = self.next_of_replicas()
        times = [self.sent + left / self.pace(source, target) for _, source, target, left, *_ in self.flying]
        others = [min(times, default=inf), min((time for time, *_ in self.due), default=inf)]
        if min(others) == inf or (event is not None and event[:2] < (min(others), FLEET)):
            return event
        if all(r.generated == r.output or r.number in self.rejected for r in self.all):
            return None
        endless = {"down", "up", "pairs", "wanted"}
        if not self.power.starting or not (self.held or self.stranded):
            endless.add("on")
        if event is None and not self.flying and not self.down and all(what in endless for _, _, what, _ in self.due):
            return None
        return (min(others), FLEET, 0 if others[0] <= others[1] else 1)

    def next_of_replicas(self) -> tuple[float, float, int] | None:
        """As without gangs, but a replica of a gang begins when its gang may."""
        event = super(SlowMoves, self).next_event()
        gangs = [k for k, engine in enumerate(self.engines) if engine.replica.gang > 1]
        if not gangs:
            return event
        own = [engine.now for engine in self.engines]
        for k in gangs:
            if self.engines[k].ready:
                self.engines[k].now = self.step(k)
        event = super(SlowMoves, self).next_event()
        for engine, now in zip(self.engines, own, strict=True):
            engine.now = now
        return event

    def gang(self, number: int) -> list[int]:
        """Those that go in step with a replica: neighbours that are alike, so many from the first of them on."""
        replica, first = self.engines[number].replica, number
        while first > 0 and self.engines[first - 1].replica == replica:
            first -= 1
        begin = first + (number - first) // replica.gang * replica.gang
        return list(range(begin, begin + replica.gang))

    def step(self, number: int) -> float:
        """When a replica of a gang begins: at once, or when the step has ended that began before it was ready."""
        ready = max(self.engines[number].now, self.now)
        under_way = [k for k in self.gang(number) if self.engines[k].busy and self.begun[k] < self.engines[number].now]
        return max([ready] + [self.engines[k].ends for k in under_way])

    def act(self, number: int) -> None:
        if number == 0:
            through = [each for each in self.flying if self.sent + each[3] / self.pace(each[1], each[2]) <= self.now]
            self.carry()
            self.flying = [each for each in self.flying if each not in through]
            for each in through:
                if isinstance(each[0], Copy):
                    self.copies.remove(each[0])
                    self.switch(each[0])
                else:
                    each[0].flight = self.made
                    self.later(self.now + self.link.latency, "land", (each[0], self.made))
            return
        entry = min(self.due, key=lambda each: each[:2])
        own = {"pairs": self.ask_pairs, "wanted": self.ask_wanted, "on": self.started, "enter": self.enter}
        if entry[2] not in own:
            super().act(number)
            return
        self.due.remove(entry)
        own[entry[2]](entry[3])  # type: ignore[operator]

    def after(self) -> None:
        for k, engine in enumerate(self.engines):
            if engine.busy and (k not in self.begun or self.begun[k] != engine.now):
                self.begun[k] = engine.now
                self.keep_step(k)
        super().after()
        for copy in [each for each in self.copies if each.request.generated == each.request.output]:
            self.stop_copy(copy)
        self.let_go()
        for k, engine in enumerate(self.engines):
            held = [r.number for each in self.engines for r in each.running + each.waiting if r.source is engine]
            rows = (engine.waiting, engine.inbox, engine.running, held)
            now = (engine.busy, engine.ends, [[r if isinstance(r, int) else r.number for r in row] for row in rows])
            if now != self.seen[k]:
                self.seen[k], self.touched[k] = now, self.now

    def let_go(self) -> None:
        """Those that waited for what has just ended, and for nothing else, come after their delay."""
        fresh = [r.number for r in self.all if r.generated == r.output and r.number not in self.ended]
        for number in sorted(fresh):
            self.ended.add(number)
            for child, parents in enumerate(self.parents or []):
                if number in parents and self.ended.issuperset(parents):
                    self.later(self.now + self.delays[child], "enter", self.all[child])

    def enter(self, r: object) -> None:
        assert isinstance(r, Request)
        r.arrival = self.now
        self.arrive(r)

    def keep_step(self, number: int) -> None:
        """Those of a gang that began together end with the slowest of them, whose experts compute the tokens of all."""
        if self.engines[number].replica.gang == 1:
            return
        together = [
            k for k in self.gang(number) if self.engines[k].busy and self.begun.get(k) == self.engines[number].now
        ]
        parts = [self.features(self.engines[k]) for k in together]
        tokens = sum(part[0] + part[5] for part in parts)
        seconds = []
        for k, part in zip(together, parts, strict=True):
            part[GANG_TOKENS] = tokens
            engine = self.engines[k]
            seconds.append(engine.slowness * engine.replica.timing.seconds(part) + engine.stalled)
        for k in together:
            self.engines[k].ends = self.engines[number].now + max(seconds)

    def features(self, engine: SlowReplica) -> object:
        rows = engine.batch
        prefills = [(r.computed, r.chunk) for r in rows if not r.decoding]
        samples = sum(1 for r in rows if r.decoding or r.computed + r.chunk == r.target)
        return iteration(prefills, [r.computed for r in rows if r.decoding], samples)

    # -- migration ------------------------------------------------------------------------------------------------

    def ask_pairs(self, _: object) -> None:
        assert self.pairs is not None
        self.later(self.now + self.every_pairs, "pairs", None)
        for source, target in self.pairs(self.engines, self.now):
            engine, other = self.engines[source], self.engines[target]
            rows = [r for r in engine.running if r.decoding and r.computed > r.target]  # has had a token here
            if not rows or any(copy.source is engine for copy in self.copies):
                continue
            r = min(rows, key=lambda each: (-each.priority, each.computed, each.number))
            self.next_stage(Copy(r, engine, other, r.preemptions))

    def switch(self, copy: Copy) -> None:
        """What was on its way is there: the next stage begins, or after the last one the request goes on."""
        if copy.last:
            self.migrations += 1
            copy.request.flight = self.made
            self.later(self.now + (self.link.latency + self.stop), "land", (copy.request, self.made))
        else:
            self.next_stage(copy)

    def next_stage(self, copy: Copy) -> None:
        """Copy the full blocks that are not there yet; or, when few are left, all of them while the request stands still."""
        r, engine, other = copy.request, copy.source, copy.target
        size, target, rules = engine.replica.block_tokens, self.engines.index(other), other.rules
        stays = r not in engine.running or not r.decoding or r.preemptions != copy.displaced
        if stays or copy.stages == self.stages:
            self.give_up(copy)
            return
        blocks = ceil(r.computed / size)
        last = blocks - copy.copied // size <= self.last_blocks
        tokens = r.computed if last else (blocks - 1) * size
        here = other.pool.need(max(tokens, rules.reserve_tokens if rules.reserve == RESERVE_FIXED else 0))
        full = len(other.running) + len(other.lagging) >= other.replica.max_running
        room = here + rules.watermark_blocks <= other.pool.left + copy.reserved
        if target in self.shut | self.down or full or not room or not can_decode(other.replica, r):
            self.give_up(copy)
            return
        other.pool.reserved += (0 if last else here) - copy.reserved
        copy.reserved = 0 if last else here
        if last:
            self.depart(r, engine, other)
        size_of_copy = engine.replica.kv_bytes * (tokens - copy.copied)
        copy.copied, copy.last, copy.stages = tokens, last, copy.stages + 1
        self.copies.append(copy)
        self.carry()
        self.flying.append([copy, engine, other, size_of_copy])

    def depart(self, r: Request, engine: SlowReplica, other: SlowReplica) -> None:
        """A request leaves its batch. Its blocks stay until the other replica has what is in them."""
        rules = other.rules
        engine.pool.extend(r, r.computed)  # no more of them, but the full ones get their names
        engine.running.remove(r)
        engine.batch = [each for each in engine.batch if each is not r]
        r.kept, r.blocks, r.source = r.blocks, [], engine
        self.kick(engine)
        r.target, r.decoding, r.moving, r.host = r.computed, False, True, self.engines.index(other)
        other.running.append(r)
        other.pool.take(r, [])
        other.pool.extend(r, max(r.computed, rules.reserve_tokens if rules.reserve == RESERVE_FIXED else 0))

    def stop_copy(self, copy: Copy) -> None:
        """A migration ends between two stages."""
        self.copies.remove(copy)
        if any(each[0] is copy for each in self.flying):
            self.carry()
            self.flying = [each for each in self.flying if each[0] is not copy]
        self.give_up(copy)

    def give_up(self, copy: Copy) -> None:
        self.given_up += 1
        if copy.reserved:
            copy.target.pool.reserved -= copy.reserved
            self.kick(copy.target)

    # -- switches -------------------------------------------------------------------------------------------------

    def first_off(self, on: int) -> list[int]:
        """One that takes prompts and one that decodes are always on, the first of each."""
        hosts = list(range(len(self.engines)))
        needed = {next(k for k in hosts if self.takes(k)), next(k for k in hosts if self.decodes(k))}
        rest = [k for k in hosts if k not in needed]
        return rest[max(0, on - len(needed)) :]

    def takes(self, host: int) -> bool:
        return self.engines[host].replica.role != "decode"

    def decodes(self, host: int) -> bool:
        return self.engines[host].replica.role != "prefill"

    def ask_wanted(self, _: object) -> None:
        assert self.wanted is not None
        power, scaling = self.power, self.scaling
        self.later(self.now + self.every_wanted, "wanted", None)
        self.put_off()
        answer = ceil(self.wanted(self.engines, self.now))
        wanted = min(max(answer, scaling.least), scaling.most, len(self.engines))
        while len(power.since) - len(power.draining) < wanted:
            if power.draining:
                host = max(power.draining, key=lambda each: (power.draining[each], -each))
                del power.draining[host]
                self.open(host)
                continue
            host = min(set(range(len(self.engines))) - set(power.since))
            power.since[host] = self.now
            power.starting.add(host)
            self.later(self.now + scaling.start_seconds, "on", host)
        while len(power.since) - len(power.draining) > wanted:
            busy = [engine.outstanding for engine in self.engines]
            on = set(power.since) - set(power.draining)
            able = [k for k in on if any(map(self.takes, on - {k})) and any(map(self.decodes, on - {k}))]
            if not able:
                break
            host = min(able, key=lambda each: (each not in power.starting, busy[each], -each))
            power.starting.discard(host)
            self.shut.add(host)
            power.draining[host] = self.now
            for copy in [each for each in self.copies if each.target is self.engines[host] and not each.last]:
                self.stop_copy(copy)
        self.put_off()

    def open(self, host: int) -> None:
        """A replica takes requests again, unless it is down."""
        self.shut.discard(host)
        if host in self.down:
            return
        self.something_changed = True
        waiting, self.stranded = self.stranded, []
        for r in waiting:
            self.hand_over(r)

    def started(self, host: object) -> None:
        if host in self.power.starting:
            self.power.starting.discard(host)  # type: ignore[arg-type]
            self.open(host)  # type: ignore[arg-type]

    def put_off(self) -> None:
        power = self.power
        for host in list(power.draining):
            engine = self.engines[host]
            waits = [r for each in self.engines for r in each.waiting + each.inbox + each.running] + self.stranded
            kept = any(r.source is engine for r in waits)
            if not engine.outstanding and not engine.busy and not kept:
                end = min(self.now, max(power.draining.pop(host), self.touched[host]))
                self.shut.add(host)
                power.bill.append((host, power.since.pop(host), end))

    def seconds_on(self, end: float) -> list[float]:
        still = [(host, begin, inf) for host, begin in self.power.since.items()]
        found = [0.0] * len(self.engines)
        for host, begin, last in self.power.bill + still:
            found[host] += max(0.0, min(last, end) - begin)
        return found

    # -- where requests may go ------------------------------------------------------------------------------------

    def open_hosts(self) -> list[int]:
        return [k for k in range(len(self.engines)) if k not in self.down and k not in self.shut]

    def choose(self, r: Request) -> int | None:
        able = [k for k in self.open_hosts() if self.could(self.engines[k].replica, r)]
        able = [k for k in able if self.engines[k].outstanding < self.engines[k].replica.max_outstanding]
        return min(able, key=lambda k: (self.cost(self.engines[k], r), self.engines[k].decisions, k), default=None)

    def hand_over(self, r: Request) -> None:
        able = [k for k in self.open_hosts() if can_decode(self.engines[k].replica, r)]
        others = [k for k in able if self.engines[k] is not r.source]
        best = min(others, key=lambda k: (self.decode(self.engines[k], r), self.engines[k].decisions, k), default=None)
        if best is None and able:
            self.compute_again(r)
            return
        if best is None:
            self.stranded.append(r)
            return
        r.host = best
        self.engines[best].receive(r, self.now)

    def compute_again(self, r: Request) -> None:
        """Only the replica that a request had left could decode it: that takes it as a new one."""
        assert r.source is not None
        r.blocks, r.registered, r.kept = r.kept, 1 << 60, []
        r.source.pool.release(r)
        self.kick(r.source)
        r.lost = max(r.lost, r.prefilled)
        r.source, r.host, r.computed, r.chunk = None, None, 0, 0
        r.target = r.prompt + r.generated
        r.restarts += 1
        self.held.append(r)
        self.something_changed = True

    def land(self, r: Request) -> None:
        engine, source = self.engines[r.host], r.source
        if source is not None:
            kept, registered, r.blocks, r.registered, r.kept = r.blocks, r.registered, r.kept, 1 << 60, []
            source.pool.release(r)
            r.blocks, r.registered = kept, registered
            self.kick(source)
        engine.swap_room += r.swapped
        r.swapped, r.source, r.moving, r.landed = 0, None, False, True
        self.kick(engine)

    # -- hosts ----------------------------------------------------------------------------------------------------

    def go_down(self, line: list[Outage]) -> None:
        outage = line[0]
        if not outage.is_crash:
            self.engines[outage.host].slowness = outage.factor
            self.later(outage.end, "up", line)
            return
        engine = self.engines[outage.host]
        broken = [each for each in self.copies if engine in (each.source, each.target)]
        super().go_down(line)
        engine.pool = self.pool(engine.replica)
        for copy in broken:
            copy.reserved = 0 if copy.target is engine else copy.reserved
            self.stop_copy(copy)

    def come_back(self, line: list[Outage]) -> None:
        outage = line[0]
        self.engines[outage.host].slowness = 1.0
        if outage.is_crash and outage.host not in self.shut:
            super().come_back(line)
            return
        line.pop(0)
        self.down.discard(outage.host)
        if line:
            self.later(line[0].start, "down", line)
