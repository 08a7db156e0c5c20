"""Simulated annealing from four small parts: a neighbour, an acceptance, a cooling, a stop. For shops of chains and any objective.

Kirkpatrick, Gelatt, Vecchi, Optimization by simulated annealing, Science 220 (1983). A solution is a line: all operations in an order that jobs
and machines follow, see `kernels/jobshop.py`. The parts are plain callables, so that others can be put in their place.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.streams import generator
from rota.worlds.shop.kernels import jobshop
from rota.worlds.shop.model import Ints, Problem
from rota.worlds.shop.schedule import Schedule, values
from rota.worlds.shop.solver import HEARTBEAT, Limit, Solver, Step, Steps
from rota.worlds.shop.solvers.tabu import Shop, shop_of

Neighbour = Callable[[Ints, np.random.Generator], Ints]
Acceptance = Callable[[float, float, float], bool]  # how much worse, temperature, a number in [0, 1)
Cooling = Callable[[int, float], float]  # steps done, share of the limit that is spent: the temperature
Stop = Callable[[int, int], bool]  # steps done, steps since the last improvement


def insert(shop: Shop) -> Neighbour:
    """Take an operation out of the line and put it elsewhere between its job's neighbours."""
    count = len(shop.machine)

    def move(line: Ints, draw: np.random.Generator) -> Ints:
        place = np.empty(count + 1, np.int64)
        place[line] = np.arange(count)
        at = int(draw.integers(count))
        operation = line[at]
        before, after = shop.job_before[operation], shop.job_after[operation]
        first = place[before] + 1 if before < count else 0
        last = place[after] - 1 if after < count else count - 1
        to = int(draw.integers(first, last + 1))
        moved = line.copy()
        if to > at:
            moved[at:to] = line[at + 1 : to + 1]
        else:
            moved[to + 1 : at + 1] = line[to:at]
        moved[to] = operation
        return moved

    return move


def metropolis(worse: float, temperature: float, luck: float) -> bool:
    """What is no worse always, what is worse with probability exp(-worse / temperature)."""
    return worse <= 0 or (temperature > 0 and luck < np.exp(-worse / temperature))


def geometric(first: float, last: float) -> Cooling:
    """From a first temperature to a last one, by equal factors."""
    return lambda _, share: float(first * (last / first) ** min(share, 1.0))


def steps(most: int) -> Stop:
    """After so many steps."""
    return lambda done, _: done >= most


def patience(most: int) -> Stop:
    """After so many steps without anything better."""
    return lambda _, idle: idle >= most


@dataclass
class Worth:
    """The objective of a line."""

    problem: Problem
    shop: Shop

    def __call__(self, line: Ints) -> int:
        """The value when everything begins as early as the line lets it."""
        shop = self.shop
        start = jobshop.starts(line, shop.job_before, shop.machine, shop.duration, shop.head, shop.machines)
        return int(values(self.problem, start[shop.jobs_last] + shop.duration[shop.jobs_last]))


class Annealing(Solver):
    """Simulated annealing over lines.

    Args:
        first: First temperature, as a share of the value of the first schedule.
        last: Last temperature, the same.
        patience: Steps without anything better after which it begins again from the best, at the temperature of then.
    """

    counts = "steps"

    def __init__(self, first: float = 0.02, last: float = 0.0001, patience: int = 20_000) -> None:
        if not 0 < last <= first:
            raise InputError(f"annealing: temperatures must satisfy 0 < last <= first, found {last:g} and {first:g}")
        if patience < 1:
            raise InputError(f"annealing: patience: must be at least 1, found {patience}")
        self.first, self.last, self.patience = first, last, patience

    def refuses(self, problem: Problem) -> str | None:
        if problem.kind not in ("job_shop", "flow_shop", "single_machine"):
            return f"takes shops of chains on machines, this is a {problem.kind.replace('_', ' ')}"
        if problem.as_flexible_job_shop(allow=("release",)) is None:
            return f"does not know {', '.join(sorted(problem.features - {'release', 'due', 'weights'}))}"
        return None

    def prepare(self, problem: Problem) -> None:
        shop = shop_of(problem)
        Worth(problem, shop)(_first(shop, 0))

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        shop = shop_of(problem)
        draw = generator(limit.seed, "annealing")
        worth, move = Worth(problem, shop), insert(shop)
        line = _first(shop, int(draw.integers(1 << 62)))
        if start is not None:
            line = np.lexsort((start.end[shop.operation], start.start[shop.operation])).astype(np.int64)
        value = best = worth(line)
        keep, done, idle = line, 0, 0
        cool = geometric(self.first * max(value, 1), self.last * max(value, 1))
        tired, begin = patience(self.patience), time.monotonic()
        told = begin
        yield Step(_schedule(problem, shop, line))
        while limit.work is None or done < limit.work:
            share = (
                done / limit.work if limit.work is not None else (time.monotonic() - begin) / max(limit.seconds, 1e-9)
            )
            tried = move(line, draw)
            found = worth(tried)
            done, idle = done + 1, idle + 1
            if metropolis(found - value, cool(done, share), draw.random()):
                line, value = tried, found
            if value < best:
                best, keep, idle = value, line, 0
                yield Step(_schedule(problem, shop, keep), work=done)
            elif tired(done, idle):
                line, value, idle = keep, best, 0
            if time.monotonic() - told > HEARTBEAT / 2:
                told = time.monotonic()
                yield Step(work=done)


def _first(shop: Shop, seed: int) -> Ints:
    line: Ints = jobshop.construct(
        shop.job_before,
        shop.job_after,
        shop.machine,
        shop.duration,
        shop.head,
        np.zeros_like(shop.tail),
        shop.machines,
        0.3,
        seed,
    )
    return line


def _schedule(problem: Problem, shop: Shop, line: Ints) -> Schedule:
    begin = jobshop.starts(line, shop.job_before, shop.machine, shop.duration, shop.head, shop.machines)
    start, mode = np.empty(len(line), np.int64), np.empty(len(line), np.int64)
    start[shop.operation], mode[shop.operation] = begin, shop.mode
    return Schedule.from_starts(problem, start, mode)
