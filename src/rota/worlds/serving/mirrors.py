"""Copies of KV at a second host, kept as it grows, so that a request can go on there at once.

A copy is made when a prompt's KV moves to the host that decodes: the host that computed it keeps it. From time to time it is brought up to date; the bytes are
counted, and take no time: a token of KV is small beside what a link carries in an iteration. Where blocks are short, copies go before requests do. A
request with a copy is moved between two iterations of its host, and decodes at the other from that host's next iteration on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from rota.worlds.serving import doors
from rota.worlds.serving.kernels import layout as at

if TYPE_CHECKING:
    from rota.worlds.serving.fleet import Fleet
    from rota.worlds.serving.pools import PoolBook

SPARE = 0.05  # share of a host's blocks that copies leave free


@dataclass
class Mirrors:
    """The copies of a run."""

    book: "PoolBook"
    every: float  # seconds between two updates
    copies: dict[int, tuple[int, int]] = field(default_factory=dict)  # request -> (host, blocks)
    _numbers: dict[int, int] = field(default_factory=dict)  # request -> of its last move
    _reviewing: bool = False

    def __post_init__(self) -> None:
        self.fleet: Fleet = self.book.fleet
        self.run = self.fleet.run
        self.fleet.later(self.run.begins + self.every, self._update, outage=True)

    # -- copies ---------------------------------------------------------------------------------------------------

    def add(self, job: int, host: int, now: float) -> None:
        """A host keeps the KV of a request that decodes elsewhere, if there is room."""
        blocks = self._need(job, host)
        if self._room(host) >= blocks and not self.run.hosts[host, at.DOWN]:
            doors.hold_blocks(self.run, host, blocks, now)
            self.copies[job] = (host, blocks)

    def drop(self, job: int, now: float) -> None:
        """The copy of a request is not needed any more."""
        host, blocks = self.copies.pop(job, (-1, 0))
        if host >= 0:
            doors.hold_blocks(self.run, host, -blocks, now)

    def fall(self, host: int, now: float) -> None:
        """A host goes down: the copies there, and those of what runs there, are gone. (To go on from a copy after a failure is not modelled.)"""
        here = set(doors.at_host(self.run, host).tolist())
        for job in [job for job, (kept, _) in self.copies.items() if kept == host or job in here]:
            self.drop(job, now)

    def give_way(self, host: int, now: float) -> bool:
        """Nothing runs at a host, and what waits there does not fit: no copy stays. Returns whether there was one."""
        kept = [job for job, (where, _) in self.copies.items() if where == host]
        for job in kept:
            self.drop(job, now)
        self.book.dropped += len(kept)
        return bool(kept)

    def _need(self, job: int, host: int) -> int:
        tokens = (
            doors.kv_tokens(self.run, job)
            if self.run.jobs[at.STATE, job] == at.DECODING
            else int(self.run.jobs[at.BASE, job])
        )
        return -(-tokens // int(self.run.hosts[host, at.BLOCK_TOKENS]))

    def _room(self, host: int) -> int:
        row = self.run.hosts[host]
        return int(row[at.FREE]) - int(SPARE * row[at.KV_BLOCKS])

    def _in_the_way(self, host: int) -> bool:
        """Whether something waits at a host that has few blocks free."""
        row = self.run.hosts[host]
        return bool(row[at.QUEUED_COUNT] > 0 and row[at.FREE] < 4 * SPARE * row[at.KV_BLOCKS])

    def _update(self, now: float) -> None:
        self.fleet.later(now + self.every, self._update, outage=True)
        for job, (host, blocks) in list(self.copies.items()):
            more = self._need(job, host) - blocks
            if self._room(host) < max(more, 0) or self._in_the_way(host):
                self.drop(job, now)
                self.book.dropped += 1
            elif more > 0:
                doors.hold_blocks(self.run, host, more, now)
                self.copies[job] = (host, blocks + more)
                size = int(self.run.hosts[host, at.BLOCK_TOKENS])
                self.fleet.moved_bytes += self.run.replicas[host].kv_bytes * more * size
        self.review(now)

    # -- moves ----------------------------------------------------------------------------------------------------

    def review_soon(self, now: float) -> None:
        """Ask what should move, after all that happens now."""
        if not self._reviewing:
            self._reviewing = True
            self.fleet.later(now, self.review)

    def review(self, now: float) -> None:
        """Ask what should move; hosts that are in an iteration end it first."""
        self._reviewing = False
        for source, target, count in self._wanted(now):
            if self.run.hosts[source, at.BUSY]:
                self.run.hosts[source, at.CALL_AT_END] = 1
            else:
                self._move(source, target, count, now)

    def boundary(self, host: int, now: float) -> None:
        """A host that was to be called is between two iterations."""
        self.run.hosts[host, at.CALL_AT_END] = 0
        for source, target, count in self._wanted(now):
            if source == host:
                self._move(source, target, count, now)

    def _wanted(self, now: float) -> Sequence[tuple[int, int, int]]:
        return self.book.wanted(now)

    def _move(self, source: int, target: int, count: int, now: float) -> None:
        """The requests with a copy at the target go on there, those with the least KV first."""
        rows = [job for job in doors.decoding(self.run, source).tolist() if self.copies.get(job, (-1, 0))[0] == target]
        for job in rows[:count]:
            self.drop(job, now)
            if not doors.switch(self.run, job, target, now):
                self.add(job, target, now)
                return
            self.fleet.migrations += 1
            self.book.moved(job, target)
            number = self._numbers[job] = self._numbers.get(job, 0) + 1
            self.add(job, source, now)
            self.fleet.later(now, partial(self._go_on, job, target, number))

    def _go_on(self, job: int, target: int, number: int, now: float) -> None:
        here = self.run.jobs[at.HOST, job] == target and self.run.jobs[at.STATE, job] == at.MOVING
        if here and self._numbers.get(job) == number:
            doors.land(self.run, job, now)
