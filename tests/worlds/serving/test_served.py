"""Nobody waits for ever: routes that draw the wrong replicas, replicas that nobody switches on, gates that shed who has begun, bills that begin too early."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.kernel.tables import Jobs
from rota.study.scenario import parse
from rota.worlds.serving.columns import SERVING_JOB_COLUMNS
from rota.worlds.serving.policies import SERVING_ORDERS

GROUP = {"model": "llama-3-8b", "gpu": "a100-80g"}
SMALL = {**GROUP, "kv_blocks": 250}


def run(policy: dict[str, Any], seed: int = 0, **sections: Any) -> Any:
    """The result of one policy; a route that draws gets its generator."""
    document = {
        "world": "serving",
        "workload": {"generate": {"kind": "chat", "requests": 120, "rate": 6.0}},
        "fleet": [{**GROUP, "count": 3}],
        "seeds": 1,
        **sections,
        "policies": [{"name": "it", **policy}],
    }
    scenario = parse(document, Path())
    world: Any = scenario.world
    return world.run(scenario.case, world.workload(scenario.case, seed), scenario.policies[0], seed)


ROLES = [dict(GROUP), {**GROUP, "count": 2, "role": "decode"}]
UNLIKE = [{**GROUP, "kv_blocks": 200, "count": 2}, {**GROUP, "count": 2}]
FORMS = {
    "roles": {"fleet": ROLES},
    "memory": {"fleet": UNLIKE},
    "an autoscaler": {"fleet": [{**GROUP, "count": 4}], "scaling": {"least": 1, "first": 1, "start_seconds": 20}},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("route", ["random", "power_of_two", "dodoor"])
def test_a_route_that_draws_nobody_who_can_is_asked_about_those_who_can(route: str, every: int, form: str) -> None:
    sections = {"information": {"hosts": {"every": every}}, **FORMS[form]}
    policy = {"route": route, **({"scale": "reactive"} if "scaling" in FORMS[form] else {})}
    made = run(policy, **sections)
    assert set(made.outcomes["status"]) == {"finished"}


@pytest.mark.parametrize("decode", ["random", "power_of_two", "dodoor"])
def test_so_is_one_that_says_who_decodes(decode: str) -> None:
    fleet = [{**GROUP, "role": "prefill"}, {**SMALL, "role": "decode", "count": 2}, {**GROUP, "role": "decode"}]
    made = run({"decode": decode}, fleet=fleet)
    assert set(made.outcomes["status"]) == {"finished"}


@pytest.mark.parametrize("scale", ["freeness", "reactive", "utilisation"])
@pytest.mark.parametrize("fleet", [[SMALL, GROUP], [SMALL, GROUP, SMALL], [SMALL, SMALL, GROUP]])
def test_one_that_can_hold_the_longest_request_stays_on(fleet: list[dict[str, Any]], scale: str) -> None:
    """The first replica is too small for some: the one that is not is on from the beginning."""
    made = run({"scale": scale}, fleet=fleet, scaling={"least": 1, "start_seconds": 5})
    assert set(made.outcomes["status"]) == {"finished"}


def test_one_of_each_model_stays_on() -> None:
    fleet = [dict(GROUP), {**GROUP, "model": "qwen3-8b", "count": 2}]
    models = {"shares": {"llama-3-8b": 1, "qwen3-8b": 1}}
    made = run({"scale": "reactive"}, fleet=fleet, models=models, scaling={"least": 1, "start_seconds": 5})
    assert set(made.outcomes["status"]) == {"finished"}


@pytest.mark.parametrize("pool", ["mixed_pool", "accellm", "together"])
def test_pools_of_unlike_memory_say_what_does_not_fit(pool: str) -> None:
    with pytest.raises(InputError, match=r"pool: request \d+ with [\d,]+ tokens fits some replicas and not replica 0"):
        run({"pool": pool}, fleet=[SMALL, GROUP])


@pytest.mark.parametrize("seed", [21, 22, 23])
def test_who_has_begun_is_not_shed_after_a_crash(seed: int) -> None:
    mix = [{"kind": "chat", "share": 0.5}, {"kind": "burst", "priority": 1, "share": 0.5}]
    made = run(
        {"admit": {"lowest_first": {}}},
        seed,
        workload={"generate": {"kind": "mix", "mix": mix, "requests": 37, "rate": 2}},
        fleet=[GROUP],
        failures={"mean_between": 10},
    )
    rows = made.outcomes
    assert rows["restarts"].sum() > 0
    assert np.isnan(rows["scheduled"][rows["status"] == "shed"]).all()


def test_a_closed_loop_is_paid_for_from_its_first_request() -> None:
    """Naming a mechanism that never acts changes no bill."""
    drawn = {
        "generate": {"kind": "chat", "requests": 40, "rate": 6.0},
        "arrivals": {"closed": {"concurrency": 2, "think": 20}},
    }
    closed = {"workload": drawn, "fleet": [{**GROUP, "count": 2}]}
    plain, named = (run(policy, **closed) for policy in ({}, {"migrate": {"llumnix": {"below": -1e9, "above": -1e9}}}))
    assert (plain.outcomes["e2e"] == named.outcomes["e2e"]).all()
    for name in ("gpu_hours", "replicas_mean"):
        assert named.metrics[name] == pytest.approx(plain.metrics[name])
    assert named.metrics["replicas_mean"] == pytest.approx(2.0)


def test_energy_of_a_token_counts_tokens_that_were_generated_and_its_peak_is_no_mean() -> None:
    made = run(
        {"recall": "uniform_cache"},
        fleet=[GROUP],
        power={},
        categories={"code": {"topics": 10, "same": 0.97, "other": 0.6, "spread": 0.01}},
    )
    rows, metrics = made.outcomes, made.metrics
    finished = rows["status"] == "finished"
    assert (rows["status"] == "recalled").any()
    joules = metrics["energy_kwh"] * 3.6e6
    assert metrics["energy_per_token"] == pytest.approx(joules / rows["output_tokens"][finished].sum())
    assert metrics["power_peak"] >= metrics["power_mean"]


def test_who_waits_for_a_call_that_was_rejected_is_told_apart() -> None:
    """Prompts grow along a chain until one is too long: what follows it is never asked."""
    drawn = {"programs": {"kind": "chain", "count": 20, "rate": 1.0, "calls": 8, "added": 2000}}
    made = run({}, workload=drawn, fleet=[SMALL])
    lost = int((made.outcomes["status"] == "unfinished").sum())
    assert (made.outcomes["status"] == "rejected").any()
    assert lost > 0
    line = f"{lost:,} requests were never finished, {lost:,} of them because a call that they wait for was rejected or shed"
    assert line in made.notices


def test_an_order_that_counts_by_replica_learns_of_one_where_all_have_come_by_migration() -> None:
    """Nobody has begun at replica 2: the first that is heard of it is that a request has ended there."""
    order: Any = SERVING_ORDERS["ltr"]()
    for job in (0, 1):
        order.on_arrival(job, 0.0)
    order.on_start(0, 0, 0.0)
    order.on_finish(0, 2, 1.0)
    columns = {"id": np.array([1]), "output_tokens": np.array([5.0])}
    assert order.keys(Jobs(columns, SERVING_JOB_COLUMNS.values()), 1.0).tolist() == [[1.0, 5.0]]
