"""Hosts full of KV that waits for one another: one request decodes where its prompt was computed, nobody waits for ever, and blocks add up at all times."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.tables import FloatColumn, Hosts, IntColumn, Jobs
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.links import Link
from rota.worlds.serving.metrics import outcomes, series, summarise
from rota.worlds.serving.model import PrefixBlocks, make_workload
from rota.worlds.serving.policies.accellm import AccellmPairs
from rota.worlds.serving.pools import Assignment
from rota.worlds.serving.replica import Replica
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.verify import verify
from tests.worlds.serving.test_pool_rules import assert_same
from tests.worlds.serving.test_twin_fleet import LINEAR, Rows, replica, rows_of_requests, workload
from tests.worlds.serving.test_twin_moves import outages, outages_of_hosts
from tests.worlds.serving.test_twin_pools import Told, blocks_in_use_are_there, run_pools


def fleet_of(name: str, count: int, blocks: int) -> list[Replica]:
    return [replace(replica(name, kv_blocks=blocks), kv_bytes=16.0)] * count


class Slowly(Told):
    """Is told of every token, so that Python keeps the accounts."""

    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        """Nothing to do."""


def stays(run: Simulation) -> int:
    assert run.fleet is not None
    assert run.fleet.pools is not None
    return run.fleet.pools.stays


def decode_seconds(prompt: int, tokens: int) -> float:
    """All tokens but the first, one request alone."""
    contexts = prompt + np.arange(tokens - 1)
    return float((LINEAR["constant"] + LINEAR["decodes"] + LINEAR["decode_context"] * contexts).sum())


@pytest.mark.parametrize("kind", [Told, Slowly])
@pytest.mark.parametrize("push", [True, False])
def test_two_hosts_by_hand(kind: type[Told], push: bool) -> None:
    """Prompts of 16 tokens at both of two hosts, each for the other: they fill 4 of 7 blocks, and 4 are needed to go.

    So the first stays where it is. When it has ended the other one's KV, 256 bytes, comes to that host as it was promised, in a sixteenth of a second.
    """
    work = make_workload(np.zeros(2), np.full(2, 16), np.full(2, 8))
    run = run_pools(work, fleet_of("vllm_v1", 2, 7), kind([(0, 1), (1, 0)]), Link(4096.0, 0.0, push=push))
    prompts = LINEAR["constant"] + 16 * LINEAR["prefill_tokens"]
    first = prompts + decode_seconds(16, 8)
    second = first + 256 / 4096 + decode_seconds(16, 8)
    assert stays(run) == 1
    assert run.seconds[at.FINISH] == pytest.approx([first, second], rel=1e-12)
    assert run.jobs[at.HOST].tolist() == [0, 0]
    assert run.fleet is not None
    assert run.fleet.moves == 1
    assert run.jobs[[at.PREEMPTIONS, at.RESTARTS]].sum() == 0  # nothing is computed twice


def test_who_only_waits_is_left_alone() -> None:
    """Two prompts at host 0 for host 1, which has room for one: the other waits for its end, and goes there."""
    work = make_workload(np.array([0.0, 0.01]), np.full(2, 16), np.full(2, 8))
    run = run_pools(work, fleet_of("vllm_v1", 2, 9)[:1] + fleet_of("vllm_v1", 2, 7)[:1], Told([(0, 1)]), Link(4096.0))
    assert stays(run) == 0
    assert run.jobs[at.HOST].tolist() == [1, 1]
    assert (run.jobs[at.STATE] == at.FINISHED_STATE).all()


def test_a_ring_of_three() -> None:
    """Each of three hosts waits for the next one: one stays, and that undoes all of it."""
    work = make_workload(np.zeros(3), np.full(3, 16), np.full(3, 8))
    for kind in (Told, Slowly):
        run = run_pools(work, fleet_of("vllm_v1", 3, 7), kind([(0, 1), (1, 2), (2, 0)]), Link(4096.0))
        assert stays(run) == 1
        assert run.jobs[at.HOST].tolist() == [0, 2, 0]
        assert (run.jobs[at.STATE] == at.FINISHED_STATE).all()


@dataclass
class Watched(AccellmPairs):
    """Looks at the blocks whenever it is asked."""

    free: list[FloatColumn] = field(default_factory=list)
    reads = (*AccellmPairs.reads, "free_blocks")

    def assign(self, jobs: Jobs, hosts: Hosts, now: float) -> Assignment | None:
        self.free.append(hosts.free_blocks)
        return super().assign(jobs, hosts, now)

    def moves(self, hosts: Hosts, now: float) -> Sequence[tuple[int, int, int]]:
        self.free.append(hosts.free_blocks)
        return super().moves(hosts, now)


class ToldWatched(Watched):
    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        """Nothing to do."""


many_requests = st.lists(
    st.tuples(st.integers(0, 6), st.integers(8, 20), st.integers(1, 16), st.integers(0, 2)), min_size=8, max_size=24
)


@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "vllm_v1 ahead", "splitwise"])
@given(
    rows=st.one_of(rows_of_requests, many_requests),
    drawn=outages_of_hosts,
    blocks=st.integers(9, 14),
    hosts=st.integers(2, 5),
    push=st.booleans(),
    backlog=st.integers(0, 40),
)
def test_pairs_with_little_memory(
    name: str, drawn: list[tuple[int, int, int]], rows: Rows, blocks: int, hosts: int, push: bool, backlog: int
) -> None:
    """Every request ends, blocks in use are between none and all of them whenever one looks, and both accounts agree to the bit."""
    work, fleet, link = workload(rows), fleet_of(name, hosts, blocks), Link(1024.0, 0.015625, push=push)
    policies = [kind(refresh=0.05, apart=2, backlog=float(backlog)) for kind in (AccellmPairs, Watched, ToldWatched)]
    ruled, watched, told = (run_pools(work, fleet, policy, link, outages(drawn, hosts)) for policy in policies)
    assert_same(ruled, watched)
    assert_same(ruled, told)
    assert stays(ruled) == stays(watched) == stays(told)
    for policy in policies[1:]:
        assert isinstance(policy, Watched)
        assert all(((free >= 0) & (free <= blocks)).all() for free in policy.free)
    found = outcomes(ruled, Slo())
    assert (found["status"] != "unfinished").all()
    assert (ruled.hosts[:, at.FREE] == ruled.hosts[:, at.KV_BLOCKS]).all()
    width = float(ruled.clock[at.BIN_SECONDS])
    assert blocks_in_use_are_there(ruled)
    metrics = summarise(ruled, found)
    assert 0 <= metrics["kv_utilisation"] <= 1 + 1e-9
    assert verify(work, ruled.replicas, found, metrics, series(ruled), width) == []


def test_there_are_knots_in_what_is_compared() -> None:
    """Many long prompts at once on two small hosts: they wait for one another, more than once."""
    draw = np.random.default_rng(0)
    found = 0
    for _ in range(10):
        rows = [
            (0, int(p), int(o), 0) for p, o in zip(draw.integers(12, 21, 20), draw.integers(4, 17, 20), strict=True)
        ]
        run = run_pools(
            workload(rows), fleet_of("vllm_v1", 2, 10), AccellmPairs(refresh=0.05, backlog=20.0), Link(1024.0)
        )
        assert (run.jobs[at.STATE] == at.FINISHED_STATE).all()
        found += stays(run)
    assert found > 10


@pytest.mark.parametrize("kind", [Told, Slowly])
def test_two_hosts_with_prefix_caches(kind: type[Told]) -> None:
    """What is named keeps its name, and nobody holds a block at the end."""
    names = [np.arange(4) + 4 * k for k in (0, 1, 0, 1)]
    prefix = PrefixBlocks(np.arange(5) * 4, np.concatenate(names), 4)
    work = make_workload(np.zeros(4), np.full(4, 16), np.full(4, 8), prefix=prefix)
    fleet = [replace(each, prefix_caching=True) for each in fleet_of("vllm_v1", 2, 7)]
    run = run_pools(work, fleet, kind([(0, 1), (1, 0)]), Link(4096.0, 0.0))
    assert stays(run) >= 1
    assert (run.jobs[at.STATE] == at.FINISHED_STATE).all()
    assert (run.hosts[:, at.FREE] == 7).all()
