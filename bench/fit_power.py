"""The shares of a GPU's power, fitted to the power columns of splitwise-sim's table: prints what `rota.worlds.serving.power_model` has typed in.

    python -m bench.fit_power --data FOLDER

FOLDER holds `splitwise/perf_model.csv.gz` (Patel et al., Splitwise, ISCA 2024): 44 settings of Llama-2-70B and BLOOM-176B on A100 80 GB, medians of five runs,
power in shares of the board's 400 W; its H100 rows have none. A run is one prompt phase and 127 token iterations, so that its average power is the
time-weighted mean of the two phases' powers; its peak is that of the prompt phase. The averages at 8,192 tokens
that are an idle board's (0.17) give the idle share; those from 4,096 on are left out. A peak above the board's limit counts as 1, as in the model.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.optimize import least_squares

from rota.worlds.serving.catalogue import Model, gpu, model
from rota.worlds.serving.power_model import HBM_JOULES_A_BYTE, GpuPower, Work, work_of

A100 = gpu("a100-80g")
BLOOM = Model(
    "bloom-176b", "bigscience/bloom", 70, 14336, 112, 112, 128, 57344, 250880, 2048, gated=False, tied=True
)  # config.json of bigscience/bloom
MODELS = {"llama2-70b": model("llama-2-70b"), "bloom-176b": BLOOM}
IDLE_ROWS = 8192  # prompt tokens of the runs whose averages are those of an idle board
PAUSED_ROWS = 4096  # from here on averages are below those of the token phase alone: pauses were sampled with them
PEAK_WEIGHT = 0.3  # a peak is the largest of a few samples; energy follows the averages
TOKENS = 127  # iterations after the prompt


def settings(file: Path) -> pl.DataFrame:
    """A row a setting with power, medians of its runs; milliseconds."""
    keys = ["model", "tensor_parallel", "prompt_size", "batch_size"]
    rows = pl.read_csv(file).filter((pl.col("hardware") == "a100-80gb") & (pl.col("peak_power") > 0))
    columns = ("peak_power", "average_power", "prompt_time", "token_time")
    return rows.group_by(keys).agg(pl.col(*columns).median()).sort(keys)


def phases(row: dict[str, float | str | int]) -> tuple[tuple[Work, float], tuple[Work, float]]:
    """(work, seconds) of the prompt iteration and of one token iteration."""
    shape, tp = MODELS[str(row["model"])], int(row["tensor_parallel"])
    size, batch = int(row["prompt_size"]), int(row["batch_size"])
    work = work_of(shape, tp)
    prompt = work.of(size * batch, batch * size * (size + 1) / 2, 0.0)
    token = work.of(batch, 0.0, batch * (size + TOKENS / 2))
    return (prompt, float(row["prompt_time"]) * 1e-3), (token, float(row["token_time"]) * 1e-3)


def residuals(
    shares: npt.NDArray[np.float64], idle: float, rows: list[dict[str, float]], weights: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Model less measurement, of averages and of peaks, times their weights."""
    power = GpuPower(idle, *shares.tolist())
    found: list[float] = []
    for row in rows:
        (prompt, first), (token, later) = phases(row)
        high, low = (power.share(A100, work, seconds) for work, seconds in ((prompt, first), (token, later)))
        if weights[1]:
            found.append(weights[1] * (high - min(row["peak_power"], 1.0)))
        if weights[0] and row["prompt_size"] < PAUSED_ROWS:
            average = (high * first + low * later * TOKENS) / (first + later * TOKENS)
            found.append(weights[0] * (average - row["average_power"]))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    rows = settings(parser.parse_args().data / "splitwise/perf_model.csv.gz").to_dicts()
    idle = float(np.median([row["average_power"] for row in rows if row["average_power"] < 0.2]))
    start, low, high = [0.1, 0.7, 1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 5.0]
    fit = least_squares(residuals, start, bounds=(low, high), args=(idle, rows, (1.0, PEAK_WEIGHT)))
    print(f"idle {idle:.3f}, busy {fit.x[0]:.3f}, memory {fit.x[1]:.3f}, compute {fit.x[2]:.3f}")
    print(f"HBM alone: {A100.bandwidth * HBM_JOULES_A_BYTE / A100.tdp:.3f} of the board")
    for name, weights in (("averages", (1.0, 0.0)), ("peaks", (0.0, 1.0))):
        error = residuals(fit.x, idle, rows, weights)
        print(f"{name}: {len(error)} figures, rms {np.sqrt((error**2).mean()):.3f}, worst {np.abs(error).max():.3f}")


if __name__ == "__main__":
    main()
