"""Published claims on the order of requests, each on three loads: like the paper's, recorded, and bursty.

    python -m bench.claims_order --data FOLDER [--only ltr] [--seeds 5] [--write docs/what-holds-up/order.md]

FOLDER holds `azure2023` (Azure LLM inference traces 2023). A number is how many times better than the baseline a policy is. On generated loads it is the
geometric mean over the seeds with a t interval of its logarithm, paired by seed; on a recorded trace, which is one observation, a circular block
bootstrap over its requests in order of arrival, the same blocks for both policies.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.claims import Load, put
from rota.kernel.streams import generator
from rota.study.scenario import Scenario, read
from rota.study.statistics import block_bootstrap, block_length, t_interval
from rota.worlds.serving.generate import generate
from rota.worlds.serving.model import Workload
from rota.worlds.serving.read import read_trace

EXAMPLES = Path(__file__).parents[1] / "examples/serving"
Column = npt.NDArray[np.float64]
Outcomes = Mapping[str, npt.NDArray[Any]]


def _each_token(rows: Outcomes) -> Column:
    return np.asarray(rows["e2e"] / rows["output_tokens"])


def _modest_wait(rows: Outcomes) -> Column:
    """TTFT of the tenant that is not the larger one in tokens."""
    tenants, index = np.unique(rows["tenant"], return_inverse=True)
    tokens = np.bincount(index, rows["prompt_tokens"] + 2.0 * rows["output_tokens"])
    return np.where(rows["tenant"] == tenants[np.argmin(tokens)], rows["ttft"], np.nan)


MEASURES: dict[str, tuple[str, bool, Callable[[Outcomes], Column]]] = {
    "s/token": ("mean latency a token", True, _each_token),
    "e2e": ("mean end-to-end latency", True, lambda rows: np.asarray(rows["e2e"], np.float64)),
    "ttft": ("mean time to first token", True, lambda rows: np.asarray(rows["ttft"], np.float64)),
    "modest": ("mean time to first token of the modest tenant", True, _modest_wait),
    "good": ("requests within their deadline", False, lambda rows: np.asarray(rows["good"], np.float64)),
}


@dataclass(frozen=True)
class Study:
    """A scenario, its loads and what is measured; `predictors` are put in one after the other."""

    file: str
    measures: tuple[str, ...]
    loads: Callable[[Path, Path], list[Load]]
    predictors: Mapping[str, str] = field(default_factory=lambda: {"": ""})  # setting -> what the page calls it
    gaps: bool = False  # the widest service gap of two tenants is a column too


@dataclass(frozen=True)
class Result:
    """A policy on a load: a text a measure; empty for the baseline."""

    load: str
    predictor: str
    policy: str
    cells: tuple[str, ...]


def _traces(data: Path, conv: float, code: float) -> list[Load]:
    found = []
    for name, factor in (("conv", conv), ("code", code)):
        trace = data / "azure2023" / f"AzureLLMInferenceTrace_{name}.csv.gz"
        changes = f"workload={{trace: {trace}, arrivals: {{scale: {factor:g}}}}}"
        found.append(Load(_called(name, factor), (changes,), recorded=True))
    return found


def _called(name: str, factor: float) -> str:
    what = {"conv": "conversations", "code": "code"}[name]
    return f"(b) Azure {what}" + (f" x {factor:g}" if factor != 1.0 else "")


def _single(data: Path, made: Path) -> list[Load]:
    """ShareGPT lengths: Poisson, the Azure traces near saturation, and bursts.

    Where prompts cost nothing, to be displaced does not either: what a system that swaps could have at best. The other two coefficients are near those
    of the roofline of this replica: 44 ms for an iteration of 256 decodes.
    """
    bursts = Load("(c) bursts", ("workload.generate.variation=fitted", "workload.generate.rate=8"))
    free = ("fleet.0.timing={linear: {constant: 0.011, decodes: 0.00013}}", "workload.generate.rate=24")
    swapped = Load("(a) swapped to the host", ("fleet.0.swap={blocks: 40000}",))
    return [Load("(a) Poisson"), swapped, Load("(a) if prompts cost nothing", free), *_traces(data, 1.2, 1.0), bursts]


def _tenants(data: Path, made: Path) -> list[Load]:
    """Two tenants: generated, both Azure traces of the same hour together, and bursts of the larger one."""
    flood = ("workload.generate.mix.0.variation=fitted", "workload.generate.rate=20")
    return [Load("(a) flood"), _both(data, made, 0.8), Load("(c) the flood in bursts", flood)]


def _mixed(data: Path, made: Path) -> list[Load]:
    bursts = tuple(f"workload.generate.mix.{number}.variation=fitted" for number in (0, 1))
    return [Load("(a) Poisson"), _both(data, made, 0.8), Load("(c) bursts", bursts)]


def _three(data: Path, made: Path) -> list[Load]:
    """Tenants whose answers differ, the same where prompts cost nothing, the traces as two tenants and as one, and bursts of all."""
    free = ("fleet.0.timing={linear: {constant: 0.011, decodes: 0.00013}}", "workload.generate.rate=24")
    bursts = tuple(f"workload.generate.mix.{number}.variation=fitted" for number in (0, 1, 2))
    return [
        Load("(a) Poisson"),
        Load("(a) if prompts cost nothing", free),
        _both(data, made, 0.8),
        *_traces(data, 1.2, 1.0),
        Load("(c) bursts", (*bursts, "workload.generate.rate=7")),
    ]


def _both(data: Path, made: Path, factor: float) -> Load:
    """Conversations and code as two tenants of one replica, each trace counted from its own first request."""
    works = {
        name: read_trace(data / "azure2023" / f"AzureLLMInferenceTrace_{name}.csv.gz") for name in ("conv", "code")
    }
    frames = [_frame(work).with_columns(tenant=pl.lit(name)) for name, work in works.items()]
    file = made / "both.csv"
    pl.concat(frames).sort("arrival").write_csv(file)
    return Load(
        f"(b) Azure conversations and code x {factor:g}",
        (f"workload={{trace: {file}, format: generic, arrivals: {{scale: {factor:g}}}}}",),
        recorded=True,
    )


def _deadlines(data: Path, made: Path) -> list[Load]:
    """Limits are drawn for the traces as for the example, because recorded traces carry none."""
    loads = [Load("(a) Poisson")]
    for name, factor in (("conv", 1.2), ("code", 1.0)):
        work = read_trace(data / "azure2023" / f"AzureLLMInferenceTrace_{name}.csv.gz")
        file = made / f"{name}.csv"
        _with_limits(work).write_csv(file)
        changes = f"workload={{trace: {file}, format: generic, arrivals: {{scale: {factor:g}}}}}"
        loads.append(Load(_called(name, factor), (changes,), recorded=True))
    bursts = "workload.arrivals={gamma: {rate: 40, cv: 6}}"
    return [*loads, Load("(c) bursts", (bursts,))]


def _frame(work: Workload) -> pl.DataFrame:
    columns = ("arrival", "prompt_tokens", "output_tokens")
    return pl.DataFrame({name: np.array(getattr(work, name)) for name in columns})


def _with_limits(work: Workload) -> pl.DataFrame:
    """Limits of the whole answer: (1 s + 0.05 s a token) times a factor from 1.2 to 3."""
    factor = generator(0, "limits").uniform(1.2, 3.0, len(work))
    return _frame(work).with_columns(e2e=np.round(factor * (1.0 + 0.05 * work.output_tokens), 2))


def write_deadlines(file: Path = EXAMPLES / "deadlines.csv") -> None:
    """The trace of examples/serving/deadlines.yaml, whose arrivals the scenario draws anew."""
    work = generate({"kind": "burst", "requests": 2000, "rate": 20.0, "variation": "none"}, generator(0, "workload"))
    _with_limits(work).with_columns(pl.col("arrival").round(3)).write_csv(file)


PREDICTORS = {
    "oracle": "oracle",
    "{noisy: {sigma: 0.5}}": "noisy, sigma 0.5",
    "{noisy: {sigma: 1.0}}": "noisy, sigma 1",
    "{bucket: {k: 5, accuracy: 0.6}}": "5 classes, 60 % right",
    "{bucket: {k: 10, accuracy: 0.3}}": "10 classes, 30 % right",
    "{rank: {tau: 0.6}}": "rank, tau 0.6",
    "{rank: {tau: 0.3}}": "rank, tau 0.3",
}
LEARNED = {
    "oracle": "oracle",
    "{noisy: {sigma: 0.5}}": "noisy, sigma 0.5",
    "{history: {by: tenant}}": "history, by tenant",
    "{history: {by: none}}": "history, of all",
}
STUDIES = (
    Study("ltr", ("s/token", "e2e"), _single),
    Study("predicted-order", ("s/token", "e2e"), _single, PREDICTORS),
    Study("fastserve", ("s/token", "e2e"), _single),
    Study("vtc", ("modest", "e2e"), _tenants, gaps=True),
    Study("history", ("s/token", "e2e"), _mixed),
    Study("history-predictor", ("s/token", "e2e"), _three, LEARNED),
    Study("deadlines", ("good", "e2e"), _deadlines),
)


def outcomes(scenario: Scenario, policy: Mapping[str, Any], seeds: int) -> list[Outcomes]:
    """The outcomes of a policy, seed by seed."""
    world: Any = scenario.world
    runs = [world.run(scenario.case, world.workload(scenario.case, seed), policy, seed) for seed in range(seeds)]
    return [run.outcomes for run in runs]


def times_better(base: list[Column], ours: list[Column], smaller: bool, recorded: bool) -> tuple[float, float, float]:
    """How many times better, with its 95 % interval."""
    sign = 1.0 if smaller else -1.0
    if recorded:
        length = max(block_length(base[0]), block_length(ours[0]))
        draws = block_bootstrap(base[0], length) / block_bootstrap(ours[0], length)
        ratio = np.nanmean(base[0]) / np.nanmean(ours[0])
        low, high = np.percentile(draws**sign, [2.5, 97.5])
        return float(ratio**sign), float(low), float(high)
    ratios = [np.log(np.nanmean(one) / np.nanmean(other)) for one, other in zip(base, ours, strict=True)]
    mean, low, high = np.exp(t_interval(sign * np.array(ratios)))
    return float(mean), float(low), float(high)


def service_gap(rows: Outcomes, w_p: float = 1.0, w_q: float = 2.0) -> float:
    """How far the difference of two tenants' service moves while both have requests waiting, weighted tokens.

    Service from the outcomes: the prompt when a request begins, its tokens evenly from the first to the last. NaN where they never wait together.
    """
    rows = {name: column[rows["status"] == "finished"] for name, column in rows.items()}
    times = np.linspace(0.0, float(rows["finish"].max()), 2000)
    _, index = np.unique(rows["tenant"], return_inverse=True)
    difference, both = np.zeros(len(times)), np.ones(len(times), np.bool_)
    for tenant, sign in enumerate((1.0, -1.0)):
        mine = index == tenant
        begun, first, end = (rows[name][mine] for name in ("scheduled", "first_token", "finish"))
        out = np.clip((times[:, None] - first) / np.maximum(end - first, 1e-9), 0.0, 1.0) * rows["output_tokens"][mine]
        given = (w_p * rows["prompt_tokens"][mine] * (times[:, None] >= begun) + w_q * out).sum(axis=1)
        difference += sign * given
        waiting = (rows["arrival"][mine] <= times[:, None]) & (times[:, None] < begun)
        both &= waiting.any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], both.astype(int), [0]])))
    spans = [difference[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return max((float(np.ptp(span)) for span in spans), default=float("nan"))


def results(study: Study, data: Path, made: Path, seeds: int) -> Iterator[Result]:
    """The policies of a study on each load, under each predictor; those that read no lengths only under the first."""
    for load in study.loads(data, made):
        for number, (predictor, label) in enumerate(study.predictors.items()):
            told = (f"information.output_tokens={predictor}",) if predictor else ()
            scenario = read(EXAMPLES / f"{study.file}.yaml", [*load.changes, *told])
            count = 1 if load.recorded else seeds
            base, *others = scenario.policies
            first = outcomes(scenario, base, count)
            if study.gaps:
                yield Result(load.name, label, str(base["name"]), ("",) * len(study.measures) + (gap(first),))
            for policy in others:
                told_any = told_lengths(study, load, policy)
                if number and not told_any:
                    continue
                ours = outcomes(scenario, policy, count)
                cells = [compared(measure, first, ours, load.recorded) for measure in study.measures]
                if study.gaps:
                    cells.append(gap(ours))
                yield Result(load.name, label if told_any else "nothing", str(policy["name"]), tuple(cells))


def told_lengths(study: Study, load: Load, policy: Mapping[str, Any]) -> bool:
    """Whether a policy reads lengths: it does not apply where they are hidden."""
    hidden = read(EXAMPLES / f"{study.file}.yaml", [*load.changes, "information.output_tokens=hidden"])
    return hidden.world.resolve(hidden.case, policy, hidden.folder) is not None


def compared(measure: str, base: list[Outcomes], ours: list[Outcomes], recorded: bool) -> str:
    """A cell: how many times better, and the interval."""
    _, smaller, column = MEASURES[measure]
    mean, low, high = times_better([column(rows) for rows in base], [column(rows) for rows in ours], smaller, recorded)
    return f"{mean:.2f} ({low:.2f} - {high:.2f})"


def gap(runs: list[Outcomes]) -> str:
    """The widest service gap, mean over the runs in which both tenants wait at once."""
    found = np.array([service_gap(rows) for rows in runs])
    together = found[~np.isnan(found)]
    return f"{together.mean():,.0f}" if len(together) else "never both waiting"


def gap_bound(study: Study) -> float:
    """What the widest gap may be by the theorem of Sheng et al., OSDI 2024, w_p 1 and w_q 2: no prompt is as long as twice the cache."""
    scenario = read(EXAMPLES / f"{study.file}.yaml", [])
    world: Any = scenario.world
    replica = world.simulation(scenario.case, world.workload(scenario.case, 0), scenario.policies[0], 0).replicas[0]
    return 2.0 * 2.0 * replica.kv_blocks * replica.block_tokens


def tables(study: Study, rows: Sequence[Result]) -> Iterator[tuple[str, list[str]]]:
    """The tables of a page that a study fills: their marks and their rows."""
    if study.file in ("predicted-order", "history-predictor", "deadlines"):
        shown = [row for row in rows if "swapped" not in row.load]
        swapped = [row for row in rows if "swapped" in row.load]
        for number, measure in enumerate(study.measures):
            yield f"{study.file} {measure}", wide(shown, number, len(study.predictors) > 1)
        if swapped:
            labels = _first_of_each([row.predictor for row in swapped])
            yield (
                f"{study.file} swapped",
                [_line([label, row.policy, *row.cells]) for label, row in zip(labels, swapped, strict=True)],
            )
    else:
        several = len({row.policy for row in rows}) > 1
        loads = _first_of_each([row.load for row in rows])
        yield (
            study.file,
            [
                _line([load, *([row.policy] if several else []), *row.cells])
                for load, row in zip(loads, rows, strict=True)
            ],
        )


def wide(rows: Iterable[Result], measure: int, predictors: bool) -> list[str]:
    """A row a policy, under each predictor where there are several; a column a load."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        found.setdefault((row.predictor, row.policy), []).append(row.cells[measure])
    labels = _first_of_each([predictor for predictor, _ in found])
    return [
        _line([*([label] if predictors else []), policy, *cells])
        for label, ((_, policy), cells) in zip(labels, found.items(), strict=True)
    ]


def _first_of_each(names: Sequence[str]) -> list[str]:
    """Names as a table shows them: not again where the row above has the same."""
    return [name if k == 0 or names[k - 1] != name else "" for k, name in enumerate(names)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    names = [study.file for study in STUDIES]
    parser.add_argument("--only", nargs="*", default=names, choices=names)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    given = parser.parse_args()
    with TemporaryDirectory() as made:
        for study in STUDIES:
            if study.file not in given.only:
                continue
            print(f"\n{study.file}: {', '.join(MEASURES[measure][0] for measure in study.measures)}\n", flush=True)
            rows = []
            for row in results(study, given.data, Path(made), given.seeds):
                print(_line([row.load, row.predictor, row.policy, *row.cells]), flush=True)
                rows.append(row)
            if study.gaps:
                print(f"bound of the gap: {gap_bound(study):,.0f} weighted tokens")
            for name, lines in tables(study, rows) if given.write else ():
                put(given.write, name, lines)


if __name__ == "__main__":
    main()
