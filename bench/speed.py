"""How fast the serving world simulates: requests per CPU second after compilation; the run alone, and with the building of its arrays.

    python -m bench.speed [--data FOLDER]

FOLDER holds the traces (default: ROTA_DATA). A row whose trace is absent is skipped and
says so. Each figure is the best of several runs: other work on the machine only ever makes a run slower.
"""

import argparse
import gc
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rota.kernel.decisions import Order
from rota.kernel.tables import FloatColumn, Jobs
from rota.worlds.serving.model import Workload
from rota.worlds.serving.settings import Case
from rota.worlds.serving.world import Serving

REPOSITORY = Path(__file__).parent.parent
WORLD = Serving()
DATA = Path(os.environ.get("ROTA_DATA", REPOSITORY.parent / "shared/data"))
VIDUR_COLUMNS = {"arrival": "arrived_at", "prompt_tokens": "num_prefill_tokens", "output_tokens": "num_decode_tokens"}


@dataclass
class ShortPromptFirst(Order):
    """A user's policy in plain Python, asked at each admission."""

    reads = ("prompt_tokens",)

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return jobs.prompt_tokens


@dataclass
class ShortPromptFirstPreemptive(ShortPromptFirst):
    """The same, asked at each iteration with a queue, and allowed to displace."""

    preemptive = True


def case(workload: dict[str, Any], folder: Path, **fleet: Any) -> Case:
    """A scenario of one model with Vidur's predictor tables where they are at hand, otherwise the roofline."""
    tables = folder / "traces/peer_recipe/vidur_pred_a100_llama3-8b_per_token_ops.csv.gz"
    timing = (
        {"tables": str(tables).removesuffix("_per_token_ops.csv.gz"), "format": "vidur"}
        if tables.exists()
        else "roofline"
    )
    group = {
        "model": "llama-3-8b", "gpu": "a100-80g", "kv_blocks": 30208, "max_running": 128, "max_batched_tokens": 4096, "timing": timing,
    }  # fmt: skip
    return WORLD.load({"workload": workload, "fleet": [group | fleet]}, folder)


def best(setting: Case, work: Workload, policy: dict[str, Any], repeat: int = 5) -> tuple[float, float, Any]:
    """CPU seconds of the best run, alone and with its set-up, and the last run."""
    alone, whole, run = [], [], None
    for _ in range(repeat + 1):  # the first one compiles
        gc.collect()
        start = time.process_time()
        run = WORLD.simulation(setting, work, policy, 0)
        ready = time.process_time()
        run.run()
        end = time.process_time()
        alone.append(end - ready)
        whole.append(end - start)
    return min(alone[1:]), min(whole[1:]), run


def mooncake(folder: Path) -> tuple[Case, dict[str, Any]]:
    """Mooncake's conversation trace on eight replicas with prefix caches."""
    trace = {"trace": str(folder / "traces/mooncake/conversation_trace.jsonl.gz")}
    fleet = {
        "count": 8,
        "kv_blocks": 8192,
        "block_tokens": 64,
        "prefix_caching": True,
        "timing": "roofline",
        "model": "llama-3.1-8b",
    }
    return case(trace, folder, **fleet), {"name": "bench", "batch": "vllm_v1", "route": "least_outstanding"}


def million(folder: Path) -> tuple[Case, dict[str, Any]]:
    """A million generated requests on eight replicas."""
    spec = {"generate": {"kind": "chat", "requests": 1_000_000, "rate": 60.0}}
    policy = {"name": "bench", "batch": "vllm_v1", "route": "least_outstanding"}
    return case(spec, folder, count=8, timing="roofline"), policy


def rows(folder: Path) -> list[tuple[str, Callable[[], tuple[Case, dict[str, Any]]], float]]:
    """(what, how, the goal in requests per CPU second)."""
    recipe = folder / "traces/peer_recipe"

    def vidur(name: str, policy: dict[str, Any], **fleet: Any) -> Callable[[], tuple[Case, dict[str, Any]]]:
        trace = {"trace": str(recipe / f"workload_{name}.csv.gz"), "columns": VIDUR_COLUMNS}
        return lambda: (case(trace, folder, **fleet), {"name": "bench", **policy})

    user = {"batch": "vllm_v1", "order": "bench.speed:ShortPromptFirst"}
    preemptive = {"batch": "vllm_v1", "order": "bench.speed:ShortPromptFirstPreemptive"}
    return [
        ("conv10k q6, 1 replica, vllm_v0", vidur("conv10k_q6", {"batch": "vllm_v0"}), 1e6),
        ("conv10k q6, 1 replica, vllm_v1", vidur("conv10k_q6", {"batch": "vllm_v1"}), 1e6),
        ("conv10k q6, 1 replica, sarathi 512", vidur("conv10k_q6", {"batch": "sarathi"}), 1e6),
        ("conv10k q20, 4 replicas, least outstanding", vidur("conv10k_q20", {"batch": "vllm_v1"}, count=4), 5e5),
        (
            "conv10k q20, 4 replicas, two choices",
            vidur("conv10k_q20", {"batch": "vllm_v1", "route": "power_of_two"}, count=4),
            5e5,
        ),
        ("Mooncake conversation, 8 replicas, prefix cache", lambda: mooncake(folder), 12031 / 0.5),
        ("conv10k q6, a Python order, asked at each admission", vidur("conv10k_q6", user), 8e4),
        ("conv10k q6, a preemptive Python order", vidur("conv10k_q6", preemptive), 1.5e4),
        ("1,000,000 chat requests, 8 replicas", lambda: million(folder), 1e6 / 6),
    ]


def main() -> None:
    """Measure every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    folder = parser.parse_args().data.resolve()
    table = Table(
        "what", "requests", "CPU s", "requests / CPU s", "with set-up", "goal", "iterations / CPU s", "questions"
    )
    for what, build, goal in rows(folder):
        try:
            setting, policy = build()
            work = WORLD.workload(setting, 0)
        except ValueError as error:
            table.add_row(what, "", "", f"skipped: {error}", "", f"{goal:,.0f}", "", "")
            continue
        seconds, whole, run = best(setting, work, policy, 2 if len(work) > 100_000 else 10)
        iterations = run.hosts[:, _iterations()].sum()
        asked = run.questions.order + run.questions.place
        numbers = (
            f"{len(work):,}",
            f"{seconds:.4f}",
            f"{len(work) / seconds:,.0f}",
            f"{len(work) / whole:,.0f}",
            f"{goal:,.0f}",
            f"{iterations / seconds:,.0f}",
            f"{asked:,}",
        )
        table.add_row(what, *numbers)
    Console(width=150).print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak resident memory of this process: {peak:,.0f} MiB; numpy {np.__version__}")


def _iterations() -> int:
    from rota.worlds.serving.kernels.layout import ITERATIONS

    return int(ITERATIONS)


if __name__ == "__main__":
    main()
