"""The gate equals its slow twin, sheds what the rules say, and every policy at it does what its source says."""

import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.errors import InputError, PolicyError
from rota.kernel.tables import HOST_COLUMNS, JOB_COLUMNS, FloatColumn, Hosts, Jobs
from rota.rules import ORDERS, PLACES
from rota.study.runner import run_study
from rota.study.scenario import parse
from rota.study.statistics import league
from rota.worlds.serving.admission import COMES_IN, SHED, Admit
from rota.worlds.serving.columns import SERVING_HOST_COLUMNS, SERVING_JOB_COLUMNS
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.metrics import outcomes, series, summarise
from rota.worlds.serving.model import Workload, make_workload
from rota.worlds.serving.policies import ADMITS
from rota.worlds.serving.policies.dagor import Dagor, user_priority
from rota.worlds.serving.policies.early_rejection import EarlyRejection
from rota.worlds.serving.policies.queue_limit import LowestFirst, QueueLimit
from rota.worlds.serving.policies.token_bucket import TokenBucket
from rota.worlds.serving.replica import Roles
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.verify import verify
from tests.worlds.serving.slow import Ranking
from tests.worlds.serving.slow_fleet import outstanding
from tests.worlds.serving.slow_gate import Buckets, GatedFleet, Verdict, limited, lowest, rejecting
from tests.worlds.serving.test_twin_fleet import replica
from tests.worlds.serving.twin import pool_of, same, slow_requests

Rows = list[tuple[int, int, int, int, int, int]]
rows_of_requests = st.lists(
    st.tuples(
        *(st.integers(0, 30), st.integers(1, 20), st.integers(1, 16), st.integers(0, 2)),
        *(st.integers(0, 1), st.integers(1, 12)),
    ),
    min_size=1,
    max_size=16,
)


def workload(rows: Rows) -> Workload:
    """Arrivals in sixteenths of a second; limits of the first token in 128ths."""
    rows = sorted(rows, key=lambda row: row[0])
    time, prompt, output, priority, tenant, limit = (np.array(column) for column in zip(*rows, strict=True))
    return make_workload(
        *(time * 0.0625, prompt, output),
        priority=priority,
        tenant=tenant,
        tenants=("a", "b"),
        ttft_limit=limit * 0.0078125,
    )


def compare(
    work: Workload, admit: Admit, verdict: Verdict, most: int = 3, replicas: int = 2, concurrency: int = 0
) -> Simulation:
    fleet = [replica("vllm_v1", 1.0 + 0.5 * k, max_outstanding=most) for k in range(replicas)]
    roles = Roles(ORDERS["fcfs"](), PLACES["least_outstanding"](), ORDERS["fcfs"](), admit=admit)
    visible = work.output_tokens.astype(np.float64)
    think = np.zeros(len(work)) if concurrency else None
    run = Simulation(work, fleet, roles, visible, think=think, concurrency=concurrency)
    run.run()
    twin = GatedFleet(fleet, Ranking(), outstanding, pool=pool_of(work))
    twin.gate(verdict)
    slow = slow_requests(work)
    twin.run(slow, concurrency, [0.0] * len(work) if concurrency else [])
    same(run, slow)
    assert np.flatnonzero(run.jobs[at.STATE] == at.SHED).tolist() == sorted(twin.shed)
    assert int(run.state[at.FINISHED]) == len(work)
    rows = outcomes(run, Slo())
    assert not verify(work, fleet, rows, summarise(run, rows), series(run), float(run.clock[at.BIN_SECONDS]), True)
    return run


@given(rows=rows_of_requests, limit=st.integers(1, 4))
def test_queue_limit_equals_its_twin(rows: Rows, limit: int) -> None:
    compare(workload(rows), QueueLimit(limit), limited(limit))


@given(rows=rows_of_requests, limit=st.integers(1, 4), users=st.integers(1, 6))
def test_in_a_closed_loop_a_shed_request_lets_its_user_go_on(rows: Rows, limit: int, users: int) -> None:
    compare(workload(rows), QueueLimit(limit), limited(limit), concurrency=users)


@given(rows=rows_of_requests, limit=st.integers(1, 5))
def test_lowest_first_equals_its_twin(rows: Rows, limit: int) -> None:
    run = compare(workload(rows), LowestFirst(limit), lowest(limit), most=1)
    shed = run.jobs[at.STATE] == at.SHED
    assert not np.isfinite(run.seconds[at.DISPATCHED, shed]).any()


@pytest.mark.parametrize("over", ["shed", "defer"])
@given(rows=rows_of_requests)
def test_token_buckets_equal_their_twin(over: Any, rows: Rows) -> None:
    work = workload(rows)
    tenant = work.tenant.tolist()
    twin = Buckets(16.0, 32.0, 4.0, over == "defer", tenant, [1.0] * len(work))
    compare(work, TokenBucket(16.0, 32.0, 4.0, over), twin)


@given(rows=rows_of_requests)
def test_early_rejection_equals_its_twin(rows: Rows) -> None:
    work = workload(rows)
    compare(work, EarlyRejection(window=0.5), rejecting(work.ttft_limit.tolist(), 0.5), most=100)


# -- what is said of policies -------------------------------------------------------------------------------------


def tables(admit: Admit, jobs: int, hosts: int, seed: int) -> tuple[Jobs, Hosts]:
    rng = np.random.default_rng(seed)
    known_jobs, known_hosts = {**JOB_COLUMNS, **SERVING_JOB_COLUMNS}, {**HOST_COLUMNS, **SERVING_HOST_COLUMNS}
    job = {name: rng.integers(1, 50, jobs) for name in admit.reads_job if name in known_jobs}
    host = {name: rng.integers(0, 50, hosts) for name in admit.reads if name in known_hosts}
    if "id" in job:
        job["id"] = rng.permutation(64)[:jobs]
    assert set(job) == set(admit.reads_job)
    assert set(host) == set(admit.reads)
    return Jobs(job, known_jobs.values(), rows=jobs), Hosts(host, known_hosts.values(), rows=hosts)


@pytest.mark.parametrize("name", ADMITS)
@given(jobs=st.integers(0, 5), hosts=st.integers(1, 4), seed=st.integers(0, 1000))
def test_every_policy_keeps_the_rules(name: str, jobs: int, hosts: int, seed: int) -> None:
    """It reads what it declares, answers legal numbers, the same twice and in a copy, and its hooks stand any job."""
    admit = ADMITS[name]()
    admit.bind(np.random.default_rng(0))
    assert admit.supports("serving") is None
    for now in (1.0, 2.0):
        shown = tables(admit, jobs if admit.whole_line else min(jobs, 1), hosts, seed)
        first = admit.verdicts(*shown, now)
        assert first.shape == (len(shown[0]),)
        assert all(each in (COMES_IN, SHED) or each > now for each in first.tolist())
        for other in (admit, deepcopy(admit), pickle.loads(pickle.dumps(admit))):
            assert np.array_equal(other.verdicts(*shown, now), first)
        if len(first) and "id" in admit.reads_job:
            admit.on_admit(int(shown[0].id[0]), now)
            admit.on_start(int(shown[0].id[0]), 0, now)
        admit.on_finish(0, 0, now)
        admit.on_leave(63, "shed", now)


class Wrong(Admit):
    def __init__(self, answer: Callable[[float], Any]) -> None:
        self.answer = answer

    def verdicts(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        return np.asarray(self.answer(now))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda now: [np.nan], "contain NaN"),
        (lambda now: [0.0, 0.0], r"shape \(2,\)"),
        (lambda now: [now], "must be 0, inf or"),
        (lambda now: [-1.0], "must be 0, inf or"),
    ],
)
def test_a_wrong_verdict_is_told(answer: Callable[[float], Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        compare(workload([(3, 4, 2, 0, 0, 1)]), Wrong(answer), limited(10))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QueueLimit(0), "at least 1, found 0"),
        (lambda: TokenBucket(rate=0.0), "above 0"),
        (lambda: EarlyRejection(window=0.0), "above 0"),
        (lambda: Dagor(alpha=1.0), "alpha in"),
    ],
)
def test_wrong_parameters(make: Callable[[], Admit], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def ask(admit: Admit, now: float, **jobs: Any) -> list[float]:
    job = {name: np.atleast_1d(np.asarray(jobs.get(name, 0))) for name in admit.reads_job}
    return admit.verdicts(Jobs(job, JOB_COLUMNS.values(), rows=1), Hosts({}, rows=1), now).tolist()


def test_a_bucket_is_hand_calculated() -> None:
    """10 tokens a second, 30 at most: 25 leave 5, a second later there are 15, so 20 more come half a second after that."""
    bucket = TokenBucket(10.0, 30.0, 0.0, "defer")
    assert ask(bucket, 0.0, id=1, prompt_tokens=25, weight=1.0) == [COMES_IN]
    bucket.on_admit(1, 0.0)
    assert ask(bucket, 1.0, id=2, prompt_tokens=20, weight=1.0) == [1.5]
    bucket.on_defer(2, 1.5, 1.0)
    assert ask(bucket, 1.0, id=3, prompt_tokens=10, weight=1.0) == [2.5]  # behind the one that waits
    assert ask(bucket, 1.5, id=2, prompt_tokens=20, weight=1.0) == [COMES_IN]
    assert ask(bucket, 1.0, id=4, prompt_tokens=60, weight=3.0, tenant=1) == [COMES_IN]  # a bucket of its own, 90 large


def test_dagor_moves_its_level_as_published() -> None:
    """100 requests of four priorities wait too long: 95 of them may come in, then 5 % fewer each window, until the wait is short again."""
    dagor = Dagor(threshold=0.1, window=1.0)
    levels = []
    for second in range(4):
        for k in range(100):
            now, job = second + k / 100, 100 * second + k
            inside = ask(dagor, now, id=job, priority=k % 4, tenant=k // 4, session=-1) == [COMES_IN]
            if inside:
                dagor.on_admit(job, now)
                dagor.on_start(job, 0, now + (0.5 if second < 3 else 0.0))
            else:
                dagor.on_leave(job, "shed", now)
        ask(dagor, second + 1.0, id=10_000 + second, priority=0, tenant=0, session=-1)
        dagor.on_admit(10_000 + second, second + 1.0)
        levels.append(dagor._level)
    counts = sorted((k % 4, user_priority(k // 4, 0.0)) for k in range(100))
    assert levels[0] is not None
    assert sum(each <= levels[0] for each in counts) in (94, 95)
    assert levels[1] is not None
    assert levels[1] < levels[0]
    assert levels[3] is not None
    assert levels[2] is not None
    assert levels[3] >= levels[2]  # without overload it opens again


def test_early_rejection_sheds_what_would_miss_and_nothing_else() -> None:
    """Sixteen requests at once before four slots, after some have ended: those far behind are told at once."""
    rows = [(0, 4, 2, 0, 0, 12)] * 4 + [(3, 4, 8, 0, 0, 12)] * 16
    work = workload(rows)
    run = compare(work, EarlyRejection(), rejecting(work.ttft_limit.tolist(), 10.0), most=100, replicas=1)
    shed = run.jobs[at.STATE] == at.SHED
    assert shed[8:].all()
    assert not shed[:8].any()
    rest = Simulation(work, run.replicas, Roles(ORDERS["fcfs"](), PLACES["least_outstanding"](), ORDERS["fcfs"]()))
    rest.run()
    waits = rest.seconds[at.FIRST_TOKEN] - rest.seconds[at.ARRIVAL]
    assert (waits[shed] > work.ttft_limit[shed]).all()  # they would have missed
    assert (waits[~shed] <= work.ttft_limit[~shed]).all()


@pytest.mark.parametrize("objective", ["ttft_mean", "goodput_share"])
def test_who_sheds_has_no_rank_unless_everybody_is_counted(objective: str, tmp_path: Path) -> None:
    document = {
        "world": "serving",
        "workload": {"generate": {"kind": "burst", "requests": 400, "rate": 60.0, "variation": "none"}},
        "fleet": [{"model": "llama-3-8b", "gpu": "a100-80g", "max_running": 32}],
        "slo": {"ttft": 1.0},
        "policies": [{"name": "all"}, {"name": "some", "admit": {"queue_limit": {"limit": 40}}}],
        "objective": objective,
        "seeds": 2,
    }
    rows = {row.policy: row for row in league(run_study(parse(document, tmp_path), tmp_path / "out"))}
    if objective == "goodput_share":
        assert rows["some"].rank == 1
        assert rows["all"].rank == 2
    else:
        assert rows["some"].rank is None
        assert "left out" in rows["some"].unranked
