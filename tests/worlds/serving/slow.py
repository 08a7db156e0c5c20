"""A slow replica, written for reading: every request is visited in every iteration, blocks are counted one request at a time.

It shares no code with the simulator but the rules of the batchers and the timing model, and must agree with it to the bit.
`slow_fleet` puts a router before several of them, `slow_cache` gives them a prefix cache.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from rota.worlds.serving.batching import RESERVE_FIXED, RESERVE_PROMPT
from rota.worlds.serving.replica import Replica
from rota.worlds.serving.timing.features import iteration
from tests.worlds.serving.slow_inside import Wave, after_check, longest_fitting, peak_fits, speculate, with_draft

Key = tuple[float, ...]


@dataclass
class Request:
    number: int
    arrival: float
    prompt: int
    output: int
    priority: int = 0
    size: float = 0.0  # what is known of the output
    names: tuple[int, ...] = ()  # of the blocks of its prompt, as the trace has them
    order_key: Key = (0.0,)
    victim_key: Key = (0.0,)
    hold_key: Key = (0.0,)
    computed: int = 0  # tokens in the KV cache
    generated: int = 0
    blocks: list["Block"] = field(default_factory=list)
    registered: int = 0  # how many of them were offered to the cache
    chunk: int = 0
    decoding: bool = False
    preemptions: int = 0
    cached: int | None = None
    host: int | None = None
    dispatched: float | None = None
    scheduled: float | None = None
    token_times: list[float] = field(default_factory=list)
    target: int = 0  # tokens to prefill
    source: "SlowReplica | None" = None  # where its KV lies while it waits or moves elsewhere
    kept: list["Block"] = field(default_factory=list)  # its blocks there
    moving: bool = False
    landed: bool = False
    restarts: int = 0
    flight: int = -1
    swapped: int = 0  # blocks in the host's memory
    goes_to: int | None = None  # host that decodes it, where that was promised
    aside: bool = False  # it decodes, and prompts took its place in the iteration before
    set_aside: int = 0  # tokens that S3 has set aside
    copied: int = 0  # blocks whose copies stay there while it runs
    lost: int = 0  # most tokens of its prompt that it once had in the KV cache, and lost

    def __post_init__(self) -> None:
        self.target = self.prompt

    @property
    def prefilled(self) -> int:
        """Tokens of its prompt in the KV cache."""
        return self.prompt if self.decoding else min(self.computed, self.prompt)

    @property
    def tie(self) -> tuple[float, int]:
        return (self.arrival, self.number)


@dataclass(eq=False)
class Block:
    """A KV block; a name where its content can be found again."""

    name: tuple[object, ...] | None = None
    holders: int = 0


class Pool:
    """The KV blocks of a replica without a cache."""

    def __init__(self, replica: Replica) -> None:
        self.size = replica.block_tokens
        self.free = [Block() for _ in range(replica.kv_blocks)]
        self.reserved = 0  # of these, set aside for requests that are on their way

    @property
    def left(self) -> int:
        """Blocks for those that are here."""
        return len(self.free) - self.reserved

    def need(self, tokens: int) -> int:
        return -(-tokens // self.size)

    def hits(self, r: Request) -> list[Block]:
        """Blocks with the beginning of a request's tokens."""
        return []

    def take(self, r: Request, hits: list[Block]) -> None:
        """Hold the blocks that were found."""

    def extend(self, r: Request, tokens: int) -> None:
        """Hold enough blocks for so many tokens."""
        while len(r.blocks) < self.need(tokens):
            r.blocks.append(self.free.pop(0))

    def release(self, r: Request) -> None:
        self.free += r.blocks
        r.blocks = []


@dataclass(frozen=True)
class Ranking:
    """An order policy, one request at a time."""

    key: Callable[[Request, float], Key] = lambda r, now: (0.0,)
    asked: str = "arrival"
    preemptive: bool = False
    review: Callable[[list[Request], float], float] = lambda requests, now: inf
    started: Callable[[Request], None] = lambda r: None


class SlowReplica:
    """One engine: a waiting line, running requests in order of admission, free blocks."""

    def __init__(
        self, replica: Replica, order: Ranking, victim: Ranking | None = None, pool: Pool | None = None
    ) -> None:
        self.replica, self.rules, self.order, self.victim = replica, replica.rules, order, victim
        self.pool = pool or Pool(replica)
        self.waiting: list[Request] = []
        self.inbox: list[Request] = []  # came while an iteration ran that was put together ahead
        self.running: list[Request] = []
        self.lagging: list[Request] = []  # have ended, but the scheduler has not seen it
        self.batch: list[Request] = []
        self.ready, self.busy = False, False
        self.now, self.ends, self.review_at = 0.0, inf, inf
        self.decisions = 0
        self.swap_room, self.stall = replica.swap_blocks, 0.0
        self.slowness, self.stalled = (
            1.0,
            0.0,
        )  # of what is under way: its factor, and the seconds that swapping adds to it
        self.finished: list[Request] = []
        self.parked: list[Request] = []  # prompts that are done where nothing decodes
        self.moved: list[Request] = []  # their KV begins to come in
        self.known: set[str] = set()  # which keys were asked for this decision
        self.past: list[int] = []  # lengths of answers in the order of their ends
        self.wave = Wave()
        self.drafted = False
        self.kept: list[tuple[float, int, list[Block]]] = []  # end, request, blocks that are held after its end

    @property
    def outstanding(self) -> int:
        return len(self.waiting) + len(self.inbox) + len(self.running)

    def receive(self, r: Request, now: float) -> None:
        r.dispatched = now if r.dispatched is None else r.dispatched
        self.decisions += 1
        late = self.rules.ahead and (self.busy or bool(self.running) or bool(self.lagging))
        (self.inbox if late else self.waiting).append(r)
        if not self.busy and not self.ready:
            self.ready, self.now = True, now

    def halt(self) -> None:
        """It goes down: nothing of its iteration counts."""
        self.busy = self.ready = False
        self.batch, self.ends = [], inf

    def begin(self, now: float) -> None:
        """Put the next iteration together and start it."""
        self.ready, self.now, self.review_at, self.known = False, now, inf, set()
        for r in self.running:
            if r.landed:
                r.landed, r.decoding = False, True
        batch = self.compose()
        if self.rules.ahead:
            seen = bool(self.lagging or self.inbox)
            for r in self.lagging:
                self.pool.release(r)
            self.waiting += self.inbox
            self.lagging, self.inbox = [], []
            if seen and not self.running:
                self.ready = True  # with what has become visible
                return
        if batch:
            self.stalled, self.stall = self.stall, 0.0
            self.batch, self.busy, self.ends = batch, True, now + self.slowness * self.seconds(batch) + self.stalled

    def seconds(self, batch: list[Request]) -> float:
        prefills = [(r.computed, r.chunk) for r in batch if not r.decoding]
        samples = sum(1 for r in batch if r.decoding or r.computed + r.chunk == r.target)
        decodes = [r.computed for r in batch if r.decoding]
        if self.rules.layer_tokens:
            return self.wave.seconds(self.replica, prefills, decodes, samples)
        if self.replica.speculative is not None:
            return with_draft(self, prefills, [r for r in batch if r.decoding], samples)
        return self.replica.timing.seconds(iteration(prefills, decodes, samples))

    # -- what goes first ------------------------------------------------------------------------------------------

    def ask(self, role: str) -> None:
        """Keys for this decision, unless they are known."""
        ranking = self.victim if role == "victim" else self.order
        if ranking is None or ranking.asked == "arrival" or role in self.known:
            return
        self.known.add(role)
        rows = self.running if role == "victim" else self.waiting + self.running
        for r in rows:
            setattr(r, f"{role}_key", ranking.key(r, self.now))
        if role == "order":
            self.review_at = ranking.review(rows, self.now)

    def first(self) -> Request | None:
        r = min(self.waiting, key=lambda each: (each.order_key, each.tie))
        return None if r.order_key[0] == inf else r

    def worst(self) -> Request:
        """Who is displaced: the first of the victim role, otherwise the last of the order."""
        here = [r for r in self.running if not r.moving]
        if self.victim is not None:
            self.ask("victim")
            return min(here, key=lambda each: (each.victim_key, each.tie))
        self.ask("order")
        return max(here, key=lambda each: (each.order_key, each.tie))

    # -- an iteration ---------------------------------------------------------------------------------------------

    def compose(self) -> list[Request]:
        rules = self.rules
        if rules.prompts_first:
            return self.compose_prompts_first()
        if not rules.mixed:
            if not rules.when_empty or not self.running:
                admitted = self.admit()
                if admitted:
                    return admitted
            self.give_blocks()
            if not self.running:
                return self.admit()
            return [r for r in self.running if not r.moving]
        if rules.reservation is not None:
            after_check(self)
        if not self.give_blocks() or not self.running:
            self.admit()
        return [r for r in self.running if r.decoding or r.chunk > 0]

    def compose_prompts_first(self) -> list[Request]:
        """Whole prompts, then decoders while tokens last; who stood aside the last time goes before those who did not."""
        if not self.give_blocks() or not self.running:
            self.admit()
        prompts = [r for r in self.running if not r.decoding and not r.moving]
        decoders = [r for r in self.running if r.decoding]
        left = self.rules.budget - sum(r.chunk for r in prompts)
        order = [r for r in decoders if r.aside] + [r for r in decoders if not r.aside]
        taken = order[: max(0, left)]
        for r in self.running:
            r.aside = r.decoding and r not in taken
            while r.aside and len(r.blocks) > self.pool.need(r.computed):
                self.pool.free.append(r.blocks.pop())
        return [r for r in self.running if r in taken or r.chunk > 0]

    def cut_chunks(self) -> int:
        """Divide the token budget among the prompts under way, in order of admission; the blocks that are then missing."""
        left = self.rules.budget - (sum(r.decoding for r in self.running) if self.rules.mixed else 0)
        missing, under_way = 0, self.wave.under_way(self.running)
        for r in self.running:
            if not r.decoding and not under_way:
                r.chunk = max(0, min(r.target - r.computed, left))
                left -= r.chunk
            missing += max(0, self.pool.need(r.computed + (1 if r.decoding else r.chunk)) - len(r.blocks))
        return missing

    def give_blocks(self) -> bool:
        """Blocks for what runs; where there are none, the last of the order goes. Says whether somebody went."""
        displaced = False
        while self.running and self.stuck():
            self.displace(self.worst())
            displaced = True
        for r in sorted(self.running, key=lambda each: not each.decoding):
            self.pool.extend(r, r.computed + (1 if r.decoding else r.chunk))
        return displaced

    def stuck(self) -> bool:
        """Whether somebody finds no block. With `spare_block` each decoder, in order of arrival, must find a free one, even if it takes none."""
        missing, free = self.cut_chunks(), self.pool.left
        decoders = sorted((r for r in self.running if r.decoding), key=lambda each: each.tie)
        if self.rules.spare_block and len(decoders) > 1:
            for r in decoders:
                if free < 1:
                    return True
                free -= self.pool.need(r.computed + 1) - len(r.blocks)
        return missing > self.pool.left

    def displace(self, r: Request) -> None:
        self.running.remove(r)
        self.pool.release(r)
        r.lost = max(r.lost, r.prefilled)
        was, r.computed, r.chunk = r.decoding, 0, 0
        r.decoding, r.target = False, r.prompt + r.generated
        blocks = self.pool.need(r.target - 1)
        if was and self.replica.swap_blocks:
            self.swap_out(r, blocks)
        r.preemptions += 1
        self.waiting.append(r)

    def swap_out(self, r: Request, blocks: int) -> None:
        """What has no copy yet goes to the host's memory; copies of others that run give way, the last admitted's first."""
        for other in reversed(self.running):
            if blocks - r.copied > self.swap_room and self.replica.swap_reuse:
                self.swap_room, other.copied = self.swap_room + other.copied, 0
        copied, r.copied = r.copied, 0
        if blocks - copied > self.swap_room:
            self.swap_room += copied
            return
        r.swapped, r.target, r.computed = blocks, r.target - 1, r.target - 1
        self.swap_room -= blocks - copied
        if self.replica.swap_blocking:
            rate = self.replica.kv_bytes * self.replica.swap_compress / self.replica.swap_bandwidth
            self.stall += rate * (r.target - copied * self.pool.size)
            self.stall += self.replica.swap_per_copy * -(-(blocks - copied) // self.replica.swap_group)

    def admit(self) -> list[Request]:
        rules, admitted = self.rules, list[Request]()
        while self.waiting and not self.wave.under_way(self.running):
            beside = rules.mixed and not rules.prompts_first
            spent = sum((1 if beside else 0) if r.decoding else r.chunk for r in self.running)
            left = rules.budget - spent
            full = len(self.running) + len(self.lagging) >= self.replica.max_running
            if left <= 0 or (not self.order.preemptive and (full or not (self.pool.left or self.kept))):
                break
            self.ask("order")
            r = self.first() if rules.reservation is None else longest_fitting(self)
            if r is None:
                break
            moved = r.source is not None or r.swapped > 0
            hits = [] if moved else self.pool.hits(r)
            todo = 0 if moved else r.target - len(hits) * self.pool.size
            chunk = min(todo, left) if rules.chunked else todo
            longest = max([each.chunk for each in admitted] + [chunk])
            if not moved and rules.padded and admitted and (len(admitted) + 1) * longest > rules.budget:
                break
            others = bool(admitted) if rules.prompts_first else any(not each.moving for each in self.running)
            if not moved and not rules.padded and chunk > left and others:
                break
            if full or not self.fits(r, chunk, hits) or (rules.future is not None and not peak_fits(self, r)):
                if not full and self.give_way():
                    continue
                if not self.order.preemptive or not self.running:
                    break
                worst = self.worst()
                if (r.order_key, r.tie) > (worst.order_key, worst.tie):
                    break
                self.displace(worst)
                admitted = [each for each in admitted if each is not worst]
                continue
            self.start(r, chunk, hits)
            if not moved:
                admitted.append(r)
        return admitted

    def give_way(self) -> bool:
        """Whether something that was only kept has been given up."""
        return False

    def fits(self, r: Request, chunk: int, hits: list[Block]) -> bool:
        tokens = self.set_aside(r, chunk, hits)
        if self.rules.full_check or r.source is not None or r.swapped:
            tokens = max(tokens, r.target)
        idle = sum(1 for block in hits if block.holders == 0)
        if r.swapped and self.rules.reserve != RESERVE_FIXED and not self.all_free():
            return self.pool.need(tokens) + 1 + self.rules.watermark_blocks <= self.pool.left
        return self.pool.need(tokens) - len(hits) + idle + self.rules.watermark_blocks <= self.pool.left

    def all_free(self) -> bool:
        """Whether nobody holds a block: then even who needs all of them may begin."""
        return self.pool.left == self.replica.kv_blocks

    def set_aside(self, r: Request, chunk: int, hits: list[Block]) -> int:
        if self.rules.reserve == RESERVE_FIXED:
            return max(self.rules.reserve_tokens, r.target)
        return r.target if self.rules.reserve == RESERVE_PROMPT else len(hits) * self.pool.size + chunk

    def start(self, r: Request, chunk: int, hits: list[Block]) -> None:
        self.waiting.remove(r)
        if r.source is not None or r.swapped:
            r.moving = True
            self.pool.take(r, [])
            self.pool.extend(r, max(self.set_aside(r, 0, []), r.target))
            self.running.append(r)
            self.moved.append(r)
            return
        self.pool.take(r, hits)
        r.computed, r.chunk = len(hits) * self.pool.size, chunk
        self.pool.extend(r, self.set_aside(r, chunk, hits))
        r.scheduled = self.now if r.scheduled is None else r.scheduled
        r.cached = r.computed if r.cached is None else r.cached
        self.running.append(r)
        self.order.started(r)
        if self.order.asked == "pick":
            self.known.discard("order")

    def complete(self) -> None:
        """The iteration ends: decoders first, by number, then prompts in order of admission."""
        self.busy, self.ready, self.now = False, True, self.ends
        between = self.wave.goes_on(self.batch) if self.rules.layer_tokens else False
        for r in sorted(self.batch, key=lambda each: (not each.decoding, each.number if each.decoding else 0)):
            if r.decoding:
                r.computed += 1
            elif between:
                continue
            else:
                r.computed, r.chunk = r.computed + r.chunk, 0
                if r.computed < r.target:
                    continue
                r.decoding = True
            more = speculate(self, r) if self.drafted and r.computed > r.target else 0
            r.generated += 1 + more
            r.token_times += [self.now] * (1 + more)
            if r.generated == r.output:
                self.swap_room, r.copied = self.swap_room + r.copied, 0
                self.running.remove(r)
                self.finished.append(r)
                self.past.append(r.output)
                if self.rules.ahead:
                    self.lagging.append(r)
                else:
                    self.pool.release(r)
            elif self.replica.role == "prefill" if r.goes_to is None else r.goes_to != r.host:
                self.running.remove(r)
                r.source, r.kept, r.blocks, r.decoding = self, r.blocks, [], False
                self.parked.append(r)
