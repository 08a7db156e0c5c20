"""The simulator equals its slow twin where requests move between hosts and hosts go down."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.rules import ORDERS, PLACES
from rota.worlds.serving.fleet import Outage, Plan
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.links import Link
from rota.worlds.serving.model import Workload
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.slow_fleet import outstanding
from tests.worlds.serving.slow_moves import SlowMoves
from tests.worlds.serving.test_twin_fleet import FCFS, Rows, replica, rows_of_requests, workload
from tests.worlds.serving.twin import same, slow_requests

LINK = Link(bandwidth=1024.0, latency=0.015625, overlap=0.5)


def compare(work: Workload, fleet: Sequence[Replica], link: Link = LINK, outages: Sequence[Outage] = ()) -> Simulation:
    by_host = {
        host: iter([each for each in outages if each.host == host]) for host in sorted({each.host for each in outages})
    }
    roles = Roles(
        ORDERS["fcfs"](), PLACES["least_outstanding"](), ORDERS["fcfs"](), decode=PLACES["least_outstanding"]()
    )
    run = Simulation(
        work, fleet, roles, work.output_tokens.astype(np.float64), plan=Plan(link, outages=list(by_host.values()))
    )
    run.run()
    slow = slow_requests(work)
    twin = SlowMoves(fleet, FCFS().ranking(), outstanding, outstanding, link, outages)
    twin.run(slow)
    same(run, slow)
    assert run.jobs[at.RESTARTS].tolist() == [r.restarts for r in slow]
    assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    return run


def split(name: str, **settings: int) -> list[Replica]:
    prefill = replica(name, kv_blocks=9, **settings)
    return [replace(each, kv_bytes=16.0) for each in (
        replace(prefill, role="prefill"), replace(replica(name, 2.0), role="prefill"), replace(replica(name), role="decode"),
        replace(replica(name, 0.5, kv_blocks=8), role="decode"), replace(replica(name, 4.0), role="mixed"))]  # fmt: skip


@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "vllm_v1 ahead", "sarathi", "orca", "static"])
@pytest.mark.parametrize("hosts", [(0, 2), (0, 1, 2, 3), (0, 3, 4)])
@given(rows=rows_of_requests)
def test_prompts_here_and_answers_there(name: str, hosts: tuple[int, ...], rows: Rows) -> None:
    fleet = split(name)
    run = compare(workload(rows), [fleet[k] for k in hosts])
    assert (run.jobs[at.SOURCE] == 0).all()


outages_of_hosts = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 30)), max_size=6)


def test_prompts_that_land_together_are_decoded_together() -> None:
    """Two equal prompts of one iteration, links of their own, no latency: both are in the first iteration of the host that decodes."""
    fleet = [
        replace(replica("vllm_v1"), role="prefill", kv_bytes=16.0),
        replace(replica("vllm_v1"), role="decode", kv_bytes=16.0),
    ]
    run = compare(workload([(0, 2, 3, 0), (0, 2, 3, 0)]), fleet, Link(bandwidth=1024.0))
    assert run.seconds[at.FINISH, 0] == run.seconds[at.FINISH, 1]


def outages(drawn: list[tuple[int, int, int]], hosts: int) -> list[Outage]:
    """Times between those of everything else; a host is away once at a time."""
    found: list[Outage] = []
    for host, start, length in sorted(drawn):
        begin = start * 0.0625 + 0.0117
        if host < hosts and all(each.host != host or each.end < begin for each in found):
            found.append(Outage(host, begin, begin + length * 0.0625 + 0.0031 * (host + 1)))
    return found


@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "vllm_v1 ahead", "sarathi"])
@given(rows=rows_of_requests, drawn=outages_of_hosts)
def test_hosts_that_go_down(name: str, drawn: list[tuple[int, int, int]], rows: Rows) -> None:
    compare(workload(rows), [replica(name), replica(name, 2.0)], outages=outages(drawn, 2))


@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "vllm_v1 ahead", "sarathi"])
@given(rows=rows_of_requests, drawn=outages_of_hosts)
def test_split_hosts_that_go_down(name: str, drawn: list[tuple[int, int, int]], rows: Rows) -> None:
    compare(workload(rows), split(name)[:4], outages=outages(drawn, 4))


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "vllm_v1 ahead", "sarathi"])
@given(rows=rows_of_requests, room=st.integers(1, 12), drawn=outages_of_hosts)
def test_displaced_requests_are_swapped(
    name: str, blocking: bool, room: int, drawn: list[tuple[int, int, int]], rows: Rows
) -> None:
    """To the host's memory while there is room in it, otherwise they compute again."""
    _swapped(name, {"swap_blocking": blocking}, room, drawn, rows)


@pytest.mark.parametrize(
    "more",
    [
        {"swap_per_copy": 0.0625, "swap_group": 2},
        {"swap_reuse": True},
        {"swap_reuse": True, "swap_per_copy": 0.03125, "swap_group": 3, "swap_compress": 0.5},
        {"swap_reuse": True, "swap_blocking": False, "swap_per_copy": 0.5},
    ],
)
@pytest.mark.parametrize("name", ["vllm_v1", "vllm_v1 ahead"])
@given(rows=rows_of_requests, room=st.integers(1, 16), drawn=outages_of_hosts)
def test_what_a_copy_costs_and_what_is_copied_once(
    name: str, more: dict[str, Any], room: int, drawn: list[tuple[int, int, int]], rows: Rows
) -> None:
    _swapped(name, more, room, drawn, rows)


def _swapped(name: str, more: dict[str, Any], room: int, drawn: list[tuple[int, int, int]], rows: Rows) -> None:
    swap = {"swap_blocks": room, "swap_bandwidth": 2048.0, "kv_bytes": 16.0} | more
    fleet = [replica(name, kv_blocks=8, **swap), replica(name, 2.0, kv_blocks=6, **swap)]
    run = compare(workload(rows), fleet, outages=outages(drawn, 2))
    assert (run.hosts[:, at.SWAP_ROOM] == room).all()
