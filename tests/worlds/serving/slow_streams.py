"""A slow replica with a stream of prompts and a stream of decodes, each with its own iteration."""

from math import inf

from rota.worlds.serving.timing.features import iteration
from tests.worlds.serving.slow import Request, SlowReplica


class SlowStreams(SlowReplica):
    """`busy` while either stream is, `ends` is the earlier end; `landed` requests wait for the next iteration of decodes."""

    prompts: list[Request] | None = None  # those of the iteration under way
    decodes: list[Request] | None = None
    prompts_end = decodes_end = inf
    began = window = 0.0
    share = 0.0
    firsts: list[float]
    steps: list[tuple[float, int]]

    def receive(self, r: Request, now: float) -> None:
        super().receive(r, now)
        if self.busy and self.prompts is None:
            self.ends = now

    def halt(self) -> None:
        super().halt()
        self.prompts = self.decodes = None

    def begin(self, now: float) -> None:
        self.ready, self.now, self.review_at, self.known = False, now, inf, set()
        streams = self.rules.streams
        assert streams is not None
        if not self.share:
            self.share, self.firsts, self.steps = streams.share, [], []
        if self.prompts is not None and not self.running:
            self.prompts = None
        displaced = self.decodes is None and self.begin_decodes()
        if self.prompts is None:
            self.begin_prompts(admitting=not displaced or not self.running)
        self.busy = self.decodes is not None or self.prompts is not None
        self.ends = min(
            self.decodes_end if self.decodes is not None else inf, self.prompts_end if self.prompts is not None else inf
        )

    def begin_decodes(self) -> bool:
        """Says whether somebody had to go."""
        displaced = False
        streams = self.rules.streams
        assert streams is not None
        for r in self.running:
            if r.landed:
                r.landed, r.decoding = False, True

        def missing() -> int:
            return sum(self.pool.need(r.computed + 1) - len(r.blocks) for r in self.running if r.decoding)

        while missing() > len(self.pool.free):
            self.displace(self.worst())
            displaced = True
        decodes = [r for r in self.running if r.decoding]
        if not decodes:
            return displaced
        for r in decodes:
            self.pool.extend(r, r.computed + 1)
        self.decodes, self.began = decodes, self.now
        seconds = self.replica.timing.seconds(iteration((), [r.computed for r in decodes], len(decodes)))
        self.decodes_end = self.end(seconds, 1.0 - self.share, streams.decode_scale, self.prompts is not None)
        return displaced

    def begin_prompts(self, admitting: bool) -> None:
        streams = self.rules.streams
        assert streams is not None
        self.cut_chunks()
        if admitting:
            self.admit()
        prompts = [r for r in self.running if not r.decoding and not r.landed and r.chunk > 0]
        if not prompts:
            return
        self.prompts = prompts
        whole = sum(1 for r in prompts if r.computed + r.chunk == r.target)
        seconds = self.replica.timing.seconds(iteration([(r.computed, r.chunk) for r in prompts], (), whole))
        self.prompts_end = self.end(seconds, self.share, streams.prompt_scale, self.decodes is not None)

    def end(self, seconds: float, share: float, scale: float, beside: bool) -> float:
        assert self.rules.streams is not None
        seconds *= 1.0 - scale + scale / share
        end = self.now + seconds * (1.0 + self.rules.streams.contention if beside else 1.0) + self.stall
        self.stall = 0.0
        return end

    def cut_chunks(self) -> int:
        if self.prompts is None:
            left = self.rules.budget
            for r in self.running:
                if not r.decoding and not r.landed:
                    r.chunk = min(r.target - r.computed, left)
                    left -= r.chunk
        return 0

    def complete(self) -> None:
        streams, now = self.rules.streams, self.ends
        assert streams is not None
        self.busy, self.ready, self.now = False, True, now
        if self.decodes is not None and self.decodes_end <= now:
            decoding = [r for r in self.running if r.decoding]
            self.steps.append((now - self.began, len(decoding)))
            self.decodes = None
            for r in sorted(decoding, key=lambda each: each.number):
                r.computed += 1
                self.token(r)
        if self.prompts is not None and self.prompts_end <= now:
            self.prompts = None
            for r in list(self.running):
                if r.decoding or r.landed or r.moving:
                    continue
                r.computed, r.chunk = r.computed + r.chunk, 0
                if r.computed == r.target:
                    if not r.token_times:
                        self.firsts.append(now - r.arrival)
                    r.decoding, r.landed = self.decodes is None, self.decodes is not None
                    self.token(r)
        if streams.control_seconds:
            self.control()

    def token(self, r: Request) -> None:
        r.generated += 1
        r.token_times.append(self.now)
        if r.generated == r.output:
            self.running.remove(r)
            self.finished.append(r)
            self.pool.release(r)

    def control(self) -> None:
        """Equal distances from both limits, where one of them was not kept over a window."""
        streams, count = self.rules.streams, sum(n for _, n in self.steps)
        assert streams is not None
        if self.now - self.window < streams.control_seconds or not self.firsts or not count:
            return
        prompts = sum(self.firsts) / len(self.firsts) / streams.ttft
        decodes = sum(seconds * n for seconds, n in self.steps) / count / streams.tpot
        if max(prompts, decodes) > 1.0:
            x, y = prompts * self.share, decodes * (1.0 - self.share)
            self.share = min(max(x / (x + y), streams.least), 1.0 - streams.least)
        self.firsts, self.steps, self.window = [], [], self.now
