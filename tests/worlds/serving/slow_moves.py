"""A slow fleet whose requests move: prompts are computed here and decoded there, and hosts go down. Everything is recomputed at every event."""

from collections.abc import Sequence
from math import inf

from rota.worlds.serving.fleet import Outage
from rota.worlds.serving.links import Link
from rota.worlds.serving.replica import Replica
from tests.worlds.serving.slow import Ranking, Request, SlowReplica
from tests.worlds.serving.slow_fleet import FLEET, Cost, SlowFleet, holds_whole, no_cost, possible


class SlowMoves(SlowFleet):
    """Prefill and decode hosts, a network, outages.

    Args:
        decode: The cost of decoding a request at a host.
        link: The network.
        outages: All of them.
    """

    def __init__(self, replicas: Sequence[Replica], order: Ranking, cost: Cost = no_cost, decode: Cost = no_cost,
                 link: Link | None = None, outages: Sequence[Outage] = ()) -> None:  # fmt: skip
        super().__init__(replicas, order, cost)
        self.decode, self.link = decode, link or Link()
        self.flying: list[list] = []  # [request, source, target, bytes left, since when at its pace]
        self.stranded: list[Request] = []
        self.down: set[int] = set()
        self.made = 0
        self.due: list[tuple[float, int, str, object]] = []  # (time, number, what, about)
        by_host: dict[int, list[Outage]] = {}
        for outage in outages:
            by_host.setdefault(outage.host, []).append(outage)
        self.outages = [by_host[host] for host in sorted(by_host)]
        for line in self.outages:
            self.later(line[0].start, "down", line)
        self.sent = 0.0

    def run(self, requests: list[Request], concurrency: int = 0, think: Sequence[float] = ()) -> None:
        self.all, self.rejected = requests, set[int]()
        super().run(requests, concurrency, think)

    def later(self, time: float, what: str, about: object) -> None:
        self.due.append((time, self.made, what, about))
        self.made += 1

    # -- time -----------------------------------------------------------------------------------------------------

    def next_event(self) -> tuple[float, float, int] | None:
        event = super().next_event()
        times = [self.sent + left / self.pace(source, target) for _, source, target, left, *_ in self.flying]
        others = [min(times, default=inf), min((time for time, *_ in self.due), default=inf)]
        if min(others) == inf or (event is not None and event[:2] < (min(others), FLEET)):
            return event
        nothing = (
            event is None
            and not self.flying
            and not self.down
            and all(what in ("down", "up") for _, _, what, _ in self.due)
        )
        if nothing or (event is None and all(r.generated == r.output or r.number in self.rejected for r in self.all)):
            return None
        return (min(others), FLEET, 0 if others[0] <= others[1] else 1)

    def pace(self, source: SlowReplica, target: SlowReplica) -> float:
        out = sum(each[1] is source for each in self.flying)
        into = sum(each[2] is target for each in self.flying)
        return self.link.bandwidth / max(out, into)

    def carry(self) -> None:
        """Bytes that went since the last time."""
        paces = [self.pace(each[1], each[2]) for each in self.flying]
        for each, pace in zip(self.flying, paces, strict=True):
            each[3] = max(0.0, each[3] - pace * (self.now - self.sent))
        self.sent = self.now

    def act(self, number: int) -> None:
        if number == 0:
            through = [each for each in self.flying if self.sent + each[3] / self.pace(each[1], each[2]) <= self.now]
            self.carry()
            self.flying = [each for each in self.flying if each not in through]
            for each in through:
                each[0].flight = self.made
                self.later(self.now + self.link.latency, "land", (each[0], self.made))
            return
        entry = min(self.due, key=lambda each: each[:2])
        self.due.remove(entry)
        _, _, what, about = entry
        if what == "land":
            r, flight = about  # type: ignore[misc]
            if r.flight == flight:
                self.land(r)
        elif what == "down":
            self.go_down(about)  # type: ignore[arg-type]
        else:
            self.come_back(about)  # type: ignore[arg-type]

    def after(self) -> None:
        parked = sorted((r for engine in self.engines for r in engine.parked), key=lambda r: r.number)
        moved = sorted((r for engine in self.engines for r in engine.moved), key=lambda r: r.number)
        for engine in self.engines:
            engine.parked, engine.moved = [], []
        for r in parked:
            self.hand_over(r)
        for r in moved:
            if r.source is None:
                replica = self.engines[r.host].replica
                r.flight = self.made
                rate = replica.kv_bytes * replica.swap_compress / replica.swap_bandwidth
                took = rate * r.target + replica.swap_per_copy * -(-r.swapped // replica.swap_group)
                self.later(self.now + took, "land", (r, self.made))
                continue
            self.carry()
            size = r.source.replica.kv_bytes * r.target * (1.0 - self.link.overlap)
            self.flying.append([r, r.source, self.engines[r.host], size])

    # -- requests -------------------------------------------------------------------------------------------------

    def hand_over(self, r: Request) -> None:
        able = [k for k, engine in enumerate(self.engines) if k not in self.down and can_decode(engine.replica, r)]
        best = min(able, key=lambda k: (self.decode(self.engines[k], r), self.engines[k].decisions, k), default=None)
        if best is None:
            self.stranded.append(r)
            return
        r.host = best
        self.engines[best].receive(r, self.now)

    def land(self, r: Request) -> None:
        engine, source = self.engines[r.host], r.source or self.engines[r.host]
        source.pool.free += r.kept
        r.copied = r.target // engine.pool.size if r.swapped and engine.replica.swap_reuse else r.copied
        engine.swap_room += r.swapped - r.copied
        r.swapped = 0
        r.kept, r.source, r.moving, r.landed = [], None, False, True
        for each in (source, engine):
            self.kick(each)

    def kick(self, engine: SlowReplica) -> None:
        if not engine.busy and not engine.ready and self.engines.index(engine) not in self.down:
            engine.ready, engine.now = True, self.now

    # -- hosts ----------------------------------------------------------------------------------------------------

    def go_down(self, line: list[Outage]) -> None:
        outage = line[0]
        number, engine = outage.host, self.engines[outage.host]
        self.later(outage.end, "up", line)
        self.down.add(number)
        engine.halt()
        engine.stall = engine.stalled = 0.0
        through = [each for each in self.flying if each[1] is not engine and each[2] is not engine]
        if len(through) < len(self.flying):
            self.carry()
        self.flying = through
        lost = [r for r in self.stranded if r.source is engine]
        self.stranded = [r for r in self.stranded if r.source is not engine]
        mine = engine.running + engine.waiting + engine.inbox + lost
        others = [
            r
            for each in self.engines
            if each is not engine
            for r in each.running[::-1] + each.waiting + each.inbox
            if r.source is engine
        ]
        for r in mine + others:
            home = self.engines[r.host]  # of a stranded one: where it was computed
            for rows in (home.running, home.waiting, home.inbox):
                if r in rows:
                    rows.remove(r)
            if r.blocks:
                home.pool.release(r)
            if home is not engine:
                self.kick(home)
            r.moving, r.landed, r.decoding, r.flight = False, False, False, -1
            home.swap_room += r.swapped + r.copied
            r.swapped = r.copied = 0
        engine.lagging = []
        engine.pool = type(engine.pool)(engine.replica)
        strays = []
        for r in mine + others:
            if r.source is not None and r.source is not engine:
                strays.append(r)
                continue
            r.lost = max(r.lost, r.prefilled)
            r.source, r.kept, r.computed, r.chunk = None, [], 0, 0
            r.target, r.host = r.prompt + r.generated, None
            r.restarts += 1
            self.held.append(r)
            self.something_changed = True
        for r in sorted(strays, key=lambda each: each.number):
            self.hand_over(r)

    def come_back(self, line: list[Outage]) -> None:
        outage = line.pop(0)
        self.down.discard(outage.host)
        self.something_changed = True
        waiting, self.stranded = self.stranded, []
        for r in waiting:
            self.hand_over(r)
        if line:
            self.later(line[0].start, "down", line)

    def choose(self, r: Request) -> int | None:
        able = [k for k, engine in enumerate(self.engines) if k not in self.down and self.could(engine.replica, r)]
        return min(able, key=lambda k: (self.cost(self.engines[k], r), self.engines[k].decisions, k), default=None)

    def could(self, replica: Replica, r: Request) -> bool:
        return possible(replica, r) and (
            replica.role != "prefill" or any(can_decode(e.replica, r) for e in self.engines)
        )

    def arrive(self, r: Request) -> None:
        if any(self.could(engine.replica, r) for engine in self.engines):
            self.held.append(r)
            self.something_changed = True
        else:
            self.rejected.add(r.number)
            self.send(self.now)


def can_decode(replica: Replica, r: Request) -> bool:
    return replica.role != "prefill" and holds_whole(replica, r)
