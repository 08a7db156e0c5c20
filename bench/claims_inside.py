"""What happens inside one replica, each claim on three loads: like the paper's, recorded, and bursty. The same columns as bench/claims_order.py.

    python -m bench.claims_inside --data FOLDER [--only s3] [--seeds 10] [--loads FILE] [--write docs/what-holds-up/inside.md]

FOLDER holds `azure2023`. A number is how many times better than the baseline (the first policy) a policy is, with its 95 % interval: on generated
loads over the seeds, paired; on a recorded trace a block bootstrap over its requests, and for a rate of the whole run no interval, because one run is
one number.
`--loads`: the loads of DeepSeek-V2-Lite's experts, columns e0 to e63.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.claims import Load, Table, command, factor, line, once
from bench.claims_order import EXAMPLES, Outcomes, times_better
from rota.study.scenario import Scenario, read
from rota.study.statistics import t_interval

Column = npt.NDArray[np.float64]
MEASURES: dict[str, tuple[str, bool]] = {  # of a request: title, whether smaller is better
    "ttft": ("time to first token", True),
    "tpot": ("time between tokens", True),
    "e2e": ("end-to-end latency", True),
    "good": ("within limits", False),
}
RATES = {"throughput": ("tokens a second", "throughput_tokens")}  # of a run


@dataclass(frozen=True)
class Claim:
    """A scenario, its loads, what is measured.

    Attributes:
        variants: Scenarios to compare instead of policies, the first one the baseline.
        displaced: Whether displaced requests are told, under the baseline and under the policy.
    """

    file: str
    measures: tuple[str, ...]
    loads: Callable[[Path], list[Load]]
    variants: tuple[tuple[str, str], ...] = ()
    displaced: bool = False


def azure(data: Path, conv: float, code: float, *more: str) -> list[Load]:
    """The Azure traces at so many times their rates."""
    found = []
    for name, title, times in (("conv", "conversations", conv), ("code", "code", code)):
        trace = data / "azure2023" / f"AzureLLMInferenceTrace_{name}.csv.gz"
        change = f"workload={{trace: {trace}, arrivals: {{scale: {times:g}}}}}"
        label = f"(b) {title} x {times:g}" if times != 1 else f"(b) {title}"
        found.append(Load(label, (change, *more), recorded=True))
    return found


def bursts(rate: float, *more: str) -> Load:
    return Load("(c) bursts", ("workload.generate.variation=fitted", f"workload.generate.rate={rate:g}", *more))


def like_the_paper(*more: str) -> Load:
    return Load("(a)", more)


def _past_future(data: Path) -> list[Load]:
    harder = Load("(a) twice the load", ("workload.generate.rate=24",))
    tiny = Load("(a) half the cache", ("fleet.0.kv_blocks=1250", "workload.generate.rate=7"))
    conv, code = azure(data, 1.2, 1.0)
    small = [
        replace(conv, changes=(*conv.changes, "fleet.0.kv_blocks=6000")),
        replace(code, changes=(*code.changes, "fleet.0.kv_blocks=1200")),
    ]
    return [like_the_paper(), harder, tiny, *small, bursts(6)]


def _s3(data: Path) -> list[Load]:
    told = [
        ("right in 9 of 10", "{bucket: {k: 10, accuracy: 0.9}}"),
        ("right in half", "{bucket: {k: 10, accuracy: 0.5}}"),
    ]
    found = [like_the_paper("information.output_tokens=oracle")]
    found += [Load(f"(a) classes {name}", (f"information.output_tokens={each}",)) for name, each in told]
    oracle = "information.output_tokens=oracle"
    short = Load("answers of code", ("workload.generate.kind=code", "workload.generate.rate=100", oracle))
    small = Load("(a) a third of the cache", ("fleet.0.kv_blocks=1700", "workload.generate.rate=30", oracle))
    return [*found, small, short, *azure(data, 4.0, 6.0, oracle), bursts(40, oracle)]


def _layers(data: Path) -> list[Load]:
    dense = Load("(a) dense model", ("fleet.0.model=qwen3-32b", "workload.generate.rate=2"))
    heavy = Load("(a) near saturation", ("workload.generate.rate=10",))
    return [like_the_paper(), heavy, dense, *azure(data, 1.5, 1.5), bursts(3)]


def _streams(data: Path) -> list[Load]:
    return [like_the_paper(), *azure(data, 1.2, 1.0), bursts(4)]


def _nano(data: Path) -> list[Load]:
    small = Load("(a) Llama-3-8B on one GPU", ("fleet.0.model=llama-3-8b", "fleet.0.tp=1"))
    long = Load("long prompts", ("workload.generate.kind=summarise",))
    return [like_the_paper(), small, long, *azure(data, 1000.0, 1000.0), bursts(500)]


def _drafts(data: Path) -> list[Load]:
    alone = Load("one at a time", ("workload.arrivals={closed: {concurrency: 1}}",))
    busy = [Load(f"{rate} a second", (f"workload.generate.rate={rate}",)) for rate in (1, 4, 8, 12)]
    return [alone, *busy, *azure(data, 0.8, 0.8), bursts(2)]


def _slots(data: Path) -> list[Load]:
    return [like_the_paper(), *azure(data, 1.2, 1.0), bursts(8)]


def _experts(data: Path) -> list[Load]:
    busy = [Load(f"{rate} a second", (f"workload.generate.rate={rate}",)) for rate in (2, 10, 40)]
    return [*busy, *azure(data, 3.0, 3.0), bursts(10)]


def claims(loads: Path | None) -> tuple[Claim, ...]:
    draft = "fleet.0.speculative={tokens: 4, acceptance: %s, draft: %s%s}"
    found = (
        Claim("past-future", ("good", "ttft", "e2e"), _past_future, displaced=True),
        Claim("s3", ("throughput", "e2e"), _s3, displaced=True),
        Claim("layered-prefill", ("ttft", "tpot", "e2e"), _layers),
        Claim("semi-pd", ("good", "ttft", "tpot", "e2e"), _streams),
        Claim(
            "nanoflow",
            ("throughput",),
            _nano,
            (
                ("one after the other", "fleet.0.timing=roofline"),
                ("two nano-batches", "fleet.0.timing={roofline: {overlap: {nano_batches: 2}}}"),
                ("four", "fleet.0.timing={roofline: {overlap: {nano_batches: 4}}}"),
                ("two, nothing in each other's way", "fleet.0.timing={roofline: {overlap: {interference: false}}}"),
            ),
        ),
        Claim(
            "speculative",
            ("tpot", "ttft", "e2e"),
            _drafts,
            (
                ("none", "fleet.0.speculative=null"),
                ("always", draft % (0.7, "llama-3-8b", "")),
                ("where it pays", draft % (0.7, "llama-3-8b", ", off_above: auto")),
                ("at 5 % of the cost, where it pays", draft % (0.7, 0.05, ", off_above: auto")),
            ),
        ),
        Claim("bca", ("throughput", "tpot", "e2e"), _slots),
    )
    if loads is None:
        return found
    uneven = "fleet.0.timing={roofline: {experts: {load: %s%s}}}"
    variants = (
        ("even loads", "fleet.0.timing={roofline: {experts: {}}}"),
        ("loads as traced", uneven % (loads, "")),
        ("even, shared by 4", "fleet.0.timing={roofline: {experts: {parallel: 4}}}"),
        ("as traced, shared by 4", uneven % (loads, ", parallel: 4")),
    )
    return (*found, Claim("experts", ("tpot", "e2e"), _experts, variants))


@dataclass(frozen=True)
class Runs:
    """The runs of a policy, seed by seed."""

    outcomes: list[Outcomes]
    metrics: list[Mapping[str, float]]


def runs(scenario: Scenario, policy: Mapping[str, Any], seeds: int) -> Runs:
    world: Any = scenario.world
    found = [world.run(scenario.case, world.workload(scenario.case, seed), policy, seed) for seed in range(seeds)]
    return Runs([run.outcomes for run in found], [run.metrics for run in found])


def cell(measure: str, base: Runs, ours: Runs, recorded: bool) -> str:
    """How many times better, with its interval."""
    if measure in RATES:
        key = RATES[measure][1]
        ratios = [np.log(one[key] / other[key]) for one, other in zip(ours.metrics, base.metrics, strict=True)]
        if recorded:
            return f"{np.exp(ratios[0]):.2f}"
        return factor(*np.exp(t_interval(np.array(ratios))))
    smaller = MEASURES[measure][1]
    pair = [[np.asarray(rows[measure], np.float64) for rows in each.outcomes] for each in (base, ours)]
    return factor(*times_better(pair[0], pair[1], smaller, recorded))


def lines(claim: Claim, data: Path, seeds: int) -> Iterator[str]:
    """The rows of a claim's table."""
    for load in claim.loads(data):
        count = 1 if load.recorded else seeds
        found: dict[str, Runs] = {}
        if claim.variants:
            for name, change in claim.variants:
                scenario = read(EXAMPLES / f"{claim.file}.yaml", [*load.changes, change])
                found[name] = runs(scenario, scenario.policies[0], count)
        else:
            scenario = read(EXAMPLES / f"{claim.file}.yaml", load.changes)
            found = {str(policy["name"]): runs(scenario, policy, count) for policy in scenario.policies}
        base, *others = found
        for name in others:
            cells = [cell(measure, found[base], found[name], load.recorded) for measure in claim.measures]
            if claim.displaced:
                counts = [
                    int(np.mean([each["preemptions"] for each in found[which].metrics])) for which in (base, name)
                ]
                cells.append(f"{counts[0]:,}, {counts[1]:,}")
            yield line(load.name, name, *cells)


def tables(given: argparse.Namespace) -> Iterator[Table]:
    for claim in claims(given.loads):
        titles = [(RATES.get(measure) or MEASURES[measure])[0] for measure in claim.measures]
        told = ("displaced",) if claim.displaced else ()
        yield Table(claim.file, ("load", "policy", *titles, *told), once(lines(claim, given.data, given.seeds)))


if __name__ == "__main__":
    command(__doc__, [claim.file for claim in claims(Path())], tables, "loads")
