"""Coefficients of the linear timing model from measured iterations.

Non-negative least squares (Lawson and Hanson 1974) on relative errors: each row is divided by its measured seconds,
so that a short decode step counts as much as a long prefill. A keyed fifth of the rows is held out and never seen by
the fit that is judged.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError, nearest
from rota.kernel.streams import uniform
from rota.worlds.serving.timing.features import NAMES
from rota.worlds.serving.timing.files import read

Array = npt.NDArray[np.float64]

HELD_OUT = 0.2
SECONDS = "seconds"
# What the fit may use. Extremes and squares are left to the tables: their linear effect is taken by the pairs and
# contexts.
USED = ("prefill_tokens", "prefill_requests", "prefill_pairs", "decodes", "decode_context", "samples")


@dataclass(frozen=True)
class Fit:
    """Coefficients (seconds a unit, ``constant`` first), and how wrong they are on rows not used in the fit."""

    coefficients: dict[str, float]
    rows: int
    held_out: int
    median_error: float  # of |predicted / measured - 1|
    p90_error: float

    def yaml(self) -> str:
        """The ``timing`` of a scenario."""
        inside = "\n".join(f"    {name}: {value:.6g}" for name, value in self.coefficients.items())
        return f"timing:\n  linear:\n{inside}\n"


def fit(path: Path, seed: int = 1) -> Fit:
    """Fit a CSV of measured iterations.

    Args:
        path: columns ``seconds`` and any of `features.NAMES` (at least prefill_tokens or decodes), one row an
            iteration.
        seed: which rows are held out.

    Raises:
        InputError: missing, damaged or empty file, a bad cell (with its line), too few rows for the features,
        nothing to fit.
    """
    columns = _columns(path)
    seconds = columns.pop(SECONDS)
    names = [name for name in USED if name in columns and columns[name].any()]
    if not names:
        raise InputError(f"{path}: every column is 0 ({', '.join(columns)}), nothing to fit")
    wanted = 5 * (len(names) + 1)
    if len(seconds) < wanted:
        raise InputError(
            f"{path}: {len(seconds)} rows are too few to fit {len(names) + 1} coefficients and judge them; "
            f"give at least {wanted}"
        )
    design = np.column_stack([np.ones(len(seconds)), *(columns[name] for name in names)])
    held = np.asarray(uniform(seed, "fit-timing/held-out", np.arange(len(seconds))) < HELD_OUT)
    if not held.any():
        held[-1] = True
    error = np.abs(design[held] @ relative_least_squares(design[~held], seconds[~held]) / seconds[held] - 1)
    values = relative_least_squares(design, seconds)
    coefficients = {name: float(value) for name, value in zip(("constant", *names), values, strict=True) if value > 0}
    return Fit(coefficients, len(seconds), int(held.sum()), float(np.median(error)), float(np.quantile(error, 0.9)))


def _columns(path: Path) -> dict[str, Array]:
    import polars as pl

    from rota.worlds.serving.timing.files import content

    lines = content(path).splitlines()
    if not lines:
        raise InputError(f"{path}: the file is empty")
    try:
        header = pl.read_csv(lines[0] + b"\n", infer_schema=False).columns
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not a CSV table ({str(error).splitlines()[0]})") from None
    known = (SECONDS, *NAMES)
    for name in header:
        if name not in known:
            raise InputError(f"{path}: unknown column '{name}'{nearest(name, known)}")
    if not {"prefill_tokens", "decodes"} & set(header):
        raise InputError(f"{path}: needs a column prefill_tokens or decodes (columns: {', '.join(header)})")
    columns = read(path, (SECONDS, *(name for name in header if name != SECONDS)))
    zero = np.flatnonzero(columns[SECONDS] == 0)
    if len(zero):
        raise InputError(f"{path}, line {zero[0] + 2}: seconds must be above 0")
    return columns


def relative_least_squares(design: Array, seconds: Array, weight: Array | None = None) -> Array:
    """Relative non-negative least squares, rows weighted where weights are given, columns scaled to one size for the solver."""
    from scipy.optimize import nnls

    weights = np.ones(len(seconds)) if weight is None else weight
    relative = design * (weights / seconds)[:, None]
    scale = np.maximum(np.linalg.norm(relative, axis=0), 1e-300)
    return np.asarray(nnls(relative / scale, weights)[0] / scale)
