"""Service classes and tenants: who gets which limits, what policies see of it, what is counted by class, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Jobs
from rota.study.scenario import Scenario, parse
from rota.worlds.serving.labels import Label
from rota.worlds.serving.model import Workload
from rota.worlds.serving.read import read_trace, write_trace

FLEET = [{"model": "llama-3-8b", "gpu": "a100-80g", "max_running": 8}]
CLASSES = {
    "interactive": {"ttft": 0.5, "tpot": 0.05, "priority": 1, "share": 3.0},
    "batch": {"e2e": 60.0, "priority": 2, "share": 1.0},
}
TRACE = "arrival,prompt_tokens,output_tokens,tenant,class,e2e\n0,100,10,a,batch,\n1,100,10,b,,\n2,100,10,a,,7\n"


def scenario(tmp_path: Path, trace: str | None = None, **sections: Any) -> Scenario:
    work: dict[str, Any] = {"generate": {"kind": "chat", "requests": 4000, "rate": 10.0}}
    if trace is not None:
        (tmp_path / "trace.csv").write_text(trace)
        work = {"trace": "trace.csv", "format": "generic"}
        for role in ("tenant", "class", "e2e"):
            work.setdefault("columns", {})[role] = role
    document = {"world": "serving", "workload": work, "fleet": FLEET, "policies": [{"name": "fcfs"}], **sections}
    return parse(document, tmp_path)


def workload(given: Scenario, seed: int = 0) -> Workload:
    found: Workload = given.world.workload(given.case, seed)
    return found


def test_trace_then_tenant_then_share(tmp_path: Path) -> None:
    tenants = {"b": {"class": "interactive", "weight": 2.0}}
    work = workload(scenario(tmp_path, TRACE, classes=CLASSES, tenants=tenants))
    label = work.labels.slo_class
    assert label is not None
    assert label.names == ("interactive", "batch")
    assert label.index[:2].tolist() == [1, 0]
    assert work.labels.weight is not None
    assert work.labels.weight.tolist() == [1.0, 2.0, 1.0]
    assert work.e2e_limit[0] == 60.0
    assert work.e2e_limit[2] == 7.0  # its own
    assert work.ttft_limit[1] == 0.5
    assert work.priority[:2].tolist() == [2, 1]


def test_shares_are_kept_and_the_draw_is_the_same_for_everyone(tmp_path: Path) -> None:
    given = scenario(tmp_path, classes=CLASSES)
    first, again, other = workload(given), workload(given), workload(given, seed=1)
    label, same, different = (each.labels.slo_class for each in (first, again, other))
    assert label is not None
    assert same is not None
    assert different is not None
    assert np.array_equal(label.index, same.index)
    assert not np.array_equal(label.index, different.index)
    share = (label.index == 0).mean()
    assert abs(share - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 4000)


def test_without_classes_nothing_changes(tmp_path: Path) -> None:
    work = workload(scenario(tmp_path))
    assert work.labels.slo_class is None
    assert np.isinf(work.ttft_limit).all()


class Seeing(Order):
    asked = "arrival"
    reads = ("priority", "due", "first_due", "weight", "slo_class")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        Seeing.seen = {name: getattr(jobs, name).tolist() for name in self.reads}  # type: ignore[attr-defined]
        return np.zeros(len(jobs))


def test_policies_see_class_priority_due_and_weight(tmp_path: Path) -> None:
    given = scenario(tmp_path, TRACE, classes=CLASSES, tenants={"a": {"weight": 3.0}, "b": {"class": "interactive"}})
    policy = {"name": "sees", "order": f"{__name__}:Seeing"}
    given.world.run(given.case, workload(given), policy, 0)
    seen = Seeing.seen  # type: ignore[attr-defined]
    assert seen["weight"] == [3.0, 1.0, 3.0]
    assert seen["slo_class"][:2] == [1.0, 0.0]
    assert seen["due"][0] == 60.0
    assert seen["due"][1] == 1.5  # no limit on the answer: its first token
    assert seen["first_due"][1] == 1.5
    assert seen["due"][2] == 9.0


def test_metrics_by_class_are_those_of_the_outcomes(tmp_path: Path) -> None:
    given = scenario(tmp_path, classes=CLASSES)
    run = given.world.run(given.case, workload(given), {"name": "fcfs"}, 0)
    rows, metrics = run.outcomes, run.metrics
    shares = []
    for name, ttft, tpot, e2e in (("interactive", 0.5, 0.05, np.inf), ("batch", np.inf, np.inf, 60.0)):
        mine = rows["slo_class"] == name
        good = (rows["ttft"] <= ttft) & ~(rows["tpot"] > tpot) & (rows["e2e"] <= e2e)
        shares.append(good[mine].mean())
        assert metrics[f"requests[{name}]"] == mine.sum()
        assert metrics[f"goodput_share[{name}]"] == pytest.approx(good[mine].mean())
        assert metrics[f"goodput[{name}]"] == pytest.approx(good[mine].sum() / metrics["makespan"])
        assert metrics[f"ttft_p99[{name}]"] == pytest.approx(np.percentile(rows["ttft"][mine], 99))
    assert 0 < shares[0] < 1  # the load is such that limits bind
    assert metrics["goodput_share_least"] == pytest.approx(min(shares))
    assert metrics["class_fairness"] == pytest.approx(sum(shares) ** 2 / (2 * (shares[0] ** 2 + shares[1] ** 2)))


def test_weights_of_tenants_reach_the_token_counter(tmp_path: Path) -> None:
    """The same run, whether a tenant's weight stands in the scenario or in the policy."""
    mix = [{"kind": "burst", "tenant": name, "variation": "none"} for name in ("a", "b")]
    work = {"generate": {"kind": "mix", "requests": 300, "rate": 30.0, "mix": mix}}
    plain = scenario(tmp_path, workload=work)
    weighted = scenario(tmp_path, workload=work, tenants={"b": {"weight": 3.0}})
    inside = {"name": "vtc", "order": {"vtc": {"weights_of": {1: 3.0}}}}
    ends = [
        given.world.run(given.case, workload(given), policy, 0).outcomes["finish"]
        for given, policy in (
            (plain, inside),
            (weighted, {"name": "vtc", "order": "vtc"}),
            (plain, {"name": "vtc", "order": "vtc"}),
        )
    ]
    assert np.array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[0], ends[2])


def test_labels_are_written_and_read_back(tmp_path: Path) -> None:
    given = scenario(tmp_path, TRACE, classes=CLASSES, tenants={"b": {"class": "interactive"}})
    work = workload(given)
    write_trace(work, tmp_path / "again.csv")
    again = read_trace(tmp_path / "again.csv", format="generic")
    label, back = work.labels.slo_class, again.labels.slo_class
    assert label is not None
    assert back is not None
    assert [label.names[k] for k in label.index] == [back.names[k] for k in back.index]


def test_the_first_requests_keep_their_labels() -> None:
    assert Label(np.array([0, 1, -1]), ("a", "b")).head(2).index.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"classes": {"batch": {}}, "tenants": {"a": {"class": "bach"}}}, "tenants.a.class: 'bach' is not defined in classes; did you mean 'batch'"),
        ({"classes": {"interactive": {"tftt": 1.0}}}, "unknown key 'tftt'; did you mean 'ttft'"),
        ({"classes": {"interactive": {"ttft": 0.0}}}, "classes.interactive.ttft"),
        ({"tenants": {"a": {"weight": 0.0}}}, "tenants.a.weight"),
        ({"tenants": {"a": {"weight": float("inf")}}}, "must be finite"),
    ],
)  # fmt: skip
def test_wrong_sections(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scenario(tmp_path, **sections)


def test_a_class_that_only_the_trace_knows(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^classes: trace\.csv names class 'batch', which is not defined; the scenario has no section"
    ):
        workload(scenario(tmp_path, TRACE))
    with pytest.raises(
        InputError, match=r"^classes: trace\.csv names class 'batch', which is not defined; did you mean 'batches'"
    ):
        workload(scenario(tmp_path, TRACE, classes={"batches": {}}))


def test_a_tenant_that_the_workload_has_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the workload has no tenant 'A'"):
        workload(scenario(tmp_path, TRACE, classes=CLASSES, tenants={"A": {}}))
