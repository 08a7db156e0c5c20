"""Decisions: the policy objects of the serving world, asked about live requests and engines.

The tables have the columns of the serving world, built at each question from the router's own account, which is exact and immediate, and from what engines
report, which is stale. A policy that raises or answers with something that is no answer is replaced by least outstanding for that one decision.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Order, Place, Policy, checked, hooks
from rota.kernel.errors import InputError, PolicyError, nearest
from rota.kernel.streams import generator
from rota.kernel.tables import HOST_COLUMNS, JOB_COLUMNS, Column, Hosts, Jobs
from rota.route.backend import DECODE_SECONDS, PREFILL_SECONDS, UNLIMITED, Backend
from rota.route.beliefs import PrefixIndex
from rota.route.job import Job
from rota.route.settings import Document
from rota.route.settings import Policy as PolicySettings
from rota.rules import ORDERS, PLACES
from rota.rules.balance import LeastOutstanding
from rota.rules.find import find
from rota.worlds.serving.columns import SERVING_HOST_COLUMNS, SERVING_JOB_COLUMNS
from rota.worlds.serving.policies import ROUTES, SERVING_ORDERS

FALLBACK = LeastOutstanding()
FAILURES = (Exception, SystemExit)  # of a policy: a user's file that calls exit() must not end the router
_OWN_HOST_COLUMNS = {
    "cached_tokens": Column("cached_tokens", "tokens", "tokens of this prompt that the host probably has cached"),
    "session_here": Column("session_here", "", "1 where the last request of this session went"),
}


def columns(written: Document) -> tuple[dict[str, Column], dict[str, Column]]:
    """The live columns of jobs and of hosts, with their quality."""
    stale = written.scrape.stale
    job = {**JOB_COLUMNS, **SERVING_JOB_COLUMNS}
    host = {**HOST_COLUMNS, **SERVING_HOST_COLUMNS, **_OWN_HOST_COLUMNS}

    def quality(table: dict[str, Column], names: Sequence[str], quality: Any, by: str = "", age: float = 0.0) -> None:
        for name in names:
            table[name] = Column(name, table[name].unit, table[name].meaning, quality, by, age)

    quality(job, ("prompt_tokens",), "estimated", "bytes a token, as counted by engines so far")
    quality(job, ("output_tokens", "size", "remaining"), "estimated", "mean of the tenant's last answers")
    quality(job, ("program_left",), "estimated", "sessions that were quiet for ten minutes")
    quality(host, ("work", "outstanding_tokens"), "estimated", "predicted lengths")
    quality(job, ("program_attained", "path_attained"), "estimated", "rates of the backends that served the session")
    quality(
        host,
        ("prefill_tokens", "waiting_tokens", "active_tokens", "head_blocks"),
        "estimated",
        "prompts without a first byte",
    )
    quality(host, ("cached_tokens", "missing_tokens"), "estimated", "an index of what was sent")
    quality(host, ("queued", "running", "kv_use", "free_blocks"), "stale", age=stale)
    return job, host


def build(settings: PolicySettings, folder: Path) -> tuple[Place, Order]:
    """The place and hold policies that a configuration names, made as the serving world makes them.

    Raises:
        InputError: an unknown name or parameter, a policy that does not apply to a router, a column that a router does not have.
    """
    place = find("place", settings.place, [PLACES, ROUTES], folder, "policy.place")
    hold = find("order", settings.hold, [ORDERS, SERVING_ORDERS], folder, "policy.hold")
    if not isinstance(place, Place) or not isinstance(hold, Order):
        raise InputError("policy: place must be a place and hold an order")
    for name, policy in (("policy.place", place), ("policy.hold", hold)):
        if reason := policy.supports("serving"):
            raise InputError(f"{name}: does not apply: {reason}")
    for name, reads, known in (
        ("policy.place", place.reads, _HOST_VALUES),
        ("policy.place", place.reads_job, _JOB_VALUES),
        ("policy.hold", hold.reads, _JOB_VALUES),
    ):
        for column in reads:
            if column not in known:
                raise InputError(
                    f"{name}: reads the column '{column}', which a router does not have{nearest(column, known)}"
                )
    place.bind(generator(settings.seed, "policy/route"))
    hold.bind(generator(settings.seed, "policy/hold"))
    return place, hold


@dataclass(frozen=True)
class Choice:
    """Where a request goes, None: nowhere now; the cost of each backend by name; and by whose word."""

    backend: Backend | None
    costs: dict[str, float]
    by: str
    full: tuple[str, ...] = ()  # backends at their limit, whatever their cost


@dataclass
class Situation:
    """What policies may need to see besides one backend and one job."""

    prefix: PrefixIndex
    prefix_tokens: int = 64
    reference: Backend | None = None  # whose speed `size` is measured by, as the first replica's in the world


class Decisions:
    """The policies at work. Hooks are called in the order of events, always before the next question."""

    def __init__(
        self,
        settings: PolicySettings,
        written: Document,
        folder: Path,
        situation: Situation,
        complain: Callable[[str], None],
        took: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.settings = settings
        self.place, self.hold = build(settings, folder)
        self.situation = situation
        self._complain, self._took = complain, took
        self._job_columns, self._host_columns = columns(written)
        self._hooked = {name: [p for p in (self.place, self.hold) if name in hooks(p)] for name in _HOOKS}
        self._moved: dict[int, Job] = {}
        self.asked = self.fallbacks = 0

    @property
    def name(self) -> str:
        """The place policy as configured."""
        return _spelt(self.settings.place)

    @property
    def hold_name(self) -> str:
        """The hold policy as configured."""
        return _spelt(self.settings.hold)

    @property
    def wants_blocks(self) -> bool:
        """Whether the prefix index has to be kept."""
        return bool({"cached_tokens", "missing_tokens"} & set(self.place.reads))

    @property
    def wants_progress(self) -> bool:
        """Whether a policy has to be told of the tokens that come out."""
        return bool(self._hooked["on_progress"])

    # -- questions ------------------------------------------------------------------------------------------------

    def choose(self, job: Job, backends: Sequence[Backend], now: float) -> Choice:
        """The backend for a job among those that could take it, or none where all of them are full or the policy lets it wait."""
        began = perf_counter()
        self._tell_progress(now)
        busiest = max((len(each.outstanding) for each in backends), default=0)
        open_ = [len(each.outstanding) < each.limit(now, busiest) for each in backends]
        self.asked += 1
        try:
            costs, by = self._costs(self.place, job, backends, now), self.name
        except FAILURES as error:  # whatever a policy does, the request is served
            self.fallbacks += 1
            self._complain(f"{type(self.place).__name__} failed, least outstanding decided instead: {_line(error)}")
            costs, by = self._costs(FALLBACK, job, backends, now), "least_outstanding (fallback)"
        best: tuple[float, float, int] | None = None
        chosen = None
        for backend, cost, free in zip(backends, costs, open_, strict=True):
            key = (float(cost), backend.turns, backend.id)
            if free and cost != math.inf and (best is None or key < best):
                best, chosen = key, backend
        self._took(perf_counter() - began)
        full = tuple(each.name for each, free in zip(backends, open_, strict=True) if not free)
        return Choice(chosen, {each.name: float(cost) for each, cost in zip(backends, costs, strict=True)}, by, full)

    def _costs(self, place: Place, job: Job, backends: Sequence[Backend], now: float) -> npt.NDArray[np.float64]:
        hosts: dict[str, npt.NDArray[Any]] = {
            name: np.array([_HOST_VALUES[name](each, job, now, self.situation) for each in backends], _type(name))
            for name in place.reads
        }
        jobs = self._jobs(place.reads_job, [job])
        costs = checked(
            place.costs(jobs, Hosts(hosts, self._host_columns.values(), rows=len(backends)), now),
            (len(backends),), place, "costs", now,
        )  # fmt: skip
        if costs.ndim != 1:
            raise PolicyError(
                f"{type(place).__name__}: costs of one job have shape {costs.shape}, expected ({len(backends)},)"
            )
        return costs

    def order(self, waiting: Sequence[Job], now: float) -> list[Job]:
        """The waiting jobs, the next one first; those whose key is inf are not in it."""
        self._tell_progress(now)
        try:
            jobs = self._jobs(self.hold.reads, waiting)
            keys = checked(self.hold.keys(jobs, now), (len(waiting),), self.hold, "keys", now)
        except FAILURES as error:
            self.fallbacks += 1
            self._complain(f"{type(self.hold).__name__} failed, first come first served instead: {_line(error)}")
            return sorted(waiting, key=lambda job: (job.release, job.id))
        rows = keys.reshape(len(waiting), -1).tolist()
        ranked = sorted(zip(rows, waiting, strict=True), key=lambda pair: (pair[0], pair[1].release, pair[1].id))
        return [job for row, job in ranked if row[0] != math.inf]

    def _jobs(self, reads: Sequence[str], jobs: Sequence[Job]) -> Jobs:
        host = self.situation.reference
        values: dict[str, npt.NDArray[Any]] = {
            name: np.array([_JOB_VALUES[name](job, host) for job in jobs], _type(name)) for name in reads
        }
        return Jobs(values, self._job_columns.values(), rows=len(jobs))

    # -- hooks ----------------------------------------------------------------------------------------------------

    def tell(self, hook: str, *what: Any) -> None:
        """Call a hook of every policy that has it; a hook that raises is logged and does no harm."""
        for policy in self._hooked[hook]:
            self._call(policy, hook, *what)

    def progressed(self, job: Job) -> None:
        """Tokens of a job came out; policies are told before the next question."""
        self._moved[job.id] = job

    def _tell_progress(self, now: float) -> None:
        if self._moved:
            jobs = [job for job in self._moved.values() if job.generated > job.told]
            self._moved.clear()
            if jobs:
                ids = np.array([job.id for job in jobs])
                deltas = np.array([float(job.generated - job.told) for job in jobs])
                for job in jobs:
                    job.told = job.generated
                self.tell("on_progress", ids, deltas, now)

    def _call(self, policy: Policy, hook: str, *what: Any) -> None:
        try:
            getattr(policy, hook)(*what)
        except FAILURES as error:
            self._complain(f"{type(policy).__name__}.{hook} failed: {_line(error)}")


def _spelt(spec: Any) -> str:
    if isinstance(spec, str):
        return spec
    [(name, parameters)] = spec.items()
    inside = ", ".join(f"{key}={value}" for key, value in (parameters or {}).items())
    return f"{name}({inside})" if inside else str(name)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:500]


def _type(name: str) -> type:
    return np.int64 if name in ("id", "session", "tenant", "program") else np.float64


_HOOKS = ("on_arrival", "on_start", "on_progress", "on_preempt", "on_finish", "on_leave", "on_refresh", "on_host")


def _size(job: Job, host: Backend | None) -> float:
    prefill, decode = host.rates() if host is not None else (PREFILL_SECONDS, DECODE_SECONDS)
    return job.prompt_tokens * prefill + job.output_tokens * decode


_JOB_VALUES: dict[str, Callable[[Job, Backend | None], float]] = {
    "id": lambda job, host: job.id,
    "release": lambda job, host: job.release,
    "size": _size,
    "attained": lambda job, host: 0.0,
    "remaining": _size,
    "priority": lambda job, host: job.priority,
    "due": lambda job, host: job.due,
    "weight": lambda job, host: job.tenant.settings.weight,
    "tenant": lambda job, host: job.tenant.index,
    "prompt_tokens": lambda job, host: job.prompt_tokens,
    "output_tokens": lambda job, host: job.output_tokens,
    "generated_tokens": lambda job, host: 0.0,
    "prefilled_tokens": lambda job, host: 0.0,
    "running": lambda job, host: 0.0,
    "preemptions": lambda job, host: float(max(job.attempts - 1, 0)),
    "session": lambda job, host: job.session,
    "program": lambda job, host: job.session if job.session >= 0 else -1 - job.id,
    "program_release": lambda job, host: job.program.release,
    "program_attained": lambda job, host: job.program.attained,
    "program_left": lambda job, host: job.program.left,
    "path_attained": lambda job, host: job.path_attained,
}


def _kv_use(host: Backend, now: float) -> float:
    seen = host.fresh(now)
    return seen.kv_use if seen is not None and seen.kv_use is not None else 0.0


def _free_blocks(host: Backend, now: float) -> float:
    seen = host.fresh(now)
    blocks = host.settings.kv_blocks or (seen.kv_blocks if seen is not None else None) or float(UNLIMITED)
    return blocks * (1.0 - _kv_use(host, now))


def _cached(host: Backend, job: Job, seen: Situation) -> float:
    return min(seen.prefix_tokens * seen.prefix.match(host.id, job.blocks), job.prompt_tokens)


def _head_blocks(host: Backend, now: float, block_tokens: int) -> float:
    """Blocks for the prompt of who waits longest: of those without a first byte the last ones are in the line, as engines take them in turn."""
    waiting = [each for each in host.outstanding.values() if each.first_byte != each.first_byte]
    queued = min(int(host.queued(now)), len(waiting))
    return float(-(-waiting[-queued].prompt_tokens // block_tokens)) if queued > 0 else 0.0


def _prefill_tokens(host: Backend) -> float:
    """Prompts without a first byte of their answer: how far a chunked prefill has come is not seen from here."""
    return sum(each.prompt_tokens for each in host.outstanding.values() if each.first_byte != each.first_byte)


_HOST_VALUES: dict[str, Callable[[Backend, Job, float, Situation], float]] = {
    "id": lambda host, job, now, seen: host.id,
    "queued": lambda host, job, now, seen: host.queued(now),
    "running": lambda host, job, now, seen: host.count() - host.queued(now),
    "outstanding": lambda host, job, now, seen: host.count(),
    "work": lambda host, job, now, seen: sum(host.seconds(each) for each in host.outstanding.values()),
    "speed": lambda host, job, now, seen: host.settings.weight,
    "decisions": lambda host, job, now, seen: host.turns,
    "outstanding_tokens": lambda host, job, now, seen: sum(each.tokens_left for each in host.outstanding.values()),
    "kv_use": lambda host, job, now, seen: _kv_use(host, now),
    "free_blocks": lambda host, job, now, seen: _free_blocks(host, now),
    "max_running": lambda host, job, now, seen: host.settings.max_running,
    "prefill_tokens": lambda host, job, now, seen: _prefill_tokens(host),
    "waiting_tokens": lambda host, job, now, seen: _prefill_tokens(host),
    "head_blocks": lambda host, job, now, seen: _head_blocks(host, now, seen.prefix_tokens),
    "active_tokens": lambda host, job, now, seen: sum(
        each.prompt_tokens + each.generated for each in host.outstanding.values()
    ),
    "cached_tokens": lambda host, job, now, seen: _cached(host, job, seen),
    "missing_tokens": lambda host, job, now, seen: job.prompt_tokens - _cached(host, job, seen),
    "up": lambda host, job, now, seen: float(host.usable(now)),
    "block_tokens": lambda host, job, now, seen: seen.prefix_tokens,
    "session_here": lambda host, job, now, seen: float(job.program.backend == host.id),
}
