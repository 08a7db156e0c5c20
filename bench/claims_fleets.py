"""Published claims on fleets (pools, power, autoscaling, dispatch), each on three loads: like the paper's, recorded, and bursty.

    python -m bench.claims_fleets --data FOLDER [--only polca] [--seeds 5] [--write docs/what-holds-up/fleets.md]

FOLDER holds `azure2023` (Azure LLM inference traces 2023). A number is how many times better than the study's first policy a policy is: the geometric mean of
paired ratios with a t interval of their logarithm. On generated loads the pairs are seeds; a recorded trace is cut into as many windows of equal
requests, and these are the pairs: windows of one hour are alike in what they leave out, so that the interval says less than one over days would. `capacity`
is the largest rate at which nine in ten requests keep their limits, found by bisection for each seed.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.claims import Load, Table, command, line, once, percent, times_better, window
from rota.study.scenario import Scenario, read
from rota.worlds.serving.model import Workload
from rota.worlds.serving.policies.hexgen import tuned

EXAMPLES = Path(__file__).parents[1] / "examples/serving"
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Study:
    """A scenario, its loads (what, factor or rate), and rates between which its `capacity` is looked for."""

    file: str
    loads: tuple[tuple[str, float], ...]
    capacity: tuple[float, float] | None = None


STUDIES = {
    study.file: study
    for study in (
        Study("splitwise", (("Poisson", 40.0), ("conv", 8.0), ("code", 6.0), ("bursts", 25.0)), (10.0, 400.0)),
        Study("distserve", (("Poisson", 12.0), ("conv", 1.5), ("code", 2.0), ("bursts", 6.0)), (1.0, 80.0)),
        Study("accellm", (("Poisson", 12.0), ("conv", 1.5), ("code", 2.0), ("bursts", 6.0))),
        Study("polca", (("Poisson", 26.0), ("Poisson", 40.0), ("conv", 4.7), ("code", 7.0), ("bursts", 15.0))),
        Study("energy", (("Poisson", 6.0), ("conv", 1.1), ("code", 1.5), ("bursts", 4.0))),
        Study("dispatch", (("Poisson", 40.0), ("conv", 3.0), ("code", 4.0), ("bursts", 12.0))),
        Study("autoscaling", (("a day in an hour", 11.0), ("conv", 2.0), ("code", 4.0), ("bursts", 11.0))),
        Study("autoscaling-days", (("four days", 10.0),)),
    )
}
TITLES = {  # of policies and loads on the page
    "hexgen": "HexGen, alpha 0.2",
    "hexgen, tuned": "HexGen, tuned",
    "dodoor": "Dodoor",
    "reactive 24": "reactive, 24 a replica",
    "reactive 40": "reactive, 40",
    "KV use": "KV use (Kubernetes' rule)",
    "freeness": "freeness (Llumnix)",
    "forecast (EWMA)": "forecast, EWMA",
    "forecast (Holt)": "forecast, Holt",
    "forecast (season)": "forecast, season",
}
LATENCIES = ("ttft_mean", "tpot_mean", "e2e_mean")
LARGER_IS_BETTER = ("goodput_share", "rate")
Found = dict[str, list[Metrics]]  # of each policy, sample by sample; the first one is what the others are compared with


def loads_of(study: Study, data: Path, *changes: str) -> Iterator[Load]:
    for what, times in study.loads:
        if what in ("conv", "code"):
            trace = data / "azure2023" / f"AzureLLMInferenceTrace_{what}.csv.gz"
            change = f"workload={{trace: {trace}, arrivals: {{scale: {times:g}}}}}"
            title = "conversations" if what == "conv" else what
            yield Load(f"(b) {title} x {times:g}", (*changes, change), recorded=True)
        elif what == "bursts":
            change = f"workload.generate={{kind: burst, requests: 3000, rate: {times:g}, variation: fitted}}"
            yield Load(f"(c) bursts, {times:g}/s", (*changes, change))
        else:
            yield Load(f"(a) {what}, {times:g}/s", (*changes, f"workload.generate.rate={times:g}"))


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


def ratio(base: list[Metrics], ours: list[Metrics], name: str) -> str:
    return times_better([each[name] for each in base], [each[name] for each in ours], name not in LARGER_IS_BETTER)


def mean(runs: list[Metrics], name: str) -> float:
    return float(np.mean([each[name] for each in runs]))


def found(load: Load, file: str, seeds: int, tune: bool = False) -> Found:
    """The metrics of all policies of a study under a load."""
    scenario = read(EXAMPLES / f"{file}.yaml", list(load.changes))
    works = samples(scenario, load, seeds)
    runs: Found = {}
    for policy in scenario.policies:
        runs[str(policy["name"])] = metrics_of(scenario, policy, works)
        if tune and policy["name"] == "hexgen":
            runs["hexgen, tuned"] = tuned_hexgen(scenario, works, load)
    return runs


def compared(study: Study, data: Path, seeds: int, names: tuple[str, ...], *changes: str) -> Iterator[str]:
    """A row for each load and policy but the first: times better in each metric."""
    for load in loads_of(study, data, *changes):
        (_, base), *others = found(load, study.file, seeds, tune=study.file == "dispatch").items()
        for name, runs in others:
            yield line(load.name, TITLES.get(name, name), *(ratio(base, runs, metric) for metric in names))


def alone(
    study: Study,
    data: Path,
    seeds: int,
    names: tuple[str, ...],
    shown: Callable[[list[Metrics], list[Metrics]], tuple[str, ...]],
) -> Iterator[str]:
    """A row for each load, where two policies are compared: times better, and what else is shown of both."""
    for load in loads_of(study, data):
        base, ours = found(load, study.file, seeds).values()
        title = load.name
        if study.file == "polca" and load.name == "(a) Poisson, 40/s":
            title = "(a) 40/s, more than the budget allows"
        elif study.file == "energy" and load.name.startswith("(a)"):
            title = load.name.replace("Poisson", "chat")
        yield line(title, *(ratio(base, ours, name) for name in names), *shown(base, ours))


def power_and_budget(base: list[Metrics], ours: list[Metrics]) -> tuple[str, ...]:
    peaks = [f"{mean(each, 'power_peak') / 1000:.1f}" for each in (base, ours)]
    over = [f"{100 * mean(each, 'over_budget_share'):.2g} %" for each in (base, ours)]
    return " to ".join(peaks), " to ".join(over)


def in_time(base: list[Metrics], ours: list[Metrics]) -> tuple[str, ...]:
    return (" to ".join(percent(mean(each, "goodput_share")) for each in (base, ours)) + " %",)


def lent(base: list[Metrics], ours: list[Metrics]) -> tuple[str, ...]:
    return (f"{mean(ours, 'lends'):.2g}",)


# -- dispatch by old loads ---------------------------------------------------------------------------------------------


def dispatched(data: Path, seeds: int) -> Iterator[str]:
    """Times better than round robin, end to end, with loads that are looked up for every request, every 16th and every 128th, and then in time."""
    study, every = STUDIES["dispatch"], (1, 16, 128)
    for loads in zip(*(loads_of(study, data, f"information.hosts.every={each}") for each in every), strict=True):
        runs = [found(load, study.file, seeds) for load in loads]
        base, *others = runs[0]
        for name in others:
            cells = [ratio(each[base], each[name], "e2e_mean") for each in runs]
            last = ratio(runs[-1][base], runs[-1][name], "goodput_share")
            yield line(loads[0].name, TITLES.get(name, name), cells[0].split()[0], *cells[1:], last)


# -- autoscaling -------------------------------------------------------------------------------------------------------


def scaled(study: Study, data: Path, seeds: int, together: bool) -> Iterator[str]:
    """A row for each policy: times cheaper than all on, and the share of requests in time, for each load in one cell or in two."""
    runs = [found(load, study.file, seeds) for load in loads_of(study, data)]
    base = next(iter(runs[0]))
    for name in runs[0]:
        cells = []
        for each in runs:
            pair = [
                "1" if name == base else ratio(each[base], each[name], "cost"),
                f"{percent(mean(each[name], 'goodput_share'))} %",
            ]
            cells += [", ".join(pair)] if together else pair
        yield line(TITLES.get(name, name) if together or "forecast" in name else name, *cells)


# -- dispatch with a tuned HexGen --------------------------------------------------------------------------------------


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


SPLITS = ((2, 2), (1, 3), (3, 1))
LIMITS = (
    ("first token in 250 ms, a token in 50 ms", ()),
    ("in 250 and 30 ms", ("slo.tpot=0.03",)),
    ("summaries, 1 s and 30 ms", ("workload.generate.kind=summarise", "slo.ttft=1.0", "slo.tpot=0.03")),
)


def capacities(study: Study, seeds: int, changes: tuple[str, ...] = ()) -> Found:
    """The largest rates of all policies."""
    assert study.capacity is not None
    scenario = read(EXAMPLES / f"{study.file}.yaml", list(changes))
    return {
        str(policy["name"]): [{"rate": capacity(scenario, policy, seed, *study.capacity)} for seed in range(seeds)]
        for policy in scenario.policies
    }


def pools(seeds: int) -> Iterator[str]:
    """Splitwise's machines together, and in two pools."""
    base, ours = capacities(STUDIES["splitwise"], seeds).values()
    yield line(
        "1 s and 40 ms a token", *(f"{mean(each, 'rate'):.1f}/s" for each in (base, ours)), ratio(base, ours, "rate")
    )


def splits(seeds: int) -> Iterator[str]:
    """DistServe's placements, and what runs prompts in pieces, which has none."""
    for title, changes in LIMITS:
        cells, told = [], ""
        for a, b in SPLITS:
            each = capacities(STUDIES["distserve"], seeds, (f"fleet.0.count={a}", f"fleet.1.count={b}", *changes))
            base, chunked, apart = each.values()
            told = told or f"{title} (vLLM: {mean(base, 'rate'):.1f}/s)"
            cells += [*([] if cells else [ratio(base, chunked, "rate")]), ratio(base, apart, "rate")]
        yield line(told if title is LIMITS[0][0] else told.replace("vLLM: ", ""), *cells)


# -- the page ----------------------------------------------------------------------------------------------------------


def tables(given: argparse.Namespace) -> Iterator[Table]:
    data, seeds = given.data, given.seeds
    four = ("energy_per_token", "tpot_mean", "e2e_mean", "ttft_p99")
    priorities = ("e2e_high", "e2e_low", "e2e_p99", "energy_per_token")
    yield Table("splitwise", ("load", *LATENCIES, "lent"), alone(STUDIES["splitwise"], data, seeds, LATENCIES, lent))
    yield Table("splitwise capacity", ("largest rate", "together", "mixed pool", "times"), pools(seeds))
    yield Table("distserve capacity", ("capacity", "chunked", *(f"{a} + {b}" for a, b in SPLITS)), splits(seeds))
    for file, names, changes in (
        ("distserve", (*LATENCIES, "goodput_share"), ()),
        ("accellm", (*LATENCIES, "e2e_p99"), ()),
        ("dispatch", ("e2e_mean", "e2e_p99", "goodput_share"), ("information.hosts.every=1",)),
    ):
        yield Table(file, ("load", "policy", *names), once(compared(STUDIES[file], data, seeds, names, *changes)))
    yield Table(
        "polca",
        ("load", *priorities, "largest power, kW", "time over the budget"),
        alone(STUDIES["polca"], data, seeds, priorities, power_and_budget),
    )
    yield Table("energy", ("load", *four, "in time"), alone(STUDIES["energy"], data, seeds, four, in_time))
    titles = ("load", "policy", "every request", "every 16th", "every 128th", "in time, every 128th")
    yield Table("dispatch by old loads", titles, once(dispatched(data, seeds)))
    loads = [load.name for load in loads_of(STUDIES["autoscaling"], data)]
    yield Table("autoscaling", ("policy", *loads), scaled(STUDIES["autoscaling"], data, seeds, together=True))
    titles = ("policy", "times cheaper", "requests in time")
    yield Table("autoscaling-days", titles, scaled(STUDIES["autoscaling-days"], data, seeds, together=False))


if __name__ == "__main__":
    command(__doc__, STUDIES, tables)
