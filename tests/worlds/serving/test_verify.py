"""The checker passes what the simulator does and finds what is broken on purpose."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from rota.kernel.errors import BrokenRunError
from rota.worlds.serving import world as serving
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.metrics import outcomes, series, summarise
from rota.worlds.serving.policies import BATCHERS
from rota.worlds.serving.replica import Replica
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.verify import verify
from tests.worlds.serving.test_simulate import replica, requests, rules_of, simulate, workload

Parts = list[Any]


def parts(run: Simulation) -> Parts:
    """The arguments of `verify`; columns are copied, so that a test may break them."""
    rows = outcomes(run, Slo())
    lines = series(run)
    copies = [{name: column.copy() for name, column in table.items()} for table in (rows, lines)]
    width = float(run.clock[at.BIN_SECONDS])
    return [run.workload, run.replicas, copies[0], summarise(run, rows), copies[1], width, run.concurrency > 0]


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("name", list(BATCHERS))
@given(rows=requests)
def test_every_run_passes(name: str, caching: bool, rows: list[tuple[int, int, int, int]]) -> None:
    fleet = [Replica(**{**replica(rules_of(name)).__dict__, "prefix_caching": caching and name == "vllm_v1"})] * 2
    work = workload(rows)
    run = simulate(work, fleet, route="least_outstanding", visible_output=work.output_tokens.astype(np.float64))
    assert verify(*parts(run)) == []


@given(rows=requests)
def test_closed_loops_pass(rows: list[tuple[int, int, int, int]]) -> None:
    think = np.full(len(rows), 0.25)
    assert verify(*parts(simulate(workload(rows), [replica(rules_of("vllm_v1"))], concurrency=2, think=think))) == []


def finished() -> Parts:
    """Twelve requests, four at a time."""
    return parts(simulate(workload([(k // 4, 6, 4, 0) for k in range(12)]), [replica(rules_of("vllm_v1"))]))


def broken(table: int, name: str, row: int | slice, value: Any) -> list[str]:
    """What is found when one value is changed."""
    given_parts = finished()
    given_parts[table][name][row] = value
    return verify(*given_parts)


@pytest.mark.parametrize(
    ("name", "row", "value", "line"),
    [
        ("job", 3, 4, "12 outcomes of 12 requests, or in another order"),
        ("status", 3, "lost", "1 requests have no outcome"),
        ("output_tokens", 3, 5, "request 3: output_tokens is not that of the workload"),
        ("arrival", 3, 0.5, "request 3: arrival is not that of the workload"),
        ("first_token", 3, -1.0, "request 3: first_token comes before scheduled"),
        ("dispatched", 3, -1.0, "request 3: dispatched comes before arrival"),
        ("status", 3, "rejected", "request 3: was rejected and yet served"),
        ("status", 3, "unfinished", "request 3: is unfinished and yet has an end"),
        ("preemptions", 3, 99, "the metrics say preemptions"),
        ("scheduled", slice(None), 0.125, "requests ran at once, at most 4 may"),
        ("finish", 3, 9.0, "Little's law"),
    ],
)
def test_a_broken_outcome(name: str, row: Any, value: Any, line: str) -> None:
    assert any(line in found for found in broken(2, name, row, value)), broken(2, name, row, value)


@pytest.mark.parametrize(("name", "value"), [("kv_use", 1.5), ("busy", 1.1), ("running", 4.5)])
def test_more_than_there_is(name: str, value: float) -> None:
    assert any(f"replica 0: {name} is {value:g} on average" in found for found in broken(4, name, 0, value))


@pytest.mark.parametrize("name", ["throughput_tokens", "e2e_mean", "rejected", "makespan"])
def test_a_metric_that_is_not_so(name: str) -> None:
    given_parts = finished()
    given_parts[3][name] += 1.0
    assert any(f"the metrics say {name}" in found for found in verify(*given_parts))


def test_more_than_the_blocks() -> None:
    given_parts = finished()
    given_parts[1] = [Replica(**{**given_parts[1][0].__dict__, "kv_blocks": 2})]
    assert any("KV blocks at once" in line for line in verify(*given_parts))


def test_of_a_large_run_the_busiest_replica_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rota.worlds.serving.verify.LARGE", 11)
    given_parts = finished()
    given_parts[2]["scheduled"][:] = 0.125
    assert any("replica 0: " in line and "ran at once" in line for line in verify(*given_parts))


def test_a_run_that_breaks_a_rule_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The world asks the checker; what it finds is the error of the run, in one line."""
    monkeypatch.setattr(serving, "verify", lambda *_: ["request 3: finish comes before first_token"])
    world = serving.Serving()
    sections = {
        "workload": {"generate": {"kind": "chat", "requests": 5}},
        "fleet": [{"model": "llama-3-8b", "gpu": "a100-80g"}],
    }
    case = world.load(sections, Path())
    with pytest.raises(BrokenRunError, match=r"^the run breaks a rule: request 3: finish comes before first_token$"):
        world.run(case, world.workload(case, 0), {"name": "any"}, 0)
