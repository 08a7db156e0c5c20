"""Any problem of the model, to proof: CP-SAT (OR-Tools), told where to begin, asked for what it finds and what it has proved while it runs.

Each operation has a start and an end, each mode of a choice a literal. Machines are no-overlap constraints over the time for which an operation
holds them (a blocking machine is held until the job has moved on), setups and transport of open-shop jobs are circuits, pauses of a calendar are literals that
lengthen what they interrupt. Needs the extra `solve`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from queue import Empty, Queue
from threading import Thread
from typing import Any, NamedTuple

import numpy as np

from rota.kernel.errors import MissingExtraError
from rota.worlds.shop.calendars import breaks_of_mode
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
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.solver import HEARTBEAT, Limit, Solver, Step, Steps

SMALL = 150  # operations
GROUPS = {  # what can be left out to find out why there is no schedule
    "deadlines": "the deadlines",
    "lags": "the upper limits of lags (no-wait included)",
    "budgets": "the non-renewable resources",
    "breaks": "the breaks",
    "frozen": "the frozen operations",
    "permutation": "the one order of jobs on all machines",
    "blocking": "the blocking machines",
}


def _engine() -> Any:
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        raise MissingExtraError("cpsat needs OR-Tools: pip install 'rota[solve]'") from None
    return cp_model


def _solver() -> Any:
    """A fresh engine that leaves Ctrl-C to us: its own handler ends the process when it meets a search in another thread."""
    engine = _engine().CpSolver()
    engine.parameters.catch_sigint_signal = False
    return engine


class CpSat(Solver):
    """CP-SAT with its own search. With a limit of work it uses one worker, and a run is repeatable."""

    counts = "thousandths of a deterministic second"
    proves = True

    def refuses(self, problem: Problem) -> str | None:
        if problem.permutation and _visits_twice(problem):
            return "does not know one order of jobs where a job visits a machine twice"
        return None

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        cp_model = _engine()
        built = Model(problem)
        if start is not None:
            built.hint(start)
        engine = _solver()
        engine.parameters.num_workers = limit.workers
        engine.parameters.random_seed = limit.seed % (1 << 31)
        # Measured on job shops (docs/worlds/shop.md): without linear relaxations schedules are better at any time; stronger propagation
        # proves small ones up to ten times sooner, and finds nothing for long on large ones.
        if not (problem.resources.kind == RENEWABLE).any() and problem.objective.single in (
            "makespan",
            "maximum_lateness",
        ):
            engine.parameters.linearization_level = 0
            engine.parameters.use_strong_propagation_in_disjunctive = len(problem.operations) <= SMALL
        if limit.work is not None:
            engine.parameters.max_deterministic_time = limit.work / 1000
            engine.parameters.num_workers = (
                1  # with more, neither interleaved search nor anything else gave the same bits twice
            )
        news: Queue[Step | Exception | None] = Queue()

        class Listener(cp_model.CpSolverSolutionCallback):  # type: ignore[misc, name-defined]
            def on_solution_callback(self) -> None:
                news.put(Step(built.schedule(self.value), work=int(1000 * self.deterministic_time)))

        def bound(value: float) -> None:
            if abs(value) < NEVER:
                news.put(Step(bound=int(np.ceil(value - 1e-6))))

        def work() -> None:
            try:
                status = engine.solve(built.model, Listener())
                done = status in (cp_model.OPTIMAL, cp_model.INFEASIBLE)
                final = int(np.ceil(engine.best_objective_bound - 1e-6)) if status == cp_model.OPTIMAL else None
                news.put(Step(bound=final, work=int(1000 * engine.deterministic_time), finished=done))
                news.put(None)
            except Exception as error:  # it belongs to whoever waits for the steps
                news.put(error)

        engine.best_bound_callback = bound
        thread = Thread(target=work, daemon=True)
        thread.start()
        try:
            done = 0
            while True:
                try:
                    step = news.get(timeout=HEARTBEAT)
                except Empty:
                    step = Step()
                if step is None:
                    return
                if isinstance(step, Exception):
                    raise step
                done = max(done, step.work)
                yield replace(step, work=done)
        finally:
            engine.stop_search()
            thread.join()


def repair(model: "Model", work: int, seed: int) -> tuple[Schedule | None, bool]:
    """(the best schedule of a model within some thousandths of a deterministic second, whether the search was finished)."""
    cp_model = _engine()
    engine = _solver()
    engine.parameters.num_workers = 1
    engine.parameters.random_seed = seed
    engine.parameters.max_deterministic_time = work / 1000
    engine.parameters.linearization_level = 0
    status = engine.solve(model.model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return (model.schedule(engine.value) if found else None), status == cp_model.OPTIMAL


def why_infeasible(problem: Problem, seconds: float = 10.0) -> list[str]:
    """The smallest set of constraint groups (`GROUPS`) that leaves no schedule when the rest is left out: one that none can be taken from.

    Empty where they are not to blame, or where CP-SAT did not decide within `seconds` for each group.
    """
    cp_model = _engine()

    def infeasible(without: set[str]) -> bool:
        engine = _solver()
        engine.parameters.max_time_in_seconds = seconds
        return bool(engine.solve(Model(problem, without).model) == cp_model.INFEASIBLE)

    without: set[str] = set()
    if not infeasible(without):
        return []
    for name in GROUPS:
        if infeasible(without | {name}):
            without.add(name)
    return [text for name, text in GROUPS.items() if name not in without]


class Stay(NamedTuple):
    """One mode of an operation on a machine, or in a job: from when to when it is held, and whether it is at all."""

    start: Any
    leave: Any
    present: Any
    operation: int
    mode: int
    family: int = -1


class Model:
    """A problem as a CP-SAT model.

    Args:
        problem: The problem.
        without: Names of `GROUPS` that are left out.
    """

    def __init__(self, problem: Problem, without: Iterable[str] = ()) -> None:
        cp_model = _engine()
        self.problem, self.model = problem, cp_model.CpModel()
        self.without = frozenset(without)
        self.never = self.model.new_constant(0)
        self.always = self.model.new_constant(1)
        self._operations()
        self._links()
        self._machines()
        self._resources()
        self._jobs_one_at_a_time()
        if problem.permutation and "permutation" not in self.without:
            self._permutation()
        self._objective()

    # -- operations and their modes ----------------------------------------------------------------------------------------

    def _operations(self) -> None:
        problem, model = self.problem, self.model
        operations, jobs, modes = problem.operations, problem.jobs, problem.modes
        self.start, self.end, self.modes = [], [], []
        horizon = problem.horizon
        for o in range(len(operations)):
            frozen = operations.frozen_mode[o] >= 0 and "frozen" not in self.without
            first = 0 if frozen else int(max(operations.release[o], jobs.release[operations.job[o]]))
            last = horizon
            if not frozen and "deadlines" not in self.without:
                last = int(min(last, operations.deadline[o], jobs.deadline[operations.job[o]]))
            if last < first:
                first, last = 0, horizon
                model.add_bool_or([self.never])
            start, end = model.new_int_var(first, last, f"start {o}"), model.new_int_var(first, last, f"end {o}")
            self.start.append(start)
            self.end.append(end)
            own = range(int(problem.mode_offsets[o]), int(problem.mode_offsets[o + 1]))
            if frozen:
                chosen = int(operations.frozen_mode[o])
                model.add(start == int(operations.frozen_start[o]))
                self.modes.append({chosen: self.always})
                if operations.frozen_end[o] >= 0:
                    model.add(end == int(operations.frozen_end[o]))
                    continue
            else:
                possible = [mode for mode in own if problem.executable[mode]]
                self.modes.append(
                    {m: model.new_bool_var(f"mode {m}") for m in possible}
                    if len(possible) > 1
                    else {possible[0]: self.always}
                )
                if len(possible) > 1:
                    model.add_exactly_one(self.modes[o].values())
            for mode, literal in self.modes[o].items():
                self._work(o, mode, literal, int(modes.duration[mode]))

    def _work(self, o: int, mode: int, literal: Any, duration: int) -> None:
        """How long a mode takes with the pauses in it, and which closures it must avoid."""
        model, start, end = self.model, self.start[o], self.end[o]
        pauses, closures = ([], []) if "breaks" in self.without else breaks_of_mode(self.problem, mode)
        length = duration
        for first, last in pauses:
            covered = model.new_bool_var("")
            if last >= NEVER:
                model.add(end <= first).only_enforce_if(literal)
                continue
            model.add(start < first).only_enforce_if(literal, covered)
            model.add(end > last).only_enforce_if(literal, covered)
            self._apart(start, end, first, last, (literal, covered.negated()))
            length = length + (last - first) * covered
        model.add(end == start + length).only_enforce_if(literal)
        for first, last in closures:
            self._apart(start, end, first, last, (literal,))

    def _apart(self, start: Any, end: Any, first: int, last: int, when: Sequence[Any]) -> None:
        """Work is over before a break, or begins after it."""
        if last >= NEVER:
            self.model.add(end <= first).only_enforce_if(*when)
            return
        before = self.model.new_bool_var("")
        self.model.add(end <= first).only_enforce_if(*when, before)
        self.model.add(start >= last).only_enforce_if(*when, before.negated())

    # -- precedences ----------------------------------------------------------------------------------------------------------

    @cached_property
    def _moves(self) -> bool:
        return bool(self.problem.transport.any())

    def _moving(self, a: int, b: int) -> Any:
        """Transport from an operation to another: a number, or an expression of their modes."""
        if not self._moves:
            return 0
        machine, transport = self.problem.machine_of_mode, self.problem.transport
        times = {
            (k, m): int(transport[machine[k], machine[m]]) if machine[k] >= 0 and machine[m] >= 0 else 0
            for k in self.modes[a]
            for m in self.modes[b]
        }
        if len(set(times.values())) == 1:
            return next(iter(times.values()))
        found = self.model.new_int_var(0, max(times.values()), f"transport {a} {b}")
        for (k, m), time in times.items():
            self.model.add(found == time).only_enforce_if(self.modes[a][k], self.modes[b][m])
        return found

    def _links(self) -> None:
        problem, model, links = self.problem, self.model, self.problem.precedences
        self.followers: dict[int, list[tuple[int, Any]]] = {}
        for row in range(len(links)):
            a, b, kind = int(links.first[row]), int(links.second[row]), int(links.kind[row])
            moving = 0
            if kind == FINISH_START and problem.operations.job[a] == problem.operations.job[b]:
                moving = self._moving(a, b)
                self.followers.setdefault(a, []).append((b, moving))
            origin = self.end[a] if kind in (FINISH_START, FINISH_FINISH) else self.start[a]
            target = self.start[b] if kind in (FINISH_START, START_START) else self.end[b]
            model.add(target >= origin + int(links.least[row]) + moving)
            if links.most[row] < NEVER and "lags" not in self.without:
                model.add(target <= origin + int(links.most[row]) + moving)

    # -- machines and resources -----------------------------------------------------------------------------------------------

    def _users(self, resource: int) -> list[tuple[int, int, int, int]]:
        """(operation, mode, amount, family) of the possible modes that use a resource."""
        modes = self.problem.modes
        rows = np.flatnonzero(modes.resource == resource)
        found = np.searchsorted(modes.offsets, rows, side="right") - 1
        users = [
            (int(modes.operation[m]), int(m), int(modes.amount[r]), int(modes.family[r]))
            for m, r in zip(found, rows, strict=True)
        ]
        return [user for user in users if user[1] in self.modes[user[0]]]

    def _interval(self, start: Any, end: Any, present: Any, length: int | None = None) -> Any:
        """An interval, of a known length where there is one."""
        if length is not None:
            return self.model.new_optional_fixed_size_interval_var(start, length, present, "")
        size = self.model.new_int_var(0, self.problem.horizon, "")
        return self.model.new_optional_interval_var(start, size, end, present, "")

    def _length(self, mode: int, operation: int) -> int | None:
        """How long a mode takes; None where pauses or a frozen end can change it."""
        if self.problem.operations.frozen_end[operation] >= 0 or breaks_of_mode(self.problem, mode)[0]:
            return None
        return int(self.problem.modes.duration[mode])

    def _leaving(self, o: int) -> Any:
        """When an operation leaves a blocking machine."""
        if o not in self.followers:
            return self.end[o]
        leave = self.model.new_int_var(0, self.problem.horizon, f"leave {o}")
        moments = [self.start[b] - moving for b, moving in self.followers[o]]
        self.model.add_max_equality(leave, [self.end[o], *moments])
        return leave

    def _machines(self) -> None:
        problem, setups = self.problem, self.problem.setups
        self.stays: dict[int, list[Stay]] = {}
        for machine in np.flatnonzero(problem.resources.kind == MACHINE).tolist():
            blocking = problem.resources.blocking[machine] and "blocking" not in self.without
            stays = [
                Stay(self.start[o], self._leaving(o) if blocking else self.end[o], self.modes[o][k], o, k, family)
                for o, k, _, family in self._users(machine)
            ]
            self.stays[machine] = stays
            self.model.add_no_overlap(
                [
                    self._interval(s.start, s.leave, s.present, None if blocking else self._length(s.mode, s.operation))
                    for s in stays
                ]
            )
            if setups.families[machine]:
                self._circuit(stays, partial(self._setup, machine), partial(self._first_setup, machine))

    def _setup(self, machine: int, a: Stay, b: Stay) -> int:
        return self.problem.setups.between(machine, a.family, b.family)

    def _first_setup(self, machine: int, a: Stay) -> int:
        setups = self.problem.setups
        return int(setups.initial[setups.initial_offsets[machine] + a.family]) if a.family >= 0 else 0

    def _circuit(self, stays: Sequence[Stay], gap: Callable[[Stay, Stay], int], initial: Callable[[Stay], int]) -> None:
        """Each present stay is followed by one other, at least a gap later."""
        model = self.model
        arcs = []
        nobody = model.new_bool_var("")
        arcs.append((0, 0, nobody))
        for i, a in enumerate(stays, 1):
            first, last = model.new_bool_var(""), model.new_bool_var("")
            arcs += [(0, i, first), (i, 0, last), (i, i, a.present.negated())]
            model.add(a.start >= initial(a)).only_enforce_if(first)
            for j, b in enumerate(stays, 1):
                if a.operation != b.operation:
                    follows = model.new_bool_var("")
                    arcs.append((i, j, follows))
                    model.add(b.start >= a.leave + gap(a, b)).only_enforce_if(follows)
        model.add_circuit(arcs)

    def _resources(self) -> None:
        resources = self.problem.resources
        for resource in np.flatnonzero(resources.kind == RENEWABLE).tolist():
            users = self._users(resource)
            intervals = [
                self._interval(self.start[o], self.end[o], self.modes[o][k], self._length(k, o)) for o, k, _, _ in users
            ]
            self.model.add_cumulative(
                intervals, [amount for _, _, amount, _ in users], int(resources.capacity[resource])
            )
        for resource in np.flatnonzero(resources.kind == NON_RENEWABLE).tolist():
            if "budgets" not in self.without:
                used = [amount * self.modes[o][k] for o, k, amount, _ in self._users(resource)]
                self.model.add(sum(used) <= int(resources.capacity[resource]))

    def _jobs_one_at_a_time(self) -> None:
        problem = self.problem
        machine, transport = problem.machine_of_mode, problem.transport

        def moving(a: Stay, b: Stay) -> int:
            here, there = machine[a.mode], machine[b.mode]
            return int(transport[here, there]) if min(here, there) >= 0 else 0

        for job in np.flatnonzero(problem.jobs.one_at_a_time).tolist():
            mine = np.flatnonzero(problem.operations.job == job).tolist()
            self.model.add_no_overlap([self._interval(self.start[o], self.end[o], self.always) for o in mine])
            if self._moves:
                choices = [(o, mode, literal) for o in mine for mode, literal in self.modes[o].items()]
                stays = [Stay(self.start[o], self.end[o], literal, o, mode) for o, mode, literal in choices]
                self._circuit(stays, moving, lambda _: 0)

    def _permutation(self) -> None:
        job = self.problem.operations.job
        order: dict[tuple[int, int], Any] = {}
        for stays in self.stays.values():
            for a in stays:
                for b in stays:
                    i, j = int(job[a.operation]), int(job[b.operation])
                    if i < j:
                        before = order.setdefault((i, j), self.model.new_bool_var(f"{i} before {j}"))
                        self.model.add(a.leave <= b.start).only_enforce_if(before, a.present, b.present)
                        self.model.add(b.leave <= a.start).only_enforce_if(before.negated(), a.present, b.present)

    # -- the objective --------------------------------------------------------------------------------------------------------

    def _objective(self) -> None:
        problem, model, jobs = self.problem, self.model, self.problem.jobs
        horizon = problem.horizon
        offsets, order = problem.job_operations
        done: dict[int, Any] = {}

        def completion(j: int) -> Any:
            if j not in done:
                last = self._last(order[offsets[j] : offsets[j + 1]].tolist())
                done[j] = model.new_int_var(0, horizon, f"completion {j}")
                model.add_max_equality(done[j], [self.end[o] for o in last])
            return done[j]

        def tardiness(j: int) -> Any:
            found = model.new_int_var(0, max(horizon - int(jobs.due[j]), 0), f"tardiness {j}")
            model.add(found >= completion(j) - int(jobs.due[j]))
            return found

        def late(j: int) -> Any:
            found = model.new_bool_var(f"late {j}")
            model.add(completion(j) <= int(jobs.due[j])).only_enforce_if(found.negated())
            return found

        due = np.flatnonzero(jobs.due < NEVER).tolist()
        total: Any = 0
        for name, factor in problem.objective.terms:
            weights = jobs.weight.tolist() if name.startswith("weighted") else [1] * len(jobs)
            if name == "makespan":
                part = model.new_int_var(0, horizon, "makespan")
                for end in self.end:
                    model.add(part >= end)
            elif name.endswith("flow_time"):
                part = sum(weights[j] * (completion(j) - int(jobs.release[j])) for j in range(len(jobs)))
            elif name.endswith("tardiness"):
                part = sum(weights[j] * tardiness(j) for j in due)
            elif name.endswith("number_late"):
                part = sum(weights[j] * late(j) for j in due)
            else:
                part = model.new_int_var(-int(jobs.due[due].max()), horizon - int(jobs.due[due].min()), "lateness")
                for j in due:
                    model.add(part >= completion(j) - int(jobs.due[j]))
            total = total + factor * part
        self.model.minimize(total)

    def _last(self, mine: Sequence[int]) -> list[int]:
        """Operations of a job that may end last: without a follower in it that must end later."""
        links = self.problem.precedences
        inside = set(mine)
        followed = {
            int(a)
            for a, b, kind, least in zip(links.first, links.second, links.kind, links.least, strict=True)
            if int(a) in inside and int(b) in inside and kind == FINISH_START and least >= 0
        }
        return [o for o in mine if o not in followed]

    # -- schedules ------------------------------------------------------------------------------------------------------------

    def hint(self, schedule: Schedule) -> None:
        """Begin the search from a schedule."""
        for o in range(len(schedule)):
            self.model.add_hint(self.start[o], int(schedule.start[o]))
            self.model.add_hint(self.end[o], int(schedule.end[o]))
            if len(self.modes[o]) > 1:
                for mode, literal in self.modes[o].items():
                    self.model.add_hint(literal, int(mode == schedule.mode[o]))

    def schedule(self, value: Callable[[Any], int]) -> Schedule:
        """The schedule of a solution."""
        mode = [next(k for k, literal in choice.items() if value(literal)) for choice in self.modes]
        starts, ends = [value(each) for each in self.start], [value(each) for each in self.end]
        return Schedule(np.array(starts, np.int64), np.array(ends, np.int64), np.array(mode, np.int64))


def _visits_twice(problem: Problem) -> bool:
    modes = problem.modes
    mode_of_row = np.repeat(np.arange(len(modes)), np.diff(modes.offsets))
    operation = modes.operation[mode_of_row]
    pairs = np.stack([problem.operations.job[operation], modes.resource, operation], axis=1)
    visits = np.unique(pairs, axis=0)[:, :2]
    return len(np.unique(visits, axis=0)) < len(visits)
