"""Job shop: tabu search in critical blocks from a population of schedules, whose middles it searches too.

The inner search is `kernels/jobshop.py`. Around it, as in Peng, Lu, Cheng (2015), "A tabu search/path relinking algorithm to solve the job shop
scheduling problem": a population, each member the result of a tabu search; again and again two members are chosen, the search begins on the way between
them, and what it finds takes the place of the worst when it is better and not there yet. The way between two is not walked swap by swap with repairs,
but taken from ranks (`kernels.jobshop.blend`), where every point is a schedule.
"""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.streams import generator
from rota.worlds.shop.bounds import lower_bound
from rota.worlds.shop.kernels import jobshop
from rota.worlds.shop.model import NEVER, Ints, Problem
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.solver import HEARTBEAT, Limit, Solver, Step, Steps

Line = Ints  # operations in the numbers of the view


@dataclass(frozen=True, eq=False)
class Shop:
    """The columns that the kernels take, operations in job order, with a sentinel row where they need one."""

    job_before: Ints
    job_after: Ints
    jobs_last: Ints
    machine: Ints
    duration: Ints
    head: Ints  # no earlier start
    tail: Ints  # what comes after the end of each, and counts
    machines: int
    operation: Ints  # numbers in the problem
    mode: Ints

    @property
    def graph(self) -> tuple[Any, ...]:
        return (
            self.job_before, self.job_after, self.jobs_last, self.machine, self.duration, self.head, self.tail, self.machines,
        )  # fmt: skip

    @property
    def tenure(self) -> Ints:
        """Least and most iterations that a pair is tabu, from the numbers of jobs and machines (Peng, Lu, Cheng 2015)."""
        jobs = len(self.jobs_last)
        least = 10 + jobs / self.machines
        return np.array([least, least * (1.4 if jobs <= 2 * self.machines else 1.5)]).astype(np.int64)


def shop_of(problem: Problem) -> Shop:
    """The columns of a job shop with makespan or maximum lateness."""
    view = problem.as_flexible_job_shop(allow=("release",))
    assert view is not None  # `refuses` has been asked
    count, offsets = len(view.operation), view.job_offsets
    first, last = offsets[:-1], offsets[1:] - 1
    before, after = np.arange(-1, count), np.arange(1, count + 2)
    before[first] = before[count] = after[last] = after[count] = count
    head, tail = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    head[first] = problem.jobs.release
    if problem.objective.single == "maximum_lateness":  # lateness + latest due date, so that nothing is negative
        due = problem.jobs.due
        tail[last] = np.where(due < NEVER, due[due < NEVER].max() - due, -NEVER)
    machine, duration = view.machine, np.append(view.duration, 0)
    return Shop(before, after, last, machine, duration, head, tail, view.machines, view.operation, view.mode)


@dataclass(eq=False)
class Member:
    line: Line
    length: int


class Tabu(Solver):
    """Tabu search with a population.

    Args:
        population: Members.
        patience: Iterations without anything better after which a search ends.
        noise: By how much the first schedules' rule (most work remaining) is blurred.
    """

    counts = "moves"

    def __init__(self, population: int = 20, patience: int = 4_000, noise: float = 0.3) -> None:
        for name, value, least in (("population", population, 2), ("patience", patience, 1), ("noise", noise, 0.0)):
            if value < least:
                raise InputError(f"tabu: {name}: must be at least {least:g}, found {value:g}")
        self.population = population
        self.patience = patience
        self.noise = noise

    def refuses(self, problem: Problem) -> str | None:
        if problem.objective.single not in ("makespan", "maximum_lateness"):
            return f"minimises makespan or maximum lateness, the objective is {problem.objective}"
        if problem.kind not in ("job_shop", "flow_shop"):
            return f"takes job shops, this is a {problem.kind.replace('_', ' ')}"
        if problem.as_flexible_job_shop(allow=("release",)) is None:
            return f"does not know {', '.join(sorted(problem.features - {'release', 'due', 'weights'}))}"
        return None

    def prepare(self, problem: Problem) -> None:
        search = _Search(self, problem, Limit())
        line, *_ = search.search(0, None, 1)
        jobshop.blend(line, line, 0.5)
        jobshop.distance(line, line, search.shop.machine, search.shop.machines)
        search.schedule(line)
        search.close()

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        search = _Search(self, problem, limit)
        try:
            yield from search.run(start)
        finally:
            search.close()


class _Search:
    """One run. Tasks are given out ahead, as many as there are workers, and taken back in order, so that time changes nothing."""

    def __init__(self, settings: Tabu, problem: Problem, limit: Limit) -> None:
        self.settings, self.problem, self.limit = settings, problem, limit
        self.shop = shop_of(problem)
        self.near = len(self.shop.operation) // 10
        self.stop = np.zeros(1, np.bool_)
        self.pool = ThreadPoolExecutor(limit.workers)
        self.draws = generator(limit.seed, "tabu")
        self.moves = 0
        self.patience = settings.patience
        self.members: list[Member] = []
        self.elite: list[Member] = []  # the best of each population that was given up
        self.young = settings.population  # searches from a rule that are still to be given out
        self.refused = 0  # in a row

    def close(self) -> None:
        self.stop[0] = True
        self.pool.shutdown(wait=True, cancel_futures=True)

    def run(self, start: Schedule | None) -> Steps:
        self._adopt(start)
        best = min((member.length for member in self.members), default=NEVER)
        bound = lower_bound(self.problem).value
        waiting = [self._next() for _ in range(self.limit.workers)]
        while self.limit.work is None or self.moves < self.limit.work:
            first = waiting.pop(0)
            while not wait([first], timeout=HEARTBEAT).done:
                self._adopt((yield Step(work=self.moves)))
            line, length, moves = first.result()
            self.moves += int(moves)
            self._take(Member(line, int(length)))
            if self.refused > self.settings.population:
                self._converged()
            waiting.append(self._next())
            if length >= best:
                self._adopt((yield Step(work=self.moves)))
            else:
                best = int(length)
                schedule = self.schedule(line)
                proved = schedule.value(self.problem) == bound
                self._adopt((yield Step(schedule, bound if proved else None, self.moves, finished=proved)))
                if proved:
                    return

    def _converged(self) -> None:
        """Middles give nothing new: join the best of earlier populations; when they are in already, begin again with longer searches."""
        self.refused = 0
        strangers = [member for member in self.elite if self._nearest(member) is None]
        if strangers:
            self.members += strangers
            return
        self.elite = [*self.elite[-3:], min(self.members, key=lambda member: member.length)]
        self.members = []
        self.young = self.settings.population
        self.patience *= 2

    def _next(self) -> "Future[tuple[Line, int, int]]":
        """Give out the next search: from a rule while the population is young, then between two members."""
        seed = int(self.draws.integers(1 << 62))
        self.young -= 1
        if self.young >= 0 or len(self.members) < 2:
            return self.pool.submit(self.search, seed, None, self.patience)
        a, b = self.draws.choice(len(self.members), 2, replace=False)
        pair = self.members[a].line, self.members[b].line, float(self.draws.uniform(0.3, 0.7))
        return self.pool.submit(self.search, seed, pair, self.patience)

    def search(self, seed: int, pair: tuple[Line, Line, float] | None, patience: int) -> tuple[Line, int, int]:
        shop = self.shop
        if pair is None:
            line = jobshop.construct(
                shop.job_before, shop.job_after, shop.machine, shop.duration, shop.head, shop.tail, shop.machines,
                self.settings.noise, seed,
            )  # fmt: skip
        else:
            line = jobshop.blend(*pair)
        found: tuple[Line, int, int] = jobshop.search(*shop.graph, line, patience, shop.tenure, seed, self.stop)
        return found

    def _nearest(self, new: Member) -> Member | None:
        """A member that is nearly the same."""
        shop = self.shop
        for old in self.members:
            if jobshop.distance(old.line, new.line, shop.machine, shop.machines) <= self.near:
                return old
        return None

    def _take(self, new: Member) -> None:
        """Into the population when it is better than the one nearly the same, or, where there is none, than the worst."""
        full = len(self.members) >= self.settings.population
        rival = self._nearest(new) or (max(self.members, key=lambda member: member.length) if full else None)
        if rival is not None:
            if new.length >= rival.length:
                self.refused += 1
                return
            self.members.remove(rival)
        self.refused = 0
        self.members.append(new)

    def _adopt(self, schedule: Schedule | None) -> None:
        """A schedule found elsewhere joins the population."""
        if schedule is None:
            return
        shop = self.shop
        start = schedule.start[shop.operation]
        line = np.lexsort((np.arange(len(start)), start + shop.duration[:-1], start)).astype(np.int64)
        self._take(Member(line, self._length(line)))

    def _starts(self, line: Line) -> Ints:
        shop = self.shop
        found: Ints = jobshop.starts(line, shop.job_before, shop.machine, shop.duration, shop.head, shop.machines)
        return found

    def _length(self, line: Line) -> int:
        ends = self._starts(line) + self.shop.duration[:-1] + self.shop.tail[:-1]
        return int(ends[self.shop.jobs_last].max())

    def schedule(self, line: Line) -> Schedule:
        """The schedule in which every operation begins as early as the line lets it."""
        start, mode = np.empty(len(line), np.int64), np.empty(len(line), np.int64)
        start[self.shop.operation], mode[self.shop.operation] = self._starts(line), self.shop.mode
        return Schedule.from_starts(self.problem, start, mode)
