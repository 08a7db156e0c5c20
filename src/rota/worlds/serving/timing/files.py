"""Measured tables from CSV files, plain or gzipped, checked once at the door."""

import gzip
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError, nearest

Columns = dict[str, npt.NDArray[Any]]


def find(prefix: Path, suffix: str = "") -> Path | None:
    """The file PREFIX + suffix with one of the endings ``.csv.gz``, ``.csv`` or none; None when there is none."""
    for ending in (".csv.gz", ".csv", ""):
        path = prefix.parent / f"{prefix.name}{suffix}{ending}"
        if path.is_file():
            return path
    return None


def need(prefix: Path, suffix: str = "") -> Path:
    """Like `find`, but a missing file is an InputError."""
    path = find(prefix, suffix)
    if path is None:
        raise InputError(f"{prefix}{suffix}.csv.gz: no such file (nor .csv); check `timing.tables`")
    return path


def content(path: Path) -> bytes:
    """The bytes of a file, decompressed when it is gzip."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path}: the gzip file is truncated or damaged; fetch it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read(
    path: Path,
    numbers: Sequence[str],
    texts: Sequence[str] = (),
    *,
    optional: Sequence[str] = (),
    signed: Sequence[str] = (),
) -> Columns:
    """Columns of a CSV file.

    Args:
        path: the file.
        numbers: columns that must be there, finite and not negative.
        texts: columns that must be there, as text.
        optional: left out when the file does not have them; empty cells become NaN.
        signed: those of `numbers` that may be negative.

    Raises:
        InputError: missing file or column, no rows, damaged gzip, a cell that is not a finite number >= 0 (with its
        line).
    """
    import polars as pl

    data = content(path)
    if not data.strip():
        raise InputError(f"{path}: the file is empty")
    try:
        frame = pl.read_csv(BytesIO(data), infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not a CSV table ({str(error).splitlines()[0]})") from None
    for name in (*numbers, *texts):
        if name not in frame.columns:
            raise InputError(f"{path}: column '{name}' is missing{nearest(name, frame.columns)}")
    if not frame.height:
        raise InputError(f"{path}: the table has a header but no rows")
    columns: Columns = {name: frame[name].fill_null("").to_numpy() for name in texts}
    for name in (*numbers, *(each for each in optional if each in frame.columns)):
        column = frame[name]
        values = column.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy().astype(np.float64)
        wrong = ~np.isfinite(values) | ((values < 0) & (name not in signed))
        if name in optional:
            wrong &= ~column.is_null().to_numpy() & (column.fill_null("") != "").to_numpy()
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"{path}, line {row + 2}: {name} must be a finite number{'' if name in signed else ' >= 0'}, "
                f"found '{column[row]}'"
            )
        columns[name] = values
    return columns


def axis(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The distinct values, ascending."""
    return np.unique(values)
