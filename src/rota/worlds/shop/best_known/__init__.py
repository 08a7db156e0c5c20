"""The best known lower and upper bounds of published instances, with date and source, and the audit that uses them.

The figures are in figures.json; they are facts from the sources that it names. A value below a proved bound, or an "optimum" that is beaten, is
always an error somewhere: in the schedule, in the reading of the instance, or in the table.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from rota.kernel.errors import InputError


@dataclass(frozen=True)
class BestKnown:
    """What is known about the best value of an instance; a bound that the source does not give is None."""

    lower: int | None
    upper: int | None
    about: str
    objective: str
    source: str
    date: str

    @property
    def optimal(self) -> bool:
        """Whether the two meet."""
        return self.lower is not None and self.lower == self.upper


@cache
def _figures() -> Mapping[tuple[str, str], BestKnown]:
    found = {}
    for each in json.loads((files(__package__) / "figures.json").read_text(encoding="utf-8"))["sets"]:
        about = {key: each[key] for key in ("about", "objective", "source", "date")}
        for name, (lower, upper) in each["values"].items():
            found[name, each["objective"]] = BestKnown(lower, upper, **about)
    return found


def best_known(name: str, objective: str = "makespan") -> BestKnown | None:
    """The figures of an instance by its name (``ta01``, ``la03:blocking``, ``j30_1_1``, ``tafs001``); None where we have none."""
    return _figures().get((name.strip().lower(), objective))


def known_names() -> list[tuple[str, str]]:
    """(name, objective) of every figure."""
    return list(_figures())


def gap(value: int, name: str, objective: str = "makespan") -> float | None:
    """The gap to the best known value in percent: (value / upper - 1) x 100; None where it is not known or 0."""
    found = best_known(name, objective)
    return None if found is None or not found.upper else (value / found.upper - 1) * 100


def improves(name: str, value: int, objective: str = "makespan") -> bool:
    """Whether a value is better than the best known one, and no proof forbids it: news, if it passes `verify`."""
    found = best_known(name, objective)
    if found is None or found.upper is None:
        return False
    return value < found.upper and (found.lower is None or value >= found.lower)


def audit(
    name: str, value: int | None = None, bound: int | None = None, *, optimal: bool = False, objective: str = "makespan"
) -> list[str]:
    """Contradictions between a result and what is known, a line each; none also where nothing is known of the instance.

    Args:
        name: The instance.
        value: The value of a schedule.
        bound: A lower bound that a solver claims.
        optimal: Whether the value is claimed to be optimal.
        objective: What was minimised.
    """
    return contradictions(name, best_known(name, objective), value, bound, optimal=optimal)


def contradictions(
    name: str, known: BestKnown | None, value: int | None, bound: int | None, *, optimal: bool = False
) -> list[str]:
    """The same against given figures, and between the value and the bound themselves."""
    found = []
    if value is not None and bound is not None and bound > value:
        found.append(f"{name}: bound {bound} is above the value {value}")
    if known is None:
        return found
    source = f"{known.source}, {known.date}"
    if value is not None and known.lower is not None and value < known.lower:
        rule = "the proved optimum" if known.optimal else "the proved lower bound"
        found.append(f"{name}: value {value} is below {rule} {known.lower} ({source})")
    if bound is not None and known.upper is not None and bound > known.upper:
        found.append(f"{name}: bound {bound} is above the best known value {known.upper} ({source})")
    if optimal and value is not None and known.upper is not None and value > known.upper:
        found.append(f"{name}: {value} is claimed to be optimal, but {known.upper} is known ({source})")
    return found


def beaten(optima: Mapping[str, int], values: Mapping[str, int]) -> list[str]:
    """Instances of a table whose claimed optimum is above a value that was reached, a line each. Minimisation.

    Raises:
        InputError: A value belongs to no instance of the table.
    """
    unknown = [name for name in values if name not in optima]
    if unknown:
        raise InputError(f"audit: instance {unknown[0]} is not in the table of optima")
    return [
        f"{name}: value {value} is below the claimed optimum {optima[name]}"
        for name, value in values.items()
        if value < optima[name]
    ]


def paired_again(names: Sequence[str], optima: Sequence[int]) -> dict[str, int]:
    """Undo the commonest mispairing of a table: files listed as text (1, 10, 2), optima listed by number (1, 2, 10).

    Args:
        names: The instances in the order of their numbers.
        optima: What the table gives for each of them.

    Returns:
        The optimum of each instance, if that is what happened; `beaten` tells whether it explains the contradictions.
    """
    published = dict(zip(names, optima, strict=True))
    listed = sorted(names)  # the k-th file as text was given the optimum of the k-th instance by number
    return {name: published[listed[place]] for place, name in enumerate(names)}
