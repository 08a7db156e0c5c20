"""Policies on prefixes: fairness with matches, rings, scores, groups of prompts, priorities that change."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.decisions import Order, Place
from rota.kernel.errors import InputError
from rota.kernel.tables import Hosts, Jobs
from rota.rules import ORDERS, PLACES
from rota.worlds.serving.batching import Engine
from rota.worlds.serving.caching import Index
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.columns import SERVING_JOB_COLUMNS
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import PrefixBlocks, Workload
from rota.worlds.serving.policies import BATCHERS, ROUTES
from rota.worlds.serving.policies.deficit_match import DeficitMatch, DoubleDeficitMatch, rounds_until
from rota.worlds.serving.policies.fastswitch import ChangingPriorities
from rota.worlds.serving.policies.prefix_groups import PrefixGroups
from rota.worlds.serving.policies.session_hash import SessionHash
from rota.worlds.serving.policies.weighted_scorers import WeightedScorers
from rota.worlds.serving.prefix_tree import prefix_groups
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.timing import build
from tests.worlds.serving.test_orders import requests

SLOTS, LONGEST_PROMPT, LONGEST_ANSWER = 3, 20, 16


def simulation(
    work: Workload, order: Order, route: Place | None = None, replicas: int = 1, index: Index | None = None
) -> Simulation:
    """Blocks of 4 tokens, a cache for the batch and a little more, a second an iteration."""
    timing = build({"linear": {"constant": 1.0}}, model("llama-3-8b"), gpu("a100-80g"), 1, Path())
    rules = BATCHERS["vllm_v1"]().rules(Engine(60, 4, SLOTS, 8192, 8192))
    replica = Replica("one", 60, 4, SLOTS, 8192, rules, timing, True, prefill_rate=0.001, decode_rate=1.0)
    for policy in (order, route):
        if policy is not None:
            policy.bind(np.random.default_rng(1))
    roles = Roles(order, route or PLACES["round_robin"](), ORDERS["fcfs"]())
    visible = work.output_tokens.astype(np.float64)
    return Simulation(work, [replica] * replicas, roles, visible, index=index or Index())


def shares(work: Workload, alike: list[bool]) -> Workload:
    """Prompts of those that are alike begin with the same tokens."""
    ids, offsets, fresh = list[int](), [0], 1000
    for prompt, same in zip(work.prompt_tokens.tolist(), alike, strict=True):
        blocks = prompt // 4
        ids += list(range(blocks)) if same else list(range(fresh, fresh + blocks))
        fresh += blocks
        offsets.append(len(ids))
    _, dense = np.unique(np.array(ids, np.int64), return_inverse=True)
    return replace(work, prefix=PrefixBlocks(np.array(offsets), dense.astype(np.int64), 4))


def two_tenants(first: list[tuple[int, int]], second: list[tuple[int, int]], later: int, alike: bool) -> Workload:
    prompt, output = np.array(first + second).T
    rows = [len(first), len(second)]
    work = requests(output, np.repeat([0.0, float(later)], rows), prompt, np.repeat([0, 1], rows))[0]
    return shares(work, np.repeat([alike, False], rows).tolist())


def service(run: Simulation, tenant: int) -> float:
    """Prompt tokens that were computed + 2 x answer tokens, from the engine's state."""
    rows = ~np.isnan(run.seconds[at.SCHEDULED]) & (run.workload.tenant == tenant)
    jobs = run.jobs[:, rows]
    steps = run.hosts[jobs[at.HOST], at.STEP] - jobs[at.JOINED]
    tokens = jobs[at.GENERATED] + np.where(jobs[at.STATE] == at.DECODING, steps, 0)
    return float((jobs[at.PROMPT] - jobs[at.CACHED] + 2.0 * tokens).sum())


def gap(work: Workload, order: Order) -> float:
    """How far the difference of two tenants' service moves while both have requests waiting."""
    run, differences, now = simulation(work, order), list[float](), 0.5
    while not np.all(run.jobs[at.STATE] == at.FINISHED_STATE):
        run.run(until=now)
        now += 1.0
        waiting = run.workload.tenant[run.jobs[at.STATE] == at.QUEUED]
        if {0, 1} <= set(waiting.tolist()):
            differences.append(service(run, 0) - service(run, 1))
    return max(differences) - min(differences) if differences else 0.0


QUANTUM = 60.0
BOUND = 2.0 * (LONGEST_PROMPT + 2.0 * SLOTS * LONGEST_ANSWER + QUANTUM)  # 2 (U + Q), U = w_p L_input + w_q M
SIZES = st.lists(st.tuples(st.integers(1, LONGEST_PROMPT), st.integers(1, LONGEST_ANSWER)), min_size=5, max_size=30)


@given(first=SIZES, second=SIZES, later=st.integers(0, 40), alike=st.booleans())
@settings(max_examples=40)
def test_dlpm_keeps_the_gap_within_its_bound(
    first: list[tuple[int, int]], second: list[tuple[int, int]], later: int, alike: bool
) -> None:
    assert gap(two_tenants(first, second, later, alike), DeficitMatch(quantum=QUANTUM)) <= BOUND


def test_who_only_looks_at_matches_does_not_and_fcfs_neither() -> None:
    """A tenant whose prompts all begin alike floods a line: longest match serves nobody else until it is through; so does first come."""
    flood = two_tenants([(20, 16)] * 60, [(20, 16)] * 60, 1, alike=True)
    assert gap(flood, ORDERS["fcfs"]()) > 2 * BOUND
    assert gap(flood, DeficitMatch(quantum=1e9)) > 2 * BOUND, "an endless quantum is longest match alone"
    assert gap(flood, DeficitMatch(quantum=QUANTUM)) <= BOUND


def test_dlpm_takes_the_longest_match_among_those_whose_turn_it_is() -> None:
    order = DeficitMatch(quantum=100.0)
    jobs = {
        "id": np.arange(4),
        "tenant": np.array([0, 0, 1, 1]),
        "prompt_tokens": np.full(4, 50),
        "cached_tokens": np.array([0.0, 16.0, 32.0, 8.0]),
    }
    table = Jobs(jobs, SERVING_JOB_COLUMNS.values())
    assert np.lexsort(order.keys(table, 0.0).T[::-1]).tolist() == [2, 1, 3, 0]
    order.on_start(2, 0, 0.0)  # tenant 1 pays 50 - 32 of its 100
    assert order._service == {0: 100.0, 1: 82.0}
    order.on_progress(np.array([2]), np.array([50.0]), 1.0)  # and 2 x 50 for its answer: it has had its turn
    rest = Jobs({name: column[[0, 1, 3]] for name, column in jobs.items()}, SERVING_JOB_COLUMNS.values())
    assert np.lexsort(order.keys(rest, 1.0).T[::-1]).tolist() == [1, 0, 2]


@pytest.mark.parametrize(("deficit", "rounds"), [(5.0, 0), (0.0, 1), (-9.9, 1), (-10.0, 2), (-35.0, 4)])
def test_quanta_until_a_turn(deficit: float, rounds: int) -> None:
    assert rounds_until(deficit, 10.0) == rounds
    assert deficit + 10.0 * rounds > 0


def hosts_of(**columns: list[float]) -> Hosts:
    columns.setdefault("id", list(range(len(next(iter(columns.values()))))))
    return Hosts({name: np.array(column) for name, column in columns.items()})


def job_of(number: int = 0, **columns: int) -> Jobs:
    values = {"id": np.array([number])} | {name: np.array([value]) for name, value in columns.items()}
    return Jobs(values, SERVING_JOB_COLUMNS.values())


def test_d2lpm_follows_the_match_until_the_tenant_has_had_its_share_there() -> None:
    route = DoubleDeficitMatch(quantum=100.0)
    hosts = hosts_of(cached_tokens=[0, 80, 0], outstanding=[4, 9, 2])
    costs = route.costs(job_of(0, tenant=0, prompt_tokens=90), hosts, 0.0)
    assert np.argsort(costs).tolist() == [1, 2, 0], "the match, then the least loaded"
    route.on_start(0, 1, 0.0)  # 10 tokens to compute: 90 of 100 are left there
    route.on_progress(np.array([0]), np.array([45.0]), 1.0)  # an answer of 45: nothing is left
    costs = route.costs(job_of(1, tenant=0, prompt_tokens=90), hosts, 1.0)
    assert np.argsort(costs).tolist() == [2, 0, 1]
    assert np.argsort(route.costs(job_of(2, tenant=1, prompt_tokens=90), hosts, 1.0))[0] == 1, "another tenant's share"


def test_d2lpm_serves_all_and_balances_a_tenant_whose_prompts_are_all_alike() -> None:
    work = requests([8] * 80, 2.0 * np.arange(80), 20, np.arange(80) % 4 // 3)[0]
    work = shares(work, (work.tenant == 0).tolist())
    placed = {}
    for name, route in (("match", ROUTES["longest_match"]()), ("d2lpm", DoubleDeficitMatch(quantum=100.0))):
        run = simulation(work, ORDERS["fcfs"](), route, replicas=3, index=Index("sent"))
        run.run()
        assert (run.jobs[at.STATE] == at.FINISHED_STATE).all()
        placed[name] = np.bincount(run.jobs[at.HOST, work.tenant == 0], minlength=3)
    assert placed["match"].max() >= 55, "one replica gets it all"
    assert placed["d2lpm"].max() <= 30


def test_only_the_sessions_of_the_host_that_went_move() -> None:
    route, sessions = SessionHash(), range(600)
    home = {}
    for count in (5, 4):
        hosts = hosts_of(outstanding=[0] * count)
        home[count] = [int(np.argmin(route.costs(job_of(session=s), hosts, 0.0))) for s in sessions]
    moved = [s for s in sessions if home[5][s] != home[4][s]]
    assert {home[5][s] for s in moved} == {4}, "only those of the fifth"
    assert all(home[4][s] < 4 for s in sessions)
    share = np.bincount(home[5], minlength=5) / len(sessions)
    assert share.max() < 0.35
    assert share.min() > 0.08
    second = [np.argsort(route.costs(job_of(session=s), hosts_of(outstanding=[0] * 5), 0.0))[1] for s in moved]
    assert [home[4][s] for s in moved] == second, "when its host is away a session goes to the next of its ranks"


def test_who_has_no_session_goes_where_little_is_to_do() -> None:
    assert np.argmin(SessionHash().costs(job_of(session=-1), hosts_of(outstanding=[3, 1, 2]), 0.0)) == 1


def test_scores_by_hand() -> None:
    """Match 0.5, 0, 1; queue (4 - q) / 4; memory 1 - use: 3 x 0.5 + 2 x 0 + 2 x 0.5, 0 + 2 + 2 x 0.9, 3 + 1 + 0."""
    hosts = hosts_of(cached_tokens=[50, 0, 120], queued=[4, 0, 2], kv_use=[0.5, 0.1, 1.0])
    found = WeightedScorers().costs(job_of(prompt_tokens=100), hosts, 0.0)
    assert found == pytest.approx([-2.5, -3.8, -4.0])
    idle = hosts_of(cached_tokens=[0, 0], queued=[3, 3], kv_use=[0.0, 0.0])
    assert WeightedScorers().costs(job_of(prompt_tokens=100), idle, 0.0) == pytest.approx([-4.0, -4.0])
    sharp = WeightedScorers(queue=0.0, memory=0.0, sharpness=1.0, scale=100.0)
    assert sharp.costs(job_of(prompt_tokens=400), hosts, 0.0) == pytest.approx([-0.75, 0.0, -3.0])


paths = st.lists(st.lists(st.integers(0, 2), max_size=4), min_size=1, max_size=7)


@given(paths=paths)
def test_groups_save_the_most_tokens(paths: list[list[int]]) -> None:
    """Against every choice of a beginning, or none, for each request: a beginning of depth d shared by n saves (n - 1) d."""
    known: dict[tuple[int, ...], int] = {}
    rows = [[known.setdefault(tuple(path[: k + 1]), len(known)) for k in range(len(path))] for path in paths]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    prefix = PrefixBlocks(offsets, np.array([each for row in rows for each in row], np.int64), 4)
    group, tokens = prefix_groups(prefix)
    saved = sum((int((group == g).sum()) - 1) * tokens[group == g][0] / 4 for g in np.unique(group))
    options = [range(len(path) + 1) for path in paths]
    best = 0
    for depths in product(*options):
        chosen: dict[tuple[int, ...], int] = {}
        for path, depth in zip(paths, depths, strict=True):
            if depth:
                chosen[tuple(path[:depth])] = chosen.get(tuple(path[:depth]), 0) + 1
        best = max(best, sum((count - 1) * len(path) for path, count in chosen.items()))
    assert saved == best


def test_prompts_of_a_group_follow_one_another_and_are_computed_once() -> None:
    """Eight beginnings of 40 tokens, seen in turn, in a cache of three: in groups each is computed once."""
    rows = 64
    work = requests([2] * rows, 0.0, 48)[0]
    ids = np.array([[*range(10 * (k % 8), 10 * (k % 8) + 10), 100 + 2 * k, 101 + 2 * k] for k in range(rows)])
    work = replace(work, prefix=PrefixBlocks(np.arange(rows + 1) * 12, ids.reshape(-1), 4))
    hits = {}
    for name, order in (("fcfs", ORDERS["fcfs"]()), ("groups", PrefixGroups())):
        run = simulation(work, order)
        run.run()
        hits[name] = run.hosts[0, at.HIT_TOKENS] / run.hosts[0, at.LOOKED_TOKENS]
    assert hits["groups"] >= 56 / 64 * 40 / 48 * 0.95
    assert hits["fcfs"] < 0.2


def test_groups_with_long_answers_go_first() -> None:
    jobs = {
        "prompt_tokens": np.array([100, 100, 60, 60]),
        "output_tokens": np.array([10.0, 10.0, 60.0, 60.0]),
        "prefix_group": np.array([0, 0, 1, 1]),
        "group_tokens": np.array([90.0, 90.0, 10.0, 10.0]),
    }
    table = Jobs(jobs, SERVING_JOB_COLUMNS.values())
    assert np.argsort(PrefixGroups().keys(table, 0.0)[:, 0], kind="stable").tolist() == [2, 3, 0, 1]
    assert np.argsort(PrefixGroups(by_ratio=False).keys(table, 0.0)[:, 0], kind="stable").tolist() == [0, 1, 2, 3]


def test_priorities_change_all_at_once_and_are_evenly_spread() -> None:
    order = ChangingPriorities(every=5.0, levels=4)
    order.bind(np.random.default_rng(3))
    jobs = job_of()
    table = Jobs({"id": np.arange(4000)}, SERVING_JOB_COLUMNS.values())
    first, still, later = (order.keys(table, now) for now in (10.0, 14.9, 15.0))
    assert np.array_equal(first, still)
    assert (first != later).mean() == pytest.approx(0.75, abs=0.03)
    assert np.bincount(first.astype(int)) / 4000 == pytest.approx([0.25] * 4, abs=0.03)
    assert order.keys(jobs, 10.0)[0] == first[0]


def test_prefix_aware_follows_what_it_sent_for_ever() -> None:
    """What was pushed out of the cache long ago still counts, with an index that forgets nothing."""
    rows = 44
    work = requests([1] * rows, np.arange(rows) * 10.0, 48)[0]
    ids = np.array(
        [list(range(12 * (k % 11), 12 * (k % 11) + 12)) for k in range(rows)]
    )  # eleven prompts, again and again
    work = replace(work, prefix=PrefixBlocks(np.arange(rows + 1) * 12, ids.reshape(-1), 4))
    homes = {}
    for name, index in (("sent", Index("sent", blocks=10_000)), ("true", Index())):
        run = simulation(work, ORDERS["fcfs"](), ROUTES["prefix_aware"](), replicas=2, index=index)
        run.run()
        homes[name] = [len(set(run.jobs[at.HOST, np.arange(rows) % 11 == k].tolist())) for k in range(11)]
    assert homes["sent"] == [1] * 11
    assert max(homes["true"]) > 1


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: DeficitMatch(quantum=0.0), "dlpm: needs quantum > 0"),
        (lambda: DoubleDeficitMatch(w_q=0.0), "d2lpm: needs quantum > 0"),
        (lambda: SessionHash(by="user"), "by must be session or tenant, found 'user'"),
        (lambda: WeightedScorers(prefix=0.0, queue=0.0, memory=0.0), "needs weights"),
        (lambda: WeightedScorers(sharpness=2.0), r"sharpness in \[0, 1\]"),
        (lambda: ChangingPriorities(every=0.0), "needs every > 0"),
    ],
)
def test_parameters_out_of_range(made: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        made()
