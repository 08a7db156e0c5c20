"""Problems to files, in the formats that `read` reads, and solutions to and from JSON.

A format that cannot say everything that a problem has refuses, and names what it would lose.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rota.kernel.errors import InputError, nearest
from rota.worlds.shop.document import as_document
from rota.worlds.shop.model import NEVER, NON_RENEWABLE, Problem


def write(problem: Problem, path: str | Path, *, format: str | None = None) -> None:
    """Write a problem; the format is taken from the file's ending where it is not given. Raises InputError."""
    target = Path(path)
    name = format or next((name for name, endings in ENDINGS.items() if target.suffix.lower() in endings), None)
    if name is None:
        raise InputError(
            f"{path}: the ending '{target.suffix}' names no format; end it in .json or give one of {', '.join(WRITERS)}"
        )
    text = as_text(problem, name)
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def as_text(problem: Problem, format: str) -> str:
    """The text of a problem in a format of WRITERS. Raises InputError where the format cannot say it."""
    if format not in WRITERS:
        raise InputError(f"format '{format}' does not exist{nearest(format, WRITERS)}")
    return WRITERS[format](problem)


def _refuse(problem: Problem, format: str, allow: frozenset[str] = frozenset(), kinds: tuple[str, ...] = ()) -> None:
    """An error where the format would lose something."""
    name = problem.name or "the problem"
    if kinds and problem.kind not in kinds:
        raise InputError(f"{name}: is a {problem.kind}, format {format} is for {' or '.join(kinds)}; use json")
    lost = problem.features - allow
    if str(problem.objective) != "makespan" and "objective" not in allow:
        lost |= {f"objective {problem.objective}"}
    if lost:
        raise InputError(f"{name}: format {format} cannot say: {', '.join(sorted(lost))}; use json")


def _standard(problem: Problem) -> str:
    _refuse(problem, "standard", kinds=("job_shop", "flow_shop"))
    view = problem.as_job_shop()
    if view is None or view.machine.shape[1] != view.machines:
        raise InputError(
            f"{problem.name}: format standard needs as many operations in each job as there are machines; use fjs"
        )
    rows = [
        " ".join(f"{m} {d}" for m, d in zip(*pair, strict=True))
        for pair in zip(view.machine, view.duration, strict=True)
    ]
    return _lines([f"{len(rows)} {view.machines}", *rows])


def _taillard(problem: Problem) -> str:
    _refuse(problem, "taillard", kinds=("job_shop", "flow_shop"))
    view = problem.as_job_shop()
    if view is None or view.machine.shape[1] != view.machines:
        raise InputError(
            f"{problem.name}: format taillard needs as many operations in each job as there are machines; use fjs"
        )
    times = [" ".join(map(str, row)) for row in view.duration]
    machines = [" ".join(map(str, row + 1)) for row in view.machine]
    head = "Nb of jobs, Nb of Machines, Time seed, Machine seed, Upper bound, Lower bound :"
    return _lines([head, f"{len(times)} {view.machines}", "Times", *times, "Machines", *machines])


def _flexible(problem: Problem) -> str:
    kinds = ("flexible_job_shop", "job_shop", "flow_shop", "parallel_machines", "single_machine")
    _refuse(problem, "fjs", kinds=kinds)
    view = problem.as_flexible_job_shop()
    if view is None:
        raise InputError(f"{problem.name}: is no flexible job shop; use json")
    average = len(view.machine) / len(view.operation)
    rows = [f"{len(problem.jobs)} {view.machines} {average:g}"]
    for job in range(len(problem.jobs)):
        first, last = int(view.job_offsets[job]), int(view.job_offsets[job + 1])
        words = [str(last - first)]
        for index in range(first, last):
            some = slice(int(view.alternative_offsets[index]), int(view.alternative_offsets[index + 1]))
            words.append(str(some.stop - some.start))
            words += [
                f"{m + 1} {d}" for m, d in zip(view.machine[some].tolist(), view.duration[some].tolist(), strict=True)
            ]
        rows.append(" ".join(words))
    return _lines(rows)


def _project_rows(problem: Problem, format: str, kinds: tuple[str, ...]) -> tuple[list[list[int]], list[list[int]]]:
    """(demands of each mode, successors of each operation from 1), after checking that the format can say the problem."""
    _refuse(problem, format, kinds=kinds)
    if len(problem.jobs) != 1:
        raise InputError(f"{problem.name}: format {format} is for one project, found {len(problem.jobs)}; use json")
    view = problem.as_project()
    if view is None:
        raise InputError(f"{problem.name}: is no project; use json")
    offsets = view.successor_offsets
    followers = [(view.successors[a:b] + 1).tolist() for a, b in pairwise(offsets.tolist())]
    return view.demand.tolist(), followers


def _patterson(problem: Problem) -> str:
    demands, followers = _project_rows(problem, "patterson", ("rcpsp",))
    rows = [f"{len(followers)} {len(problem.resources)}", " ".join(map(str, problem.resources.capacity))]
    for duration, demand, after in zip(problem.modes.duration.tolist(), demands, followers, strict=True):
        rows.append(" ".join(map(str, [duration, *demand, len(after), *after])))
    return _lines(rows)


def _psplib(problem: Problem) -> str:
    demands, followers = _project_rows(problem, "psplib", ("rcpsp", "multi_mode_rcpsp"))
    kinds = problem.resources.kind
    if np.any(np.diff((kinds == NON_RENEWABLE).astype(np.int64)) < 0):
        raise InputError(f"{problem.name}: format psplib needs renewable resources before non-renewable ones; use json")
    renewable, others = int((kinds != NON_RENEWABLE).sum()), int((kinds == NON_RENEWABLE).sum())
    titles = [*(f"R {r + 1}" for r in range(renewable)), *(f"N {r + 1}" for r in range(others))]
    rule = "*" * 72
    rows = [rule, f"file with basedata            : {problem.name or '-'}", rule, "projects                      :  1"]
    rows += [
        f"jobs (incl. supersource/sink ):  {len(followers)}",
        f"horizon                       :  {problem.horizon}",
    ]
    rows += [
        "RESOURCES",
        f"  - renewable                 :  {renewable}   R",
        f"  - nonrenewable              :  {others}   N",
    ]
    rows += [
        "  - doubly constrained        :  0   D",
        rule,
        "PRECEDENCE RELATIONS:",
        "jobnr.    #modes  #successors   successors",
    ]
    counts = np.diff(problem.mode_offsets).tolist()
    for number, (count, after) in enumerate(zip(counts, followers, strict=True), 1):
        rows.append(" ".join(map(str, [number, count, len(after), *after])))
    rows += [rule, "REQUESTS/DURATIONS:", f"jobnr. mode duration  {'  '.join(titles)}", "-" * 72]
    for operation, first in enumerate(problem.mode_offsets[:-1].tolist()):
        for place in range(counts[operation]):
            mode = first + place
            head = [operation + 1] if place == 0 else []
            rows.append(" ".join(map(str, [*head, place + 1, int(problem.modes.duration[mode]), *demands[mode]])))
    rows += [rule, "RESOURCEAVAILABILITIES:", "  ".join(titles), " ".join(map(str, problem.resources.capacity)), rule]
    return _lines(rows)


def _tardiness(problem: Problem) -> str:
    allow = frozenset({"due", "weights", "objective"})
    _refuse(problem, "tardiness", allow, kinds=("single_machine",))
    view = problem.as_single_machine()
    if view is None or (view.due == NEVER).any() or str(problem.objective) != "weighted_tardiness":
        raise InputError(
            f"{problem.name}: format tardiness is for weighted tardiness with a due date for every job; use json"
        )
    columns = (view.duration, view.weight, view.due)
    return _lines([" ".join(map(str, column)) for column in columns])


def _table(problem: Problem) -> str:
    """The long form: one row an alternative."""
    kinds = ("single_machine", "parallel_machines", "flow_shop", "job_shop", "flexible_job_shop")
    dated = frozenset({"release", "due", "deadline", "weights"})
    _refuse(problem, "csv", dated | {"objective"}, kinds=kinds)  # the objective is given on the command line
    view = problem.as_flexible_job_shop(allow=dated)
    if view is None:
        raise InputError(f"{problem.name}: format csv cannot say it; use json")
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    columns = ["job", "operation", "machine", "duration"]
    jobs = problem.jobs
    dates: dict[str, list[Any]] = {}
    for key, values, neutral in (
        ("release", jobs.release, 0),
        ("due", jobs.due, NEVER),
        ("deadline", jobs.deadline, NEVER),
        ("weight", jobs.weight, 1),
    ):
        if np.any(values != neutral):
            dates[key] = ["" if value == NEVER else value for value in values.tolist()]
    rows.writerow([*columns, *dates])
    for job, name in enumerate(jobs.names):
        first, last = int(view.job_offsets[job]), int(view.job_offsets[job + 1])
        for index in range(first, last):
            for row in range(int(view.alternative_offsets[index]), int(view.alternative_offsets[index + 1])):
                machine = problem.resources.names[view.machine[row]]
                rows.writerow(
                    [name, index - first, machine, int(view.duration[row]), *(values[job] for values in dates.values())]
                )
    return out.getvalue()


def _json(problem: Problem) -> str:
    return json.dumps(as_document(problem), indent=1, ensure_ascii=False) + "\n"


def _lines(rows: list[str]) -> str:
    return "\n".join(rows) + "\n"


WRITERS: Mapping[str, Callable[[Problem], str]] = {
    "standard": _standard,
    "taillard": _taillard,
    "fjs": _flexible,
    "psplib": _psplib,
    "patterson": _patterson,
    "tardiness": _tardiness,
    "json": _json,
    "csv": _table,
}
ENDINGS: Mapping[str, tuple[str, ...]] = {
    "standard": (".jsp", ".txt"),
    "fjs": (".fjs",),
    "psplib": (".sm", ".mm"),
    "patterson": (".rcp",),
    "json": (".json",),
    "csv": (".csv",),
}
