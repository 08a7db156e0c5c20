"""The simulator equals its slow twin where a request is promised two hosts when it comes, KV is pushed, and hosts are lent."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.errors import PolicyError
from rota.kernel.tables import Hosts, Jobs
from rota.rules import ORDERS, PLACES
from rota.worlds.serving.fleet import Outage, Plan
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.links import Link
from rota.worlds.serving.metrics import outcomes, series, summarise
from rota.worlds.serving.model import Workload, make_workload
from rota.worlds.serving.policies import POOLS
from rota.worlds.serving.pools import Assignment, Pools
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.verify import verify
from tests.worlds.serving.slow import Request
from tests.worlds.serving.slow_moves import SlowMoves
from tests.worlds.serving.test_twin_fleet import FCFS, Rows, replica, rows_of_requests, workload
from tests.worlds.serving.test_twin_moves import outages, outages_of_hosts
from tests.worlds.serving.twin import same, slow_requests

Pairs = list[tuple[int, int]]


class Told(Pools):
    """The pairs that a test wants, by the number of the request."""

    reads_job = ("id",)

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        self.pairs = pairs

    def assign(self, jobs: Jobs, hosts: Hosts, now: float) -> Assignment | None:
        return Assignment(*self.pairs[int(jobs.id[0]) % len(self.pairs)])


class SlowPools(SlowMoves):
    """Each request has its pair; where links push, its KV goes at once if there is a slot, room, and nobody waits for it."""

    def __init__(self, replicas: Sequence[Replica], pairs: Pairs, link: Link) -> None:
        super().__init__(replicas, FCFS().ranking(), link=link)
        self.pairs = pairs

    def choose(self, r: Request) -> int | None:
        prompt, r.goes_to = self.pairs[r.number % len(self.pairs)]
        return prompt

    def hand_over(self, r: Request) -> None:
        assert r.goes_to is not None
        engine = self.engines[r.goes_to]
        r.host = r.goes_to
        full = len(engine.running) + len(engine.lagging) >= engine.replica.max_running
        blocked = full or not engine.fits(r, 0, []) or any(each.source is not None for each in engine.waiting)
        if not self.link.push or blocked:
            engine.receive(r, self.now)
            return
        engine.decisions += 1
        r.moving = True
        engine.pool.extend(r, max(engine.set_aside(r, 0, []), r.target))
        engine.running.append(r)
        engine.moved.append(r)
        self.fly()

    def fly(self) -> None:
        """What was pushed begins to move."""
        moved = sorted((r for engine in self.engines for r in engine.moved), key=lambda r: r.number)
        for engine in self.engines:
            engine.moved = []
        for r in moved:
            assert r.source is not None
            assert r.host is not None
            self.carry()
            size = r.source.replica.kv_bytes * r.target * (1.0 - self.link.overlap)
            self.flying.append([r, r.source, self.engines[r.host], size])

    def pace(self, source: object, target: object) -> float:
        return super().pace(source, target) if self.link.shared else self.link.bandwidth  # type: ignore[arg-type]


def fleet_of(name: str) -> list[Replica]:
    roles = ("prefill", "decode", "mixed")
    slower = (1.0, 2.0, 0.5)
    return [replace(replica(name, s), role=role, kv_bytes=16.0) for role, s in zip(roles, slower, strict=True)]


def run_pools(
    work: Workload, fleet: list[Replica], policy: Pools, link: Link, away: Sequence[Outage] = ()
) -> Simulation:
    roles = Roles(ORDERS["fcfs"](), PLACES["round_robin"](), ORDERS["fcfs"](), pool=policy)
    hosts = sorted({each.host for each in away})
    lines = [iter([each for each in away if each.host == host]) for host in hosts]
    run = Simulation(work, fleet, roles, work.output_tokens.astype(np.float64), plan=Plan(link, outages=lines))
    run.run()
    return run


def blocks_in_use_are_there(run: Simulation) -> bool:
    """Whether every host had between none and all of its blocks in use, on the mean of every interval of the series."""
    width = float(run.clock[at.BIN_SECONDS])
    used, whole = run.series[:, :, at.S_KV], run.hosts[:, [at.KV_BLOCKS]] * width
    return bool(((used >= 0) & (used <= whole * (1 + 1e-9))).all())


pairs_of_hosts = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=6)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("push", [True, False])
@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "sarathi", "splitwise"])
@given(rows=rows_of_requests, pairs=pairs_of_hosts)
def test_promised_pairs(name: str, push: bool, shared: bool, rows: Rows, pairs: Pairs) -> None:
    work, fleet = workload(rows), fleet_of(name)
    link = Link(1024.0, 0.015625, 0.5, shared=shared, push=push)
    run = run_pools(work, fleet, Told(pairs), link)
    slow = slow_requests(work)
    SlowPools(fleet, pairs, link).run(slow)
    same(run, slow)
    assert run.fleet is not None
    assert run.fleet.pools is not None
    book = run.fleet.pools
    assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    assert not book.assigned.any()
    assert not book.tokens.any()
    assert not book.lent
    assert run.hosts[:, at.ROLE].tolist() == [at.PREFILL_ROLE, at.DECODE_ROLE, at.MIXED_ROLE]


@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "sarathi", "splitwise"])
@given(rows=rows_of_requests, drawn=outages_of_hosts, push=st.booleans())
def test_nothing_is_lost_when_pools_fail(name: str, drawn: list[tuple[int, int, int]], rows: Rows, push: bool) -> None:
    """Under the mixed pool with outages: every request ends, blocks and promises are all given back, and the run passes the independent check."""
    work = workload(rows)
    policy, link = POOLS["mixed_pool"](queue_tokens=20), Link(1024.0, 0.015625, push=push)
    run = run_pools(work, fleet_of(name), policy, link, outages(drawn, 3))
    rows_out = outcomes(run, Slo())
    tall = (
        work.prompt_tokens > 16 if name == "vllm_v0" else np.zeros(len(work), np.bool_)
    )  # whole prompts in a batch of 16
    assert np.array_equal(rows_out["status"] == "finished", ~tall)
    assert run.fleet is not None
    assert run.fleet.pools is not None
    assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    assert not run.fleet.pools.assigned.any()
    assert not run.fleet.pools.tokens.any()
    assert blocks_in_use_are_there(run)
    width = float(run.clock[at.BIN_SECONDS])
    assert verify(work, run.replicas, rows_out, summarise(run, rows_out), series(run), width) == []


@dataclass
class Turning(Pools):
    """All hosts compute prompts for a while, but one; then all roles turn."""

    every: float = 0.4
    reads = ("role",)

    def assign(self, jobs: Jobs, hosts: Hosts, now: float) -> Assignment | None:
        prompts, answers = np.flatnonzero(hosts.role != 2), np.flatnonzero(hosts.role != 1)
        return Assignment(int(prompts[0]), int(answers[-1]))

    def roles(self, hosts: Hosts, now: float) -> list[int]:
        return [{0: 1, 1: 2, 2: 0}[int(role)] for role in hosts.role]


@pytest.mark.parametrize("name", ["vllm_v1", "splitwise"])
@given(rows=rows_of_requests)
def test_roles_that_change_while_hosts_run(name: str, rows: Rows) -> None:
    work = workload(rows)
    run = run_pools(work, fleet_of(name), Turning(), Link(1024.0, 0.015625))
    assert (run.jobs[at.STATE] == at.FINISHED_STATE).all()
    assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    assert run.fleet is not None
    assert run.fleet.pools is not None
    last = float(np.nanmax(run.seconds[at.FINISH]) - work.arrival[0])
    assert run.fleet.pools.switches == 3 * int(last / 0.4)


def test_one_request_by_hand() -> None:
    """Prompt of 10 tokens on host 0: 11 + 13 ms. KV of 160 bytes at 1,024 a second, and 15.625 ms: 171.875 ms. Then a decode on host 1, twice as slow."""
    work = make_workload(np.array([1.0]), np.array([10]), np.array([2]))
    run = run_pools(work, fleet_of("vllm_v1"), Told([(0, 1)]), Link(1024.0, 0.015625, push=True))
    first = 1.0 + 0.011 + 10 * 0.0013
    assert run.seconds[at.FIRST_TOKEN, 0] == pytest.approx(first)
    decode = 2.0 * (0.011 + 0.0007 + 10 * 0.00003)
    assert run.seconds[at.FINISH, 0] == pytest.approx(first + 160 / 1024 + 0.015625 + decode)


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(PolicyError, match="hosts are 0 to 2"):
        run_pools(
            make_workload(np.array([1.0]), np.array([10]), np.array([2])), fleet_of("vllm_v1"), Told([(0, 7)]), Link()
        )
