"""Job shop, flow shop and open shop as plain text: the standard (JSPLIB) format, Taillard's, and FJSPLIB.

- standard: ``jobs machines``, then a line a job of pairs ``machine duration``, machines from 0. Lines with # are comments.
- Taillard: ``jobs machines ...``, then the matrix of durations and the matrix of machines from 1, with or without their headings. A flow shop's
  file has a matrix with a row a machine only. A file may hold several instances.
- FJSPLIB: ``jobs machines [average]``, then a line a job: number of operations, and for each the number of alternatives and pairs
  ``machine duration``, machines from 1.
"""

from rota.worlds.shop.build import ProblemBuilder
from rota.worlds.shop.model import Problem
from rota.worlds.shop.read.source import Source

Row = tuple[int, list[str]]


def standard(source: Source, index: int) -> Problem:
    """A job shop in the standard format."""
    _only_one(source, index)
    jobs, machines = _sizes(source, source.rows[0])
    rows = source.rows[1:]
    _count_jobs(source, len(rows), jobs)
    builder = _with_machines(source, machines)
    shift = _numbering(source, [row[1][::2] for row in rows], machines)
    for job, row in enumerate(rows):
        builder.line = row[0]
        values = source.integers(row, "machine or duration")
        if len(values) != 2 * machines:
            source.fail(
                row[0],
                f"job {job} has {len(values)} numbers, expected {2 * machines} ({machines} pairs of machine and duration)",
            )
        builder.add_job()
        chain = []
        for machine, duration in zip(values[::2], values[1::2], strict=True):
            if not 0 <= machine < machines:
                source.fail(row[0], f"machine {machine} does not exist (machines are 0..{machines - 1}){shift}")
            chain.append(builder.add_operation(job))
            builder.add_mode(chain[-1], duration, machine)
        builder.add_chain(chain)
    return builder.build()


def _numbering(source: Source, machines: list[list[str]], count: int) -> str:
    """A hint for files that number their machines from 1."""
    numbers = {word for row in machines for word in row}
    return "; this file seems to count them from 1: subtract 1" if str(count) in numbers and "0" not in numbers else ""


def taillard(source: Source, index: int) -> Problem:
    """Instance `index` (from 0) of a file in Taillard's format: a job shop, or a flow shop where there are no machines."""
    blocks = taillard_blocks(source)
    if not 0 <= index < len(blocks):
        source.fail(None, f"has {len(blocks)} instances, there is no #{index + 1}")
    head, rows = blocks[index]
    jobs, machines = _sizes(source, head)
    name = source.stem if len(blocks) == 1 else f"{source.stem}#{index + 1}"
    builder = _with_machines(source, machines, name)
    if is_flow_shop(rows, jobs, machines):
        builder.permutation = True
        times = [_matrix_row(source, row, jobs, f"machine {r}") for r, row in enumerate(rows)]
        routes = [list(range(machines))] * jobs
        columns = [[times[machine][job] for machine in range(machines)] for job in range(jobs)]
        lines = [[rows[machine][0] for machine in range(machines)]] * jobs
    else:
        if len(rows) != 2 * jobs:
            source.fail(
                rows[-1][0] if rows else head[0],
                f"has {len(rows)} rows of numbers, expected {2 * jobs}: durations and machines of {jobs} jobs",
            )
        columns = [_matrix_row(source, row, machines, f"job {job}") for job, row in enumerate(rows[:jobs])]
        routes = [[m - 1 for m in _matrix_row(source, row, machines, f"job {j}")] for j, row in enumerate(rows[jobs:])]
        lines = [[row[0]] * machines for row in rows[:jobs]]
    for job in range(jobs):
        builder.add_job()
        chain = []
        for machine, duration, line in zip(routes[job], columns[job], lines[job], strict=True):
            if not 0 <= machine < machines:
                source.fail(rows[jobs + job][0], f"machine {machine + 1} does not exist (machines are 1..{machines})")
            builder.line = line
            chain.append(builder.add_operation(job))
            builder.add_mode(chain[-1], duration, machine)
        builder.add_chain(chain)
    return builder.build()


def taillard_blocks(source: Source) -> list[tuple[Row, list[Row]]]:
    """(row of sizes, rows of numbers) of every instance; text begins an instance, except the headings of matrices."""
    blocks: list[tuple[Row, list[Row]]] = []
    fresh = True
    for row in source.rows:
        text = " ".join(row[1]).lower()
        if any(character.isalpha() for character in text):
            fresh = fresh or "nb of jobs" in text or "number of jobs" in text
        elif fresh:
            blocks.append((row, []))
            fresh = False
        else:
            blocks[-1][1].append(row)
    return blocks


def is_flow_shop(rows: list[Row], jobs: int, machines: int) -> bool:
    """A row a machine with a number a job; a job shop has two rows a job with a number a machine."""
    both = len(rows) == machines == 2 * jobs
    return len(rows) == machines and (not both or all(len(words) == jobs for _, words in rows))


def _matrix_row(source: Source, row: Row, width: int, what: str) -> list[int]:
    values = source.integers(row, "duration or machine")
    if len(values) != width:
        source.fail(row[0], f"{what} has {len(values)} numbers, expected {width}")
    return values


def flexible(source: Source, index: int) -> Problem:
    """A flexible job shop in the FJSPLIB format."""
    _only_one(source, index)
    jobs, machines = _sizes(source, source.rows[0])
    rows = source.rows[1:]
    _count_jobs(source, len(rows), jobs)
    builder = _with_machines(source, machines)
    for job, row in enumerate(rows):
        builder.line = row[0]
        builder.add_job()
        chain = []
        for alternatives in _alternatives(source, row, job):
            chain.append(builder.add_operation(job))
            for machine, duration in alternatives:
                if not 1 <= machine <= machines:
                    source.fail(row[0], f"machine {machine} does not exist (machines are 1..{machines})")
                builder.add_mode(chain[-1], duration, machine - 1)
        builder.add_chain(chain)
    return builder.build()


def _alternatives(source: Source, row: Row, job: int) -> list[list[tuple[int, int]]]:
    """Per operation of a job its (machine, duration) pairs; the counts must use the line up exactly."""
    values, at, found = source.integers(row, "number"), 1, []
    for operation in range(values[0]):
        size = values[at] if at < len(values) else 0
        pairs = values[at + 1 : at + 1 + 2 * size]
        if size < 1 or len(pairs) != 2 * size:
            source.fail(
                row[0], f"job {job}, operation {operation}: has {len(pairs) // 2} alternatives, its count says {size}"
            )
        found.append(list(zip(pairs[::2], pairs[1::2], strict=True)))
        at += 1 + 2 * size
    if at != len(values):
        source.fail(row[0], f"job {job} has {len(values)} numbers, but its {values[0]} operations use {at}")
    return found


def _only_one(source: Source, index: int) -> None:
    if index:
        source.fail(None, f"has 1 instance, there is no #{index + 1}")


def _sizes(source: Source, row: Row) -> tuple[int, int]:
    if len(row[1]) < 2:
        source.fail(row[0], f"expected 'jobs machines', found '{' '.join(row[1])}'")
    jobs, machines = (source.integer(word, row[0], "number of jobs or machines") for word in row[1][:2])
    if jobs < 1 or machines < 1:
        source.fail(row[0], f"there must be at least 1 job and 1 machine, found {jobs} and {machines}")
    return jobs, machines


def _count_jobs(source: Source, found: int, jobs: int) -> None:
    if found != jobs:
        source.fail(source.last_line, f"has {found} lines of jobs, the first line says {jobs}")


def _with_machines(source: Source, machines: int, name: str = "") -> ProblemBuilder:
    numbers = len(source.text)  # no file has more machines than characters
    if machines > numbers:
        source.fail(source.rows[0][0], f"says {machines} machines, which the file is too short for")
    builder = ProblemBuilder(name=name or source.stem, source=source.name, zero_durations=True)
    for _ in range(machines):
        builder.add_machine()
    return builder
