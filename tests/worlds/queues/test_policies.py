"""Every policy of the room keeps the rules of conformance, and each shows one fact of its paper."""

from math import e
from typing import Any, ClassVar

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.kernel.tables import Claims, Hosts, Jobs
from rota.rules import ORDERS, PLACES
from rota.rules.dodoor import Dodoor
from rota.testing.conformance import ConformanceSuite, Subject
from rota.worlds.queues import draw, theory
from rota.worlds.queues.distributions import parse_distribution
from rota.worlds.queues.kernels import layout as at
from rota.worlds.queues.model import Servers, Workload, alike, make_workload
from rota.worlds.queues.policies import ADMISSIONS, QUEUE_ORDERS, QUEUE_PLACES, SHARES
from rota.worlds.queues.policies.admission import LearningAugmented, Threshold, TimeFair, TimeFairSimple
from rota.worlds.queues.policies.explore import lower_mean, upper_mean
from rota.worlds.queues.policies.feedback import Gittins, MultiLevelFeedback, RoundRobin, ShortestExpectedRemaining
from rota.worlds.queues.policies.heterogeneous import GreatestDensity, InTurnOnFastest
from rota.worlds.queues.policies.place import JoinIdle, SizeInterval, equal_work
from rota.worlds.queues.policies.precedence import WeightBehind
from rota.worlds.queues.policies.robust import ShortestRemainingBounce, SizeEstimateHedging
from rota.worlds.queues.simulate import QUEUES_JOB_COLUMNS, Roles, Simulation

JOB_COLUMNS = {**QUEUES_JOB_COLUMNS, "weight_behind": QUEUES_JOB_COLUMNS["rate"]}
DRAWS = {
    "job_class": lambda rng, rows: rng.integers(0, 3, rows),
    "short": lambda rng, rows: rng.integers(0, 2, rows).astype(np.float64),
    "weight": lambda rng, rows: rng.exponential(1.0, rows) + 0.1,
    "size": lambda rng, rows: rng.exponential(1.0, rows) + 0.1,
    "predicted_size": lambda rng, rows: rng.exponential(1.0, rows) + 0.1,
    "class_done": lambda rng, rows: np.full(rows, float(rng.integers(0, 50))),  # alike within a class
    "class_attained": lambda rng, rows: np.full(rows, rng.exponential(10.0)),
}


class TestPolicies(ConformanceSuite):
    subjects: ClassVar = {
        **{
            f"order-{name}": Subject(policy, "order", job_columns=JOB_COLUMNS, draws=DRAWS, world="queues")
            for name, policy in QUEUE_ORDERS.items()
        },
        "jiq": Subject(JoinIdle, "place", many=True, world="queues"),
        "dodoor": Subject(Dodoor, "place", many=True, world="queues"),
        "weight_behind": Subject(WeightBehind, "allot", job_columns=JOB_COLUMNS, draws=DRAWS, world="queues"),
        "knapsack": Subject(Threshold, "allot", draws=DRAWS, world="queues"),
    }


def run(work: Workload, servers: Servers, order: Any, share: Any = None, route: Any = None, **known: Any) -> Simulation:
    route = route or PLACES["least_outstanding"]()
    for policy in (order, share, route):
        if policy is not None:
            policy.bind(np.random.default_rng(1))
    simulation = Simulation(work, servers, Roles(order, route, share), visible=work.size, **known)
    simulation.run()
    return simulation


def mean_response(simulation: Simulation, skip: int = 0) -> float:
    return float((simulation.seconds[at.FINISH] - simulation.seconds[at.ARRIVAL])[skip:].mean())


def random_work(jobs: int, load: float, scv: float = 1.0, seed: int = 0) -> Workload:
    rng = np.random.default_rng(seed)
    law = parse_distribution({"hyperexponential": {"mean": 1.0, "scv": scv}} if scv > 1 else "exponential")
    return make_workload(np.cumsum(rng.exponential(1 / load, jobs)), law.draw(rng.random((law.uniforms, jobs))))


# -- feedback -----------------------------------------------------------------------------------------------------------


def test_round_robin_by_hand() -> None:
    # quantum 1: a runs 0-1, then b (came at 0.5) 1-2, then c (came at 1.5)? no: a went behind b at 1, c came after that
    work = make_workload(np.array([0.0, 0.5, 1.5]), np.array([2.0, 1.0, 1.0]))
    done = run(work, alike(1), RoundRobin(quantum=1.0))
    np.testing.assert_allclose(done.seconds[at.FINISH], [3.0, 2.0, 4.0])


def test_round_robin_with_a_small_quantum_is_processor_sharing() -> None:
    work = random_work(400, 0.7)
    shared = run(work, alike(1), ORDERS["fcfs"](), share=QUEUE_SHARE())
    turns = run(work, alike(1), RoundRobin(quantum=0.005))
    assert mean_response(turns) == pytest.approx(mean_response(shared), rel=0.02)


def QUEUE_SHARE() -> Any:
    from rota.rules import ALLOTS

    return ALLOTS["processor_sharing"]()


def test_feedback_levels_by_hand() -> None:
    # quanta 1, 2, endless. Job a: 0-1 in the top level; b comes at 0.5 and has the top level 1-2; then level 1 in order of arrival.
    work = make_workload(np.array([0.0, 0.5]), np.array([4.0, 2.0]))
    done = run(work, alike(1), MultiLevelFeedback(quantum=1.0, growth=2.0, levels=3))
    # a: 0-1, 2-4 (level 1, 2 s), then b 4-5 is done, a 5-6
    np.testing.assert_allclose(done.seconds[at.FINISH], [6.0, 5.0])


def test_many_short_levels_approach_least_attained_service() -> None:
    work = random_work(20_000, 0.7, scv=4.0)
    fine = run(work, alike(1), MultiLevelFeedback(quantum=0.02, growth=1.02, levels=300))
    exact = run(work, alike(1), ORDERS["las"]())
    assert mean_response(fine) == pytest.approx(mean_response(exact), rel=0.03)


def test_gittins_of_a_memoryless_law_is_flat() -> None:
    law = parse_distribution({"exponential": {"mean": 2.0}})
    ages = np.linspace(0.0, 6.0, 20)
    np.testing.assert_allclose(Gittins().index(law, ages), 2.0, rtol=1e-6)
    np.testing.assert_allclose(ShortestExpectedRemaining().index(law, ages), 2.0, rtol=1e-6)


def test_gittins_knows_what_the_law_says() -> None:
    falling = {"hyperexponential": {"means": [0.2, 5.0], "shares": [0.9, 0.1]}}  # hazard falls: newcomers first
    work = random_work(60_000, 0.8)
    rng = np.random.default_rng(5)
    law = parse_distribution(falling)
    work = make_workload(work.arrival * law.mean, law.draw(rng.random((2, len(work)))))
    gittins = mean_response(run(work, alike(1), Gittins(law=falling)))
    las = mean_response(run(work, alike(1), ORDERS["las"]()))
    fcfs = mean_response(run(work, alike(1), ORDERS["fcfs"]()))
    assert gittins == pytest.approx(las, rel=0.02)  # with a falling hazard rate Gittins is least attained service
    assert gittins < 0.7 * fcfs
    even = {"uniform": {"low": 0.5, "high": 1.5}}  # hazard rises: never interrupt
    sizes = parse_distribution(even).quantile(rng.random(len(work)))
    work = make_workload(np.cumsum(rng.exponential(1 / 0.8, len(work))), sizes)
    assert mean_response(run(work, alike(1), Gittins(law=even))) == pytest.approx(
        mean_response(run(work, alike(1), ORDERS["fcfs"]())), rel=0.01
    )


# -- predictions ----------------------------------------------------------------------------------------------------------


def test_bounce_and_hedging_survive_underestimates() -> None:
    """Sizes are underestimated by a factor of up to 50; plain SPRPT lets the long ones block the server."""
    rng = np.random.default_rng(3)
    law = parse_distribution({"bounded_pareto": {"alpha": 1.1, "low": 0.1, "high": 1000.0}})
    size = law.quantile(rng.random(100_000))
    work = make_workload(np.cumsum(rng.exponential(law.mean / 0.8, 100_000)), size)
    said = size * np.where(rng.random(len(size)) < 0.05, 0.02, 1.0)
    plain = mean_response(run(work, alike(1), QUEUE_ORDERS["sprpt"](), predicted=said))  # type: ignore[operator]
    for robust in (ShortestRemainingBounce(), SizeEstimateHedging()):
        assert mean_response(run(work, alike(1), robust, predicted=said)) < 0.8 * plain
    exact = mean_response(run(work, alike(1), ORDERS["srpt"]()))
    bounced = mean_response(run(work, alike(1), ShortestRemainingBounce(), predicted=size))
    assert bounced == pytest.approx(exact)  # with exact sizes the bounce is never reached


def test_the_bounce_is_the_papers_rank() -> None:
    z, ages = 2.0, np.linspace(0.0, 6.0, 61)
    rank = ShortestRemainingBounce(steps=4000).rank(Jobs({"predicted_size": np.full(61, z), "attained": ages}))
    np.testing.assert_allclose(rank.at(ages)[:, 1], np.maximum(z - ages, np.minimum(ages - z, z)), atol=0.001 * z)


# -- weights --------------------------------------------------------------------------------------------------------------


def test_c_mu_is_the_best_of_all_class_orders() -> None:
    rng = np.random.default_rng(2)
    kinds = rng.integers(0, 3, 30_000)
    means, weights = np.array([0.5, 1.0, 2.0]), np.array([1.0, 4.0, 3.0])
    work = make_workload(
        np.cumsum(rng.exponential(1.2 / 0.85, 30_000)), rng.exponential(means[kinds]), job_class=kinds, weight=weights[kinds],
        classes=("a", "b", "c"),
    )  # fmt: skip
    from itertools import permutations

    def cost(simulation: Simulation) -> float:
        return float((work.weight * (simulation.seconds[at.FINISH] - work.arrival)).mean())

    found = cost(run(work, alike(1), QUEUE_ORDERS["c_mu"](means={0: 0.5, 1: 1.0, 2: 2.0})))  # type: ignore[operator]
    others = []
    for places in permutations(range(3)):
        ordered = make_workload(
            work.arrival,
            work.size,
            weight=work.weight,
            job_class=kinds,
            priority=np.array(places)[kinds],
            classes=work.classes,
        )
        others.append(cost(run(ordered, alike(1), ORDERS["priority"]())))
    assert found == pytest.approx(min(others))


# -- places ---------------------------------------------------------------------------------------------------------------


def test_size_intervals_carry_equal_work() -> None:
    law = parse_distribution({"bounded_pareto": {"alpha": 1.1, "low": 1.0, "high": 1e4}})
    edges = equal_work(law, 4)
    parts = np.diff([0.0, *(law.partial(1, x) for x in edges), law.mean])
    np.testing.assert_allclose(parts, law.mean / 4, rtol=1e-6)


def test_size_intervals_beat_counting_when_sizes_vary_a_lot() -> None:
    spec = {"bounded_pareto": {"alpha": 1.1, "low": 1.0, "high": 1e5}}
    law, rng = parse_distribution(spec), np.random.default_rng(4)
    work = make_workload(np.cumsum(rng.exponential(law.mean / 1.6, 60_000)), law.quantile(rng.random(60_000)))
    fleet = alike(2, central=False)
    sita = run(work, fleet, ORDERS["fcfs"](), route=SizeInterval(law=spec))
    lots = run(work, fleet, ORDERS["fcfs"](), route=PLACES["random"]())
    assert mean_response(sita) < 0.5 * mean_response(lots)


def test_join_idle_takes_an_idle_server() -> None:
    costs = JoinIdle().costs(
        Jobs({"id": np.array([7])}), Hosts({"id": np.arange(4), "outstanding": np.array([1, 0, 2, 1])}), 0.0
    )
    assert int(np.argmin(costs)) == 1


def test_dodoor_looks_at_two_and_weighs_both_loads() -> None:
    policy = Dodoor(alpha=1.0, d=2)
    policy.bind(np.random.default_rng(0))
    hosts = Hosts(
        {"id": np.arange(5), "outstanding": np.array([5, 4, 3, 2, 1]), "work": np.array([1.0, 2.0, 3.0, 4.0, 5.0])}
    )
    costs = policy.costs(Jobs({"id": np.array([3])}), hosts, 0.0)
    seen = np.flatnonzero(np.isfinite(costs))
    assert len(seen) == 2
    assert int(np.argmin(costs)) == seen.min()  # less work, although more jobs


def test_old_views_hurt_the_greedy_more_than_the_sampling() -> None:
    """Mitzenmacher 2000: with stale information everybody runs to the server that once was shortest; two choices stay sound."""
    rng = np.random.default_rng(8)
    work = make_workload(np.cumsum(rng.exponential(1 / 9.0, 20_000)), rng.exponential(1.0, 20_000))
    fleet = alike(10, central=False)
    greedy = run(work, fleet, ORDERS["fcfs"](), refresh=10.0)
    sampled = run(work, fleet, ORDERS["fcfs"](), route=PLACES["power_of_two"](), refresh=10.0)
    fresh = run(work, fleet, ORDERS["fcfs"]())
    assert mean_response(fresh) < mean_response(sampled) < 0.5 * mean_response(greedy)


# -- types of unknown mean --------------------------------------------------------------------------------------------------


def types(means: list[float], each: int, seed: int) -> Workload:
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.repeat(np.arange(len(means)), each))
    return make_workload(
        np.zeros(len(kinds)),
        rng.exponential(np.array(means)[kinds]),
        job_class=kinds,
        classes=tuple("abcdef"[: len(means)]),
    )


def excess(name: str, means: list[float], each: int, seeds: int = 6) -> float:
    """Flow time above serving the types in order of their true means, relative to it."""
    found = []
    for seed in range(seeds):
        work = types(means, each, seed)
        known = run(work, alike(1), QUEUE_ORDERS["c_mu"](means=dict(enumerate(means))))  # type: ignore[operator]
        learned = run(work, alike(1), QUEUE_ORDERS[name](delta=0.01))  # type: ignore[operator]
        found.append(mean_response(learned) / mean_response(known) - 1.0)
    return float(np.mean(found))


@pytest.mark.parametrize("name", ["etc_u", "etc_rr", "ucb_u", "ucb_rr"])
def test_learning_the_types_costs_less_the_more_jobs_there_are(name: str) -> None:
    few, many = excess(name, [1.0, 3.0], 20), excess(name, [1.0, 3.0], 300, seeds=3)
    assert many < 0.6 * few
    assert many < 0.12


def test_preemption_wins_when_the_means_differ_a_lot() -> None:
    assert excess("etc_rr", [0.02, 4.0], 20, seeds=3) < 0.5 * excess("etc_u", [0.02, 4.0], 20, seeds=3)


def test_confidence_bounds_of_an_exponential_mean_hold_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    service = rng.exponential(2.0, (20_000, 5)).sum(axis=1)
    done = np.full(len(service), 5.0)
    assert np.mean(upper_mean(done, service, 0.05) < 2.0) == pytest.approx(0.05, abs=0.006)
    assert (
        np.mean(lower_mean(done, service, 0.05) > 2.0) < 0.05
    )  # one more event is granted, because service may be cut off anywhere


# -- precedence and speeds ----------------------------------------------------------------------------------------------------


def test_weight_behind_counts_what_depends_on_a_job_once() -> None:
    # 0 -> 1, 2; 1, 2 -> 3
    parents = (np.array([0, 0, 1, 2, 4]), np.array([0, 0, 1, 2]))
    work = make_workload(np.zeros(4), np.ones(4), weight=np.array([1.0, 2.0, 3.0, 4.0]), parents=parents)
    np.testing.assert_array_equal(draw.weight_behind(work), [10.0, 6.0, 7.0, 4.0])


def test_sharing_by_the_weight_behind_opens_the_long_chain_first() -> None:
    # a chain of 8 unit jobs, weight at the end, and 8 light single jobs
    parents_of = [[] if i in (0, *range(8, 16)) else [i - 1] for i in range(16)]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in parents_of])]).astype(np.int64)
    parents = (offsets, np.array([p for each in parents_of for p in each], np.int64))
    weight = np.where(np.arange(16) == 7, 100.0, 1.0)
    work = make_workload(np.zeros(16), np.ones(16), weight=weight, parents=parents)
    work = make_workload(
        np.zeros(16), np.ones(16), weight=weight, parents=parents, columns={"weight_behind": draw.weight_behind(work)}
    )

    def cost(share: Any) -> float:
        simulation = run(work, alike(1), ORDERS["fcfs"](), share=share)
        assert (simulation.jobs[at.STATE] == at.FINISHED_STATE).all()
        return float((weight * simulation.seconds[at.FINISH]).sum())

    trusted, hedged, blind = (cost(WeightBehind(robustness=r)) for r in (0.0, 0.5, 1.0))
    assert trusted < hedged < blind
    assert hedged < 2.0 * trusted  # half the time is worth at most a factor of two


def brute_force_flow(size: np.ndarray, speeds: np.ndarray) -> float:
    """A lower bound of the total weighted completion time on unrelated servers, all jobs there at time 0: each alone on all its speed together."""
    best = size / speeds.sum()
    order = np.sort(best)
    return float(np.cumsum(order).sum())


@pytest.mark.parametrize("distortion", [1.0, 2.0, 4.0])
def test_greatest_density_keeps_its_competitive_ratio(distortion: float) -> None:
    """Migration, predicted speeds wrong by a factor of up to mu: 8 mu against any schedule, on every instance of a random family."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        servers, jobs = int(rng.integers(1, 4)), int(rng.integers(1, 12))
        speeds = rng.choice([0.25, 0.5, 1.0, 2.0, 4.0], (servers, 1))
        said = speeds[:, 0] * rng.uniform(1.0, distortion, servers)
        size = rng.exponential(1.0, jobs)
        work = make_workload(np.zeros(jobs), size)
        done = run(work, Servers(speeds), ORDERS["fcfs"](), share=GreatestDensity(speeds=(tuple(said),)))
        assert float(done.seconds[at.FINISH].sum()) <= 8 * distortion * brute_force_flow(size, speeds[:, 0]) + 1e-9


def test_the_order_of_the_servers_alone_is_enough_for_a_constant() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        servers, jobs = int(rng.integers(1, 4)), int(rng.integers(1, 12))
        speeds = np.sort(rng.choice([0.25, 1.0, 4.0], (servers, 1)), axis=0)[::-1].copy()
        size = rng.exponential(1.0, jobs)
        done = run(make_workload(np.zeros(jobs), size), Servers(speeds), ORDERS["fcfs"](), share=InTurnOnFastest())
        assert float(done.seconds[at.FINISH].sum()) <= 216 * brute_force_flow(size, speeds[:, 0])
        shares = InTurnOnFastest().amounts(Claims({"id": np.arange(jobs)}), {"servers": servers}, 0.0)
        assert shares.sum(axis=0).max() <= 1 + 1e-12
        assert shares.sum(axis=1).max() <= 1 + 1e-12


# -- admission ----------------------------------------------------------------------------------------------------------------


def accepted(policy: Threshold, value: np.ndarray, size: np.ndarray, budget: float) -> float:
    """Value of what a policy takes."""
    used = total = 0.0
    for v, s in zip(value, size, strict=True):
        claims = Claims({"weight": np.array([v]), "size": np.array([s])})
        if policy.amounts(claims, {"work": budget - used, "work_in_all": budget}, 0.0)[0] > 0:
            used, total = used + s, total + v
    assert used <= budget + 1e-12
    return total


def test_the_threshold_keeps_its_competitive_ratio_on_the_worst_case() -> None:
    """Densities that rise step by step and stop anywhere: the optimum takes the best, the rule keeps within ln(U/L) + 1."""
    low, high, budget, size = 1.0, 20.0, 1.0, 0.005
    for stop in np.linspace(low, high, 5):
        densities = np.repeat(np.arange(low, stop + 1e-9, 0.1), 200)
        taken = accepted(Threshold(low, high), densities * size, np.full(len(densities), size), budget)
        assert densities.max() * budget <= (np.log(high / low) + 1) * taken * 1.05


def test_time_fair_rules_treat_a_share_alike() -> None:
    for rule in (TimeFair(1.0, 10.0, alpha=0.4), TimeFairSimple(1.0, 10.0, alpha=0.4)):
        assert [rule.threshold(z) for z in (0.0, 0.2, 0.399)] == [1.0, 1.0, 1.0]
        assert rule.threshold(1.0) == pytest.approx(10.0)
        assert rule.threshold(0.41) >= 1.0


def test_thresholds_of_the_papers() -> None:
    assert Threshold(1.0, 10.0).threshold(1.0) == pytest.approx(10.0)
    assert Threshold(1.0, 10.0).threshold(0.5) == pytest.approx((10 * e) ** 0.5 / e)
    trusting = LearningAugmented(1.0, 10.0, predicted=4.0, trust=0.5)
    flat = [trusting.threshold(z) for z in np.linspace(0.0, 1.0, 101)]
    assert sum(value == 4.0 for value in flat) >= 45
    assert np.all(np.diff(flat) >= 0)


@pytest.mark.parametrize(
    ("shape", "name", "parameters", "said"),
    [
        ("order", "round_robin", {"quantum": 0.0}, "quantum"),
        ("order", "mlfq", {"levels": 0}, "levels"),
        ("order", "etc_u", {"delta": 2.0}, "delta"),
        ("order", "skip_predict", {"cheap": -1.0}, "costs"),
        ("place", "dodoor", {"alpha": 3.0}, "alpha"),
        ("place", "sita", {"cutoffs": (2.0, 1.0)}, "cutoffs"),
        ("allot", "knapsack", {"low": 3.0, "high": 1.0}, "densities"),
        ("allot", "weight_behind", {"robustness": 2.0}, "robustness"),
    ],
)
def test_parameters_out_of_range(shape: str, name: str, parameters: dict[str, Any], said: str) -> None:
    room = {"order": QUEUE_ORDERS, "place": QUEUE_PLACES, "allot": {**SHARES, **ADMISSIONS}}[shape]
    with pytest.raises(InputError, match=said):
        room[name](**parameters)  # type: ignore[operator]


def test_theory_is_importable_beside_the_policies() -> None:
    assert theory.erlang_c(0.5, 1) == pytest.approx(0.5)
