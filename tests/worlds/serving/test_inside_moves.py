"""What goes on inside a replica, where requests move between replicas, are swapped, and replicas go down: equal to the slow twin."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.replica import Replica
from tests.worlds.serving.test_inside_twin import ENGINE, MADE, Rows, replica, rows_of_requests, workload
from tests.worlds.serving.test_speculative import MADE as DRAFTS
from tests.worlds.serving.test_twin_moves import compare, outages, outages_of_hosts

NAMES = [*MADE, *(f"draft: {name}" for name in DRAFTS)]


def made(name: str, **shape: Any) -> Replica:
    """A replica with one of the mechanisms; drafts on the batcher of vLLM."""
    if name.startswith("draft: "):
        from rota.worlds.serving.policies import VllmV1

        return replica(VllmV1().rules(ENGINE), speculative=DRAFTS[name.removeprefix("draft: ")], **shape)
    return replica(MADE[name].rules(ENGINE), **shape)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(rows=rows_of_requests, drawn=outages_of_hosts)
def test_hosts_that_go_down(name: str, drawn: list[tuple[int, int, int]], rows: Rows) -> None:
    compare(workload(rows), [made(name), made(name, kv_blocks=9)], outages=outages(drawn, 2))


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(rows=rows_of_requests, room=st.integers(1, 12), drawn=outages_of_hosts)
def test_displaced_requests_are_swapped(
    name: str, blocking: bool, room: int, drawn: list[tuple[int, int, int]], rows: Rows
) -> None:
    swap = {"swap_blocks": room, "swap_bandwidth": 2048.0, "swap_blocking": blocking, "kv_bytes": 16.0}
    run = compare(workload(rows), [made(name, kv_blocks=8, **swap)] * 2, outages=outages(drawn, 2))
    assert (run.hosts[:, at.SWAP_ROOM] == room).all()


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("semi_pd")])
@settings(max_examples=20)
@given(rows=rows_of_requests, drawn=outages_of_hosts)
def test_prompts_here_and_answers_there(name: str, drawn: list[tuple[int, int, int]], rows: Rows) -> None:
    fleet = [replace(made(name), role=role, kv_bytes=16.0) for role in ("prefill", "decode", "mixed")]
    compare(workload(rows), fleet, outages=outages(drawn, 3))
