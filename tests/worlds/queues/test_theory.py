"""Simulation against theory, theory against itself and against published figures.

Tolerances of simulated means are four half-widths of their own confidence interval (batch means), so that a test fails by luck less than once in thousands
of seeds; seeds are fixed.
"""

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.rules import ALLOTS, ORDERS, PLACES
from rota.worlds.queues import theory
from rota.worlds.queues.distributions import Distribution, parse_distribution
from rota.worlds.queues.kernels import layout as at
from rota.worlds.queues.metrics import batch_half_width
from rota.worlds.queues.model import alike, make_workload
from rota.worlds.queues.policies import QUEUE_ORDERS
from rota.worlds.queues.simulate import Roles, Simulation

LAWS = {
    "exponential": parse_distribution("exponential"),
    "hyperexponential": parse_distribution({"hyperexponential": {"mean": 1, "scv": 5}}),
    "gamma": parse_distribution({"gamma": {"mean": 1, "scv": 0.5}}),
    "weibull": parse_distribution({"weibull": {"mean": 1, "shape": 0.7}}),
    "uniform": parse_distribution({"uniform": {"low": 0, "high": 2}}),
    "lognormal": parse_distribution({"lognormal": {"mean": 1, "scv": 2}}),
    "bounded_pareto": parse_distribution({"bounded_pareto": {"alpha": 1.5, "low": 0.4, "high": 50}}),
}


def simulated(order, rate: float, law: Distribution, jobs: int = 400_000, seed: int = 0, share: str = "", **more):  # type: ignore[no-untyped-def]
    """Mean response time and half its confidence interval."""
    rng = np.random.default_rng(seed)
    size = law.draw(rng.random((law.uniforms, jobs)))
    work = make_workload(np.cumsum(rng.exponential(1 / rate, jobs)), size, **more.pop("columns", {}))
    policy, route = ORDERS[order]() if isinstance(order, str) else order, PLACES["random"]()
    policy.bind(rng)
    run = Simulation(work, alike(1), Roles(policy, route, ALLOTS[share]() if share else None), visible=size, **more)
    run.run()
    response = (run.seconds[at.FINISH] - run.seconds[at.ARRIVAL])[jobs // 10 :]
    return float(response.mean()), batch_half_width(response)


def assert_agrees(found: tuple[float, float], expected: float, within: float = 0.03) -> None:
    """The theory lies within the interval, and the interval is narrow enough to mean something."""
    mean, half = found
    assert abs(mean - expected) < 4 / 2 * half + 1e-12, f"simulated {mean:.4f} +- {half:.4f}, theory {expected:.4f}"
    assert half < within * expected * 2


def test_equals_share_several_servers() -> None:
    """Memoryless sizes: least attained service on many servers keeps as many jobs as any rule that knows no sizes; also late, when the clock is coarse."""
    rng, jobs, servers = np.random.default_rng(3), 8000, 3
    law = parse_distribution("exponential")
    work = make_workload(
        1e6 + np.cumsum(rng.exponential(1 / (0.8 * servers), jobs)), law.draw(rng.random((law.uniforms, jobs)))
    )
    found = {}
    for order in ("las", "fcfs"):
        run = Simulation(work, alike(servers), Roles(ORDERS[order](), PLACES["random"]()))
        run.run()
        found[order] = (run.seconds[at.FINISH] - run.seconds[at.ARRIVAL])[jobs // 10 :]
    half = batch_half_width(found["las"] - found["fcfs"])
    assert abs(found["las"].mean() - found["fcfs"].mean()) < 2 * half
    assert half < 0.2


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("order", ["fcfs", "lcfs", "random", "srpt", "psjf", "sjf", "las", "processor_sharing"])
def test_one_server(order: str, law: str) -> None:
    rate, found = 0.7, LAWS[law]
    formula = {
        "fcfs": theory.fcfs, "lcfs": theory.fcfs, "random": theory.fcfs, "srpt": theory.srpt, "psjf": theory.psjf,
        "sjf": theory.sjf, "las": theory.las, "processor_sharing": theory.processor_sharing,
    }[order]  # fmt: skip
    name, share = ("fcfs", order) if order == "processor_sharing" else (order, "")
    assert_agrees(simulated(name, rate, found, share=share), formula(rate, found), within=0.08)


def test_deterministic_service() -> None:
    law = parse_distribution({"deterministic": {"value": 1.0}})
    assert theory.fcfs(0.8, law) == pytest.approx(1 + 0.8 / (2 * 0.2))
    assert_agrees(simulated("fcfs", 0.8, law), theory.fcfs(0.8, law))


@pytest.mark.parametrize(("servers", "load"), [(2, 0.7), (5, 0.8), (20, 0.9)])
def test_many_servers_one_line(servers: int, load: float) -> None:
    rng = np.random.default_rng(1)
    jobs = 400_000
    work = make_workload(np.cumsum(rng.exponential(1 / (load * servers), jobs)), rng.exponential(1.0, jobs))
    run = Simulation(work, alike(servers), Roles(ORDERS["fcfs"](), PLACES["random"]()))
    run.run()
    waiting = (run.seconds[at.START] - run.seconds[at.ARRIVAL])[jobs // 10 :]
    assert_agrees(
        (float(waiting.mean()), batch_half_width(waiting)), theory.mmk_waiting(load * servers, 1.0, servers), 0.2
    )
    share = float((waiting > 0).mean())
    assert share == pytest.approx(theory.erlang_c(load * servers, servers), rel=0.04)


def test_a_full_line_loses_what_erlang_says() -> None:
    rng = np.random.default_rng(2)
    work = make_workload(np.cumsum(rng.exponential(1 / 4.0, 300_000)), rng.exponential(1.0, 300_000))
    for servers, room in ((3, 0), (3, 4)):
        run = Simulation(work, alike(servers, buffer=room), Roles(ORDERS["fcfs"](), PLACES["random"]()))
        run.run()
        lost = float((run.jobs[at.STATE] == at.BLOCKED).mean())
        assert lost == pytest.approx(theory.mmkr_blocking(4.0, 1.0, servers, room), rel=0.03)
    assert theory.mmkr_blocking(4.0, 1.0, 3, 0) == pytest.approx(theory.erlang_b(4.0, 3))


def test_jobs_that_lose_patience_follow_erlang_a() -> None:
    """M/M/1 with exponential patience: a birth and death chain, solved here term by term."""
    rate, leaving = 1.5, 0.5
    rng = np.random.default_rng(3)
    jobs = 200_000
    work = make_workload(
        np.cumsum(rng.exponential(1 / rate, jobs)),
        rng.exponential(1.0, jobs),
        patience=rng.exponential(1 / leaving, jobs),
    )
    run = Simulation(work, alike(1), Roles(ORDERS["fcfs"](), PLACES["random"]()))
    run.run()
    weights = [1.0]
    for n in range(1, 200):
        weights.append(weights[-1] * rate / (1.0 + (n - 1) * leaving))
    shares = np.array(weights) / sum(weights)
    abandoned = leaving * float((np.maximum(np.arange(200) - 1, 0) * shares).sum()) / rate
    assert float((run.jobs[at.STATE] == at.ABANDONED).mean()) == pytest.approx(abandoned, rel=0.02)


@pytest.mark.parametrize("preemptive", [False, True])
def test_priority_classes(preemptive: bool) -> None:
    rng = np.random.default_rng(4)
    jobs, shares = 400_000, np.array([0.3, 0.3, 0.4])
    laws = [LAWS["gamma"], LAWS["exponential"], LAWS["hyperexponential"]]
    kinds = rng.choice(3, jobs, p=shares)
    size = np.empty(jobs)
    for kind, law in enumerate(laws):
        size[kinds == kind] = law.draw(rng.random((law.uniforms, int((kinds == kind).sum()))))
    work = make_workload(np.cumsum(rng.exponential(1 / 0.7, jobs)), size, priority=kinds)
    order = ORDERS["priority"]()
    if preemptive:
        type_ = type("Preemptive", (ORDERS["priority"],), {"preemptive": True})
        order = type_()
    run = Simulation(work, alike(1), Roles(order, PLACES["random"]()))
    run.run()
    response = run.seconds[at.FINISH] - run.seconds[at.ARRIVAL]
    expected = theory.priorities(list(0.7 * shares), laws, preemptive)
    for kind in range(3):
        mine = response[kinds == kind]
        assert_agrees((float(mine.mean()), batch_half_width(mine)), expected[kind], 0.1)


def test_two_choices_of_many_servers() -> None:
    rng = np.random.default_rng(5)
    jobs, servers, load = 400_000, 100, 0.9
    work = make_workload(np.cumsum(rng.exponential(1 / (load * servers), jobs)), rng.exponential(1.0, jobs))
    means = {}
    for name in ("random", "power_of_two", "least_outstanding"):
        route = PLACES[name]()
        route.bind(rng)
        run = Simulation(work, alike(servers, central=False), Roles(ORDERS["fcfs"](), route))
        run.run()
        means[name] = float((run.seconds[at.FINISH] - run.seconds[at.ARRIVAL])[jobs // 5 :].mean())
    assert means["power_of_two"] == pytest.approx(theory.power_of_d_response(load, 2), rel=0.03)
    assert means["random"] == pytest.approx(theory.power_of_d_response(load, 1), rel=0.15)
    # one line before all servers is better than any dispatcher, and joining the shortest is better than two choices
    best = 1.0 + theory.mmk_waiting(load * servers, 1.0, servers)
    assert best <= means["least_outstanding"] * 1.01
    assert means["least_outstanding"] < means["power_of_two"] < means["random"]


@pytest.mark.parametrize("seed", range(5))
def test_srpt_has_the_fewest_jobs_at_every_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    work = make_workload(np.cumsum(rng.exponential(1.2, 2000)), rng.exponential(1.0, 2000))
    ends = {}
    for name in ("srpt", "fcfs", "sjf", "psjf", "las", "lcfs"):
        run = Simulation(work, alike(1), Roles(ORDERS[name](), PLACES["random"]()), visible=work.size)
        run.run()
        ends[name] = np.sort(run.seconds[at.FINISH])
    for name, finish in ends.items():
        # as many are done by then under SRPT: its k-th end is never later than anybody's k-th end
        assert (ends["srpt"] <= finish + 1e-9).all(), name


# -- formulas among themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rate", [0.3, 0.8, 0.95])
def test_orders_of_the_formulas(law: str, rate: float) -> None:
    found = LAWS[law]
    rate /= found.mean
    assert theory.srpt(rate, found) <= theory.psjf(rate, found) * (1 + 1e-9)
    assert theory.srpt(rate, found) <= min(
        f(rate, found) for f in (theory.sjf, theory.las, theory.processor_sharing, theory.fcfs)
    )
    assert theory.fcfs_waiting(rate, found) <= theory.kingman_waiting(rate, found, 1.0) * (1 + 1e-9)


def test_memoryless_sizes_make_blind_orders_equal() -> None:
    law = LAWS["exponential"]
    for rate in (0.5, 0.9):
        expected = 1 / (1 - rate)
        assert theory.fcfs(rate, law) == pytest.approx(expected)
        assert theory.processor_sharing(rate, law) == pytest.approx(expected)
        assert theory.las(rate, law) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("load", "fifo", "srpt", "sprpt"), [(0.5, 2, 1.425, 1.653), (0.8, 5, 2.353, 3.117), (0.95, 20, 5.541, 8.322), (0.99, 100, 17.63, 28.73)]
)  # fmt: skip
def test_published_table_of_noisy_predictions(load: float, fifo: float, srpt: float, sprpt: float) -> None:
    """Mitzenmacher 2020. FIFO and SRPT to the printed digits; his SPRPT, which is simulated, is 0.3 to 1 % below the exact value."""
    law = LAWS["exponential"]
    assert theory.fcfs(load, law) == pytest.approx(fifo, abs=1e-9)
    assert theory.srpt(load, law) == pytest.approx(srpt, rel=4e-4)
    exact = theory.sprpt(load, law, law)
    assert exact == pytest.approx({0.5: 1.6583, 0.8: 3.1375, 0.95: 8.404, 0.99: 28.94}[load], rel=1e-3)
    assert sprpt < exact < 1.011 * sprpt


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_simulated_noisy_predictions(load: float) -> None:
    law = LAWS["exponential"]
    found = [_predicted(load, seed) for seed in range(2)]
    mean, half = np.mean([each[0] for each in found]), found[0][1] / np.sqrt(2)
    assert abs(mean - theory.sprpt(load, law, law)) < 2 * half
    assert half < 0.02 * mean


def _predicted(load: float, seed: int, order: str = "sprpt", **parameters: object) -> tuple[float, float]:
    jobs = 1_000_000
    rng = np.random.default_rng(seed)
    size = rng.exponential(1.0, jobs)
    work = make_workload(np.cumsum(rng.exponential(1 / load, jobs)), size)
    said = size * rng.exponential(1.0, jobs)
    short = (size * rng.exponential(1.0, jobs) < 1.0).astype(np.float64)
    policy = QUEUE_ORDERS[order](**parameters)  # type: ignore[operator]
    run = Simulation(work, alike(1), Roles(policy, PLACES["random"]()), predicted=said, short=short)
    run.run()
    response = (run.seconds[at.FINISH] - run.seconds[at.ARRIVAL])[jobs // 10 :]
    return float(response.mean()), batch_half_width(response)


@pytest.mark.parametrize(
    ("load", "cheap", "expensive", "on_server"),
    [(0.5, 0, 0, False), (0.8, 0, 0, False), (0.5, 0.05, 0.2, True), (0.7, 0.05, 0.2, True)],
)
def test_skip_predict(load: float, cheap: float, expensive: float, on_server: bool) -> None:
    law = LAWS["exponential"]
    expected = theory.skip_predict(load, law, law, 1.0, cheap, expensive, bit_factor=law, on_server=on_server)
    mean, half = _predicted(
        load, 11, "skip_predict", cheap=float(cheap), expensive=float(expensive), on_server=on_server
    )
    assert abs(mean - expected) < max(2 * half, 0.01 * expected)


def test_no_steady_state_and_no_moment_is_said() -> None:
    with pytest.raises(InputError, match="is 1 or more"):
        theory.fcfs(1.2, LAWS["exponential"])
    with pytest.raises(InputError, match="second moment"):
        theory.fcfs(0.1, parse_distribution({"pareto": {"alpha": 1.5, "low": 1}}))
    with pytest.raises(InputError, match="infinite mean"):
        theory.processor_sharing(0.1, parse_distribution({"pareto": {"alpha": 0.9, "low": 1}}))
    with pytest.raises(InputError, match="continuous"):
        theory.srpt(0.5, parse_distribution("deterministic"))
