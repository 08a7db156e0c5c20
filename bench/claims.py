"""What the benches of published claims share: windows of a trace, how many times better, tables of pages, and the command line that writes them."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
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


def factor(mean: float, low: float, high: float, form: str = ".2f") -> str:
    """A factor and its interval in words; what would be printed as 0 keeps a digit."""
    told = [f"{each:{form}}" for each in (mean, low, high)]
    told = [
        f"{each:.1g}" if float(text) == 0 < each else text for each, text in zip((mean, low, high), told, strict=True)
    ]
    return f"{told[0]} ({told[1]} - {told[2]})"


def percent(share: float, digits: int = 0) -> str:
    """A share in percent; one that is nearly whole has a decimal, and is not rounded to the whole."""
    if 0.995 <= share < 1:
        return f"{min(100 * share, 99.9):.1f}"
    return f"{100 * share:.{digits}f}"


def line(*cells: str) -> str:
    """A row of a table."""
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def once(rows: Iterable[str]) -> Iterator[str]:
    """The rows with their first cell left out where it is that of the row before."""
    before = ""
    for row in rows:
        first, rest = row[2:].split(" |", 1)
        yield f"| |{rest}" if first == before else row
        before = first


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        name: In its mark on the page, `<!-- table: name -->`; its first word is what `--only` chooses it by.
        titles: Of the columns where it is printed; a page has its own.
        rows: As they are on the page, made when they are asked for.
    """

    name: str
    titles: tuple[str, ...]
    rows: Iterable[str]


def command(
    about: str, names: Iterable[str], tables: Callable[[argparse.Namespace], Iterable[Table]], *files: str
) -> None:
    """The command line of a bench: its tables are printed, and written into pages where it is asked to.

    Args:
        about: The bench's docstring.
        names: What `--only` may choose.
        tables: Given `data`, `seeds` and the `files`, all tables of the bench; only those that are chosen are made.
        files: Names of options that are further files, which need not be given.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(dict.fromkeys(names))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=names, choices=names)
    parser.add_argument("--seeds", type=int, default=5)
    for file in files:
        parser.add_argument(f"--{file}", type=lambda text: Path(text).absolute())
    parser.add_argument(
        "--write", nargs="*", type=Path, default=[], help="pages whose tables are replaced, each when it is whole"
    )
    given = parser.parse_args()
    chosen = [table for table in tables(given) if table.name.split()[0] in given.only]
    pages = {table.name: page_of(table.name, given.write) for table in chosen} if given.write else {}
    for table in chosen:
        print(f"\n{table.name}\n\n{line(*table.titles)}\n|{'---|' * len(table.titles)}", flush=True)
        shown = []
        for row in table.rows:
            print(row, flush=True)
            shown.append(row)
        if table.name in pages:
            put(pages[table.name], table.name, shown)


def page_of(name: str, pages: Sequence[Path]) -> Path:
    """The page that has a table's mark.

    Raises:
        SystemExit: none has it: one line, before anything is run.
    """
    for page in pages:
        if f"<!-- table: {name} -->\n" in page.read_text():
            return page
    raise SystemExit(
        f"no line <!-- table: {name} --> in {', '.join(map(str, pages))}; choose other tables with --only, or name its page too"
    )


def put(page: Path, name: str, rows: Iterable[str]) -> None:
    """Replace the rows of the table that follows `<!-- table: name -->`; its two header lines stay.

    Raises:
        ValueError: the page has no such mark, or its table has other columns.
    """
    before, mark, after = page.read_text().partition(f"<!-- table: {name} -->\n")
    if not mark:
        raise ValueError(f"{page}: no line <!-- table: {name} -->")
    lines = after.splitlines()
    begin = next(k for k, line in enumerate(lines) if line.startswith("|"))
    end = next((k for k in range(begin, len(lines)) if not lines[k].startswith("|")), len(lines))
    rows = list(rows)
    other = [row for row in rows if row.count("|") != lines[begin].count("|")]
    if other:
        raise ValueError(f"{page}: table {name} has other columns than this row: {other[0]}")
    page.write_text("\n".join([before + mark + "", *lines[begin : begin + 2], *rows, *lines[end:], ""]))
