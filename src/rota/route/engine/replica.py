"""One replica in time, an iteration after the other: the serving world's rules, for requests that are not known in advance.

The compiled simulator replays whole traces. This one takes requests as they come and forgets them when they are done; it is given
the time and knows no clock. Both follow `rota.worlds.serving.batching.BatchRules` and the same timing models, and a test holds
their token times equal to the bit.
"""

from collections import deque
from collections.abc import Callable
from math import inf

from rota.route.engine.blocks import Blocks, CachedBlocks
from rota.route.engine.sequence import Sequence
from rota.worlds.serving.batching import RESERVE_CHUNK, RESERVE_FIXED, BatchRules
from rota.worlds.serving.timing.features import iteration
from rota.worlds.serving.timing.model import Timing

Pace = Callable[[int, float], float]  # (number of the iteration, when it begins) -> factor on its seconds


def even_pace(iteration: int, now: float) -> float:
    """Every iteration takes what the timing model says."""
    return 1.0


class Replica:
    """An engine: who waits, who runs, which blocks are free. First come, first served.

    Args:
        rules: The batcher, see `rota.worlds.serving.policies`.
        timing: Seconds of an iteration.
        kv_blocks: Blocks of the KV cache.
        block_tokens: Tokens of a block.
        max_running: Requests in a batch.
        prefix_caching: Equal beginnings of prompts are computed once.
        pace: A factor on the seconds of an iteration.
    """

    def __init__(
        self,
        rules: BatchRules,
        timing: Timing,
        kv_blocks: int,
        block_tokens: int,
        max_running: int,
        prefix_caching: bool = False,
        pace: Pace = even_pace,
    ) -> None:
        self.rules, self.timing, self.max_running, self.pace = rules, timing, max_running, pace
        self.blocks = (CachedBlocks if prefix_caching else Blocks)(kv_blocks, block_tokens)
        self.arrivals = deque[Sequence]()  # not yet seen by a decision, in order of time
        self.waiting = deque[Sequence]()
        self.running: list[Sequence] = []  # in order of admission
        self.lagging: list[Sequence] = []  # have ended, but a scheduler that works ahead has not seen it
        self.batch: list[Sequence] = []
        self.busy = self.ready = False
        self.now, self.ends = 0.0, inf
        self.iterations = self.preemptions = 0
        self.tokens = 0  # of the last iteration

    # -- from outside ---------------------------------------------------------------------------------------------

    def submit(self, seq: Sequence, now: float) -> None:
        """A request comes; the next decision from `now` on sees it. Requests must come in the order of time."""
        seq.arrival = now
        self.arrivals.append(seq)

    def abort(self, seq: Sequence) -> None:
        """A client has gone. A request that is being computed goes when its iteration ends, as in vLLM."""
        for line in (self.arrivals, self.waiting):
            if seq in line:
                line.remove(seq)
                return
        if seq in self.running:
            if self.busy:
                seq.left = True
            else:
                self.running.remove(seq)
                self.blocks.release(seq)

    def next_begin(self) -> float:
        """When the next iteration may be put together; infinite while nothing is to be done."""
        if self.ready:
            return self.now
        return max(self.arrivals[0].arrival, self.now) if self.arrivals else inf

    def begin(self, now: float) -> None:
        """Put the next iteration together and start it, if there is anything in it."""
        self.ready, self.now = False, now
        late = self._see_arrivals()
        batch = self._compose()
        if self.rules.ahead:
            seen = bool(self.lagging or late)
            for seq in self.lagging:
                self.blocks.release(seq)
            self.lagging = []
            self.waiting.extend(late)
            if seen and not self.running:
                self.ready = True  # nothing was scheduled ahead: schedule what has become visible
                return
        if batch:
            self.batch, self.busy = batch, True
            self.tokens = sum(1 if seq.decoding else seq.chunk for seq in batch)
            self.ends = now + self._seconds(batch)
            self.iterations += 1

    def complete(self) -> list[Sequence]:
        """The iteration ends. Returns the requests that have one token more."""
        self.busy, self.ready, self.now = False, True, self.ends
        decoders: list[Sequence] = []
        prompts: list[Sequence] = []  # that are whole now
        for seq in self.batch:
            if seq.decoding:
                seq.computed += 1
                decoders.append(seq)
            else:
                seq.computed, seq.chunk = seq.computed + seq.chunk, 0
                if seq.computed < seq.target:
                    continue
                seq.decoding = True
                prompts.append(seq)
            seq.generated += 1
            seq.token_times.append(self.now)
        # Who ends first has its blocks used again first: decoders by number, then prompts in order of admission.
        ending = [seq for seq in decoders if seq.finished]
        ending.sort(key=lambda seq: seq.number)
        self._part(ending + [seq for seq in prompts if seq.finished])
        for seq in [seq for seq in self.running if seq.left]:
            self.running.remove(seq)
            self.blocks.release(seq)
        self.batch = []
        return [seq for seq in decoders + prompts if not seq.left]

    # -- an iteration ---------------------------------------------------------------------------------------------

    def _part(self, finished: list[Sequence]) -> None:
        """Finished requests leave the batch."""
        for seq in finished:
            self.running.remove(seq)
            if self.rules.ahead:
                self.lagging.append(seq)
            else:
                self.blocks.release(seq)

    def _see_arrivals(self) -> list[Sequence]:
        """Take in what has come. Returns those that came too late for a scheduler that works one iteration ahead."""
        late: list[Sequence] = []
        occupied = bool(self.running or self.lagging)
        while self.arrivals and self.arrivals[0].arrival <= self.now:
            seq = self.arrivals.popleft()
            hidden = self.rules.ahead and (occupied or seq.arrival < self.now)
            (late if hidden else self.waiting).append(seq)
        return late

    def _seconds(self, batch: list[Sequence]) -> float:
        prefills = [(seq.computed, seq.chunk) for seq in batch if not seq.decoding]
        decodes = [seq.computed for seq in batch if seq.decoding]
        ending = sum(1 for seq in batch if not seq.decoding and seq.computed + seq.chunk == seq.target)
        seconds = self.timing.seconds(iteration(prefills, decodes, ending + len(decodes)))
        return seconds * self.pace(self.iterations, self.now)

    def _compose(self) -> list[Sequence]:
        """The requests of the next iteration: see `BatchRules`."""
        rules = self.rules
        if not rules.mixed:
            if not rules.when_empty or not self.running:
                admitted = self._admit()
                if admitted:
                    return admitted
            self._grow()
            return list(self.running) if self.running else self._admit()
        if not self._grow() or not self.running:
            self._admit()
        if rules.prompts_first:
            self._stand_aside()
        return [seq for seq in self.running if (seq.decoding and not seq.aside) or seq.chunk > 0]

    def _stand_aside(self) -> None:
        """Decoders that find no token beside the prompts wait for the next iteration, where they go before the others."""
        left = self.rules.budget - sum(seq.chunk for seq in self.running if not seq.decoding)
        decoders = [seq for seq in self.running if seq.decoding]
        order = sorted(decoders, key=lambda seq: not seq.aside)
        for place, seq in enumerate(order):
            seq.aside = place >= left
            if seq.aside and self.rules.reserve != RESERVE_FIXED:
                self.blocks.give_back(seq, seq.computed)

    def _cut(self) -> int:
        """Divide the token budget among the prompts under way, in order of admission. Returns the blocks that are then missing."""
        size, missing = self.blocks.size, 0
        left = self.rules.budget
        if self.rules.mixed:
            left -= sum(1 for seq in self.running if seq.decoding)
        for seq in self.running:
            tokens = seq.computed + 1
            if not seq.decoding:
                seq.chunk = max(0, min(seq.target - seq.computed, left))
                left -= seq.chunk
                tokens = seq.computed + seq.chunk
            lacking = -(-tokens // size) - seq.held
            if lacking > 0:
                missing += lacking
        return missing

    def _grow(self) -> bool:
        """Blocks for what runs; where there are none, the last to come starts again. Returns whether somebody had to."""
        displaced = False
        while self.running and self._lacks(self._cut()):
            self._displace(max(self.running, key=lambda seq: seq.tie))
            displaced = True
        for seq in self.running:
            if seq.decoding:
                self.blocks.extend(seq, seq.computed + 1)
        for seq in self.running:
            if not seq.decoding:
                self.blocks.extend(seq, seq.computed + seq.chunk)
        return displaced

    def _lacks(self, missing: int) -> bool:
        """Whether there are too few blocks; where decodes need a spare one, also when the last of them leaves none and takes none."""
        if missing != self.blocks.free or not self.rules.spare_block:
            return missing > self.blocks.free
        decoders = [seq for seq in self.running if seq.decoding]
        if len(decoders) < 2:
            return False
        last = max(decoders, key=lambda seq: seq.tie)
        return self.blocks.need(last.computed + 1) <= last.held

    def _displace(self, seq: Sequence) -> None:
        """Preemption by recompute. Whoever runs came before all who wait, so it returns to their front."""
        self.running.remove(seq)
        self.blocks.release(seq)
        seq.computed = seq.chunk = 0
        seq.decoding, seq.aside, seq.target = False, False, seq.prompt + seq.generated
        seq.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(seq)

    def _admit(self) -> list[Sequence]:
        """Waiting requests begin while slots, tokens and blocks last."""
        rules, admitted, longest = self.rules, list[Sequence](), 0
        beside = 1 if rules.mixed and not rules.prompts_first else 0
        left = rules.budget - sum(beside if seq.decoding else seq.chunk for seq in self.running)
        while self.waiting and left > 0 and self.blocks.free:
            if len(self.running) + len(self.lagging) >= self.max_running:
                break
            seq = self.waiting[0]
            hits, idle = self.blocks.find(seq)
            todo = seq.target - hits * self.blocks.size
            chunk = min(todo, left) if rules.chunked else todo
            if rules.padded:
                # A request alone may be longer than the budget: one that grew before it was displaced must be able to return.
                if admitted and (len(admitted) + 1) * max(longest, chunk) > rules.budget:
                    break
            elif chunk > left and (admitted if rules.prompts_first else self.running):
                break
            if not self._fits(seq, chunk, hits, idle):
                break
            self._start(self.waiting.popleft(), chunk, hits)
            admitted.append(seq)
            left, longest = left - chunk, max(longest, chunk)
        return admitted

    def _fits(self, seq: Sequence, chunk: int, hits: int, idle: int) -> bool:
        tokens = self._set_aside(seq, chunk, hits)
        if self.rules.full_check:
            tokens = max(tokens, seq.target)
        return self.blocks.need(tokens) - hits + idle + self.rules.watermark_blocks <= self.blocks.free

    def _set_aside(self, seq: Sequence, chunk: int, hits: int) -> int:
        """Tokens whose blocks are reserved when a request begins."""
        if self.rules.reserve == RESERVE_FIXED:
            return max(self.rules.reserve_tokens, seq.target)
        return hits * self.blocks.size + chunk if self.rules.reserve == RESERVE_CHUNK else seq.target

    def _start(self, seq: Sequence, chunk: int, hits: int) -> None:
        self.blocks.take(seq, hits)
        seq.computed, seq.chunk = hits * self.blocks.size, chunk
        self.blocks.extend(seq, self._set_aside(seq, chunk, hits))
        if seq.scheduled is None:
            seq.scheduled, seq.cached = self.now, seq.computed
        self.running.append(seq)
