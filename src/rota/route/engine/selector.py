"""An event loop that wakes on time: asyncio's rounds every sleep up to a whole millisecond where the kernel's epoll does.

`epoll_wait` counts milliseconds. `select` counts microseconds, and an epoll descriptor can itself be selected: so the sleep is
done there, and events are then read from epoll without waiting.
"""

import asyncio
import select
import selectors
from typing import Any

if hasattr(selectors, "EpollSelector"):

    class PreciseSelector(selectors.EpollSelector):
        """Sleeps to the microsecond."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """Wait for events, no longer than `timeout` seconds (None: for ever)."""
            if timeout is not None and timeout > 0:
                select.select([self], [], [], timeout)
                timeout = 0
            return super().select(timeout)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """An event loop that wakes on time. Where there is no epoll, the system's own, which already does (kqueue)."""
    kind: Any = globals().get("PreciseSelector")
    return asyncio.SelectorEventLoop(kind()) if kind is not None else asyncio.new_event_loop()
