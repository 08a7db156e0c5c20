"""What Dynasor claims of programs that reason (compute saved at equal accuracy, a higher rate), and QLLM of urgent requests beside others.

    python -m bench.claims_programs --data FOLDER [--only programs rate windows urgent] [--seeds 5] [--write docs/what-holds-up/programs.md]

FOLDER holds `azure2023` (Azure LLM inference traces 2023). Of programs only the arrivals are recorded ones: programs with their answers are not public.
Factors are geometric means over the seeds with t intervals of their logarithms, paired by seed; on recorded requests a block bootstrap as in
`bench.claims_order`. Shares are means with t intervals.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.claims import Load as Recorded
from bench.claims import Table, command, once
from bench.claims_order import EXAMPLES, Outcomes, _both, outcomes, times_better
from rota.study.scenario import Scenario, read
from rota.study.statistics import t_interval
from rota.worlds.serving.answers import RIGHT, UNKNOWN
from rota.worlds.serving.model import Workload
from rota.worlds.serving.policies.dynasor import Certaindex, FixedRounds
from rota.worlds.serving.read import read_trace
from rota.worlds.serving.rounds import Stop

Column = npt.NDArray[np.float64]
Moved = Callable[[Workload, int], Workload]
KINDS = ("samples", "tree", "thoughts")
RATES = (0.3, 0.15, 0.3)  # of the study, programs a second
LIMIT, SHARE = 90.0, 0.9  # seconds that a program may take, and the share of programs that must keep to it
WINDOWS = (2, 3, 5, 8)


def _as_drawn(work: Workload, seed: int) -> Workload:
    return work


@dataclass(frozen=True)
class Load:
    """What is changed in the study, and when programs come."""

    name: str
    changes: tuple[str, ...] = ()
    begins: Moved = _as_drawn


def entry(number: int, key: str, value: object) -> str:
    """A change of one entry of `workload.reasoning`."""
    return f"workload.reasoning.{number}.{key}={value}"


def only(kind: str, rate: float) -> Load:
    """Programs of one kind."""
    found: Any = read(EXAMPLES / "dynasor.yaml", [])
    spec = found.case.workload.reasoning[KINDS.index(kind)]
    names = ("rounds", "rounds_sigma", "width", "output", "output_sigma")
    fields = ", ".join(f"{name}: {getattr(spec, name)}" for name in names)
    return Load(f"{kind} alone", (f"workload.reasoning=[{{kind: {kind}, count: 200, rate: {rate}, {fields}}}]",))


def recorded(data: Path, rate: float) -> Moved:
    """Programs come when Azure's conversations did, every seventh of them, at a mean rate; each seed has its own stretch of the trace."""
    times = np.asarray(read_trace(data / "azure2023/AzureLLMInferenceTrace_conv.csv.gz").arrival)[::7]

    def moved(work: Workload, seed: int) -> Workload:
        assert work.programs is not None
        count = int(work.programs.program.max()) + 1
        own = times[seed * count : (seed + 1) * count]
        own = (own - own[0]) * (count / rate) / (own[-1] - own[0])
        return replace(work, arrival=own[work.programs.program])

    return moved


def loads(data: Path) -> list[Load]:
    bursts = tuple(entry(number, "variation", 4) for number in range(len(KINDS)))
    jumps = tuple(entry(number, "variation", "{cv: 2.12, seconds: 8.3}") for number in range(len(KINDS)))
    azure = Load("arrivals of Azure conv", begins=recorded(data, sum(RATES)))
    alone = (only("samples", 0.4), only("thoughts", 1.2))
    return [Load("three kinds"), *alone, azure, Load("bursts", bursts), Load("a rate that jumps", jumps)]


@dataclass(frozen=True)
class Outcome:
    """What is looked at of one run."""

    times: Column  # of programs, seconds; NaN: not done
    right: float
    saved: float


def run(scenario: Scenario, load: Load, policy: Mapping[str, Any], seed: int) -> Outcome:
    world: Any = scenario.world
    work = load.begins(world.workload(scenario.case, seed), seed)
    found = world.run(scenario.case, work, policy, seed)
    rows, program = found.outcomes, work.programs.program
    end = np.full(int(program.max()) + 1, -np.inf)
    np.maximum.at(
        end, program, np.where(rows["status"] == "spared", -np.inf, np.nan_to_num(rows["finish"], nan=np.inf))
    )
    begin = work.arrival[np.searchsorted(program, np.arange(len(end)))]
    times = np.where(np.isfinite(end), end - begin, np.nan)
    return Outcome(times, found.metrics["programs_right_share"], found.metrics["spared_token_share"])


def factor(base: Sequence[float], ours: Sequence[float]) -> str:
    """How many times smaller ours is."""
    mean, low, high = np.exp(t_interval(np.log(np.array(base) / np.array(ours))))
    return f"{mean:.2f} ({low:.2f} - {high:.2f})"


def share(values: Sequence[float]) -> str:
    if np.ptp(values) == 0.0:
        return f"{values[0]:.3f}"
    mean, low, high = t_interval(np.array(values))
    return f"{mean:.3f} ({low:.3f} - {high:.3f})"


def program_lines(data: Path, seeds: int) -> Iterator[str]:
    for load in loads(data):
        scenario = read(EXAMPLES / "dynasor.yaml", load.changes)
        base: list[Outcome] = []
        for number, policy in enumerate(scenario.policies):
            found = [run(scenario, load, policy, seed) for seed in range(seeds)]
            base = base or found
            cells = [share([each.right for each in found]), share([each.saved for each in found])]
            if number:
                means = [[float(each.times.mean()) for each in runs] for runs in (base, found)]
                ends = [[float(np.percentile(each.times, 90)) for each in runs] for runs in (base, found)]
                cells = [factor(*means), factor(*ends), *cells]
            else:
                cells = [
                    f"{np.mean([each.times.mean() for each in found]):.1f} s",
                    f"{np.mean([np.percentile(each.times, 90) for each in found]):.1f} s",
                    *cells,
                ]
            yield f"| {load.name} | {policy['name']} | " + " | ".join(cells) + " |"


def largest_rate(load: Load, policy: Mapping[str, Any], seed: int) -> float:
    """The largest multiple of the study's rates at which enough programs end in time, within 2 %."""

    def kept(scale: float) -> bool:
        changes = [entry(number, "rate", scale * rate) for number, rate in enumerate(RATES)]
        outcome = run(read(EXAMPLES / "dynasor.yaml", [*load.changes, *changes]), load, policy, seed)
        return float((outcome.times <= LIMIT).mean()) >= SHARE

    low, high = 0.05, 8.0
    if not kept(low) or kept(high):
        raise SystemExit(f"{load.name}, {policy['name']}: the largest rate is not between {low:g} and {high:g} times")
    while high / low > 1.02:
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if kept(middle) else (low, middle)
    return low


def rate_lines(data: Path, seeds: int) -> Iterator[str]:
    for load in loads(data):
        if load.changes and load.name != "bursts":
            continue  # the rates of the study are those of the three kinds together
        if load.begins is not _as_drawn:
            continue
        policies = read(EXAMPLES / "dynasor.yaml", []).policies
        base: list[float] = []
        for policy in policies:
            found = [largest_rate(load, policy, seed) for seed in range(seeds)]
            base = base or found
            cell = factor(found, base) if found is not base else f"{sum(RATES) * np.mean(found):.2f} programs a second"
            yield f"| {load.name} | {policy['name']} | {cell} |"


def judged(work: Workload, policy: Stop | None) -> tuple[float, float]:
    """(share of right answers, share of output tokens saved) of a workload: no schedule changes what is enough, so nothing has to run."""
    assert work.programs is not None
    assert work.programs.answers is not None
    answers, program = work.programs.answers, work.programs.program
    right, last = [], np.zeros(len(answers.final), np.int64)
    for each in range(len(answers.final)):
        given = answers.of(each)
        chain = int(given[0] == UNKNOWN)
        ends = (
            n for n in range(chain, len(given) - 1) if policy is not None and policy.enough(given[chain : n + 1], 0.0)
        )
        last[each] = next(ends, len(given) - 1)
        right.append((given[last[each]] if last[each] < len(given) - 1 else answers.final[each]) == RIGHT)
    asked = policy is not None and policy.probes
    made = (answers.round <= last[program]) & (asked | ~answers.probe)
    whole = work.output_tokens[~answers.probe].sum()
    return float(np.mean(right)), float(1.0 - work.output_tokens[made].sum() / whole)


def window_lines(data: Path, seeds: int) -> Iterator[str]:
    """Compute saved and answers right by kind, window, and how restless answers are before they settle: 1000 programs a seed."""
    for kind in KINDS:
        for change in (0.5, 0.8, 1.0):
            load = only(kind, 0.2)
            told = (*load.changes, entry(0, "answers", f"{{change: {change}}}"), entry(0, "count", 1000))
            scenario: Any = read(EXAMPLES / "dynasor.yaml", told)
            works = [scenario.world.workload(scenario.case, seed) for seed in range(seeds)]
            whole = share([judged(work, None)[0] for work in works])
            for window in WINDOWS if kind == "thoughts" else WINDOWS[:-1]:  # eight of eight or ten rounds save nothing
                right, saved = zip(*(judged(work, Certaindex(window)) for work in works), strict=True)
                cells = [share(saved), share(right), whole, as_many(works, float(np.mean(saved)))]
                yield f"| {kind} | {change} | {window} | " + " | ".join(cells) + " |"


def as_many(works: Sequence[Workload], saved: float) -> str:
    """Answers right where every program gets the same number of rounds: the most that save at least as much."""
    best, rounds = "-", 1
    while True:
        right, spared = zip(*(judged(work, FixedRounds(rounds)) for work in works), strict=True)
        if float(np.mean(spared)) < saved or float(np.max(spared)) <= 0.0:
            return best
        best, rounds = share(right), rounds + 1


# -- urgent requests --------------------------------------------------------------------------------------------------


def _of(tenant: str, name: str) -> Callable[[Outcomes], Column]:
    return lambda rows: np.where(rows["tenant"] == tenant, rows[name], np.nan)


def urgent_loads(data: Path, made: Path) -> list[Recorded]:
    """Chats beside long prompts, at three rates and in bursts; Azure's conversations, which are urgent, beside its code."""
    both = _both(data, made, 0.4)
    classes = "classes={urgent: {priority: 0}, long: {priority: 1}}"
    tenants = "tenants={conv: {class: urgent}, code: {class: long}}"
    bursts = [f"workload.generate.mix.{number}.variation=fitted" for number in (0, 1)]
    return [
        *(Recorded(f"{rate:g} a second", (f"workload.generate.rate={rate}",)) for rate in (0.3, 2.0, 4.0)),
        replace(both, changes=(*both.changes, classes, tenants)),
        Recorded("bursts", (*bursts, "workload.generate.rate=2")),
    ]


def urgent_lines(data: Path, seeds: int) -> Iterator[str]:
    """The first two policies are those that the others are compared with: the paper's baseline, and priorities without preemption."""
    with TemporaryDirectory() as made:
        for load in urgent_loads(data, Path(made)):
            scenario = read(EXAMPLES / "qllm.yaml", load.changes)
            found = {str(p["name"]): outcomes(scenario, p, 1 if load.recorded else seeds) for p in scenario.policies}
            urgent, others = ("conv", "code") if load.recorded else ("urgent", "long")
            for name, runs in found.items():
                waits = [_of(urgent, "ttft")(rows) for rows in runs]
                cells = [f"{np.mean([np.nanmean(each) for each in waits]):.3f} s"]
                for base, tenant, column in (
                    ("batch by batch", urgent, "ttft"),
                    ("urgent first", urgent, "ttft"),
                    ("urgent first", urgent, "e2e"),
                    ("urgent first", others, "e2e"),
                ):
                    mine, theirs = ([_of(tenant, column)(rows) for rows in each] for each in (runs, found[base]))
                    mean, low, high = times_better(theirs, mine, smaller=True, recorded=load.recorded)
                    cells.append("1" if name == base else f"{mean:.3g} ({low:.3g} - {high:.3g})")
                cells.insert(3, f"{np.mean([np.nanpercentile(each, 99) for each in waits]):.3f} s")
                yield f"| {load.name} | {name} | " + " | ".join(cells) + " |"


PROGRAMS = ("load", "policy", "mean time of a program", "its p90", "answers right", "tokens saved")
RATE = ("load", "policy", f"largest rate with {SHARE:.0%} of programs within {LIMIT:g} s, times the first")
WINDOW = ("programs", "change", "window", "tokens saved", "answers right", "without stopping", "as many rounds for all")
URGENT = (
    *("load", "policy", "urgent: mean first token", "times batch by batch", "times urgent first", "urgent: p99"),
    *("urgent: end to end, times urgent first", "others: end to end, times urgent first"),
)


def tables(given: argparse.Namespace) -> Iterator[Table]:
    yield Table("programs", PROGRAMS, once(program_lines(given.data, given.seeds)))
    yield Table("rate", RATE, once(rate_lines(given.data, given.seeds)))
    yield Table("windows", WINDOW, window_lines(given.data, given.seeds))
    yield Table("urgent", URGENT, once(urgent_lines(given.data, given.seeds)))


if __name__ == "__main__":
    command(__doc__, ("programs", "rate", "windows", "urgent"), tables)
