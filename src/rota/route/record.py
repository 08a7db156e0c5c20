"""The recording: one row a request, in Parquet, without any text. A recording is a trace that `rota run` replays.

Rows are written every `flush_seconds` to a small file of their own (``part-N.parquet``), each whole or not at all: a kill -9 loses what came
since the last flush and nothing else. Every `rotate_seconds` the parts become one file (``requests-FIRST-LAST.parquet``, the numbers of the parts
in it). A file is complete when its name is there; the operating system still has to write it to disk, so a power cut may lose more than a kill.
"""

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rota.kernel.errors import InputError
from rota.route.job import Job
from rota.route.log import Log
from rota.route.settings import Recording

if TYPE_CHECKING:
    import polars as pl

PART = re.compile(r"part-(\d{12})\.parquet")
WHOLE = re.compile(r"requests-(\d{12})-(\d{12})\.parquet")
KEPT_MOST = 200_000  # rows kept in memory while the disk refuses them; the oldest go then, and are counted


def session_number(salt: bytes, session: str) -> int:
    """A number for a session that says nothing of its name; -1 for none. Fits a double, as trace readers want."""
    if not session:
        return -1
    return (
        int.from_bytes(blake2b(session.encode("utf-8", "surrogateescape"), digest_size=8, key=salt).digest(), "little")
        >> 12
    )


class Recorder:
    """Collects rows and writes them on a rhythm, away from the event loop."""

    def __init__(self, settings: Recording, folder: Path, block_tokens: int, log: Log) -> None:
        self.settings, self.folder, self._log = settings, folder, log
        self._block_column = f"prefix_blocks_{block_tokens}"
        self._block_tokens = block_tokens
        self._rows: list[dict[str, Any]] = []
        self.written = self.lost = 0
        self._next = 0
        self._over = asyncio.Event()
        self.fleet: Callable[[], dict[str, Any]] = dict  # what the backends are, for whoever replays
        self._described = "{}"
        self._task: asyncio.Task[None] | None = None

    # -- rows -----------------------------------------------------------------------------------------------------

    def add(self, job: Job, backend: str, now: float, prompt: int, output: int, policy: str) -> None:
        """A request is over."""
        start = job.release
        limits = {f"{name}_limit": _known(getattr(job, f"{name}_limit")) for name in ("ttft", "tpot", "e2e")}
        self._rows.append(
            {
                "arrival": datetime.fromtimestamp(job.wall, UTC),
                "dispatched": _known(job.dispatched - start),
                "first_token": _known(job.first_byte - start),
                "finish": now - start,
                "prompt_tokens": prompt,
                "output_tokens": output,
                "cached_tokens": job.cached_tokens,
                "predicted_tokens": job.output_tokens,
                "counted": job.counted_output is not None,
                "tenant": job.tenant.name,
                "session": job.session,
                "priority": job.priority,
                **limits,
                "model": job.model,
                "path": job.path,
                "stream": job.stream,
                "backend": backend,
                "attempts": job.attempts,
                "status": job.status,
                "outcome": job.outcome,
                "policy": policy,
                "decided_by": job.decided_by,
                "cost_of": list(job.costs),
                "costs": list(job.costs.values()),
                self._block_column: list(job.blocks[: prompt // self._block_tokens]),
            }
        )

    def _frame(self, rows: list[dict[str, Any]]) -> "pl.DataFrame":
        import polars as pl

        number, text, whole = pl.Float64, pl.String, pl.Int64
        schema: dict[str, Any] = {
            "arrival": pl.Datetime("us", "UTC"), "dispatched": number, "first_token": number, "finish": number,
            "prompt_tokens": whole, "output_tokens": whole, "cached_tokens": whole, "predicted_tokens": number,
            "counted": pl.Boolean, "tenant": text, "session": whole, "priority": whole, "ttft_limit": number,
            "tpot_limit": number, "e2e_limit": number, "model": text, "path": text, "stream": pl.Boolean,
            "backend": text, "attempts": whole, "status": whole, "outcome": text, "policy": text, "decided_by": text,
            "cost_of": pl.List(text), "costs": pl.List(number), self._block_column: pl.List(whole),
        }  # fmt: skip
        return pl.DataFrame(rows, schema=schema)

    # -- files ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the folder, remove what an interrupted rotation left twice, and go on after the last number. Raises InputError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            names = [each.name for each in self.folder.iterdir()]
            wholes = [(int(m[1]), int(m[2])) for name in names if (m := WHOLE.fullmatch(name))]
            parts = [int(m[1]) for name in names if (m := PART.fullmatch(name))]
            for number in parts:
                if any(first <= number <= last for first, last in wholes):
                    self._part(number).unlink()
            for name in names:
                if name.startswith(".writing-"):
                    (self.folder / name).unlink()
            probe = self.folder / ".writing-probe"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise InputError(f"recording.folder: {self.folder} cannot be written ({error.strerror})") from None
        self._next = max([*(last for _, last in wholes), *parts], default=-1) + 1

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:012d}.parquet"

    def _write(self, frame: "pl.DataFrame", target: Path) -> None:
        partial = self.folder / f".writing-{target.name}"
        frame.write_parquet(partial)
        partial.replace(target)

    def _write_part(self, rows: list[dict[str, Any]]) -> None:
        self._write(self._frame(rows), self._part(self._next))
        self._next += 1

    def _rotate(self) -> None:
        """Parts into one file; the oldest files go when there are too many."""
        import polars as pl

        parts = sorted(each for each in self.folder.iterdir() if PART.fullmatch(each.name))
        if parts:
            numbers = [int(each.stem.removeprefix("part-")) for each in parts]
            frames = [pl.read_parquet(each) for each in parts]
            whole = self.folder / f"requests-{numbers[0]:012d}-{numbers[-1]:012d}.parquet"
            self._write(pl.concat(frames, how="diagonal"), whole)
            for each in parts:
                each.unlink()
        wholes = sorted(each for each in self.folder.iterdir() if WHOLE.fullmatch(each.name))
        for each in wholes[: -self.settings.keep_files]:
            each.unlink()

    def _write_fleet(self, described: str) -> None:
        partial = self.folder / ".writing-fleet.json"
        partial.write_text(described, encoding="utf-8")
        partial.replace(self.folder / "fleet.json")

    async def flush(self) -> None:
        """Write what has come since the last flush. A disk that refuses is logged, and the rows are kept for the next time."""
        described = json.dumps(self.fleet(), indent=1)
        if described != self._described:
            try:
                await asyncio.to_thread(self._write_fleet, described)
                self._described = described
            except OSError as error:
                self._log.often("recording not written", because=str(error))
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        try:
            await asyncio.to_thread(self._write_part, rows)
            self.written += len(rows)
        except Exception as error:  # a full disk must not stop the traffic
            self._rows = rows + self._rows
            over = len(self._rows) - KEPT_MOST
            if over > 0:
                del self._rows[:over]
                self.lost += over
            self._log.often(
                "recording not written",
                because=f"{type(error).__name__}: {error}",
                kept=len(self._rows),
                lost=self.lost,
            )

    async def rotate(self) -> None:
        """Make one file of the parts."""
        try:
            await asyncio.to_thread(self._rotate)
        except (
            Exception
        ) as error:  # as above; the parts stay, and are read as well as the file that they would have become
            self._log.often("recording not rotated", because=f"{type(error).__name__}: {error}")

    def start(self, clock: Callable[[], float]) -> None:
        """Flush and rotate on the configured rhythm."""
        self._task = asyncio.create_task(self._run(clock))

    async def _run(self, clock: Callable[[], float]) -> None:
        rotated = clock()
        while not self._over.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self.settings.flush_seconds):
                    await self._over.wait()
            await self.flush()
            if clock() - rotated >= self.settings.rotate_seconds:
                rotated = clock()
                await self.rotate()

    async def close(self) -> None:
        """Write everything and leave one file."""
        self._over.set()  # not cancelled: a file that is being written is written to its end
        if self._task is not None:
            await self._task
        await self.flush()
        await self.rotate()


def _known(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None
