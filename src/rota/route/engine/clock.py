"""Time as an engine sees it: engine seconds, which pass `speed` times as fast as real ones."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What the loop of an engine needs of time. A test may give one that only moves when everybody sleeps."""

    def now(self) -> float:
        """Engine seconds since the clock was made."""

    async def sleep_until(self, when: float) -> None:
        """Return at `when`, or at once when that is past."""


class RealClock:
    """The machine's monotonic clock, scaled."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._origin = time.monotonic()

    def now(self) -> float:
        """Engine seconds since the clock was made."""
        return (time.monotonic() - self._origin) * self.speed

    async def sleep_until(self, when: float) -> None:
        """Return at `when`, or at once when that is past."""
        seconds = (when - self.now()) / self.speed
        if seconds > 0:
            await asyncio.sleep(seconds)
