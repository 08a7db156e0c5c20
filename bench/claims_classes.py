"""Published claims on who comes in, which adapter, which model and which machine, each on loads like the paper's, recorded, and bursty.

    python -m bench.claims_classes --data FOLDER [--pairs FILE] [--only admission] [--seeds 5] [--write docs/what-holds-up/classes.md]

FOLDER holds `azure2023` (Azure LLM inference traces 2023); FILE is RouteLLM's table of right answers of two models (lm-sys/RouteLLM, Apache-2.0; columns
mixtral_8x7b_correct and gpt4_1106_correct), without which the choice among models is shown on drawn qualities only. Numbers and intervals are made as in
`bench.claims_order`; of `value` columns the mean is shown, with a t interval over the seeds.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.claims import Load, Table, command, factor, line, once
from bench.claims_order import EXAMPLES, Outcomes, _traces, times_better
from rota.kernel.world import RunResult
from rota.study.scenario import Scenario, read
from rota.study.statistics import t_interval

Column = npt.NDArray[np.float64]


def _good(rows: Outcomes) -> Column:
    return np.asarray(rows["good"], np.float64)


def _good_of(name: str) -> Callable[[Outcomes], Column]:
    return lambda rows: np.where(rows["slo_class"] == name, rows["good"], np.nan)


def _column(name: str) -> Callable[[Outcomes], Column]:
    return lambda rows: np.asarray(rows[name], np.float64)


def _share_of_gold(rows: Outcomes) -> Column:
    """Weighted tokens of the tenant gold over those of bronze, in the first half of the time in which both ask for more than they get."""
    end = float(np.nanmax(rows["finish"]))
    first, last = rows["first_token"], rows["finish"]
    horizon = min(float(np.nanmax(rows["arrival"])), end / 2)
    out = np.clip((horizon - first) / np.maximum(last - first, 1e-9), 0.0, 1.0) * rows["output_tokens"]
    given = rows["prompt_tokens"] * (rows["scheduled"] <= horizon) + 2.0 * np.nan_to_num(out)
    gold = rows["tenant"] == "gold"
    return np.array([given[gold].sum() / given[~gold].sum()])


@dataclass(frozen=True)
class Shown:
    """A column of a table: times better than the first policy, or its value."""

    title: str
    column: Callable[[Outcomes], Column]
    smaller: bool = True
    value: bool = False


GOOD = Shown("requests within their limits", _good, smaller=False)
TTFT = Shown("mean time to first token", _column("ttft"))
E2E = Shown("mean end-to-end latency", _column("e2e"))


@dataclass(frozen=True)
class Study:
    """A scenario of `examples/serving`, its loads, and what is shown of it; the row of the first policy is left out where it would be ones only."""

    file: str
    shown: tuple[Shown, ...]
    loads: Callable[[Path, Path | None], list[Load]]


def _bursty(rate: float, *more: str) -> Load:
    return Load("bursts", ("workload.generate.variation=fitted", f"workload.generate.rate={rate:g}", *more))


def _overload(data: Path, pairs: Path | None) -> list[Load]:
    return [Load("Poisson"), *_traces(data, 2.8, 3.0), _bursty(30.0)]


def _half_load(data: Path, pairs: Path | None) -> list[Load]:
    return [Load("Poisson"), *_traces(data, 2.0, 2.0), _bursty(8.0)]


def _tenants(data: Path, pairs: Path | None) -> list[Load]:
    """Both ask for more than there is all the time: in bursts and on recorded traces they rarely do at once, and then a weight decides little."""
    return [
        Load("weight 3"),
        Load("weight 1.5", ("tenants.gold.weight=1.5",)),
        Load("weight 8", ("tenants.gold.weight=8",)),
    ]


def _nodes(data: Path, pairs: Path | None) -> list[Load]:
    """One model at a time, fine-tunes of one base, and all on the same GPU."""
    found = []
    for name, changes in (
        ("Poisson", ()),
        ("bursts", ("workload.generate.variation=fitted", "workload.generate.rate=2")),
    ):
        found.append(Load(f"{name}, one loaded", changes))
        tunes = tuple(f"fleet.{k}.base=eight" for k in range(3)) + tuple(f"fleet.{k}.base_share=0.9" for k in range(3))
        found.append(Load(f"{name}, two loaded", (*changes, "nodes.small.resident=2")))
        found.append(Load(f"{name}, two loaded, fine-tunes", (*changes, "nodes.small.resident=2", *tunes)))
        found.append(Load(f"{name}, all loaded", (*changes, "nodes.small.resident=3")))
        turns = (*changes, "nodes.small.resident=3", "nodes.small.sharing=headroom")
        found.append(Load(f"{name}, all loaded, by headroom", turns))
    return found


def _choice(data: Path, pairs: Path | None) -> list[Load]:
    loads = [
        Load("drawn, good predictions", ("quality.skill=0.8",)),
        Load("drawn"),
        Load("drawn, means only", ("quality.skill=0", "quality.sigma=0")),
    ]
    if pairs is not None:
        columns = "{llama-3-8b: mixtral_8x7b_correct, llama-3-70b: gpt4_1106_correct}"
        for skill in (0.8, 0.4):
            table = f"quality={{table: {pairs}, columns: {columns}, skill: {skill:g}, sigma: 0.2}}"
            loads.append(Load(f"RouteLLM's answers, skill {skill:g}", (table,)))
    return [*loads, _bursty(2.0)]


def _kinds(data: Path, pairs: Path | None) -> list[Load]:
    return [
        Load("a day"),
        Load("a busier day", ("workload.generate.rate=8",)),
        Load("bursts", ("workload.generate.kind=burst", "workload.generate.rate=5")),
    ]


def _cached(data: Path, pairs: Path | None) -> list[Load]:
    """Recorded traces have no categories: theirs are drawn too."""
    return [Load("Poisson"), *_traces(data, 1.0, 1.0), _bursty(10.0)]


def _per_million(rows: Outcomes) -> Column:
    return np.array([1e6 * np.nansum(rows["dollars"]) / rows["output_tokens"][rows["status"] == "finished"].sum()])


STUDIES = (
    Study(
        "admission",
        (
            GOOD,
            Shown("interactive ones", _good_of("interactive"), smaller=False),
            Shown("batch ones", _good_of("batch"), smaller=False),
        ),
        _overload,
    ),
    Study(
        "weighted-tenants",
        (Shown("service of gold over that of bronze", _share_of_gold, value=True), E2E),
        _tenants,
    ),
    Study("adapters", (TTFT, E2E), _half_load),
    Study("shared-nodes", (GOOD, TTFT, Shown("within limits", _good, value=True)), _nodes),
    Study(
        "model-choice",
        (
            Shown("quality", _column("quality"), value=True),
            Shown("dollars a request, times fewer", _column("dollars")),
            E2E,
        ),
        _choice,
    ),
    Study(
        "semantic-cache",
        (
            Shown("share recalled", lambda rows: np.asarray(rows["status"] == "recalled", np.float64), value=True),
            Shown(
                "share wrong",
                lambda rows: np.asarray((rows["status"] == "recalled") & (rows["good"] == 0), np.float64),
                value=True,
            ),
            E2E,
        ),
        _cached,
    ),
    Study(
        "accelerator-kinds",
        (Shown("dollars a million tokens", _per_million, value=True), Shown("within limits", _good, value=True), E2E),
        _kinds,
    ),
)


def results(scenario: Scenario, policy: Mapping[str, Any], seeds: int) -> list[RunResult]:
    """The runs of a policy, seed by seed."""
    world: Any = scenario.world
    return [world.run(scenario.case, world.workload(scenario.case, seed), policy, seed) for seed in range(seeds)]


def cell(shown: Shown, base: list[Outcomes], ours: list[Outcomes], recorded: bool) -> str:
    """A number and its interval."""
    mine = [shown.column(rows) for rows in ours]
    if shown.value:
        mean, low, high = t_interval(np.array([float(np.nanmean(each)) for each in mine]))
    else:
        mean, low, high = times_better([shown.column(rows) for rows in base], mine, shown.smaller, recorded)
    return f"{mean:.3g}" if np.isnan(low) or np.isnan(high) else factor(mean, low, high, ".3g")


def lines(study: Study, data: Path, pairs: Path | None, seeds: int) -> Iterator[str]:
    """The rows of a study's table; the first policy of a load is what the others are compared with."""
    for load in study.loads(data, pairs):
        scenario = read(EXAMPLES / f"{study.file}.yaml", list(load.changes))
        runs = {
            str(policy["name"]): [each.outcomes for each in results(scenario, policy, 1 if load.recorded else seeds)]
            for policy in scenario.policies
        }
        base = next(iter(runs))
        for name, found in runs.items():
            if name == base and not any(each.value for each in study.shown):
                continue
            cells = [
                "1" if name == base and not each.value else cell(each, runs[base], found, load.recorded)
                for each in study.shown
            ]
            yield line(load.name, name, *cells)


# -- what machines that models share can take ----------------------------------------------------------------------

RATES = np.arange(8.0, 60.0, 1.0)
WITHIN = 0.9  # share of requests that keep their limits


POPULARITY = ((1, 1, 1), (6, 3, 1))  # of the three models


def capacities(seeds: int) -> Iterator[str]:
    """The largest rate of a grid that three machines take, each model with one of its own, or all three models on each, as in LLM-Mesh's comparison."""
    group = "{{model: {}, gpu: a100-80g, count: {}, max_running: 64, memory_utilisation: 0.3{}}}"
    names = ("llama-3-8b", "llama-3.1-8b", "qwen3-8b")
    apart = ", ".join(group.format(name, 1, "") for name in names)
    shared = ", ".join(group.format(name, 3, ", node: small") for name in names)
    one = "nodes={small: {count: 3, resident: %d, bandwidth: 10e9, latency: 1.0, patience: 10.0, sharing: %s}}"
    shares = [
        "models.shares={" + ", ".join(f"{name}: {part}" for name, part in zip(names, parts, strict=True)) + "}"
        for parts in POPULARITY
    ]
    base = [_capacity((each, "nodes={}", f"fleet=[{apart}]"), seeds) for each in shares]
    yield line("one model each", *(f"1 ({each.mean():.1f} requests/s)" for each in base))
    for title, loaded in (
        ("one loaded at a time", (1, "even")),
        ("all loaded", (3, "even")),
        ("all loaded, by headroom", (3, "headroom")),
    ):
        ours = [_capacity((each, one % loaded, f"fleet=[{shared}]"), seeds) for each in shares]
        cells = [factor(*t_interval(mine / theirs)) for mine, theirs in zip(ours, base, strict=True)]
        yield line(title, *cells)


def _capacity(changes: tuple[str, ...], seeds: int) -> Column:
    """For each seed the largest rate of `RATES`, from the lowest on, at which enough requests keep their limits under the route `resident_first`."""
    found = []
    for seed in range(seeds):
        best = 0.0
        for rate in RATES.tolist():
            scenario = read(EXAMPLES / "shared-nodes.yaml", [*changes, f"workload.generate.rate={rate:g}"])
            world: Any = scenario.world
            work = world.workload(scenario.case, seed)
            run = world.run(scenario.case, work, {"name": "it", "route": "resident_first"}, seed)
            if run.metrics["goodput_share"] < WITHIN:
                break
            best = rate
        found.append(best)
    return np.array(found)


def tables(given: argparse.Namespace) -> Iterator[Table]:
    for study in STUDIES:
        titles = ("load", "policy", *(each.title for each in study.shown))
        yield Table(study.file, titles, once(lines(study, given.data, given.pairs, given.seeds)))
    parts = [f"popularity {' : '.join(map(str, each))}" for each in POPULARITY]
    yield Table("shared-nodes capacity", ("three machines", *parts), capacities(given.seeds))


if __name__ == "__main__":
    command(__doc__, [study.file for study in STUDIES], tables, "pairs")
