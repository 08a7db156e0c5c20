"""Live migration: KV is copied in stages while its request decodes on, and the request stands still only for the last one.

Sun et al., Llumnix, OSDI 2024 (arXiv 2406.03243), section 4.2. Stage 0 copies all blocks that are full, each further stage what became full meanwhile. Before
each the other host sets the blocks aside, or refuses, and then all that was set aside is given back. When few blocks are left the request leaves its batch,
the last blocks are copied, and it goes on at the other host. Both numbers of stages and of last blocks are those of Llumnix's own `migration_coordinator`: what
has not come to its last stage after `stages` of them is given up.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rota.kernel.errors import PolicyError
from rota.worlds.serving import doors
from rota.worlds.serving.kernels import layout as at

if TYPE_CHECKING:
    from rota.worlds.serving.fleet import Fleet, Migrate


@dataclass(slots=True)
class Copy:
    """A migration under way."""

    source: int
    target: int
    preemptions: int  # how often its request had been displaced when it began: then its KV was given away
    stages: int = 0  # that have begun
    copied: int = 0  # tokens of KV at the target, with those on their way
    reserved: int = 0  # blocks that the target has set aside
    last: bool = False  # the request has left its batch


class LiveMigration:
    """The migrations of a run."""

    def __init__(self, fleet: "Fleet", policy: "Migrate") -> None:
        self.fleet, self.run, self.policy = fleet, fleet.run, policy
        self.copies: dict[int, Copy] = {}  # request -> its migration
        self.given_up = 0
        fleet.later(self.run.begins + policy.every, self.ask, outage=True)

    def ask(self, now: float) -> None:
        """Begin the migrations that the policy asks for, one at a time from each host."""
        policy, run = self.policy, self.run
        self.fleet.later(now + policy.every, self.ask, outage=True)
        for source, target in policy.pairs(run.views.table(policy.reads), now):
            if not (0 <= source < len(run.replicas) and 0 <= target < len(run.replicas) and source != target):
                raise PolicyError(
                    f"{type(policy).__name__}: pair ({source}, {target}) at {now:g} s: ids of two hosts are needed"
                )
            if any(copy.source == source for copy in self.copies.values()):
                continue
            rows = doors.decoding(run, source)
            # One that has had no token here yet stays, or it could move for ever.
            rows = rows[run.jobs[at.JOINED, rows] < run.hosts[source, at.STEP]]
            if len(rows):
                job = int(rows[run.workload.priority[rows].argmax()])  # of the least urgent the one with the least KV
                run.jobs[at.WATCHED, job] = 1  # its end ends the migration
                self._stage(job, Copy(source, target, int(run.jobs[at.PREEMPTIONS, job])), now)

    def _stage(self, job: int, copy: Copy, now: float) -> None:
        """Begin the next stage, or give up: too many of them, the request displaced, or no room for it."""
        run, fleet = self.run, self.fleet
        decodes = run.jobs[at.HOST, job] == copy.source and run.jobs[at.STATE, job] == at.DECODING
        if copy.stages == self.policy.stages or not decodes or run.jobs[at.PREEMPTIONS, job] != copy.preemptions:
            self._give_up(copy, now)
            return
        tokens, size = doors.kv_tokens(run, job), int(run.hosts[copy.source, at.BLOCK_TOKENS])
        blocks = -(-tokens // size)
        copy.last = blocks - copy.copied // size <= self.policy.last_blocks
        goal = tokens if copy.last else (blocks - 1) * size  # the last block is still being written
        if copy.last:
            done = doors.depart(run, job, copy.target, copy.reserved, now)
        else:
            found = doors.reserve_room(run, job, copy.target, goal, copy.reserved, now)
            done = found >= 0
        if not done:
            self._give_up(copy, now)
            return
        copy.reserved = 0 if copy.last else found
        bytes_ = fleet.plan.kv_bytes[copy.source] * (goal - copy.copied)
        copy.copied = goal
        fleet.moves += copy.stages == 0
        fleet.moved_bytes += bytes_
        copy.stages += 1
        self.copies[job] = copy
        fleet.send_kv(job, copy.source, copy.target, bytes_, now)

    def through(self, job: int, now: float) -> bool:
        """Bytes of a request's KV are there. After the last stage it still stands still for the stop. False: they were not of a migration."""
        copy = self.copies.pop(job, None)
        if copy is None:
            return False
        if copy.last:
            self.fleet.migrations += 1
            after = self.fleet.plan.link.latency + self.policy.stop
            self.fleet.land_later(job, copy.source, copy.target, now + after)
        else:
            self._stage(job, copy, now)
        return True

    def ended(self, job: int, now: float) -> None:
        """A request has ended before it went: what was copied is of no use."""
        if job in self.copies:
            self._stop(job, now)

    def shut(self, host: int, now: float) -> None:
        """A host takes no requests any more: those on their way to it stay where they are, but for those that have left their batch."""
        for job in [job for job, copy in self.copies.items() if copy.target == host and not copy.last]:
            self._stop(job, now)

    def fallen(self, host: int, now: float) -> None:
        """A host is down, with the blocks that it had set aside. What becomes of requests that had left their batch is as with prompts that move."""
        for job in [job for job, copy in self.copies.items() if host in (copy.source, copy.target)]:
            if self.copies[job].target == host:
                self.copies[job].reserved = 0
            self._stop(job, now)

    def _stop(self, job: int, now: float) -> None:
        self.fleet.cancel_kv(job, now)
        self._give_up(self.copies.pop(job), now)

    def _give_up(self, copy: Copy, now: float) -> None:
        self.given_up += 1
        if copy.reserved:
            doors.hold_blocks(self.run, copy.target, -copy.reserved, now)
