"""Problems without files: published benchmarks by name, and seeded random ones.

``instance("ta41")``, ``instance("ft06:blocking")``; the names are in `SETS`, the variants in `VARIANTS`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rota.kernel.errors import InputError, nearest
from rota.worlds.shop.generate import published
from rota.worlds.shop.model import FINISH_START, MACHINE, Problem


@dataclass(frozen=True)
class Set:
    """A family of instances numbered 1..count."""

    about: str
    count: int
    digits: int
    make: Callable[[int], Problem]


SETS = {
    "ta": Set("Taillard job shops, 15x15 to 100x20", 80, 2, published.taillard_job_shop),
    "tafs": Set("Taillard permutation flow shops, 20x5 to 500x20", 120, 3, published.taillard_flow_shop),
    "taos": Set("Taillard open shops, 4x4 to 20x20", 60, 2, published.taillard_open_shop),
    "dmu": Set("Demirkol, Mehta and Uzsoy job shops, 20x15 to 50x20", 80, 2, published.dmu_job_shop),
}


def blocking(problem: Problem) -> Problem:
    """The same shop without room between the machines; jobs may swap, the last operation of a job does not block."""
    flags = problem.resources.kind == MACHINE
    return _variant(problem, "blocking", resources=replace(problem.resources, blocking=flags))


def no_wait(problem: Problem) -> Problem:
    """The same shop where each operation of a job starts when the one before it ends."""
    links = problem.precedences
    inside = links.kind == FINISH_START
    inside &= problem.operations.job[links.first] == problem.operations.job[links.second]
    most = np.where(inside, links.least, links.most)
    return _variant(problem, "no_wait", precedences=replace(links, most=most))


def non_permutation(problem: Problem) -> Problem:
    """The same flow shop where machines may take the jobs in different orders."""
    return _variant(problem, "non_permutation", permutation=False)


def _variant(problem: Problem, suffix: str, **changes: object) -> Problem:
    source = f"{problem.source or problem.name} ({suffix})"
    return replace(problem, name=f"{problem.name}:{suffix}", source=source, **changes)  # type: ignore[arg-type]


VARIANTS = {"blocking": blocking, "no_wait": no_wait, "non_permutation": non_permutation}
_NUMBERED = re.compile(r"([a-z]+?)0*(\d+)")


def names() -> list[str]:
    """Every instance that needs no file."""
    numbered = [f"{key}{i:0{each.digits}}" for key, each in SETS.items() for i in range(1, each.count + 1)]
    return [*published.classic(), *numbered]


def canonical(name: str) -> str | None:
    """The instance's name as we write it (``TA1`` is ``ta01``), with its variants; None where it is no name of ours."""
    base, *variants = name.strip().lower().split(":")
    if any(each not in VARIANTS for each in variants):
        return None
    if base not in published.classic():
        found = _NUMBERED.fullmatch(base)
        family = SETS.get(found[1]) if found else None
        if found is None or family is None or not 1 <= int(found[2]) <= family.count:
            return None
        base = f"{found[1]}{int(found[2]):0{family.digits}}"
    return ":".join([base, *variants])


def instance(name: str) -> Problem:
    """A published instance by name, in its variants: ``"ta41"``, ``"la03:blocking"``. Raises InputError with the nearest names."""
    found = canonical(name)
    if found is None:
        base, *variants = name.strip().lower().split(":")
        wrong = [each for each in variants if each not in VARIANTS]
        if wrong:
            raise InputError(f"instance {name}: variant '{wrong[0]}' does not exist{nearest(wrong[0], VARIANTS)}")
        close = nearest(base, names())
        sets = ", ".join(f"{key}{1:0{each.digits}}..{each.count}" for key, each in SETS.items())
        classic = ", ".join(published.classic())
        raise InputError(
            f"instance '{name}' is not known{close if 'mean' in close else f' (known: {classic}, {sets})'}"
        )
    base, *variants = found.split(":")
    if base in published.classic():
        problem = published.classic_job_shop(base)
    else:
        parts = _NUMBERED.fullmatch(base)
        if parts is None:
            raise InputError(f"instance '{name}' is not known")
        problem = SETS[parts[1]].make(int(parts[2]))
    for variant in variants:
        problem = VARIANTS[variant](problem)
    return problem
