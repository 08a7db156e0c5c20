"""A slow replica, written for reading: every request is visited in every iteration, blocks are counted one request at a time.

It shares no code with the simulator but the rules of the batchers and the timing model, and must agree with it to the bit.
"""

from dataclasses import dataclass, field

from rota.worlds.serving.batching import RESERVE_FIXED, RESERVE_PROMPT
from rota.worlds.serving.simulate import Replica
from rota.worlds.serving.timing.features import iteration


@dataclass
class Request:
    number: int
    arrival: float
    prompt: int
    output: int
    key: float = 0.0
    computed: int = 0  # tokens in the KV cache
    generated: int = 0
    blocks: int = 0
    chunk: int = 0
    decoding: bool = False
    preemptions: int = 0
    scheduled: float | None = None
    token_times: list[float] = field(default_factory=list)

    @property
    def target(self) -> int:
        return self.prompt + (0 if self.decoding else self.generated)

    @property
    def rank(self) -> tuple[float, float, int]:
        return (self.key, self.arrival, self.number)


class SlowReplica:
    """One engine: a waiting line, running requests in order of admission, free blocks."""

    def __init__(self, replica: Replica) -> None:
        self.replica, self.rules = replica, replica.rules
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.free = replica.kv_blocks

    def run(self, requests: list[Request]) -> None:
        """Serve requests that all come to this engine; their times are noted in them."""
        now, coming = 0.0, sorted(requests, key=lambda request: (request.arrival, request.number))
        while coming or self.waiting or self.running:
            if not self.waiting and not self.running:
                now = max(now, coming[0].arrival)
            while coming and coming[0].arrival <= now:
                self.waiting.append(coming.pop(0))
            batch = self.compose(now)
            if not batch:
                if not coming:
                    return  # nobody who waits may go
                now = coming[0].arrival
                continue
            now = now + self.seconds(batch)
            self.finish_iteration(batch, now)

    def seconds(self, batch: list[Request]) -> float:
        prefills = [(r.computed, r.chunk) for r in batch if not r.decoding]
        samples = sum(1 for r in batch if r.decoding or r.computed + r.chunk == r.target)
        features = iteration(prefills, [r.computed for r in batch if r.decoding], samples)
        return self.replica.timing.seconds(features)

    def need(self, tokens: int) -> int:
        return -(-tokens // self.replica.block_tokens)

    def compose(self, now: float) -> list[Request]:
        if not self.rules.mixed:
            if not self.rules.when_empty or not self.running:
                admitted = self.admit(self.rules.budget, now)
                if admitted:
                    return admitted
            self.give_blocks()
            if not self.running:
                return self.admit(self.rules.budget, now)
            return list(self.running)
        displaced = self.give_blocks()
        batch = list(self.running)
        if not displaced or not self.running:
            left = self.rules.budget - sum(1 for r in batch if r.decoding) - sum(r.chunk for r in batch)
            batch += self.admit(left, now)
        return [r for r in batch if r.decoding or r.chunk > 0]

    def give_blocks(self) -> bool:
        """Blocks for what runs, in the order of the queue; where there are none, the last of the order goes."""
        displaced = False
        for r in sorted(self.running, key=lambda each: each.rank):
            if r not in self.running:
                continue
            r.chunk = 0
            if r.decoding:
                tokens = r.computed + 1
            else:
                used = sum(1 for each in self.running if each.decoding)
                used += sum(each.chunk for each in self.running if not each.decoding and each is not r)
                r.chunk = max(0, min(r.target - r.computed, self.rules.budget - used))
                tokens = r.computed + r.chunk
            while r in self.running and self.need(tokens) > r.blocks and self.need(tokens) - r.blocks > self.free:
                self.displace(max(self.running, key=lambda each: each.rank))
                displaced = True
            if r in self.running and self.need(tokens) > r.blocks:
                self.free -= self.need(tokens) - r.blocks
                r.blocks = self.need(tokens)
        return displaced

    def displace(self, r: Request) -> None:
        self.running.remove(r)
        self.free += r.blocks
        r.blocks = r.computed = r.chunk = 0
        r.decoding = False
        r.preemptions += 1
        self.waiting.append(r)

    def admit(self, left: int, now: float) -> list[Request]:
        admitted: list[Request] = []
        while self.waiting and left > 0 and len(self.running) < self.replica.max_running:
            r = min(self.waiting, key=lambda each: each.rank)
            chunk = min(r.target, left) if self.rules.chunked else r.target
            longest = max([each.chunk for each in admitted] + [chunk])
            if self.rules.padded and admitted and (len(admitted) + 1) * longest > self.rules.budget:
                break
            if not self.rules.padded and chunk > left and (admitted or self.running):
                break
            aside = self.set_aside(r, chunk)
            check = self.need(r.target) if self.rules.full_check else aside
            if check + self.rules.watermark_blocks > self.free:
                break
            self.waiting.remove(r)
            self.free -= aside
            r.blocks, r.chunk = aside, chunk
            r.scheduled = now if r.scheduled is None else r.scheduled
            self.running.append(r)
            admitted.append(r)
            left -= chunk
        return admitted

    def set_aside(self, r: Request, chunk: int) -> int:
        if self.rules.reserve == RESERVE_FIXED:
            return self.need(max(self.rules.reserve_tokens, r.target))
        return self.need(r.target if self.rules.reserve == RESERVE_PROMPT else chunk)

    def finish_iteration(self, batch: list[Request], now: float) -> None:
        for r in batch:
            if r.decoding:
                r.computed += 1
            else:
                r.computed, whole = r.computed + r.chunk, r.target
                r.chunk = 0
                if r.computed < whole:
                    continue
                r.decoding = True
            r.generated += 1
            r.token_times.append(now)
            if r.generated == r.output:
                self.running.remove(r)
                self.free += r.blocks
