"""How fast the serving world simulates what concerns several replicas: requests per CPU second after compilation, the run alone.

    python -m bench.serving_mechanisms [--against SOURCES] [--data FOLDER]

SOURCES: the `src` of another commit; runs that use no mechanism are then timed with both, in turn, in the same minutes, and the ratio of
the best of each is printed (`git archive COMMIT src | tar x -C /tmp/old`, then `--against /tmp/old/src`). FOLDER: the traces, as for bench.speed.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.speed import DATA, REPOSITORY, WORLD, best, million, mooncake
from rota.kernel.decisions import Order, Place
from rota.kernel.tables import FloatColumn, Hosts, IntColumn, Jobs
from rota.worlds.serving.settings import Case


class Watching(Order):
    """A user's order in plain Python: asked at every iteration, and told of every token."""

    preemptive = True
    reads = ("id", "release")

    def __init__(self) -> None:
        self.tokens = 0.0

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        return jobs.release

    def on_progress(self, rows: IntColumn, tokens: FloatColumn, now: float) -> None:
        self.tokens += float(tokens.sum())


class Emptiest(Place):
    """A user's route in plain Python: asked at every request."""

    reads = ("outstanding", "active_tokens")

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        return hosts.outstanding + 1e-6 * hosts.active_tokens


WATCHING, EMPTIEST = "bench.serving_mechanisms:Watching", "bench.serving_mechanisms:Emptiest"
GROUP = {"model": "llama-3-8b", "gpu": "a100-80g", "max_running": 128, "timing": "roofline"}
CHAT = {"generate": {"kind": "chat", "requests": 20000, "rate": 14, "variation": "none"}}
SHARED = {
    "generate": {
        "kind": "chat",
        "requests": 20000,
        "rate": 14,
        "variation": "none",
        "sessions": {"turns": 4, "gap_seconds": 30, "system_tokens": 512},
    }
}


def rows() -> list[tuple[str, dict[str, Any], dict[str, Any], float]]:
    """(what, scenario, policy, goal in requests per CPU second)."""
    split = [{**GROUP, "count": 2, "role": "prefill"}, {**GROUP, "count": 2, "role": "decode"}]
    cached = [
        {**GROUP, "model": "llama-3.1-8b", "count": 4, "prefix_caching": True}
    ]  # its context holds every conversation
    return [
        ("prefix cache, least outstanding", {"workload": SHARED, "fleet": cached}, {}, 1e5),
        ("prefix cache, Dynamo's route", {"workload": SHARED, "fleet": cached}, {"route": "kv_router"}, 1e5),
        ("prefix cache, SGLang's route (asked in Python)", {"workload": SHARED, "fleet": cached}, {"route": "cache_aware"}, 1e5),
        ("prefix cache, reuse and work", {"workload": SHARED, "fleet": cached}, {"route": "reuse_and_work"}, 1e5),
        ("disaggregated, 2 + 2", {"workload": CHAT, "fleet": split}, {}, 5e4),
        ("migration, Llumnix", {"workload": CHAT, "fleet": [{**GROUP, "count": 4, "kv_blocks": 1500}]}, {"migrate": "llumnix"}, 5e4),
        ("pools, Splitwise's mixed pool", {"workload": CHAT, "fleet": split, "information": {"output_tokens": "exact"}}, {"pool": "mixed_pool"}, 5e4),
        ("pools, AcceLLM's pairs", {"workload": CHAT, "fleet": [{**GROUP, "count": 4}]}, {"pool": "accellm"}, 5e4),
        ("pools, together (asked in Python)", {"workload": CHAT, "fleet": split}, {"pool": "together"}, 4e4),
        ("a Python route, asked at each request", {"workload": CHAT, "fleet": [{**GROUP, "count": 4}]}, {"route": EMPTIEST}, 4e4),
        ("failures", {"workload": CHAT, "fleet": [{**GROUP, "count": 4}], "failures": {"mean_between": 300}}, {}, 5e4),
        ("swap", {"workload": CHAT, "fleet": [{**GROUP, "count": 4, "kv_blocks": 1500, "swap": {"blocks": 40000}}]}, {}, 5e4),
        ("autoscaling, reactive", {"workload": CHAT, "fleet": [{**GROUP, "count": 6}]}, {"scale": "reactive"}, 5e4),
        ("a Python order, asked and told of every token", {"workload": CHAT, "fleet": [{**GROUP, "count": 4}]}, {"order": WATCHING}, 1.5e4),
    ]  # fmt: skip


PLAIN: Sequence[tuple[str, dict[str, Any], dict[str, Any]]] = (
    ("1 replica, vllm_v1", {"workload": CHAT, "fleet": [{**GROUP, "count": 1}]}, {}),
    ("4 replicas, vllm_v0", {"workload": CHAT, "fleet": [{**GROUP, "count": 4}]}, {"batch": "vllm_v0"}),
    ("4 replicas, sarathi", {"workload": CHAT, "fleet": [{**GROUP, "count": 4}]}, {"batch": "sarathi"}),
    ("4 replicas, prefix cache", {"workload": SHARED, "fleet": [{**GROUP, "count": 4, "prefix_caching": True}]}, {}),
)


# The same runs as in bench.speed.
FROM_SPEED: Sequence[tuple[str, Callable[[Path], tuple[Case, dict[str, Any]]]]] = (
    ("1,000,000 chat requests, 8 replicas", million),
    ("Mooncake conversation, 8 replicas, prefix cache", mooncake),
)


def time_plain(folder: Path) -> dict[str, float]:
    """CPU seconds of the runs that use no mechanism, best of five, of the long one best of two."""
    runs = [(what, WORLD.load(sections, REPOSITORY), {"name": "bench", **policy}) for what, sections, policy in PLAIN]
    runs += [(what, *build(folder)) for what, build in FROM_SPEED]
    found = {}
    for what, setting, policy in runs:
        try:
            work = WORLD.workload(setting, 0)
        except ValueError as error:
            print(f"{what}: skipped: {error}", file=sys.stderr)
            continue
        found[what] = best(setting, work, policy, 2 if len(work) > 100_000 else 5)[0]
    return found


def compare(sources: Path, folder: Path, rounds: int = 5) -> None:
    """Both versions in turn; the ratio of their best times."""
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for version, path in (("now", REPOSITORY / "src"), ("then", sources)):
            command = [sys.executable, "-m", "bench.serving_mechanisms", "--plain", "--data", str(folder)]
            folders = os.pathsep.join((str(path), str(REPOSITORY)))
            environment = {**os.environ, "PYTHONPATH": folders}
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=REPOSITORY
            )
            for what, seconds in json.loads(done.stdout).items():
                times.setdefault(what, {}).setdefault(version, []).append(seconds)
    for what, both in times.items():
        now, then = (min(both[version]) for version in ("now", "then"))
        print(f"{what}: {now:.4f} s now, {then:.4f} s then, ratio {now / then:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--plain", action="store_true", help="only the runs without a mechanism, as JSON")
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    if given.plain:
        print(json.dumps(time_plain(given.data.resolve())))
        return
    if given.against:
        compare(given.against, given.data.resolve())
        return
    table = Table("what", "requests", "CPU s", "requests / CPU s", "goal", "iterations / CPU s")
    for what, sections, policy, goal in rows():
        setting = WORLD.load(sections, REPOSITORY)
        work = WORLD.workload(setting, 0)
        seconds, _, run = best(setting, work, {"name": "bench", **policy}, 3)
        from rota.worlds.serving.kernels.layout import ITERATIONS

        iterations = run.hosts[:, ITERATIONS].sum()
        table.add_row(what, f"{len(work):,}", f"{seconds:.3f}", f"{len(work) / seconds:,.0f}", f"{goal:,.0f}", f"{iterations / seconds:,.0f}")  # fmt: skip
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
