"""Any problem: large neighbourhood search. Of a schedule a part is set free, the rest keeps its modes and order, and CP-SAT repairs.

Parts: what runs in a window of time, what runs on a few resources, a few jobs; a bandit learns which of them pays. It is UCB1 (Auer, Cesa-
Bianchi, Fischer 2002) on rewards of 1 for a better schedule, as in ALNS with a bandit (Balans, Cai, Kadioglu, Dilkina 2025). How much is set
free grows while repairs are finished within their limit, and shrinks when they are not. (The `alns` library has the loop and the bandits too; it
brings matplotlib along, for thirty lines.)
"""

import math
from dataclasses import replace

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.streams import generator
from rota.worlds.shop.model import NON_RENEWABLE, Problem
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.solver import Limit, Solver, Step, Steps
from rota.worlds.shop.solvers.cpsat import CpSat, Model, repair

PARTS = ("window", "resources", "jobs")
FIRST = 60_000  # thousandths of a deterministic second for a first schedule
NEAREST = 3  # of those that begin after an operation has ended, how many must stay behind it


class Bandit:
    """UCB1: the arm with the highest mean reward, and a bonus for those that were seldom tried."""

    def __init__(self, arms: int) -> None:
        self.tried, self.reward = [0] * arms, [0.0] * arms

    def choose(self) -> int:
        """The next arm; each is tried once first."""
        for arm, tried in enumerate(self.tried):
            if tried == 0:
                return arm
        total = math.log(sum(self.tried))
        scores = [r / t + math.sqrt(2.0 * total / t) for r, t in zip(self.reward, self.tried, strict=True)]
        return scores.index(max(scores))

    def learn(self, arm: int, reward: float) -> None:
        """What an arm brought."""
        self.tried[arm] += 1
        self.reward[arm] += reward


class LargeNeighbourhood(Solver):
    """Free a part, repair it, keep what is no worse.

    Args:
        share: Share of the operations that is set free at first.
        work: Limit of one repair, in thousandths of a deterministic second.
    """

    counts = "repairs"

    def __init__(self, share: float = 0.25, work: int = 100) -> None:
        if not 0 < share <= 1:
            raise InputError(f"lns: share: must be above 0 and at most 1, found {share:g}")
        if work < 1:
            raise InputError(f"lns: work: must be at least 1, found {work}")
        self.share = share
        self.work = work

    def refuses(self, problem: Problem) -> str | None:
        return CpSat().refuses(problem)

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        draw = generator(limit.seed, "lns")
        current, done = start, 0
        if current is None:
            begin = CpSat().solve(problem, Limit(work=FIRST, seed=limit.seed))
            for step in begin:
                sent = yield replace(step, work=0)
                current = sent or step.schedule or current
                if step.finished:
                    return
                if current is not None:  # the first is enough
                    break
            begin.close()
        bandit, share = Bandit(len(PARTS)), self.share
        while limit.work is None or done < limit.work:
            if current is None:  # CP-SAT found nothing to begin with
                return
            arm = bandit.choose()
            free = part(PARTS[arm], problem, current, share, draw)
            found, finished = repair(restricted(problem, current, free), self.work, int(draw.integers(1 << 30)))
            done += 1
            better = found is not None and found.value(problem) < current.value(problem)
            bandit.learn(arm, float(better))
            share = min(1.0, share * 1.05) if finished else max(0.02, share * 0.9)
            if found is not None and found.value(problem) <= current.value(problem):
                current = found
            sent = yield Step(found if better else None, work=done)
            if sent is not None and sent.value(problem) < current.value(problem):
                current = sent


def part(kind: str, problem: Problem, schedule: Schedule, share: float, draw: np.random.Generator) -> set[int]:
    """The operations that are set free: about a share of all."""
    count = len(schedule)
    wanted = max(2, round(share * count))
    if kind == "window":
        middle = (schedule.start + schedule.end) / 2
        centre = draw.uniform(0, max(int(schedule.end.max(initial=0)), 1))
        return set(np.argsort(np.abs(middle - centre), kind="stable")[:wanted].tolist())
    if kind == "jobs" and len(problem.jobs) > 1:
        groups = [np.flatnonzero(problem.operations.job == job).tolist() for job in range(len(problem.jobs))]
    else:
        groups = [sequence.tolist() for sequence in schedule.sequences(problem)]
    found: set[int] = set()
    for group in draw.permutation(len(groups)).tolist():
        if len(found) >= wanted:
            break
        found.update(groups[group])
    return found


def restricted(problem: Problem, schedule: Schedule, free: set[int]) -> Model:
    """The problem in which everything but `free` keeps its mode and its order on each resource, beginning from the schedule."""
    model = Model(problem)
    for o, choice in enumerate(model.modes):
        if o not in free and len(choice) > 1:
            model.model.add(choice[int(schedule.mode[o])] == 1)
    for resource, sequence in enumerate(schedule.sequences(problem)):
        if problem.resources.kind[resource] == NON_RENEWABLE:
            continue
        fixed = [o for o in sequence.tolist() if o not in free]
        starts = schedule.start[fixed]
        for o in fixed:
            behind = int(np.searchsorted(starts, schedule.end[o]))
            for later in fixed[behind : behind + NEAREST]:
                if later != o:
                    model.model.add(model.start[later] >= model.end[o])
    model.hint(schedule)
    return model
