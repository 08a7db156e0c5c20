"""DAGOR: while requests queue too long, only those above a level of priority come in; the level moves a little each window.

Zhou et al., Overload Control for Scaling WeChat Microservices, SoCC 2018; recalled. Overload is a mean queueing time above a threshold over a window of a
second or 2,000 requests. Priorities are compound: first that of the service, here the request's priority, then that of the user, a hash of the tenant or
session into 128, which changes every hour. When a window ends, the number that may come in is (1 - alpha) of those that came in, or, without overload, those
and beta of all that arrived; the level is where the counts of the last window reach it. The paper's threshold is 20 ms for microservices of some milliseconds;
here it is a parameter in seconds. Queueing time is from arrival to the first iteration.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, Jobs
from rota.worlds.serving.admission import COMES_IN, SHED, Admit

Level = tuple[int, int]  # smaller is more urgent
USERS, HOUR = 128, 3600.0


def user_priority(owner: int, now: float) -> int:
    """A priority of a user for an hour, from 0: a multiplicative hash (Knuth, The Art of Computer Programming 3, section 6.4)."""
    return (2654435761 * (owner + 1 + 7919 * int(now // HOUR)) >> 7) % USERS


@dataclass
class Dagor(Admit):
    """Shed below a level of priority that follows the queueing time.

    Attributes:
        threshold: Mean seconds of queueing over a window that are overload.
        alpha: Share by which fewer come in after a window of overload.
        beta: Share of all that arrived by which more come in after another one.
        window: Seconds; a window also ends after `count` requests.
        count: Requests.
    """

    threshold: float = 1.0
    alpha: float = 0.05
    beta: float = 0.01
    window: float = 1.0
    count: int = 2000
    _level: Level | None = field(default=None, init=False, repr=False)  # the least urgent that comes in; None: all do
    _of: dict[int, Level] = field(default_factory=dict, init=False, repr=False)  # requests that were shown
    _came: dict[int, float] = field(
        default_factory=dict, init=False, repr=False
    )  # arrival of those that have not begun
    _counts: dict[Level, int] = field(default_factory=dict, init=False, repr=False)  # arrivals of this window
    _admitted: int = field(default=0, init=False, repr=False)
    _waits: list[float] = field(default_factory=list, init=False, repr=False)
    _began: float = field(default=0.0, init=False, repr=False)

    reads_job = ("id", "priority", "tenant", "session")

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and 0 < self.alpha < 1 and self.beta > 0 and self.window > 0 and self.count >= 1):
            raise InputError(
                f"needs threshold, beta, window > 0, alpha in (0, 1) and count >= 1; "
                f"found {self.threshold:g}, {self.beta:g}, {self.window:g}, {self.alpha:g}, {self.count}"
            )

    def verdicts(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        answers = []
        rows = zip(*(getattr(jobs, name).tolist() for name in self.reads_job), strict=True)
        for job, priority, tenant, session in rows:
            owner = int(session) if session >= 0 else int(tenant)
            level = (int(priority), user_priority(owner, now))
            self._of[int(job)] = level
            answers.append(COMES_IN if self._level is None or level <= self._level else SHED)
        return np.array(answers, np.float64)

    def on_admit(self, job: int, now: float) -> None:
        self._arrived(job, now)
        self._came[job] = now
        self._admitted += 1

    def on_leave(self, job: int, reason: str, now: float) -> None:
        if job in self._of and job not in self._came:
            self._arrived(job, now)

    def on_start(self, job: int, host: int, now: float) -> None:
        came = self._came.pop(job, None)
        if came is not None:
            self._waits.append(now - came)

    def _arrived(self, job: int, now: float) -> None:
        """Count an arrival; the first one after a window ends it."""
        if now >= self._began + self.window or sum(self._counts.values()) >= self.count:
            self._settle(now)
        level = self._of.pop(job)
        self._counts[level] = self._counts.get(level, 0) + 1

    def _settle(self, now: float) -> None:
        arrived = sum(self._counts.values())
        overloaded = bool(self._waits) and sum(self._waits) / len(self._waits) > self.threshold
        wanted = (1 - self.alpha) * self._admitted if overloaded else self._admitted + self.beta * arrived
        if arrived and (overloaded or self._level is not None):
            self._level = self._reaches(wanted)
        self._counts, self._waits, self._admitted, self._began = {}, [], 0, now

    def _reaches(self, wanted: float) -> Level | None:
        """The last level up to which the counts are within what is wanted; None: all are. The most urgent level always comes in."""
        total, found = 0, min(self._counts)
        for level in sorted(self._counts):
            total += self._counts[level]
            if total > wanted:
                return found
            found = level
        return None
