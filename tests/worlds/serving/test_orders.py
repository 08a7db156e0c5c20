"""Every order of the room keeps the rules of conformance, and each shows one fact of its paper on the simulator."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.streams import generator
from rota.kernel.tables import FloatColumn, Jobs
from rota.rules import ORDERS, PLACES
from rota.study.scenario import read
from rota.testing.conformance import ConformanceSuite, Subject
from rota.worlds.serving.batching import Engine
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.columns import SERVING_JOB_COLUMNS
from rota.worlds.serving.generate import generate
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import Workload, make_workload
from rota.worlds.serving.policies import BATCHERS, SERVING_ORDERS
from rota.worlds.serving.policies.alise import SpeculativeRemaining
from rota.worlds.serving.policies.fastserve import SkipJoinFeedback
from rota.worlds.serving.policies.history import HistoryShortest
from rota.worlds.serving.policies.jitserve import JustInTime
from rota.worlds.serving.policies.ltr import LearningToRank
from rota.worlds.serving.policies.program_las import ProgramLeastAttained
from rota.worlds.serving.policies.text2sql import StageUrgency
from rota.worlds.serving.policies.vtc import VirtualTokenCounter
from rota.worlds.serving.predictors import Rank
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.timing import build


class TestOrders(ConformanceSuite):
    subjects: ClassVar = {
        name: Subject(
            policy,
            "order",
            job_columns=SERVING_JOB_COLUMNS,
            draws={"running": lambda rng, rows: rng.integers(0, 2, rows).astype(np.float64)},
            world="serving",
        )
        for name, policy in SERVING_ORDERS.items()
    }


def run(
    work: Workload,
    order: Order,
    visible: FloatColumn | None = None,
    *,
    slots: int = 2,
    batch: str = "orca",
    kv_tokens: int = 100_000,
    start: bool = True,
    replicas: int = 1,
    linear: dict[str, float] | None = None,
) -> Simulation:
    """On a replica whose iteration takes a second, whatever is in it: a request of n tokens alone takes n seconds."""
    timing = build({"linear": linear or {"constant": 1.0}}, model("llama-3-8b"), gpu("a100-80g"), 1, Path())
    rules = BATCHERS[batch]().rules(Engine(kv_tokens, 1, slots, 8192, 8192))
    replica = Replica("one", kv_tokens, 1, slots, 8192, rules, timing, prefill_rate=0.001, decode_rate=1.0)
    order.bind(np.random.default_rng(1))
    roles = Roles(order, PLACES["round_robin"](), ORDERS["fcfs"]())
    simulation = Simulation(work, [replica] * replicas, roles, visible)
    if start:
        simulation.run()
    return simulation


def requests(
    output: Any, arrival: Any = 0.0, prompt: Any = 1, tenant: Any = 0, due: Any = None
) -> tuple[Workload, FloatColumn]:
    """A workload and its true lengths."""
    rows = len(output)
    arrivals = np.broadcast_to(np.asarray(arrival, np.float64), rows)
    work = make_workload(
        arrivals,
        np.broadcast_to(np.asarray(prompt), rows),
        np.asarray(output),
        tenant=np.broadcast_to(np.asarray(tenant), rows),
        e2e_limit=None if due is None else np.asarray(due, np.float64) - arrivals,
        tenants=("a", "b", "c"),
    )
    return work, np.asarray(output, np.float64)


def e2e(simulation: Simulation) -> FloatColumn:
    return np.asarray(simulation.seconds[at.FINISH] - simulation.seconds[at.ARRIVAL])


# -- virtual token counter ----------------------------------------------------------------------------------------


def service(simulation: Simulation, tenant: int, w_p: float = 1.0, w_q: float = 2.0) -> float:
    """Weighted tokens that a tenant was given so far: from the engine's state, not from the policy."""
    rows = ~np.isnan(simulation.seconds[at.SCHEDULED]) & (simulation.workload.tenant == tenant)
    jobs = simulation.jobs[:, rows]
    steps = simulation.hosts[jobs[at.HOST], at.STEP] - jobs[at.JOINED]  # decoders are counted, not visited
    tokens = jobs[at.GENERATED] + np.where(jobs[at.STATE] == at.DECODING, steps, 0)
    return float((w_p * jobs[at.PROMPT] + w_q * tokens).sum())


def waits(simulation: Simulation, tenant: int) -> bool:
    rows = simulation.workload.tenant == tenant
    return bool((simulation.jobs[at.STATE, rows] == at.QUEUED).any())


def gap(work: Workload, order: Order, slots: int, weights: tuple[float, float] = (1.0, 1.0)) -> float:
    """How far the difference of two tenants' service moves while both have requests waiting."""
    simulation = run(work, order, slots=slots, start=False)
    differences, now = [], 0.5  # between two iterations
    while not np.all(simulation.jobs[at.STATE] == at.FINISHED_STATE):
        simulation.run(until=now)
        now += 1.0
        if waits(simulation, 0) and waits(simulation, 1):
            differences.append(service(simulation, 0) / weights[0] - service(simulation, 1) / weights[1])
    return max(differences) - min(differences) if differences else 0.0


SLOTS, LONGEST_PROMPT, LONGEST_ANSWER = 3, 20, 16
BOUND = 2.0 * max(1.0 * LONGEST_PROMPT, 2.0 * SLOTS * (LONGEST_PROMPT + LONGEST_ANSWER))  # 2 max(w_p L_input, w_q M)
SIZES = st.lists(st.tuples(st.integers(1, LONGEST_PROMPT), st.integers(1, LONGEST_ANSWER)), min_size=5, max_size=30)


def two_tenants(first: list[tuple[int, int]], second: list[tuple[int, int]], later: int) -> Workload:
    prompt, output = np.array(first + second).T
    arrival = np.repeat([0.0, float(later)], [len(first), len(second)])
    return requests(output, arrival, prompt, np.repeat([0, 1], [len(first), len(second)]))[0]


@given(first=SIZES, second=SIZES, later=st.integers(0, 40))
@settings(max_examples=25)
def test_vtc_keeps_the_gap_of_backlogged_tenants_within_its_bound(
    first: list[tuple[int, int]], second: list[tuple[int, int]], later: int
) -> None:
    """The paper's theorem on backlogged clients, on whatever sizes; the second tenant comes any time and is not paid for having been away."""
    assert gap(two_tenants(first, second, later), VirtualTokenCounter(), SLOTS) <= BOUND


def test_fcfs_does_not_and_the_bound_can_be_missed() -> None:
    """One tenant floods the line with long answers before the other one's requests."""
    work = two_tenants([(20, 16)] * 40, [(1, 1)] * 40, 1)
    assert gap(work, ORDERS["fcfs"](), SLOTS) > 2 * BOUND
    assert gap(work, VirtualTokenCounter(), SLOTS) <= BOUND
    blind = VirtualTokenCounter(w_p=1.0, w_q=1e-9)  # without the price of the answer the bound does not hold either
    assert gap(two_tenants([(1, 16)] * 40, [(16, 1)] * 40, 0), blind, SLOTS) > BOUND


def test_weighted_vtc_divides_by_weight() -> None:
    """Of two backlogged tenants of weights 1 and 3 the second gets three times the service."""
    work = two_tenants([(5, 8)] * 60, [(5, 8)] * 60, 0)
    order = VirtualTokenCounter(weights_of={1: 3.0})
    assert gap(work, order, SLOTS, (1.0, 3.0)) <= BOUND
    simulation = run(work, VirtualTokenCounter(weights_of={1: 3.0}), slots=SLOTS, start=False)
    simulation.run(until=100.5)
    assert waits(simulation, 0)
    assert waits(simulation, 1)
    assert service(simulation, 1) / service(simulation, 0) == pytest.approx(3.0, rel=0.15)


def test_an_idle_tenant_earns_no_credit() -> None:
    """Tenant 1 comes when tenant 0 has had 400 s of a slot: they share from then on, it does not catch up."""
    work = two_tenants([(1, 10)] * 80, [(1, 10)] * 20, 400)
    simulation = run(work, VirtualTokenCounter(), slots=1, start=False)
    simulation.run(until=400.5)
    before = service(simulation, 0), service(simulation, 1)
    simulation.run(until=600.5)
    after = service(simulation, 0), service(simulation, 1)
    assert after[0] - before[0] == pytest.approx(after[1] - before[1], abs=2 * 21)


# -- learning to rank ---------------------------------------------------------------------------------------------


def test_ltr_figure_1() -> None:
    """The authors' example: 10, 2 and 1 tokens at one token a second; first come 6.67 s a token, shortest first 1.27."""
    work, true = requests([10, 2, 1])
    found = {
        name: e2e(run(work, order, true, slots=1)) / true
        for name, order in (("fcfs", ORDERS["fcfs"]()), ("ltr", LearningToRank()))
    }
    assert found["fcfs"].tolist() == [1.0, 6.0, 13.0]
    assert found["ltr"].tolist() == [1.3, 1.5, 1.0]
    assert found["fcfs"].mean() == pytest.approx(6.67, abs=0.005)
    assert found["ltr"].mean() == pytest.approx(1.27, abs=0.005)


@pytest.mark.parametrize(("S", "P"), [(20, 5), (7, 3), (60, 10)])
def test_ltr_nobody_is_passed_over_for_long(S: int, P: int) -> None:
    """A long answer among short ones that fill the slot: it begins after S iterations, and goes on getting P tokens."""
    arrival = np.concatenate([[0.5], np.arange(400) * 2.0])
    order = np.argsort(arrival, kind="stable")
    work, true = requests(np.array([40] + [2] * 400)[order], arrival[order])
    long = int(np.flatnonzero(order == 0)[0])
    guarded = run(work, LearningToRank(S, P), true, slots=1)
    starved = run(work, LearningToRank(10**9, P), true, slots=1)
    assert starved.seconds[at.SCHEDULED, long] >= 800.0  # after all the others
    first = guarded.seconds[at.SCHEDULED, long] - guarded.seconds[at.ARRIVAL, long]
    assert S - 1.0 <= first <= S + 2.0  # seconds are iterations; the one under way when it came counts
    stints = -(-40 // P)  # before each it waits S, and for the promoted short ones that its stints so far pushed back
    assert guarded.seconds[at.FINISH, long] <= sum(S + 2.0 + P * (k + 1) for k in range(stints))
    assert guarded.jobs[at.PREEMPTIONS, long] > 0


def test_ltr_promotion_lasts_P_tokens() -> None:
    order = LearningToRank(S=3, P=2)
    for job in (0, 1):
        order.on_arrival(job, 0.0)
    table = Jobs({"id": np.array([1, 0]), "output_tokens": np.array([90.0, 5.0])})
    order.on_start(0, 0, 0.0)
    assert order.keys(table, 0.0).tolist() == [[1, 90], [1, 5]]
    order.on_progress(np.array([0]), np.array([3.0]), 3.0)
    assert order.keys(table, 3.0)[0, 0] == 0  # three iterations idle: top class
    order.on_preempt(0, 0, 3.0)
    order.on_start(1, 0, 3.0)
    for left in (True, True, False):
        assert (order.keys(table, 4.0)[0, 0] == 0) == left
        order.on_progress(np.array([1]), np.array([1.0]), 4.0)


def load(seed: int, count: int = 250, rate: float = 0.06) -> tuple[Workload, FloatColumn]:
    """ShareGPT lengths on a replica of 8 slots: a load of 0.8 of what they can do."""
    work = generate(
        {"kind": "burst", "requests": count, "rate": rate, "variation": "none"}, generator(seed, "workload")
    )
    return work, work.output_tokens.astype(np.float64)


@pytest.mark.parametrize("name", ["ltr", "srpt", "sjf", "alise"])
def test_a_perfect_ranking_schedules_like_an_oracle(name: str) -> None:
    work, true = load(0, 80)
    made = {**ORDERS, **SERVING_ORDERS}[name]
    told, known = (run(work, made(), visible, slots=8) for visible in (Rank(1.0).predict(true, 5), true))
    assert told.seconds[at.FINISH].tolist() == known.seconds[at.FINISH].tolist()


def test_the_better_the_ranking_the_lower_the_latency() -> None:
    """Figure 2b of the paper's blog: latency falls as Kendall's tau grows. Without preemption, so that nothing is computed twice."""
    means = []
    for tau in (-0.8, 0.0, 0.8):
        runs = (load(seed) for seed in range(4))
        means.append(
            np.mean(
                [
                    e2e(run(work, ORDERS["sjf"](), Rank(tau).predict(true, seed), slots=8)).mean()
                    for seed, (work, true) in enumerate(runs)
                ]
            )
        )
    assert means[0] > means[1] > means[2]


# -- feedback -----------------------------------------------------------------------------------------------------


def test_fastserve_levels_by_hand() -> None:
    """Quanta 8, 16, 32: prompts of 0, 8, 9, 16 and 200 iterations join levels 0, 0, 1, 1 and the last."""
    order = SkipJoinFeedback(quantum=8, ratio=2, levels=4, tokens_per_iteration=100)
    zero = np.zeros(5)
    prompt = np.array([0.0, 800.0, 900.0, 1600.0, 20_000.0])
    assert order.level(prompt, zero).tolist() == [0, 1, 1, 2, 3]
    assert order.level(zero, np.array([7.0, 8.0, 23.0, 24.0, 999.0])).tolist() == [0, 1, 1, 2, 3]
    # who joined level 1 has its whole quantum there: 9 iterations of prompt and 7 tokens are 16
    assert order.level(np.array([900.0, 900.0]), np.array([6.0, 7.0])).tolist() == [1, 2]


def test_fastserve_with_one_level_is_first_come() -> None:
    work, _ = load(1, 100)
    one = run(work, SkipJoinFeedback(levels=1, starve=float("inf")), slots=8)
    assert one.seconds[at.FINISH].tolist() == run(work, ORDERS["fcfs"](), slots=8).seconds[at.FINISH].tolist()


def test_fastserve_lets_short_answers_pass_and_long_ones_not_starve() -> None:
    """A long answer is under way when short ones come that fill the slot: they pass it, and it waits for all of them unless it is promoted."""
    work, _ = requests([60] + [3] * 150, np.concatenate([[0.0], 10.0 + 3.0 * np.arange(150)]))
    first = run(work, ORDERS["fcfs"](), slots=1)
    passed = run(work, SkipJoinFeedback(quantum=4, starve=float("inf")), slots=1)
    promoted = run(work, SkipJoinFeedback(quantum=4, starve=20.0), slots=1)
    assert np.median(e2e(passed)[1:]) <= 4.0 < np.median(e2e(first)[1:])
    assert passed.seconds[at.FINISH, 0] > 460.0  # when the last short one has ended
    assert promoted.seconds[at.FINISH, 0] < 0.75 * passed.seconds[at.FINISH, 0]


def test_alise_without_ageing_is_srpt() -> None:
    """Levels by powers of two and remaining time within a level are the order of remaining time."""
    work, true = load(2, 100)
    levels = run(work, SpeculativeRemaining(age=float("inf")), true, slots=8)
    assert levels.seconds[at.FINISH].tolist() == run(work, ORDERS["srpt"](), true, slots=8).seconds[at.FINISH].tolist()


def test_alise_lifts_who_waits() -> None:
    """A long request among short ones: shortest remaining starves it, a level for every 10 s waited does not."""
    work, true = requests([64] + [2] * 200, np.concatenate([[0.0], 0.5 + 2.0 * np.arange(200)]))
    starts = {
        age: run(work, SpeculativeRemaining(1.0, age), true, slots=1).seconds[at.FINISH, 0]
        for age in (10.0, float("inf"))
    }
    assert starts[float("inf")] > 400.0
    assert starts[10.0] < 250.0


# -- programs, history, deadlines ---------------------------------------------------------------------------------


def test_program_las_score_by_hand() -> None:
    """Program 0 ended a request of 100 + 2 x 50 tokens; 60 s idle leave 100 of it. Program 1 had nothing and waits 10 s less."""
    order = ProgramLeastAttained()
    columns = {"id": [0], "tenant": [0], "prompt_tokens": [100], "release": [0.0], "running": [0.0]}
    order.keys(Jobs({name: np.array(column) for name, column in columns.items()}), 0.0)
    order.on_start(0, 0, 0.0)
    order.on_progress(np.array([0]), np.array([50.0]), 5.0)
    order.on_finish(0, 0, 5.0)
    later = {
        "id": [1, 2, 3],
        "tenant": [0, 1, 1],
        "prompt_tokens": [1, 1, 1],
        "release": [65.0, 75.0, 80.0],
        "running": [0.0, 0.0, 0.0],
    }
    keys = order.keys(Jobs({name: np.array(column) for name, column in later.items()}), 85.0)
    assert keys.tolist() == [-0.2, -0.8, -0.8]  # the most service and the longest wait; the least and the shortest
    order.on_start(1, 0, 85.0)
    assert order._service[0] == pytest.approx(100.0)


def test_program_las_spares_a_light_program_the_heavy_one() -> None:
    """A flood of one program and now and then a request of another: in turn with the flood, not behind it."""
    heavy, light = np.zeros(100), 5.0 + 20.0 * np.arange(20)
    arrival, tenant = np.concatenate([heavy, light]), np.repeat([0, 1], [100, 20])
    work, _ = requests([5] * 120, arrival, 1, tenant)
    waits_of = {
        name: e2e(run(work, order, slots=1))[100:].mean()
        for name, order in (("las", ProgramLeastAttained()), ("fcfs", ORDERS["fcfs"]()))
    }
    assert waits_of["las"] < 0.2 * waits_of["fcfs"]


def test_history_learns_who_is_short() -> None:
    """Two tenants, answers of 3 and of 60 tokens, nothing told: once one of each has ended, the short ones go first."""
    tenant = np.arange(120) % 2
    work, _ = requests(np.where(tenant == 0, 60, 3), np.arange(120) * 4.0, 1, tenant)
    learned, first = run(work, HistoryShortest(), slots=1), run(work, ORDERS["fcfs"](), slots=1)
    assert e2e(learned).mean() < 0.7 * e2e(first).mean()
    assert learned.seconds[at.SCHEDULED, :2].tolist() == first.seconds[at.SCHEDULED, :2].tolist()  # nothing known yet
    known = run(work, ORDERS["sjf"](), work.output_tokens.astype(np.float64), slots=1)
    assert e2e(learned).mean() < 1.1 * e2e(known).mean()


def met(simulation: Simulation) -> int:
    return int((e2e(simulation) <= simulation.workload.e2e_limit).sum())


def test_jitserve_does_not_fall_like_dominoes() -> None:
    """Ten requests of 10 s each for one slot, due at 5, 10, ... 50 s: the earliest due date misses them all."""
    due = 5.0 + 5.0 * np.arange(10)
    work, true = requests([10] * 10, due=due)
    assert met(run(work, ORDERS["edf"](), true, slots=1)) == 0
    order = JustInTime(caution=1.0, bandwidth=1.0, fastest=1.0)
    assert met(run(work, order, true, slots=1)) == 5  # what is possible: one every ten seconds


def test_jitserve_with_bandwidth_to_spare_is_earliest_due() -> None:
    jobs = {
        "id": np.arange(4),
        "output_tokens": np.full(4, 10.0),
        "prompt_tokens": np.array([5, 50, 500, 5]),
        "generated_tokens": np.zeros(4),
        "due": np.array([90.0, 40.0, 60.0, np.inf]),
        "running": np.zeros(4),
    }
    keys = JustInTime(bandwidth=1e9).keys(Jobs(jobs), 0.0)
    assert np.lexsort(keys.T[::-1]).tolist() == [1, 2, 0, 3]


def test_text2sql_urgency_is_least_slack_until_a_request_begins() -> None:
    jobs = {
        "release": np.array([0.0, 1.0, 2.0, 3.0]),
        "size": np.array([9.0, 2.0, 5.0, 1.0]),
        "remaining": np.array([9.0, 2.0, 5.0, 1.0]),
        "due": np.array([np.inf, 20.0, 12.0, 30.0]),
    }
    urgency, slack = (
        order.keys(Jobs({name: jobs[name] for name in order.reads}), 7.0)
        for order in (StageUrgency(), ORDERS["least_slack"]())
    )
    assert np.argsort(urgency).tolist() == np.argsort(slack).tolist() == [2, 1, 3, 0]
    assert -urgency[2] == (7.0 - 2.0) + 5.0 - (12.0 - 2.0)  # elapsed + own time - limit


def test_text2sql_urgency_meets_more_limits_than_first_come() -> None:
    rng = generator(3, "limits")
    arrival, output = np.sort(rng.uniform(0, 900, 150)), rng.integers(1, 12, 150)
    due = arrival + output * rng.uniform(1.5, 20.0, 150)
    work, true = requests(output, arrival, due=due)
    found = [met(run(work, order, true, slots=1)) for order in (StageUrgency(), ORDERS["edf"](), ORDERS["fcfs"]())]
    assert found[0] > found[2]
    assert found[1] > found[2]


# -- all of them --------------------------------------------------------------------------------------------------

READS_LENGTHS = {"size", "remaining", "output_tokens"}
OF_PROGRAMS = {"program_release", "program_attained", "path_attained"}  # need a workload of programs: see test_programs
ALONE = [name for name, made in SERVING_ORDERS.items() if not OF_PROGRAMS & set(made().reads)]
BLIND = [name for name in ALONE if not READS_LENGTHS & set(SERVING_ORDERS[name]().reads)]


def crowd(seed: int, count: int = 120) -> Workload:
    """Two tenants, half of the requests with deadlines, on replicas whose cache is too small: requests are displaced."""
    rng = generator(seed, "crowd")
    arrival = np.sort(rng.uniform(0, 60, count))
    due = np.where(rng.random(count) < 0.5, arrival + rng.uniform(5, 100, count), np.inf)
    prompt, output = rng.integers(1, 30, count), rng.integers(1, 40, count)
    return requests(output, arrival, prompt, rng.integers(0, 2, count), due)[0]


@pytest.mark.parametrize("batch", ["vllm_v1", "vllm_v0"])
@pytest.mark.parametrize("name", ALONE)
def test_everybody_is_served_in_a_crowd(name: str, batch: str) -> None:
    """Every request ends, with all its tokens, on two replicas with little cache: no order displaces for ever."""
    work = crowd(1)
    done = run(
        work,
        SERVING_ORDERS[name](),
        work.output_tokens.astype(np.float64),
        slots=6,
        batch=batch,
        kv_tokens=120,
        replicas=2,
        linear={"constant": 0.05, "prefill_tokens": 0.002},
    )
    assert (done.jobs[at.STATE] == at.FINISHED_STATE).all()
    assert done.jobs[at.PREEMPTIONS].sum() > 0


@pytest.mark.parametrize("name", BLIND)
def test_hidden_lengths_change_nothing(name: str) -> None:
    """Orders that read no length decide alike whatever the predictor says."""
    work = crowd(2)
    told = [
        run(work, SERVING_ORDERS[name](), visible, slots=4, replicas=2)
        for visible in (None, np.ones(len(work)), generator(0, "noise").uniform(1, 99, len(work)))
    ]
    for other in told[1:]:
        assert told[0].seconds[at.FINISH].tolist() == other.seconds[at.FINISH].tolist()


STUDIES = ("ltr", "predicted-order", "fastserve", "vtc", "history", "history-predictor", "deadlines")


@pytest.mark.parametrize("name", STUDIES)
def test_the_studies_run(name: str, repository: Path) -> None:
    few = "workload.first=40" if name == "deadlines" else "workload.generate.requests=40"
    scenario = read(repository / "examples" / "serving" / f"{name}.yaml", [few], 2)
    world: Any = scenario.world
    for policy in scenario.policies:
        assert world.resolve(scenario.case, policy, scenario.folder) is None
        result = world.run(scenario.case, world.workload(scenario.case, 0), policy, 0)
        assert result.metrics["unfinished"] == result.metrics["rejected"] == 0


def test_an_order_that_needs_lengths_says_so(repository: Path) -> None:
    scenario = read(repository / "examples" / "serving" / "ltr.yaml", ["information.output_tokens=hidden"])
    world: Any = scenario.world
    said = world.resolve(scenario.case, {"name": "ltr", "order": "ltr"}, scenario.folder)
    assert said.startswith("it reads output_tokens, which is hidden")
    assert world.resolve(scenario.case, {"name": "vtc", "order": "vtc", "hold": "vtc"}, scenario.folder) is None
    with pytest.raises(InputError, match="unknown order 'vtd'; did you mean 'vtc'"):
        world.resolve(scenario.case, {"name": "vtd", "order": "vtd"}, scenario.folder)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: VirtualTokenCounter(w_q=0.0), "w_q above 0, found 1 and 0"),
        (lambda: VirtualTokenCounter(weights_of={0: 0.0}), "weights must be positive"),
        (lambda: LearningToRank(S=0), "S and P must be at least 1 iteration, found 0 and 10"),
        (lambda: SkipJoinFeedback(quantum=0.0), "quantum must be above 0"),
        (lambda: SkipJoinFeedback(starve=0.0), "starve above 0 seconds"),
        (lambda: SpeculativeRemaining(age=0.0), "shortest and age must be above 0 seconds, found 0.01 and 0"),
        (lambda: ProgramLeastAttained(half_life=0.0), "half_life above 0 seconds"),
        (lambda: HistoryShortest(quantile=1.0), "quantile must be above 0 and below 1, found 1"),
        (lambda: JustInTime(group=1.0), "group above 1"),
        (lambda: JustInTime(caution=0.5), "caution must be at least 1, found 0.5"),
    ],
)
def test_wrong_parameters_are_one_line(made: Callable[[], Order], said: str) -> None:
    with pytest.raises(InputError, match=said):
        made()
