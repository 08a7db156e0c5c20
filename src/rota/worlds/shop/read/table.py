"""CSV in two forms, told apart by their header.

Wide, a row a job, with a column of durations for each machine; the order of the columns is the route, an empty cell skips the machine::

    job,release,due,weight,saw,drill,paint
    table,0,60,2,5,4,8

Long, a row an operation (or an alternative of one: rows with the same job and operation). A job's operations follow each other in the order of
the rows. Columns of the job are given in its first row, or the same in each; `processing_time` is another word for `duration`::

    job,operation,machine,duration,due
    table,1,saw,5,60
    table,2,drill,4,
    table,2,hand drill,9,
"""

import csv
from collections.abc import Sequence
from typing import Any

from rota.kernel.errors import nearest
from rota.worlds.shop.build import ProblemBuilder
from rota.worlds.shop.model import Problem
from rota.worlds.shop.read.source import Source

OF_JOB = ("release", "due", "deadline", "weight")
LONG = ("job", "operation", "machine", "duration", *OF_JOB)
Cells = list[str]


def table(source: Source, index: int = 0) -> Problem:
    """A job shop, flow shop or flexible job shop from CSV, comma or semicolon."""
    if index:
        source.fail(None, f"has 1 instance, there is no #{index + 1}")
    lines = source.text.splitlines()
    separator = ";" if lines[0].count(";") > lines[0].count(",") else ","
    reader = csv.reader(lines, delimiter=separator)
    head: Cells = []
    rows: list[tuple[int, Cells]] = []
    for cells in reader:
        stripped = [cell.strip() for cell in cells]
        if not any(stripped):
            continue
        if not head:
            head = ["duration" if cell == "processing_time" else cell for cell in stripped]
        else:
            rows.append((reader.line_num, stripped))
    if "job" not in head:
        source.fail(1, f"has no column 'job'; its columns are {', '.join(head)}")
    for name in head:
        if not name or head.count(name) > 1:
            source.fail(1, f"column '{name}' is there twice" if name else "a column has no name")
    if not rows:
        source.fail(1, "has a header and no rows")
    for line, cells in rows:
        if len(cells) != len(head):
            source.fail(line, f"has {len(cells)} cells, the header has {len(head)}")
    return _long(source, head, rows) if {"machine", "duration"} <= set(head) else _wide(source, head, rows)


def _wide(source: Source, head: Cells, rows: Sequence[tuple[int, Cells]]) -> Problem:
    for name in ("operation", "machine", "duration"):
        if name in head:
            source.fail(1, f"has a column '{name}'; the long form needs both machine and duration")
    builder = ProblemBuilder(name=source.stem, source=source.name)
    machines = [name for name in head if name != "job" and name not in OF_JOB]
    if not machines:
        source.fail(
            1, "has no column of a machine; the columns beside job, release, due, deadline and weight are machines"
        )
    builder.line = 1
    numbers = {name: builder.add_machine(name) for name in machines}
    for line, cells in rows:
        row = dict(zip(head, cells, strict=True))
        builder.line = line
        job = builder.add_job(row["job"], **_dates(source, row, line))
        chain = []
        for name in machines:
            if row[name]:
                chain.append(builder.add_operation(job))
                builder.add_mode(chain[-1], source.integer(row[name], line, f"duration on {name}"), numbers[name])
        builder.add_chain(chain)
    return builder.build()


def _long(source: Source, head: Cells, rows: Sequence[tuple[int, Cells]]) -> Problem:
    for name in head:
        if name not in LONG:
            source.fail(1, f"column '{name}' is not known{nearest(name, LONG)}")
    builder = ProblemBuilder(name=source.stem, source=source.name)
    machines: dict[str, int] = {}
    jobs: dict[str, int] = {}
    given: dict[str, dict[str, int]] = {}
    operations: dict[tuple[str, str], int] = {}
    chains: dict[str, list[int]] = {}
    for line, cells in rows:
        row = dict(zip(head, cells, strict=True))
        builder.line = line
        name = row["job"]
        if not name:
            source.fail(line, "the job has no name")
        dates = _dates(source, row, line)
        if name not in jobs:
            jobs[name], given[name], chains[name] = builder.add_job(name, **dates), dates, []
        for key, value in dates.items():
            if given[name].get(key) != value:
                source.fail(
                    line, f"{key} of job {name} is {value}, and {given[name].get(key, 'missing')} in its first row"
                )
        label = row.get("operation") or f"row {line}"
        if (name, label) not in operations:
            operations[name, label] = builder.add_operation(
                jobs[name], f"{name}.{label}" if row.get("operation") else ""
            )
            chains[name].append(operations[name, label])
        if not row["machine"]:
            source.fail(line, f"operation {label} of job {name} names no machine")
        if row["machine"] not in machines:
            machines[row["machine"]] = builder.add_machine(row["machine"])
        duration = source.integer(row["duration"], line, "duration")
        builder.add_mode(operations[name, label], duration, machines[row["machine"]])
    builder.line = None
    for chain in chains.values():
        builder.add_chain(chain)
    return builder.build()


def _dates(source: Source, row: dict[str, str], line: int) -> dict[str, Any]:
    return {key: source.integer(row[key], line, key) for key in OF_JOB if row.get(key)}
