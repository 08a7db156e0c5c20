"""A schedule as a page: who runs on which machine when, the same by job, what is critical, what is late; or as one picture (SVG, PNG)."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from rota import __version__
from rota.kernel.errors import InputError
from rota.report.page import Book, assemble, facts, write_text
from rota.report.style import ACCENT, GRID, INK, MUTED, PALETTE, PAPER, figure, plain

if TYPE_CHECKING:
    from rota.worlds.shop.model import Problem
    from rota.worlds.shop.schedule import Schedule, Solution

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LATE_ROWS = 20  # of the table of late jobs


@dataclass(frozen=True)
class Bar:
    """An operation on a row."""

    row: int
    operation: int
    job: int


def critical(problem: "Problem", schedule: "Schedule") -> list[int]:
    """Operations without slack: each ends exactly when the next on its resource, or one that must follow it, begins, up to the end of all.

    One chain from the latest end back to a start that waits for nothing; setups, lags and transport between two operations count as no slack.
    """
    from rota.worlds.shop.model import FINISH_START

    if not len(schedule):
        return []
    start, end = schedule.start, schedule.end
    links = problem.precedences
    before: dict[int, list[int]] = {}
    for first, second, kind in zip(links.first.tolist(), links.second.tolist(), links.kind.tolist(), strict=True):
        if kind == FINISH_START:
            before.setdefault(second, []).append(first)
    for sequence in schedule.sequences(problem):
        for first, second in zip(sequence[:-1].tolist(), sequence[1:].tolist(), strict=True):
            before.setdefault(second, []).append(first)
    chain = [int(np.argmax(end))]
    while start[chain[-1]] > 0:
        waited = [
            each for each in before.get(chain[-1], ()) if end[each] == start[chain[-1]] and end[each] > start[each]
        ]
        if not waited:
            break
        chain.append(waited[0])
    return chain[::-1]


def bars_by_resource(problem: "Problem", schedule: "Schedule") -> tuple[list[str], list[Bar]]:
    """Rows are machines, and units of renewable resources as far as they are used at once."""
    from rota.worlds.shop.model import MACHINE, RENEWABLE

    rows, bars = list[str](), list[Bar]()
    for resource, sequence in enumerate(schedule.sequences(problem)):
        kind, name = problem.resources.kind[resource], problem.resources.names[resource]
        if kind not in (MACHINE, RENEWABLE):
            continue
        lanes: list[int] = []  # when each lane is free
        first = len(rows)
        for operation in sequence.tolist():
            free = [lane for lane, until in enumerate(lanes) if until <= schedule.start[operation]]
            lane = free[0] if free else len(lanes)
            if not free:
                lanes.append(0)
            lanes[lane] = max(int(schedule.end[operation]), lanes[lane])
            bars.append(Bar(first + lane, operation, int(problem.operations.job[operation])))
        rows += [name if len(lanes) == 1 else f"{name} · {lane + 1}" for lane in range(max(len(lanes), 1))]
    return rows, bars


def bars_by_job(problem: "Problem", schedule: "Schedule") -> tuple[list[str], list[Bar]]:
    """Rows are jobs; of a single project, its operations."""
    if len(problem.jobs) == 1:
        order = np.lexsort((np.arange(len(schedule)), schedule.start)).tolist()
        return [problem.operations.names[o] for o in order], [Bar(row, o, 0) for row, o in enumerate(order)]
    return list(problem.jobs.names), [Bar(int(job), o, int(job)) for o, job in enumerate(problem.operations.job)]


def draw(
    problem: "Problem", schedule: "Schedule", rows: Sequence[str], bars: Sequence[Bar], *, by_job: bool
) -> go.Figure:
    """Bars of all operations, the critical ones outlined; breaks of machines, due dates of jobs."""
    from rota.worlds.shop.model import NEVER

    drawn = figure("time", showgrid=True)
    names, machines = problem.operations.names, problem.resources.names
    modes = problem.modes
    start, end = schedule.start, schedule.end

    def colour_of(bar: Bar) -> int:
        row = modes.offsets[schedule.mode[bar.operation]]
        return int(modes.resource[row]) if by_job and row < len(modes.resource) else bar.job

    on = [
        ", ".join(machines[r] for r in modes.resource[modes.offsets[k] : modes.offsets[k + 1]])
        for k in schedule.mode.tolist()
    ]
    path = set(critical(problem, schedule))
    if not by_job:
        _breaks(drawn, problem, rows, int(end.max(initial=0)))
    for colour in range(len(PALETTE)):
        of = [bar for bar in bars if colour_of(bar) % len(PALETTE) == colour]
        if of:
            drawn.add_bar(
                orientation="h", y=[bar.row for bar in of], base=[int(start[bar.operation]) for bar in of],
                x=[int(end[bar.operation] - start[bar.operation]) for bar in of], width=0.8,
                marker={
                    "color": PALETTE[colour],
                    "line": {
                        "width": [2.2 if bar.operation in path else 0.5 for bar in of],
                        "color": [ACCENT if bar.operation in path else PAPER for bar in of],
                    },
                },
                customdata=[
                    [plain(names[b.operation]), plain(problem.jobs.names[b.job]), plain(on[b.operation]), int(start[b.operation]), int(end[b.operation])]
                    for b in of
                ],
                hovertemplate="%{customdata[0]}, job %{customdata[1]}<br>on %{customdata[2]}<br>%{customdata[3]} to %{customdata[4]}<extra></extra>",
            )  # fmt: skip
    if by_job and len(problem.jobs) > 1:
        due = np.flatnonzero(problem.jobs.due < NEVER)
        late = schedule.completions(problem)[due] > problem.jobs.due[due]
        drawn.add_scatter(
            x=problem.jobs.due[due].tolist(), y=due.tolist(), mode="markers", hovertemplate="due %{x}<extra></extra>",
            marker={"symbol": "line-ns-open", "size": 16, "line": {"width": 2}, "color": [ACCENT if each else MUTED for each in late]},
        )  # fmt: skip
    step = max(1, -(-len(rows) // 50))
    drawn.update_layout(barmode="overlay", bargap=0.1)
    drawn.update_yaxes(
        autorange="reversed",
        showgrid=False,
        tickvals=list(range(0, len(rows), step)),
        ticktext=[plain(r) for r in rows[::step]],
    )
    drawn.update_xaxes(range=[0, int(end.max(initial=1))])
    return drawn


def _breaks(drawn: go.Figure, problem: "Problem", rows: Sequence[str], last: int) -> None:
    spans = [
        (row, int(first), min(int(until), last))
        for row, name in enumerate(rows)
        for resource in [_resource_of(problem, name)]
        for first, until in _breaks_of(problem, resource)
        if first < last
    ]
    if spans:
        drawn.add_bar(
            orientation="h", y=[s[0] for s in spans], base=[s[1] for s in spans], x=[s[2] - s[1] for s in spans], width=1.0,
            marker={"color": GRID, "line": {"width": 0}}, hovertemplate="break, %{base} to %{x}<extra></extra>",
        )  # fmt: skip


def _resource_of(problem: "Problem", row: str) -> int:
    return problem.resources.names.index(row.rpartition(" · ")[0] or row)


def _breaks_of(problem: "Problem", resource: int) -> list[tuple[int, int]]:
    found = problem.resources
    rows = slice(found.break_offsets[resource], found.break_offsets[resource + 1])
    return list(zip(found.break_start[rows].tolist(), found.break_end[rows].tolist(), strict=True))


def schedule_page(problem: "Problem", solution: "Solution") -> str:
    """One HTML page that needs no network: value, bound and gap, both views, late jobs. `solution` must have a schedule."""
    schedule = solution.schedule
    if schedule is None:
        raise InputError("schedule page: the solution has no schedule")
    book = Book()
    parts = []
    for title, by_job, (rows, bars) in (
        (
            "By machine" if not problem.kind.endswith("rcpsp") else "By resource",
            False,
            bars_by_resource(problem, schedule),
        ),
        ("By job" if len(problem.jobs) > 1 else "By activity", True, bars_by_job(problem, schedule)),
    ):
        tall = min(max(len(rows) * 22 + 60, 200), 1600)
        drawn = draw(problem, schedule, rows, bars, by_job=by_job)
        note = "colours are jobs" if not by_job else "colours are machines; marks are due dates, red ones are missed"
        caption = f"Outlined: one chain of operations without slack. {note[0].upper()}{note[1:]}. Drag to zoom, double-click to go back."
        parts.append(f"<section><h2>{title}</h2>{book.place(drawn, '', caption, tall)}</section>")
    parts.append(_late(problem, schedule))
    gap = solution.gap
    answer = f"{solution.found_by} found it" if solution.found_by else ""
    if solution.status == "optimal":
        answer += f"; {solution.proved_by} proved that there is none better"
    shown = [
        (
            str(problem.objective),
            str(solution.value),
            f"found after {solution.trace[-1].seconds:.2f} s" if solution.trace else "",
        )
    ]
    if solution.bound is not None:
        shown.append(("bound", str(solution.bound), solution.bounded_by))
    if gap is not None:
        shown.append(("gap", f"{gap:.2%}", solution.status))
    shown.append(
        (
            "size",
            f"{len(problem.operations)}",
            f"operations, {len(problem.jobs)} jobs, {len(problem.resources)} resources",
        )
    )
    name = problem.name or "schedule"
    return assemble(
        book, [], title=f"{name}: {problem.objective} {solution.value}", kicker=f"shop · {problem.kind.replace('_', ' ')}", answer=answer,
        facts=facts(shown), alerts="".join(f'<p class="alert">{escape(note)}</p>' for note in solution.notes),
        main="\n".join(parts), version=__version__,
    )  # fmt: skip


def _late(problem: "Problem", schedule: "Schedule") -> str:
    from rota.worlds.shop.model import NEVER

    done, due = schedule.completions(problem), problem.jobs.due
    late = np.flatnonzero((due < NEVER) & (done > due))
    if not len(late):
        return ""
    worst = late[np.argsort(due[late] - done[late], kind="stable")]
    rows = "".join(
        f"<tr><td>{escape(problem.jobs.names[j])}</td><td>{due[j]}</td><td>{done[j]}</td><td>{done[j] - due[j]}</td></tr>"
        for j in worst[:LATE_ROWS]
    )
    more = f"<p>and {len(late) - LATE_ROWS} more</p>" if len(late) > LATE_ROWS else ""
    head = "<tr><th>job</th><th>due</th><th>complete</th><th>late by</th></tr>"
    return f"<section><h2>Late jobs: {len(late)}</h2><table><thead>{head}</thead><tbody>{rows}</tbody></table>{more}</section>"


def picture(problem: "Problem", schedule: "Schedule", *, width: int = 1200) -> str:
    """The machine view as one SVG, with a mark of the critical operations."""
    rows, bars = bars_by_resource(problem, schedule)
    last = max(int(schedule.end.max(initial=1)), 1)
    left, tall, room = 8 + 7 * max((len(row) for row in rows), default=0), 22, 30
    scale = (width - left - 10) / last
    path = set(critical(problem, schedule))
    height = len(rows) * tall + room
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
    ]
    for row, name in enumerate(rows):
        lines.append(f'<text x="{left - 6}" y="{row * tall + 15}" text-anchor="end" fill="{INK}">{escape(name)}</text>')
        for first, until in _breaks_of(problem, _resource_of(problem, name)):
            if first < last:
                wide = (min(until, last) - first) * scale
                lines.append(
                    f'<rect x="{left + first * scale:.2f}" y="{row * tall}" width="{wide:.2f}" height="{tall}" fill="{GRID}"/>'
                )
    for bar in bars:
        begin, end = int(schedule.start[bar.operation]), int(schedule.end[bar.operation])
        edge = (
            f'stroke="{ACCENT}" stroke-width="2"' if bar.operation in path else f'stroke="{PAPER}" stroke-width="0.5"'
        )
        title = f"{problem.operations.names[bar.operation]}: {begin} to {end}"
        lines.append(
            f'<rect x="{left + begin * scale:.2f}" y="{bar.row * tall + 2}" width="{(end - begin) * scale:.2f}" height="{tall - 4}" '
            f'fill="{PALETTE[bar.job % len(PALETTE)]}" {edge}><title>{escape(title)}</title></rect>'
        )
        label = problem.jobs.names[bar.job]
        if (end - begin) * scale > 7 * len(label) + 4:
            middle = left + (begin + end) / 2 * scale
            lines.append(
                f'<text x="{middle:.2f}" y="{bar.row * tall + 15}" text-anchor="middle" fill="white">{escape(label)}</text>'
            )
    lines.extend(
        f'<text x="{left + tick * scale:.2f}" y="{height - 10}" text-anchor="middle" fill="{MUTED}">{tick}</text>'
        for tick in range(0, last + 1, _step(last))
    )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _step(last: int) -> int:
    """Between ticks: 1, 2 or 5 times a power of ten, about ten of them."""
    size = int(10 ** max(len(str(last)) - 2, 0))
    return next(size * k for k in (1, 2, 5, 10) if last / (size * k) <= 12)


def write_gantt(problem: "Problem", solution: "Solution", path: Path) -> None:
    """Write a schedule as `.html`, `.svg` or `.png`, whole or not at all.

    Raises:
        InputError: Another ending, no browser that could make a PNG, or a file that cannot be written.
    """
    if solution.schedule is None:
        raise InputError(f"{path}: there is no schedule to draw")
    ending = path.suffix.lower()
    if ending == ".html":
        write_text(schedule_page(problem, solution), path)
    elif ending == ".svg":
        write_text(picture(problem, solution.schedule), path)
    elif ending == ".png":
        _write_png(picture(problem, solution.schedule), path)
    else:
        raise InputError(f"{path}: a Gantt chart is .html, .svg, .png, found '{path.suffix or path.name}'")


def _write_png(svg: str, path: Path) -> None:
    """A PNG by a browser without a window: none of our dependencies draws one."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise InputError(f"{path}: a PNG needs Chromium or Chrome on the path; write .svg instead")
    size = svg.split('width="', 2)[1].split('"')[0], svg.split('height="', 2)[1].split('"')[0]
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "gantt.svg"
        drawn.write_text(svg, encoding="utf-8")
        made = Path(folder) / "gantt.png"
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--hide-scrollbars",
            f"--window-size={','.join(size)}",
            f"--screenshot={made}",
            drawn.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        if done.returncode or not made.exists():
            raise InputError(f"{path}: {browser} could not draw the PNG; write .svg instead")
        try:
            shutil.copyfile(made, path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error
