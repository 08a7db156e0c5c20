"""When work that starts at a moment ends, given the breaks of the resources that it needs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rota.worlds.shop.model import NEVER

if TYPE_CHECKING:
    from rota.worlds.shop.model import Problem

Break = tuple[int, int]


def breaks_of_mode(problem: "Problem", mode: int) -> tuple[list[Break], list[Break]]:
    """(pauses, closures): merged breaks of a mode's interruptible resources, and of the others; each sorted by start."""
    resources, modes = problem.resources, problem.modes
    pauses: list[Break] = []
    closures: list[Break] = []
    for resource in modes.resource[modes.offsets[mode] : modes.offsets[mode + 1]]:
        rows = slice(resources.break_offsets[resource], resources.break_offsets[resource + 1])
        found = zip(resources.break_start[rows].tolist(), resources.break_end[rows].tolist(), strict=True)
        (pauses if resources.interruptible[resource] else closures).extend(found)
    return merged(pauses), merged(closures)


def merged(breaks: Sequence[Break]) -> list[Break]:
    """The same breaks, sorted, with those that touch or overlap joined."""
    found: list[Break] = []
    for start, end in sorted(breaks):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def end_of(duration: int, start: int, pauses: Sequence[Break], closures: Sequence[Break] = ()) -> int | None:
    """The end of work of `duration` that starts at `start`; None where it may not start or would meet a closure."""
    end = start + duration
    for first, last in pauses:
        if last <= start:
            continue
        if first >= end:
            break
        if first <= start or last >= NEVER:
            return None
        end += last - first
    if any(first < end and start < last for first, last in closures):
        return None
    return end


def earliest(duration: int, after: int, pauses: Sequence[Break], closures: Sequence[Break] = ()) -> Break | None:
    """(start, end) of the earliest work of `duration` that starts at `after` or later; None: the breaks never allow it."""
    moments = [after, *sorted(last for _, last in (*pauses, *closures) if after < last < NEVER)]
    for start in moments:  # an earliest start is `after` or the end of a break: sliding left only fails at one
        end = end_of(duration, start, pauses, closures)
        if end is not None:
            return start, end
    return None
