"""How close compiled local search comes to the best known values in a few seconds: projects, flexible job shops, flow shops.

    python -m bench.shop_search [--data FOLDER] [--seconds 10] [--workers 2] [--seed 0] [SET ...]

SET: j120 (five hard ones), j30 (every tenth, 2 s each), j30all (all 480), mk (mk01-mk10), tafs (Taillard's flow shops, the first of each size).
FOLDER holds the instances (default: ROTA_DATA or ../shared/data beside the checkout). A row: value, best known, gap in %, seconds until the value was
found; a search ends when it has reached the best known value. Every schedule is verified.
"""

import argparse
import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from rota.worlds.shop import generate, shapes
from rota.worlds.shop.best_known import best_known
from rota.worlds.shop.model import Problem
from rota.worlds.shop.read import read
from rota.worlds.shop.solver import Limit, Solver
from rota.worlds.shop.solvers.flexible_tabu import FlexibleTabu
from rota.worlds.shop.solvers.iterated_greedy import IteratedGreedy
from rota.worlds.shop.solvers.project import ProjectSearch
from rota.worlds.shop.verify import verify

REPOSITORY = Path(__file__).parent.parent
HARD = ("j120_1_1", "j120_6_1", "j120_11_1", "j120_31_1", "j120_51_1")
Row = tuple[str, Problem, int]


def projects(folder: Path, family: str) -> Iterator[Row]:
    """PSPLIB instances: (name, problem, best known)."""
    with gzip.open(folder / f"rcpsp_{family}.jsonl.gz", "rt") as lines:
        for line in lines:
            row = json.loads(line)
            columns = row["durations"], row["demands"], row["capacities"], row["successors"]
            yield row["instance"], shapes.rcpsp(*columns, name=row["instance"]), row["upper_bound"]


def rows(name: str, folder: Path) -> Iterator[Row]:
    """The instances of a set."""
    if name == "j120":
        yield from (row for row in projects(folder, "j120") if row[0] in HARD)
    elif name in ("j30", "j30all"):
        yield from list(projects(folder, "j30"))[:: 1 if name == "j30all" else 10]
    elif name == "mk":
        known = {row["instance"]: row["upper_bound"] for row in json.loads((folder / "fjsp_bounds.json").read_text())}
        for number in range(1, 11):
            yield f"mk{number:02}", read(folder / "fjsp" / f"mk{number:02}.fjs"), known[f"mk{number:02}"]
    elif name == "tafs":
        for number in range(1, 121, 10):
            found = best_known(f"tafs{number:03}")
            if found is not None and found.upper is not None:
                yield f"tafs{number:03}", generate.instance(f"tafs{number:03}"), found.upper
    else:
        raise SystemExit(f"shop_search: there is no set '{name}' (j120, j30, j30all, mk, tafs)")


def search(
    problem: Problem, solver: Solver, seconds: float, workers: int, seed: int, known: int, work: int | None = None
) -> tuple[int, float]:
    """(value, seconds until it was found) of a solver, verified; ends when the best known value is reached."""
    begin = time.perf_counter()
    best, found = None, 0.0
    steps = solver.solve(problem, Limit(seconds=seconds, work=work, workers=workers, seed=seed))
    for step in steps:
        if step.schedule is not None:
            best, found = step.schedule, time.perf_counter() - begin
        reached = best is not None and best.value(problem) <= known
        if step.finished or reached or time.perf_counter() - begin >= seconds:
            steps.close()
    if best is None:
        raise SystemExit(f"shop_search: {type(solver).__name__} found nothing in {seconds:g} s for {problem.name}")
    wrong = verify(problem, best, best.value(problem))
    if wrong:
        raise SystemExit(f"shop_search: {problem.name}: {wrong[0]}")
    return best.value(problem), found


def main() -> None:
    """Run the sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("sets", nargs="*", default=["j120", "j30", "mk", "tafs"])
    default = Path(os.environ.get("ROTA_DATA", REPOSITORY.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    solvers: dict[str, Solver] = {"mk": FlexibleTabu(), "tafs": IteratedGreedy()}
    for name in given.sets:
        seconds = min(given.seconds, 2.0) if name.startswith("j30") else given.seconds
        gaps: list[float] = []
        times: list[float] = []
        for instance, problem, known in rows(name, given.data / "shop"):
            if not gaps:  # the first run compiles
                search(problem, solvers.get(name, ProjectSearch()), 60.0, 1, given.seed, known, work=100)
            value, found = search(
                problem, solvers.get(name, ProjectSearch()), seconds, given.workers, given.seed, known
            )
            gaps.append(100 * (value / known - 1))
            times.append(found)
            print(f"{instance:12} {value:7} {known:7} {gaps[-1]:6.2f} % {found:6.2f} s", flush=True)
        optimal = sum(gap <= 0 for gap in gaps)
        print(
            f"{name}: mean gap {sum(gaps) / len(gaps):.2f} %, {optimal} of {len(gaps)} at the best known, "
            f"found after {sum(times) / len(times):.2f} s on average, {seconds:g} s, {given.workers} workers"
        )


if __name__ == "__main__":
    main()
