"""An independent check of a schedule: from the model's arrays alone, sharing no code with simulators, solvers, readers or views.

Each broken rule is one line. An empty list means that every rule of `model.py` holds and that the value is as claimed.
"""

from collections.abc import Callable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import groupby, pairwise, permutations

import numpy as np

from rota.worlds.shop.model import (
    FINISH_FINISH,
    FINISH_START,
    MACHINE,
    NEVER,
    NON_RENEWABLE,
    RENEWABLE,
    START_START,
    Problem,
)
from rota.worlds.shop.schedule import Schedule, Solution

Row = tuple[int, ...]


def verify(problem: Problem, schedule: Schedule, value: int | None = None) -> list[str]:
    """The rules that a schedule breaks, a line each; none: it is feasible, and worth `value` where that is given."""
    count = len(problem.operations)
    if len(schedule) != count:
        return [f"schedule: has {len(schedule)} operations, the problem has {count}"]
    check = _Check(problem, schedule)
    found = list(check.modes())
    if found:  # without valid modes nothing else can be judged
        return found
    for rule in (
        check.dates,
        check.frozen,
        check.work,
        check.machines,
        check.resources,
        check.precedences,
        check.one_at_a_time,
        check.permutation,
    ):
        found.extend(rule())
    if value is not None and value != check.value():
        found.append(f"value: {value} is claimed, the schedule is worth {check.value()}")
    return found


def verify_solution(problem: Problem, solution: Solution) -> list[str]:
    """What is wrong with a solution: its schedule, its value, its bound, its claim to be optimal, its trace."""
    found = []
    if solution.schedule is not None:
        found += verify(problem, solution.schedule, solution.value)
    if solution.status == "optimal" and solution.bound != solution.value:
        found.append(f"status: optimal is claimed with value {solution.value} and bound {solution.bound}")
    if solution.status == "infeasible" and solution.schedule is not None:
        found.append("status: infeasible is claimed, and there is a schedule")
    if solution.value is not None and solution.bound is not None and solution.bound > solution.value:
        found.append(f"bound: {solution.bound} is above the value {solution.value}")
    for before, after in pairwise(solution.trace):
        if after.value >= before.value:
            found.append(f"trace: incumbent {after.value} at {after.seconds:.3f} s is no better than {before.value}")
    if solution.trace and solution.value is not None and solution.trace[-1].value != solution.value:
        found.append(f"trace: ends with {solution.trace[-1].value}, the value is {solution.value}")
    return found


def recompute(problem: Problem, schedule: Schedule) -> int:
    """The objective's value, computed here from the model's arrays."""
    return _Check(problem, schedule).value()


class _Check:
    """One schedule under examination, as plain integers."""

    def __init__(self, problem: Problem, schedule: Schedule) -> None:
        self.problem = problem
        self.start = schedule.start.tolist()
        self.end = schedule.end.tolist()
        self.mode = schedule.mode.tolist()
        self.names = problem.operations.names
        self.job = problem.operations.job.tolist()
        self.followers: dict[int, list[int]] = {}  # of the same job, directly after an operation
        links = problem.precedences
        for row in np.flatnonzero(links.kind == FINISH_START).tolist():
            first, second = int(links.first[row]), int(links.second[row])
            if self.job[first] == self.job[second]:
                self.followers.setdefault(first, []).append(second)

    def modes(self) -> Iterator[str]:
        """Every operation has one of its own modes, and times that exist."""
        modes = self.problem.modes
        for index, mode in enumerate(self.mode):
            if not 0 <= mode < len(modes) or modes.operation[mode] != index:
                yield f"operation {self.names[index]}: mode {mode} is not one of its modes"
            elif self.start[index] < 0 or self.end[index] < self.start[index]:
                yield f"operation {self.names[index]}: runs from {self.start[index]} to {self.end[index]}"

    def demands(self, index: int) -> list[tuple[int, int, int]]:
        """(resource, amount, family) of the chosen mode of an operation."""
        modes, mode = self.problem.modes, self.mode[index]
        rows = range(int(modes.offsets[mode]), int(modes.offsets[mode + 1]))
        return [(int(modes.resource[r]), int(modes.amount[r]), int(modes.family[r])) for r in rows]

    def machine(self, index: int) -> int | None:
        """The machine of an operation, where its mode has exactly one."""
        used = [r for r, _, _ in self.demands(index) if self.problem.resources.kind[r] == MACHINE]
        return used[0] if len(used) == 1 else None

    def moving(self, first: int, second: int) -> int:
        """The transport time from one operation to another."""
        here, there = self.machine(first), self.machine(second)
        return 0 if here is None or there is None else int(self.problem.transport[here, there])

    def dates(self) -> Iterator[str]:
        """Release dates and deadlines of operations that are not frozen."""
        operations, jobs = self.problem.operations, self.problem.jobs
        for index, name in enumerate(self.names):
            if operations.frozen_mode[index] >= 0:
                continue
            for what, table, row in (("", operations, index), ("its job's ", jobs, self.job[index])):
                if self.start[index] < table.release[row]:
                    yield f"operation {name}: starts at {self.start[index]}, before {what}release {table.release[row]}"
                if self.end[index] > table.deadline[row]:
                    yield f"operation {name}: ends at {self.end[index]}, after {what}deadline {table.deadline[row]}"

    def frozen(self) -> Iterator[str]:
        """Frozen operations are where they were."""
        operations = self.problem.operations
        for index in np.flatnonzero(operations.frozen_mode >= 0).tolist():
            for what, given, found in (
                ("mode", operations.frozen_mode[index], self.mode[index]),
                ("start", operations.frozen_start[index], self.start[index]),
                ("end", operations.frozen_end[index], self.end[index]),
            ):
                if found != given and not (what == "end" and given < 0):
                    yield f"operation {self.names[index]}: is frozen with {what} {given}, the schedule has {found}"

    def work(self) -> Iterator[str]:
        """The time between start and end, less the pauses, is the duration; nothing runs through a break that it must avoid."""
        resources = self.problem.resources
        for index, name in enumerate(self.names):
            if self.problem.operations.frozen_end[index] >= 0:
                continue
            start, end = self.start[index], self.end[index]
            pauses: list[tuple[int, int]] = []
            for resource, _, _ in self.demands(index):
                for row in range(int(resources.break_offsets[resource]), int(resources.break_offsets[resource + 1])):
                    span = int(resources.break_start[row]), int(resources.break_end[row])
                    if resources.interruptible[resource]:
                        pauses.append(span)
                    elif span[0] < end and start < span[1]:
                        yield f"operation {name}: runs {start}..{end} through the break {_span(span)} of {resources.names[resource]}"
            inside = [span for span in pauses if span[0] < end and start < span[1]]
            for span in inside:
                if span[0] <= start or span[1] >= end:
                    yield f"operation {name}: runs {start}..{end} and {'starts' if span[0] <= start else 'ends'} in the break {_span(span)}"
            paused = _covered([(max(a, start), min(b, end)) for a, b in inside])
            duration = int(self.problem.modes.duration[self.mode[index]])
            if end - start - paused != duration:
                pause = f" with pauses of {paused}" if paused else ""
                yield f"operation {name}: runs {start}..{end}{pause}, its duration is {duration}"

    def leaves(self, index: int, machine: int) -> int:
        """When an operation's machine is free of it: at its end, or when a blocking machine has passed it on."""
        if not self.problem.resources.blocking[machine]:
            return int(self.end[index])
        moments = [self.start[each] - self.moving(index, each) for each in self.followers.get(index, ())]
        return int(max([self.end[index], *moments]))

    def setup(self, machine: int, before: int, after: int) -> int:
        """Time between operations of two families on a machine; 0 where it has none, or an operation has none."""
        setups, size = self.problem.setups, int(self.problem.setups.families[machine])
        return (
            int(setups.time[setups.offsets[machine] + before * size + after]) if size and min(before, after) >= 0 else 0
        )

    def may_follow(self, machine: int, before: Row, after: Row) -> bool:
        """Whether one operation (start, end, number, family) can be next after another on a machine."""
        return after[0] >= self.leaves(before[2], machine) + self.setup(machine, before[3], after[3])

    def untied(self, rows: Sequence[Row], follows: Callable[[Row, Row], bool]) -> list[Row]:
        """Rows (start, end, ...) by time. Those that take no time at the same moment are put so that each may follow the one before, if they can be."""
        groups = [list(group) for _, group in groupby(sorted(rows), key=lambda row: row[:2])]
        found: list[list[Row]] = [[]]  # for each possible last row one order up to it
        for group in groups:
            ways = permutations(group) if 1 < len(group) <= 7 and group[0][0] == group[0][1] else [tuple(group)]
            longer = [[*order, *way] for way in ways for order in found]
            allowed = [order for order in longer if all(follows(a, b) for a, b in pairwise(order[-len(group) - 1 :]))]
            found = list({order[-1]: order for order in allowed or longer[:1]}.values())
        return found[0]

    def machines(self) -> Iterator[str]:
        """One operation at a time on each machine, with the setups between them."""
        problem = self.problem
        users = self.users()
        for machine in np.flatnonzero(problem.resources.kind == MACHINE).tolist():
            name = problem.resources.names[machine]
            size, setups = int(problem.setups.families[machine]), problem.setups
            rows = [(self.start[i], self.end[i], i, family) for i, _, family in users[machine]]
            order = self.untied(rows, lambda a, b, m=machine: self.may_follow(m, a, b))  # type: ignore[misc]
            if order and size and order[0][3] >= 0:
                start, _, index, family = order[0]
                needed = int(setups.initial[setups.initial_offsets[machine] + family])
                if start < needed:
                    yield f"machine {name}: operation {self.names[index]} starts at {start}, its first setup takes {needed}"
            for (_, _, first, before), (start, _, second, after) in pairwise(order):
                setup = self.setup(machine, before, after)
                free = self.leaves(first, machine)
                if start < free + setup:
                    reason = f" and a setup of {setup}" if setup else ""
                    held = "holds it until" if free > self.end[first] else "ends at"
                    yield (
                        f"machine {name}: operation {self.names[second]} starts at {start}, "
                        f"but {self.names[first]} {held} {free}{reason}"
                    )

    def users(self) -> list[list[tuple[int, int, int]]]:
        """Per resource, (operation, amount, family) of everything that uses it."""
        found: list[list[tuple[int, int, int]]] = [[] for _ in range(len(self.problem.resources))]
        for index in range(len(self.names)):
            for resource, amount, family in self.demands(index):
                found[resource].append((index, amount, family))
        return found

    def resources(self) -> Iterator[str]:
        """Capacities at every moment, and budgets for the whole plan."""
        resources, users = self.problem.resources, self.users()
        for resource, name in enumerate(resources.names):
            capacity = int(resources.capacity[resource])
            if resources.kind[resource] == NON_RENEWABLE:
                total = sum(amount for _, amount, _ in users[resource])
                if total > capacity:
                    yield f"resource {name}: {total} units are consumed, there are {capacity}"
            elif resources.kind[resource] == RENEWABLE:
                changes: dict[int, int] = {}
                for index, amount, _ in users[resource]:
                    changes[self.start[index]] = changes.get(self.start[index], 0) + amount
                    changes[self.end[index]] = changes.get(self.end[index], 0) - amount
                level, over = 0, False
                for moment in sorted(changes):
                    level += changes[moment]
                    if level > capacity and not over:  # one line for each time that the capacity is exceeded
                        yield f"resource {name}: {level} units are in use at {moment}, there are {capacity}"
                    over = level > capacity

    def precedences(self) -> Iterator[str]:
        """Least and most lags, with transport between the machines of one job."""
        links = self.problem.precedences
        for row in range(len(links)):
            first, second, kind = int(links.first[row]), int(links.second[row]), int(links.kind[row])
            origin = self.end[first] if kind in (FINISH_START, FINISH_FINISH) else self.start[first]
            target = self.start[second] if kind in (FINISH_START, START_START) else self.end[second]
            moving = self.moving(first, second) if kind == FINISH_START and self.job[first] == self.job[second] else 0
            lag, least, most = target - origin, int(links.least[row]) + moving, int(links.most[row])
            pair = f"precedence {self.names[first]} -> {self.names[second]}"
            if lag < least:
                yield f"{pair}: the lag is {lag}, at least {least} is needed{f' (transport {moving})' if moving else ''}"
            if most < NEVER and lag > most + moving:
                yield f"{pair}: the lag is {lag}, at most {most + moving} is allowed"

    def one_at_a_time(self) -> Iterator[str]:
        """Operations of such a job never overlap."""
        for job in np.flatnonzero(self.problem.jobs.one_at_a_time).tolist():
            mine = [index for index, owner in enumerate(self.job) if owner == job]
            rows = [(self.start[index], self.end[index], index) for index in mine]
            order = self.untied(rows, lambda a, b: b[0] >= a[1] + self.moving(a[2], b[2]))
            for (_, end, first), (start, _, second) in pairwise(order):
                moving = self.moving(first, second)
                if start < end + moving:
                    yield (
                        f"job {self.problem.jobs.names[job]}: operation {self.names[second]} starts at {start}, "
                        f"but {self.names[first]} ends at {end}{f' and transport takes {moving}' if moving else ''}"
                    )

    def permutation(self) -> Iterator[str]:
        """All machines take the jobs in one order."""
        if not self.problem.permutation:
            return
        orders: list[
            tuple[str, list[tuple[tuple[int, int], int]]]
        ] = []  # per machine ((start, end), job), first visits
        for machine, rows in enumerate(self.users()):
            if self.problem.resources.kind[machine] == MACHINE:
                first: dict[int, tuple[int, int]] = {}
                for start, end, job in sorted((self.start[i], self.end[i], self.job[i]) for i, _, _ in rows):
                    first.setdefault(job, (start, end))
                orders.append((self.problem.resources.names[machine], [(span, job) for job, span in first.items()]))
        before: dict[int, set[int]] = {}
        for _, order in orders:
            groups = [[job for _, job in group] for _, group in groupby(order, key=lambda row: row[0])]
            for left, right in pairwise(groups):  # jobs that take no time at the same moment are in either order
                for job in right:
                    before.setdefault(job, set()).update(left)
        try:
            TopologicalSorter(before).prepare()
        except CycleError as error:
            names = " before ".join(self.problem.jobs.names[job] for job in error.args[1])
            yield f"permutation: the machines do not take the jobs in one order: {names}"

    def value(self) -> int:
        """The weighted sum of criteria, job by job."""
        jobs = self.problem.jobs
        done = [0] * len(jobs)
        for index, job in enumerate(self.job):
            done[job] = max(done[job], self.end[index])
        release, due, weight = jobs.release.tolist(), jobs.due.tolist(), jobs.weight.tolist()
        late = [max(0, c - d) if d < NEVER else 0 for c, d in zip(done, due, strict=True)]
        total = 0
        for name, factor in self.problem.objective.terms:
            if name == "makespan":
                part = max(done)
            elif name in ("total_flow_time", "weighted_flow_time"):
                flow = [c - r for c, r in zip(done, release, strict=True)]
                part = sum(flow) if name == "total_flow_time" else sum(w * f for w, f in zip(weight, flow, strict=True))
            elif name == "maximum_lateness":
                part = max(c - d for c, d in zip(done, due, strict=True) if d < NEVER)
            elif name in ("total_tardiness", "weighted_tardiness"):
                part = sum(late) if name == "total_tardiness" else sum(w * t for w, t in zip(weight, late, strict=True))
            else:
                units = weight if name == "weighted_number_late" else [1] * len(late)
                part = sum(unit for unit, t in zip(units, late, strict=True) if t > 0)
            total += factor * part
        return total


def _span(span: tuple[int, int]) -> str:
    return f"{span[0]}..{'ever' if span[1] >= NEVER else span[1]}"


def _covered(spans: list[tuple[int, int]]) -> int:
    """The length of the union of intervals."""
    total, reached = 0, -1
    for start, end in sorted(spans):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total
