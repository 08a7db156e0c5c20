"""Projects with one mode an activity (RCPSP): populations of justified schedules, bred until they no longer change, then merged.

The breeding is `kernels/project.py`; it follows the decomposition-based genetic algorithm of Debels and Vanhoucke (2007: a child takes a window of time
from one parent and what lies around it from the other) and the justification of Valls, Ballestin and Quintanilla (2005). Children are made forwards
and backwards, and one takes the place of its worse parent only, so that a population stays varied. Every worker breeds populations of its own; two
finished populations of the same rank are merged into one of the next rank from the best halves of both, and bred again.
"""

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.streams import stream_key
from rota.worlds.shop.bounds import lower_bound
from rota.worlds.shop.kernels import project as kernel
from rota.worlds.shop.model import MACHINE, NEVER, NON_RENEWABLE, Ints, Problem
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.solver import HEARTBEAT, Limit, Solver, Step, Steps

KNOWN = ("release", "operation_dates", "cross_job_precedence", "machines_and_resources")  # what views call these
LONGEST = 2_000_000  # units of time in a profile: memory, and what a row each may cost
CHUNK = 60_000  # activities placed, times three, between two looks at the other workers


@dataclass(frozen=True, eq=False)
class Project:
    """The columns that the kernels take; time in units of `unit`."""

    before_offsets: Ints
    before: Ints
    after_offsets: Ints
    after: Ints
    release: Ints
    duration: Ints
    need: Ints  # (activities, words)
    level: Ints  # (words,) guard bits and capacities
    guard: Ints  # (words,) guard bits
    topological: Ints
    horizon: int
    unit: int


def project_of(problem: Problem) -> Project:
    """The columns of a project that `ProjectSearch.refuses` has let pass."""
    view = problem.as_project(allow=KNOWN)
    if view is None:
        raise InputError(f"project: {ProjectSearch().refuses(problem)}")
    release = np.maximum(problem.operations.release, problem.jobs.release[problem.operations.job])
    unit = max(1, int(np.gcd.reduce(np.concatenate([view.duration, release]))))
    duration, release = view.duration // unit, release // unit
    offsets, before = problem.predecessors
    level, guard, need = packed(view.capacity, view.demand)
    return Project(
        offsets, before, view.successor_offsets, view.successors, release, duration, need, level, guard,
        topological(offsets, view.successor_offsets, view.successors), int(duration.sum() + release.max(initial=0)), unit,
    )  # fmt: skip


def packed(capacity: Ints, demand: Ints) -> tuple[Ints, Ints, Ints]:
    """(level, guard, need) in lanes of 64-bit words: each wide enough for the largest capacity and a guard bit above it."""
    width = int(capacity.max(initial=1)).bit_length() + 1
    lanes = 63 // width
    words = max(1, -(-len(capacity) // lanes))
    level, guard, need = np.zeros(words, np.int64), np.zeros(words, np.int64), np.zeros((len(demand), words), np.int64)
    for resource in range(len(capacity)):
        word, shift = resource // lanes, resource % lanes * width
        guard[word] += 1 << (shift + width - 1)
        level[word] += (1 << (shift + width - 1)) + (int(capacity[resource]) << shift)
        need[:, word] += demand[:, resource] << shift
    return level, guard, need


def topological(before_offsets: Ints, after_offsets: Ints, after: Ints) -> Ints:
    """The activities in an order that respects the precedences."""
    waiting = np.diff(before_offsets).tolist()
    order = [i for i, count in enumerate(waiting) if count == 0]
    for i in order:
        for j in after[after_offsets[i] : after_offsets[i + 1]].tolist():
            waiting[j] -= 1
            if waiting[j] == 0:
                order.append(j)
    return np.array(order, np.int64)


class ProjectSearch(Solver):
    """Populations of justified schedules.

    Args:
        population: Schedules in a population.
        patience: A population is finished when this many times its size of children changed no length in it.
        change: Activities in a thousand whose place is shifted at random in a child.
    """

    counts = "schedules"

    def __init__(self, population: int = 500, patience: int = 4, change: int = 5) -> None:
        if population < 4 or patience < 1 or not 0 <= change <= 1000:
            raise InputError(
                f"project: needs population >= 4, patience >= 1, 0 <= change <= 1000; found {population}, {patience}, {change}"
            )
        self.population = population
        self.patience = patience
        self.change = change

    def refuses(self, problem: Problem) -> str | None:
        if problem.objective.single != "makespan":
            return f"minimises the makespan, the objective is {problem.objective}"
        if len(problem.modes) != len(problem.operations):
            return "takes one mode an activity, this problem has alternatives"
        if problem.jobs.one_at_a_time.any():
            return "takes no open shops"
        if (problem.resources.kind == NON_RENEWABLE).any():
            return "takes no non-renewable resources"
        if problem.as_project(allow=KNOWN) is None:
            return f"does not know {', '.join(sorted(problem.features - {*KNOWN, 'due', 'weights'}))}"
        if (problem.operations.deadline < NEVER).any():
            return "does not know deadlines"
        rows = np.repeat(np.arange(len(problem.modes)), np.diff(problem.modes.offsets))
        on_machine = problem.resources.kind[problem.modes.resource] == MACHINE
        if (problem.modes.duration[rows[on_machine]] == 0).any():
            return "takes no activities of duration 0 on machines"
        units = project_of(problem).horizon
        if units > LONGEST:
            return f"counts time in units, and this project may last {units} of them; at most {LONGEST}"
        return None

    def prepare(self, problem: Problem) -> None:
        self.rehearse(problem)

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        pool = ThreadPoolExecutor(limit.workers)
        try:
            yield from _search(self, problem, limit, start, pool)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(eq=False)
class _Population:
    starts: Ints  # (members, activities)
    length: Ints  # (members,) -1: still to be made
    rank: int = 0  # how often it has been merged
    still: int = 0  # children since a length changed

    @classmethod
    def fresh(cls, size: int, activities: int) -> "_Population":
        return cls(np.zeros((size, activities), np.int64), np.full(size, -1, np.int64))

    def merged(self, other: "_Population") -> "_Population":
        """The better half of both."""
        half = len(self.length) // 2
        mine, theirs = np.argsort(self.length, kind="stable"), np.argsort(other.length, kind="stable")[:half]
        mine = mine[: len(self.length) - half]
        starts = np.concatenate([self.starts[mine], other.starts[theirs]])
        return _Population(starts, np.concatenate([self.length[mine], other.length[theirs]]), self.rank + 1)


class _Worker:
    """One line of populations: those that are finished, and the one that is bred."""

    def __init__(self, settings: ProjectSearch, project: Project, seed: int, target: int) -> None:
        self.settings, self.project, self.target = settings, project, target
        self.state = kernel.generator_state(seed)
        self.finished: list[_Population] = []
        self.bred = _Population.fresh(settings.population, len(project.duration))
        self.best = 1 << 62
        self.start = np.zeros(len(project.duration), np.int64)

    def breed(self, children: int) -> int:
        """Make some children; returns how many."""
        p, bred = self.project, self.bred
        before = int(bred.length.sum())
        made = int(
            kernel.evolve(
                p.before_offsets, p.before, p.after_offsets, p.after, p.release, p.duration, p.need, p.level, p.guard, p.topological,
                p.horizon, bred.starts, bred.length, self.state, children, self.target, self.settings.change,
            )
        )  # fmt: skip
        known = np.flatnonzero(bred.length >= 0)
        k = known[np.argmin(bred.length[known])]
        if bred.length[k] < self.best:
            self.best, self.start = int(bred.length[k]), bred.starts[k].copy()
        changed = int(bred.length.sum()) != before or len(known) < len(bred.length)
        bred.still = 0 if changed else bred.still + made
        if bred.still >= self.settings.patience * self.settings.population:
            self._next()
        return made

    def _next(self) -> None:
        self.finished.append(self.bred)
        if len(self.finished) > 1 and self.finished[-1].rank == self.finished[-2].rank:
            last = self.finished.pop()
            self.bred = self.finished.pop().merged(last)
        else:
            self.bred = _Population.fresh(self.settings.population, len(self.project.duration))

    def adopt(self, start: Ints, length: int) -> None:
        """A schedule found elsewhere takes the place of the first member."""
        self.bred.starts[0], self.bred.length[0] = start, length


def _search(
    settings: ProjectSearch, problem: Problem, limit: Limit, start: Schedule | None, pool: ThreadPoolExecutor
) -> Steps:
    project = project_of(problem)
    bound = lower_bound(problem).value
    target = -(-bound // project.unit)
    count = max(1, len(project.duration))
    if not len(project.duration):
        yield Step(Schedule.from_starts(problem, []), bound=0, finished=True)
        return
    workers = [
        _Worker(settings, project, stream_key(limit.seed, f"project/{k}") >> 2, target) for k in range(limit.workers)
    ]
    best, work = 1 << 62, 0
    sent = start
    chunk = max(1, CHUNK // count)
    while limit.work is None or work < limit.work:
        if sent is not None:
            best = min(best, _adopt(workers, project, problem, sent))
        left = chunk if limit.work is None else max(1, min(chunk, -(-(limit.work - work) // len(workers))))
        tasks = [pool.submit(worker.breed, left) for worker in workers]
        sent = None
        while wait(tasks, timeout=HEARTBEAT).not_done:
            sent = (yield Step(work=work)) or sent
        work += sum(task.result() for task in tasks)
        leader = min(workers, key=lambda worker: worker.best)
        if leader.best < best:
            best = leader.best
            found = Schedule.from_starts(problem, leader.start * project.unit)
            finished = best <= target
            sent = (yield Step(found, bound=bound if finished else None, work=work, finished=finished)) or sent
            if finished:
                return
        else:
            sent = (yield Step(work=work)) or sent


def _adopt(workers: list[_Worker], project: Project, problem: Problem, schedule: Schedule) -> int:
    """Give a schedule to all workers; returns its length in units. One that waits for no reason (off the units, beyond the horizon) is left out."""
    starts = schedule.start // project.unit
    length = int((starts + project.duration).max(initial=0))
    usable = bool((schedule.start % project.unit == 0).all()) and length <= project.horizon
    if usable:
        for worker in workers:
            worker.adopt(starts, length)
    return length if usable else 1 << 62
