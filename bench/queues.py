"""The queues world against the clock, against other simulators, and against a published table.

    python -m bench.queues speed        jobs per CPU second, with SimPy and Ciw beside (pip install simpy ciw)
    python -m bench.queues noisy        shortest predicted remaining time at load .95 and .99 against Mitzenmacher 2020
    python -m bench.queues skip         the load at which a cheap bit stops paying, as a picture
    python -m bench.queues regret       what it costs not to know the means of job types, by the number of jobs, as a picture

Speeds are the best of several runs, after compilation; the peers run the same arrivals and sizes in the same minute.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rota.kernel.decisions import Order
from rota.kernel.tables import FloatColumn, Jobs
from rota.rules import ALLOTS, ORDERS, PLACES
from rota.worlds.queues import theory
from rota.worlds.queues.distributions import parse_distribution
from rota.worlds.queues.kernels import layout as at
from rota.worlds.queues.model import Workload, alike, make_workload
from rota.worlds.queues.policies import QUEUE_ORDERS
from rota.worlds.queues.simulate import Roles, Simulation


@dataclass
class PlainPython(Order):
    """A user's dynamic order: aged shortest job first, asked at each decision."""

    reads = ("size", "release")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return jobs.size - 0.1 * (now - jobs.release)


@dataclass
class PlainPreemptive(Order):
    """A user's preemptive one, asked at each arrival and each end."""

    preemptive = True
    reads = ("remaining",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return jobs.remaining


def work_of(jobs: int, load: float, servers: int = 1, seed: int = 0) -> Workload:
    """Poisson arrivals, exponential sizes of mean 1."""
    rng = np.random.default_rng(seed)
    return make_workload(np.cumsum(rng.exponential(1 / (load * servers), jobs)), rng.exponential(1.0, jobs))


def speed_of(
    work: Workload, servers: int, order: Order, central: bool = True, share: str = "", repeat: int = 4
) -> tuple[float, float]:
    """Jobs per CPU second of the loop, and with the set-up of the run."""
    loops, wholes = [], []
    for _ in range(repeat):
        begin = time.process_time()
        roles = Roles(order, PLACES["least_outstanding"](), ALLOTS[share]() if share else None)
        run = Simulation(work, alike(servers, central=central), roles, visible=work.size)
        ready = time.process_time()
        run.run()
        end = time.process_time()
        loops.append(end - ready)
        wholes.append(end - begin)
    return len(work) / min(loops), len(work) / min(wholes)


def simpy_speed(work: Workload) -> float:
    """A first-come-first-served server as a SimPy process, jobs per CPU second."""
    import simpy

    environment = simpy.Environment()
    server = simpy.Resource(environment, capacity=1)
    finish = np.zeros(len(work))

    def job(number: int, arrival: float, size: float):  # type: ignore[no-untyped-def]
        yield environment.timeout(arrival)
        with server.request() as turn:
            yield turn
            yield environment.timeout(size)
        finish[number] = environment.now

    begin = time.process_time()
    for number, (arrival, size) in enumerate(zip(work.arrival.tolist(), work.size.tolist(), strict=True)):
        environment.process(job(number, arrival, size))
    environment.run()
    spent = time.process_time() - begin
    check(work, finish)
    return len(work) / spent


def ciw_speed(work: Workload) -> float:
    """The same server as a Ciw network, jobs per CPU second."""
    import ciw

    gaps = np.diff(work.arrival, prepend=0.0).tolist()
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Sequential([*gaps, float("inf")])],
        service_distributions=[ciw.dists.Sequential(work.size.tolist())],
        number_of_servers=[1],
    )
    begin = time.process_time()
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(len(work), method="Finish")
    spent = time.process_time() - begin
    finish = np.array(sorted(record.exit_date for record in simulation.get_all_records()))
    check(work, finish)
    return len(work) / spent


def check(work: Workload, finish: FloatColumn) -> None:
    """The peer's answer is ours: otherwise a speed means nothing."""
    run = Simulation(work, alike(1), Roles(ORDERS["fcfs"](), PLACES["random"]()))
    run.run()
    np.testing.assert_allclose(np.sort(finish), np.sort(run.seconds[at.FINISH]), rtol=1e-9)


def speed(console: Console) -> None:
    """Print the table of speeds."""
    many, few = work_of(1_000_000, 0.8), work_of(200_000, 0.8)
    ten = work_of(1_000_000, 0.8, 10)
    table = Table("what", "jobs / CPU s", "with set-up", "goal", box=None)
    rows: list[tuple[str, Callable[[], tuple[float, float]], str]] = [
        ("M/M/1 fcfs", lambda: speed_of(many, 1, ORDERS["fcfs"]()), "3,000,000"),
        ("M/M/1 srpt", lambda: speed_of(many, 1, ORDERS["srpt"]()), "1,000,000"),
        ("M/M/1 las, equals share", lambda: speed_of(many, 1, ORDERS["las"]()), ""),
        ("M/M/1 processor sharing", lambda: speed_of(many, 1, ORDERS["fcfs"](), share="processor_sharing"), ""),
        ("10 servers, one line, fcfs", lambda: speed_of(ten, 10, ORDERS["fcfs"]()), ""),
        ("10 servers, join the shortest", lambda: speed_of(ten, 10, ORDERS["fcfs"](), central=False), "1,000,000"),
        ("an order in plain Python", lambda: speed_of(few, 1, PlainPython()), "100,000"),
        ("a preemptive one", lambda: speed_of(few, 1, PlainPreemptive()), "100,000"),
    ]
    for what, measure, goal in rows:
        loop, whole = measure()
        table.add_row(what, f"{loop:,.0f}", f"{whole:,.0f}", goal)
    peers = work_of(50_000, 0.8)
    for name, module, measure_peer in (("SimPy", "simpy", simpy_speed), ("Ciw", "ciw", ciw_speed)):
        if find_spec(module) is None:
            table.add_row(f"{name}, M/M/1 fcfs", "not installed", "", "")
        else:
            table.add_row(f"{name}, M/M/1 fcfs", f"{max(measure_peer(peers) for _ in range(2)):,.0f}", "", "")
    console.print(table)


def noisy(console: Console, runs: int = 40, jobs: int = 4_000_000) -> None:
    """SPRPT at high load, with SRPT on the same jobs as control variate (its mean is known exactly)."""
    law = parse_distribution("exponential")
    table = Table("load", "simulated", "95 % +-", "theory", "published", "off", box=None)
    for load, published in ((0.5, 1.653), (0.8, 3.117), (0.95, 8.322), (0.99, 28.73)):
        pairs = np.array([_pair(load, seed, jobs) for seed in range(runs)])
        slope = np.cov(pairs.T)[0, 1] / pairs[:, 1].var(ddof=1)
        adjusted = pairs[:, 0] - slope * (pairs[:, 1] - theory.srpt(load, law))
        mean, half = adjusted.mean(), 1.96 * adjusted.std(ddof=1) / np.sqrt(runs)
        exact, off = theory.sprpt(load, law, law), mean / published - 1
        table.add_row(f"{load}", f"{mean:.4f}", f"{half:.4f}", f"{exact:.4f}", f"{published}", f"{off:+.2%}")
        console.print(f"load {load}: {mean:.4f} +- {half:.4f}")
    console.print(table)


def _pair(load: float, seed: int, jobs: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    size = rng.exponential(1.0, jobs)
    work = make_workload(np.cumsum(rng.exponential(1 / load, jobs)), size)
    said = size * rng.exponential(1.0, jobs)
    means = []
    for order in (QUEUE_ORDERS["sprpt"](), ORDERS["srpt"]()):
        run = Simulation(work, alike(1), Roles(order, PLACES["random"]()), visible=size, predicted=said)
        run.run()
        means.append(float((run.seconds[at.FINISH] - run.seconds[at.ARRIVAL])[jobs // 10 :].mean()))
    return means[0], means[1]


def skip(console: Console, out: Path) -> None:
    """Mean response time with SkipPredict over that without predictions, by load, for several costs of the bit (server time; mean service 1 s).

    The bit and the prediction are those of the example: exponential around the true size; a prediction costs 0.1 s. A ratio above 1 means that
    the bit does not pay.
    """
    import plotly.graph_objects as go

    law = parse_distribution("exponential")
    figure = go.Figure()
    for cheap in (0.01, 0.02, 0.05, 0.1):
        loads = np.arange(0.1, 0.985 / (1 + cheap + 0.05), 0.08)
        ratios = []
        for load in loads:
            bought = theory.skip_predict(load, law, law, 1.0, cheap, 0.1, bit_factor=law, on_server=True)
            ratios.append(bought / theory.fcfs(load, law))
        pays = [f"{load:.2f}" for load, ratio in zip(loads, ratios, strict=True) if ratio < 1.0]
        console.print(
            f"bit {cheap:g} s: pays from load {pays[0]} to {pays[-1]}" if pays else f"bit {cheap:g} s: never pays"
        )
        console.print("   " + "  ".join(f"{load:.2f}: {ratio:.3f}" for load, ratio in zip(loads, ratios, strict=True)))
        figure.add_scatter(x=loads, y=ratios, name=f"bit {cheap:g} s", mode="lines+markers")
    figure.add_hline(y=1.0, line_dash="dash", annotation_text="no better than no prediction")
    figure.update_layout(
        title="When does a cheap bit pay?",
        xaxis_title="load, without the cost of predictions",
        yaxis_title="mean response time, SkipPredict / fcfs",
    )
    figure.write_html(out, include_plotlyjs=True)
    console.print(f"picture: {out}")


def regret(console: Console, out: Path, runs: int) -> None:
    """Flow time above that of shortest true mean first, over it, for two exponential types and more and more jobs of each.

    The paper (Merlis et al. 2023) proves the excess to be sublinear in the optimum, so that the ratio must fall, and that interrupting wins when the means
    are far apart.
    """
    from plotly.subplots import make_subplots

    sizes = [10, 30, 100, 300, 1000]
    names = {"etc_u": "#1f77b4", "etc_rr": "#ff7f0e", "ucb_u": "#2ca02c", "ucb_rr": "#d62728"}
    cases = [[1.0, 1.25], [1.0, 4.0], [0.02, 4.0]]
    figure = make_subplots(rows=1, cols=3, subplot_titles=[f"mean sizes {a:g} and {b:g}" for a, b in cases])
    for column, means in enumerate(cases, 1):
        table = Table(
            "policy", *(f"{each} jobs each" for each in sizes), title=f"mean sizes {means[0]:g} and {means[1]:g}"
        )
        for name, colour in names.items():
            known: Any = QUEUE_ORDERS["c_mu"]
            learns: Any = QUEUE_ORDERS[name]
            ratios = []
            for each in sizes:
                found = []
                for seed in range(runs):
                    rng = np.random.default_rng(seed)
                    kinds = rng.permutation(np.repeat([0, 1], each))
                    work = make_workload(
                        np.zeros(2 * each), rng.exponential(np.array(means)[kinds]), job_class=kinds, classes=("a", "b")
                    )
                    orders = known(means=dict(enumerate(means))), learns(delta=0.01)
                    flows = []
                    for order in orders:
                        done = Simulation(work, alike(1), Roles(order, PLACES["least_outstanding"]()))
                        done.run()
                        flows.append(done.seconds[at.FINISH].sum())
                    found.append(flows[1] / flows[0] - 1.0)
                ratios.append(float(np.mean(found)))
            table.add_row(name, *(f"{ratio:.1%}" for ratio in ratios))
            figure.add_scatter(
                x=sizes,
                y=ratios,
                name=name,
                line_color=colour,
                mode="lines+markers",
                row=1,
                col=column,
                showlegend=column == 1,
            )
        console.print(table)
    figure.update_xaxes(type="log", title_text="jobs of each type")
    figure.update_yaxes(tickformat=".0%")
    figure.update_layout(width=1100, height=400, template="plotly_white", yaxis_title="excess flow time")
    figure.write_html(out, include_plotlyjs=True)
    console.print(f"picture: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "noisy", "skip", "regret"])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("picture.html"))
    given = parser.parse_args()
    shown = Console()
    if given.what == "speed":
        speed(shown)
    elif given.what == "noisy":
        noisy(shown, given.runs)
    elif given.what == "regret":
        regret(shown, given.out, given.runs)
    else:
        skip(shown, given.out)
