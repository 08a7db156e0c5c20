"""Recordings of the live router as traces: a folder of Parquet files, of which only what was served counts."""

import re
from pathlib import Path

import polars as pl

from rota.kernel.errors import InputError, nearest
from rota.kernel.reading.tables import Table

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
