"""Conservation, cases by hand and the honesty of questions; `test_twin_fleet` and `test_twin_asked` compare with a slow simulator."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.decisions import Order, Place
from rota.kernel.errors import PolicyError
from rota.kernel.tables import Column, FloatColumn, Jobs
from rota.rules import ORDERS, PLACES
from rota.worlds.serving.batching import BatchRules, Engine
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.metrics import outcomes, series, summarise
from rota.worlds.serving.model import Workload, make_workload
from rota.worlds.serving.policies import BATCHERS
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.timing import build

LINEAR = {"constant": 0.011, "prefill_tokens": 0.0013, "decodes": 0.0007, "decode_context": 0.00003}


def timing() -> Any:
    return build({"linear": LINEAR}, model("llama-3-8b"), gpu("a100-80g"), 1, Path())


def replica(rules: BatchRules, **settings: int) -> Replica:
    shape = {"kv_blocks": 12, "block_tokens": 4, "max_running": 4, "context_limit": 64} | settings
    return Replica("tiny", rules=rules, timing=timing(), prefill_rate=0.001, decode_rate=0.01, **shape)


def rules_of(name: str, budget: int = 16) -> BatchRules:
    parameters: dict[str, dict[str, Any]] = {
        "sarathi": {"chunk_tokens": 8, "watermark": 0.0},
        "vllm_v0": {"watermark": 0.1},
    }
    return BATCHERS[name](**parameters.get(name, {})).rules(Engine(12, 4, 4, budget, 24))


def simulate(
    work: Workload, fleet: list[Replica], order: str = "fcfs", route: str = "round_robin", **more: Any
) -> Simulation:
    roles = Roles(ORDERS[order](), PLACES[route](), ORDERS["fcfs"](), more.pop("victim", None))
    roles.route.bind(np.random.default_rng(1))
    run = Simulation(work, fleet, roles, **more)
    run.run()
    return run


requests = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 20), st.integers(1, 16), st.integers(0, 2)), min_size=1, max_size=14
)


def workload(rows: list[tuple[int, int, int, int]]) -> Workload:
    rows = sorted(rows, key=lambda row: row[0])
    time, prompt, output, priority = (np.array(column) for column in zip(*rows, strict=True))
    return make_workload(time * 0.0625, prompt, output, priority=priority)


@pytest.mark.parametrize(("name", "displaced"), [("vllm_v0", [0, 1]), ("sarathi", [0, 1]), ("vllm_v1", [0, 0])])
def test_a_decode_that_needs_no_block_finds_a_spare_one(name: str, displaced: list[int]) -> None:
    """Four blocks of 4 tokens. Both prompts are computed and hold 1 and 2 blocks. In the next iteration the first takes the last free block for its
    fifth token, and the second needs none for its seventh: vLLM 0.2 and Vidur displace it all the same.
    """
    work = make_workload(np.array([0.0, 0.0]), np.array([4, 6]), np.array([2, 4]))
    rules = replace(rules_of(name), watermark_blocks=0, budget=16)
    run = simulate(work, [replica(rules, kv_blocks=4)])
    assert run.jobs[at.PREEMPTIONS].tolist() == displaced
    assert outcomes(run, Slo())["status"].tolist() == ["finished", "finished"]


def test_one_decode_alone_fills_the_cache() -> None:
    """The last block is taken and nobody else runs: there is nobody to make room for, and it goes on."""
    rules = replace(rules_of("vllm_v0"), watermark_blocks=0)
    run = simulate(make_workload(np.array([0.0]), np.array([4]), np.array([5])), [replica(rules, kv_blocks=2)])
    assert run.jobs[at.PREEMPTIONS].tolist() == [0]
    assert outcomes(run, Slo())["status"].tolist() == ["finished"]


@pytest.mark.parametrize("name", list(BATCHERS))
@given(rows=requests)
def test_together_equals_apart(name: str, rows: list[tuple[int, int, int, int]]) -> None:
    """Running each replica up to the next arrival gives the same as going through all events in order of time."""
    work = workload(rows)

    def run(together: bool) -> Simulation:
        roles = Roles(ORDERS["fcfs"](), PLACES["least_outstanding"](), ORDERS["fcfs"]())
        made = Simulation(work, [replica(rules_of(name))] * 3, roles, work.output_tokens.astype(np.float64))
        if together:
            made.state[at.GLOBAL] = 1
            made._entries()
        made.run()
        return made

    apart, whole = run(False), run(True)
    assert np.array_equal(apart.seconds, whole.seconds, equal_nan=True)
    assert np.array_equal(apart.jobs[at.HOST], whole.jobs[at.HOST])


@pytest.mark.parametrize("caching", [False, True])
@given(rows=requests)
def test_nothing_is_lost(caching: bool, rows: list[tuple[int, int, int, int]]) -> None:
    """At the end every block is free again, every request is finished or rejected, times are in order."""
    work = workload(rows)
    fleet = [Replica(**{**replica(rules_of("vllm_v1")).__dict__, "prefix_caching": caching})] * 2
    run = simulate(work, fleet, route="least_outstanding")
    assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    assert not run.hosts[:, [at.QUEUED_COUNT, at.RUNNING_COUNT, at.DECODES, at.CONTEXT_SUM]].any()
    done = run.jobs[at.STATE] == at.FINISHED_STATE
    assert (done | (run.jobs[at.STATE] == at.REJECTED)).all()
    times = run.seconds[[at.ARRIVAL, at.DISPATCHED, at.SCHEDULED, at.FIRST_TOKEN, at.FINISH]][:, done]
    assert (np.diff(times, axis=0) >= 0).all()
    assert not run.clocks[:, [at.WAITING_PROMPT, at.WAITING_ANSWER]].any()


def test_when_the_clock_begins_changes_nothing() -> None:
    """Traces in Unix seconds: rates, shares of time and series count from the first arrival."""
    rows = [(k, 9, 5, 0) for k in range(40)]
    work = workload(rows)
    later = make_workload(work.arrival + 2.0**20, work.prompt_tokens, work.output_tokens)
    found = []
    for each in (work, later):
        run = simulate(each, [replica(rules_of("vllm_v1"))])
        metrics = summarise(run, outcomes(run, Slo()))
        found.append((metrics, series(run)))
    for name in ("makespan", "throughput_tokens", "goodput", "compute_utilisation", "kv_utilisation"):
        assert found[1][0][name] == pytest.approx(found[0][0][name], rel=1e-6), name
    assert found[1][1]["time"] - 2.0**20 == pytest.approx(found[0][1]["time"], abs=1e-6)
    assert found[1][1]["running"] == pytest.approx(found[0][1]["running"], abs=1e-4)


def test_scaling_time_scales_results() -> None:
    rows = [(k, 3 + k % 5, 2 + k % 7, 0) for k in range(12)]
    work, engine = workload(rows), replica(rules_of("vllm_v1"))
    twice = build(
        {"linear": {name: 2 * value for name, value in LINEAR.items()}}, model("llama-3-8b"), gpu("a100-80g"), 1, Path()
    )
    slower = make_workload(2 * work.arrival, work.prompt_tokens, work.output_tokens)
    first = simulate(work, [engine])
    second = simulate(slower, [Replica(**{**engine.__dict__, "timing": twice})])
    assert np.array_equal(2 * first.seconds[at.FINISH], second.seconds[at.FINISH])


def test_by_hand() -> None:
    """Two requests, vllm_v1, budget 4: an iteration costs 1 s and 1 s more for each prompt token."""
    clock = build({"linear": {"constant": 1.0, "prefill_tokens": 1.0}}, model("llama-3-8b"), gpu("a100-80g"), 1, Path())
    engine = Replica("hand", 100, 4, 4, 64, BatchRules(budget=4, chunked=True), clock)
    work = make_workload(np.array([0.0, 1.0]), np.array([3, 5]), np.array([2, 1]))
    run = simulate(work, [engine])
    # 0..4: prompt of the first (3 tokens). 4..8: its second token and 3 tokens of the second prompt. 8..11: the last 2 tokens.
    assert run.seconds[at.FIRST_TOKEN].tolist() == [4.0, 11.0]
    assert run.seconds[at.FINISH].tolist() == [8.0, 11.0]


class Keys(Order):
    """Answers whatever it is told."""

    reads = ("prompt_tokens",)

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        found: FloatColumn = self.answer(jobs)
        return found


@pytest.mark.parametrize("answer", [lambda jobs: jobs.prompt_tokens * np.nan, lambda jobs: np.zeros(len(jobs) + 1)])
def test_an_answer_that_is_none_is_an_error(answer: Any) -> None:
    roles = Roles(Keys(answer), PLACES["round_robin"](), ORDERS["fcfs"]())
    with pytest.raises(PolicyError, match="Keys: keys at"):
        Simulation(workload([(0, 3, 3, 0)] * 3), [replica(rules_of("vllm_v1"))], roles).run()


def test_a_job_that_may_never_go_stays_unfinished() -> None:
    roles = Roles(
        Keys(lambda jobs: np.where(jobs.prompt_tokens > 4, np.inf, 0.0)), PLACES["round_robin"](), ORDERS["fcfs"]()
    )
    run = Simulation(workload([(0, 3, 3, 0), (0, 9, 3, 0)]), [replica(rules_of("vllm_v1"))], roles)
    run.run()
    assert np.isnan(run.seconds[at.FINISH]).tolist() == [False, True]


@pytest.mark.parametrize("order", list(ORDERS))
def test_hidden_columns_change_no_answer_before_they_are_revealed(order: str) -> None:
    """Other output lengths among requests that none has finished: the same decisions up to the first end of a request."""
    rows = [(k // 2, 2 + (5 * k) % 7, 3 + k % 5, k % 3) for k in range(14)]
    work = workload(rows)
    other = make_workload(work.arrival, work.prompt_tokens, np.roll(work.output_tokens, 5), priority=work.priority)
    policy = ORDERS[order]()
    if {"size", "remaining"} & set(policy.reads):
        pytest.skip(f"{order} needs sizes: it does not apply where they are hidden")
    hidden = Column("output_tokens", "tokens", quality="hidden")
    runs = []
    for each in (work, other):
        roles = Roles(ORDERS[order](), PLACES["least_outstanding"](), ORDERS["fcfs"]())
        roles.order.bind(np.random.default_rng(3))
        run = Simulation(each, [replica(rules_of("vllm_v1"))] * 2, roles, None, hidden)
        run.run()
        runs.append(run)
    end = min(float(np.nanmin(run.seconds[at.FINISH])) for run in runs)
    for slot in (at.SCHEDULED, at.FIRST_TOKEN):
        early = [np.where(run.seconds[slot] < end, run.seconds[slot], np.nan) for run in runs]
        assert np.array_equal(*early, equal_nan=True)


def test_closed_loops_keep_the_number_in_flight() -> None:
    rows = [(0, 2 + k % 5, 2 + k % 6, 0) for k in range(20)]
    run = simulate(workload(rows), [replica(rules_of("vllm_v1"))], concurrency=3, think=np.full(20, 0.25))
    start, end = run.seconds[at.ARRIVAL], run.seconds[at.FINISH]
    assert not np.isnan(end).any()
    for moment in start:
        assert ((start <= moment) & (end > moment)).sum() <= 3
    issued = np.sort(start)[3:]
    assert np.allclose(issued, np.sort(end)[: len(issued)] + 0.25)


def test_a_full_replica_makes_requests_wait_at_the_router() -> None:
    engine = Replica(**{**replica(rules_of("vllm_v1")).__dict__, "max_outstanding": 1})
    run = simulate(workload([(0, 3, 4, 0)] * 4), [engine] * 2, route="least_outstanding")
    start, end = run.seconds[at.DISPATCHED], run.seconds[at.FINISH]
    assert (start[:2] == 0).all()
    assert np.array_equal(np.sort(start[2:]), np.sort(end[:2]))


def test_a_route_in_python_equals_its_column() -> None:
    class Asked(Place):
        reads = ("outstanding",)

        def costs(self, jobs: Any, hosts: Any, now: float) -> FloatColumn:
            return np.asarray(hosts.outstanding, np.float64)

    work = workload([(k, 3 + k % 4, 2 + k % 5, 0) for k in range(20)])
    fleet = [replica(rules_of("vllm_v1"))] * 3
    plain = simulate(work, fleet, route="least_outstanding")
    roles = Roles(ORDERS["fcfs"](), Asked(), ORDERS["fcfs"]())
    asked = Simulation(work, fleet, roles)
    asked.run()
    assert asked.questions.place == len(work)
    assert np.array_equal(plain.seconds, asked.seconds, equal_nan=True)


@given(rows=requests)
def test_progress_adds_up_to_the_answers(rows: list[tuple[int, int, int, int]]) -> None:
    """Tokens that a policy was told of: never more than there are, all of them at the end, and before the request is finished."""

    class Watching(ORDERS["fcfs"]):  # type: ignore[misc]
        asked = "decision"

        def __init__(self) -> None:
            self.tokens: dict[int, float] = {}
            self.calls = 0

        def on_progress(self, jobs: Any, deltas: Any, now: float) -> None:
            self.calls += 1
            assert (deltas > 0).all()
            for job, delta in zip(jobs.tolist(), deltas.tolist(), strict=True):
                self.tokens[job] = self.tokens.get(job, 0.0) + delta

        def on_finish(self, job: int, host: int, now: float) -> None:
            assert self.tokens[job] == work.output_tokens[job]

    work, policy = workload(rows), Watching()
    run = Simulation(
        work, [replica(rules_of("vllm_v1"))], Roles(policy, PLACES["least_outstanding"](), ORDERS["fcfs"]())
    )
    run.run()
    done = run.jobs[at.STATE] == at.FINISHED_STATE
    assert sum(policy.tokens.values()) == work.output_tokens[done].sum()
