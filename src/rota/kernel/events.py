"""The event queue: what happens next, and in which order at one moment.

Keys are ``(time, priority, sequence)``. At equal time completions come before arrivals before decisions, so that a
decision sees every slot that has become free and every job that has come; at equal priority first in, first out. The
order never depends on what the events carry.
"""

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final, Generic, NamedTuple, TypeVar

# Steps of ten leave a world room for its own events (a failure before completions, a refresh after arrivals).
COMPLETION: Final = 0
ARRIVAL: Final = 10
DECISION: Final = 20

Item = TypeVar("Item")


class Event(NamedTuple, Generic[Item]):
    """Something that happens at a time in seconds; `sequence` is unique in a queue, so items are never compared."""

    time: float
    priority: int
    sequence: int
    item: Item


@dataclass
class EventQueue(Generic[Item]):
    """Events in the order in which they happen. Time never runs backwards: see `push`.

    Attributes:
        now: Time of the last event that was popped, in seconds.
    """

    now: float = float("-inf")
    _heap: list[Event[Item]] = field(default_factory=list, init=False, repr=False)
    _pushed: int = field(default=0, init=False, repr=False)

    def push(self, time: float, priority: int, item: Item) -> int:
        """Add an event and return its sequence number.

        Raises:
            ValueError: `time` is NaN or lies before `now`.
        """
        if not time >= self.now:  # also catches NaN
            raise ValueError(f"an event at {time} s cannot be added at {self.now} s: time does not run backwards")
        sequence = self._pushed
        self._pushed += 1
        heappush(self._heap, Event(time, priority, sequence, item))
        return sequence

    def pop(self) -> Event[Item]:
        """Remove and return the next event.

        Raises:
            IndexError: the queue is empty.
        """
        event = heappop(self._heap)
        self.now = event.time
        return event

    def next_time(self) -> float:
        """Time of the next event in seconds, ``inf`` when there is none."""
        return self._heap[0].time if self._heap else float("inf")

    def __len__(self) -> int:
        return len(self._heap)
