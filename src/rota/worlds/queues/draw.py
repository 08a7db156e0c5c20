"""Jobs from distributions, and what is said about them: drawn by job and stream, so that all policies see the same.

Streams: `arrivals`, `class`, `sizes`, `due`, `patience` (the jobs), `predictions`, `bits` (what is said about them).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.streams import normal, uniform
from rota.kernel.tables import JOB_COLUMNS, Column
from rota.worlds.queues.distributions import Distribution
from rota.worlds.queues.model import FloatColumn, IntColumn, Workload, child_lists, make_workload, topological
from rota.worlds.queues.read import read_trace
from rota.worlds.queues.settings import Bit, Case, ClassLaw, Prediction, SizeInformation, prediction_of


def workload(case: Case, seed: int) -> Workload:
    """The jobs of a seed."""
    work = _recorded(case) if case.process is None else _drawn(case, seed)
    if work.parents is None:
        return work
    behind = weight_behind(work) * np.exp(
        case.information.weight_behind.sigma * normal(seed, "weights", np.arange(len(work)))
    )
    return replace(work, columns={**work.columns, "weight_behind": behind})


def weight_behind(work: Workload) -> FloatColumn:
    """The weight of each job and of all that depends on it; what two paths share is counted once."""
    if work.parents is None:
        return work.weight.copy()
    offsets, children = child_lists(work.parents, len(work))
    behind: list[int] = [0] * len(work)  # sets of jobs as bits
    found = np.empty(len(work))
    for job in reversed(topological(work.parents, len(work))):
        mine = 1 << job
        for child in children[offsets[job] : offsets[job + 1]].tolist():
            mine |= behind[child]
        behind[job] = mine
        rows = [job, *_bits(mine ^ (1 << job))] if children[offsets[job] : offsets[job + 1]].size else [job]
        found[job] = work.weight[rows].sum()
    return found


def _bits(number: int) -> list[int]:
    places = []
    while number:
        low = number & -number
        places.append(low.bit_length() - 1)
        number ^= low
    return places


def _recorded(case: Case) -> Workload:
    section = case.workload
    work = read_trace(
        case.folder / Path(str(section.trace)).expanduser(),
        section.columns,
        tuple(law.setting.name for law in case.laws),
    )
    if section.first is not None and section.first < len(work):
        if work.parents is not None:
            raise InputError("workload.first: jobs with parents cannot be cut; leave it out")
        rows = {
            name: getattr(work, name)[: section.first]
            for name in ("arrival", "size", "job_class", "weight", "due", "patience", "tenant", "priority")
        }
        work = replace(work, **rows, columns={name: column[: section.first] for name, column in work.columns.items()})
    if case.warm_up.jobs is not None and case.warm_up.jobs >= len(work):
        raise InputError(
            f"warm_up.jobs: {case.warm_up.jobs} of the trace's {len(work)} jobs leave nothing to measure; lower it"
        )
    if section.scale != 1.0:
        lateness = work.due - work.arrival
        work = replace(work, arrival=work.arrival / section.scale, due=work.arrival / section.scale + lateness)
    return work


def _drawn(case: Case, seed: int) -> Workload:
    count = case.workload.jobs
    rows = np.arange(count)
    if case.process is None:
        raise InputError("workload: a trace is not drawn")
    arrival = np.cumsum(case.process.gaps(seed, "arrivals", count) * (case.process.rate / case.rate))
    operations, parents, program = case.workload.operations, None, None
    if operations > 1:
        program, count = np.repeat(rows, operations), count * operations
        rows, arrival = np.arange(count), np.repeat(arrival, operations)
        first = rows % operations == 0
        parents = np.concatenate([[0], np.cumsum(~first)]).astype(np.int64), rows[~first] - 1
    kinds = _kinds(case.laws, seed, case.workload.jobs)
    if operations > 1:
        kinds = np.repeat(kinds, operations)
    columns: dict[str, FloatColumn] = {
        "size": np.zeros(count),
        "due": np.full(count, np.inf),
        "patience": np.full(count, np.inf),
    }
    for kind, law in enumerate(case.laws):
        mine = rows[kinds == kind] if len(case.laws) > 1 else rows
        columns["size"][mine] = drawn(law.service, seed, "sizes", mine)
        if law.due is not None:
            columns["due"][mine] = arrival[mine] + drawn(law.due, seed, "due", mine)
        if law.patience is not None:
            columns["patience"][mine] = drawn(law.patience, seed, "patience", mine)
    settings = [law.setting for law in case.laws]
    tenants = tuple(dict.fromkeys(setting.tenant for setting in settings))
    return make_workload(
        arrival,
        columns["size"],
        job_class=kinds,
        weight=np.array([setting.weight for setting in settings])[kinds],
        due=columns["due"],
        patience=columns["patience"],
        tenant=np.array([tenants.index(setting.tenant) for setting in settings])[kinds],
        priority=np.array([setting.priority for setting in settings])[kinds],
        classes=tuple(setting.name for setting in settings),
        tenants=tenants,
        parents=parents,
        program=program,
        source="drawn",
    )


def _kinds(laws: tuple[ClassLaw, ...], seed: int, count: int) -> IntColumn:
    if len(laws) == 1:
        return np.zeros(count, np.int64)
    shares = np.cumsum([law.setting.share for law in laws])
    return np.searchsorted(shares / shares[-1], uniform(seed, "class", np.arange(count)), side="right").astype(np.int64)


def drawn(law: Distribution, seed: int, stream: str, rows: IntColumn) -> FloatColumn:
    """A value of a distribution for each job, keyed by job."""
    return law.draw(np.stack([uniform(seed, stream, rows, ordinal) for ordinal in range(law.uniforms)]))


def visible_size(case: Case, work: Workload, seed: int) -> tuple[FloatColumn | None, Column]:
    """What policies may know of the sizes, and how good that is."""
    setting, column = case.information.size, JOB_COLUMNS["size"]
    if setting == "hidden":
        return None, Column("size", "s", column.meaning, quality="hidden")
    if not isinstance(setting, SizeInformation):
        return work.size, column
    said, by = _said(setting.prediction, case.size_factor, case, work, seed, "predictions")
    return said, Column("size", "s", column.meaning, quality="estimated", by=by)


def _said(
    prediction: Prediction, factor: Distribution | None, case: Case, work: Workload, seed: int, stream: str
) -> tuple[FloatColumn, str]:
    rows = np.arange(len(work))
    if prediction.lognormal is not None:
        sigma = prediction.lognormal.sigma
        return work.size * np.exp(sigma * normal(seed, stream, rows)), f"lognormal error, sigma {sigma:g}"
    if factor is not None:
        by = "an exponential with the true mean" if prediction.exponential else "a random factor"
        return work.size * drawn(factor, seed, stream, rows), by
    if prediction.quantile is not None:
        levels = np.array([float(law.service.quantile(np.array([prediction.quantile]))[0]) for law in case.laws])
        return levels[work.job_class], f"quantile {prediction.quantile:g} of its class"
    name = str(prediction.column)
    if name not in work.columns:
        raise InputError(
            f"information: the trace has no column '{name}' (further columns: {', '.join(work.columns) or 'none'})"
        )
    return work.columns[name], f"column {name} of the trace"


def predicted_size(case: Case, work: Workload, seed: int) -> tuple[FloatColumn | None, Column]:
    """The column `predicted_size`: a prediction beside the size, or the size itself where that is one."""
    setting = case.information.predicted_size
    if setting is None:
        said, column = visible_size(case, work, seed)
        given = isinstance(case.information.size, SizeInformation)
        return (said if given else None), Column(
            "predicted_size", "s", quality="estimated" if given else "hidden", by=column.by
        )
    said, by = _said(prediction_of(setting), case.predicted_factor, case, work, seed, "predictions")
    return said, Column("predicted_size", "s", quality="estimated", by=by)


def short_bit(case: Case, work: Workload, seed: int) -> FloatColumn | None:
    """Whether each job is said to be short: 1 or 0; None where nobody says."""
    bit = case.information.short
    if bit is None:
        return None
    said: Any = work.size
    if isinstance(bit, Bit) and bit.prediction is not None:
        said, _ = _said(bit.prediction, case.short_factor, case, work, seed, "bits")
    wrong = uniform(seed, "bits/wrong", np.arange(len(work))) < bit.wrong
    return np.asarray((said <= bit.threshold) != wrong, np.float64)
