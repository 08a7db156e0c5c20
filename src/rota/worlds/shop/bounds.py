"""What no schedule can beat: lower bounds from chains, machines, resources and due dates, in polynomial time.

Every operation gets a head (a moment before which it cannot start) and a tail (the least time from its end to the end of the plan), from
precedences and shortest durations. Per machine, Jackson's preemptive schedule with heads and tails (Jackson 1955; Carlier, EJOR 11 (1982)
42-47) bounds the makespan and the maximum lateness, shortest remaining processing time (Schrage 1968) the total flow time and, with due dates
matched in order, the total tardiness; Smith's rule (1956) the weighted flow time; Moore and Hodgson (1968) the number of late jobs.
Per renewable resource, the work divided by the capacity bounds the makespan. Breaks, setups, blocking and no-wait only delay, and are ignored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush

import numpy as np

from rota.worlds.shop.model import FINISH_FINISH, FINISH_START, MACHINE, NEVER, RENEWABLE, START_START, Ints, Problem


@dataclass(frozen=True)
class Bound:
    """A lower bound on the objective and where it comes from."""

    value: int
    origin: str


def lower_bound(problem: Problem) -> Bound:
    """The best bound that this module knows, for the problem's objective: for a sum of criteria, the sum of their bounds."""
    parts = [(factor, criterion_bound(problem, name)) for name, factor in problem.objective.terms]
    return Bound(sum(factor * part.value for factor, part in parts), " + ".join(part.origin for _, part in parts))


def criterion_bound(problem: Problem, criterion: str) -> Bound:
    """The best bound of one criterion (`objective.CRITERIA`)."""
    relaxed = _Relaxation(problem)
    found = {
        "makespan": relaxed.makespan,
        "total_flow_time": relaxed.flow_time,
        "weighted_flow_time": relaxed.weighted_flow_time,
        "total_tardiness": relaxed.tardiness,
        "weighted_tardiness": relaxed.weighted_tardiness,
        "number_late": relaxed.number_late,
        "weighted_number_late": relaxed.weighted_number_late,
        "maximum_lateness": relaxed.lateness,
    }[criterion]()
    return max(found, key=lambda bound: bound.value)  # the first of equals


def preemptive(release: Sequence[int], duration: Sequence[int], tail: Sequence[int]) -> int:
    """Jackson's preemptive schedule of one machine: the least possible maximum of completion + tail if work may be interrupted.

    Always run the released work with the largest tail. O(n log n). Tails may be negative (minus a due date).
    """
    order = sorted(range(len(release)), key=lambda i: release[i])
    left = list(duration)
    ready: list[tuple[int, int]] = []
    now, place, worst = 0, 0, -NEVER
    while place < len(order) or ready:
        if not ready:
            now = max(now, release[order[place]])
        while place < len(order) and release[order[place]] <= now:
            heappush(ready, (-tail[order[place]], order[place]))
            place += 1
        index = ready[0][1]
        until = release[order[place]] if place < len(order) else NEVER
        if now + left[index] <= until:
            heappop(ready)
            now += left[index]
            worst = max(worst, now + tail[index])
        else:
            left[index] -= until - now
            now = until
    return worst


def shortest_remaining(release: Sequence[int], duration: Sequence[int]) -> list[int]:
    """Completion times, in ascending order, of shortest-remaining-processing-time: each is least among preemptive schedules.

    For every k, no schedule completes k jobs earlier, so that the sorted completions of any schedule are at least these.
    """
    order = sorted(range(len(release)), key=lambda i: release[i])
    ready: list[int] = []
    now, place = 0, 0
    done = []
    while place < len(order) or ready:
        if not ready:
            now = max(now, release[order[place]])
        while place < len(order) and release[order[place]] <= now:
            heappush(ready, duration[order[place]])
            place += 1
        until = release[order[place]] if place < len(order) else NEVER
        left = heappop(ready)
        if now + left <= until:
            now += left
            done.append(now)
        else:
            heappush(ready, left - (until - now))
            now = until
    return done


def fewest_late(duration: Sequence[int], due: Sequence[int], start: int = 0) -> int:
    """The least number of late jobs on one machine from `start` on (Moore and Hodgson): drop the longest when one would be late."""
    now, late = start, 0
    kept: list[int] = []
    for length, limit in sorted(zip(duration, due, strict=True), key=lambda pair: pair[1]):
        heappush(kept, -length)
        now += length
        if now > limit:
            now += heappop(kept)
            late += 1
    return late


class _Relaxation:
    """Heads, tails and machine by machine what must run there."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.duration = self._durations()

    def _durations(self) -> Ints:
        """The shortest time from start to end of each operation; known exactly where it is frozen with its end."""
        operations = self.problem.operations
        modes = self.problem.modes
        usable = np.where(self.problem.executable, modes.duration, NEVER)
        shortest = np.minimum.reduceat(usable, self.problem.mode_offsets[:-1])
        frozen = operations.frozen_mode
        shortest = np.where(frozen >= 0, modes.duration[frozen], shortest)
        ended = operations.frozen_end >= 0
        return np.where(ended, operations.frozen_end - operations.frozen_start, shortest)

    @cached_property
    def moving(self) -> Ints:
        """Per precedence, the transport that both machines being certain makes certain; shape (precedences,)."""
        links, modes = self.problem.precedences, np.diff(self.problem.mode_offsets)
        machine = np.where(modes == 1, self.problem.machine_of_mode[self.problem.mode_offsets[:-1]], -1)
        here, there = machine[links.first], machine[links.second]
        job = self.problem.operations.job
        moves = (here >= 0) & (there >= 0) & (links.kind == FINISH_START) & (job[links.first] == job[links.second])
        return np.where(moves, self.problem.transport[here, there] if moves.any() else 0, 0)

    @cached_property
    def head(self) -> Ints:
        """Before this no operation starts; shape (operations,)."""
        operations, links = self.problem.operations, self.problem.precedences
        frozen = operations.frozen_mode >= 0
        dates = np.maximum(operations.release, self.problem.jobs.release[operations.job])
        head = np.where(frozen, operations.frozen_start, dates)
        used = np.isin(links.kind, (FINISH_START, START_START)) & ~frozen[links.second]
        tail, top = links.first[used], links.second[used]
        after = np.where(links.kind == FINISH_START, self.duration[links.first] + self.moving, 0) + links.least
        return _longest(head, tail, top, after[used])

    def tails(self, own_job: bool) -> Ints:
        """The least time from each operation's end to the end of the plan, or of its own job; shape (operations,)."""
        links, job = self.problem.precedences, self.problem.operations.job
        used = np.isin(links.kind, (FINISH_START, FINISH_FINISH))
        if own_job:
            used &= job[links.first] == job[links.second]
        after = np.where(links.kind == FINISH_START, self.duration[links.second] + self.moving, 0) + links.least
        return _longest(np.zeros(len(job), np.int64), links.second[used], links.first[used], after[used])

    @cached_property
    def earliest(self) -> Ints:
        """Before this no job is complete; shape (jobs,)."""
        found = np.zeros(len(self.problem.jobs), np.int64)
        np.maximum.at(found, self.problem.operations.job, self.head + self.duration + self.tails(own_job=True))
        return found

    @cached_property
    def disjunctive(self) -> list[tuple[str, Ints]]:
        """(name, operations) of everything that does one thing at a time: machines, with what must run there, and open-shop jobs."""
        problem, modes = self.problem, self.problem.modes
        row = np.repeat(modes.operation, np.diff(modes.offsets))
        mode = np.repeat(np.arange(len(modes)), np.diff(modes.offsets))
        usable = np.bincount(modes.operation[problem.executable], minlength=len(problem.operations))
        found: list[tuple[str, Ints]] = []
        unit = (problem.resources.kind == MACHINE) | (
            (problem.resources.kind == RENEWABLE) & (problem.resources.capacity == 1)
        )
        for resource in np.flatnonzero(unit).tolist():
            here = (modes.resource == resource) & problem.executable[mode]
            uses = np.bincount(row[here], minlength=len(problem.operations))
            found.append(
                (f"machine {problem.resources.names[resource]}", np.flatnonzero((uses == usable) & (uses > 0)))
            )
        alone = np.flatnonzero(problem.jobs.one_at_a_time).tolist()
        found += [(f"job {problem.jobs.names[j]}", np.flatnonzero(problem.operations.job == j)) for j in alone]
        return [(name, members) for name, members in found if len(members)]

    def makespan(self) -> list[Bound]:
        """Chains, one machine at a time, resources by their work, and all machines of a choice together."""
        tail = self.tails(own_job=False)
        ends = self.head + self.duration + tail
        found = [
            Bound(
                int(ends.max()), f"longest chain, through operation {self.problem.operations.names[int(ends.argmax())]}"
            )
        ]
        for name, members in self.disjunctive:
            columns = (x[members].tolist() for x in (self.head, self.duration, tail))
            found.append(Bound(preemptive(*columns), f"preemptive schedule of {name}"))
        found += self._energy(tail)
        return found

    def _energy(self, tail: Ints) -> list[Bound]:
        problem, modes = self.problem, self.problem.modes
        found = []
        mode = np.repeat(np.arange(len(modes)), np.diff(modes.offsets))
        ended = problem.operations.frozen_end[modes.operation] >= 0
        duration = np.where(ended, self.duration[modes.operation], modes.duration)
        groups: list[tuple[str, list[int]]] = [
            (f"resource {problem.resources.names[r]}", [r])
            for r in np.flatnonzero(problem.resources.kind == RENEWABLE).tolist()
        ]
        machines: list[int] = np.flatnonzero(problem.resources.kind == MACHINE).tolist()
        if len(machines) > 1:
            groups.append(("all machines together", machines))
        for name, group in groups:
            work = np.zeros(len(modes), np.int64)
            inside = np.isin(modes.resource, group)
            np.add.at(work, mode[inside], modes.amount[inside] * duration[mode[inside]])
            work[~problem.executable] = NEVER
            least = np.minimum.reduceat(work, problem.mode_offsets[:-1])
            members = np.flatnonzero(least > 0)
            if len(members):
                capacity = int(problem.resources.capacity[group].sum())
                middle = -(-int(least[members].sum()) // capacity)
                value = int(self.head[members].min()) + middle + int(tail[members].min())
                found.append(Bound(value, f"work of {name}"))
        return found

    def _one_each(self) -> list[tuple[str, Ints, Ints]]:
        """(name, operations, their jobs) of machines that no job needs twice."""
        job = self.problem.operations.job
        rows = [(name, members, job[members]) for name, members in self.disjunctive]
        return [(name, members, jobs) for name, members, jobs in rows if len(np.unique(jobs)) == len(jobs)]

    def flow_time(self) -> list[Bound]:
        """Jobs alone; the preemptive completions of one machine plus what follows it, and the other jobs alone."""
        release = self.problem.jobs.release
        found = [Bound(int((self.earliest - release).sum()), "jobs alone")]
        tail = self.tails(own_job=True)
        for name, members, jobs in self._one_each():
            done = sum(shortest_remaining(self.head[members].tolist(), self.duration[members].tolist()))
            others = np.setdiff1d(np.arange(len(release)), jobs)
            value = done + int(tail[members].sum() - release[jobs].sum() + (self.earliest - release)[others].sum())
            found.append(Bound(value, f"shortest remaining on {name}"))
        return found

    def weighted_flow_time(self) -> list[Bound]:
        """Jobs alone; Smith's order of one machine, open from its least head."""
        release, weight = self.problem.jobs.release, self.problem.jobs.weight
        alone = weight * (self.earliest - release)
        found = [Bound(int(alone.sum()), "jobs alone")]
        tail = self.tails(own_job=True)
        for name, members, jobs in self._one_each():
            rows = zip(self.duration[members].tolist(), weight[jobs].tolist(), strict=True)
            now, total = int(self.head[members].min()), 0
            for length, importance in sorted(rows, key=lambda row: row[0] / row[1] if row[1] else np.inf):
                now += length
                total += importance * now
            others = np.setdiff1d(np.arange(len(release)), jobs)
            value = total + int((weight[jobs] * (tail[members] - release[jobs])).sum() + alone[others].sum())
            found.append(Bound(value, f"Smith's order on {name}"))
        return found

    @cached_property
    def alone_late(self) -> Ints:
        """How late each job is at least; shape (jobs,)."""
        due = self.problem.jobs.due
        return np.where(due < NEVER, np.maximum(0, self.earliest - due), 0)

    def tardiness(self) -> list[Bound]:
        """Jobs alone; preemptive completions of one machine against its due dates (less what follows), both in order."""
        found = [Bound(int(self.alone_late.sum()), "jobs alone")]
        due, tail = self.problem.jobs.due, self.tails(own_job=True)
        for name, members, jobs in self._one_each():
            done = shortest_remaining(self.head[members].tolist(), self.duration[members].tolist())
            limits = np.sort(due[jobs] - tail[members])
            matched = int(np.maximum(0, np.array(done) - limits).sum())
            others = np.setdiff1d(np.arange(len(due)), jobs)
            found.append(Bound(matched + int(self.alone_late[others].sum()), f"shortest remaining on {name}"))
        return found

    def weighted_tardiness(self) -> list[Bound]:
        """Jobs alone; the least weight times the bound without weights."""
        weight = self.problem.jobs.weight
        scaled = [
            Bound(int(weight.min()) * bound.value, f"least weight x {bound.origin}") for bound in self.tardiness()
        ]
        return [Bound(int((weight * self.alone_late).sum()), "jobs alone"), *scaled]

    def number_late(self) -> list[Bound]:
        """Jobs alone; Moore and Hodgson on one machine, open from its least head."""
        found = [Bound(int((self.alone_late > 0).sum()), "jobs alone")]
        due, tail = self.problem.jobs.due, self.tails(own_job=True)
        for name, members, jobs in self._one_each():
            limits = (due[jobs] - tail[members]).tolist()
            late = fewest_late(self.duration[members].tolist(), limits, int(self.head[members].min()))
            others = np.setdiff1d(np.arange(len(due)), jobs)
            found.append(Bound(late + int((self.alone_late[others] > 0).sum()), f"Moore and Hodgson on {name}"))
        return found

    def weighted_number_late(self) -> list[Bound]:
        """Jobs alone; the least weight times the bound without weights."""
        weight = self.problem.jobs.weight
        scaled = [
            Bound(int(weight.min()) * bound.value, f"least weight x {bound.origin}") for bound in self.number_late()
        ]
        return [Bound(int(weight[self.alone_late > 0].sum()), "jobs alone"), *scaled]

    def lateness(self) -> list[Bound]:
        """Jobs alone; Jackson's preemptive schedule of one machine with due dates for tails."""
        due, tail = self.problem.jobs.due, self.tails(own_job=True)
        dated = due < NEVER
        found = [Bound(int((self.earliest - due)[dated].max()), "jobs alone")]
        for name, members in self.disjunctive:
            limits = due[self.problem.operations.job[members]]
            chosen = members[limits < NEVER]
            if len(chosen):
                late = tail[chosen] - due[self.problem.operations.job[chosen]]
                value = preemptive(self.head[chosen].tolist(), self.duration[chosen].tolist(), late.tolist())
                found.append(Bound(value, f"preemptive schedule of {name}"))
        return found


def _longest(start: Ints, tail: Ints, head: Ints, weight: Ints) -> Ints:
    """The longest paths into every node, from values at the nodes; there is no positive cycle (the model forbids it)."""
    distance = start.copy()
    for _ in range(len(start) + 1):
        before = distance.copy()
        np.maximum.at(distance, head, before[tail] + weight)
        if np.array_equal(before, distance):
            break
    return distance
