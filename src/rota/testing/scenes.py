"""Random questions for the conformance suite: tables of every size that matters, with the awkward values in them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rota.kernel.errors import RotaError
from rota.kernel.streams import generator
from rota.kernel.tables import AnyColumn, Claims, Column, Hosts, Jobs

NOW = 100.0
JOBS = 64  # ids are below this
HOSTS = 16

Draw = Callable[[np.random.Generator, int], AnyColumn]

_COUNTED = ("jobs", "tokens", "blocks", "requests")


class UnknownColumn(RotaError):
    """A policy declares a column that nobody provides."""


@dataclass(frozen=True)
class Question:
    """One question, as values before they become tables: `rows` are jobs (order, allot) or hosts (place)."""

    name: str
    rows: Mapping[str, AnyColumn]
    count: int
    job: Mapping[str, AnyColumn] | None = None  # place only: the jobs to be placed
    jobs: int = 0
    now: float = NOW

    def permuted(self, order: Sequence[int]) -> "Question":
        """The same question with its rows in another order."""
        return replace(self, rows={name: column[list(order)] for name, column in self.rows.items()})

    def tables(
        self, shape: str, known: Mapping[str, Column], known_job: Mapping[str, Column]
    ) -> list[Jobs | Hosts | Claims]:
        """Fresh tables that hold exactly the declared columns, in the order of the policy's arguments."""
        if shape == "place":
            return [
                Jobs(self.job or {}, known_job.values(), rows=self.jobs),
                Hosts(self.rows, known.values(), rows=self.count),
            ]
        kind = Jobs if shape == "order" else Claims
        return [kind(self.rows, known.values(), rows=self.count)]


def questions(
    reads: Sequence[str],
    reads_job: Sequence[str],
    known: Mapping[str, Column],
    known_job: Mapping[str, Column],
    draws: Mapping[str, Draw],
    shape: str,
    many: bool,
) -> Iterator[Question]:
    """Questions of 0, 1 and more rows: random values, all equal, and extremes (no due date, no size, huge numbers)."""
    sizes = (0, 1, 2, 7, HOSTS if shape == "place" else 40)
    jobs = (1, 0, 3, HOSTS) if shape == "place" and many else (1,)
    for kind in ("random", "equal", "extreme"):
        for rows in sizes:
            for others in jobs:
                name = f"{kind} values, {rows} rows" + (f", {others} jobs" if shape == "place" else "")
                ids = HOSTS if shape == "place" else JOBS
                values = _values(reads, known, draws, rows, ids, kind, f"rows/{rows}")
                if shape != "place":
                    yield Question(name, values, rows)
                    continue
                job = _values(reads_job, known_job, draws, others, JOBS, kind, f"jobs/{rows}/{others}")
                yield Question(name, values, rows, job, others)


def _values(
    reads: Sequence[str],
    known: Mapping[str, Column],
    draws: Mapping[str, Draw],
    rows: int,
    ids: int,
    kind: str,
    key: str,
) -> dict[str, AnyColumn]:
    for name in reads:
        if name not in known:
            raise UnknownColumn(f"{name} (known: {', '.join(sorted(known))})")
    return {name: _column(known[name], draws.get(name), rows, ids, kind, key) for name in reads}


def _column(column: Column, draw: Draw | None, rows: int, ids: int, kind: str, key: str) -> AnyColumn:
    """Values of a column, from its own generator, so that they do not depend on which others are declared."""
    rng = generator(0, f"{column.name}/{kind}/{key}")
    if draw is not None:
        return draw(rng, rows)
    if column.name == "id":
        return rng.choice(ids, size=rows, replace=False).astype(np.int64)
    whole = column.unit in _COUNTED or column.name in ("priority", "tenant", "decisions", "session")
    if kind == "equal":
        return np.full(rows, 3 if whole else 3.5)
    if whole:
        return rng.integers(0, 2**40 if kind == "extreme" else 20, size=rows)
    values = rng.exponential(10.0, size=rows)
    if kind == "extreme":
        values = np.where(rng.random(rows) < 0.5, 0.0, values * 1e9)
    if column.name == "release":
        return np.minimum(values, NOW)
    if column.name == "due":
        return np.where(rng.random(rows) < 0.4, np.inf, values + NOW / 2)
    return values
