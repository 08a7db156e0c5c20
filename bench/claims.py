"""What the benches of published claims share: windows of a trace, how many times better, and the table of a page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rota.study.statistics import t_interval
from rota.worlds.serving.model import Workload, make_workload

NOTHING = "&ndash;"  # there is nothing to compare


@dataclass(frozen=True)
class Load:
    """What is changed in the scenario; a recorded trace is one observation, or is cut into windows."""

    name: str
    changes: tuple[str, ...] = ()
    recorded: bool = False


def window(work: Workload, number: int, count: int) -> Workload:
    """One of `count` pieces of a trace, with as many requests each, from its own first arrival on."""
    begin, end = number * len(work) // count, (number + 1) * len(work) // count
    prefix = work.prefix
    if prefix is not None:
        first, last = prefix.offsets[begin], prefix.offsets[end]
        prefix = replace(prefix, offsets=prefix.offsets[begin : end + 1] - first, ids=prefix.ids[first:last])
    arrival = work.arrival[begin:end]
    return make_workload(
        arrival - arrival[0], work.prompt_tokens[begin:end], work.output_tokens[begin:end], prefix=prefix
    )


def times_better(base: Sequence[float], ours: Sequence[float], smaller: bool = True) -> str:
    """The geometric mean of paired ratios, with the 95 % t interval of their logarithm; a dash where a value is not positive."""
    pairs = np.array([base, ours], np.float64)
    if pairs.shape[1] < 2 or not (np.isfinite(pairs) & (pairs > 0)).all():
        return NOTHING
    logs = np.log(pairs[0] / pairs[1]) * (1.0 if smaller else -1.0)
    mean, low, high = np.exp(t_interval(logs))
    return f"{mean:.2f} ({low:.2f} - {high:.2f})"


def put(page: Path, name: str, rows: Iterable[str]) -> None:
    """Replace the rows of the table that follows `<!-- table: name -->`; its two header lines stay.

    Raises:
        ValueError: the page has no such mark.
    """
    before, mark, after = page.read_text().partition(f"<!-- table: {name} -->\n")
    if not mark:
        raise ValueError(f"{page}: no line <!-- table: {name} -->")
    lines = after.splitlines()
    begin = next(k for k, line in enumerate(lines) if line.startswith("|"))
    end = next((k for k in range(begin, len(lines)) if not lines[k].startswith("|")), len(lines))
    page.write_text("\n".join([before + mark + "", *lines[begin : begin + 2], *rows, *lines[end:], ""]))
