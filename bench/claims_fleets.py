"""Published claims on fleets (pools, power, autoscaling, dispatch), each on three loads: like the paper's, recorded, and bursty.

    python -m bench.claims_fleets --data FOLDER [--only polca] [--seeds 5]

FOLDER holds `azure2023` (Azure LLM inference traces 2023). A number is how many times better than the study's first policy a policy is: the geometric mean of
paired ratios with a t interval of their logarithm. On generated loads the pairs are seeds; a recorded trace is cut into as many windows of equal
requests, and these are the pairs: windows of one hour are alike in what they leave out, so that the interval says less than one over days would. `capacity`
is the largest rate at which nine in ten requests keep their limits, found by bisection for each seed.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.claims import Load, times_better, window
from rota.study.scenario import Scenario, read
from rota.worlds.serving.model import Workload
from rota.worlds.serving.policies.hexgen import tuned

EXAMPLES = Path(__file__).parents[1] / "examples/serving"
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Study:
    """A scenario: metrics that are compared as ratios (name, smaller is better), metrics that are shown as they are, its loads, and rates for `capacity`."""

    file: str
    compared: tuple[tuple[str, bool], ...]
    shown: tuple[str, ...]
    loads: tuple[tuple[str, float], ...]  # (what, factor or rate)
    capacity: tuple[float, float] | None = None
    changes: tuple[str, ...] = ()


STUDIES = (
    Study("splitwise", (("ttft_mean", True), ("tpot_mean", True), ("e2e_mean", True)), ("lends", "energy_per_token"),
          (("paper-like", 40.0), ("conv", 8.0), ("code", 6.0), ("bursts", 25.0)), (10.0, 400.0)),
    Study("distserve", (("ttft_mean", True), ("tpot_mean", True), ("e2e_mean", True), ("goodput_share", False)), (),
          (("paper-like", 12.0), ("conv", 1.5), ("code", 2.0), ("bursts", 6.0)), (1.0, 80.0)),
    Study("accellm", (("ttft_mean", True), ("tpot_mean", True), ("e2e_mean", True), ("e2e_p99", True)), ("migrations",),
          (("paper-like", 12.0), ("conv", 1.5), ("code", 2.0), ("bursts", 6.0))),
    Study("polca", (("e2e_high", True), ("e2e_low", True), ("e2e_p99", True), ("energy_per_token", True)), ("power_peak", "over_budget_share"),
          (("paper-like", 26.0), ("more than the budget allows", 40.0), ("conv", 4.7), ("code", 7.0), ("bursts", 15.0))),
    Study("energy", (("energy_per_token", True), ("tpot_mean", True), ("e2e_mean", True), ("ttft_p99", True)), ("goodput_share",),
          (("paper-like", 6.0), ("conv", 1.1), ("code", 1.5), ("bursts", 4.0))),
    *(Study("dispatch", (("ttft_mean", True), ("e2e_mean", True), ("e2e_p99", True), ("goodput_share", False)), (),
            (("paper-like", 40.0), ("conv", 3.0), ("code", 4.0), ("bursts", 12.0)), None, (f"information.hosts.every={every}",))
      for every in (1, 16, 128)),
    Study("autoscaling", (("cost", True), ("goodput_share", False)), ("replicas_mean", "goodput_share"),
          (("paper-like", 11.0), ("conv", 2.0), ("code", 4.0), ("bursts", 11.0))),
    Study("autoscaling-days", (("cost", True), ("goodput_share", False)), ("replicas_mean", "goodput_share"), (("four days", 10.0),)),
)  # fmt: skip


SPLITS = ((2, 2), (1, 3), (3, 1))
TIGHT = ("slo.tpot=0.03",)
LONG = ("workload.generate.kind=summarise", "slo.ttft=1.0", "slo.tpot=0.03")
CAPACITIES: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "splitwise": [("two and two", ())],
    "distserve": [
        (f"{name}, {a} + {b} replicas", (f"fleet.0.count={a}", f"fleet.1.count={b}", *changes))
        for name, changes in (("250 and 50 ms", ()), ("250 and 30 ms", TIGHT), ("summaries, 1 s and 30 ms", LONG))
        for a, b in SPLITS
    ],
}


def loads_of(study: Study, data: Path) -> Iterator[Load]:
    for what, factor in study.loads:
        if what in ("conv", "code"):
            trace = data / "azure2023" / f"AzureLLMInferenceTrace_{what}.csv.gz"
            change = f"workload={{trace: {trace}, arrivals: {{scale: {factor:g}}}}}"
            yield Load(f"Azure {what} x {factor:g}", (*study.changes, change), recorded=True)
        elif what == "bursts":
            change = f"workload.generate={{kind: burst, requests: 3000, rate: {factor:g}, variation: fitted}}"
            yield Load(f"bursts at {factor:g}/s", (*study.changes, change))
        else:
            yield Load(f"{what}, {factor:g}/s", (*study.changes, f"workload.generate.rate={factor:g}"))


def samples(scenario: Scenario, load: Load, count: int) -> list[Workload]:
    """Of loads that know no priorities, six requests in thirteen are of low priority."""
    world: Any = scenario.world
    if load.recorded:
        whole = world.workload(scenario.case, 0)
        found = [window(whole, number, count) for number in range(count)]
    else:
        found = [world.workload(scenario.case, seed) for seed in range(count)]
    low = [replace(work, priority=(np.arange(len(work)) % 13 >= 7).astype(np.int64)) for work in found]
    return [work if work.priority.any() else mixed for work, mixed in zip(found, low, strict=True)]


def metrics_of(scenario: Scenario, policy: Mapping[str, Any], works: list[Workload]) -> list[Metrics]:
    """The metrics of a run, and the mean end-to-end latency of each priority."""
    world: Any = scenario.world
    found = []
    for seed, work in enumerate(works):
        run = world.run(scenario.case, work, policy, seed)
        classes = {"e2e_high": work.priority <= 0, "e2e_low": work.priority > 0}
        found.append({**run.metrics, **{name: np.nanmean(run.outcomes["e2e"][rows]) for name, rows in classes.items()}})
    return found


def ratio(base: list[Metrics], ours: list[Metrics], name: str, smaller: bool) -> str:
    return times_better([each[name] for each in base], [each[name] for each in ours], smaller)


def lines(study: Study, data: Path, seeds: int) -> Iterator[str]:
    for load in loads_of(study, data):
        scenario = read(EXAMPLES / f"{study.file}.yaml", list(load.changes))
        works = samples(scenario, load, seeds)
        found = {str(policy["name"]): metrics_of(scenario, policy, works) for policy in scenario.policies}
        if study.file == "dispatch":
            found["hexgen, tuned"] = tuned_hexgen(scenario, works, load)
        base, *others = found
        shown = " | ".join(f"{np.mean([run[name] for run in found[base]]):.4g}" for name in study.shown)
        yield f"| {load.name} | {base} | " + " | ".join("1" for _ in study.compared) + f" | {shown} |"
        for name in others:
            cells = [ratio(found[base], found[name], metric, smaller) for metric, smaller in study.compared]
            shown = " | ".join(f"{np.mean([run[metric] for run in found[name]]):.4g}" for metric in study.shown)
            yield f"| {load.name} | {name} | " + " | ".join(cells) + f" | {shown} |"


def tuned_hexgen(scenario: Scenario, works: list[Workload], load: Load) -> list[Metrics]:
    """HexGen with the alpha that was best on other requests: the window before, or another seed. The first window has the default."""
    world: Any = scenario.world
    found = []
    for number, work in enumerate(works):
        before = (
            world.workload(scenario.case, 100 + number) if not load.recorded else works[number - 1] if number else None
        )

        def replay(alpha: float, seen: Workload | None = before) -> float:
            policy = {"name": "replay", "route": {"hexgen": {"alpha": alpha}}}
            return float(world.run(scenario.case, seen, policy, 0).metrics["e2e_mean"])

        alpha = 0.2 if before is None else tuned(replay)
        policy = {"name": "tuned", "route": {"hexgen": {"alpha": alpha}}}
        found.append(world.run(scenario.case, work, policy, number).metrics)
    return found


def capacity(scenario: Scenario, policy: Mapping[str, Any], seed: int, low: float, high: float) -> float:
    """The largest rate at which 90 % of the requests keep their limits, within 2 %."""
    world: Any = scenario.world
    generator = scenario.case.generator
    while high / low > 1.02:
        middle = float(np.sqrt(low * high))
        case = replace(scenario.case, generator=msgspec.structs.replace(generator, rate=middle))
        metrics = world.run(case, world.workload(case, seed), policy, seed).metrics
        low, high = (middle, high) if metrics["goodput_share"] >= 0.9 else (low, middle)
    return low


def capacities(study: Study, seeds: int, changes: tuple[str, ...] = (), label: str = "") -> Iterator[str]:
    if study.capacity is None:
        return
    scenario = read(EXAMPLES / f"{study.file}.yaml", list(changes))
    found = {
        str(policy["name"]): [{"rate": capacity(scenario, policy, seed, *study.capacity)} for seed in range(seeds)]
        for policy in scenario.policies
    }
    base = next(iter(found))
    for name, rates in found.items():
        mean = np.mean([each["rate"] for each in rates])
        yield f"capacity{label} | {name} | {mean:.1f}/s | {ratio(found[base], rates, 'rate', smaller=False)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    names = list(dict.fromkeys(study.file for study in STUDIES))
    parser.add_argument("--only", nargs="*", default=names, choices=names)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    for study in STUDIES:
        if study.file not in given.only:
            continue
        titles = [name for name, _ in study.compared] + list(study.shown)
        print(
            f"\n{', '.join((study.file, *study.changes))}\n\n| load | policy | " + " | ".join(titles) + " |", flush=True
        )
        print("|---|---|" + "---|" * len(titles))
        for line in lines(study, given.data, given.seeds):
            print(line, flush=True)
        for label, changes in CAPACITIES.get(study.file, ()):
            for line in capacities(study, given.seeds, changes, f", {label}"):
                print(line, flush=True)


if __name__ == "__main__":
    main()
