"""One machine, total tardiness, to proof: decomposition with memory.

In an order by due date the longest job goes last but for a set of later due ones (Lawler, A pseudopolynomial algorithm for sequencing jobs to
minimize total tardiness, 1977): every place for it that the rules of Potts and Van Wassenhove (1982) leave splits the jobs into two smaller problems.
What was solved for a set of jobs and a start is remembered (Szwarc, Della Croce, Grosso 2001; Shang, T'kindt, Della Croce, Branch & Memorize, 2021).
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from rota.worlds.shop.kernels import single as kernel
from rota.worlds.shop.model import Ints, Problem
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.solver import HEARTBEAT, Limit, Solver, Step, Steps
from rota.worlds.shop.solvers.single import columns, schedule, sequence, takes

Jobs = tuple[int, ...]  # in order of due date


class _StoppedError(Exception):
    """The search was asked to stop, or has done its work."""


class Decomposition:
    """Total tardiness of sets of jobs at a start, with memory. Jobs are numbered by (due date, duration)."""

    def __init__(self, duration: Ints, due: Ints, most: int | None = None) -> None:
        order = np.lexsort((duration, due))
        self.order = order
        self.p, self.d = duration[order].tolist(), due[order].tolist()
        self.memory: dict[tuple[Jobs, int], tuple[int, Jobs]] = {}
        self.nodes = 0
        self.most = most
        self.stop = threading.Event()

    def solve(self) -> tuple[int, Ints]:
        """(least total tardiness, a sequence that has it)."""
        deepest = sys.getrecursionlimit()
        sys.setrecursionlimit(max(deepest, 20 * len(self.p) + 1000))
        try:
            value, found = self.best(tuple(range(len(self.p))), 0)
        finally:
            sys.setrecursionlimit(deepest)
        return value, self.order[list(found)]

    def best(self, jobs: Jobs, start: int) -> tuple[int, Jobs]:
        """The least tardiness of some jobs from a start on, and their sequence."""
        p, d = self.p, self.d
        if len(jobs) < 2:
            return (max(0, start + p[jobs[0]] - d[jobs[0]]) if jobs else 0), jobs
        known = self.memory.get((jobs, start))
        if known is not None:
            return known
        self.nodes += 1
        if self.stop.is_set() or (self.most is not None and self.nodes > self.most):
            raise _StoppedError
        now, late, total, ends = start, 0, 0, []
        for j in jobs:
            now += p[j]
            ends.append(now)
            if now > d[j]:
                late += 1
                total += now - d[j]
        if late <= 1:  # the order of due dates is best
            found = total, jobs
        elif all(start + p[j] >= d[j] for j in jobs):  # all late wherever they are: the shortest first
            shortest = tuple(sorted(jobs, key=lambda j: (p[j], j)))
            now = total = start
            total = 0
            for j in shortest:
                now += p[j]
                total += now - d[j]
            found = total, shortest
        else:
            found = self._split(jobs, start, ends)
        self.memory[jobs, start] = found
        return found

    def _split(self, jobs: Jobs, start: int, ends: list[int]) -> tuple[int, Jobs]:
        p, d = self.p, self.d
        k = max(range(len(jobs)), key=lambda i: (p[jobs[i]], i))
        longest = jobs[k]
        least, chosen = 1 << 62, jobs
        reach = 0  # largest due date + duration of those that would go before it
        for r in range(k, len(jobs)):
            if r > k:
                reach = max(reach, d[jobs[r]] + p[jobs[r]])
            if r + 1 < len(jobs) and ends[r] >= d[jobs[r + 1]]:
                continue  # one place later is no worse
            if r > k and ends[r] < reach:
                continue  # one of those behind it in the order of due dates would not be late after it
            value = max(0, ends[r] - d[longest])
            if value >= least:
                continue
            front, before = self.best(jobs[:k] + jobs[k + 1 : r + 1], start)
            value += front
            if value >= least:
                continue
            back, after = self.best(jobs[r + 1 :], ends[r])
            value += back
            if value < least:
                least, chosen = value, (*before, longest, *after)
        return least, chosen


class BranchAndMemorise(Solver):
    """Exact total tardiness."""

    counts = "nodes"
    proves = True

    def refuses(self, problem: Problem) -> str | None:
        return takes(problem, ("total_tardiness",))

    def prepare(self, problem: Problem) -> None:
        kernel.by_urgency(np.array([1, 2]), np.array([1, 2]), kernel.MDDC, False)

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        duration, due, _ = columns(problem)
        yield Step(schedule(problem, sequence("mddc", duration, due)))
        search = Decomposition(duration, due, limit.work)
        with ThreadPoolExecutor(1) as pool:
            try:
                task = pool.submit(search.solve)
                while not wait([task], timeout=HEARTBEAT).done:
                    yield Step(work=search.nodes)
                if isinstance(task.exception(), _StoppedError):
                    return
                value, order = task.result()
                yield Step(schedule(problem, order), bound=value, work=search.nodes, finished=True)
            finally:
                search.stop.set()
