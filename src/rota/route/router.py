"""The router: everything it knows, and what happens to a request from its arrival to its end."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rota.kernel.errors import InputError
from rota.route.ask import Ask, Limits, block_hashes
from rota.route.backend import Backend
from rota.route.beliefs import LengthHistory, PrefixIndex, Sessions
from rota.route.decide import Choice, Decisions, Situation
from rota.route.fleet import Fleet
from rota.route.job import Job
from rota.route.line import Line
from rota.route.log import Log
from rota.route.meters import Meters
from rota.route.problems import Problem
from rota.route.record import Recorder, session_number
from rota.route.settings import BackendSettings, Policy, Settings
from rota.route.tenants import Tenant, Tenants

RECENT = 50  # decisions that the dashboard shows
UNKNOWN = "(unknown)"  # a model that no backend has
HEDGES_READY = 10  # second tries that are always there after a quiet time


class RetryBudget:
    """Retries are a share of requests, so that a fleet in trouble is not asked for more than before (Google SRE book, chapter 21)."""

    def __init__(self, share: float, reserve: int) -> None:
        self.share, self.reserve = share, reserve
        self.level = float(reserve)

    def request(self) -> None:
        """A request came."""
        self.level = min(self.level + self.share, float(self.reserve))

    def take(self) -> bool:
        """Whether one more retry is within the budget; if so, it is spent."""
        if self.level < 1.0:
            return False
        self.level -= 1.0
        return True


class Router:
    """All state of a running router. `clock`: seconds since it started."""

    def __init__(self, settings: Settings, log: Log, salt: bytes, wall: Callable[[], float] = time.time) -> None:
        start = time.monotonic()
        self.clock: Callable[[], float] = lambda: time.monotonic() - start
        self.wall, self.log, self.settings = wall, log, settings
        self.salt = salt
        written = settings.written
        self.fleet = Fleet(written, settings.folder, self.clock)
        self.lengths = LengthHistory(written.lengths)
        self.meters = Meters()
        self.situation = Situation(PrefixIndex(written.prefix.blocks), written.prefix.block_tokens)
        self.sessions = Sessions()
        self.decisions = self._decisions(settings, written.policy)
        self.line = Line(written.line, lambda: self.decisions, self.fleet.candidates, self._dispatch, self.clock)
        self.tenants = Tenants(written.tenants, settings.tenants)
        self.recorder: Recorder | None = None
        self.budget = RetryBudget(written.retry.budget, written.retry.reserve)
        self.hedge_budget = RetryBudget(written.hedge.budget, HEDGES_READY)
        self.answering: set[Job] = (
            set()
        )  # whose whole answer is on its way to the client; they are at no backend any more
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self.draining = False
        self.retries = self.hedges = self.hedges_won = 0
        self._next_id = 0
        self.fleet.changed.append(self._backend_changed)
        self.fleet.change(written, settings.backends)
        self._refer()

    def _decisions(self, settings: Settings, policy: Policy) -> Decisions:
        return Decisions(
            policy,
            settings.written,
            settings.folder,
            self.situation,
            lambda text: self.log.often("policy failed", because=text),
            self.meters.deciding.add,
        )

    # -- change while running -------------------------------------------------------------------------------------

    def reload(self, settings: Settings) -> None:
        """Another configuration; requests on their way go on. A changed policy starts anew, an unchanged one keeps its state.

        Raises:
            InputError: what cannot change while it runs.
        """
        written, before = settings.written, self.settings.written
        for name in ("listen", "admin", "recording", "tls_cert", "tls_key"):
            if getattr(written, name) != getattr(before, name):
                raise InputError(f"{name}: cannot change while the router runs; restart it")
        if written.policy != before.policy:
            self.swap(written.policy, settings)
        self.settings = settings
        self.log.change(written.log.level)
        self.line.settings = written.line
        self.lengths.settings = written.lengths
        self.situation.prefix.room, self.situation.prefix_tokens = written.prefix.blocks, written.prefix.block_tokens
        self.budget.share, self.budget.reserve = written.retry.budget, written.retry.reserve
        self.hedge_budget.share = written.hedge.budget
        self.tenants.change(written.tenants, settings.tenants)
        self.change_backends(settings.backends)

    def change_backends(self, listed: tuple[BackendSettings, ...]) -> None:
        """Another list of backends."""
        self.fleet.change(self.settings.written, listed)
        self._refer()
        self.line.pump()

    def swap(self, policy: Policy, settings: Settings | None = None) -> None:
        """Another policy from the next decision on. Raises InputError and changes nothing where it is wrong."""
        self.decisions = self._decisions(settings or self.settings, policy)
        now = self.clock()
        for backend in self.fleet.backends.values():
            self.decisions.tell("on_host", backend.id, backend.up, now)
        for job in self.line.jobs:
            self.decisions.tell("on_arrival", job.id, now)
        self.line.pump()

    def _refer(self) -> None:
        self.situation.reference = next(iter(self.fleet.backends.values()), None)

    def _backend_changed(self, backend: Backend, up: bool) -> None:
        if not up:
            self.situation.prefix.forget(backend.id)
        self.decisions.tell("on_host", backend.id, up, self.clock())
        self.line.pump()

    def refreshed(self) -> None:
        """Engines reported new figures."""
        self.decisions.tell("on_refresh", self.clock())
        self.line.pump()

    # -- a request ------------------------------------------------------------------------------------------------

    def arrive(self, path: str, tenant: Tenant, ask: Ask, limits: Limits, arrived: float) -> Job:
        """A request has come and has been read; it is in its tenant's account from now on. Raises Problem (429)."""
        prompt = float(ask.token_ids) if ask.token_ids else self.lengths.prompt_tokens(ask.model, len(ask.text))
        output = self.lengths.output_tokens(ask.model, tenant.name, ask.most_tokens) if ask.generates else 0.0
        tenant.enter(prompt + output, arrived)
        self._next_id += 1
        asked = limits.priority if limits.priority is not None else ask.priority
        session = session_number(self.salt, limits.session)
        program = self.sessions.of(session, arrived)
        job = Job(
            id=self._next_id,
            release=arrived,
            wall=self.wall() - (self.clock() - arrived),
            tenant=tenant,
            model=ask.model,
            path=path,
            stream=ask.stream,
            generates=ask.generates,
            session=session,
            program=program,
            path_attained=program.path,
            priority=tenant.settings.priority if asked is None else max(tenant.settings.priority, asked),
            ttft_limit=limits.ttft,
            tpot_limit=limits.tpot,
            e2e_limit=limits.e2e,
            prompt_bytes=len(ask.text),
            prompt_tokens=prompt,
            output_tokens=output,
        )
        if self.decisions.wants_blocks or self.recorder is not None:
            written = self.settings.written
            size = round(written.prefix.block_tokens * written.lengths.bytes_per_token)
            job.blocks = block_hashes(ask, self.salt, size)
        self.budget.request()
        self.hedge_budget.request()
        self.decisions.tell("on_arrival", job.id, arrived)
        return job

    def _dispatch(self, job: Job, choice: Choice, now: float) -> None:
        backend = choice.backend
        assert backend is not None
        job.backend, job.dispatched, job.costs, job.decided_by = backend, now, choice.costs, choice.by
        backend.start(job, now)
        job.program.backend = backend.id
        if job.blocks:
            prefix = self.situation.prefix
            self.meters.prefix_hits.add(prefix.match(backend.id, job.blocks) / len(job.blocks))
            prefix.sent(backend.id, job.blocks)
        self.decisions.tell("on_start", job.id, backend.id, now)
        self.recent.append(
            {
                "at": now,
                "request": job.id,
                "tenant": job.tenant.name,
                "model": job.model,
                "prompt_tokens": round(job.prompt_tokens),
                "waited": now - job.release,
                "backend": backend.name,
                "by": choice.by,
                "costs": choice.costs,
                "full": choice.full,
            }
        )

    def failed(self, job: Job, why: str) -> None:
        """A backend failed a request; the request may be tried elsewhere."""
        backend, now = job.backend, self.clock()
        if backend is None:
            return
        backend.failed += 1
        job.tried.add(backend.id)
        if backend.breaker.failed(job.id, now):
            self.log.warning("breaker open", backend=backend.name, because=why, seconds=backend.breaker.until - now)
            self.decisions.tell("on_host", backend.id, False, now)
        self.leave_backend(job)
        self.decisions.tell("on_preempt", job.id, backend.id, now)

    def answered(self, job: Job) -> None:
        """A backend answered a request as it should."""
        backend = job.backend
        if backend is not None and backend.breaker.succeeded(job.id):
            self.log.info("breaker closed", backend=backend.name)
            self.fleet.came_up(backend)

    def leave_backend(self, job: Job) -> None:
        """A request is no longer at its backend."""
        backend = job.backend
        if backend is not None:
            backend.end(job, self.clock())
            backend.breaker.left(job.id)
            job.backend = None
            self.line.pump()

    def may_retry(self, job: Job) -> bool:
        """Whether one more try is allowed; if so, it is counted."""
        if job.attempts >= self.settings.written.retry.attempts or self.draining or not self.budget.take():
            return False
        self.retries += 1
        return True

    def hedge(self, job: Job) -> Job | None:
        """A twin of a request at another backend that has room for it now; None where there is none, or the budget is spent."""
        now = self.clock()
        try:
            others = [each for each in self.fleet.candidates(job, now) if each is not job.backend]
        except Problem:
            return None
        if not others or (choice := self.decisions.choose(job, others, now)).backend is None:
            return None
        if not self.hedge_budget.take():
            return None
        self._next_id += 1
        twin = replace(job, id=self._next_id, backend=None, tried=set(job.tried))
        job.attempts += 1
        self.hedges += 1
        self.decisions.tell("on_arrival", twin.id, now)
        self._dispatch(twin, choice, now)
        return twin

    def adopt(self, job: Job, twin: Job) -> None:
        """The twin was faster: the request is where the twin is, and the twin is gone."""
        loser, winner, now = job.backend, twin.backend, self.clock()
        assert winner is not None
        self.leave_backend(job)
        if loser is not None:
            self.decisions.tell("on_preempt", job.id, loser.id, now)
        winner.swap(twin, job)
        job.backend, job.dispatched, job.costs, job.decided_by = winner, twin.dispatched, twin.costs, twin.decided_by
        twin.backend = None
        self.hedges_won += 1
        self.decisions.tell("on_start", job.id, winner.id, now)

    def drop_twin(self, twin: Job) -> None:
        """A twin's story is over, whether it won or lost."""
        if twin.backend is not None:
            self.leave_backend(twin)
        self.decisions.tell("on_leave", twin.id, "hedged", self.clock())

    def end(self, job: Job, served_by: Backend | None) -> None:
        """A request is over, in whatever way: accounts are closed, beliefs corrected, a row written."""
        now = self.clock()
        believed = job.prompt_tokens + job.output_tokens
        prompt = float(job.counted_prompt if job.counted_prompt is not None else job.prompt_tokens)
        output = float(job.counted_output if job.counted_output is not None else job.generated)
        whole = job.outcome == "complete" and job.status == 200
        if whole and served_by is not None:
            served_by.finished += 1
        self.leave_backend(job)
        if not whole and job.first_byte != job.first_byte:
            prompt = output = 0.0  # nothing was served
        job.tenant.leave(believed, prompt, output)
        if whole and job.generates:
            self.lengths.counted(job.model, job.tenant.name, job.prompt_bytes, job.counted_prompt, int(output))
        if served_by is not None:
            prefill, decode = served_by.rates()
            job.program.ended(job.path_attained, prompt * prefill + output * decode, output)
        if whole:
            self.decisions.tell("on_finish", job.id, -1 if served_by is None else served_by.id, now)
        else:
            self.decisions.tell("on_leave", job.id, job.outcome, now)
        name = served_by.name if served_by is not None else ""
        if not job.attempts and not self.fleet.offers(job.model):
            job.model = UNKNOWN  # what strangers make up is no label and no text of ours
        self.meters.end(job, name, now, int(prompt), int(output))
        if self.recorder is not None:
            self.recorder.add(job, name, now, int(prompt), int(output), self.decisions.name)
        if self.settings.written.log.requests:
            self.log.info(
                "request",
                id=job.id,
                tenant=job.tenant.name,
                model=job.model,
                path=job.path,
                backend=name,
                status=job.status,
                outcome=job.outcome,
                attempts=job.attempts,
                waited=_round(job.dispatched - job.release),
                ttft=_round(job.first_byte - job.release),
                seconds=_round(now - job.release),
                prompt_tokens=int(prompt),
                output_tokens=int(output),
            )

    def cut_slow_clients(self) -> None:
        """Hang up on clients that have not taken a piece of their answer for too long: their backends' slots are wanted."""
        since = self.clock() - self.settings.written.timeouts.client
        backends = (*self.fleet.backends.values(), *self.fleet.leaving)
        for job in (*self.answering, *(job for each in backends for job in each.outstanding.values())):
            if job.writing < since and isinstance(job.transport, asyncio.Transport):
                self.log.often("slow client cut", request=job.id, tenant=job.tenant.name)
                job.transport.abort()

    @property
    def outstanding(self) -> int:
        """Requests at backends, and answers on their way to clients."""
        return self.fleet.outstanding + len(self.answering)

    @property
    def ready(self) -> bool:
        """Whether a request could be served now."""
        now = self.clock()
        return not self.draining and any(each.usable(now) for each in self.fleet.backends.values())

    def drain(self) -> None:
        """No more requests: those that wait are sent home, those that are served are finished."""
        self.draining = True
        self.line.refuse_all(Problem(503, "the router is shutting down", code="draining", retry_after=1.0))


def _round(seconds: float) -> float | None:
    return None if seconds != seconds else round(seconds, 6)
