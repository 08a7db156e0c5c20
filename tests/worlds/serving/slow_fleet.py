"""A slow fleet: a router with its own line before several slow replicas, one event after another."""

from collections.abc import Callable, Sequence
from math import inf

from rota.worlds.serving.batching import RESERVE_FIXED
from rota.worlds.serving.replica import Replica
from tests.worlds.serving.slow import Pool, Ranking, Request, SlowReplica
from tests.worlds.serving.slow_parking import SlowParking
from tests.worlds.serving.slow_streams import SlowStreams

Cost = Callable[[SlowReplica, Request], float]
FLEET = 1.5  # the kind of an event of the fleet: after ends (0) and arrivals (1), before the router (2) and new iterations (3)


def no_cost(engine: SlowReplica, r: Request) -> float:
    """The fewest decisions so far, then the smaller number, decide: in turn."""
    return 0.0


def outstanding(engine: SlowReplica, r: Request) -> float:
    return engine.outstanding


def queued(engine: SlowReplica, r: Request) -> float:
    return len(engine.waiting) + len(engine.inbox)


def work(engine: SlowReplica, r: Request) -> float:
    """Seconds of all that is to do."""
    return sum(engine.replica.prefill_rate * p + engine.replica.decode_rate * a for p, a in parts(engine))


def tokens(engine: SlowReplica, r: Request) -> float:
    return sum(p + a for p, a in parts(engine))


def missing(engine: SlowReplica, r: Request) -> float:
    """Prompt tokens that are not in the cache."""
    return max(0.0, r.prompt - len(engine.pool.hits(r)) * engine.pool.size)


def active(engine: SlowReplica) -> float:
    """Tokens of the blocks that are held, and prompts that wait."""
    held = (engine.replica.kv_blocks - len(engine.pool.free)) * engine.pool.size
    return held + sum(p for p, _ in parts(engine, engine.waiting + engine.inbox))


def kv_router(engine: SlowReplica, r: Request) -> float:
    return missing(engine, r) + sum(p for p, _ in parts(engine)) + active(engine)


def parts(engine: SlowReplica, rows: Sequence[Request] | None = None) -> list[tuple[float, float]]:
    """For each request: prompt tokens not in the cache, answer tokens that are known of and not out."""
    found = []
    for each in engine.waiting + engine.inbox + engine.running if rows is None else rows:
        prompt = 0 if each.decoding else max(0, each.prompt - each.computed)
        found.append((float(prompt), max(0.0, each.size - each.generated)))
    return found


def kind_of(replica: Replica) -> type[SlowReplica]:
    if replica.rules.parking is not None:
        return SlowParking
    return SlowStreams if replica.rules.streams else SlowReplica


class SlowFleet:
    """Requests come to a router, which sends them to replicas.

    Args:
        replicas: The fleet.
        order: What goes first in each replica.
        cost: The route: the replica with the smallest cost.
        hold: What goes first at the router.
        victim: Who is displaced.
        sample: The replicas that are looked at for each request; none: all.
        pool: Makes the KV blocks of a replica.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        order: Ranking,
        cost: Cost = no_cost,
        hold: Ranking | None = None,
        victim: Ranking | None = None,
        sample: Sequence[Sequence[int]] | None = None,
        pool: Callable[[Replica], Pool] = Pool,
    ) -> None:
        self.engines = [kind_of(replica)(replica, order, victim, pool(replica)) for replica in replicas]
        self.hold, self.cost, self.sample = hold or Ranking(), cost, sample
        self.held: list[Request] = []
        self.now, self.something_changed = 0.0, False

    def after(self) -> None:
        """What is to be done after each event, in fleets where requests move."""

    def run(self, requests: list[Request], concurrency: int = 0, think: Sequence[float] = ()) -> None:
        """Serve them all; with a concurrency, so many are in flight and the next one comes `think` after an end."""
        self.unsent, self.think = list(requests), think
        self.coming: list[Request] = []
        for _ in range(min(concurrency or len(requests), len(requests))):
            self.send(0.0 if concurrency else None)
        while (event := self.next_event()) is not None:
            self.now, kind, number = event
            if kind == 0:
                engine = self.engines[number]
                engine.complete()
                for _ in engine.finished:
                    self.something_changed = True
                    self.send(self.now)
                engine.finished = []
            elif kind == 1:
                self.arrive(self.coming.pop(number))
            elif kind == 2:
                self.dispatch()
            elif kind == 3:
                self.engines[number].begin(self.now)
            else:
                self.act(number)
            self.after()

    def act(self, number: int) -> None:
        """Something else is due."""
        raise NotImplementedError

    def send(self, now: float | None) -> None:
        """The next request is on its way: when the trace says, or after its user has thought."""
        if self.unsent:
            r = self.unsent.pop(0)
            if now is not None:
                r.arrival = now + self.think[r.number]
            self.coming.append(r)

    def next_event(self) -> tuple[float, float, int] | None:
        """Ends of iterations before arrivals before the router before new iterations; then the smaller number."""
        events: list[tuple[float, float, int]] = [
            (engine.ends, 0, number) for number, engine in enumerate(self.engines) if engine.busy
        ]
        if self.coming:
            position = min(range(len(self.coming)), key=lambda k: self.coming[k].tie)
            events.append((self.coming[position].arrival, 1, position))
        if self.something_changed and self.held:
            events.append((self.now, 2, 0))
        for number, engine in enumerate(self.engines):
            if engine.ready:
                events.append((engine.now, 3, number))
            elif not engine.busy and engine.waiting and engine.review_at < inf:
                events.append((engine.review_at, 3, number))
        return min(events, default=None)

    def arrive(self, r: Request) -> None:
        if any(possible(engine.replica, r) for engine in self.engines):
            self.held.append(r)
            self.something_changed = True
        else:
            self.send(self.now)

    def dispatch(self) -> None:
        self.something_changed = False
        fresh = True
        while self.held:
            if self.hold.asked != "arrival" and fresh:
                for r in self.held:
                    r.hold_key = self.hold.key(r, self.now)
                fresh = self.hold.asked == "pick"
            r = min(self.held, key=lambda each: (each.hold_key, each.tie))
            chosen = self.choose(r) if r.hold_key[0] < inf else None
            if chosen is None:
                return
            self.held.remove(r)
            r.host = chosen
            self.engines[chosen].receive(r, self.now)

    def choose(self, r: Request) -> int | None:
        able = [k for k, engine in enumerate(self.engines) if possible(engine.replica, r)]
        if self.sample is not None:
            able = [k for k in able if k in self.sample[r.number]] or able
        open_ = [k for k in able if self.engines[k].outstanding < self.engines[k].replica.max_outstanding]
        costs = {k: self.cost(self.engines[k], r) for k in open_}
        takers = [k for k in open_ if costs[k] < inf]
        return min(takers, key=lambda k: (costs[k], self.engines[k].decisions, k), default=None)


def possible(replica: Replica, r: Request) -> bool:
    """Whether a replica could serve a request if it were alone."""
    rules = replica.rules
    fixed = rules.reserve_tokens if rules.reserve == RESERVE_FIXED else 0
    if not rules.chunked and not rules.mixed and r.prompt > rules.budget:
        return False
    if replica.role == "decode":
        return False
    if replica.role == "prefill":
        room = -(-max(r.prompt, fixed) // replica.block_tokens) + rules.watermark_blocks <= replica.kv_blocks
        return room and r.prompt <= replica.context_limit
    return holds_whole(replica, r)


def holds_whole(replica: Replica, r: Request) -> bool:
    """Whether prompt and answer are within a replica's limits."""
    rules, whole = replica.rules, r.prompt + r.output
    if whole > replica.context_limit or (rules.reserve == RESERVE_FIXED and whole - 1 > rules.reserve_tokens):
        return False
    return -(-(whole - 1) // replica.block_tokens) + rules.watermark_blocks <= replica.kv_blocks
