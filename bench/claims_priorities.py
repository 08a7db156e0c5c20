"""Llumnix's priorities: what a headroom beside urgent requests adds to letting them go first, and what the others pay.

    python -m bench.claims_priorities --data FOLDER [--seeds 5] [--write docs/what-holds-up/mechanisms.md]

FOLDER holds `azure2023`. One request in ten is urgent, as in the paper. Loads, windows and intervals are those of `bench.claims_mechanisms`: a number is how
many times better than the first policy, paired by seed or window; the second table compares with the same policy without headroom.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.claims import Table, command, line, times_better
from bench.claims_mechanisms import EXAMPLES, Load, azure, workloads
from rota.study.scenario import Scenario, read
from rota.worlds.serving.model import Workload, make_workload

Metrics = Mapping[str, float]
MEASURES = ("urgent_ttft", "urgent_tpot", "urgent_e2e", "others_e2e")
# Sixteen replicas like the paper's LLaMA-7B on an A10: 13,616 tokens of KV, and a decode that takes 2.6 times as long when they are full as when they are empty
# (figure 4); its 1,600 tokens beside urgent requests (recalled) leave 12,016. Time of a prompt: half of the A10's 125 TFLOP/s.
STEP = "{linear: {constant: 0.026, prefill_tokens: 2.2e-4, decode_context: 3.1e-6}}"
PAPER = (
    f"fleet=[{{model: llama-2-7b, gpu: a100-80g, count: 16, kv_blocks: 851, max_running: 256, context: 13616, timing: {STEP}}}]",
    "policies.2.route.freest.headroom=12016",
    "policies.2.migrate.llumnix.headroom=12016",
)
RATE = 20.0  # requests a second of (a)
SHORT = ((0.0, 0.5, 0.8, 0.95, 0.99, 1.0), (4.0, 38.0, 113.0, 413.0, 1464.0, 6000.0))  # its table 1: shares, tokens
BURSTS = ("workload={generate: {kind: burst, requests: 6000, rate: 6, variation: fitted}}",)
LOADS = (
    Load("(a) paper-like, cv 4", PAPER, factor=4.0),
    Load("(a) paper-like, cv 8", PAPER, factor=8.0),
    *azure(2, 2),
    Load("(c) bursts", BURSTS),
)


def short_short(seed: int, cv: float, requests: int = 10_000) -> Workload:
    """The paper's short prompts and short answers, between whose quantiles the logarithm is straight; gamma gaps."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.gamma(1 / cv**2, cv**2 / RATE, requests))
    shares, tokens = SHORT
    drawn = np.exp(np.interp(rng.random((2, requests)), shares, np.log(tokens)))
    prompt, output = np.maximum(np.rint(drawn), 1).astype(np.int64)
    return make_workload(arrival, prompt, output)


def with_priorities(work: Workload) -> Workload:
    """One request in ten is urgent, as in Llumnix's experiment."""
    priority = np.ones(len(work), np.int64)
    priority[np.random.default_rng(len(work)).random(len(work)) < 0.1] = 0
    return replace(work, priority=priority)


def works_of(scenario: Scenario, load: Load, data: Path, seeds: int) -> list[Workload]:
    """The workloads of a load, with urgent requests."""
    short = load.changes == PAPER
    found = [short_short(seed, load.factor) for seed in range(seeds)] if short else None
    return [with_priorities(work) for work in found or workloads(scenario, load, data, seeds)]


def policies(scenario: Scenario) -> list[Mapping[str, Any]]:
    """Those of the study, and the one with headroom with half of it."""
    found: list[Mapping[str, Any]] = list(scenario.policies)
    half = float(found[2]["route"]["freest"]["headroom"]) / 2
    name = f"{found[2]['name']}, half of it"
    changed = {"route": {"freest": {"headroom": half}}, "migrate": {"llumnix": {"headroom": half}}}
    return [*found[:3], {**found[2], **changed, "name": name}, *found[3:]]


def measure(scenario: Scenario, policy: Mapping[str, Any], work: Workload, seed: int) -> Metrics:
    """Means over urgent requests, and over the others; seconds."""
    world: Any = scenario.world
    run = world.run(scenario.case, work, policy, seed)
    done = run.outcomes["status"] == "finished"
    urgent, others = done & (work.priority == 0), done & (work.priority > 0)
    found = {f"urgent_{name}": float(np.nanmean(run.outcomes[name][urgent])) for name in ("ttft", "tpot", "e2e")}
    moved = {name: run.metrics[name] for name in ("migrations", "migrations_given_up")}
    return {**found, "others_e2e": float(run.outcomes["e2e"][others].mean()), "lost": float((~done).sum()), **moved}


@cache
def results(data: Path, seeds: int) -> list[tuple[Load, dict[str, list[Metrics]]]]:
    """For each load the runs of each policy."""
    found = []
    for load in LOADS:
        scenario = read(EXAMPLES / "priorities.yaml", ["classes={}", "tenants={}", *load.changes])
        works = works_of(scenario, load, data, seeds)
        runs = {
            str(policy["name"]): [measure(scenario, policy, work, seed) for seed, work in enumerate(works)]
            for policy in policies(scenario)
        }
        found.append((load, runs))
        for label, each in runs.items():
            gone, stayed = (np.mean([run[name] for run in each]) for name in ("migrations", "migrations_given_up"))
            print(f"{load.name}, {label}: {gone:.0f} migrations a run, {stayed:.0f} given up", file=sys.stderr)
    return found


def against_first(data: Path, seeds: int) -> Iterator[str]:
    """All policies against the first one."""
    for load, found in results(data, seeds):
        base, *others = found
        yield from rows(load, base, others, found)


def against_plain(data: Path, seeds: int) -> Iterator[str]:
    """Headroom, and half of it, against the same policy without."""
    for load, found in results(data, seeds):
        _, plain, whole, half, *_ = found
        yield from rows(load, plain, [whole, half], found)


def rows(load: Load, base: str, others: Sequence[str], found: Mapping[str, Sequence[Metrics]]) -> Iterator[str]:
    first = found[base]
    means = [np.mean([each[name] for each in first]) for name in MEASURES]
    yield line(load.name, f"*{base}*", *(f"*{value:.3g}*" for value in means))
    for label in others:
        runs = found[label]
        if sum(each["lost"] for each in runs) != sum(each["lost"] for each in first):
            raise SystemExit(f"{load.name}, {label}: not as many served as under {base}")
        cells = [times_better([each[name] for each in first], [each[name] for each in runs]) for name in MEASURES]
        yield line("", label, *cells)


def tables(given: argparse.Namespace) -> Iterator[Table]:
    titles = ("load", "policy", *MEASURES)
    yield Table("priorities", titles, against_first(given.data, given.seeds))
    yield Table("headroom", titles, against_plain(given.data, given.seeds))


if __name__ == "__main__":
    command(__doc__, ["priorities", "headroom"], tables)
