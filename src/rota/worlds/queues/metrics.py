"""What a run is judged by: response, waiting and slowdown of jobs, numbers in the system, fairness, utilisation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.metrics import jain
from rota.kernel.world import Measure
from rota.worlds.queues.kernels import layout as at
from rota.worlds.queues.model import FloatColumn
from rota.worlds.queues.settings import WarmUp
from rota.worlds.queues.simulate import Simulation

PERCENTILES = (50, 90, 99)
BATCHES = 30
FAMILIES = {"response": ("response time", "s"), "waiting": ("waiting time", "s"), "slowdown": ("slowdown", "")}
STATES = {
    at.FINISHED_STATE: "finished",
    at.BLOCKED: "blocked",
    at.ABANDONED: "abandoned",
    at.REFUSED: "refused",
}


def _measures() -> dict[str, Measure]:
    found: dict[str, Measure] = {}
    for family, (title, unit) in FAMILIES.items():
        found[f"{family}_mean"] = Measure(f"{family}_mean", f"mean {title}", unit, per_job=family)
        for p in PERCENTILES:
            found[f"{family}_p{p}"] = Measure(f"{family}_p{p}", f"{title}, p{p}", unit)
    for name, title, unit, smaller in (
        ("response_half_width", "95 % half-width of the mean response time by batch means", "s", True),
        ("weighted_response_mean", "mean response time weighted by importance", "s", True),
        ("program_response_mean", "mean response time of programs", "s", True),
        ("tardiness_mean", "mean tardiness", "s", True),
        ("late_share", "share of jobs that are late", "", True),
        ("cost_mean", "mean response time and price of predictions", "s", True),
        ("number_in_system", "mean number of jobs present", "", True),
        ("number_waiting", "mean number of jobs waiting", "", True),
        ("utilisation", "share of the servers' time in use", "", True),
        ("throughput", "jobs done a second", "1/s", False),
        ("goodput_value", "weight of the jobs served", "", False),
        ("blocked", "jobs that found the line full", "", True),
        ("abandoned", "jobs that lost patience", "", True),
        ("refused", "jobs not admitted", "", True),
        ("unfinished", "jobs never finished", "", True),
        ("preemptions", "preemptions", "", True),
        ("class_fairness", "Jain index of the classes' mean slowdown", "", False),
        ("tenant_fairness", "Jain index of the tenants' mean slowdown", "", False),
    ):
        counts_all = name in ("goodput_value", "blocked", "abandoned", "refused", "unfinished")
        found[name] = Measure(name, title, unit, smaller, of_served=not counts_all)
    return found


MEASURES: Mapping[str, Measure] = _measures()


def outcomes(run: Simulation, warm_up: WarmUp) -> dict[str, npt.NDArray[Any]]:
    """A row a job. `response`, `waiting` and `slowdown` are NaN for jobs of the warm-up and for those that were never done."""
    work, seconds, jobs = run.workload, run.seconds, run.jobs
    rows = len(work)
    arrival = seconds[at.ARRIVAL].copy()
    finish = np.where(jobs[at.STATE] == at.FINISHED_STATE, seconds[at.FINISH], np.nan)
    skipped = warm_up.jobs if warm_up.jobs is not None else int((warm_up.share or 0.0) * rows)
    measured = np.arange(rows) >= skipped
    response = np.where(measured, finish - arrival, np.nan)
    status = np.full(rows, "unfinished", dtype="<U10")
    for state, name in STATES.items():
        status[jobs[at.STATE] == state] = name
    with np.errstate(divide="ignore", invalid="ignore"):
        slowdown = np.where(work.size > 0, response / work.size, np.nan)
    return {
        "job": np.arange(rows),
        "arrival": arrival,
        "start": seconds[at.START].copy(),
        "finish": finish,
        "status": status,
        "server": jobs[at.SERVER].copy(),
        "class": np.asarray(work.classes)[work.job_class],
        "tenant": np.asarray(work.tenants)[work.tenant],
        "size": work.size,
        "weight": work.weight,
        "due": work.due,
        "preemptions": jobs[at.PREEMPTIONS].copy(),
        "response": response,
        "waiting": response - seconds[at.SIZE]
        if _one_speed(run)
        else np.where(measured, seconds[at.START] - arrival, np.nan),
        "slowdown": slowdown,
    }


def _one_speed(run: Simulation) -> bool:
    """At speed 1, what a job did not spend in service it spent waiting; otherwise waiting is until its service begins."""
    return bool((run.servers.speeds == 1.0).all()) and run.roles.share is None and not run.state[at.HAS_SETUP]


def summarise(run: Simulation, rows: Mapping[str, npt.NDArray[Any]]) -> dict[str, float]:
    """The flat metrics of a run, SI units, over the jobs after the warm-up. A mean of nothing is NaN."""
    metrics: dict[str, float] = {}
    for family in FAMILIES:
        values = rows[family][~np.isnan(rows[family])]
        metrics[f"{family}_mean"] = float(values.mean()) if len(values) else float("nan")
        points = np.percentile(values, PERCENTILES) if len(values) else [float("nan")] * len(PERCENTILES)
        metrics |= {f"{family}_p{p}": float(value) for p, value in zip(PERCENTILES, points, strict=True)}
    response, done = rows["response"], ~np.isnan(rows["response"])
    metrics["response_half_width"] = batch_half_width(response[done])
    weight = rows["weight"][done]
    metrics["weighted_response_mean"] = (
        float((weight * response[done]).sum() / weight.sum()) if done.any() else float("nan")
    )
    late = np.maximum(0.0, rows["finish"][done] - rows["due"][done])
    metrics["tardiness_mean"] = float(late.mean()) if done.any() else float("nan")
    metrics["late_share"] = float((late > 0).mean()) if done.any() else float("nan")
    price = getattr(run.roles.order, "price", None) if run.roles.share is None else None
    paid = (
        np.zeros(len(response))
        if price is None
        else np.asarray(price(run._at_arrival(run.roles.order.reads)), np.float64)
    )
    metrics["cost_mean"] = float((response + paid)[done].mean()) if done.any() else float("nan")
    metrics |= _levels(run, rows)
    for status in (*STATES.values(), "unfinished"):
        if status != "finished":
            metrics[status] = float((rows["status"] == status).sum())
    metrics["goodput_value"] = float(rows["weight"][rows["status"] == "finished"].sum())
    metrics["preemptions"] = float(rows["preemptions"].sum())
    for name in ("class", "tenant"):
        metrics[f"{name}_fairness"] = _fairness(rows[name][done], rows["slowdown"][done])
    if run.workload.program is not None:
        metrics["program_response_mean"] = float(program_responses(run, rows).mean())
    for name in run.workload.classes if len(run.workload.classes) > 1 else ():
        mine = response[done & (rows["class"] == name)]
        metrics[f"response_mean_{name}"] = float(mine.mean()) if len(mine) else float("nan")
    return metrics


def program_responses(run: Simulation, rows: Mapping[str, npt.NDArray[Any]]) -> FloatColumn:
    """Seconds from a program's arrival to the end of its last operation, for programs that were done."""
    program = run.workload.program
    if program is None:
        return np.zeros(0)
    _, index = np.unique(program, return_inverse=True)
    begin, end = np.full(index.max() + 1, np.inf), np.full(index.max() + 1, -np.inf)
    np.minimum.at(begin, index, run.workload.arrival)
    np.maximum.at(end, index, np.where(np.isnan(rows["finish"]), np.inf, rows["finish"]))
    return (end - begin)[np.isfinite(end)]


def _levels(run: Simulation, rows: Mapping[str, npt.NDArray[Any]]) -> dict[str, float]:
    """Means over time between the first counted arrival and the last arrival, while the system is as it is meant to be."""
    arrival, finish = rows["arrival"], rows["finish"]
    inside = np.isin(rows["status"], ["finished", "unfinished"]) & np.isfinite(arrival)
    counted = ~np.isnan(rows["response"]) | (rows["status"] == "unfinished")
    begin = float(arrival[counted].min(initial=np.inf))
    end = float(arrival.max(initial=-np.inf))
    last = float(np.nanmax(finish, initial=0.0))
    busy = float(run.clocks[at.BUSY_SECONDS].sum())
    found = {
        "throughput": float((rows["status"] == "finished").sum() / last) if last > 0 else float("nan"),
        "utilisation": busy / (last * len(run.servers)) if last > 0 else float("nan"),
        "number_in_system": float("nan"),
        "number_waiting": float("nan"),
    }
    if end > begin:
        until = np.where(np.isnan(finish), end, finish)
        stay = np.clip(np.minimum(until, end) - np.maximum(arrival, begin), 0.0, None)
        found["number_in_system"] = float(stay[inside].sum() / (end - begin))
        found["number_waiting"] = float((stay * _waiting_share(run, rows, until))[inside].sum() / (end - begin))
    return found


def _waiting_share(run: Simulation, rows: Mapping[str, npt.NDArray[Any]], until: FloatColumn) -> FloatColumn:
    """The part of each job's stay that it waits, as `waiting` has it, also for jobs of the warm-up."""
    stay = until - rows["arrival"]
    begun = np.where(np.isnan(rows["start"]), until, rows["start"]) - rows["arrival"]
    known = np.isfinite(rows["finish"]) & _one_speed(run)
    waited = np.where(known, stay - run.seconds[at.SIZE], begun)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(stay > 0, np.clip(waited / stay, 0.0, 1.0), 0.0)


def batch_half_width(values: FloatColumn, batches: int = BATCHES) -> float:
    """Half the 95 % confidence interval of the mean of a correlated series by batch means (Conway 1963); NaN when it is too short."""
    from scipy.stats import t

    if len(values) < 10 * batches:
        return float("nan")
    means = np.array([batch.mean() for batch in np.array_split(values, batches)])
    return float(t.ppf(0.975, batches - 1) * means.std(ddof=1) / np.sqrt(batches))


def _fairness(labels: npt.NDArray[Any], slowdown: FloatColumn) -> float:
    names, index = np.unique(labels, return_inverse=True)
    known = ~np.isnan(slowdown)
    if len(names) < 2 or not known.any():
        return 1.0
    counts = np.bincount(index[known], minlength=len(names))
    means = np.bincount(index[known], slowdown[known], minlength=len(names)) / np.maximum(counts, 1)
    return float(jain(means[counts > 0]))


def series(run: Simulation, rows: Mapping[str, npt.NDArray[Any]], bins: int = 512) -> dict[str, npt.NDArray[Any]]:
    """Jobs waiting and in service at each server (0 for a central line), means over equal bins of time."""
    last = float(np.nanmax(rows["finish"], initial=0.0))
    if last <= 0.0:
        return {}
    edges = np.linspace(0.0, last, bins + 1)
    hosts = 1 if run.servers.central else len(run.servers)
    columns: dict[str, list[npt.NDArray[Any]]] = {"time": [], "host": [], "queued": [], "running": []}
    for host in range(hosts):
        mine = (rows["server"] == host) if hosts > 1 else np.ones(len(rows["job"]), bool)
        mine &= ~np.isnan(rows["finish"])
        arrival, start, finish = (np.sort(rows[name][mine]) for name in ("arrival", "start", "finish"))
        came, begun, gone = (_integral(times, edges) for times in (arrival, start, finish))
        width = np.diff(edges)
        columns["time"].append(edges[:-1])
        columns["host"].append(np.full(bins, host))
        columns["queued"].append(np.diff(came - begun) / width)
        columns["running"].append(np.diff(begun - gone) / width)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _integral(times: FloatColumn, edges: FloatColumn) -> FloatColumn:
    """Integral from 0 to each edge of the number of events so far."""
    sums = np.concatenate([[0.0], np.cumsum(times)])
    count = np.searchsorted(times, edges, side="right")
    return np.asarray(count * edges - sums[count])


def spans(run: Simulation, rows: Mapping[str, npt.NDArray[Any]], at_most: int = 200) -> dict[str, npt.NDArray[Any]]:
    """The jobs around the one that took longest, for a Gantt chart: each waits, then is served, on a lane of its own."""
    done = np.flatnonzero(~np.isnan(rows["finish"]))
    if not len(done):
        return {}
    worst = done[np.argmax((rows["finish"] - rows["arrival"])[done])]
    near = done[np.argsort(np.abs(rows["arrival"][done] - rows["arrival"][worst]), kind="stable")[:at_most]]
    near = near[np.lexsort((near, rows["arrival"][near]))]
    host = np.zeros(len(near), np.int64) if run.servers.central else rows["server"][near]
    lanes = np.zeros(len(near), np.int64)
    free: dict[int, list[float]] = {}
    for place, job in enumerate(near):
        ends = free.setdefault(int(host[place]), [])
        lane = next((i for i, until in enumerate(ends) if until <= rows["arrival"][job]), len(ends))
        ends[lane : lane + 1] = [float(rows["finish"][job])]
        lanes[place] = lane
    pieces = (("waiting", "arrival", "start"), ("in service", "start", "finish"))
    columns = {
        "host": np.tile(host, 2),
        "lane": np.tile(lanes, 2),
        "label": np.array([f"job {job}, {kind}" for kind, _, _ in pieces for job in near]),
        "kind": np.repeat([kind for kind, _, _ in pieces], len(near)),
        "start": np.concatenate([rows[start][near] for _, start, _ in pieces]),
        "end": np.concatenate([rows[end][near] for _, _, end in pieces]),
    }
    drawn = columns["end"] > columns["start"]
    return {name: column[drawn] for name, column in columns.items()}
