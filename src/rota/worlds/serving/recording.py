"""Recordings of the live router as traces: a folder of Parquet files, of which only what was served counts."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from rota.kernel.errors import InputError, nearest
from rota.kernel.reading.tables import Table
from rota.worlds.serving.model import Programs

_PART = re.compile(r"part-(\d+)\.parquet")
_WHOLE = re.compile(r"requests-(\d+)-(\d+)\.parquet")
_BLOCKS = re.compile(r"prefix_blocks_\d+")


def files(folder: Path) -> list[Path]:
    """The files of a recording in order, each row in one of them only: a part that a rotated file holds as well is left out."""
    try:
        names = sorted(each.name for each in folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from None
    wholes = [(int(match[1]), int(match[2]), name) for name in names if (match := _WHOLE.fullmatch(name))]
    parts = [(int(match[1]), name) for name in names if (match := _PART.fullmatch(name))]
    kept = [(first, name) for first, _, name in wholes]
    kept += [(n, name) for n, name in parts if not any(first <= n <= last for first, last, _ in wholes)]
    if not kept:
        raise InputError(
            f"{folder}: is a folder without a recording of rota route in it (files such as part-000000000000.parquet)"
        )
    return [folder / name for _, name in sorted(kept)]


def rows(folder: Path) -> pl.DataFrame:
    """Every row of a recording, sorted by arrival. Raises InputError where a file is damaged or of another kind."""
    frames = []
    for file in files(folder):
        try:
            frame = pl.read_parquet(file)
        except (OSError, pl.exceptions.PolarsError) as error:
            said = next(iter(str(error).splitlines()), "")
            raise InputError(f"{file}: is not a Parquet file that can be read ({said})") from None
        if missing := {"arrival", "outcome", "prompt_tokens", "output_tokens", "backend"} - set(frame.columns):
            raise InputError(f"{file}: has no column {min(missing)}; it is not of a recording")
        frames.append(frame)
    return pl.concat(frames, how="diagonal").sort("arrival", maintain_order=True)


def under_policy(every: pl.DataFrame, policy: str, where: str) -> pl.DataFrame:
    """The rows of one of the place policies of a recording. Raises InputError where there are none."""
    known = [name for name in every["policy"].unique(maintain_order=True).to_list() if name]
    if policy not in known:
        raise InputError(f"{where}: nothing was recorded under '{policy}'{nearest(policy, known)}")
    return every.filter(pl.col("policy") == policy)


def open_recording(folder: Path, under: str | None = None) -> tuple[Table, tuple[str, ...]]:
    """The served requests of a recording as a table, and in words what was left out. Raises InputError.

    Args:
        under: Only those that came while this place policy decided.
    """
    every = rows(folder)
    if under is not None:
        every = under_policy(every, under, str(folder))
    good = (pl.col("outcome") == "complete") & (pl.col("prompt_tokens") >= 1) & (pl.col("output_tokens") >= 1)
    served = every.filter(good.fill_null(False))
    if not len(served):
        raise InputError(f"{folder}: none of its {len(every):,} requests was served to its end")
    notices = []
    if left := len(every) - len(served):
        notices.append(
            f"{folder.name}: {left:,} of {len(every):,} requests are left out: not served to their end, or without tokens"
        )
    sizes = [name for name in served.columns if _BLOCKS.fullmatch(name)]
    if len(sizes) > 1:
        served = served.drop(sizes)
        notices.append(f"{folder.name}: prompt blocks are left out, because their size changed ({', '.join(sizes)})")
    return Table(str(folder), served, lambda row: f"request {row + 1}"), tuple(notices)


def conversations(served: pl.DataFrame) -> Programs:
    """Who waited for whom: a request of a session came so long after the answers that it followed, under any scheduler.

    It is not said on the wire, so a request is believed to have waited for those of its session that had ended when it came and that none of the others
    of these had waited for. Requests without a session, and those that came before any answer of theirs had ended, come when they came.

    Args:
        served: Rows of a recording, sorted by arrival.
    """
    arrival = served["arrival"].dt.epoch("us").to_numpy() / 1e6
    end = arrival + served["finish"].to_numpy()
    session = served["session"].fill_null(-1).to_numpy() if "session" in served.columns else np.full(len(served), -1)
    members: dict[int, list[int]] = {}
    waited: list[list[int]] = []
    program = np.empty(len(served), np.int64)
    programs = 0
    for row, name in enumerate(session.tolist()):
        before = members.setdefault(name, []) if name >= 0 else []
        program[row] = program[before[0]] if before else programs
        programs += not before
        done = [each for each in before if end[each] <= arrival[row]]
        passed = {parent for each in done for parent in waited[each]}
        waited.append([each for each in done if each not in passed])
        before.append(row)
    return Programs(program, *_lists(waited), _delays(waited, arrival, end))


def _lists(waited: list[list[int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in waited]))).astype(np.int64)
    return offsets, np.array([each for row in waited for each in row], np.int64)


def _delays(
    waited: list[list[int]], arrival: npt.NDArray[np.float64], end: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    return np.array(
        [arrival[k] - max(end[each] for each in row) if row else 0.0 for k, row in enumerate(waited)], np.float64
    )
