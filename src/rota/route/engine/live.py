"""A replica that lives: one iteration at a time on a clock, its tokens handed to whoever waits for them.

An iteration ends when its time has come, and the next one begins at exactly that moment, however late this process was woken:
lateness of single tokens does not add up. Where the machine is too slow for the speed that was asked for, the replica falls behind
its clock and is never told to skip; `lag` says by how much.
"""

import asyncio
from collections.abc import Callable
from math import inf

from rota.route.engine.clock import Clock
from rota.route.engine.metrics import EngineMetrics
from rota.route.engine.replica import Replica
from rota.route.engine.sequence import Sequence


class ReplicaLost(Exception):
    """The replica that computed a request is no more."""


class Ticket:
    """What a client's handler holds while its request is computed."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.lost = False
        self._waiter: asyncio.Future[None] | None = None

    async def more(self, seen: int) -> int:
        """Wait until more than `seen` tokens are out; returns how many. Raises ReplicaLost."""
        while self.sequence.generated <= seen and not self.lost:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.lost:
            raise ReplicaLost
        return self.sequence.generated

    def wake(self) -> None:
        """There is news."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class LiveReplica:
    """Runs replicas one after another (a restart makes a new one) until it is stopped."""

    def __init__(self, make: Callable[[], Replica], clock: Clock, metrics: EngineMetrics) -> None:
        self._make, self.clock, self.metrics = make, clock, metrics
        self.replica = metrics.replica = make()
        self._tickets: dict[int, Ticket] = {}
        self._numbers = 0
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- for handlers ---------------------------------------------------------------------------------------------

    def submit(self, seq: Sequence) -> Ticket:
        """Give a request to the replica, now. Its number is set here. Raises ReplicaLost while there is none."""
        if self._task is None:
            raise ReplicaLost
        seq.number = self._numbers
        self._numbers += 1
        ticket = self._tickets[seq.number] = Ticket(seq)
        self.replica.submit(seq, self.clock.now())
        self._news.set()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The client needs no more. Aborts what is not finished."""
        if self._tickets.pop(ticket.sequence.number, None) is None or ticket.sequence.finished or ticket.lost:
            return
        self.replica.abort(ticket.sequence)
        self.metrics.aborted()

    @property
    def outstanding(self) -> int:
        """Requests whose clients still wait."""
        return len(self._tickets)

    @property
    def lag(self) -> float:
        """Engine seconds that the replica is behind its clock."""
        replica = self.replica
        if not replica.busy and not replica.ready:
            return 0.0
        return max(0.0, self.clock.now() - (replica.ends if replica.busy else replica.now))

    # -- the loop -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to live."""
        self._task = asyncio.create_task(self._run(), name="rota engine")

    async def stop(self) -> None:
        """End, and tell everybody who waits."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for ticket in self._tickets.values():
            ticket.lost = True
            ticket.wake()
        self._tickets = {}

    async def restart(self) -> None:
        """Lose everything: requests, cache, position in time. `start` begins anew."""
        self.metrics.lost(self.replica)
        await self.stop()
        self.replica = self.metrics.replica = self._make()

    async def _run(self) -> None:
        while True:
            if self.replica.busy:
                await self.clock.sleep_until(self.replica.ends)
                self._deliver(self.replica.complete())
                await asyncio.sleep(
                    0
                )  # handlers write, and what comes at this very moment is seen by the next decision
            when = self.replica.next_begin()
            if when < inf:
                self.replica.begin(when)
            else:
                self._news.clear()
                await self._news.wait()

    def _deliver(self, got: list[Sequence]) -> None:
        self.metrics.iteration(self.replica, got, self.clock.now())
        for seq in got:
            if seq.number in self._tickets:
                self._tickets[seq.number].wake()
