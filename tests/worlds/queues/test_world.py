"""The world from a scenario's words to its metrics; one rule in two worlds; bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rota.cli.main import app
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Jobs
from rota.rules import ALLOTS, ORDERS
from rota.rules.balance import LeastWork
from rota.rules.sampling import PowerOfTwo
from rota.rules.service import LeastAttained
from rota.rules.size import ShortestFirst, ShortestRemaining
from rota.study.scenario import parse, read
from rota.worlds import world
from rota.worlds.queues import theory
from rota.worlds.queues.distributions import parse_distribution
from rota.worlds.queues.kernels import layout as at
from rota.worlds.queues.model import alike, make_workload
from rota.worlds.queues.policies import QUEUE_ORDERS
from rota.worlds.queues.read import read_trace
from rota.worlds.queues.simulate import Roles, Simulation
from rota.worlds.queues.verify import verify

BASE: dict[str, Any] = {
    "world": "queues",
    "workload": {"load": 0.8, "service": "exponential", "jobs": 4000},
    "policies": [{"name": "fcfs", "order": "fcfs"}, {"name": "srpt", "order": "srpt"}],
}


def scenario(folder: Path = Path(), **changes: Any) -> Any:
    return parse({**BASE, **changes}, folder)


def run(document: Any, policy: int = 0, seed: int = 0) -> Any:
    return document.world.run(
        document.case, document.world.workload(document.case, seed), document.policies[policy], seed
    )


def test_the_examples_run(repository: Path) -> None:
    for path in sorted((repository / "examples" / "queues").glob("*.yaml")):
        document = read(path, ["workload.jobs=2000"] if "trace" not in path.read_text() else [], 1)
        for number in range(len(document.policies)):
            result = run(document, number)
            assert np.isfinite(result.metrics["response_mean"]), path


def test_json_has_the_metrics_by_name(tmp_path: Path, repository: Path) -> None:
    file = repository / "examples" / "queues" / "mg1.yaml"
    arguments = [
        "run",
        str(file),
        "--set",
        "workload.jobs=3000",
        "--seeds",
        "2",
        "--json",
        "--out",
        str(tmp_path / "out"),
        "--jobs",
        "1",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    names = {
        "response_mean",
        "response_p50",
        "response_p99",
        "slowdown_mean",
        "waiting_mean",
        "number_in_system",
        "utilisation",
    }
    assert all(names <= row["metrics"].keys() for row in found["rows"])
    assert {row["policy"] for row in found["rows"]} >= {"fcfs", "srpt"}


def test_the_same_jobs_for_every_policy_and_little() -> None:
    document = scenario(workload={"load": 0.7, "jobs": 60_000})
    first, second = run(document, 0), run(document, 1)
    np.testing.assert_array_equal(first.outcomes["size"], second.outcomes["size"])
    for result in (first, second):
        metrics = result.metrics
        assert metrics["number_in_system"] == pytest.approx(0.7 * metrics["response_mean"], rel=0.03)
        assert metrics["utilisation"] == pytest.approx(0.7, rel=0.03)
    assert first.metrics["response_mean"] == pytest.approx(1 / 0.3, rel=0.1)


@pytest.mark.parametrize("order", ["fcfs", "sjf", "srpt", "psjf", "las"])
@pytest.mark.parametrize("servers", [1, 3])
def test_littles_law_of_the_waiting(order: str, servers: int) -> None:
    """Those that wait are those that are not in service, also after they were displaced."""
    jobs = 3000 if order == "las" and servers > 1 else 40_000
    document = scenario(workload={**BASE["workload"], "jobs": jobs}, servers={"count": servers}, warm_up={"share": 0.0},
                        policies=[{"name": order, "order": order}])  # fmt: skip
    metrics = run(document).metrics
    assert metrics["number_waiting"] == pytest.approx(metrics["waiting_mean"] * metrics["throughput"], rel=0.02)
    assert metrics["number_in_system"] - metrics["number_waiting"] == pytest.approx(
        servers * metrics["utilisation"], rel=0.02
    )


def test_load_counts_all_servers_classes_and_operations() -> None:
    classes = [
        {"name": "a", "share": 3, "service": "exponential"},
        {"name": "b", "share": 1, "service": {"exponential": {"mean": 5}}},
    ]
    document = scenario(workload={"load": 0.5, "jobs": 1000, "classes": classes}, servers={"count": 4})
    assert document.case.rate == pytest.approx(0.5 * 4 / (0.75 + 1.25))
    chains = scenario(workload={"load": 0.5, "jobs": 1000, "operations": 4})
    assert chains.case.rate == pytest.approx(0.125)
    assert chains.case.load == pytest.approx(0.5)


def test_chains_are_revealed_one_operation_at_a_time() -> None:
    document = scenario(workload={"load": 0.6, "jobs": 500, "operations": 3}, warm_up={"share": 0.0})
    result = run(document, 1)
    assert len(result.outcomes["job"]) == 1500
    finish, arrival = result.outcomes["finish"].reshape(-1, 3), result.outcomes["arrival"].reshape(-1, 3)
    np.testing.assert_array_equal(arrival[:, 1:], finish[:, :-1])
    assert result.metrics["program_response_mean"] == pytest.approx(float((finish[:, 2] - arrival[:, 0]).mean()))


def test_the_bound_is_srpt_on_one_server_and_below_all_on_many() -> None:
    document = scenario(warm_up={"share": 0.0})
    work = document.world.workload(document.case, 0)
    assert document.world.bounds(document.case, work)["response_mean"] == pytest.approx(
        run(document, 1).metrics["response_mean"]
    )
    many = scenario(servers={"count": 3}, warm_up={"share": 0.1})
    bound = many.world.bounds(many.case, many.world.workload(many.case, 0))
    for number in range(2):
        metrics = run(many, number).metrics
        assert bound["response_mean"] <= metrics["response_mean"] + 1e-9
        assert bound["slowdown_mean"] <= metrics["slowdown_mean"] + 1e-9


def test_the_mean_time_in_mg1_yaml_is_the_formula(repository: Path) -> None:
    document = read(repository / "examples" / "queues" / "mg1.yaml", ["workload.jobs=300000"], 1)
    law = parse_distribution({"gamma": {"mean": 1, "scv": 4}})
    for number, policy in enumerate(document.policies):
        formula = {"srpt": theory.srpt, "psjf": theory.psjf, "sjf": theory.sjf, "las": theory.las}.get(policy["name"])
        if formula is not None:
            metrics = run(document, number).metrics
            assert abs(metrics["response_mean"] - formula(0.8, law)) < 2.5 * metrics["response_half_width"], policy[
                "name"
            ]


# -- one rule, two worlds -----------------------------------------------------------------------------------------------


SERVING = """
world: serving
workload: {generate: {kind: chat, requests: 400, rate: 12.0}}
fleet: [{model: llama-3-8b, gpu: a100-80g, count: 2, max_running: 8}]
information: {output_tokens: {predicted: {error: 0.3}}}
"""


def test_fair_shields_a_modest_tenant(tmp_path: Path) -> None:
    """One server: a tenant that asks for 0.9 of it, and one for 0.2: the modest one waits a few services, not behind the flood."""
    flood = {"name": "flood", "share": 0.9 / 1.1, "tenant": "flood", "service": "exponential"}
    modest = {"name": "modest", "share": 0.2 / 1.1, "tenant": "modest", "service": "exponential"}
    found = parse(
        {
            **BASE,
            "workload": {"load": 1.1, "jobs": 4000, "classes": [flood, modest]},
            "policies": [{"name": "fcfs", "order": "fcfs"}, {"name": "fair", "order": "fair"}],
        },
        tmp_path,
    )
    waits = []
    for number in (0, 1):
        rows = run(found, number).outcomes
        assert (rows["status"] == "finished").all()
        waits.append(np.nanmean(rows["response"][rows["tenant"] == "modest"]))  # NaN while it warms up
    assert waits[1] < 10.0 < 0.1 * waits[0]


@pytest.mark.parametrize(
    ("role", "name", "kind"),
    [
        ("order", "las", LeastAttained), ("order", "srpt", ShortestRemaining), ("order", "sjf", ShortestFirst),
        ("route", "least_work", LeastWork), ("route", "power_of_two", PowerOfTwo),
    ],
)  # fmt: skip
def test_the_same_rule_objects_run_in_both_worlds(role: str, name: str, kind: type, tmp_path: Path) -> None:
    import yaml

    (tmp_path / "reversed_rules.py").write_text(REVERSED)
    results: dict[str, list[float]] = {}
    backwards = f"reversed_rules:{kind.__name__}Reversed"
    policies = [{"name": "forward", role: name}, {"name": "backward", role: backwards}]
    for document in (
        {**yaml.safe_load(SERVING), "policies": policies},
        {
            **BASE,
            "workload": {"load": 0.9, "jobs": 2000, "service": {"hyperexponential": {"scv": 9}}},
            "servers": {"count": 2, "line": "each"},
            "information": {"size": {"predicted": {"lognormal": {"sigma": 0.3}}}},
            "policies": policies,
        },
    ):
        found = parse(document, tmp_path)
        roles = found.world._roles(found.policies[0], tmp_path)
        assert type(getattr(roles, role)) is kind
        metric = found.objective
        results[found.world_name] = [run(found, number).metrics[metric] for number in (0, 1)]
    for world_name, (forward, backward) in results.items():
        assert forward != backward, world_name


REVERSED = """
from dataclasses import dataclass

import numpy as np

from rota.rules.balance import LeastWork
from rota.rules.sampling import PowerOfTwo
from rota.rules.service import LeastAttained
from rota.rules.size import ShortestFirst, ShortestRemaining


@dataclass
class LeastAttainedReversed(LeastAttained):
    def keys(self, jobs, now):
        return -super().keys(jobs, now)


@dataclass
class ShortestRemainingReversed(ShortestRemaining):
    def keys(self, jobs, now):
        return -super().keys(jobs, now)


@dataclass
class ShortestFirstReversed(ShortestFirst):
    def keys(self, jobs, now):
        return -super().keys(jobs, now)


@dataclass
class LeastWorkReversed(LeastWork):
    def costs(self, jobs, hosts, now):
        return -super().costs(jobs, hosts, now)


@dataclass
class PowerOfTwoReversed(PowerOfTwo):
    def costs(self, jobs, hosts, now):
        costs = super().costs(jobs, hosts, now)
        return np.where(np.isinf(costs), np.inf, -costs)
"""


def test_hidden_columns_permuted_change_nothing() -> None:
    """Sizes are hidden: whoever does not read them must decide the same until the first job is done."""
    rng = np.random.default_rng(0)
    document = scenario(
        information={"size": "hidden"},
        policies=[{"name": name, "order": name} for name in ("fcfs", "lcfs", "las", "random")],
    )
    work = document.world.workload(document.case, 0)
    for number in range(4):
        starts = []
        for size in (work.size, rng.permutation(work.size)):
            from dataclasses import replace

            run_ = document.world.simulation(
                document.case, replace(work, size=size.copy()), document.policies[number], 0
            )
            run_.run(until=float(min(work.size.min(), size.min()) + work.arrival[0]))
            starts.append(run_.seconds[3].copy())
        np.testing.assert_array_equal(starts[0], starts[1])


def test_verify_finds_what_is_wrong() -> None:
    document = scenario(warm_up={"share": 0.0})
    work = document.world.workload(document.case, 0)
    simulation = document.world.simulation(document.case, work, document.policies[0], 0)
    simulation.run()
    rows = dict(run(document, 0).outcomes)
    area, busy = float(simulation.clock[0, 1]), float(simulation.clocks[3].sum())
    assert verify(work, document.case.servers, rows, area, busy) == []

    def broken(name: str, row: int, value: Any, **more: float) -> list[str]:
        column = rows[name].copy()
        column[row] = value
        return verify(
            work, document.case.servers, {**rows, name: column}, more.get("area", area), more.get("busy", busy)
        )

    assert "before it came" in broken("start", 5, -1.0)[0]
    assert "faster than its service" in " ".join(broken("finish", 5, rows["start"][5]))
    assert "never done" in " ".join(broken("status", 5, "unfinished"))
    assert "Little" in " ".join(broken("job", 0, 0, area=area * 1.001))
    assert "in use" in " ".join(broken("job", 0, 0, busy=busy * 10))


# -- traces -----------------------------------------------------------------------------------------------------------------


def test_a_trace_with_everything(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(
        "id,arrival,service_time,class,weight,due,tenant,parents,guess\n"
        "a,2,3,web,1,,x,,1.5\nb,0,1,batch,2,9,y,,2\nc,3,1,web,1,,x,a;b,1\n"
    )
    work = read_trace(tmp_path / "jobs.csv")
    assert work.arrival.tolist() == [0.0, 2.0, 3.0]
    assert work.notices == ("sorted by arrival: 1 of 3 rows came before the row above them",)
    assert (work.classes, work.tenants) == (("web", "batch"), ("x", "y"))
    assert work.parents is not None
    assert (work.parents[0].tolist(), work.parents[1].tolist()) == ([0, 0, 0, 2], [1, 0])
    assert work.columns["guess"].tolist() == [2.0, 1.5, 1.0]
    document = scenario(tmp_path, workload={"trace": "jobs.csv"}, policies=[{"name": "guess", "order": "sprpt"}],
                        information={"predicted_size": {"column": "guess"}})  # fmt: skip
    result = run(document)
    assert result.outcomes["finish"].tolist() == [1.0, 5.0, 6.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arrival,service_time\n0,1\n1,-2\n", "line 3: service_time must not be negative, found '-2'"),
        ("arrival,service_time\n0,1\n1,nan\n", "line 3: service_time must be a number"),
        ("arrival,service_time\n0,1\n1,inf\n", "line 3: service_time must be finite"),
        ("arrival,service_time\n0,1\n1,\n", "line 3: service_time must be given"),
        ("arrival,time\n0,1\n", "no column is the service_time"),
        ("arrival,service_time,weight\n0,1,0\n", "weight must be above 0"),
        ("arrival,service_time,parents\n0,1,7\n", "'7' is none"),
        ("arrival,service_time,parents\n0,1,1\n0,1,0\n", "cycle"),
        ("arrival,service_time,id,parents\n0,1,a,\n0,1,a,\n", "once only"),
        ("", "empty"),
    ],
)
def test_broken_traces(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read_trace(tmp_path / "jobs.csv")


def test_a_trace_shorter_than_its_warm_up(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text("arrival,service_time\n0,1\n1,1\n")
    document = scenario(tmp_path, workload={"trace": "jobs.csv"}, warm_up={"jobs": 2})
    with pytest.raises(InputError, match="2 of the trace's 2 jobs leave nothing to measure"):
        document.world.workload(document.case, 0)


# -- properties over random inputs ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(["fcfs", "srpt", "las", "mlfq", "sjf", "processor sharing"]),
    servers=st.integers(1, 3),
    factor=st.sampled_from([0.25, 2.0, 8.0]),
)
def test_time_has_no_unit_and_work_is_conserved(seed: int, name: str, servers: int, factor: float) -> None:
    """Scaling time by a power of two scales every result exactly; the servers are busy for exactly the work there is."""
    rng = np.random.default_rng(seed)
    arrival, size = np.cumsum(rng.exponential(1.0, 60)), rng.exponential(1.0, 60)
    ends = []
    for scale in (1.0, factor):
        work = make_workload(arrival * scale, size * scale)
        share = ALLOTS["processor_sharing"]() if name == "processor sharing" else None
        quantum = {"quantum": 0.5 * scale} if name == "mlfq" else {}
        order = {**ORDERS, **QUEUE_ORDERS}["fcfs" if share else name](**quantum)
        simulation = Simulation(work, alike(servers), Roles(order, LeastWork(), share), visible=work.size)
        simulation.run()
        ends.append(simulation.seconds[at.FINISH] / scale)
        assert simulation.clocks[at.BUSY_SECONDS].sum() == pytest.approx(work.size.sum())
        assert float(simulation.clock[0, at.AREA]) == pytest.approx(
            (simulation.seconds[at.FINISH] - work.arrival).sum()
        )
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workload": {"load": 0.5, "service": "expnential"}}, "did you mean 'exponential'"),
        ({"workload": {"load": 0.5, "rate": 2}}, "either load or rate"),
        ({"workload": {"load": -1}}, "workload.load"),
        ({"workload": {"load": 0.5, "jobs": 0}}, "workload.jobs"),
        ({"workload": {"load": 0.5, "service": {"pareto": {"alpha": 0.9}}}}, "mean service time is infinite"),
        ({"workload": {"load": 0.5, "classes": [{"name": "a"}, {"name": "a"}]}}, "may appear once"),
        ({"servers": {"count": 0}}, "servers.count"),
        ({"servers": {"speeds": [1, -1]}}, "positive numbers"),
        ({"servers": {"line": "both"}}, "servers.line"),
        ({"servers": {"setup": {"x": {"y": 1}}}}, "not a class"),
        ({"information": {"short": {"wrong": 1.5}}}, "information.short.wrong"),
        ({"information": {"size": {"predicted": {}}}}, "give one of"),
        ({"information": {"size": {"predicted": {"column": "x"}}}}, "drawn jobs have no columns"),
        ({"warm_up": {"jobs": 4000}}, "leave nothing to measure"),
        ({"warm_up": {"share": 1.0}}, "warm_up.share"),
        ({"workload": {"lode": 0.5}}, "did you mean 'load'"),
        ({"workload": {"trace": "nowhere.csv", "load": 0.5}}, "its own arrivals"),
    ],
)
def test_broken_scenarios(changes: dict[str, Any], said: str) -> None:
    given = (
        {**changes, "workload": {**BASE["workload"], **changes.get("workload", {})}}
        if "workload" in changes
        else changes
    )
    if "trace" in given.get("workload", {}):
        given["workload"].pop("service")
    with pytest.raises(InputError, match=said) as error:
        scenario(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"order": "srpt", "share": "processor_sharing"}, "keep one of them"),
        ({"order": "sprt"}, "did you mean .*'srpt'"),
        ({"share": "processor_shraing"}, "did you mean 'processor_sharing'"),
        ({"order": {"round_robin": {"quantum": 0}}}, "quantum must be above 0"),
    ],
)
def test_broken_policies(policy: dict[str, Any], said: str) -> None:
    document = scenario(policies=[{"name": "it", **policy}])
    with pytest.raises(InputError, match=said):
        document.world.resolve(document.case, document.policies[0], Path())


def test_policies_that_need_what_is_hidden_are_skipped_with_the_reason() -> None:
    document = scenario(information={"size": "hidden"})
    reason = document.world.resolve(document.case, {"name": "it", "order": "srpt"}, Path())
    assert "hidden" in str(reason)
    assert "information.short" in str(document.world.resolve(document.case, {"name": "it", "order": "one_bit"}, Path()))
    assert "predicted" in str(document.world.resolve(document.case, {"name": "it", "order": "sprpt"}, Path()))


def test_an_unstable_system_is_said_and_not_averaged_silently() -> None:
    result = run(scenario(workload={"load": 1.2, "jobs": 2000}))
    assert any("lines grow without end" in line for line in result.notices)
    assert not any("grow" in line for line in run(scenario()).notices)
    assert world("queues").name == "queues"


class Misbehaves(ShortestRemaining):
    answer: Any = None

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return np.full(len(jobs), np.nan) if self.answer == "nan" else np.zeros(len(jobs) + 1)


@pytest.mark.parametrize(("answer", "said"), [("nan", "NaN"), ("shape", "shape")])
def test_answers_that_are_none(answer: str, said: str) -> None:
    from rota.kernel.errors import PolicyError
    from rota.rules.balance import LeastOutstanding
    from rota.worlds.queues.model import alike, make_workload
    from rota.worlds.queues.simulate import Roles, Simulation

    policy = Misbehaves()
    policy.answer = answer
    work = make_workload(np.array([0.0, 0.1]), np.ones(2))
    with pytest.raises(PolicyError, match=said):
        Simulation(work, alike(1), Roles(policy, LeastOutstanding()), visible=work.size).run()
