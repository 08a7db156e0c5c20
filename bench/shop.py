"""The shop world against published optima, other solvers and the clock.

    python -m bench.shop jobshop [--seconds 60]     one Taillard job shop of each size, two workers
    python -m bench.shop dispatch                   operations per CPU second, and gaps of rules on Taillard's job shops
    python -m bench.shop single --data FOLDER       exact total tardiness, dynasearch on the OR-Library's instances

Other solvers' figures were measured on this kind of machine with the same limits (two workers, one run): CP-SAT 9.15 alone, PyJobShop 0.0.9, job-shop-lib 1.7.
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from rota.worlds.shop.best_known import best_known
from rota.worlds.shop.dispatch import _run, board, dispatch, fixed_keys
from rota.worlds.shop.generate import instance
from rota.worlds.shop.generate.synthetic import random_job_shop
from rota.worlds.shop.policies import RULES
from rota.worlds.shop.shapes import single_machine
from rota.worlds.shop.solve import solve
from rota.worlds.shop.solvers.branch import Decomposition

JOB_SHOPS = {  # CP-SAT after 60 s, per cent; None: not measured alone
    "ta01": "0.0", "ta11": "1.9", "ta21": "1.3-3.8", "ta31": "2.7", "ta41": "6.9", "ta51": "6.6", "ta61": "9.6", "ta71": "8.1",
}  # fmt: skip
SIZES = ((1, 10), (11, 20), (21, 30), (31, 40), (41, 50), (51, 60), (61, 70), (71, 80))


def jobshop(console: Console, seconds: float) -> None:
    """Gap to the best known upper bound after a time, by the portfolio, and when it was last improved."""
    table = Table(
        "instance",
        "size",
        "value",
        "best known",
        "gap",
        "found by",
        "after",
        "bound",
        "CP-SAT 60 s",
        title=f"{seconds:g} s, 2 workers",
    )
    gaps = []
    for name, peer in JOB_SHOPS.items():
        problem, known = instance(name), best_known(name)
        found = solve(problem, seconds=seconds, workers=2)
        if known is None or known.upper is None or found.value is None:
            raise SystemExit(f"{name}: nothing to compare with")
        gaps.append(100.0 * (found.value / known.upper - 1.0))
        size = f"{len(problem.jobs)} x {len(problem.resources)}"
        after = f"{found.trace[-1].seconds:.1f} s"
        table.add_row(
            name,
            size,
            str(found.value),
            str(known.upper),
            f"{gaps[-1]:.2f} %",
            found.found_by,
            after,
            str(found.bound),
            f"{peer} %",
        )
    console.print(table)
    console.print(f"mean gap {np.mean(gaps):.2f} %, largest {max(gaps):.2f} %")


def rules(console: Console) -> None:
    """Speed on 100 x 20, best of ten; mean gaps by size."""
    shop = board(random_job_shop(100, 20, seed=1))
    table = Table("rule", "asked", "operations / CPU s", title="100 jobs x 20 machines, non-delay")
    for name, rule in RULES.items():
        keys, best = fixed_keys(shop, rule()), np.inf
        for _ in range(10):
            begin = time.process_time()
            if keys is None:
                dispatch(shop, rule())
            else:
                _run(shop, *keys, None, False)
            best = min(best, time.process_time() - begin)
        table.add_row(name, "once" if keys is not None else "in Python, at each choice", f"{2000 / best:,.0f}")
    console.print(table)
    table = Table("rule", *(f"ta{a:02}-{b}" for a, b in SIZES), title="mean gap to the best known value, non-delay")
    for name in ("mwkr", "mopnr", "fdd_mwkr", "spt", "fcfs", "random"):
        row = []
        for first, last in SIZES:
            found = []
            for number in range(first, last + 1):
                problem, known = instance(f"ta{number:02}"), best_known(f"ta{number:02}")
                if known is not None and known.upper is not None:
                    found.append(dispatch(problem, RULES[name]()).value(problem) / known.upper - 1.0)
            row.append(f"{np.mean(found):.1%}")
        table.add_row(name, *row)
    console.print(table)


def single(console: Console, folder: Path) -> None:
    """Exact total tardiness on the instances of Shang et al.; dynasearch on the OR-Library's weighted ones."""
    with gzip.open(folder / "shop/smtt.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    for size, step in ((100, 5), (200, 10)):
        seconds, wrong = [], 0
        chosen = [row for row in rows if row["n"] == size][::step]
        for row in chosen:
            begin = time.process_time()
            value, _ = Decomposition(np.array(row["p"]), np.array(row["d"])).solve()
            seconds.append(time.process_time() - begin)
            wrong += value != row["optimum"]
        console.print(
            f"branch, {size} jobs: {len(chosen)} instances, {wrong} wrong, mean {np.mean(seconds):.2f} CPU s, largest {max(seconds):.2f}"
        )
    with gzip.open(folder / "shop/wt_orlib.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    for size, limit in ((40, 1.0), (50, 1.0), (100, 2.0)):
        chosen = [row for row in rows if row["n"] == size][::5]
        best = 0
        for row in chosen:
            problem = single_machine(row["p"], due=row["d"], weight=row["w"], objective="weighted_tardiness")
            best += solve(problem, "dynasearch", seconds=limit).value == row["best_known"]
        console.print(f"dynasearch, wt{size}, {limit:g} s: {best} of {len(chosen)} at the best known value")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["jobshop", "dispatch", "single"])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    shown = Console(width=140)
    if given.what == "jobshop":
        jobshop(shown, given.seconds)
    elif given.what == "dispatch":
        rules(shown)
    else:
        single(shown, given.data)
