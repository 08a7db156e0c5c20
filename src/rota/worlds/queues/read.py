"""Job traces from files: CSV, JSON lines and Parquet, also gzipped, with the columns named or mapped."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rota.kernel.errors import InputError, nearest
from rota.worlds.queues.model import FloatColumn, IntColumn, Workload, make_workload

if TYPE_CHECKING:
    from rota.kernel.reading.tables import Table

ROLES = (
    "arrival",
    "service_time",
    "class",
    "weight",
    "due",
    "patience",
    "tenant",
    "priority",
    "id",
    "parents",
    "program",
)


def read_trace(path: Path, columns: Mapping[str, str] | None = None, classes: tuple[str, ...] = ()) -> Workload:
    """Read jobs, one a row: `arrival` and `service_time` in seconds; the other roles where the file has them.

    Args:
        path: The file.
        columns: Which column plays which role, by role; a role that is not named is played by the column of its name.
            Further numeric columns are offered to policies under their own names.
        classes: The names of classes in the scenario's order; others follow as they appear.

    Raises:
        InputError: a missing file, role or value, with the row, the rule and what was found.
    """
    from rota.kernel.reading import columns as read
    from rota.kernel.reading.tables import open_table

    table = open_table(path)
    mapping = _mapping(table, columns or {})
    arrival, _ = read.arrivals(table, mapping["arrival"], "s", "s", "auto")
    size = _seconds(table, mapping["service_time"])
    back = int(np.count_nonzero(np.diff(arrival) < 0))
    order = np.argsort(arrival, kind="stable")
    notices = [f"sorted by arrival: {back:,} of {len(order):,} rows came before the row above them"] if back else []
    values: dict[str, object] = {}
    for role in ("due", "patience"):
        if role in mapping:
            values[role] = read.limits(table, mapping[role])[order]
    if "weight" in mapping:
        weight = read.numbers(table, mapping["weight"])
        read.complain(table, ~(weight > 0), mapping["weight"], "must be above 0")
        values["weight"] = weight[order]
    if "priority" in mapping:
        values["priority"] = read.integers(table, mapping["priority"], least=-(2**31), empty=0)[order]
    if "tenant" in mapping:
        tenant, values["tenants"] = read.labels(table, mapping["tenant"])
        values["tenant"] = tenant[order]
    if "class" in mapping:
        index, names = read.labels(table, mapping["class"])
        known = (*(name for name in classes if name in names), *(name for name in names if name not in classes))
        values["job_class"] = np.array([known.index(name) for name in names])[index][order]
        values["classes"] = known
    if "parents" in mapping:
        values["parents"] = _parents(table, mapping, order)
    if "program" in mapping:
        values["program"] = read.labels(table, mapping["program"])[0][order]
    used = set(mapping.values())
    further = {name: table.frame[name] for name in table.frame.columns if name not in used and name.isidentifier()}
    values["columns"] = {name: column for name, series in further.items() if (column := _numeric(series)) is not None}
    values["columns"] = {name: column[order] for name, column in values["columns"].items()}  # type: ignore[attr-defined]
    return make_workload(arrival[order], size[order], source=path.name, notices=tuple(notices), **values)


def _mapping(table: "Table", columns: Mapping[str, str]) -> dict[str, str]:
    names = table.frame.columns
    for role, name in columns.items():
        if role not in ROLES:
            raise InputError(f"workload.columns: unknown role '{role}'{nearest(role, ROLES)}")
        if name not in names:
            raise InputError(f"{table.path}: has no column '{name}' for {role}{nearest(name, names)}")
    mapping = {role: columns.get(role, role) for role in ROLES if columns.get(role, role) in names}
    for role in ("arrival", "service_time"):
        if role not in mapping:
            raise InputError(
                f"{table.path}: no column is the {role}; name it in workload.columns, such as {role}: {names[0]}"
            )
    return mapping


def _seconds(table: "Table", column: str) -> FloatColumn:
    from rota.kernel.reading import columns as read

    values = read.numbers(table, column)
    read.complain(table, np.isnan(values), column, "must be given")
    read.complain(table, ~np.isfinite(values), column, "must be finite")
    read.complain(table, values < 0, column, "must not be negative")
    return values


def _numeric(series: object) -> FloatColumn | None:
    """A further column as numbers, where all of it is."""
    import polars as pl

    if not isinstance(series, pl.Series):
        return None
    numbers = series.cast(pl.Float64, strict=False)
    return None if numbers.null_count() else numbers.to_numpy()


def _parents(table: "Table", mapping: Mapping[str, str], order: IntColumn) -> tuple[IntColumn, IntColumn]:
    """Parents of each row in the new order. A cell names ids, separated by spaces or semicolons."""
    import polars as pl

    from rota.kernel.reading import columns as read

    rows = len(order)
    ids = table.frame[mapping["id"]].cast(pl.String).to_list() if "id" in mapping else [str(row) for row in range(rows)]
    place = np.empty(rows, np.int64)
    place[order] = np.arange(rows)
    where = {name: int(place[row]) for row, name in enumerate(ids)}
    if len(where) < rows:
        twice = np.array([ids.index(name) != row for row, name in enumerate(ids)])
        read.complain(table, twice, mapping.get("id", "id"), "must be there once only")
    cells = table.frame[mapping["parents"]].cast(pl.String, strict=False).fill_null("").to_list()
    found: list[list[int]] = [[] for _ in range(rows)]
    for row, cell in enumerate(cells):
        names = [name for name in re.split(r"[;\s]+", cell.strip()) if name]
        unknown = [name for name in names if name not in where]
        if unknown:
            bad = np.zeros(rows, bool)
            bad[row] = True
            read.complain(table, bad, mapping["parents"], f"must name ids of this file ('{unknown[0]}' is none)")
        found[where[ids[row]]] = [where[name] for name in names]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in found])]).astype(np.int64)
    return offsets, np.array([parent for each in found for parent in each], np.int64)
