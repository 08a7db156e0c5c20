"""Published claims on routes, batching, migration, disaggregation, programs and autoscaling, each on three loads.

    python -m bench.claims_mechanisms --data FOLDER [--only routes] [--seeds 5] [--write docs/what-holds-up/mechanisms.md]

FOLDER holds `azure2023` (Azure LLM inference traces 2023) and `mooncake`. A number is how many times better than the first policy of the scenario; generated
loads are drawn for each seed, recorded traces are cut into as many windows one after the other, and each window is an observation. In parentheses the t
interval of the logarithm, paired by seed or window. Capacities (`batching`) are found by halving an interval of rates seven times.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.claims import Table, command, times_better, window
from rota.study.scenario import Scenario, read
from rota.worlds.serving.arrivals import Scale, apply_arrivals
from rota.worlds.serving.model import Workload
from rota.worlds.serving.read import read_trace

EXAMPLES = Path(__file__).parents[1] / "examples/serving"
Metrics = Mapping[str, float]
LARGER_IS_BETTER = ("goodput_share", "prefix_hit_rate")


@dataclass(frozen=True)
class Load:
    """Changes to the scenario; a recorded trace is read from `trace` and played at `factor` times its rate."""

    name: str
    changes: tuple[str, ...] = ()
    trace: str = ""
    factor: float = 1.0


@dataclass(frozen=True)
class Study:
    """A scenario, what is measured, its loads, and other fleets that its policies are compared on."""

    file: str
    measures: tuple[str, ...]
    loads: tuple[Load, ...]
    fleets: tuple[tuple[str, tuple[str, ...]], ...] = (("", ()),)  # the first policy of the first one is the baseline


CONV, CODE = "azure2023/AzureLLMInferenceTrace_conv.csv.gz", "azure2023/AzureLLMInferenceTrace_code.csv.gz"
MOONCAKE = "mooncake/conversation_trace.jsonl.gz"


def azure(conv: float, code: float) -> tuple[Load, Load]:
    """Both traces, so many times as fast as recorded."""
    return (
        Load(f"(b) Azure conv x {conv:g}", trace=CONV, factor=conv),
        Load(f"(b) Azure code x {code:g}", trace=CODE, factor=code),
    )


def bursts(rate: float, *more: str) -> Load:
    """The fitted jumps between two rates."""
    return Load("(c) bursts", (f"workload.generate.rate={rate:g}", "workload.generate.variation=fitted", *more))


PAPER = Load("(a) paper-like")
POISSON = Load("(a) paper-like", ("workload.generate.variation=none", "workload.generate.rate=10"))
GAMMA = Load("(c) bursts", ("workload.arrivals={gamma: {rate: 12, cv: 4}}",))
JUMPS = "{cv: 2.12, seconds: 8.3}"  # as fitted to Azure's code
MIXED = "fleet=[{model: llama-3-8b, gpu: a100-80g, count: 4}]"
STUDIES = (
    Study("routes", ("ttft_mean", "ttft_p99", "e2e_mean"), (PAPER, *azure(7, 6), bursts(30))),
    Study(
        "shared-prefix",
        ("prefix_hit_rate", "ttft_mean", "ttft_p99"),
        (
            PAPER,
            Load(
                "(b) Mooncake conversation x 1",
                ("fleet.0.kv_blocks=20000", "fleet.0.count=8", "fleet.0.gpu=h100"),
                MOONCAKE,
                1.0,
            ),
            *azure(4, 4),
            Load(
                "(c) bursts",
                (
                    "workload={generate: {kind: chat, requests: 6000, rate: 14, sessions: {turns: 5, gap_seconds: 20, system_tokens: 1024}}}",
                ),
            ),
        ),
    ),
    Study("migration", ("e2e_p99", "ttft_p99", "e2e_mean"), (POISSON, *azure(2, 2), bursts(6))),
    Study(
        "disaggregated",
        ("goodput_share", "tpot_p99", "ttft_p99", "e2e_mean"),
        (PAPER, *azure(3, 2), GAMMA),
        (("four that do both", (MIXED,)), ("two and two", ())),
    ),
    Study(
        "agents",
        ("program_e2e_mean", "program_e2e_p90", "e2e_mean"),
        (
            PAPER,
            Load("(a) fan out", ("workload.programs.kind=fan_out", "workload.programs.rate=1.6")),
            Load("(a) best of 4", ("workload.programs.kind=best_of", "workload.programs.rate=2.4")),
            Load("(c) bursts", ("workload.programs.cv=4",)),
            Load(
                "(c) fan out, bursts",
                ("workload.programs.kind=fan_out", "workload.programs.rate=1.6", "workload.programs.cv=4"),
            ),
            Load("(c) a rate that jumps", (f"workload.programs.variation={JUMPS}",)),
        ),
    ),
    Study(
        "autoscaling",
        ("cost_per_million_tokens", "goodput_share", "ttft_p99"),
        (PAPER, *azure(2, 2), bursts(11, "workload.generate.profile=constant")),
    ),
)


class Recorded:
    """Windows of a recorded trace, as many as there are seeds."""

    def __init__(self, file: Path, factor: float, count: int) -> None:
        whole = read_trace(file)
        self.windows = [window(whole, k, count) for k in range(count)]
        self.windows = [apply_arrivals(each, Scale(factor), np.random.default_rng(0)) for each in self.windows]


def workloads(scenario: Scenario, load: Load, data: Path, seeds: int) -> list[Workload]:
    world: Any = scenario.world
    if load.trace:
        return Recorded(data / load.trace, load.factor, seeds).windows
    return [world.workload(scenario.case, seed) for seed in range(seeds)]


def measure(scenario: Scenario, policy: Mapping[str, Any], work: Workload, seed: int) -> Metrics:
    """The metrics of a run."""
    world: Any = scenario.world
    metrics: Metrics = world.run(scenario.case, work, policy, seed).metrics
    return metrics


def lines(study: Study, data: Path, seeds: int) -> Iterator[str]:
    """The rows of a study's table."""
    for load in study.loads:
        found: dict[str, list[Metrics]] = {}
        for fleet, changes in study.fleets:
            scenario = read(EXAMPLES / f"{study.file}.yaml", [*load.changes, *changes])
            works = workloads(scenario, load, data, seeds)
            for policy in scenario.policies:
                label = f"{fleet}, {policy['name']}" if fleet else str(policy["name"])
                found[label] = [measure(scenario, policy, work, seed) for seed, work in enumerate(works)]
        (base, first), *others = found.items()
        means = [np.mean([each[name] for each in first]) for name in study.measures]
        yield f"| {load.name} | *{base}* | " + " | ".join(f"*{value:.4g}*" for value in means) + " |"
        for label, runs in others:
            cells = [
                times_better(
                    [each[name] for each in first], [each[name] for each in runs], name not in LARGER_IS_BETTER
                )
                for name in study.measures
            ]
            lost = sum(each["unfinished"] + each["rejected"] for each in runs)
            note = f" ({lost:g} not served)" if lost != sum(e["unfinished"] + e["rejected"] for e in first) else ""
            yield f"| | {label}{note} | " + " | ".join(cells) + " |"


# -- capacity -----------------------------------------------------------------------------------------------------


BATCHING = (
    Load("(a) paper-like"),
    Load("(b) Azure conv", trace=CONV),
    Load("(b) Azure code", trace=CODE),
    Load("(c) bursts", ("workload.arrivals={gamma: {rate: 3, cv: 4}}",)),
)


def capacity(run: Callable[[float], Metrics], limit: float) -> float:
    """The largest rate factor at which the 99th percentile between tokens keeps its limit and the median request waits at most 2 s."""

    def keeps(factor: float) -> bool:
        metrics = run(factor)
        return metrics["itl_p99"] <= limit and metrics["queueing_p50"] <= 2.0

    low, high = 0.0, 1.0
    while keeps(high) and high < 64:
        low, high = high, 2 * high
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def capacities(data: Path, seeds: int, limit: float) -> Iterator[str]:
    """For each load and batcher: how many times the load of the first one within the limit."""
    for load in BATCHING:
        scenario = read(EXAMPLES / "batching.yaml", list(load.changes))
        works = workloads(scenario, load, data, seeds)
        found: dict[str, list[float]] = {}
        for policy in scenario.policies:
            found[str(policy["name"])] = []
            for seed, work in enumerate(works):

                def run(
                    factor: float,
                    work: Workload = work,
                    seed: int = seed,
                    policy: Any = policy,
                    scenario: Scenario = scenario,
                ) -> Metrics:
                    faster = apply_arrivals(work, Scale(factor), np.random.default_rng(0))
                    return measure(scenario, policy, faster, seed)

                rate = (len(work) - 1) / float(work.arrival[-1] - work.arrival[0])
                found[str(policy["name"])].append(rate * capacity(run, limit))
        (base, first), *others = found.items()
        yield f"| {load.name} | *{base}* | *{np.mean(first):.3g}* |"
        for label, rates in others:
            yield f"| | {label} | {times_better(first, rates, smaller=False)} |"


def tables(given: argparse.Namespace) -> Iterator[Table]:
    for study in STUDIES:
        yield Table(study.file, ("load", "policy", *study.measures), lines(study, given.data, given.seeds))
    for limit in (0.05, 0.2):
        titles = ("load", "batcher", "capacity, requests/s")
        yield Table(f"batching {limit:g}", titles, capacities(given.data, given.seeds, limit))


if __name__ == "__main__":
    command(__doc__, [*(study.file for study in STUDIES), "batching"], tables)
