"""What a world hands to a study: the protocol that `rota run` drives, and the result of one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt


@dataclass(frozen=True)
class RunResult:
    """One policy on one seed. Plain data, so that it can cross a process boundary.

    ``metrics``: flat numbers in SI units. ``outcomes``: equal-length columns, a row a job (always with ``job``, ``arrival``, ``finish`` and ``status``,
    finish NaN when it never finished). ``series``: equal-length columns with ``time``, ``host`` and one column a quantity, already binned.
    ``spans``: equal-length columns ``host``, ``lane``, ``label``, ``start``, ``end`` of a window worth drawing. ``knew``: what the policy could see, in words.
    """

    metrics: dict[str, float]
    outcomes: dict[str, npt.NDArray[Any]]
    series: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    spans: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    knew: str = ""


@dataclass(frozen=True)
class Measure:
    """How a metric is shown and ranked."""

    name: str  # key in RunResult.metrics
    title: str  # for people
    unit: str  # "s", "1/s", "" ...
    smaller_is_better: bool = True
    per_job: str = ""  # the outcomes column whose mean it is, when it is one (needed for the block bootstrap)
    of_served: bool = True  # whether jobs that were never served are left out of it, so that policies must have served alike to be compared
    of_groups: bool = (
        False  # it is of groups of jobs: of these, jobs of status "spared" were not needed and so not left out
    )


class World(Protocol):
    """A world as the study sees it. `prepare` runs once in the parent, `run` in any process."""

    name: str
    sections: tuple[str, ...]  # scenario keys that belong to this world (workload, fleet, ...)
    roles: tuple[str, ...]  # keys that a policy entry may have besides `name`
    rooms: Mapping[str, Mapping[str, Any]]  # policies of this world's own: for a role, classes by name
    measures: Mapping[str, Measure]
    objective: str  # default metric to rank by

    def load(self, sections: Mapping[str, Any], folder: Path) -> Any:
        """Validate the world's scenario sections strictly; paths are relative to `folder`. Raises InputError."""

    def resolve(self, case: Any, policy: Mapping[str, Any], folder: Path) -> str | None:
        """Check a policy entry without running it. None when it applies, else in words why it does not; InputError when it is wrong."""

    def workload(self, case: Any, seed: int) -> Any:
        """Draw or read the workload of a seed: the same for every policy. Picklable."""

    def random_workload(self, case: Any) -> bool:
        """Whether seeds differ in their workload: a recorded trace is one fact, not a sample."""

    def prepare(self, case: Any, policies: Sequence[Mapping[str, Any]]) -> None:
        """Compile what these policies need, once, before workers start."""

    def run(self, case: Any, workload: Any, policy: Mapping[str, Any], seed: int) -> RunResult:
        """Run one policy on one seed."""

    def bounds(self, case: Any, workload: Any) -> dict[str, float]:
        """Lower (or upper, where larger is better) bounds of metrics, by metric name."""

    def describe(self, case: Any) -> list[tuple[str, str]]:
        """The setting as (label, text) pairs for the report."""
