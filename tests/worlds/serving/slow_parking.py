"""A slow replica whose iteration is parked between two layers when something urgent comes; every request is visited, nothing is counted ahead."""

from math import ceil, inf

from tests.worlds.serving.slow import Request, SlowReplica


class SlowParking(SlowReplica):
    """`batch` is the iteration under way, of one part; `put_away` the one that is parked, with the seconds that it still takes."""

    urgent_now = False
    cut: float | None = None  # when the iteration under way would have ended
    put_away: tuple[list[Request], float] | None = None
    layer = layers_from = 0.0

    def is_urgent(self, r: Request) -> bool:
        assert self.rules.parking is not None
        return r.priority <= self.rules.parking.urgent

    def in_front(self, r: Request) -> bool:
        """Of those that run."""
        assert self.rules.parking is not None
        return self.is_urgent(r) and not (self.rules.parking.together and r.decoding)

    def receive(self, r: Request, now: float) -> None:
        super().receive(r, now)
        if not self.busy or self.urgent_now or self.cut is not None or not self.is_urgent(r):
            return
        layers = max(0, ceil((now - self.layers_from) / self.layer))
        boundary = max(now, self.layers_from + layers * self.layer)
        if boundary < self.ends:
            self.cut, self.ends = self.ends, boundary

    def halt(self) -> None:
        super().halt()
        self.cut = self.put_away = None

    def begin(self, now: float) -> None:
        self.ready, self.now, self.review_at, self.known = False, now, inf, set()
        rules = self.rules.parking
        assert rules is not None
        if any(map(self.in_front, self.running)) or any(map(self.is_urgent, self.waiting)):
            self.urgent_now = True
            self.make_room()
            if batch := self.put_together():
                self.batch, self.busy = batch, True
                self.ends = now + self.slowness * self.seconds(batch) + self.stall
                self.stall = 0.0
                return
        self.urgent_now = False
        if self.put_away is not None and self.put_away[0]:
            (self.batch, left), self.put_away, self.busy = self.put_away, None, True
            self.layers_from = now + rules.switch
            self.ends, self.stall = self.layers_from + left, 0.0
            return
        self.put_away = None
        if batch := self.put_together():
            self.batch, self.busy = batch, True
            self.ends = now + self.slowness * self.seconds(batch) + self.stall
            self.stall = 0.0
            self.layers_from, self.layer = now, (self.ends - now) / self.rules.layers

    def make_room(self) -> None:
        """The others give way, the last one first, to the urgent one that has waited longest, if that is enough."""
        line = sorted(filter(self.is_urgent, self.waiting), key=lambda each: each.tie)
        if not line:
            return
        need, others = self.pool.need(line[0].target), [r for r in self.running if not self.is_urgent(r)]
        if len(self.running) - len(others) >= self.replica.max_running:
            return
        if need > len(self.pool.free) + sum(len(r.blocks) for r in others):
            return
        while len(self.running) >= self.replica.max_running or need > len(self.pool.free):
            if not others:
                return
            self.displace(others.pop())

    def put_together(self) -> list[Request]:
        """An iteration of the part whose turn it is."""
        gone = False
        while self.missing() > len(self.pool.free) and self.running:
            self.displace(self.worst())
            gone = True
        for r in self.part():
            self.pool.extend(r, r.computed + (1 if r.decoding else r.chunk))
        if not gone or not self.running:
            self.admit_part()
        return [r for r in self.part() if r.decoding or r.chunk > 0]

    def part(self) -> list[Request]:
        return [r for r in self.running if self.in_front(r) == self.urgent_now]

    def missing(self) -> int:
        left, blocks = self.rules.budget - sum(r.decoding for r in self.part()), 0
        for r in self.part():
            if not r.decoding:
                r.chunk = max(0, min(r.target - r.computed, left))
                left -= r.chunk
            blocks += max(0, self.pool.need(r.computed + (1 if r.decoding else r.chunk)) - len(r.blocks))
        return blocks

    def admit_part(self) -> None:
        while True:
            line = [r for r in self.waiting if self.is_urgent(r) == self.urgent_now]
            left = self.rules.budget - sum(1 if r.decoding else r.chunk for r in self.part())
            if not line or left <= 0 or len(self.running) >= self.replica.max_running or not self.pool.free:
                return
            self.ask("order")
            line = [r for r in line if r.order_key[0] < inf]
            if not line:
                return
            r = min(line, key=lambda each: (each.order_key, each.tie))
            hits = self.pool.hits(r)
            chunk = min(r.target - len(hits) * self.pool.size, left)
            if not self.fits(r, chunk, hits):
                return
            self.start(r, chunk, hits)

    def displace(self, r: Request) -> None:
        super().displace(r)
        if self.put_away is not None and r in self.put_away[0]:
            self.put_away[0].remove(r)

    def complete(self) -> None:
        if self.cut is None:
            super().complete()
            return
        assert self.rules.parking is not None
        self.busy, self.ready, self.now = False, True, self.ends
        self.put_away, self.batch = (self.batch, self.cut - self.now), []
        self.cut = None
        self.stall += self.rules.parking.switch
