"""Replicas that share experts go in step."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.rules import ORDERS, PLACES
from rota.study.scenario import parse
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.replica import Roles
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.test_twin_fleet import LINEAR, Rows, replica, rows_of_requests, workload


def simulate(rows: Rows, gang: int, count: int = 2) -> Simulation:
    run = Simulation(
        workload(rows), [replica(gang=gang)] * count, Roles(ORDERS["fcfs"](), PLACES["round_robin"](), ORDERS["fcfs"]())
    )
    run.run()
    return run


def test_all_wait_for_the_slowest() -> None:
    """A prompt of 20 tokens here, a decode there: both iterations take what the prompt takes."""
    run = simulate([(0, 16, 2, 0), (0, 1, 2, 0)], 2)
    prompt = LINEAR["constant"] + 16 * LINEAR["prefill_tokens"]
    assert run.seconds[at.FIRST_TOKEN].tolist() == pytest.approx([prompt, prompt])
    alone = simulate([(0, 16, 2, 0), (0, 1, 2, 0)], 1)
    assert alone.seconds[at.FIRST_TOKEN, 1] == pytest.approx(LINEAR["constant"] + LINEAR["prefill_tokens"])
    assert run.seconds[at.FINISH, 0] == pytest.approx(run.seconds[at.FINISH, 1])


def test_one_that_comes_in_the_middle_waits_for_the_next_step() -> None:
    run = simulate([(0, 16, 30, 0), (1, 1, 2, 0)], 2)
    alone = simulate([(0, 16, 30, 0)], 2)
    own = LINEAR["constant"] + LINEAR["prefill_tokens"]
    assert run.seconds[at.FIRST_TOKEN, 1] > 0.0625 + own + 0.005, "it came when a step was under way"
    assert run.seconds[at.FINISH, 0] >= alone.seconds[at.FINISH, 0]


@given(rows=rows_of_requests, gangs=st.integers(1, 2))
def test_steps_of_a_gang_never_overlap_in_part(rows: Rows, gangs: int) -> None:
    """Everything is served, and no gang is faster than its members would be alone."""
    run, alone = simulate(rows, 2, 2 * gangs), simulate(rows, 1, 2 * gangs)
    done = run.jobs[at.STATE] == at.FINISHED_STATE
    assert (run.jobs[at.STATE] == alone.jobs[at.STATE]).all()
    assert run.seconds[at.FINISH, done].sum() >= alone.seconds[at.FINISH, done].sum() - 1e-9
    assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    for first in range(0, 2 * gangs, 2):
        ends = [
            set(np.round(run.seconds[at.FINISH, done & (run.jobs[at.HOST] == host)], 9)) for host in (first, first + 1)
        ]
        assert all(np.isfinite(list(each)).all() for each in ends)


def test_a_gang_that_is_not_whole(tmp_path: Any, shared_data: Any) -> None:
    tables = shared_data / "traces/llmservingsim/perf/RTXPRO6000/Qwen3-30B-A3B-Instruct-2507"
    fleet = {
        "model": "qwen3-30b-a3b",
        "gpu": "rtx-pro-6000",
        "count": 3,
        "timing": {"tables": str(tables), "format": "llmservingsim", "expert_parallel": 2},
    }
    document: dict[str, Any] = {
        "world": "serving",
        "workload": {"generate": {"kind": "chat", "requests": 5, "rate": 1.0}},
        "fleet": [fleet],
        "policies": [{"name": "a"}],
    }
    with pytest.raises(InputError, match="make it a multiple"):
        parse(document, tmp_path)
    fleet["timing"]["expert_parallel"] = 3
    with pytest.raises(InputError, match="128 experts cannot be divided among 3"):
        parse(document, tmp_path)
