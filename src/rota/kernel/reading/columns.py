"""Columns to checked arrays. Every rule that a value breaks is said with its row, and what was found there."""

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rota.kernel.errors import InputError
from rota.kernel.reading.tables import Table

FloatColumn = npt.NDArray[np.float64]
IntColumn = npt.NDArray[np.int64]

WHOLE_MAX = 2**31 - 1  # a larger count is a damaged field
UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}  # parts of a second
_CLOCKS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f%:z")
_YEARS = (1678, 2261)  # what nanoseconds in 64 bits can hold


def complain(table: Table, bad: npt.NDArray[np.bool_], column: str, rule: str) -> None:
    """Raise InputError for the first bad row, if any, and say how many more there are."""
    rows = np.flatnonzero(bad)
    if not len(rows):
        return
    value = table.frame[column][int(rows[0])]
    found = "nothing" if value is None or (isinstance(value, str) and not value.strip()) else f"'{_shorten(value)}'"
    more = f" ({len(rows) - 1} more rows like it)" if len(rows) > 1 else ""
    raise InputError(f"{table.path}, {table.place(int(rows[0]))}: {column} {rule}, found {found}{more}")


def _shorten(value: Any) -> str:
    text = repr(value.to_list()) if isinstance(value, pl.Series) else str(value)
    text = "".join(each if each.isprintable() else "?" for each in text)
    return text if len(text) <= 40 else text[:37] + "..."


def numbers(table: Table, column: str) -> FloatColumn:
    """The column as float64; NaN where there is nothing."""
    series = table.frame[column]
    empty = series.is_null()
    if series.dtype == pl.String:
        stripped = series.str.strip_chars()
        empty = empty | (stripped == "").fill_null(True)
        found = stripped.cast(pl.Float64, strict=False)
    elif series.dtype.is_numeric() or series.dtype == pl.Null:
        found = series.cast(pl.Float64)
    else:
        found = pl.Series([None] * len(series), dtype=pl.Float64)
    bad = found.is_null() & ~empty
    complain(table, (bad | found.is_nan().fill_null(False)).to_numpy(), column, "must be a number")
    return found.fill_null(float("nan")).to_numpy()


def integers(table: Table, column: str, least: int, most: int = WHOLE_MAX, empty: int | None = None) -> IntColumn:
    """Whole numbers in [least, most]. Nothing in a row is an error, unless `empty` says what it means.

    Raises:
        InputError: names the first row that is empty, not a whole number, or out of range.
    """
    values = numbers(table, column)
    missing = np.isnan(values)
    if empty is None:
        complain(table, missing, column, "must be given")
    else:
        values = np.where(missing, float(empty), values)
        if missing.all():
            return np.full(len(values), empty, dtype=np.int64)
    with np.errstate(invalid="ignore"):
        complain(table, values != np.floor(values), column, "must be a whole number")
    complain(table, values < least, column, f"must be at least {least}")
    complain(table, values > most, column, f"must be at most {most:,}")
    return values.astype(np.int64)


def limits(table: Table, column: str) -> FloatColumn:
    """Seconds above zero; nothing in a row means no limit (inf)."""
    values = numbers(table, column)
    values = np.where(np.isnan(values), np.inf, values)
    complain(table, values <= 0, column, "must be a number of seconds above 0 (leave it empty for no limit)")
    return values


def labels(table: Table, column: str) -> tuple[IntColumn, tuple[str, ...]]:
    """Names as (index of each row, distinct names in order of first appearance); nothing is the name ''."""
    texts = table.frame[column].cast(pl.String, strict=False).fill_null("")
    names = texts.unique(maintain_order=True)
    index = texts.replace_strict(names, pl.Series(range(len(names)), dtype=pl.Int64), return_dtype=pl.Int64)
    return index.to_numpy().copy(), tuple(names.to_list())


def arrivals(table: Table, column: str, unit: str | None, default: str, origin: str) -> tuple[FloatColumn, bool]:
    """Seconds, and whether the column held wall-clock times.

    Args:
        unit: of numeric times; None means `default`.
        origin: "first" counts from the earliest arrival, "keep" leaves numbers as they are, "auto" is "first" for
            wall-clock times only.
    """
    series = table.frame[column]
    clock = _clock(table, column, series)
    if clock is not None:
        if origin == "keep":
            raise InputError(f"{table.path}: {column} holds wall-clock times, which need origin: first (found keep)")
        return (clock - clock.min()) / 1e9, True
    times = numbers(table, column)
    complain(table, np.isnan(times), column, "must be given")
    complain(table, np.isinf(times), column, "must be finite")
    times = times / UNITS[unit or default]
    if origin == "first":
        return times - times.min(), False
    complain(table, times < 0, column, "must not be negative (origin: first counts from the earliest)")
    return times, False


def _clock(table: Table, column: str, series: pl.Series) -> IntColumn | None:
    """Nanoseconds since 1970 where the column holds dates and times, else None."""
    if isinstance(series.dtype, pl.Datetime):
        complain(table, series.is_null().to_numpy(), column, "must be given")
        return series.dt.cast_time_unit("ns").to_physical().to_numpy()
    if series.dtype != pl.String:
        return None
    texts = series.str.strip_chars().str.replace("T", " ", literal=True).str.replace("Z$", "+00:00")
    for clock in _CLOCKS:
        parsed = texts.str.to_datetime(clock, time_unit="us", strict=False)
        if parsed.null_count() < len(parsed):
            complain(table, parsed.is_null().to_numpy(), column, "must be a date and time like 2023-11-16 18:15:46.68")
            complain(
                table,
                ~parsed.dt.year().is_between(*_YEARS).to_numpy(),
                column,
                "must have a year in {}..{}".format(*_YEARS),
            )
            return texts.str.to_datetime(clock, time_unit="ns", strict=False).to_physical().to_numpy()
    return None
