"""What a schedule is judged by: a weighted sum of criteria, smaller is better."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rota.kernel.errors import InputError, nearest

CRITERIA: Mapping[str, str] = {
    "makespan": "the latest end of an operation",
    "total_flow_time": "sum over jobs of completion - release",
    "weighted_flow_time": "sum over jobs of weight x (completion - release)",
    "total_tardiness": "sum over jobs of max(0, completion - due)",
    "weighted_tardiness": "sum over jobs of weight x max(0, completion - due)",
    "number_late": "jobs completed after their due date",
    "weighted_number_late": "sum of the weights of jobs completed after their due date",
    "maximum_lateness": "the largest completion - due of a job; negative when all are early",
}
NEEDS_DUE = frozenset(
    {"total_tardiness", "weighted_tardiness", "number_late", "weighted_number_late", "maximum_lateness"}
)
_TERM = re.compile(r"(?:(\d+)\s*\*\s*)?([a-z_]+)")


@dataclass(frozen=True)
class Objective:
    """A weighted sum of criteria, to be minimised; weights are positive integers.

    Jobs without a due date are never late and do not count for `maximum_lateness`.
    """

    terms: tuple[tuple[str, int], ...] = (("makespan", 1),)

    def __post_init__(self) -> None:
        if not self.terms:
            raise InputError("objective: has no criterion; name one, such as makespan")
        seen: set[str] = set()
        for name, weight in self.terms:
            if name not in CRITERIA:
                raise InputError(f"objective: '{name}' is not a criterion{nearest(name, CRITERIA)}")
            if name in seen:
                raise InputError(f"objective: criterion {name} is given twice")
            if not isinstance(weight, int) or weight < 1:
                raise InputError(f"objective: weight of {name} must be a positive integer, found {weight!r}")
            seen.add(name)

    @classmethod
    def parse(cls, text: str) -> "Objective":
        """Read ``"makespan"`` or a sum such as ``"2*makespan + total_tardiness"``. Raises InputError."""
        terms = []
        for part in text.split("+"):
            found = _TERM.fullmatch(part.strip())
            if found is None:
                raise InputError(f"objective: cannot read '{part.strip()}'; write criterion or integer*criterion")
            terms.append((found[2], int(found[1] or 1)))
        return cls(tuple(terms))

    def __str__(self) -> str:
        return " + ".join(name if weight == 1 else f"{weight}*{name}" for name, weight in self.terms)

    @property
    def single(self) -> str | None:
        """The criterion when there is only one, whatever its weight; None for a sum of several."""
        return self.terms[0][0] if len(self.terms) == 1 else None
