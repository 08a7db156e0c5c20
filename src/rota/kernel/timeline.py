"""Spans on resources: who used what, from when to when. What a Gantt chart draws and a trace viewer opens."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError

IntColumn = npt.NDArray[np.int64]
FloatColumn = npt.NDArray[np.float64]
TextColumn = npt.NDArray[np.str_]

COLUMNS = ("host", "lane", "label", "start", "end", "kind")


@dataclass(frozen=True, eq=False)
class Spans:
    """Half-open intervals ``[start, end)`` in seconds on lanes of hosts, one a row. Columns become read-only.

    Raises:
        InputError: unequal lengths, a time that is not finite, an end before its start.
    """

    host: IntColumn
    lane: IntColumn
    label: TextColumn
    start: FloatColumn
    end: FloatColumn
    kind: TextColumn

    def __post_init__(self) -> None:
        for name, dtype in zip(COLUMNS, (np.int64, np.int64, np.str_, np.float64, np.float64, np.str_), strict=True):
            column: npt.NDArray[Any] = np.array(getattr(self, name), dtype=dtype)
            if column.shape != (len(self.host),):
                raise InputError(f"spans: column {name} has shape {column.shape}, expected ({len(self.host)},)")
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        for name in ("start", "end"):
            self._refuse(~np.isfinite(getattr(self, name)), f"{name} must be a finite number of seconds")
        self._refuse(self.end < self.start, "a span must not end before it starts")

    def _refuse(self, broken: npt.NDArray[np.bool_], rule: str) -> None:
        if broken.any():
            row = int(np.argmax(broken))
            raise InputError(f"spans, row {row}: {rule}, found [{self.start[row]}, {self.end[row]})")

    def __len__(self) -> int:
        return len(self.host)

    @classmethod
    def from_columns(cls, columns: Mapping[str, npt.ArrayLike]) -> Self:
        """Spans from named columns, such as `RunResult.spans`; `kind` may be absent.

        Raises:
            InputError: a column is missing, or see the class.
        """
        missing = [name for name in COLUMNS if name not in columns and name != "kind"]
        if missing:
            raise InputError(f"spans: column {missing[0]} is missing (columns: {', '.join(COLUMNS)})")
        kind = columns.get("kind", np.full(len(np.asarray(columns["host"])), ""))
        return cls(*(np.asarray(columns[name] if name != "kind" else kind) for name in COLUMNS))

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns by name."""
        return {name: getattr(self, name) for name in COLUMNS}

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """The spans of some rows (numbers or a mask)."""
        return type(self)(*(getattr(self, name)[rows] for name in COLUMNS))

    def window(self, start: float, end: float, *, cut: bool = False) -> Self:
        """The spans that touch ``[start, end)``: whole, or cut at its borders."""
        inside = (self.end > start) | ((self.start == self.end) & (self.start >= start))
        seen = self.take(inside & (self.start < end))
        if not cut:
            return seen
        trimmed = {"start": np.maximum(seen.start, start), "end": np.minimum(seen.end, end)}
        return type(self)(**{**seen.columns(), **trimmed})

    def overlaps(self) -> IntColumn:
        """Pairs of rows that overlap on one lane of one host, shape ``(pairs, 2)``; empty when there is none.

        Only neighbours in order of start are compared: any overlap implies one between neighbours. Spans of no length
        overlap nothing.
        """
        rows = np.flatnonzero(self.end > self.start)
        rows = rows[np.lexsort((self.end[rows], self.start[rows], self.lane[rows], self.host[rows]))]
        first, second = rows[:-1], rows[1:]
        same = (self.host[first] == self.host[second]) & (self.lane[first] == self.lane[second])
        meet = same & (self.start[second] < self.end[first])
        return np.stack([first[meet], second[meet]], axis=1).astype(np.int64)

    def check(self) -> None:
        """Every lane does one thing at a time.

        Raises:
            InputError: two spans overlap on a lane.
        """
        for one, other in self.overlaps().tolist():
            raise InputError(
                f"spans, rows {one} and {other}: a lane holds one span at a time, found "
                f"[{self.start[one]}, {self.end[one]}) and [{self.start[other]}, {self.end[other]}) "
                f"on lane {self.lane[one]} of host {self.host[one]}"
            )

    def to_csv(self, path: Path) -> None:
        """Write one line a span. Floats are written so that they read back to the bit."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(self._rows())

    @classmethod
    def from_csv(cls, path: Path) -> Self:
        """Read what `to_csv` wrote.

        Raises:
            InputError: the file is not readable or not such a table, with the line.
        """
        try:
            with path.open(newline="", encoding="utf-8") as file:
                lines = list(csv.reader(file))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as CSV: {error}") from error
        if not lines or tuple(lines[0]) != COLUMNS:
            raise InputError(f"{path}, line 1: expected the header {','.join(COLUMNS)}")
        return cls._from_rows([_parsed(path, number, line) for number, line in enumerate(lines[1:], start=2)])

    def to_trace(self, path: Path, hosts: Mapping[int, str] | None = None) -> None:
        """Write a Chrome trace, which ui.perfetto.dev and chrome://tracing open: a process a host, a thread a lane.

        Times are in microseconds there, so they read back to about 1e-16 of their value, not to the bit. Format: Trace
        Event Format, Google 2016.
        """
        names = hosts or {}
        events: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": host, "args": {"name": names.get(host, f"host {host}")}}
            for host in np.unique(self.host).tolist()
        ]
        lanes = sorted(set(zip(self.host.tolist(), self.lane.tolist(), strict=True)))
        events += [
            {"ph": "M", "name": "thread_name", "pid": host, "tid": lane, "args": {"name": f"lane {lane}"}}
            for host, lane in lanes
        ]
        for host, lane, label, start, end, kind in self._rows():
            times = {"ts": start * 1e6, "dur": (end - start) * 1e6}
            events.append({"ph": "X", "name": label, "cat": kind, "pid": host, "tid": lane, **times})
        path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")

    @classmethod
    def from_trace(cls, path: Path) -> Self:
        """Read the complete events (``"ph": "X"``) of a Chrome trace with numeric `pid` and `tid`.

        Raises:
            InputError: the file is not such a trace.
        """
        try:
            events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
            return cls._from_rows([_from_event(event) for event in events if event.get("ph") == "X"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: not a Chrome trace: {type(error).__name__}: {error}") from error

    def _rows(self) -> Iterable[tuple[Any, ...]]:
        return zip(*(getattr(self, name).tolist() for name in COLUMNS), strict=True)

    @classmethod
    def _from_rows(cls, rows: Sequence[tuple[Any, ...]]) -> Self:
        return cls(*(np.array([row[place] for row in rows]) for place in range(len(COLUMNS))))


def _parsed(path: Path, number: int, line: list[str]) -> tuple[Any, ...]:
    try:
        host, lane, label, start, end, kind = line
        return int(host), int(lane), label, float(start), float(end), kind
    except ValueError as error:
        raise InputError(f"{path}, line {number}: not a span ({','.join(COLUMNS)}): {error}") from error


def _from_event(event: Mapping[str, Any]) -> tuple[Any, ...]:
    start = event["ts"] / 1e6
    return event["pid"], event["tid"], event["name"], start, start + event["dur"] / 1e6, event.get("cat", "")
