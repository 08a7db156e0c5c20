"""The checker passes what the simulator does and finds what is broken on purpose."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from rota.worlds.serving.metrics import outcomes
from rota.worlds.serving.policies import BATCHERS
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Replica
from rota.worlds.serving.verify import verify
from tests.worlds.serving.test_simulate import replica, requests, rules_of, simulate, workload


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("name", list(BATCHERS))
@given(rows=requests)
def test_every_run_passes(name: str, caching: bool, rows: list[tuple[int, int, int, int]]) -> None:
    fleet = [Replica(**{**replica(rules_of(name)).__dict__, "prefix_caching": caching and name == "vllm_v1"})] * 2
    run = simulate(workload(rows), fleet, route="least_outstanding")
    assert verify(outcomes(run, Slo()), fleet) == []


def finished() -> tuple[dict[str, Any], list[Replica]]:
    fleet = [replica(rules_of("vllm_v1"))]
    run = simulate(workload([(k // 4, 6, 4, 0) for k in range(12)]), fleet)
    return outcomes(run, Slo()), fleet


def test_a_token_before_its_request() -> None:
    rows, fleet = finished()
    rows["first_token"] = rows["first_token"].copy()
    rows["first_token"][3] = -1.0
    assert verify(rows, fleet) == ["request 3: first_token comes before scheduled"]


def test_more_than_the_slots() -> None:
    rows, fleet = finished()
    rows["scheduled"] = rows["arrival"] + 0.0
    rows["preemptions"] = np.zeros(12, np.int64)
    assert any("ran at once" in line for line in verify(rows, fleet))


def test_more_than_the_blocks() -> None:
    rows, fleet = finished()
    rows["prompt_tokens"] = rows["prompt_tokens"] * 40
    assert any("KV blocks at once" in line for line in verify(rows, fleet))
