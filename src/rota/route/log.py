"""The log: one JSON object a line, on standard error. Keys, prompts and answers never reach it, because nobody hands them over."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
SAME_MOST = 10  # times that one event is written in a minute; the rest is counted


class Log:
    """Structured lines: time, level, event and what belongs to it."""

    def __init__(self, level: str, wall: Callable[[], float], stream: TextIO | None = None) -> None:
        self._least, self._wall, self._stream = LEVELS[level], wall, stream
        self._counts: dict[str, list[float]] = {}  # event -> start of its minute, lines in it, lines left out

    def change(self, level: str) -> None:
        """Another least level."""
        self._least = LEVELS[level]

    def debug(self, event: str, **fields: Any) -> None:
        self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._write("error", event, fields)

    def often(self, event: str, **fields: Any) -> None:
        """A warning that may come with every request: at most ten a minute, then how many were left out."""
        now = self._wall()
        count = self._counts.setdefault(event, [now, 0, 0])
        if now - count[0] >= 60:
            if count[2]:
                fields["left_out"] = int(count[2])
            count[:] = [now, 0, 0]
        count[1] += 1
        if count[1] > SAME_MOST:
            count[2] += 1
        else:
            self._write("warning", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if LEVELS[level] < self._least:
            return
        time = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, "level": level, "event": event, **fields}, default=str)
        stream = self._stream or sys.stderr
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):  # who closed our standard error does not want to hear from us
            pass
