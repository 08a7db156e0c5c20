"""A problem as the plain objects of our JSON format; the format is described in `read/document.py`."""

from itertools import pairwise
from typing import Any

from rota.worlds.shop.model import (
    FINISH_START,
    MACHINE,
    NEVER,
    PRECEDENCE_KINDS,
    RESOURCE_KINDS,
    Problem,
)


def as_document(problem: Problem) -> dict[str, Any]:
    """Dictionaries and lists from which the reader makes the same problem; what has its usual value is left out.

    Operations are numbered job by job when read again; the names stay.
    """
    chains = [_chain(problem, job) for job in range(len(problem.jobs))]
    told = {row for _, rows in chains for row in rows}
    timeless = (problem.modes.duration == 0) & (problem.modes.offsets[1:] > problem.modes.offsets[:-1])
    found: dict[str, Any] = {"format": "rota-shop", "name": problem.name, "objective": str(problem.objective)}
    found |= _unless(permutation=(problem.permutation, False), zero_durations=(bool(timeless.any()), False))
    found["resources"] = [_resource(problem, resource) for resource in range(len(problem.resources))]
    names, transport = problem.resources.names, problem.transport
    moves = [
        [names[a], names[b], int(transport[a, b])]
        for a in range(len(names))
        for b in range(len(names))
        if transport[a, b]
    ]
    if moves:
        found["transport"] = moves
    found["jobs"] = [_job(problem, job, chain) for job, (chain, _) in enumerate(chains)]
    links = problem.precedences
    rest = [_link(problem, row) for row in range(len(links)) if row not in told]
    if rest:
        found["precedences"] = rest
    return found


def _unless(**values: tuple[Any, Any]) -> dict[str, Any]:
    """The values that differ from their usual ones."""
    return {key: value for key, (value, usual) in values.items() if value != usual}


def _ranked(problem: Problem, job: int) -> list[int]:
    """A job's operations along its precedences."""
    offsets, order = problem.job_operations
    return [int(index) for index in order[offsets[job] : offsets[job + 1]]]


def _chain(problem: Problem, job: int) -> tuple[bool | str, set[int]]:
    """What "chain" says of a job, and the precedences that it says."""
    members = _ranked(problem, job)
    wanted = set(pairwise(members))
    links = problem.precedences
    for chain, most in ((True, NEVER), ("no_wait", 0)):
        rows: dict[tuple[int, int], int] = {}
        for row in range(len(links)):
            plain = links.kind[row] == FINISH_START and links.least[row] == 0 and links.most[row] == most
            pair = int(links.first[row]), int(links.second[row])
            if plain and pair in wanted:
                rows.setdefault(pair, row)
        if rows.keys() == wanted and not (chain == "no_wait" and not wanted):
            return chain, set(rows.values())
    return False, set()


def _resource(problem: Problem, resource: int) -> dict[str, Any]:
    table = problem.resources
    kind = RESOURCE_KINDS[table.kind[resource]]
    row: dict[str, Any] = {"name": table.names[resource]}
    if kind != "machine":
        row |= {"kind": kind, "capacity": int(table.capacity[resource])}
    row |= _unless(
        blocking=(bool(table.blocking[resource]), False), interruptible=(bool(table.interruptible[resource]), False)
    )
    rows = slice(int(table.break_offsets[resource]), int(table.break_offsets[resource + 1]))
    spans = zip(table.break_start[rows].tolist(), table.break_end[rows].tolist(), strict=True)
    breaks = [[start, None if end >= NEVER else end] for start, end in spans]
    if breaks:
        row["breaks"] = breaks
    setups = problem.setups
    size = int(setups.families[resource])
    if table.kind[resource] == MACHINE and size:
        first = int(setups.initial_offsets[resource])
        row["setups"] = {
            "families": [str(family) for family in range(size)],
            "times": setups.matrix(resource).tolist(),
            "initial": setups.initial[first : first + size].tolist(),
        }
    return row


def _job(problem: Problem, job: int, chain: bool | str) -> dict[str, Any]:
    jobs = problem.jobs
    row: dict[str, Any] = {"name": jobs.names[job]}
    alone = bool(jobs.one_at_a_time[job])
    row |= _unless(
        release=(int(jobs.release[job]), 0),
        due=(int(jobs.due[job]), NEVER),
        deadline=(int(jobs.deadline[job]), NEVER),
        weight=(int(jobs.weight[job]), 1),
        one_at_a_time=(alone, False),
        chain=(chain, not alone),
    )
    order = _ranked(problem, job)
    row["operations"] = [_operation(problem, index) for index in (order if chain else sorted(order))]
    return row


def _operation(problem: Problem, index: int) -> dict[str, Any]:
    operations = problem.operations
    row: dict[str, Any] = {"name": operations.names[index]}
    row |= _unless(release=(int(operations.release[index]), 0), deadline=(int(operations.deadline[index]), NEVER))
    first, last = int(problem.mode_offsets[index]), int(problem.mode_offsets[index + 1])
    modes = [_mode(problem, mode) for mode in range(first, last)]
    row |= modes[0] if len(modes) == 1 else {"modes": modes}
    if operations.frozen_mode[index] >= 0:
        row["frozen"] = {
            "mode": int(operations.frozen_mode[index]) - first,
            "start": int(operations.frozen_start[index]),
        }
        if operations.frozen_end[index] >= 0:
            row["frozen"]["end"] = int(operations.frozen_end[index])
    return row


def _mode(problem: Problem, mode: int) -> dict[str, Any]:
    modes, resources = problem.modes, problem.resources
    rows = range(int(modes.offsets[mode]), int(modes.offsets[mode + 1]))
    on_machine = [r for r in rows if resources.kind[modes.resource[r]] == MACHINE]
    names = [resources.names[modes.resource[r]] for r in on_machine]
    row: dict[str, Any] = {"machine": names[0]} if len(names) == 1 else _unless(machines=(names, []))
    row["duration"] = int(modes.duration[mode])
    demands = {resources.names[modes.resource[r]]: int(modes.amount[r]) for r in rows if r not in on_machine}
    if demands:
        row["demands"] = demands
    families = {int(modes.family[r]) for r in on_machine if modes.family[r] >= 0}
    if families:
        row["family"] = str(min(families))
    return row


def _link(problem: Problem, row: int) -> dict[str, Any]:
    links, names = problem.precedences, problem.operations.names
    found: dict[str, Any] = {"first": names[links.first[row]], "second": names[links.second[row]]}
    return found | _unless(
        kind=(PRECEDENCE_KINDS[links.kind[row]], "finish_start"),
        least=(int(links.least[row]), 0),
        most=(int(links.most[row]), NEVER),
    )
