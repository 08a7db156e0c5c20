"""Pools decide the same whoever keeps the accounts and whoever is asked: a rule in the kernel, Python asked by the kernel, Python alone. To the bit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import NotRevealed, PolicyError
from rota.kernel.tables import FloatColumn, Hosts, IntColumn, Jobs
from rota.rules import ORDERS, PLACES
from rota.worlds.serving.energy import EnergyPlan
from rota.worlds.serving.fleet import Outage, Plan, Scaling
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.links import Link
from rota.worlds.serving.metrics import outcomes, summarise
from rota.worlds.serving.model import Workload, make_workload
from rota.worlds.serving.policies import CLOCKS, SCALERS, AccellmPairs, MixedPool
from rota.worlds.serving.pool_rules import Halves
from rota.worlds.serving.pools import Assignment, Pools
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.test_energy import ROW
from tests.worlds.serving.test_twin_fleet import replica
from tests.worlds.serving.test_twin_fleet import workload as workload_of

NAMES = ("vllm_v0", "vllm_v1", "sarathi", "splitwise")


class AskedMixed(MixedPool):
    """The same answers, but from an `assign` of its own: it is asked."""

    def assign(self, jobs: Jobs, hosts: Hosts, now: float) -> Assignment | None:
        return super().assign(jobs, hosts, now)


class ToldMixed(MixedPool):
    """Wants to be told of every token: then Python keeps the accounts."""

    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        """Nothing to do."""


class AskedPairs(AccellmPairs):
    def moves(self, hosts: Hosts, now: float) -> Sequence[tuple[int, int, int]]:
        return super().moves(hosts, now)


class ToldPairs(AccellmPairs):
    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        """Nothing to do."""


@dataclass
class Round(Pools):
    """A policy that has no rule: everything moves round, and the last host is lent."""

    mirrored: float = 0.0625
    reads = ("decoding", "waiting", "role")

    def assign(self, jobs: Jobs, hosts: Hosts, now: float) -> Assignment | None:
        return Assignment(0, min(1, len(hosts) - 1), (len(hosts) - 1,))

    def moves(self, hosts: Hosts, now: float) -> Sequence[tuple[int, int, int]]:
        count = len(hosts)
        return [(a, (a + 1) % count, 3) for a in range(count) if hosts.decoding[a] > 0 and count > 1] * 3


class ToldRound(Round):
    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        """Nothing to do."""


@dataclass
class Weighted(Pools):
    """A rule of one's own, and what it says in Python."""

    limit: float = 30.0
    reads = (
        *("role", "up", "joined", "waiting", "queued", "decoding", "outstanding_tokens", "assigned_tokens", "capacity_tokens"),
    )  # fmt: skip
    reads_job = ("prompt_tokens",)

    def rule(self) -> Halves:
        return Halves(
            {"queued": 4.0, "decoding": 0.3}, {"outstanding_tokens": 0.7, "assigned_tokens": 0.1}, self.limit, False
        )

    def assign(self, jobs: Jobs, hosts: Hosts, now: float) -> Assignment | None:
        rows = [r for r in range(len(hosts)) if hosts.up[r] > 0]
        prompt = float(jobs.prompt_tokens[0])
        queue = 4.0 * hosts.queued + 0.3 * hosts.decoding
        memory = 0.7 * hosts.outstanding_tokens + 0.1 * hosts.assigned_tokens

        def least(cost: Any, role: int) -> int | None:
            return min(
                (r for r in rows if hosts.role[r] == role), key=lambda r: (cost[r], hosts.joined[r]), default=None
            )

        def fit(cost: Any, roles: Sequence[int], unfit: Callable[[int], bool]) -> int | None:
            found = [r for role in roles if (r := least(cost, role)) is not None and not unfit(r)]
            return found[0] if found else None

        first = fit(queue, (1, 0), lambda r: bool(hosts.waiting[r] > 0 and queue[r] + prompt > self.limit))
        second = fit(memory, (2, 0), lambda r: bool(memory[r] + prompt >= hosts.capacity_tokens[r]))
        lend = [first := least(queue, 2)] if first is None else []
        lend += [second := least(memory, 1)] if second is None else []
        if first is None or second is None:
            order = {1: 0, 0: 1, 2: 2}
            first = second = min(
                rows, key=lambda r: (queue[r], order[int(hosts.role[r])], hosts.joined[r]), default=None
            )
        if first is None or second is None:
            return None
        return Assignment(first, second, tuple(r for r in lend if r is not None))


class AskedWeighted(Weighted):
    def assign(self, jobs: Jobs, hosts: Hosts, now: float) -> Assignment | None:
        return super().assign(jobs, hosts, now)


@dataclass
class Turning(MixedPool):
    """The mixed pool whose roles turn now and then."""

    every: float = 0.45

    def roles(self, hosts: Hosts, now: float) -> list[int]:
        return [{0: 1, 1: 2, 2: 0}[int(role)] for role in hosts.role]


class ToldTurning(Turning):
    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        """Nothing to do."""


@dataclass
class Scene:
    """A random fleet under pools; the same one for every policy."""

    seed: int

    def workload(self, draw: np.random.Generator) -> Workload:
        gaps = draw.integers(0, 4, 60) * draw.integers(0, 2, 60)
        sizes = zip(np.cumsum(gaps).tolist(), draw.integers(1, 17, 60), draw.integers(1, 24, 60), strict=True)
        return workload_of([(k, int(a), int(b), 0) for k, a, b in sizes][: int(draw.integers(1, 60))])

    def fleet(self, draw: np.random.Generator, cache: bool) -> list[Replica]:
        roles = [str(each) for each in draw.choice(["prefill", "decode", "mixed"], int(draw.integers(1, 7)))]
        if len(set(roles)) == 1:
            roles[0] = "mixed"
        one = replica(str(draw.choice(NAMES)), kv_blocks=int(draw.choice([12, 20, 40, 200])))
        swap = {
            "swap_blocks": 8,
            "swap_bandwidth": 2048.0,
            "swap_per_copy": 0.001,
            "swap_group": 2,
            "swap_compress": 0.5,
        }
        memory = swap if draw.random() < 0.3 else {}
        return [replace(one, role=role, kv_bytes=16.0, prefix_caching=cache, **memory) for role in roles]  # type: ignore[arg-type]

    def run(self, made: Callable[[np.random.Generator], Pools], until: float = np.inf) -> Simulation:
        draw = np.random.default_rng(self.seed)
        policy = made(draw)
        work = self.workload(draw)
        fleet = self.fleet(draw, policy.mirrored == np.inf and draw.random() < 0.3)
        hosts = len(fleet)
        link = Link(float(draw.choice([512.0, 1e9])), float(draw.choice([0.0, 0.015625])), 0.5, *(draw.random(2) < 0.5))
        away = [(h, float(draw.random() * 3)) for h in range(hosts) if draw.random() < 0.25]
        outages = [iter([Outage(h, s, s + 1.3), Outage(h, s + 4.0, s + 5.0)]) for h, s in away]
        scaled, power = draw.random() < 0.2 and hosts > 2, draw.random() < 0.2
        energy = EnergyPlan(np.array([ROW] * hosts), np.array([True] * hosts), 900.0, 0.1) if power else None
        roles = Roles(
            ORDERS["fcfs"](),
            PLACES["least_outstanding"](),
            ORDERS["fcfs"](),
            decode=PLACES[str(draw.choice(["least_outstanding", "power_of_two"]))](),
            pool=policy,
            scale=SCALERS["reactive"](per_replica=2.0, every=0.1) if scaled else None,
            clocks=CLOCKS["polca"](delay=0.2, every=0.1) if power else None,
        )
        assert roles.decode is not None
        roles.decode.bind(np.random.default_rng(1))
        scaling = Scaling(max(1, hosts - 1), hosts, hosts - 1, 0.2)
        visible = work.output_tokens * float(draw.choice([1.0, 1.1]))
        closed = {"concurrency": 5, "think": draw.random(len(work))} if draw.random() < 0.15 else {}
        run = Simulation(
            work, fleet, roles, visible, plan=Plan(link, outages=outages, scaling=scaling, energy=energy), **closed
        )  # type: ignore[arg-type]
        if draw.random() < 0.2:
            run.run(float(draw.random() * 2))  # stepping through time changes nothing
        run.run(until)
        return run


def assert_same(one: Simulation, other: Simulation) -> None:
    """Every number that the two runs have left behind."""
    addresses = [at.TIMING_ENTRY, at.TIMING_PARAMETERS]
    pairs: dict[str, tuple[Any, Any]] = {
        "hosts": (np.delete(one.hosts, addresses, 1), np.delete(other.hosts, addresses, 1)),
        **{name: (getattr(one, name), getattr(other, name)) for name in ("seconds", "clocks", "series", "histogram")},
    }
    for each in range(at.JOB_INTS):
        pairs[f"jobs {each}"] = one.jobs[each], other.jobs[each]
    for name in ("moves", "migrations", "moved_bytes", "swaps", "crashes", "stranded_seconds"):
        pairs[name] = getattr(one.fleet, name), getattr(other.fleet, name)
    assert one.fleet is not None
    assert other.fleet is not None
    for name in ("lends", "switches", "dropped", "assigned", "tokens", "home", "copies"):
        pairs[name] = getattr(one.fleet.pools, name), getattr(other.fleet.pools, name)
    for name, (a, b) in pairs.items():
        same = (
            a == b
            if isinstance(a, dict)
            else np.array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64), True)
        )
        assert same, f"{name}: {a} is not {b}"


def mixed(kind: type[MixedPool]) -> Callable[[np.random.Generator], Pools]:
    return lambda draw: kind(queue_tokens=int(draw.integers(5, 60)), knows_answers=bool(draw.integers(0, 2)))


def pairs(kind: type[AccellmPairs]) -> Callable[[np.random.Generator], Pools]:
    return lambda draw: kind(
        float(draw.choice([0.02, 0.0625, 0.2])), int(draw.integers(2, 5)), float(draw.integers(0, 40))
    )


seeds = st.integers(0, 1 << 30)


@settings(max_examples=60)
@given(seeds)
def test_the_mixed_pool_three_ways(seed: int) -> None:
    ruled, asked, told = (Scene(seed).run(mixed(kind)) for kind in (MixedPool, AskedMixed, ToldMixed))
    assert ruled.questions.place == 0
    assert asked.questions.place >= (ruled.jobs[at.STATE] == at.FINISHED_STATE).sum()
    assert_same(ruled, asked)
    assert_same(ruled, told)


@settings(max_examples=60)
@given(seeds)
def test_accellm_three_ways(seed: int) -> None:
    ruled, asked, told = (Scene(seed).run(pairs(kind)) for kind in (AccellmPairs, AskedPairs, ToldPairs))
    assert ruled.questions.place == 0
    assert_same(ruled, asked)
    assert_same(ruled, told)


@settings(max_examples=40)
@given(seeds)
def test_other_policies_two_ways(seed: int) -> None:
    """Without a rule; with a rule of one's own; with roles that turn."""
    for ours, theirs in ((Round, ToldRound), (Weighted, AskedWeighted), (Turning, ToldTurning)):
        assert_same(Scene(seed).run(lambda _, kind=ours: kind()), Scene(seed).run(lambda _, kind=theirs: kind()))  # type: ignore[misc]


def test_the_random_fleets_do_what_is_compared() -> None:
    """They lend, move, drop copies and crash: the comparisons above are not of runs in which nothing happens."""
    runs = [Scene(seed).run(made) for seed in range(40) for made in (mixed(MixedPool), pairs(AccellmPairs))]
    fleets = [run.fleet for run in runs if run.fleet is not None]
    pools = [fleet.pools for fleet in fleets if fleet.pools is not None]
    assert all(fleet.engine is not None for fleet in fleets)
    for count in (
        sum(book.lends for book in pools),
        sum(book.dropped for book in pools),
        sum(fleet.migrations for fleet in fleets),
        sum(fleet.crashes for fleet in fleets),
        sum(fleet.swaps for fleet in fleets),
    ):
        assert count > 20


class Logged(AskedPairs):
    """Writes down what it is told, and what it had been told when it was asked."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.log: list[tuple[Any, ...]] = []

    def on_start(self, job: int, host: int, now: float) -> None:
        self.log.append(("start", job, host, now))

    def on_preempt(self, job: int, host: int, now: float) -> None:
        self.log.append(("preempt", job, host, now))

    def on_finish(self, job: int, host: int, now: float) -> None:
        self.log.append(("finish", job, host, now))

    def assign(self, jobs: Jobs, hosts: Hosts, now: float) -> Assignment | None:
        self.log.append(("assign", now))
        return super().assign(jobs, hosts, now)

    def moves(self, hosts: Hosts, now: float) -> Sequence[tuple[int, int, int]]:
        self.log.append(("moves", now))
        return super().moves(hosts, now)


class ToldLogged(Logged):
    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        """Nothing to do."""


@settings(max_examples=30)
@given(seeds)
def test_who_is_asked_knows_what_has_happened(seed: int) -> None:
    ours, theirs = Scene(seed).run(pairs(Logged)), Scene(seed).run(pairs(ToldLogged))
    assert_same(ours, theirs)
    assert isinstance(ours.roles.pool, Logged)
    assert isinstance(theirs.roles.pool, Logged)
    assert ours.roles.pool.log == theirs.roles.pool.log
    assert any(line[0] == "finish" for line in ours.roles.pool.log)


# -- who is asked -----------------------------------------------------------------------------------------------------


def small_run(policy: Pools, visible: bool = True) -> Simulation:
    work = make_workload(np.arange(6) * 0.1, np.full(6, 9), np.full(6, 12))
    fleet = [replace(replica("vllm_v1"), role=role, kv_bytes=16.0) for role in ("prefill", "decode", "mixed")]
    roles = Roles(ORDERS["fcfs"](), PLACES["round_robin"](), ORDERS["fcfs"](), pool=policy)
    run = Simulation(work, fleet, roles, work.output_tokens.astype(np.float64) if visible else None)
    run.run()
    return run


def test_who_writes_an_assign_of_his_own_is_asked() -> None:
    assert small_run(MixedPool()).questions.place == 0
    assert small_run(AskedMixed()).questions.place == 6


def test_hidden_answers_are_not_read_by_the_kernel_either() -> None:
    with pytest.raises(NotRevealed, match="output_tokens is hidden"):
        small_run(MixedPool(), visible=False)
    assert small_run(MixedPool(knows_answers=False), visible=False).questions.place == 0


@pytest.mark.parametrize(("reads", "message"), [
    (("queued",), "column outstanding_tokens was not declared: add it to `reads`"),
    (("queued", "outstanding_token"), "no cost is made of outstanding_token; did you mean 'outstanding_tokens'"),
])  # fmt: skip
def test_a_rule_reads_what_it_declares(reads: tuple[str, ...], message: str) -> None:
    class Blind(Weighted):
        def rule(self) -> Halves:
            return Halves({"queued": 1.0}, {reads[-1] if len(reads) > 1 else "outstanding_tokens": 1.0}, 9.0, False)

    Blind.reads = reads  # type: ignore[assignment]
    with pytest.raises(PolicyError, match=message):
        small_run(Blind())


def test_the_agenda_may_grow_while_time_passes() -> None:
    """More room on the agenda in the middle of a run, with KV on its way, changes nothing."""
    plain, grown = Scene(70).run(pairs(AccellmPairs)), Scene(70).run(pairs(AccellmPairs), until=0.5)
    assert grown.fleet is not None
    assert grown.fleet.engine is not None
    assert grown.fleet.engine.pending
    grown.fleet.engine._room_for_actions(5000)
    grown.run()
    assert_same(plain, grown)


def test_what_was_measured_is_told_when_a_run_is_stopped() -> None:
    """Stopped half way, the counts are those of that moment; at the end the metrics are the same as under Python's accounts."""
    half, whole = Scene(70).run(pairs(AccellmPairs), until=0.5), Scene(70).run(pairs(AccellmPairs))
    told = Scene(70).run(pairs(ToldPairs))
    assert half.fleet is not None
    assert whole.fleet is not None
    assert 0 < half.fleet.moved_bytes < whole.fleet.moved_bytes
    first, second = (summarise(run, outcomes(run, Slo())) for run in (whole, told))
    assert first.keys() == second.keys()
    assert all(first[name] == second[name] or np.isnan(first[name]) for name in first)
