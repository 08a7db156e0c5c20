"""Solutions as JSON, both ways: operations by name, so that a file stays readable and survives renumbering.

::

    {"format": "rota-solution", "problem": "ft06", "objective": "makespan", "status": "optimal", "value": 55, "bound": 55, ...,
     "operations": [{"operation": "job0.0", "job": "job0", "mode": 0, "resources": ["machine2"], "start": 0, "end": 1}, ...]}
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rota.kernel.errors import InputError
from rota.worlds.shop.model import Problem
from rota.worlds.shop.read.document import Row, parse
from rota.worlds.shop.read.source import Source
from rota.worlds.shop.schedule import Incumbent, Schedule, Solution

FORMAT = "rota-solution"
_PLAIN = ("status", "value", "bound", "found_by", "bounded_by", "proved_by", "seconds", "work", "seed")


def as_document(problem: Problem, solution: Solution, *, verified: bool | None = None) -> dict[str, Any]:
    """A solution as dictionaries and lists; `verified` is what `verify_solution` said, where it was asked."""
    found: dict[str, Any] = {"format": FORMAT, "problem": problem.name, "objective": str(problem.objective)}
    found |= {key: getattr(solution, key) for key in _PLAIN} | {"gap": solution.gap, "notes": list(solution.notes)}
    if verified is not None:
        found["verified"] = verified
    found["trace"] = [
        {"seconds": each.seconds, "value": each.value, "solver": each.solver, "work": each.work}
        for each in solution.trace
    ]
    if solution.schedule is not None:
        found["operations"] = _operations(problem, solution.schedule)
    return found


def _operations(problem: Problem, schedule: Schedule) -> list[dict[str, Any]]:
    modes, names = problem.modes, problem.resources.names
    rows = []
    for index, name in enumerate(problem.operations.names):
        mode = int(schedule.mode[index])
        used = modes.resource[modes.offsets[mode] : modes.offsets[mode + 1]]
        rows.append(
            {
                "operation": name,
                "job": problem.jobs.names[problem.operations.job[index]],
                "mode": mode - int(problem.mode_offsets[index]),
                "resources": [names[resource] for resource in used],
                "start": int(schedule.start[index]),
                "end": int(schedule.end[index]),
            }
        )
    return rows


def write_solution(problem: Problem, solution: Solution, path: str | Path, *, verified: bool | None = None) -> None:
    """Write a solution as JSON. Raises InputError."""
    try:
        text = json.dumps(as_document(problem, solution, verified=verified), indent=1, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def read_solution(problem: Problem, path: str | Path) -> Solution:
    """Read a solution of a problem. Raises InputError; whether the schedule is feasible is for `verify_solution` to say."""
    source = Source.open(Path(path))
    top = parse(source)
    if top.get("format") != FORMAT:
        source.fail(top.line, f"format is '{top.get('format')}', expected '{FORMAT}'")
    schedule = _schedule(source, problem, top["operations"]) if "operations" in top else None
    given: dict[str, Any] = {key: top[key] for key in _PLAIN if top.get(key) is not None}
    try:
        trace = tuple(Incumbent(**each) for each in top.get("trace", ()))
        given.setdefault("status", "unknown" if schedule is None else "feasible")
        if schedule is not None:
            given.setdefault("value", schedule.value(problem))
        return Solution(schedule=schedule, trace=trace, notes=tuple(top.get("notes", ())), **given)
    except InputError as error:
        source.fail(top.line, str(error))
    except TypeError as error:
        source.fail(top.line, f"is not a solution ({error})")


def _schedule(source: Source, problem: Problem, rows: Any) -> Schedule:
    place: Mapping[str, int] = {name: index for index, name in enumerate(problem.operations.names)}
    count = len(place)
    start, end, mode = [-1] * count, [-1] * count, [-1] * count
    for row in rows if isinstance(rows, list) else [rows]:
        if not isinstance(row, Row):
            source.fail(None, f"operations must be a list of objects, found {row!r}")
        name = row.get("operation")
        if not isinstance(name, str) or name not in place:
            source.fail(row.line, f"operation {name!r} is not in problem {problem.name or problem.source}")
        index = place[name]
        if mode[index] >= 0:
            source.fail(row.line, f"operation {name} is there twice")
        values: list[Any] = [row.get(key, 0 if key == "mode" else None) for key in ("start", "end", "mode")]
        if any(isinstance(value, bool) or not isinstance(value, int) for value in values):
            source.fail(row.line, f"operation {name}: start, end and mode must be integers")
        modes = int(problem.mode_offsets[index + 1] - problem.mode_offsets[index])
        if not 0 <= values[2] < modes:
            source.fail(row.line, f"operation {name}: mode {values[2]} does not exist (modes are 0..{modes - 1})")
        start[index], end[index] = values[0], values[1]
        mode[index] = int(problem.mode_offsets[index]) + values[2]
    missing = [name for name, index in place.items() if mode[index] < 0]
    if missing:
        source.fail(None, f"operation {missing[0]} is missing ({len(missing)} of {count} are)")
    return Schedule(start, end, mode)  # type: ignore[arg-type]
