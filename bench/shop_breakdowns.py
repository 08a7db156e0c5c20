"""Machines break down: dispatching rules, a fixed plan, and planning again at each event, on the same seeded luck.

    python -m bench.shop_breakdowns [--runs 20] [--work 200]

Job shops of 10 jobs on 5 machines, a shop a run, plain and blocking (with swaps). A machine works 150 time units on average before it breaks down, a
repair takes 30; operations take 50 on average. Each plan anew has `--work` thousandths of a deterministic second of CP-SAT (0.2 s). Intervals are t
intervals of paired differences.
"""

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from rota.worlds.shop.generate import blocking
from rota.worlds.shop.generate.synthetic import random_job_shop
from rota.worlds.shop.luck import Luck
from rota.worlds.shop.policies import RULES
from rota.worlds.shop.simulate import planning, simulate
from rota.worlds.shop.solve import solve

NAMES = ("fcfs", "spt", "mopnr", "mwkr", "fdd_mwkr")


def main() -> None:
    """Print a table for each kind of shop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--work", type=int, default=200)
    given = parser.parse_args()
    console = Console(width=130)
    for kind in ("plain", "blocking"):
        found: dict[str, list[float]] = {name: [] for name in (*NAMES, "fixed plan", "planning again")}
        moved, plans, swaps = [], [], []
        for seed in range(given.runs):
            shop = random_job_shop(10, 5, seed=seed)
            problem = blocking(shop) if kind == "blocking" else shop
            luck = Luck(seed=seed, uptime=150.0, repair=30.0)
            for name in NAMES:
                found[name].append(simulate(problem, RULES[name](), luck).value)
            plan = solve(problem, "cpsat", work=5_000, workers=1).schedule
            if plan is None:
                raise SystemExit(f"seed {seed}: no plan to begin with")
            found["fixed plan"].append(simulate(problem, plan, luck).value)
            control = planning(plan, work=given.work)
            done = simulate(problem, control, luck)
            found["planning again"].append(done.value)
            swaps.append(done.swaps)
            plans.append(len(control.moves))
            moved.append(np.mean([move.reordered for move in control.moves]) if control.moves else 0.0)
        table = Table(
            "control", "mean makespan", "above planning again", "95 % interval", "p", title=f"{kind}, {given.runs} runs"
        )
        base = np.array(found["planning again"])
        for name, values in found.items():
            over = 100.0 * (np.array(values) / base - 1.0)
            row = [name, f"{np.mean(values):.0f}", f"{over.mean():+.1f} %"]
            if name != "planning again":
                low, high = stats.t.interval(0.95, len(over) - 1, over.mean(), stats.sem(over))
                row += [f"{low:+.1f} to {high:+.1f} %", f"{stats.ttest_1samp(over, 0.0).pvalue:.2g}"]
            table.add_row(*row)
        console.print(table)
        console.print(f"planned again {np.mean(plans):.0f} times a run, {np.mean(swaps):.1f} swaps a run")
        console.print(f"each time {np.mean(moved):.1f} of 50 operations got another predecessor")


if __name__ == "__main__":
    main()
