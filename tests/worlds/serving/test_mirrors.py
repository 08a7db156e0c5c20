"""Copies of KV at a partner: nothing is lost, moving costs nothing but the wait for an iteration's end, copies go before requests do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.errors import InputError, PolicyError
from rota.kernel.tables import Hosts, Jobs
from rota.study.scenario import read
from rota.worlds.serving.columns import SERVING_HOST_COLUMNS
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.links import Link
from rota.worlds.serving.metrics import outcomes, series, summarise
from rota.worlds.serving.model import make_workload
from rota.worlds.serving.policies import POOLS
from rota.worlds.serving.pools import POOL_COLUMNS, Assignment, Pools
from rota.worlds.serving.replica import Replica
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.verify import verify
from tests.worlds.serving.test_twin_fleet import Rows, replica, rows_of_requests, workload
from tests.worlds.serving.test_twin_moves import outages, outages_of_hosts
from tests.worlds.serving.test_twin_pools import blocks_in_use_are_there, run_pools

LINK = Link(4096.0, 0.0, push=True)


def fleet_of(name: str, count: int, **settings: int) -> list[Replica]:
    return [replace(replica(name, **settings), kv_bytes=16.0)] * count


@dataclass
class PingPong(Pools):
    """Prompt on 0, decode on 1; then everything changes sides at every question."""

    mirrored: float = 0.07
    fixed: bool = False
    reads = ("decoding",)

    def assign(self, jobs: Jobs, hosts: Hosts, now: float) -> Assignment | None:
        return Assignment(0, 1)

    def moves(self, hosts: Hosts, now: float) -> Sequence[tuple[int, int, int]]:
        return () if self.fixed else [(a, 1 - a, 9) for a in (0, 1) if hosts.decoding[a] > 0]


def test_changing_sides_takes_no_time() -> None:
    """One request on two equal hosts: it is moved many times, and every token comes when it would have come."""
    work = make_workload(np.array([0.0]), np.array([8]), np.array([24]))
    moved, fixed = (
        run_pools(work, fleet_of("vllm_v1", 2, kv_blocks=60), PingPong(fixed=flag), LINK) for flag in (False, True)
    )
    assert moved.fleet is not None
    assert moved.fleet.migrations > 3
    assert moved.seconds[at.FINISH, 0] == pytest.approx(fixed.seconds[at.FINISH, 0], rel=1e-12)
    assert moved.fleet.moves == 1  # the prompt's KV: nothing is sent again


def test_copies_are_brought_up_to_date_and_counted() -> None:
    """A prompt of 8 tokens, 24 of answer: blocks 3 to 8 of 4 tokens are sent as they fill, 5 of them before the last question; 16 bytes a token."""
    work = make_workload(np.array([0.0]), np.array([8]), np.array([24]))
    run = run_pools(work, fleet_of("vllm_v1", 2, kv_blocks=60), PingPong(mirrored=0.01, fixed=True), LINK)
    assert run.fleet is not None
    assert run.fleet.moved_bytes == 8 * 16 + 6 * 4 * 16


@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "splitwise"])
@given(rows=rows_of_requests, drawn=outages_of_hosts, blocks=st.integers(10, 30), hosts=st.integers(1, 5))
def test_nothing_is_lost(name: str, drawn: list[tuple[int, int, int]], rows: Rows, blocks: int, hosts: int) -> None:
    """Pairs, with one left over, short memory and outages: every request ends, every block and promise is given back, the run passes the check."""
    work = workload(rows)
    policy = POOLS["accellm"](refresh=0.05, apart=2)
    run = run_pools(work, fleet_of(name, hosts, kv_blocks=blocks), policy, LINK, outages(drawn, hosts))
    found = outcomes(run, Slo())
    assert (found["status"] != "unfinished").all()
    assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    assert blocks_in_use_are_there(run)
    assert run.fleet is not None
    book = run.fleet.pools
    assert book is not None
    assert not book.copies
    assert not book.assigned.any()
    assert not book.tokens.any()
    width = float(run.clock[at.BIN_SECONDS])
    assert verify(work, run.replicas, found, summarise(run, found), series(run), width) == []


def test_copies_go_before_requests_do() -> None:
    """The host of the prompts has room for two copies at most: others are dropped or not made, nobody is displaced, and prompts hardly wait."""
    work = workload([(k, 8, 12, 0) for k in range(8)])
    wide, narrow = (
        fleet_of("vllm_v1", 2, kv_blocks=60, max_running=8),
        fleet_of("vllm_v1", 2, kv_blocks=10, max_running=8),
    )
    runs = [
        run_pools(work, [first, wide[1]], PingPong(mirrored=0.02, fixed=True), LINK) for first in (wide[0], narrow[0])
    ]
    for run in runs:
        assert run.jobs[at.PREEMPTIONS].sum() == 0
        assert (run.jobs[at.STATE] == at.FINISHED_STATE).all()
    books = [run.fleet.pools for run in runs if run.fleet is not None]
    dropped = [book.dropped for book in books if book is not None]
    assert dropped[0] == 0
    assert dropped[1] > 0
    late = runs[1].seconds[at.FIRST_TOKEN] - runs[0].seconds[at.FIRST_TOKEN]
    assert late.max() < 0.1


def table(**columns: list[float]) -> Hosts:
    values = {name: np.array(column, np.float64) for name, column in columns.items()}
    return Hosts(values, {**SERVING_HOST_COLUMNS, **POOL_COLUMNS}.values(), rows=len(columns["up"]))


def test_the_rules_of_pairs() -> None:
    policy = POOLS["accellm"](apart=4)
    none = Jobs({}, rows=1)
    hosts = table(up=[1, 1, 1, 1], prefill_tokens=[0, 0, 50, 0], assigned=[5, 5, 3, 3], decoding=[9, 2, 4, 6])
    assert policy.assign(none, hosts, 0.0) == Assignment(2, 3)  # the emptier pair, where prompts already are
    assert policy.moves(hosts, 0.0) == [(0, 1, 3), (2, 3, 4)]  # half of the difference; all away from the prompts
    deep = table(up=[1, 1], prefill_tokens=[5000, 0], assigned=[1, 1], decoding=[0, 6])
    assert policy.assign(none, deep, 0.0) == Assignment(1, 0)  # more than its partner should wait for
    hosts = table(up=[1, 1, 1, 0], prefill_tokens=[0, 0, 0, 0], assigned=[1, 1, 0, 0], decoding=[2, 1, 0, 0])
    assert policy.assign(none, hosts, 0.0) == Assignment(2, 2)  # its partner is down: it does both
    assert policy.moves(hosts, 0.0) == []
    assert policy.assign(none, table(up=[0, 0], prefill_tokens=[0, 0], assigned=[0, 0], decoding=[0, 0]), 0.0) is None


class Astray(PingPong):
    def moves(self, hosts: Hosts, now: float) -> Sequence[tuple[int, int, int]]:
        return [(0, 7, 1)]


def test_what_cannot_be(repository: Path) -> None:
    with pytest.raises(PolicyError, match=r"move \(0, 7\) at"):
        run_pools(workload([(0, 8, 12, 0)]), fleet_of("vllm_v1", 2), Astray(), LINK)
    with pytest.raises(InputError, match="accellm: needs refresh > 0"):
        POOLS["accellm"](refresh=0.0)
    scenario = read(repository / "examples/serving/accellm.yaml", ["fleet.0.prefix_caching=true"])
    reason = scenario.world.resolve(scenario.case, scenario.policies[3], repository)
    assert reason is not None
    assert "not modelled beside a prefix cache" in reason
