"""Flexible job shop: tabu search over machines and sequences, from a population whose members are crossed.

The inner search is `kernels/flexible.py`; the shell is a population as in the hybrid algorithms for this problem (Gonzalez, Vela, Varela 2015, "Scatter
search with path relinking for the flexible job shop scheduling problem"; Li and Gao 2016): a new search starts on the way between two members. A
population that no longer changes is begun again around its best.
"""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import monotonic

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.streams import generator
from rota.worlds.shop.bounds import lower_bound
from rota.worlds.shop.kernels import flexible
from rota.worlds.shop.model import NEVER, Ints, Problem
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.solver import HEARTBEAT, Limit, Solver, Step, Steps

TENURE = np.array(
    [8, 10]
)  # least iterations that an operation stays away from a machine; the spread, to which the path's length is added
STALE = 6  # populations of searches without any change after which a population is begun again
UNLIMITED = 1 << 60


@dataclass(frozen=True, eq=False)
class FlexibleShop:
    """The columns that the kernels take: operations in job order with a sentinel row, alternatives in mode order."""

    jobs_first: Ints
    job_before: Ints
    job_after: Ints
    jobs_last: Ints
    alternatives: Ints  # (operations + 1,) offsets into machine, duration, mode
    machine: Ints
    duration: Ints
    head: Ints  # no earlier start
    tail: Ints  # what comes after the end of each, and counts
    machines: int
    operation: Ints  # numbers in the problem
    mode: Ints
    offset: int  # length less the objective's value


def shop_of(problem: Problem) -> FlexibleShop:
    """The columns of a shop of chains with makespan or maximum lateness, which `FlexibleTabu.refuses` has let pass."""
    view = problem.as_flexible_job_shop(allow=("release",))
    if view is None:
        raise InputError(f"flexible_tabu: {FlexibleTabu().refuses(problem)}")
    count, offsets = len(view.operation), view.job_offsets
    first, last = offsets[:-1].copy(), offsets[1:] - 1
    before, after = np.arange(-1, count), np.arange(1, count + 2)
    before[first] = before[count] = after[last] = after[count] = count
    head, tail, offset = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64), 0
    head[first] = problem.jobs.release
    if problem.objective.single == "maximum_lateness":  # lateness + latest due date, so that nothing is negative
        due = problem.jobs.due
        offset = int(due[due < NEVER].max())
        tail[last] = np.where(due < NEVER, offset - due, -NEVER)
    return FlexibleShop(
        first, before, after, last, view.alternative_offsets, view.machine, view.duration, head, tail, view.machines,
        view.operation, view.mode, offset,
    )  # fmt: skip


@dataclass(eq=False)
class Member:
    """An order of all operations, the alternative of each, and the length of their schedule."""

    line: Ints
    choice: Ints
    length: int


class FlexibleTabu(Solver):
    """Tabu search with a population.

    Args:
        population: Members.
        patience: Iterations without anything better after which a search ends.
        noise: By how much the first schedules' rule (earliest completion) is blurred.
    """

    counts = "moves"

    def __init__(self, population: int = 20, patience: int = 1000, noise: float = 0.3) -> None:
        if population < 2 or patience < 1 or noise < 0:
            raise InputError(
                f"flexible_tabu: needs population >= 2, patience >= 1, noise >= 0; found {population}, {patience}, {noise}"
            )
        self.population = population
        self.patience = patience
        self.noise = noise

    def refuses(self, problem: Problem) -> str | None:
        if problem.objective.single not in ("makespan", "maximum_lateness"):
            return f"minimises makespan or maximum lateness, the objective is {problem.objective}"
        kinds = ("single_machine", "parallel_machines", "flow_shop", "job_shop", "flexible_job_shop")
        if problem.kind not in kinds:
            return f"takes shops of chains ({', '.join(kinds)}), this is {problem.kind}"
        if problem.as_flexible_job_shop(allow=("release",)) is None:
            return f"does not know {', '.join(sorted(problem.features - {'release', 'due', 'weights'}))}"
        return None

    def prepare(self, problem: Problem) -> None:
        self.rehearse(problem)

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        search = _Search(self, problem, limit)
        try:
            yield from search.run(start)
        finally:
            search.close()


class _Search:
    """One run. Tasks are given out ahead, as many as there are workers, and taken back in order, so that time changes nothing."""

    def __init__(self, settings: FlexibleTabu, problem: Problem, limit: Limit) -> None:
        self.settings, self.problem, self.limit = settings, problem, limit
        self.shop = shop_of(problem)
        self.bound = lower_bound(problem).value
        self.stop = np.zeros(1, np.bool_)
        self.pool = ThreadPoolExecutor(limit.workers)
        self.members: list[Member] = []
        self.draws = generator(limit.seed, "flexible_tabu")
        self.work = UNLIMITED if limit.work is None else limit.work
        self.moves = 0
        self.stale = 0

    def close(self) -> None:
        self.stop[0] = True
        self.pool.shutdown(wait=True, cancel_futures=True)

    def run(self, start: Schedule | None) -> Steps:
        best: int | None = None
        if start is not None:
            best = self._adopt(start)
        waiting = [self._next() for _ in range(self.limit.workers)]
        news = monotonic()
        while self.moves < self.work:
            task = waiting.pop(0)
            while not wait([task], timeout=HEARTBEAT).done or monotonic() - news > HEARTBEAT:
                self._adopt((yield Step(work=self.moves)))
                news = monotonic()
            member, moves = task.result()
            self.moves += moves
            self._take(member)
            if best is None or member.length < best:
                best = member.length
                finished = best - self.shop.offset <= self.bound
                bound = self.bound if finished else None
                self._adopt((yield Step(self.schedule(member), bound=bound, work=self.moves, finished=finished)))
                if finished:
                    return
            waiting.append(self._next())

    def _next(self) -> "Future[tuple[Member, int]]":
        """Give out the next search: from a rule while the population is small, then between two members."""
        pair = None
        seed, share = int(self.draws.integers(1 << 62)), float(self.draws.uniform(0.3, 0.7))
        if len(self.members) >= self.settings.population:
            a, b = self.draws.choice(len(self.members), 2, replace=False)
            pair = self.members[a], self.members[b]
        return self.pool.submit(self._search, seed, pair, share, self.work - self.moves)

    def _search(self, seed: int, pair: tuple[Member, Member] | None, share: float, most: int) -> tuple[Member, int]:
        shop, settings = self.shop, self.settings
        if pair is None:
            line, choice = flexible.construct(
                shop.jobs_first, shop.job_after, shop.alternatives, shop.machine, shop.duration, shop.head, shop.machines,
                settings.noise, seed,
            )  # fmt: skip
        else:
            a, b = pair
            line, choice = flexible.cross(a.line, b.line, a.choice, b.choice, share, seed)
        line, choice, length, moves = flexible.search(
            shop.job_before, shop.job_after, shop.jobs_last, shop.alternatives, shop.machine, shop.duration, shop.head, shop.tail,
            shop.machines, line, choice, settings.patience, most, TENURE, self.bound + shop.offset, seed, self.stop,
        )  # fmt: skip
        return Member(line, choice, int(length)), max(1, int(moves))

    def _take(self, new: Member) -> None:
        """Into the population, unless it is there, in the place of the worst; a population without news is begun again around its best."""
        self.stale += 1
        for old in self.members:
            if (
                old.length == new.length
                and np.array_equal(old.choice, new.choice)
                and np.array_equal(old.line, new.line)
            ):
                return
        if len(self.members) < self.settings.population:
            self.members.append(new)
            return
        worst = max(self.members, key=lambda member: member.length)
        if new.length < worst.length:
            self.stale = 0
        if new.length <= worst.length:
            self.members.remove(worst)
            self.members.append(new)
        if self.stale > STALE * self.settings.population:
            self.members = [min(self.members, key=lambda member: member.length)]
            self.stale = 0

    def _adopt(self, schedule: Schedule | None) -> int | None:
        """A schedule found elsewhere joins the population; returns its length."""
        if schedule is None:
            return None
        shop = self.shop
        start = schedule.start[shop.operation]
        row = np.empty(len(self.problem.modes), np.int64)  # alternative of each mode
        row[shop.mode] = np.arange(len(shop.mode))
        choice = row[schedule.mode[shop.operation]]
        line = np.lexsort((np.arange(len(start)), start + shop.duration[choice], start)).astype(np.int64)
        begin = flexible.starts(line, choice, shop.job_before, shop.machine, shop.duration, shop.head, shop.machines)
        length = int((begin + shop.duration[choice] + shop.tail[:-1])[shop.jobs_last].max())
        self._take(Member(line, choice, length))
        return length

    def schedule(self, member: Member) -> Schedule:
        """The earliest schedule of a member."""
        shop = self.shop
        begin = flexible.starts(
            member.line, member.choice, shop.job_before, shop.machine, shop.duration, shop.head, shop.machines
        )
        start, mode = np.empty(len(begin), np.int64), np.empty(len(begin), np.int64)
        start[shop.operation], mode[shop.operation] = begin, shop.mode[member.choice]
        return Schedule.from_starts(self.problem, start, mode)
