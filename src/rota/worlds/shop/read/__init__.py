"""Instances from files: the format is recognised from the content, and checked against the file's ending.

A file with several instances is read one at a time: ``read("tai20_5.txt#3")`` is its third.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rota.kernel.errors import InputError, nearest
from rota.worlds.shop.model import Problem
from rota.worlds.shop.objective import Objective
from rota.worlds.shop.read import detect
from rota.worlds.shop.read.document import document
from rota.worlds.shop.read.project_text import patterson, psplib
from rota.worlds.shop.read.shop_text import flexible, standard, taillard
from rota.worlds.shop.read.source import Source
from rota.worlds.shop.read.table import table
from rota.worlds.shop.read.tardiness_text import weighted_tardiness


@dataclass(frozen=True)
class Format:
    """A file format."""

    about: str
    read: Callable[[Source, int], Problem]
    endings: tuple[str, ...] = ()  # file endings that promise this format


FORMATS: Mapping[str, Format] = {
    "standard": Format("job shop: jobs machines, then pairs machine duration (JSPLIB)", standard, (".jsp",)),
    "taillard": Format("job or flow shop: matrices of durations and machines", taillard),
    "fjs": Format("flexible job shop (FJSPLIB)", flexible, (".fjs",)),
    "psplib": Format("project, single- or multi-mode (PSPLIB)", psplib, (".sm", ".mm")),
    "patterson": Format("project (Patterson)", patterson, (".rcp",)),
    "tardiness": Format("weighted tardiness on one machine (OR-Library)", weighted_tardiness),
    "json": Format("rota's JSON: everything the model can say", document, (".json",)),
    "csv": Format("a table of jobs, wide or long", table, (".csv",)),
}


def read(
    path: str | Path, *, format: str | None = None, objective: Objective | str | None = None, jobs: int | None = None
) -> Problem:
    """Read an instance.

    Args:
        path: The file, also gzipped; ``file#3`` for the third instance of a file with several.
        format: One of FORMATS; None: recognised.
        objective: What to minimise; None: what the file says, else the makespan.
        jobs: Jobs of an instance, for weighted tardiness files whose name does not say it.

    Raises:
        InputError: The file breaks a rule: one line with file, line, rule, what was found.
    """
    text, _, number = str(path).rpartition("#")
    whole = Path(path)
    index = 0
    if text and number.isdigit() and not whole.exists():
        whole, index = Path(text), int(number) - 1
    source = Source.open(whole)
    name = format or _format_of(source, whole)
    if name not in FORMATS:
        raise InputError(f"{path}: format '{name}' does not exist{nearest(name, FORMATS)}")
    try:
        problem = weighted_tardiness(source, index, jobs) if name == "tardiness" else FORMATS[name].read(source, index)
    except InputError as error:
        found = detect.recognise(source, name)
        if found is not None and found != name:
            raise InputError(f"{error}; it looks like format {found} ({FORMATS[found].about})") from None
        raise
    if objective is not None:
        problem = replace(problem, objective=Objective.parse(objective) if isinstance(objective, str) else objective)
    return problem


def _format_of(source: Source, path: Path) -> str:
    """The format that the content shows; where it shows none, the one that the file's ending promises."""
    endings = [suffix.lower() for suffix in path.suffixes if suffix != ".gz"]
    promised = next((name for name, each in FORMATS.items() if endings and endings[-1] in each.endings), None)
    found = detect.recognise(source, promised)
    if found is None:
        return promised or detect.closest(source)
    if promised is not None and promised != found:
        raise InputError(
            f"{source.name}: is not {promised}, as its ending {endings[-1]} says; it looks like format {found} ({FORMATS[found].about})"
        )
    return found
