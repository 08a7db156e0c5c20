"""Ended requests whose KV is kept: as the slow twin does it, with programs, by Continuum's formula; nothing waits for ever for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.errors import InputError, PolicyError
from rota.kernel.tables import FloatColumn, Jobs
from rota.rules import ORDERS, PLACES
from rota.study.scenario import parse
from rota.worlds.serving.columns import SERVING_JOB_COLUMNS
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import Workload
from rota.worlds.serving.policies import RETAINERS, SERVING_ORDERS
from rota.worlds.serving.policies.continuum import Continuum, FixedTime
from rota.worlds.serving.programs import ProgramSpec, draw_programs
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.retain import Retain
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.slow_tiers import SlowPins
from tests.worlds.serving.test_twin_caches import branches_of, cached, shared
from tests.worlds.serving.test_twin_fleet import FCFS, Rows, by_priority, replica, rows_of_requests
from tests.worlds.serving.twin import Told, same, slow_requests

SECONDS = [0.0, 0.0713, 0.3111, 1.7177, 9.0]


@dataclass
class Drawn(Retain):
    """By the number of the request."""

    reads = ("id",)
    yields = False

    def seconds(self, jobs: Jobs, now: float) -> FloatColumn:
        return np.array([SECONDS[int(j) % 5] for j in jobs.id])


class Yielding(Drawn):
    yields = True


class EagerTime(FixedTime):
    yields = True


def compare(work: Workload, fleet: Sequence[Replica], made: type[Drawn], order: Told) -> Simulation:
    roles = Roles(order, PLACES["round_robin"](), ORDERS["fcfs"](), retain=made())
    run = Simulation(work, fleet, roles, work.output_tokens.astype(np.float64))
    run.run()
    slow, ranking = slow_requests(work), order.ranking()
    for each in slow:
        if order.asked == "arrival":
            each.order_key = ranking.key(each, 0.0)
    twin = SlowPins(fleet, ranking, lambda engine, r: 0.0, work.prefix.block_tokens)  # type: ignore[union-attr]
    twin.keep(lambda r: SECONDS[r.number % 5], made.yields)
    twin.run(slow)
    same(run, slow)
    return run


@pytest.mark.parametrize("made", [Drawn, Yielding])
@pytest.mark.parametrize("tiers", ["none", "host"])
@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "vllm_v1 ahead", "sarathi"])
@given(rows=rows_of_requests, branches=branches_of, displacing=st.booleans())
def test_the_twin_keeps_the_same(
    name: str, tiers: str, made: type[Drawn], displacing: bool, branches: list[int], rows: Rows
) -> None:
    below = tiers if name.startswith("vllm_v1") else "none"
    order = replace(by_priority(), preemptive=True) if displacing else FCFS()
    compare(shared(rows, branches), [cached(name, below, "lru"), cached(name, "none", "lfu", kv_blocks=7)], made, order)


@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "vllm_v1 ahead", "sarathi"])
@given(
    seed=st.integers(0, 1000),
    ttl=st.sampled_from([0.05, 1.0, 50.0, np.inf]),
    blocks=st.integers(26, 60),
    yields=st.booleans(),
)
def test_programs_end_however_long_things_are_kept(name: str, ttl: float, blocks: int, yields: bool, seed: int) -> None:
    """A cache that hardly holds one request, and everything is kept: all is served, and no block is lost."""
    spec = ProgramSpec(kind="chain", count=12, rate=2.0, calls=3.0, prompt=20.0, output=6.0, added=8.0, delay=0.5, block_tokens=4)  # fmt: skip
    work = draw_programs(spec, np.random.default_rng(seed))
    policy = (EagerTime if yields else FixedTime)(ttl)
    fleet = [replica(name, prefix_caching=True, kv_blocks=blocks, context_limit=4 * blocks) for _ in range(2)]
    run = Simulation(
        work, fleet, Roles(ORDERS["fcfs"](), PLACES["least_outstanding"](), ORDERS["fcfs"](), retain=policy)
    )
    run.run()
    assert np.isin(run.jobs[at.STATE], [at.FINISHED_STATE, at.REJECTED, at.FUTURE]).all()
    rejected = np.isin(work.programs.program, work.programs.program[run.jobs[at.STATE] == at.REJECTED])  # type: ignore[union-attr]
    assert (run.jobs[at.STATE, ~rejected] == at.FINISHED_STATE).all()
    for r in range(2):
        for j in np.flatnonzero(run.jobs[at.PINNED] > 0).tolist():
            run.caches.unpin(j, run.now)
        assert run.hosts[r, at.FREE] == blocks


def table(job: int = 0, tool: int = 0, reload: float = 0.5) -> Jobs:
    columns = {"id": np.array([job]), "tool": np.array([tool]), "reload_seconds": np.array([reload])}
    return Jobs(columns, SERVING_JOB_COLUMNS.values())


def taught(durations: list[float], tool: int = 0, **parameters: Any) -> Continuum:
    policy = Continuum(**parameters)
    for k, duration in enumerate(durations):
        policy.seconds(table(1000 + k, tool), 10.0 * k)
        policy.on_tool_return(1000 + k, 10.0 * k + duration)
    return policy


def test_continuum_weighs_reload_against_waiting() -> None:
    """Durations 1, 2, 3 and 10 s: worth of 1 s is 0.25 g - 1, of 2 s 0.5 g - 2, of 3 s 0.75 g - 3, of 10 s g - 10."""
    policy = taught([1.0, 2.0, 3.0, 10.0])
    assert policy.seconds(table(reload=3.9), 99.0).tolist() == [0.0], "nothing is worth waiting for"
    assert policy.seconds(table(reload=4.1), 99.0).tolist() == pytest.approx([3.0])
    assert policy.seconds(table(reload=29.0), 99.0).tolist() == pytest.approx([10.0])
    assert policy.seconds(table(tool=-1, reload=29.0), 99.0).tolist() == [0.0], "nothing runs after it"


def test_continuum_counts_waits_in_the_line() -> None:
    """A mean wait of 4 s is worth as much as 4 s of computing again, by eta."""
    for eta, expected in ((1.0, 3.0), (0.5, 0.0)):
        policy = taught([1.0, 2.0, 3.0, 10.0], eta=eta)
        for job, wait in enumerate([2.0, 6.0]):
            policy.on_arrival(job, 100.0)
            policy.on_start(job, 0, 100.0 + wait)
            policy.on_start(job, 0, 150.0)  # again, after it was displaced: that is no wait of a new call
        assert policy.seconds(table(reload=0.1), 200.0).tolist() == pytest.approx([expected])


def test_continuum_begins_cold_and_takes_a_tool_by_itself_when_it_knows_it() -> None:
    assert Continuum().seconds(table(), 0.0).tolist() == [2.0]
    policy = taught([5.0] * 3, samples=2)
    assert policy.seconds(table(tool=1, reload=9.0), 99.0).tolist() == pytest.approx([5.0]), "another tool: of all"
    for k in range(3):
        policy.seconds(table(50 + k, tool=1), 200.0)
        policy.on_tool_return(50 + k, 201.0)
    assert policy.seconds(table(tool=1, reload=9.0), 299.0).tolist() == pytest.approx([1.0])


@pytest.mark.parametrize("made", [lambda: Continuum(eta=-1.0), lambda: FixedTime(ttl=-1.0)])
def test_parameters_out_of_range(made: Any) -> None:
    with pytest.raises(InputError):
        made()


def agents(retain: str | None, tools: int = 1, **fleet: Any) -> Any:
    """A replica whose cache is too small for all agents that are at work."""
    group = {"model": "llama-3.1-8b", "gpu": "a100-80g", "prefix_caching": True, "kv_blocks": 4000, "max_running": 24}
    policy: dict[str, Any] = {"name": "a", "order": "program_fcfs"} | ({"retain": retain} if retain else {})
    programs = {"kind": "chain", "count": 120, "rate": 0.5, "calls": 8, "tools": tools, "tool_sigma": 1.0}
    document: dict[str, Any] = {"world": "serving", "workload": {"programs": programs},
                                "fleet": [group | fleet], "policies": [policy]}  # fmt: skip
    scenario = parse(document, Path())
    work = scenario.world.workload(scenario.case, 3)
    return scenario.world.run(scenario.case, work, scenario.policies[0], 3)


def test_what_is_kept_is_found() -> None:
    plain, kept = agents(None), agents("continuum", tools=3)
    assert kept.metrics["pins"] > 100
    assert plain.metrics["pins"] == 0
    assert agents("continuum").metrics["prefix_hit_rate"] > plain.metrics["prefix_hit_rate"]


def test_learning_from_tools_is_not_the_same_as_a_fixed_time() -> None:
    assert agents("continuum").metrics["program_e2e_mean"] != agents("fixed_ttl").metrics["program_e2e_mean"]


def test_a_policy_without_a_cache(tmp_path: Path) -> None:
    document: dict[str, Any] = {"world": "serving", "workload": {"generate": {"kind": "chat", "requests": 9}},
                                "fleet": [{"model": "llama-3.1-8b", "gpu": "h100"}],
                                "policies": [{"name": "a", "retain": "continuum"}]}  # fmt: skip
    scenario = parse(document, tmp_path)
    with pytest.raises(InputError, match="policy a, retain: no replica has a prefix cache"):
        scenario.world.resolve(scenario.case, scenario.policies[0], tmp_path)


def test_an_answer_that_is_none() -> None:
    class Wrong(Retain):
        def seconds(self, jobs: Jobs, now: float) -> FloatColumn:
            return np.array([-1.0])

    work = shared([(0, 4, 2, 0)], [0] * 16)
    roles = Roles(ORDERS["fcfs"](), PLACES["round_robin"](), ORDERS["fcfs"](), retain=Wrong())
    with pytest.raises(PolicyError, match=r"seconds at .* expected one number"):
        Simulation(work, [cached("vllm_v1", "none", "lru")], roles).run()


def test_every_retainer_is_built_without_arguments_and_reads_what_there_is() -> None:
    for name, made in RETAINERS.items():
        policy = made()
        assert isinstance(policy, Retain), name
        columns = {each: np.zeros(1) for each in policy.reads}
        assert policy.seconds(Jobs(columns, SERVING_JOB_COLUMNS.values()), 0.0).shape == (1,)
    assert "program_fcfs" in SERVING_ORDERS
