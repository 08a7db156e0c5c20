"""One engine as the router sees it: its connections, its health, and the exact account of what it was sent."""

import math
from pathlib import Path

from rota.route.breaker import Breaker
from rota.route.job import Job
from rota.route.reported import Reported
from rota.route.settings import BackendSettings, Document, client_context
from rota.route.upstream import Pool

UNLIMITED = 2**31
RATE_MEMORY = 60.0  # seconds of work over which the cost of a token is learned
# What a prompt token and an output token are believed to cost until this backend has been seen at work: the share of an iteration on an
# 8B model and an A100 in our own roofline model (0.1 ms a prompt token in a chunk, 0.4 ms an output token in a batch of 32).
PREFILL_SECONDS, DECODE_SECONDS = 1e-4, 4e-4


class Backend:
    """An engine. `id` is stable for a name as long as the router runs."""

    def __init__(self, id: int, settings: BackendSettings, written: Document, folder: Path) -> None:
        self.id = id
        self.name = settings.name
        self.breaker = Breaker(written.breaker)
        self.outstanding: dict[int, Job] = {}
        self.up = settings.health is None  # not before the first answer
        self.draining = False
        self.turns = 0.0  # requests sent, divided by weight, counted from where the others were when it joined
        self.sent = self.failed = self.finished = 0
        self.served: frozenset[str] | None = None  # models it says it has
        self.models_at = -math.inf  # when it was last asked for them
        self.reported: Reported | None = None
        self.others = 0.0  # requests of its other clients, where they are counted
        self.last_byte = -math.inf
        self.warm_since: float | None = None
        self.down_because = "not yet asked"
        self.fitted: tuple[float, float] | None = None  # rates that `rota loop` found, in place of learned ones
        self._falls = self._rises = 0
        self._busy_since: float | None = None
        self._busy, self._work = 0.0, 0.0  # seconds at work, and the work done in it by the believed rates
        self.settings, self.written = settings, written
        self.context = client_context(settings, folder, self.name)
        self.pool = Pool(settings.url, self.context, written.timeouts.connect, settings.tls.server_name)

    def change(self, settings: BackendSettings, written: Document, folder: Path) -> None:
        """New settings; the account, and requests on their way, stay."""
        self.settings, self.written = settings, written
        self.pool.retire()
        self.context = client_context(settings, folder, self.name)
        self.pool = Pool(settings.url, self.context, written.timeouts.connect, settings.tls.server_name)
        self.breaker.settings = written.breaker

    # -- whether it can take a request ----------------------------------------------------------------------------

    def state(self, now: float) -> str:
        """In one word: up, down, draining, open, half-open or warming."""
        if self.draining:
            return "draining"
        if not self.up:
            return "down"
        if not self.breaker.permits(now) or self.breaker.state != "closed":
            return self.breaker.state
        return "warming" if self.warming(now) < 1 else "up"

    def usable(self, now: float) -> bool:
        """Whether it may be sent requests at all."""
        return self.up and not self.draining and self.breaker.permits(now)

    def offers(self, model: str) -> bool:
        """Whether it has a model; an engine that has not said which it has is believed to have any."""
        if self.settings.models:
            return model in self.settings.models
        return not model or self.served is None or model in self.served

    @property
    def models(self) -> list[str]:
        """The models it has, as configured or as it says."""
        return list(self.settings.models) or sorted(self.served or ())

    def warming(self, now: float) -> float:
        """The share of its traffic that a backend gets after it came (back): from 0 to 1 over the slow start."""
        if self.warm_since is None or self.written.slow_start_seconds <= 0:
            return 1.0
        share = (now - self.warm_since) / self.written.slow_start_seconds
        if share >= 1:
            self.warm_since = None
            return 1.0
        return max(share, 0.0)

    def limit(self, now: float, busiest: int) -> int:
        """How many requests it may have at once; while it warms up, no more than its share of what the busiest has."""
        most = self.settings.max_outstanding or UNLIMITED
        share = self.warming(now)
        return most if share >= 1 else min(most, max(1, math.ceil(share * (busiest + 1))))

    # -- the account ----------------------------------------------------------------------------------------------

    def start(self, job: Job, now: float) -> None:
        """A request goes to it."""
        if not self.outstanding:
            self._busy_since = now
        self.outstanding[job.id] = job
        self.sent += 1
        self.turns += 1.0 / self.settings.weight
        self.breaker.sent(job.id)

    def end(self, job: Job, now: float) -> None:
        """A request is no longer with it."""
        if self.outstanding.pop(job.id, None) is None:
            return
        if job.first_byte == job.first_byte:
            prompt = job.prompt_tokens - (job.cached_tokens or 0)
            self._work += (
                max(prompt, 0.0) * self._believed[0] + (job.counted_output or job.generated) * self._believed[1]
            )
        if self._busy_since is not None:
            self._busy += now - self._busy_since
            self._busy_since = now if self.outstanding else None
            if self._busy > RATE_MEMORY:
                keep = RATE_MEMORY / self._busy
                self._busy, self._work = self._busy * keep, self._work * keep

    def swap(self, twin: Job, job: Job) -> None:
        """A request takes the place of its twin, which was sent for it."""
        del self.outstanding[twin.id]
        self.outstanding[job.id] = job
        self.breaker.renamed(twin.id, job.id)

    @property
    def _believed(self) -> tuple[float, float]:
        return (
            self.settings.prefill_seconds or PREFILL_SECONDS,
            self.settings.decode_seconds or DECODE_SECONDS,
        )

    def rates(self) -> tuple[float, float]:
        """Seconds of its time for a prompt token and for an output token: as fitted, else as configured, else scaled to what it needed so far."""
        if self.fitted is not None:
            return self.fitted
        prefill, decode = self._believed
        configured = self.settings.prefill_seconds is not None and self.settings.decode_seconds is not None
        if configured or self._busy < 1.0 or self._work <= 0:
            return prefill, decode
        return prefill * self._busy / self._work, decode * self._busy / self._work

    def seconds(self, job: Job) -> float:
        """Seconds of work a request has left here."""
        prefill, decode = self.rates()
        waiting = job.first_byte != job.first_byte
        return (job.prompt_tokens * prefill if waiting else 0.0) + max(job.output_tokens - job.generated, 0.0) * decode

    def count(self) -> float:
        """Requests at it: our own exactly, and those of its other clients where they are counted."""
        return len(self.outstanding) + self.others

    def fresh(self, now: float) -> Reported | None:
        """What it last said of itself, unless that is stale."""
        seen = self.reported
        return seen if seen is not None and now - seen.at <= self.written.scrape.stale else None

    def queued(self, now: float) -> float:
        """Requests waiting in the engine: as it says, never more than are there; else those without a first byte."""
        seen = self.fresh(now)
        if seen is not None and seen.waiting is not None:
            return min(seen.waiting, self.count())
        return float(sum(job.first_byte != job.first_byte for job in self.outstanding.values()))

    # -- health ---------------------------------------------------------------------------------------------------

    def well(self, now: float) -> bool:
        """The health check was answered. Returns whether it came up with that."""
        self._falls, self._rises = 0, self._rises + 1
        if self.up or self._rises < self.written.health.rise:
            return False
        self.up, self.down_because = True, ""
        return True

    def ill(self, why: str, silent: bool, now: float) -> bool:
        """The health check failed. Returns whether it went down with that.

        `silent`: the engine took the connection and said nothing in time. An engine in a long prefill does that, so bytes of any request are
        a sign of life, and silence counts only after `health.silent` seconds without one.
        """
        self._rises = 0
        if silent and now - self.last_byte < self.written.health.silent:
            return False
        self._falls += 1
        self.down_because = why
        if not self.up or self._falls < self.written.health.fall:
            return False
        self.up = False
        return True
