"""Files to tables: CSV, JSON lines and Parquet, each possibly gzipped, with the place of every row for messages."""

import csv
import gzip
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from rota.kernel.errors import InputError, nearest

_KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"


@dataclass(frozen=True)
class Table:
    """A file's rows, nothing converted yet. CSV columns are text; a missing value is null."""

    path: str
    frame: pl.DataFrame
    place: Callable[[int], str]  # row index -> "line 7"


def open_table(path: Path) -> Table:
    """Read a whole table file; its kind comes from the extension before .gz, or else from its first bytes.

    Raises:
        InputError: the file is missing, a folder, unreadable, empty, truncated or not what its name says.
    """
    data = read_bytes(path)
    if not data.strip():
        raise InputError(f"{path}: the file is empty; a trace has one row a job")
    names = path.name.removesuffix(".gz")
    kind = _KINDS.get(Path(names).suffix.lower()) or _sniff(data)
    table = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}[kind](path, data)
    if not len(table.frame):
        raise InputError(f"{path}: has a header but no rows; a trace has one row a job")
    return table


def read_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name the trace file in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file{_siblings(path)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if data.startswith(_GZIP):
        try:
            return gzip.decompress(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            said = "ends too early" if isinstance(error, EOFError) else str(error)
            raise InputError(f"{path}: the gzip data is truncated or damaged ({said}); fetch the file again") from None
    if data and path.suffix == ".gz":
        raise InputError(
            f"{path}: is named .gz but is not gzip data (starts with {data[:4]!r}); rename it or compress it"
        )
    return data


def _siblings(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor its folder {path.parent})"
    close = nearest(path.name, [each.name for each in path.parent.iterdir()])
    return close if close.startswith(";") else ""


def _sniff(data: bytes) -> str:
    if data.startswith(_PARQUET):
        return "parquet"
    return "jsonl" if data.lstrip()[:1] == b"{" else "csv"


def _csv(path: Path, data: bytes) -> Table:
    separator = "\t" if path.name.removesuffix(".gz").endswith(".tsv") else ","
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte {data[error.start]:#04x} is not UTF-8 text; a CSV trace is text"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path}, line {line}: has a zero byte; a CSV trace is text")

    def place(row: int) -> str:
        return f"line {_line_of(text, separator, row)}"

    try:
        frame = pl.read_csv(data, infer_schema=False, separator=separator)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}, {_ragged(text, separator) or str(error).splitlines()[0]}") from None
    header = [name.strip() for name in next(csv.reader(io.StringIO(text), delimiter=separator))]
    if twice := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
        raise InputError(f"{path}, line 1: the column '{twice[0]}' is there twice; rename or remove one")
    frame.columns = header
    return _without_blanks(path, frame, place)


def _without_blanks(path: Path, frame: pl.DataFrame, place: Callable[[int], str]) -> Table:
    """Skip blank lines (all fields missing), keeping the place of the rest."""
    kept = frame.select(~pl.all_horizontal(pl.all().is_null())).to_series()
    if kept.all():
        return Table(str(path), frame, place)
    rows = kept.arg_true().to_numpy()
    return Table(str(path), frame.filter(kept), lambda row: place(int(rows[row])))


def _line_of(text: str, separator: str, row: int) -> int:
    """The line that a record ends on, counting the header; read again only to word a message."""
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    for index, _ in enumerate(reader):
        if index == row + 1:
            break
    return reader.line_num


def _ragged(text: str, separator: str) -> str | None:
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    try:
        header = next(reader)
        for record in reader:
            if len(record) > len(header):
                return f"line {reader.line_num}: has {len(record)} fields, the header has {len(header)}"
    except csv.Error as error:
        return f"line {reader.line_num}: {error}"
    return None


def _jsonl(path: Path, data: bytes) -> Table:
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    numbers = [number for number, line in enumerate(lines) if line.strip()]
    decoder = msgspec.json.Decoder(dict[str, Any])
    rows = []
    for number in numbers:
        try:
            rows.append(decoder.decode(lines[number]))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            said = str(error).replace("`", "'")
            raise InputError(
                f"{path}, line {number + 1}: not a JSON object ({said}); a trace has one object a line"
            ) from None
    names = list(dict.fromkeys(name for row in rows for name in row))
    frame = pl.DataFrame([_series(name, [row.get(name) for row in rows]) for name in names])
    return Table(str(path), frame, lambda row: f"line {numbers[row] + 1}")


def _series(name: str, values: list[Any]) -> pl.Series:
    """One typed column where all values agree, otherwise text, so that the culprit can be named later."""
    try:
        return pl.Series(name, values, strict=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        pass
    if all(value is None or type(value) in (int, float) for value in values):
        return pl.Series(name, [None if value is None else float(value) for value in values])
    if all(value is None or isinstance(value, list) for value in values):
        return pl.Series(name, [None if value is None else [_text(each) for each in value] for value in values])
    return pl.Series(name, [_text(value) for value in values], dtype=pl.String)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def _parquet(path: Path, data: bytes) -> Table:
    try:
        frame = pl.read_parquet(io.BytesIO(data))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(
            f"{path}: not a readable Parquet file ({str(error).splitlines()[0]}); write it again"
        ) from None
    return Table(str(path), frame, lambda row: f"row {row + 1}")
