"""Projects as text: PSPLIB single-mode (.sm) and multi-mode (.mm), and Patterson (.rcp).

PSPLIB: R. Kolisch and A. Sprecher, PSPLIB, EJOR 96 (1997) 205-216. Patterson: ``activities resources``, the capacities, and for each
activity its duration, its demands, the number of its successors and the successors, counted from 1; line ends mean nothing.
"""

import re
from collections.abc import Iterator

from rota.worlds.shop.build import ProblemBuilder
from rota.worlds.shop.model import Problem
from rota.worlds.shop.read.source import Source

Row = tuple[int, list[str]]


def patterson(source: Source, index: int) -> Problem:
    """A project in the Patterson format."""
    if index:
        source.fail(None, f"has 1 instance, there is no #{index + 1}")
    words = source.words()

    def take(what: str, builder: ProblemBuilder | None = None) -> int:
        line, word = next(words, (0, ""))
        if not line:
            source.fail(source.last_line, f"the file ends where {what} should be")
        if builder is not None:
            builder.line = line
        return source.integer(word, line, what)

    activities, resources = take("the number of activities"), take("the number of resources")
    if activities < 1 or resources < 0 or activities + resources > len(source.text):
        source.fail(
            source.rows[0][0], f"says {activities} activities and {resources} resources, which does not fit the file"
        )
    builder = ProblemBuilder(name=source.stem, source=source.name, zero_durations=True)
    for number in range(resources):
        capacity = take(f"the capacity of resource {number + 1}", builder)
        builder.add_resource(f"R{number + 1}", capacity=capacity)
    builder.add_job("project")
    followers: list[list[tuple[int, int]]] = []
    for number in range(1, activities + 1):
        duration = take(f"the duration of activity {number}", builder)
        operation = builder.add_operation(0, str(number))
        demands = {r: take(f"a demand of activity {number}", builder) for r in range(resources)}
        builder.add_mode(operation, duration, demands=demands)
        count = take(f"the number of successors of activity {number}", builder)
        followers.append(
            [(take(f"a successor of activity {number}", builder), builder.line or 0) for _ in range(count)]
        )
    left = next(words, None)
    if left is not None:
        source.fail(left[0], f"numbers are left over after the last of {activities} activities, from '{left[1]}' on")
    _link(source, builder, followers)
    return builder.build()


def _link(source: Source, builder: ProblemBuilder, followers: list[list[tuple[int, int]]]) -> None:
    """Add the precedences: per activity its successors, counted from 1, and their lines."""
    for first, row in enumerate(followers):
        for second, line in row:
            builder.line = line
            if not 1 <= second <= len(followers):
                source.fail(
                    line, f"activity {first + 1} precedes activity {second}, which does not exist (1..{len(followers)})"
                )
            builder.add_precedence(first, second - 1)


def psplib(source: Source, index: int) -> Problem:
    """A project in the PSPLIB format, single-mode or multi-mode."""
    if index:
        source.fail(None, f"has 1 instance, there is no #{index + 1}")
    sections = _sections(source)
    size = _number(source, r"jobs\s*\(incl[^:]*:\s*(\d+)", "jobs (incl. supersource/sink )")
    renewable = _number(source, r"-\s*renewable\s*:\s*(\d+)", "renewable")
    others = _number(source, r"-\s*nonrenewable\s*:\s*(\d+)", "nonrenewable", 0)
    doubly = _number(source, r"-\s*doubly constrained\s*:\s*(\d+)", "doubly constrained", 0)
    if doubly:
        source.fail(
            None, f"has {doubly} doubly constrained resources, which are not supported; give each as two resources"
        )
    builder = ProblemBuilder(name=source.stem, source=source.name, zero_durations=True)
    _capacities(source, builder, sections["RESOURCEAVAILABILITIES"], renewable, others)
    followers, modes = _precedences(source, sections["PRECEDENCE RELATIONS"], size)
    builder.add_job("project")
    _requests(source, builder, sections["REQUESTS/DURATIONS"], modes, renewable + others)
    _link(source, builder, followers)
    return builder.build()


def _sections(source: Source) -> dict[str, list[Row]]:
    """The rows of numbers of each section, by its title."""
    found: dict[str, list[Row]] = {}
    title = ""
    for number, line in enumerate(source.text.splitlines(), 1):
        text = line.strip()
        if text.endswith(":") and text[:-1].isupper():
            title = text[:-1].strip()
            found[title] = []
        elif title and text and text[0].isdigit():
            found[title].append((number, text.split()))
    for wanted in ("PRECEDENCE RELATIONS", "REQUESTS/DURATIONS", "RESOURCEAVAILABILITIES"):
        if wanted not in found:
            source.fail(None, f"has no section {wanted}: is not a complete PSPLIB file")
    return found


def _number(source: Source, pattern: str, what: str, default: int | None = None) -> int:
    found = re.search(pattern, source.text)
    if found is None:
        if default is not None:
            return default
        source.fail(None, f"does not say '{what}:' and is not a PSPLIB file")
    return int(found[1])


def _capacities(source: Source, builder: ProblemBuilder, rows: list[Row], renewable: int, others: int) -> None:
    if len(rows) != 1 or len(rows[0][1]) != renewable + others:
        found = len(rows[0][1]) if rows else 0
        source.fail(
            rows[0][0] if rows else None, f"has {found} capacities, expected {renewable + others}, one a resource"
        )
    builder.line = rows[0][0]
    for number, capacity in enumerate(source.integers(rows[0], "capacity")):
        reusable = number < renewable
        name = f"R{number + 1}" if reusable else f"N{number - renewable + 1}"
        builder.add_resource(name, capacity=capacity, renewable=reusable)


def _precedences(source: Source, rows: list[Row], size: int) -> tuple[list[list[tuple[int, int]]], list[int]]:
    """(successors with their lines, number of modes) of each activity."""
    followers: list[list[tuple[int, int]]] = []
    modes: list[int] = []
    for row in rows:
        values = source.integers(row, "number")
        if values[0] != len(modes) + 1:
            found = "is there twice" if values[0] <= len(modes) else f"comes where {len(modes) + 1} should be"
            source.fail(row[0], f"activity {values[0]} {found}")
        if len(values) < 3 or len(values) != 3 + values[2]:
            count = values[2] if len(values) > 2 else "no"
            source.fail(row[0], f"activity {values[0]} lists {len(values) - 3} successors, its count says {count}")
        modes.append(values[1])
        followers.append([(value, row[0]) for value in values[3:]])
    if len(modes) != size:
        source.fail(rows[-1][0] if rows else None, f"has {len(modes)} activities, the head of the file says {size}")
    return followers, modes


def _requests(source: Source, builder: ProblemBuilder, rows: list[Row], modes: list[int], width: int) -> None:
    """Add operations and modes; only the first mode of an activity repeats the activity's number."""
    left: Iterator[Row] = iter(rows)
    for number, count in enumerate(modes, 1):
        for mode in range(1, count + 1):
            row = next(left, None)
            if row is None:
                source.fail(rows[-1][0] if rows else None, f"the requests end before activity {number}, mode {mode}")
            builder.line = row[0]
            values = source.integers(row, "number")
            head = [number, mode] if mode == 1 else [mode]
            if values[: len(head)] != head or len(values) != len(head) + 1 + width:
                source.fail(
                    row[0],
                    f"expected activity {number}, mode {mode}: a duration and {width} demands, found '{' '.join(row[1])}'",
                )
            if mode == 1:
                builder.add_operation(0, str(number))
            builder.add_mode(number - 1, values[len(head)], demands=dict(enumerate(values[len(head) + 1 :])))
    row = next(left, None)
    if row is not None:
        source.fail(row[0], "there are more requests than activities and modes")
