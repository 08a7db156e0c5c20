"""One machine, total weighted tardiness: iterated dynasearch (Congram, Potts and van de Velde 2002), see `kernels/single.py`."""

import time

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.streams import generator
from rota.worlds.shop.bounds import lower_bound
from rota.worlds.shop.kernels import single as kernel
from rota.worlds.shop.model import Problem
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.solver import HEARTBEAT, Limit, Solver, Step, Steps
from rota.worlds.shop.solvers.single import columns, schedule, takes


class Dynasearch(Solver):
    """Local search over exponentially many exchanges at once, kicked.

    Args:
        kicks: Random exchanges between two searches.
        patience: Searches without anything better after which the next one begins from the best.
    """

    counts = "searches"

    def __init__(self, kicks: int = 6, patience: int = 100) -> None:
        for name, value in (("kicks", kicks), ("patience", patience)):
            if value < 1:
                raise InputError(f"dynasearch: {name}: must be at least 1, found {value}")
        self.kicks = kicks
        self.patience = patience

    def refuses(self, problem: Problem) -> str | None:
        return takes(problem, ("weighted_tardiness", "total_tardiness"))

    def prepare(self, problem: Problem) -> None:
        two = np.array([1, 2])
        kernel.iterated_dynasearch(two, two, two, two - 1, two - 1, 1, kernel.random_state(0), 1, 1)

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        duration, due, weight = columns(problem)
        seed = int(generator(limit.seed, "dynasearch").integers(1 << 62))
        state = kernel.random_state(seed)
        view = problem.as_single_machine()
        ratio = weight / np.maximum(duration, 1)
        sequence = np.lexsort((-ratio, due)).astype(np.int64)
        if start is not None and view is not None:
            sequence = np.argsort(start.start[view.operation], kind="stable").astype(np.int64)
        best = sequence.copy()
        bound, known, work, chunk = lower_bound(problem).value, 1 << 62, 0, 1
        while limit.work is None or work < limit.work:
            passes = chunk if limit.work is None else min(chunk, limit.work - work)
            begin = time.monotonic()
            value = kernel.iterated_dynasearch(
                duration, due, weight, sequence, best, passes, state, self.kicks, self.patience
            )
            work += passes
            if time.monotonic() - begin < HEARTBEAT / 4:
                chunk *= 2  # changes when news is told, not what is found
            if value < known:
                known = int(value)
                yield Step(schedule(problem, best), work=work, finished=known == bound)
            else:
                yield Step(work=work)
