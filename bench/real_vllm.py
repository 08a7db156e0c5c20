"""rota beside vLLM 0.19 on real GPUs: percentiles of every request and the series of one second, nothing fitted to the runs.

    python -m bench.real_vllm --data FOLDER [--out real-vllm.html]

FOLDER holds LLMServingSim's `perf`, `real_vllm` and workload files (Cho et al., casys-kaist/LLMServingSim). The real series is sampled once a second from
the engine's log; ours is the mean over the same second, and begins with the first arrival.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from plotly.subplots import make_subplots
from rich.console import Console
from rich.table import Table

from rota.study.scenario import read
from rota.worlds.serving.metrics import outcomes, series, summarise

SCENARIO = Path(__file__).parents[1] / "examples/serving/parity-real-vllm.yaml"
WORKLOAD = "workload_sharegpt-llama-3.1-8b-300-sps10.jsonl.gz"
RUNS = {
    "RTX4090": ("RTX 4090", []),
    "RTXPRO6000": (
        "RTX PRO 6000",
        ["gpu=rtx-pro-6000", "kv_blocks=null", "max_running=128", "timing.graph_tokens=256"],
    ),
}


def real(folder: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """Columns of the requests, in order of arrival, and the series."""
    rows = pl.read_ndjson(folder / "requests.jsonl")
    queued, first, last = (rows[name].to_numpy() for name in ("queued_ts", "first_token_ts", "last_token_ts"))
    tokens = np.maximum(rows["output_toks"].to_numpy() - 1, 1)
    times = {"ttft": first - queued, "tpot": (last - first) / tokens, "e2e": last - queued}
    return times, pl.read_csv(folder / "timeseries.csv")


def ours(data: Path, card: str, changes: list[str]) -> tuple[dict[str, Any], dict[str, float], dict[str, Any]]:
    """Outcomes, metrics and series of the asynchronous engine."""
    scenario = read(
        SCENARIO,
        [
            f"workload.trace={data / WORKLOAD}",
            f"fleet.0.timing.tables={data / 'perf' / card / 'Llama-3.1-8B'}",
            *(f"fleet.0.{change}" for change in changes),
        ],
    )
    world: Any = scenario.world
    run = world.simulation(scenario.case, world.workload(scenario.case, 0), scenario.policies[0], 0)
    run.run()
    rows = outcomes(run, scenario.case.slo)
    return rows, summarise(run, rows), series(run)


def main() -> None:
    """Print a table a run and draw the series."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("real-vllm.html"))
    given = parser.parse_args()
    console = Console()
    titles = [f"{title}: {what}" for title, _ in RUNS.values() for what in ("running", "queued", "KV use")]
    figure = make_subplots(rows=len(RUNS), cols=3, subplot_titles=titles)
    for row, (card, (title, changes)) in enumerate(RUNS.items(), 1):
        folder = given.data / "real_vllm" / f"{card}__Llama-3.1-8B"
        measured, line = real(folder)
        rows, metrics, bins = ours(given.data.resolve(), card, changes)
        table = Table("", "mean", "p50", "p90", "p99", title=f"{title}: rota over vLLM - 1")
        for name, seen in measured.items():
            found = np.nan_to_num(rows[name])
            ratios = [
                found.mean() / seen.mean(),
                *np.percentile(found, [50, 90, 99]) / np.percentile(seen, [50, 90, 99]),
            ]
            table.add_row(name, *(f"{ratio - 1:+.2%}" for ratio in ratios))
        table.add_row("preemptions", f"{metrics['preemptions']:.0f}")
        console.print(table)
        width = bins["time"][1] - bins["time"][0]
        for column, (mine, theirs, scale) in enumerate(
            (("running", "running", 1), ("queued", "waiting", 1), ("kv_use", "kv_cache_pct", 100)), 1
        ):
            real_line = line[theirs].to_numpy() / scale
            figure.add_scatter(
                x=line["t"],
                y=real_line,
                name="vLLM",
                line_color="#888",
                row=row,
                col=column,
                showlegend=row == column == 1,
            )
            figure.add_scatter(
                x=bins["time"] + width,
                y=bins[mine],
                name="rota",
                line_color="#d62728",
                row=row,
                col=column,
                showlegend=row == column == 1,
            )
            if not real_line.any():
                console.print(f"{title} {mine}: the engine logged nothing")
                continue
            mean = np.interp(line["t"].to_numpy(), bins["time"] + width, bins[mine])
            off = np.abs(mean - real_line).mean()
            console.print(
                f"{title} {mine}: mean absolute difference {off:.3g}, largest real value {real_line.max():.3g}"
            )
    figure.update_layout(width=1200, height=600, template="plotly_white", margin={"t": 40, "b": 40})
    figure.update_xaxes(title_text="seconds", row=len(RUNS))
    figure.write_html(given.out, include_plotlyjs=True)
    console.print(json.dumps({"picture": str(given.out)}))


if __name__ == "__main__":
    main()
