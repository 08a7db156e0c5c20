"""Time that stands still while anybody works, and jumps when everybody sleeps."""

import asyncio
from collections.abc import Coroutine
from heapq import heappop, heappush
from itertools import count
from typing import Any

TURNS = 20  # of the event loop: more than any chain of wake-ups here is long


class VirtualClock:
    """Implements `rota.route.engine.clock.Clock`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def now(self) -> float:
        return self._now

    async def sleep_until(self, when: float) -> None:
        if when > self._now:
            future = asyncio.get_running_loop().create_future()
            heappush(self._sleepers, (when, next(self._numbers), future))
            await future

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Let time pass until `work` is done."""
        task = asyncio.ensure_future(work)
        while True:
            for _ in range(TURNS):
                await asyncio.sleep(0)
            if task.done():
                return task.result()
            if not self._sleepers:
                task.cancel()
                raise AssertionError(f"everybody waits and nobody sleeps at {self._now}")
            self._now = self._sleepers[0][0]
            while self._sleepers and self._sleepers[0][0] == self._now:
                heappop(self._sleepers)[2].set_result(None)
