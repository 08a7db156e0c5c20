"""Vidur's two stored runs of Llama-2-70B on two GPUs, from raw profiles, and how far tiny changes of iteration times move them.

    python -m bench.vidur_70b --data FOLDER

FOLDER holds `peer_recipe` and `vidur_profiles`. Every iteration is made longer by so many per mille; shown is the difference of rota from Vidur in per cent.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from bench.speed import REPOSITORY
from rota.study.scenario import Scenario, read
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.metrics import outcomes

RUNS = ("L70TP2_vllm_conv2k_q1", "L70TP2_sarathi512_conv2k_q1")
COLUMNS = {"ttft": "prefill_e2e_time", "e2e": "request_e2e_time"}


def scenario(data: Path) -> Scenario:
    profiles = data / "vidur_profiles"
    timing = f"{{tables: {profiles}/a100_llama2-70b, all_reduce: net_a100_pairwise_nvlink_all_reduce}}"
    model = ("fleet.0.model=llama-2-70b", "fleet.0.tp=2", "fleet.0.kv_blocks=3328", f"fleet.0.timing={timing}")
    trace = f"workload.trace={data}/peer_recipe/workload_conv2k_q1.csv.gz"
    return read(REPOSITORY / "examples/serving/parity-vidur.yaml", [trace, *model])


def differences(setting: Scenario, number: int, theirs: pl.DataFrame, longer: float) -> list[str]:
    """Restarts, and per cent from Vidur: p50, p90, p99 and mean of both measures."""
    world: Any = setting.world
    run = world.simulation(setting.case, world.workload(setting.case, 0), setting.policies[number], 0)
    run.clocks[:, at.SLOWNESS] = 1.0 + longer
    run.run()
    rows, cells = outcomes(run, setting.case.slo), [f"{run.jobs[at.PREEMPTIONS].sum()}"]
    for name, column in COLUMNS.items():
        for found, stored in zip(_summary(rows[name]), _summary(theirs[column].to_numpy()), strict=True):
            cells.append(f"{100 * (found / stored - 1):+.1f}")
    return cells


def _summary(values: Any) -> list[float]:
    return [*np.percentile(values, [50, 90, 99]), float(np.mean(values))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    setting = scenario(data)
    for number, name in enumerate(RUNS):
        theirs = pl.read_csv(data / f"peer_recipe/vidur_out_{name}.csv.gz").sort("Request Id")
        names = [f"{measure} {part}" for measure in COLUMNS for part in ("p50", "p90", "p99", "mean")]
        table = Table(
            "per mille longer", "restarts", *names, title=f"{name}, {theirs['request_num_restarts'].sum()} restarts"
        )
        for longer in np.linspace(-2.0, 2.0, 17):
            table.add_row(f"{longer:+.2f}", *differences(setting, number, theirs, longer / 1000))
        Console(width=150).print(table)


if __name__ == "__main__":
    main()
