"""The circuit breaker of a backend: after failures in a row it is left alone, then tried with one request.

Nygard, Release It!, 2007: closed (all pass), open (none pass), half-open (one passes and decides).
"""

from rota.route.settings import Breaker as BreakerSettings

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"


class Breaker:
    """Counts failures of requests in a row; time is given by the caller, in seconds."""

    def __init__(self, settings: BreakerSettings) -> None:
        self.settings = settings
        self.failures = 0
        self.state = CLOSED
        self.until = 0.0  # when an open breaker lets one request pass
        self._open_seconds = settings.open
        self._trial: int | None = None  # the request that decides

    def permits(self, now: float) -> bool:
        """Whether a request may be sent; opens halfway when its time has come."""
        if self.state == OPEN and now >= self.until:
            self.state, self._trial = HALF_OPEN, None
        return self.state == CLOSED or (self.state == HALF_OPEN and self._trial is None)

    def sent(self, request: int) -> None:
        """A request was sent."""
        if self.state == HALF_OPEN and self._trial is None:
            self._trial = request

    def succeeded(self, request: int) -> bool:
        """A request was answered. Returns whether that closed the breaker."""
        if self.state == OPEN or (self.state == HALF_OPEN and request != self._trial):
            return False  # an answer to what was sent before it opened says little
        closed = self.state == HALF_OPEN
        self.state, self.failures, self._trial, self._open_seconds = CLOSED, 0, None, self.settings.open
        return closed

    def failed(self, request: int, now: float) -> bool:
        """A request failed through the backend's fault. Returns whether that opened the breaker."""
        if self.state == OPEN or (self.state == HALF_OPEN and request != self._trial):
            return False
        self.failures += 1
        if self.state == HALF_OPEN:
            self._open_seconds = min(2 * self._open_seconds, self.settings.open_most)
        elif self.failures < self.settings.failures:
            return False
        self.state, self.until, self._trial = OPEN, now + self._open_seconds, None
        return True

    def renamed(self, before: int, now: int) -> None:
        """A request goes on under another number."""
        if before == self._trial:
            self._trial = now

    def left(self, request: int) -> None:
        """A request ended without a verdict: its client went away."""
        if request == self._trial:
            self._trial = None
