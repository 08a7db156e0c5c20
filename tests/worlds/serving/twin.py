"""One small case, run by the simulator and by its slow twin, and compared to the bit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rota.kernel.decisions import Order, Place
from rota.kernel.tables import FloatColumn, Hosts, Jobs
from rota.rules import ORDERS, PLACES
from rota.rules.balance import LeastWork
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import Workload
from rota.worlds.serving.policies import KvRouter
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.slow import Key, Pool, Ranking, Request
from tests.worlds.serving.slow_cache import CachingPool
from tests.worlds.serving.slow_fleet import (
    Cost,
    SlowFleet,
    kv_router,
    missing,
    no_cost,
    outstanding,
    queued,
    tokens,
    work,
)

COSTS: dict[str, Cost] = {
    "round_robin": no_cost,
    "random": no_cost,
    "least_outstanding": outstanding,
    "power_of_two": outstanding,
    "least_queued": queued,
    "least_work": work,
    "least_tokens": tokens,
    "asked_work": work,
    "asked_tokens": tokens,
    "kv_router": kv_router,
    "asked_missing": missing,
}


class Asked(Place):
    """The same column, but asked for in Python."""

    def __init__(self, column: str) -> None:
        self.reads = (column,)

    def costs(self, job: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        return np.asarray(getattr(hosts, self.reads[0]), np.float64)


MADE: dict[str, Callable[[], Place]] = {
    "least_tokens": lambda: LeastWork(by="outstanding_tokens"),
    "asked_work": lambda: Asked("work"),
    "asked_tokens": lambda: Asked("outstanding_tokens"),
    "kv_router": KvRouter,
    "asked_missing": lambda: Asked("missing_tokens"),
}
COLUMNS = (
    "id",
    "release",
    "prompt_tokens",
    "output_tokens",
    "priority",
    "generated_tokens",
    "prefilled_tokens",
    "preemptions",
)
Formula = Callable[..., Key]  # of the columns above and the time


@dataclass
class Told(Order):
    """An order that asks a formula row by row; it can be asked whenever a test wants."""

    formula: Formula
    asked: str = "decision"  # type: ignore[misc]
    preemptive: bool = False  # type: ignore[misc]
    wakes: tuple[float, ...] = ()  # moments at which the answer changes
    reads = COLUMNS
    picks: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        if self.asked == "arrival":
            self.reads = ("id", "release", "prompt_tokens", "output_tokens", "priority")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        columns = [getattr(jobs, name) if name in self.reads else np.zeros(len(jobs)) for name in COLUMNS]
        rows = [
            self.formula(*(float(value) for value in row), now, self.picks[0]) for row in zip(*columns, strict=True)
        ]
        return np.array(rows, np.float64).reshape(len(jobs), -1)

    def ranking(self) -> Ranking:
        """The same, for the slow twin."""
        picks = [0]

        def key(r: Request, now: float) -> Key:
            moving = (r.generated, r.prefilled, r.preemptions) if self.asked != "arrival" else (0.0, 0.0, 0.0)
            return self.formula(r.number, r.arrival, r.prompt, r.size, r.priority, *moving, now, picks[0])

        def started(r: Request) -> None:
            picks[0] += 1

        def review(requests: list[Request], now: float) -> float:
            return min((moment for moment in self.wakes if moment > now), default=float("inf"))

        return Ranking(key, self.asked, self.preemptive, review, started)


class Waking(Told):
    """Names the moments at which it wants to be asked again."""

    def review(self, jobs: Jobs, now: float) -> float:
        return min((moment for moment in self.wakes if moment > now), default=float("inf"))


class Counting(Told):
    """Is told of every start."""

    def on_start(self, job: int, host: int, now: float) -> None:
        self.picks[0] += 1


@dataclass
class Served(Told):
    """Whoever has received the least service goes first, on one replica: seconds of a prompt's token and of an answer's."""

    formula: Formula = lambda *_: (0.0,)
    preemptive: bool = True  # type: ignore[misc]
    prompt_seconds: float = 2.0**-10
    answer_seconds: float = 2.0**-7

    def __post_init__(self) -> None:
        self.reads = ("attained",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return np.asarray(jobs.attained)

    def ranking(self) -> Ranking:
        def key(r: Request, now: float) -> Key:
            return (self.prompt_seconds * max(r.lost, r.prefilled) + self.answer_seconds * r.generated,)

        return Ranking(key, self.asked, self.preemptive)


FCFS = lambda: Told(lambda *_: (0.0,), "arrival")  # noqa: E731


def compare(
    workload: Workload,
    fleet: Sequence[Replica],
    order: Told,
    route: str = "round_robin",
    hold: Told | None = None,
    victim: Told | None = None,
    concurrency: int = 0,
    think: FloatColumn | None = None,
    visible: FloatColumn | None = None,
) -> Simulation:
    """Run both; raise AssertionError where they differ. `visible`: what policies know of the output lengths; by default the truth."""
    place = MADE[route]() if route in MADE else PLACES[route]()
    place.bind(np.random.default_rng(1))
    roles = Roles(order, place, hold or ORDERS["fcfs"](), victim)
    visible = workload.output_tokens.astype(np.float64) if visible is None else visible
    run = Simulation(workload, fleet, roles, visible, think=think, concurrency=concurrency)
    run.run()
    slow = slow_requests(workload)
    for each, size in zip(slow, np.nan_to_num(visible).tolist(), strict=True):
        each.size = size
    rankings = [None if told is None else told.ranking() for told in (order, hold, victim)]
    for each in slow:
        for name, told, ranking in zip(
            ("order_key", "hold_key", "victim_key"), (order, hold, victim), rankings, strict=True
        ):
            if told is not None and ranking is not None and told.asked == "arrival":
                setattr(each, name, ranking.key(each, 0.0))
    sample = place.sample(Jobs({"id": np.arange(len(workload))}), Hosts({"id": np.arange(len(fleet))}))
    twin = SlowFleet(
        fleet,
        rankings[0] or Ranking(),
        COSTS[route],
        *rankings[1:],
        None if sample is None else sample.tolist(),
        pool_of(workload),
    )
    twin.run(slow, concurrency, [] if think is None else think.tolist())
    same(run, slow)
    return run


def pool_of(workload: Workload) -> Callable[[Replica], Pool]:
    tokens = workload.prefix.block_tokens if workload.prefix is not None else 0
    return lambda replica: CachingPool(replica, tokens) if replica.prefix_caching else Pool(replica)


def slow_requests(work: Workload) -> list[Request]:
    prefix = work.prefix
    names = (
        [()] * len(work)
        if prefix is None
        else [tuple(prefix.ids[a:b].tolist()) for a, b in zip(prefix.offsets, prefix.offsets[1:], strict=False)]
    )
    rows = zip(
        work.arrival.tolist(),
        work.prompt_tokens.tolist(),
        work.output_tokens.tolist(),
        work.priority.tolist(),
        names,
        strict=True,
    )
    return [
        Request(j, arrival, prompt, output, priority, float(output), known)
        for j, (arrival, prompt, output, priority, known) in enumerate(rows)
    ]


def same(run: Simulation, slow: list[Request]) -> None:
    """Every time, place and count of every request."""
    nan = float("nan")

    def column(get: Callable[[Request], Any], nothing: float = nan) -> Any:
        return np.array([nothing if get(r) is None else get(r) for r in slow], np.float64)

    seen = {
        "host": (run.jobs[at.HOST], column(lambda r: r.host, -1)),
        "dispatched": (run.seconds[at.DISPATCHED], column(lambda r: r.dispatched)),
        "scheduled": (run.seconds[at.SCHEDULED], column(lambda r: r.scheduled)),
        "first token": (run.seconds[at.FIRST_TOKEN], column(lambda r: r.token_times[0] if r.token_times else None)),
        "finish": (run.seconds[at.FINISH], column(lambda r: r.token_times[-1] if r.generated == r.output else None)),
        "preemptions": (run.jobs[at.PREEMPTIONS], column(lambda r: r.preemptions)),
        "cached": (run.jobs[at.CACHED], column(lambda r: r.cached or 0)),
    }
    for name, (fast, expected) in seen.items():
        assert np.array_equal(np.asarray(fast, np.float64), expected, equal_nan=True), (
            f"{name}: {fast} is not {expected}"
        )
    gaps = sum(max(len(r.token_times) - 1, 0) for r in slow)
    assert run.histogram[0].sum() == gaps
    total = sum(r.token_times[-1] - r.token_times[0] for r in slow if r.token_times)
    assert np.isclose(run.histogram[1].sum(), total, rtol=1e-9, atol=1e-12)
