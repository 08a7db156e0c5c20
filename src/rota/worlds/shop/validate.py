"""The rules of the model, checked once when a problem is made; each broken rule is one line that names the row."""

from typing import TYPE_CHECKING, NoReturn

import numpy as np

from rota.kernel.errors import InputError
from rota.worlds.shop.calendars import breaks_of_mode, earliest
from rota.worlds.shop.model import (
    FINISH_FINISH,
    FINISH_START,
    LONGEST,
    MACHINE,
    NEVER,
    NON_RENEWABLE,
    START_START,
    Ints,
)
from rota.worlds.shop.objective import NEEDS_DUE

if TYPE_CHECKING:
    from rota.worlds.shop.model import Problem


def validate(problem: "Problem") -> None:
    """Raise InputError for the first rule that is broken."""
    _shapes(problem)
    _names(problem)
    _jobs(problem)
    _resources(problem)
    _modes(problem)
    _demands(problem)
    _frozen(problem)
    _links(problem)
    _dates(problem)
    _calendar(problem)
    _cycles(problem)
    _size(problem)


def _fail(problem: "Problem", what: str, index: int, message: str) -> NoReturn:
    raise InputError(f"{problem.where(what, int(index))}{' ' if what in NAMED else ': '}{message}")


NAMED = ("job", "resource", "operation")


def _first(mask: np.ndarray) -> int | None:
    """The first row where something is wrong."""
    return int(np.argmax(mask)) if mask.any() else None


def _shapes(problem: "Problem") -> None:
    """Columns fit together: what only code that builds arrays by hand can get wrong."""
    place = problem.source or problem.name or "problem"
    for table in ("jobs", "resources", "operations", "modes", "precedences"):
        rows = getattr(problem, table)
        for column, value in vars(rows).items():
            csr = (table, column) in {
                ("resources", "break_offsets"),
                ("resources", "break_start"),
                ("resources", "break_end"),
                ("modes", "offsets"),
                ("modes", "resource"),
                ("modes", "amount"),
                ("modes", "family"),
            }
            if isinstance(value, np.ndarray) and not csr and value.shape != (len(rows),):
                raise InputError(f"{place}: {table}.{column} has shape {value.shape}, expected ({len(rows)},)")
    if len(problem.jobs) == 0 or len(problem.operations) == 0:
        raise InputError(f"{place}: is empty; a problem needs at least one job with one operation")
    if problem.transport.shape != (len(problem.resources),) * 2:
        raise InputError(
            f"{place}: transport has shape {problem.transport.shape}, expected a row and a column a resource"
        )


def _names(problem: "Problem") -> None:
    for what, names in (
        ("job", problem.jobs.names),
        ("resource", problem.resources.names),
        ("operation", problem.operations.names),
    ):
        seen: dict[str, int] = {}
        for index, name in enumerate(names):
            if name in seen:
                _fail(problem, what, index, "is there twice; ids must differ")
            seen[name] = index


def _jobs(problem: "Problem") -> None:
    jobs, operations = problem.jobs, problem.operations
    wrong = _first((operations.job < 0) | (operations.job >= len(jobs)))
    if wrong is not None:
        _fail(problem, "operation", wrong, f"is of job {operations.job[wrong]}; jobs are 0..{len(jobs) - 1}")
    for what, table in (("job", jobs), ("operation", operations)):
        wrong = _first(table.release < 0)
        if wrong is not None:
            _fail(problem, what, wrong, f"has release {table.release[wrong]}; times start at 0")
        wrong = _first(table.deadline <= table.release)
        if wrong is not None:
            found = f"has deadline {table.deadline[wrong]}, not after its release {table.release[wrong]}"
            _fail(problem, what, wrong, found)
    wrong = _first(jobs.weight < 0)
    if wrong is not None:
        _fail(problem, "job", wrong, f"has weight {jobs.weight[wrong]}; weights are 0 or more")
    wrong = _first(np.bincount(operations.job, minlength=len(jobs)) == 0)
    if wrong is not None:
        _fail(problem, "job", wrong, "has no operation")
    needs = [name for name, _ in problem.objective.terms if name in NEEDS_DUE]
    if needs and np.all(jobs.due == NEVER):
        place = problem.source or problem.name or "problem"
        raise InputError(f"{place}: objective {needs[0]} needs due dates, and no job has one")


def _resources(problem: "Problem") -> None:
    resources = problem.resources
    machine = resources.kind == MACHINE
    wrong = _first(resources.capacity < np.where(resources.kind == NON_RENEWABLE, 0, 1))
    if wrong is not None:
        _fail(problem, "resource", wrong, f"has capacity {resources.capacity[wrong]}; it must be at least 1")
    wrong = _first(machine & (resources.capacity != 1))
    if wrong is not None:
        _fail(problem, "resource", wrong, f"has capacity {resources.capacity[wrong]}; a machine has 1, use a resource")
    wrong = _first(resources.blocking & ~machine)
    if wrong is not None:
        _fail(problem, "resource", wrong, "is blocking; only machines can block")
    owner = np.repeat(np.arange(len(resources)), np.diff(resources.break_offsets))
    wrong = _first((resources.break_end <= resources.break_start) | (resources.break_start < 0))
    if wrong is not None:
        span = f"[{resources.break_start[wrong]}, {resources.break_end[wrong]})"
        _fail(
            problem,
            "resource",
            owner[wrong],
            f"has a break {span}; it must start at 0 or later and end after it starts",
        )
    apart = (resources.break_start[1:] <= resources.break_end[:-1]) & (owner[1:] == owner[:-1])
    wrong = _first(apart)
    if wrong is not None:
        _fail(problem, "resource", owner[wrong], f"has breaks that overlap at {resources.break_start[wrong + 1]}")


def _modes(problem: "Problem") -> None:
    modes = problem.modes
    missing = np.setdiff1d(np.arange(len(problem.operations)), modes.operation)
    if len(missing):
        _fail(problem, "operation", missing[0], "has no mode: no machine or duration is given for it")
    wrong = _first(np.diff(modes.operation) < 0)
    if wrong is not None:
        _fail(problem, "mode", wrong, "modes must be ordered by operation")
    wrong = _first(modes.duration < 0)
    if wrong is not None:
        found = f"has the negative duration {modes.duration[wrong]}"
        _fail_mode(problem, wrong, found)
    wrong = _first(modes.duration > LONGEST)
    if wrong is not None:
        _fail_mode(
            problem, wrong, f"has duration {modes.duration[wrong]}: times overflow, at most {LONGEST} is allowed"
        )


def _fail_mode(problem: "Problem", mode: int, message: str) -> NoReturn:
    """An error of a mode is told as one of its operation, at the mode's own line."""
    operation = int(problem.modes.operation[mode])
    line = problem.lines.get(("mode", mode), problem.lines.get(("operation", operation)))
    place = (problem.source or problem.name or "problem") + (f", line {line}" if line is not None else "")
    raise InputError(f"{place}: operation {problem.operations.names[operation]} {message}")


def _demands(problem: "Problem") -> None:
    modes, resources = problem.modes, problem.resources
    row = np.repeat(np.arange(len(modes)), np.diff(modes.offsets))
    wrong = _first((modes.resource < 0) | (modes.resource >= len(resources)))
    if wrong is not None:
        known = f"resources are 0..{len(resources) - 1}"
        _fail_mode(problem, int(row[wrong]), f"needs resource {modes.resource[wrong]}, which does not exist ({known})")
    wrong = _first(modes.amount < 1)
    if wrong is not None:
        name = resources.names[modes.resource[wrong]]
        _fail_mode(problem, int(row[wrong]), f"demands {modes.amount[wrong]} of {name}; demands are 1 or more")
    above = modes.amount > resources.capacity[modes.resource]
    executable = np.ones(len(modes), bool)
    executable[row[above]] = False
    possible = np.zeros(len(problem.operations), bool)
    possible[modes.operation[executable]] = True
    wrong = _first(above & ~possible[modes.operation[row]])  # another mode may do: multi-mode files have such modes
    if wrong is not None:
        resource = modes.resource[wrong]
        found = f"demands {modes.amount[wrong]} of {resources.names[resource]}, whose capacity is {resources.capacity[resource]}"
        _fail_mode(problem, int(row[wrong]), found)
    pairs = row * max(1, len(resources)) + modes.resource
    order = np.argsort(pairs, kind="stable")
    wrong = _first(np.diff(pairs[order]) == 0)
    if wrong is not None:
        at = order[wrong + 1]
        _fail_mode(problem, int(row[at]), f"demands {resources.names[modes.resource[at]]} twice in one mode")
    wrong = _first(modes.family >= problem.setups.families[modes.resource])
    if wrong is not None:
        name = resources.names[modes.resource[wrong]]
        _fail_mode(problem, int(row[wrong]), f"has setup family {modes.family[wrong]}, unknown to machine {name}")
    if (problem.setups.time < 0).any() or (problem.setups.initial < 0).any():
        raise InputError(f"{problem.source or problem.name or 'problem'}: setup times must be 0 or more")
    if (problem.transport < 0).any():
        raise InputError(f"{problem.source or problem.name or 'problem'}: transport times must be 0 or more")


def _frozen(problem: "Problem") -> None:
    operations, modes = problem.operations, problem.modes
    for index in np.flatnonzero((operations.frozen_mode >= 0) | (operations.frozen_start >= 0)).tolist():
        mode, start, end = (
            int(x[index]) for x in (operations.frozen_mode, operations.frozen_start, operations.frozen_end)
        )
        if mode < 0 or start < 0:
            _fail(problem, "operation", index, "is frozen; it needs both its mode and its start")
        if mode >= len(modes) or modes.operation[mode] != index:
            _fail(problem, "operation", index, f"is frozen in mode {mode}, which is not one of its modes")
        if 0 <= end < start:
            _fail(problem, "operation", index, f"is frozen from {start} to {end}; it cannot end before it starts")


def _links(problem: "Problem") -> None:
    links, count = problem.precedences, len(problem.operations)
    for column in (links.first, links.second):
        wrong = _first((column < 0) | (column >= count))
        if wrong is not None:
            found = f"precedence names operation {column[wrong]}; operations are 0..{count - 1}"
            _fail(problem, "precedence", wrong, found)
    names = problem.operations.names
    wrong = _first(links.first == links.second)
    if wrong is not None:
        _fail(problem, "precedence", wrong, f"cyclic precedence: operation {names[links.first[wrong]]} follows itself")
    wrong = _first(links.most < links.least)
    if wrong is not None:
        pair = f"{names[links.first[wrong]]} -> {names[links.second[wrong]]}"
        _fail(
            problem,
            "precedence",
            wrong,
            f"{pair} has least lag {links.least[wrong]} above its most {links.most[wrong]}",
        )


def _dates(problem: "Problem") -> None:
    """Each operation alone fits between its release and its deadline."""
    operations, jobs = problem.operations, problem.jobs
    release = np.maximum(operations.release, jobs.release[operations.job])
    deadline = np.minimum(operations.deadline, jobs.deadline[operations.job])
    wrong = _first((deadline < release + problem.shortest) & (operations.frozen_mode < 0))
    if wrong is not None:
        found = f"takes at least {problem.shortest[wrong]}, from release {release[wrong]}, and has deadline {deadline[wrong]}"
        _fail(problem, "operation", wrong, found)


def _calendar(problem: "Problem") -> None:
    """Each operation has a mode whose calendars let it finish."""
    if not len(problem.resources.break_start):
        return
    operations, jobs, modes = problem.operations, problem.jobs, problem.modes
    for index in range(len(operations)):
        if operations.frozen_mode[index] >= 0:
            continue
        release = int(max(operations.release[index], jobs.release[operations.job[index]]))
        deadline = int(min(operations.deadline[index], jobs.deadline[operations.job[index]]))
        ends = []
        for mode in range(*problem.mode_offsets[index : index + 2].tolist()):
            found = earliest(int(modes.duration[mode]), release, *breaks_of_mode(problem, mode))
            ends.append(NEVER if found is None else found[1])
        if min(ends) >= NEVER:
            _fail(
                problem, "operation", index, f"takes {problem.shortest[index]}, and the calendar never lets it finish"
            )
        if min(ends) > deadline:
            found_end = f"ends at {min(ends)} at the earliest, because of breaks, after its deadline {deadline}"
            _fail(problem, "operation", index, found_end)


def _cycles(problem: "Problem") -> None:
    """No operation waits for itself: no cycle of finish-start precedences, no positive cycle of all lags."""
    links = problem.precedences
    waits = (links.kind == FINISH_START) & (links.least >= 0)
    cycle = _cycle(len(problem.operations), links.first[waits], links.second[waits])
    if cycle:
        names = [problem.operations.names[index] for index in cycle]
        shown = names if len(names) <= 6 else [*names[:3], "...", *names[-2:]]
        row = int(np.flatnonzero(waits & (links.first == cycle[-2]) & (links.second == cycle[-1]))[0])
        _fail(problem, "precedence", row, f"cyclic precedence: {' -> '.join(shown)}")
    if len(links) and not (np.all(waits) and np.all(links.most == NEVER)):
        _positive_cycle(problem)


def _cycle(count: int, first: Ints, second: Ints) -> list[int]:
    """Some cycle as operations, the first repeated at the end; empty where there is none."""
    followers: list[list[int]] = [[] for _ in range(count)]
    waiting = np.bincount(second, minlength=count)
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        followers[a].append(b)
    ready = np.flatnonzero(waiting == 0).tolist()
    while ready:
        for follower in followers[ready.pop()]:
            waiting[follower] -= 1
            if waiting[follower] == 0:
                ready.append(follower)
    left = set(np.flatnonzero(waiting > 0).tolist())
    if not left:
        return []
    before = {b: a for a, b in zip(first.tolist(), second.tolist(), strict=True) if a in left and b in left}
    path, place = [min(left)], {}
    while path[-1] not in place:  # every operation that is left waits for another that is left
        place[path[-1]] = len(path) - 1
        path.append(before[path[-1]])
    return path[place[path[-1]] :][::-1]


def _positive_cycle(problem: "Problem") -> None:
    """Bellman and Ford on the least distances between starts; breaks may stretch work, so such upper limits are left out."""
    links = problem.precedences
    least, most = problem.shortest, problem.longest.copy()
    calendared = np.zeros(len(problem.operations), bool)
    paused = problem.resources.interruptible & (np.diff(problem.resources.break_offsets) > 0)
    row = np.repeat(problem.modes.operation, np.diff(problem.modes.offsets))
    calendared[row[paused[problem.modes.resource]]] = True
    calendared |= problem.operations.frozen_end >= 0
    most[calendared] = LONGEST
    after_first = np.isin(links.kind, (FINISH_START, FINISH_FINISH))
    to_start = np.isin(links.kind, (FINISH_START, START_START))
    ahead = links.least + np.where(after_first, least[links.first], 0) - np.where(to_start, 0, most[links.second])
    limited = links.most < NEVER
    back = -(links.most + np.where(after_first, most[links.first], 0) - np.where(to_start, 0, least[links.second]))
    tail = np.concatenate([links.first, links.second[limited]])
    head = np.concatenate([links.second, links.first[limited]])
    weight = np.concatenate([ahead, back[limited]])
    distance = np.zeros(len(problem.operations), np.int64)
    for _ in range(len(problem.operations) + 1):
        before = distance.copy()
        np.maximum.at(distance, head, before[tail] + weight)
        if np.array_equal(before, distance):
            return
    moved = int(np.flatnonzero(before != distance)[0])
    _fail(problem, "operation", moved, "is in a cycle of precedences whose least and most lags contradict each other")


def horizon(problem: "Problem") -> int:
    """A moment by which some best schedule has ended: the last date, then every operation, setup, lag and transport in a row."""
    resources, operations = problem.resources, problem.operations
    finite = resources.break_end[resources.break_end < NEVER]
    frozen = np.where(operations.frozen_end >= 0, operations.frozen_end, operations.frozen_start + problem.longest)
    last = max(
        int(problem.jobs.release.max(initial=0)),
        int(operations.release.max(initial=0)),
        int(finite.max(initial=0)),
        int(np.where(operations.frozen_mode >= 0, frozen, 0).max(initial=0)),
    )
    setups, links = problem.setups, problem.precedences
    largest = np.zeros(len(resources), np.int64)
    for resource in np.flatnonzero(setups.families):
        first = int(setups.initial_offsets[resource])
        initial = setups.initial[first : first + setups.families[resource]]
        largest[resource] = max(setups.matrix(int(resource)).max(initial=0), initial.max(initial=0))
    row = np.repeat(problem.modes.operation, np.diff(problem.modes.offsets))
    setup = np.zeros(len(operations), np.int64)
    np.maximum.at(setup, row, largest[problem.modes.resource])
    # A greatest lag below 0 keeps the first operation waiting for the second, as a least lag does the second for the first.
    lags = sum(np.maximum(links.least, 0).tolist()) + sum(np.maximum(-links.most, 0).tolist())
    moving = int(problem.transport.max(initial=0)) * len(operations)
    return last + int(sum(problem.longest.tolist()) + sum(setup.tolist()) + lags + moving)


def _size(problem: "Problem") -> None:
    """Times and weighted times stay far from the limits of 64-bit integers."""
    place = problem.source or problem.name or "problem"
    if problem.horizon > LONGEST:
        raise InputError(
            f"{place}: times overflow: a plan may need {problem.horizon} units, at most {LONGEST} are allowed"
        )
    weight = max(sum(problem.jobs.weight.tolist()), len(problem.jobs)) * sum(w for _, w in problem.objective.terms)
    due = problem.jobs.due[problem.jobs.due < NEVER]
    reach = max(problem.horizon, int(np.abs(due).max(initial=0)))
    if reach * weight >= NEVER:
        raise InputError(f"{place}: weights overflow: horizon {reach} times weights {weight} exceeds 64-bit integers")
