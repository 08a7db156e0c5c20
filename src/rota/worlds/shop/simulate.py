"""Carry out a shop while luck disturbs it: by a dispatching rule, by a plan, or by a plan that is made anew at each event.

For shops of chains on one machine an operation (job shop, flow shop), with release dates and blocking machines. A machine that breaks down pauses what it does,
and goes on after the repair. On a blocking machine a finished operation stays until its job's next one begins; jobs that wait for each other's
machines in a circle all move at the same moment (a swap), so that nothing can lock up. What happens at one moment happens in this order: ends,
repairs, breakdowns, releases, then starts, machine by machine.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import pairwise
from typing import Protocol

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.errors import BrokenRunError, InputError
from rota.kernel.tables import Jobs
from rota.worlds.shop.calendars import Break
from rota.worlds.shop.dispatch import COLUMNS
from rota.worlds.shop.luck import Luck
from rota.worlds.shop.model import NEVER, Ints, Problem, Resources
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.verify import verify

KNOWN = frozenset({"release", "due", "weights", "blocking"})
END, REPAIR, BREAKDOWN, RELEASE = range(4)


class Control(Protocol):
    """Who decides: a rule, a plan, or one that plans again."""

    def pick(self, shop: "Simulation", machine: int, waiting: list[int]) -> int | None:
        """Which of the operations that could begin on a free machine does; None: it waits."""

    def may_swap(self, shop: "Simulation", operation: int) -> bool:
        """Whether an operation may begin now if the machine becomes free by a swap."""

    def on_event(self, shop: "Simulation") -> None:
        """A machine broke down or was repaired, or a job was released."""


@dataclass
class ByRule:
    """The least key of an order among those that wait."""

    rule: Order

    def pick(self, shop: "Simulation", machine: int, waiting: list[int]) -> int | None:
        table = shop.table(self.rule, waiting)
        keys = np.asarray(self.rule.keys(table, float(shop.now)), np.float64)
        joined = np.array([shop.joined[o] for o in waiting])
        return waiting[int(np.lexsort((np.array(waiting), joined, keys))[0])]

    def may_swap(self, shop: "Simulation", operation: int) -> bool:
        return True

    def on_event(self, shop: "Simulation") -> None:
        """A rule has nothing to plan."""


@dataclass
class ByPlan:
    """The order on each machine as a schedule has it, as soon as it can be."""

    schedule: Schedule
    queues: dict[int, list[int]] = field(default_factory=dict)

    def follow(self, shop: "Simulation", schedule: Schedule) -> None:
        """Take the order of what has not begun from a schedule."""
        self.schedule = schedule
        self.queues = {m: [] for m in range(len(shop.problem.resources))}
        for operation in np.lexsort((schedule.end, schedule.start)).tolist():
            if shop.start[operation] < 0:
                self.queues[shop.machine[operation]].append(operation)

    def pick(self, shop: "Simulation", machine: int, waiting: list[int]) -> int | None:
        if not self.queues:
            self.follow(shop, self.schedule)
        first = self.queues[machine][0] if self.queues[machine] else -1
        return self._take(machine) if first in waiting else None

    def _take(self, machine: int) -> int:
        return self.queues[machine].pop(0)

    def may_swap(self, shop: "Simulation", operation: int) -> bool:
        if not self.queues:
            self.follow(shop, self.schedule)
        return self.queues[shop.machine[operation]][:1] == [operation]

    def on_event(self, shop: "Simulation") -> None:
        """A plan stays as it is."""


@dataclass(frozen=True)
class Move:
    """What planning anew changed: how many operations got another predecessor on their machine, and by how much starts moved in all."""

    time: int
    reordered: int
    shift: int
    value: int  # what the new plan promises


@dataclass
class ByPlanning(ByPlan):
    """A plan that is made anew at each event: what has begun stays, a broken machine is away for as long as repairs take on average.

    Args:
        solve: From the rest of the problem and the old plan, carried on, to a better schedule.
    """

    solve: Callable[[Problem, Schedule], Schedule] | None = None
    moves: list[Move] = field(default_factory=list)

    def on_event(self, shop: "Simulation") -> None:
        if self.solve is None or all(start >= 0 for start in shop.start):
            return
        if not self.queues:
            self.follow(shop, self.schedule)
        rest = shop.rest()
        old = shop.forecast(self.queues)
        new = self.solve(rest, old)
        before = {o: queue[k - 1] if k else -1 for queue in self.queues.values() for k, o in enumerate(queue)}
        self.follow(shop, new)
        after = {o: queue[k - 1] if k else -1 for queue in self.queues.values() for k, o in enumerate(queue)}
        changed = sum(before.get(o) != p for o, p in after.items())
        shift = int(np.abs(new.start - old.start).sum())
        self.moves.append(Move(shop.now, changed, shift, new.value(rest)))


@dataclass(frozen=True, eq=False)
class Outcome:
    """What happened. `problem` is the shop as it turned out to be: true durations, and outages as breaks that pause work."""

    schedule: Schedule
    problem: Problem
    outages: tuple[tuple[int, Break], ...]
    swaps: int

    @property
    def value(self) -> int:
        """The objective's value."""
        return self.schedule.value(self.problem)


class Simulation:
    """One run, event by event."""

    def __init__(self, problem: Problem, control: Control, luck: Luck | None = None) -> None:
        if (
            problem.kind not in ("job_shop", "flow_shop", "single_machine")
            or problem.features - KNOWN
            or problem.permutation
        ):
            extra = ", ".join(sorted(problem.features - KNOWN)) or problem.kind.replace("_", " ")
            raise InputError(f"simulate: takes chains of operations, each on its machine; this problem has {extra}")
        self.problem, self.control, self.luck = problem, control, luck or Luck()
        self.machine = problem.machine_of_mode[problem.mode_offsets[:-1]].tolist()
        self.planned: list[int] = problem.modes.duration.tolist()
        self.actual: list[int] = self.luck.durations(problem).tolist()
        self.blocking: list[bool] = problem.resources.blocking.tolist()
        offsets, order = problem.job_operations
        self.chains = [order[a:b].tolist() for a, b in pairwise(offsets.tolist())]
        self.follower = {a: b for chain in self.chains for a, b in pairwise(chain)}
        self.job: list[int] = problem.operations.job.tolist()
        count, machines = len(problem.operations), len(problem.resources)
        self.now = 0
        self.start, self.end, self.joined = [-1] * count, [-1] * count, [0] * count
        self.left = self.actual.copy()  # work that is left
        self.since = [0] * count  # when it was last taken up
        self.holder: list[int | None] = [None] * machines
        self.down: list[Break | None] = [None] * machines
        self.outages: list[tuple[int, Break]] = []
        self.waiting: set[int] = set()
        self.swaps = 0
        self.events: list[tuple[int, int, int, int]] = []  # time, kind, what, version
        self.version = [0] * count
        for job, chain in enumerate(self.chains):
            heappush(self.events, (int(problem.jobs.release[job]), RELEASE, chain[0], 0))
        for machine in range(machines):
            self._break_down_later(machine, 0, 0)

    # -- time -------------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """To the end. Raises BrokenRunError when what happened breaks a rule of the problem."""
        unfinished = len(self.start)
        while unfinished:
            if not self.events:
                raise BrokenRunError(f"simulate: nothing can go on at {self.now}, {unfinished} operations are left")
            self.now = self.events[0][0]
            told = False
            while self.events and self.events[0][0] == self.now:
                _, kind, what, version = heappop(self.events)
                if kind == END:
                    if version == self.version[what]:
                        self._finish(what)
                        unfinished -= 1
                elif kind == RELEASE:
                    self._join(what)
                    told = told or self.now > 0
                else:
                    (self._repaired if kind == REPAIR else self._broken)(what, version)
                    told = True
            if told and unfinished:
                self.control.on_event(self)
            while self._begin() or self._swap():
                pass
        return self._outcome()

    def _break_down_later(self, machine: int, ordinal: int, after: int) -> None:
        outage = self.luck.outage(machine, ordinal, after)
        if outage is not None:
            heappush(self.events, (outage[0], BREAKDOWN, machine, ordinal))

    def _broken(self, machine: int, ordinal: int) -> None:
        after = self.outages_of(machine)[-1][1] if self.outages_of(machine) else 0
        outage = self.luck.outage(machine, ordinal, after)
        if outage is None:
            raise BrokenRunError("simulate: a breakdown that luck does not know")
        self.down[machine] = outage
        self.outages.append((machine, outage))
        heappush(self.events, (outage[1], REPAIR, machine, ordinal))
        operation = self.holder[machine]
        if operation is not None and self.end[operation] < 0:  # it pauses
            self.left[operation] -= self.now - self.since[operation]
            self.version[operation] += 1

    def _repaired(self, machine: int, ordinal: int) -> None:
        self.down[machine] = None
        operation = self.holder[machine]
        if operation is not None and self.end[operation] < 0:
            self._work(operation)
        self._break_down_later(machine, ordinal + 1, self.now)

    def outages_of(self, machine: int) -> list[Break]:
        """Breakdowns of a machine so far."""
        return [span for number, span in self.outages if number == machine]

    def _work(self, operation: int) -> None:
        self.since[operation] = self.now
        self.version[operation] += 1
        heappush(self.events, (self.now + self.left[operation], END, operation, self.version[operation]))

    def _finish(self, operation: int) -> None:
        self.end[operation] = self.now
        machine, follower = self.machine[operation], self.follower.get(operation)
        if follower is None or not self.blocking[machine]:
            self.holder[machine] = None
        if follower is not None:
            self._join(follower)

    def _join(self, operation: int) -> None:
        self.waiting.add(operation)
        self.joined[operation] = self.now

    # -- starts -----------------------------------------------------------------------------------------------------------

    def _begin(self) -> bool:
        """Start what can on the first machine that is free; whether something did."""
        for machine, holder in enumerate(self.holder):
            if holder is None and self.down[machine] is None:
                here = sorted(o for o in self.waiting if self.machine[o] == machine)
                if here:
                    chosen = self.control.pick(self, machine, here)
                    if chosen is not None:
                        self._start(chosen)
                        return True
        return False

    def _start(self, operation: int) -> None:
        self.waiting.discard(operation)
        self.start[operation] = self.now
        before = next((a for a, b in self.follower.items() if b == operation), None)
        if before is not None and self.holder[self.machine[before]] == before:
            self.holder[self.machine[before]] = None
        self.holder[self.machine[operation]] = operation
        self._work(operation)

    def _swap(self) -> bool:
        """Let jobs that wait for each other's machines in a circle move at once; whether some did."""
        for first in range(len(self.holder)):
            circle, machine = [first], first
            while True:
                holder = self.holder[machine]
                wanted = None if holder is None or self.end[holder] < 0 else self.follower.get(holder)
                if (
                    wanted is None
                    or self.down[self.machine[wanted]] is not None
                    or not self.control.may_swap(self, wanted)
                ):
                    break
                machine = self.machine[wanted]
                if machine == first:
                    self._turn(circle)
                    return True
                if machine in circle:
                    break
                circle.append(machine)
        return False

    def _turn(self, circle: list[int]) -> None:
        moving = [self.follower[holder] for holder in (self.holder[m] for m in circle) if holder is not None]
        for machine in circle:
            self.holder[machine] = None
        for operation in moving:
            if isinstance(self.control, ByPlan):
                self.control.queues[self.machine[operation]].remove(operation)
            self._start(operation)
        self.swaps += 1

    # -- what is seen -----------------------------------------------------------------------------------------------------

    def table(self, rule: Order, rows: list[int]) -> Jobs:
        """The columns of `dispatch.COLUMNS` that a rule declares, durations as planned."""
        jobs = self.problem.jobs
        planned = self.planned

        def column(name: str) -> list[float]:
            chain = {o: self.chains[self.job[o]] for o in rows}
            place = {o: chain[o].index(o) for o in rows}
            due = jobs.due
            return [
                {
                    "id": float(o),
                    "release": float(self.joined[o]),
                    "size": float(planned[o]),
                    "due": float(due[self.job[o]]) if due[self.job[o]] < NEVER else np.inf,
                    "weight": float(jobs.weight[self.job[o]]),
                    "priority": 0.0,
                    "job": float(self.job[o]),
                    "job_release": float(jobs.release[self.job[o]]),
                    "remaining_work": float(sum(planned[x] for x in chain[o][place[o] :])),
                    "remaining_operations": float(len(chain[o]) - place[o]),
                    "work_done": float(sum(planned[x] for x in chain[o][: place[o]])),
                }[name]
                for o in rows
            ]

        for name in rule.reads:
            if name not in COLUMNS:
                raise InputError(
                    f"simulate: {type(rule).__name__} reads {name}, which a shop does not have (columns: {', '.join(COLUMNS)})"
                )
        return Jobs({name: np.array(column(name)) for name in rule.reads}, COLUMNS.values(), rows=len(rows))

    def _expected_end(self, operation: int) -> int:
        """When what has begun ends, as far as is known now: as planned, not before the next moment, after the mean repair if it is paused."""
        if self.end[operation] >= 0:
            return self.end[operation]
        outage = self.down[self.machine[operation]]
        spent = self.actual[operation] - self.left[operation] + (0 if outage else self.now - self.since[operation])
        left = max(1, self.planned[operation] - spent)
        return int(self.now + left + (max(1, round(self.luck.repair)) if outage else 0))

    def rest(self) -> Problem:
        """The problem from now on: what has begun is frozen, nothing else begins before now, broken machines are away for the mean repair."""
        problem, operations = self.problem, self.problem.operations
        begun = np.array([start >= 0 for start in self.start])
        ends = np.array([self._expected_end(o) if start >= 0 else -1 for o, start in enumerate(self.start)])
        frozen = replace(
            operations,
            release=np.where(begun, operations.release, np.maximum(operations.release, self.now)),
            frozen_mode=np.where(begun, problem.mode_offsets[:-1], -1),
            frozen_start=np.array(self.start),
            frozen_end=ends,
        )
        spans: list[list[Break]] = [[] for _ in self.holder]
        for machine, outage in enumerate(self.down):
            if outage is not None:
                spans[machine] = [(self.now, self.now + max(1, round(self.luck.repair)))]
        return replace(problem, operations=frozen, resources=_with_breaks(problem, spans, interruptible=False))

    def forecast(self, queues: dict[int, list[int]]) -> Schedule:
        """The plan carried on from here in its orders, with planned durations and no further bad luck."""
        twin = Simulation.__new__(Simulation)
        twin.__dict__.update(
            {
                key: value.copy() if isinstance(value, list | set | dict) else value
                for key, value in self.__dict__.items()
            }
        )
        twin.luck = replace(self.luck, uptime=None)
        plan = ByPlan(Schedule(np.array([], int), np.array([], int), np.array([], int)))
        plan.queues = {machine: queue.copy() for machine, queue in queues.items()}
        twin.control, twin.events, twin.outages = plan, [], []
        for operation, start in enumerate(self.start):
            if start >= 0 and self.end[operation] < 0:
                twin.version[operation] += 1
                heappush(twin.events, (self._expected_end(operation), END, operation, twin.version[operation]))
            elif start < 0:
                twin.left[operation] = self.planned[operation]
                before = operation == self.chains[self.job[operation]][0] and operation not in self.waiting
                if before:
                    heappush(
                        twin.events,
                        (max(int(self.problem.jobs.release[self.job[operation]]), self.now), RELEASE, operation, 0),
                    )
        for machine, outage in enumerate(self.down):
            if outage is not None:
                twin.down[machine] = outage
                heappush(twin.events, (self.now + max(1, round(self.luck.repair)), REPAIR, machine, 0))
        twin.forecasting()
        return Schedule(np.array(twin.start), np.array(twin.end), self.problem.mode_offsets[:-1])

    def forecasting(self) -> None:
        """Run a twin to its end without telling or checking anybody."""
        held = {operation for operation, start in enumerate(self.start) if start >= 0 and self.end[operation] < 0}
        while self._begin() or self._swap():
            pass
        while self.events:
            self.now = self.events[0][0]
            while self.events and self.events[0][0] == self.now:
                _, kind, what, version = heappop(self.events)
                if kind == END and version == self.version[what]:
                    self._finish(what)
                elif kind == RELEASE:
                    self._join(what)
                elif kind == REPAIR:
                    self.down[what] = None
                    operation = self.holder[what]
                    if operation is not None and self.end[operation] < 0 and operation not in held:
                        self._work(operation)
            while self._begin() or self._swap():
                pass

    def _outcome(self) -> Outcome:
        problem = self.problem
        modes = replace(problem.modes, duration=np.array(self.actual))
        spans: list[list[Break]] = [[] for _ in self.holder]
        for machine, span in self.outages:
            spans[machine].append(span)
        turned_out = replace(problem, modes=modes, resources=_with_breaks(problem, spans, interruptible=True))
        schedule = Schedule(np.array(self.start), np.array(self.end), problem.mode_offsets[:-1])
        found = verify(turned_out, schedule)
        if found:
            raise BrokenRunError(f"simulate: what happened breaks a rule: {found[0]}")
        return Outcome(schedule, turned_out, tuple(self.outages), self.swaps)


def _with_breaks(problem: Problem, spans: list[list[Break]], *, interruptible: bool) -> Resources:
    counts = [len(each) for each in spans]
    flat: Ints = np.array([span for each in spans for span in each], np.int64).reshape(-1, 2)
    return replace(
        problem.resources,
        interruptible=np.full(len(spans), interruptible),
        break_offsets=np.concatenate([[0], np.cumsum(counts)]),
        break_start=flat[:, 0],
        break_end=flat[:, 1],
    )


def planning(
    schedule: Schedule, solver: str = "cpsat", *, seconds: float | None = None, work: int | None = 200, seed: int = 0
) -> ByPlanning:
    """A control that begins with a schedule and solves the rest again at each event, each time within a limit, from the old plan carried on."""
    from rota.worlds.shop.solve import solve

    def again(rest: Problem, old: Schedule) -> Schedule:
        found = solve(
            rest, solver, seconds=seconds, work=None if seconds is not None else work, workers=1, seed=seed, start=old
        )
        if found.schedule is None:
            raise BrokenRunError("simulate: planning again lost the old plan")
        return found.schedule

    return ByPlanning(schedule, solve=again)


def simulate(problem: Problem, control: Control | Order | Schedule, luck: Luck | None = None) -> Outcome:
    """Carry out a problem by a dispatching rule, by a schedule's orders, or by a control of your own.

    Raises:
        InputError: The problem is not chains of operations, each on its machine.
        BrokenRunError: What happened breaks a rule: a bug worth reporting.
    """
    if isinstance(control, Schedule) and len(control) != len(problem.operations):
        raise InputError(f"simulate: the plan has {len(control)} operations, the problem has {len(problem.operations)}")
    if isinstance(control, Order):
        control.bind(np.random.default_rng(0 if luck is None else luck.seed))
        return Simulation(problem, ByRule(control), luck).run()
    return Simulation(problem, ByPlan(control) if isinstance(control, Schedule) else control, luck).run()
