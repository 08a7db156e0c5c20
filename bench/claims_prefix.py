"""Prefix caches and what is built on them: claims on three loads, what a late router loses, what eviction and tiers are worth, and speed.

    python -m bench.claims_prefix --data FOLDER [--only routing] [--seeds 5] [--write docs/what-holds-up/prefix.md docs/worlds/serving-prefix.md]

FOLDER holds `azure2023` and `mooncake`. A number is how many times better than the baseline a policy is: on generated loads the geometric mean over seeds
with a t interval of its logarithm, paired by seed; on a recorded trace a circular block bootstrap over its requests (see `what_holds_up`).
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.claims import Load, Table, command, factor, line, percent
from bench.claims_order import _both, _modest_wait, times_better
from rota.kernel.world import RunResult
from rota.study.scenario import Scenario, parse, read
from rota.study.statistics import t_interval

EXAMPLES = Path(__file__).parents[1] / "examples/serving"


def mooncake(data: Path) -> str:
    return str(data / "mooncake" / "conversation_trace.jsonl.gz")


@dataclass(frozen=True)
class Study:
    """A scenario, its loads, what is measured, and either its policies or fleets that are compared under one policy.

    Attributes:
        measures: Metrics, smaller is better; `modest` is the wait of the smaller tenant.
        fleets: Changes of the scenario by name; the first is the baseline. Empty: the policies are compared, the first is the baseline.
        twice: So many of the first loads have twice as many seeds.
        found: Whether the tokens found in the cache are told.
    """

    file: str
    measures: tuple[str, ...]
    loads: Callable[[Path, Path], list[Load]]
    fleets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    policy: str = ""
    twice: int = 0
    found: bool = True


def _routing(data: Path, made: Path) -> list[Load]:
    """No recorded trace of Azure names prefixes; that of Mooncake does, without sessions."""
    fleet = "fleet=[{model: llama-3.1-8b, gpu: h100, count: 8, kv_blocks: 8192, block_tokens: 64, prefix_caching: true, context: 200000}]"
    recorded = (f"workload={{trace: {mooncake(data)}, format: mooncake}}", fleet)
    bursts = ("workload.generate.cv=4", "workload.generate.rate=3")
    return [Load("paper-like"), Load("Mooncake conversations", recorded, True), Load("bursts", bursts)]


def _tenants(data: Path, made: Path) -> list[Load]:
    bursts = ("workload.generate.mix.0.cv=6",)
    return [Load("paper-like"), _both(data, made, 0.5), Load("bursts", bursts)]


def _agents(data: Path, made: Path) -> list[Load]:
    slow = ("workload.programs.delay=15",)
    crowd = ("workload.programs.rate=0.16",)
    roomy = ("fleet.0.kv_blocks=14000",)
    bursts = ("workload.programs.cv=4",)
    jumps = ("workload.programs.variation={cv: 2.12, seconds: 8.3}",)  # as fitted to Azure's code
    return [
        *(Load("paper-like"), Load("slow tools", slow), Load("more agents", crowd), Load("a cache for all", roomy)),
        *(Load("bursts", bursts), Load("a rate that jumps", jumps)),
    ]


def _offline(data: Path, made: Path) -> list[Load]:
    few = ("workload.generate.sessions.groups=20",)
    trace = (f"workload={{trace: {mooncake(data)}, format: mooncake, first: 2000, arrivals: {{scale: 1.0e+6}}}}",
             "fleet=[{model: llama-3.1-8b, gpu: h100, kv_blocks: 32768, prefix_caching: true, context: 200000, max_running: 512}]")  # fmt: skip
    return [Load("paper-like"), Load("few groups", few), Load("Mooncake, all at once", trace, True)]


def _switches(data: Path, made: Path) -> list[Load]:
    conv = f"workload={{trace: {data / 'azure2023' / 'AzureLLMInferenceTrace_conv.csv.gz'}, first: 6000, arrivals: {{scale: 1.6}}}}"
    bursts = ("workload.generate.variation=fitted", "workload.generate.rate=7")
    return [Load("paper-like"), Load("Azure conversations x 1.6", (conv,), True), Load("bursts", bursts)]


_SWAP = "blocks: 30000, per_copy: 3.2e-4"
STUDIES = {
    "routing": Study("prefix-routing", ("ttft_mean", "ttft_p99", "e2e_mean"), _routing),
    "dlpm": Study("dlpm", ("modest", "makespan", "e2e_mean"), _tenants),
    "continuum": Study("continuum", ("program_e2e_mean", "program_e2e_p99", "e2e_mean"), _agents, twice=2),
    "batchllm": Study("batchllm", ("makespan", "e2e_mean"), _offline),
    "fastswitch": Study(
        "fastswitch",
        ("ttft_p99", "itl_p99", "e2e_mean"),
        _switches,
        {
            "block by block": (f"fleet.0.swap={{{_SWAP}}}",),
            "computed again": ("fleet.0.swap=null",),
            "groups of 16": (f"fleet.0.swap={{{_SWAP}, group_blocks: 16}}",),
            "groups, copies stay": (f"fleet.0.swap={{{_SWAP}, group_blocks: 16, reuse: true}}",),
            "groups, stay, asynchronous": (
                f"fleet.0.swap={{{_SWAP}, group_blocks: 16, reuse: true, asynchronous: true}}",
            ),
        },
        "changing priorities",
        found=False,
    ),
}
PER_JOB = {"ttft_mean": "ttft", "e2e_mean": "e2e"}


def value(run: RunResult, measure: str) -> float:
    return float(np.nanmean(_modest_wait(run.outcomes))) if measure == "modest" else run.metrics[measure]


def better(base: Sequence[RunResult], ours: Sequence[RunResult], measure: str, recorded: bool) -> str:
    """How many times better, with its interval where there is one."""
    if not recorded:
        ratios = [np.log(value(one, measure) / value(other, measure)) for one, other in zip(base, ours, strict=True)]
        return factor(*np.exp(t_interval(np.array(ratios))))
    if measure in PER_JOB or measure == "modest":
        columns = [
            _modest_wait(each.outcomes) if measure == "modest" else np.asarray(each.outcomes[PER_JOB[measure]])
            for each in (base[0], ours[0])
        ]
        return factor(*times_better([columns[0]], [columns[1]], True, True))
    ratio = value(base[0], measure) / value(ours[0], measure)
    return factor(ratio, ratio, ratio).split()[0]


def runs(scenario: Scenario, policy: Mapping[str, Any], seeds: int) -> list[RunResult]:
    world: Any = scenario.world
    return [world.run(scenario.case, world.workload(scenario.case, seed), policy, seed) for seed in range(seeds)]


def lines(study: Study, data: Path, made: Path, seeds: int) -> Iterator[str]:
    """The rows of a study's table; the baseline's row has what it measures, in seconds."""
    for number, load in enumerate(study.loads(data, made)):
        count = 1 if load.recorded else 2 * seeds if number < study.twice else seeds
        found: dict[str, list[RunResult]] = {}
        for name, changes in (study.fleets or {"": ()}).items():
            scenario = read(EXAMPLES / f"{study.file}.yaml", [*load.changes, *changes])
            for policy in scenario.policies:
                if not study.policy or policy["name"] == study.policy:
                    found[name or str(policy["name"])] = runs(scenario, policy, count)
        base, *others = found
        told = [f"{np.mean([value(each, m) for each in found[base]]):.3g} s" for m in study.measures]
        yield line(load.name, base, *told, *hits(study, found[base]))
        for name in others:
            cells = [better(found[base], found[name], measure, load.recorded) for measure in study.measures]
            yield line("", name, *cells, *hits(study, found[name]))


def hits(study: Study, found: Sequence[RunResult]) -> list[str]:
    return [f"{percent(float(np.mean([run.metrics['prefix_hit_rate'] for run in found])), 1)} %"] if study.found else []


FLEET = {"model": "llama-3.1-8b", "gpu": "h100", "count": 8, "kv_blocks": 8192, "block_tokens": 64,
         "prefix_caching": True, "context": 200_000}  # fmt: skip


def on_mooncake(data: Path, route: str, index: dict[str, Any] | None = None, **fleet: Any) -> tuple[Any, float]:
    """One run of the whole trace; the run and its CPU seconds."""
    document: dict[str, Any] = {"world": "serving", "workload": {"trace": mooncake(data), "format": "mooncake"},
                                "fleet": [FLEET | fleet], "policies": [{"name": route, "route": route}]}  # fmt: skip
    if index:
        document["index"] = index
    scenario = parse(document, Path())
    world: Any = scenario.world
    work = world.workload(scenario.case, 0)
    start = time.process_time()
    return world.run(scenario.case, work, scenario.policies[0], 0), time.process_time() - start


def beliefs(data: Path) -> Iterator[str]:
    """How reuse and time to the first token fall with what the router knows."""
    cases: list[tuple[str, dict[str, Any] | None]] = [("everything at once", None)]
    cases += [
        (f"events, {d:g} s late", {"kind": "events", "delay": d}) for d in (0.0, 0.1, 1.0, 10.0, 30.0, 60.0, 120.0)
    ]
    cases += [("what it sent, as many blocks as a replica has", {"kind": "sent"})]
    cases += [(f"what it sent, {n:,} blocks", {"kind": "sent", "blocks": n}) for n in (1024, 4096, 32_768, 1_000_000)]
    for name, index in cases:
        cells = []
        for route in ("kv_router", "reuse_and_work"):
            m = on_mooncake(data, route, index)[0].metrics
            cells.append(f"{percent(m['prefix_hit_rate'], 1)} %, {m['ttft_mean']:.3f} s, {m['ttft_p99']:.2f} s")
        yield f"| {name} | " + " | ".join(cells) + " |"


def caches(data: Path) -> Iterator[str]:
    """Rules of eviction and tiers below the cache."""
    rules = [(f"evicts by `{rule}`", {"eviction": rule}) for rule in ("lru", "fifo", "lfu", "two_class", "recompute")]
    host = {"blocks": 32_768, "bandwidth": 25e9}
    disk = {"blocks": 262_144, "bandwidth": 5e9, "latency": 1e-3}
    rules += [
        ("host's memory, 32,768 blocks at 25 GB/s", {"tiers": [host]}),
        ("the same, compressed to half", {"tiers": [{**host, "compress": 0.5}]}),
        ("host and disk, 262,144 blocks at 5 GB/s", {"tiers": [host, disk]}),
        ("disk alone, at 0.5 GB/s", {"tiers": [{**disk, "bandwidth": 5e8}]}),
    ]
    for name, setting in rules:
        m = on_mooncake(data, "reuse_and_work", prefix_caching=setting)[0].metrics
        shares = ", ".join(f"{percent(m[rate], 1)} %" for rate in ("prefix_hit_rate", "tier_hit_rate"))
        yield f"| {name} | {shares} | {m['ttft_mean']:.3f} s | {m['ttft_p99']:.2f} s |"


def speeds(data: Path) -> Iterator[str]:
    """Requests per CPU second with cache and routing, the best of eight; the run alone, without reading the trace and building the arrays."""
    shared = {"turns": 1.0, "system_tokens": 512, "groups": 16}
    talks = {"turns": 1.49, "system_tokens": 512, "groups": 16}
    chat: dict[str, Any] = {"kind": "chat", "requests": 20_000, "variation": "none"}
    loads: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("conversations' lengths, 16 system prompts", {"generate": chat | {"rate": 40.0, "sessions": shared}}, {}),
        ("the same, 1.49 turns each", {"generate": chat | {"rate": 15.0, "sessions": talks}}, {}),
        ("Mooncake conversation", {"trace": mooncake(data), "format": "mooncake"}, {}),
    ]
    cases: list[tuple[str, dict[str, Any] | None, Any]] = [
        ("least_outstanding", None, True),
        ("kv_router", None, True),
        ("reuse_and_work", None, True),
        ("reuse_and_work", {"kind": "sent"}, True),
        ("reuse_and_work", {"kind": "events", "delay": 1.0}, True),
        ("reuse_and_work", None, {"eviction": "lfu", "tiers": [{"blocks": 65_536}]}),
    ]
    for load, workload, fleet in loads:
        for route, index, caching in cases:
            group = FLEET | fleet | {"prefix_caching": caching}
            document: dict[str, Any] = {"world": "serving", "workload": workload, "fleet": [group],
                                        "policies": [{"name": route, "route": route}]}  # fmt: skip
            scenario = parse(document | ({"index": index} if index else {}), Path())
            world: Any = scenario.world
            work = world.workload(scenario.case, 0)
            seconds = min(_seconds(world, scenario, work) for _ in range(8))
            known = "true" if index is None else index["kind"]
            cache = "plain" if caching is True else "lfu, a tier"
            yield f"| {load} | {route}, {known}, {cache} | {len(work):,} | {len(work) / seconds:,.0f} |"


def _seconds(world: Any, scenario: Scenario, work: Any) -> float:
    run = world.simulation(scenario.case, work, scenario.policies[0], 0)
    start = time.process_time()
    run.run()
    return time.process_time() - start


TABLES: tuple[tuple[str, tuple[str, ...], Callable[[Path], Iterator[str]]], ...] = (
    ("beliefs", ("the router knows", *(f"{r}: found, TTFT, p99" for r in ("kv_router", "reuse_and_work"))), beliefs),
    ("caches", ("cache", "found, of it below", "mean TTFT", "p99 TTFT"), caches),
    ("speed", ("load", "route, index, cache", "requests", "requests / CPU s"), speeds),
)


def tables(given: argparse.Namespace, made: Path) -> Iterator[Table]:
    for name, study in STUDIES.items():
        titles = ("load", "policy", *study.measures, *(("found",) if study.found else ()))
        yield Table(name, titles, lines(study, given.data, made, given.seeds))
    for name, titles, rows in TABLES:
        yield Table(name, titles, rows(given.data))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        command(__doc__, [*STUDIES, *(name for name, _, _ in TABLES)], lambda given: tables(given, Path(folder)))
