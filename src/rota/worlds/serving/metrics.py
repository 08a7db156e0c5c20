"""What a run is judged by: latencies of requests, gaps between tokens, throughput and use of the fleet."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.metrics import jain
from rota.kernel.world import Measure
from rota.worlds.serving import class_metrics
from rota.worlds.serving.class_metrics import describe_classes
from rota.worlds.serving.inside import parked_iterations
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.money import replica_costs, request_costs
from rota.worlds.serving.nodes import gpu_shares
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Simulation

FloatColumn = npt.NDArray[np.float64]

PERCENTILES = (50, 90, 99)
TENANTS_SHOWN = 16  # with a hit rate of their own among the metrics; the outcomes have every request's cached tokens
FAMILIES = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "e2e": "end-to-end latency",
    "queueing": "queueing delay",
}


_SINGLE = (  # name, title, unit, smaller is better
    ("programs_done", "programs of which every call is done", "", False),
    ("programs_early", "programs that were ended early", "", False),
    ("programs_right_share", "share of the programs that are done whose answer is right", "", False),
    (
        "spared_token_share",
        "share of the programs' output tokens that was not generated; probes count against it",
        "",
        False,
    ),
    ("throughput_tokens", "output tokens a second", "tokens/s", False),
    ("throughput_requests", "requests a second", "1/s", False),
    ("goodput", "requests a second within their limits", "1/s", False),
    ("goodput_share", "share of requests within their limits", "", False),
    ("makespan", "time from the first arrival to the last token", "s", True),
    ("preemptions", "preemptions", "", True),
    ("parks", "iterations that were parked between layers for urgent requests", "", True),
    ("rejected", "rejected requests", "", True),
    ("shed", "requests that were turned away to protect others", "", True),
    ("unfinished", "requests never finished", "", True),
    ("restarts", "requests whose replica went down under them, counted each time", "", True),
    ("replicas_mean", "replicas that were on, mean over time", "", True),
    ("gpu_hours", "GPU hours", "h", True),
    ("cost", "price of the GPU hours", "USD", True),
    ("dollars_mean", "dollars a request", "USD", True),
    ("quality_mean", "mean quality of the answers", "", False),
    ("cost_per_million_tokens", "price of a million output tokens", "USD", True),
    ("energy_kwh", "energy of the fleet", "kWh", True),
    ("energy_per_token", "energy an output token", "J", True),
    ("power_mean", "power of the fleet, mean over time", "W", True),
    ("power_peak", "power of the fleet, largest mean of an interval", "W", True),
    ("over_budget_share", "share of time above the power budget", "", True),
    ("stranded_seconds", "time in which prompts were done and no replica was up to decode them", "s", True),
    ("lends", "times that a replica was lent to the other pool", "", True),
    ("role_switches", "roles that the pool policy changed", "", True),
    ("swaps", "times that a displaced request's KV came back from the host's memory", "", True),
    ("migrations", "requests that went on at another replica", "", True),
    ("migrations_given_up", "migrations that a full replica, an end, a displacement or a failure stopped", "", True),
    ("moves", "times that KV moved between replicas", "", True),
    ("moved_bytes", "bytes of KV that moved", "bytes", True),
    ("recalled", "requests that an earlier answer did for", "", False),
    ("recall_rate", "share of look-ups that found an answer", "", False),
    ("recalled_wrong_share", "share of all requests that got a wrong earlier answer", "", True),
    ("model_loads", "times that a model was loaded on a machine that several share", "", True),
    ("model_load_seconds", "seconds of these loads together", "s", True),
    ("adapter_loads", "adapters that were loaded", "", True),
    ("adapter_hit_rate", "share of requests that found their adapter loaded or being loaded", "", False),
    ("prefix_hit_rate", "share of prompt tokens found in the cache", "", False),
    ("tier_hit_rate", "share of prompt tokens that came from tiers below the cache", "", False),
    ("pins", "ended requests whose KV was kept", "", True),
    ("kv_utilisation", "mean share of KV blocks in use", "", True),
    ("compute_utilisation", "share of time in an iteration", "", True),
    ("tenant_fairness", "Jain index of the tenants' mean normalised latency", "", False),
)


def _measures() -> dict[str, Measure]:
    found: dict[str, Measure] = {}
    for family, title in {**FAMILIES, "itl": "inter-token latency"}.items():
        per_job = "" if family == "itl" else family
        found[f"{family}_mean"] = Measure(f"{family}_mean", f"mean {title}", "s", per_job=per_job)
        for p in PERCENTILES:
            found[f"{family}_p{p}"] = Measure(f"{family}_p{p}", f"{title}, p{p}", "s")
    found["program_e2e_mean"] = Measure("program_e2e_mean", "mean time of a program", "s", of_groups=True)
    for p in PERCENTILES:
        found[f"program_e2e_p{p}"] = Measure(f"program_e2e_p{p}", f"time of a program, p{p}", "s", of_groups=True)
    for name, title, unit, smaller in _SINGLE:
        counts_all = name in (
            *("goodput", "goodput_share", "rejected", "shed", "unfinished"),
            *("programs_done", "programs_early", "programs_right_share", "spared_token_share"),
        )
        own = {"goodput_share": "good", "dollars_mean": "dollars", "quality_mean": "quality"}.get(name, "")
        found[name] = Measure(name, title, unit, smaller, own, not counts_all)
    return {**found, **class_metrics.MEASURES}


MEASURES: Mapping[str, Measure] = _measures()


def outcomes(run: Simulation, slo: Slo) -> dict[str, npt.NDArray[Any]]:
    """A row a request: times in seconds (NaN where it never came to that), where it ran, what happened to it."""
    work, seconds, jobs = run.workload, run.seconds, run.jobs
    arrival, finish = seconds[at.ARRIVAL], seconds[at.FINISH]
    gaps = np.maximum(work.output_tokens - 1, 1)
    ttft = seconds[at.FIRST_TOKEN] - arrival
    tpot = np.where(work.output_tokens > 1, (finish - seconds[at.FIRST_TOKEN]) / gaps, np.nan)
    e2e = finish - arrival
    status = np.full(len(work), "unfinished", dtype="<U10")
    status[jobs[at.STATE] == at.FINISHED_STATE] = "finished"
    status[jobs[at.STATE] == at.REJECTED] = "rejected"
    status[jobs[at.STATE] == at.SHED] = "shed"
    status[jobs[at.STATE] == at.RECALLED] = "recalled"
    status[jobs[at.STATE] == at.SPARED] = "spared"
    tpot[status == "recalled"] = np.nan
    limits = [_limit(work.ttft_limit, slo.ttft), _limit(work.tpot_limit, slo.tpot), _limit(work.e2e_limit, slo.e2e)]
    within = status == "finished"
    if run.fleet is not None and run.fleet.store is not None:
        within |= (status == "recalled") & run.fleet.store.right
    for measured, limit in zip((ttft, np.nan_to_num(tpot), e2e), limits, strict=True):
        within = within & ~(measured > limit)
    found = {
        "job": np.arange(len(work)),
        "arrival": arrival.copy(),
        "dispatched": seconds[at.DISPATCHED].copy(),
        "scheduled": seconds[at.SCHEDULED].copy(),
        "first_token": seconds[at.FIRST_TOKEN].copy(),
        "finish": finish.copy(),
        "status": status,
        "replica": jobs[at.HOST].copy(),
        "tenant": np.asarray(work.tenants)[work.tenant],
        "prompt_tokens": work.prompt_tokens,
        "output_tokens": work.output_tokens,
        "cached_tokens": jobs[at.CACHED].copy(),
        "loaded_tokens": jobs[at.LOADED].copy(),
        "preemptions": jobs[at.PREEMPTIONS].copy(),
        "restarts": jobs[at.RESTARTS].copy(),
        "queueing": seconds[at.SCHEDULED] - arrival,
        "ttft": ttft,
        "tpot": tpot,
        "e2e": e2e,
        "good": within.astype(np.float64),
    }
    for name in ("slo_class", "adapter", "model", "category"):
        label = getattr(work.labels, name)
        if label is not None:
            found["asked_model" if name == "model" else name] = np.array([*label.names, ""], dtype=np.str_)[label.index]
    found |= _worth(run, status == "finished")
    if work.labels.model is not None:
        served = np.array([*(replica.model for replica in run.replicas), ""], dtype=np.str_)
        found["model"] = np.where(jobs[at.HOST] >= 0, served[jobs[at.HOST]], "")
    return found


def waits_in_vain(run: Simulation, open_: npt.NDArray[np.bool_], left: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which calls that have not ended (`open_`) wait, directly or not, for one that has left without an answer (`left`)."""
    programs, vain = run.workload.programs, np.zeros(len(left), np.bool_)
    if programs is None:
        return vain
    child = np.repeat(np.arange(len(left)), np.diff(programs.offsets))
    while True:
        more = np.zeros(len(left), np.bool_)
        more[child[(left | vain)[programs.parents]]] = True
        more &= open_ & ~vain
        if not more.any():
            return vain
        vain |= more


def _worth(run: Simulation, done: npt.NDArray[np.bool_]) -> dict[str, FloatColumn]:
    """Quality of each answer and its dollars, where there are such."""
    host, found = run.jobs[at.HOST], {}
    if run.choice is not None and run.choice.quality is not None:
        found["quality"] = run.choice.of_answers(host, done)
    paid = run.choice.paid(host, done, run.workload.output_tokens) if run.choice is not None else None
    if paid is None:
        paid = request_costs(run, replica_costs(run, _seconds_on(run)))
    if not np.isnan(paid).all():
        found["dollars"] = paid
    return found


def _seconds_on(run: Simulation) -> FloatColumn:
    """Seconds that each replica was paid for, from the first arrival to the last token."""
    end = float(np.nanmax(run.seconds[at.FINISH], initial=0.0))
    arrival = run.seconds[at.ARRIVAL]
    start = float(np.nanmin(arrival, initial=np.inf)) if len(arrival) else 0.0
    return run.fleet.power.seconds(end) if run.fleet else np.full(len(run.replicas), max(0.0, end - start))


def _limit(own: FloatColumn, common: float | None) -> FloatColumn:
    return own if common is None else np.where(np.isfinite(own), own, common)


def summarise(run: Simulation, rows: Mapping[str, npt.NDArray[Any]]) -> dict[str, float]:
    """The flat metrics of a run, SI units. Latencies are over finished requests; a percentile of nothing is NaN."""
    metrics: dict[str, float] = {}
    recalled = rows["status"] == "recalled"
    done = (rows["status"] == "finished") | recalled
    for family in FAMILIES:
        values = rows[family][done]
        _describe(metrics, family, values[~np.isnan(values)])
    _describe_gaps(metrics, run.histogram)
    end = float(np.max(rows["finish"][done], initial=0.0))
    start = float(np.nanmin(rows["arrival"], initial=np.inf)) if len(rows["arrival"]) else 0.0
    span = end - start if end > start else float("nan")
    on = _seconds_on(run)
    metrics["makespan"] = end - start if done.any() else 0.0
    metrics["throughput_tokens"] = float(rows["output_tokens"][done & ~recalled].sum()) / span
    metrics["throughput_requests"] = float(done.sum()) / span
    metrics["goodput"] = float(rows["good"].sum()) / span
    made = rows["status"] != "spared"
    metrics["goodput_share"] = float(rows["good"][made].mean()) if made.any() else float("nan")
    metrics["preemptions"] = float(rows["preemptions"].sum())
    metrics["parks"] = parked_iterations(run)
    _describe_programs(metrics, run, rows)
    metrics["restarts"] = float(rows["restarts"].sum())
    metrics["moves"] = float(run.fleet.moves) if run.fleet else 0.0
    _describe_money(metrics, run, on, span)
    for name in ("quality", "dollars"):
        if name in rows:
            known = rows[name][~np.isnan(rows[name])]
            metrics[f"{name}_mean"] = float(known.mean()) if len(known) else float("nan")
    if run.fleet is not None and run.fleet.energy is not None:
        metrics |= run.fleet.energy.summary(end, float(rows["output_tokens"][done & ~recalled].sum()))
    metrics["swaps"] = float(run.fleet.swaps) if run.fleet else 0.0
    metrics["migrations"] = float(run.fleet.migrations) if run.fleet else 0.0
    live = run.fleet.live if run.fleet else None
    metrics["migrations_given_up"] = float(live.given_up) if live else 0.0
    pools = run.fleet.pools if run.fleet else None
    metrics["stranded_seconds"] = run.fleet.stranded_seconds if run.fleet else 0.0
    metrics["lends"] = float(pools.lends) if pools else 0.0
    metrics["role_switches"] = float(pools.switches) if pools else 0.0
    metrics["moved_bytes"] = run.fleet.moved_bytes if run.fleet else 0.0
    metrics["rejected"] = float((rows["status"] == "rejected").sum())
    _describe_recalls(metrics, run, recalled)
    metrics["shed"] = float((rows["status"] == "shed").sum())
    describe_classes(metrics, run.workload.labels.slo_class, rows, span)
    metrics["unfinished"] = float((rows["status"] == "unfinished").sum())
    if run.adapters is not None:
        found = run.adapters.loads + run.adapters.hits
        metrics["adapter_loads"] = float(run.adapters.loads)
        metrics["adapter_hit_rate"] = run.adapters.hits / found if found else 0.0
    if run.fleet is not None and run.fleet.machines.machines:
        metrics["model_loads"] = float(run.fleet.machines.loads)
        metrics["model_load_seconds"] = run.fleet.machines.load_seconds
    looked = run.hosts[:, at.LOOKED_TOKENS].sum()
    metrics["prefix_hit_rate"] = float(run.hosts[:, at.HIT_TOKENS].sum() / looked) if looked else 0.0
    _describe_caches(metrics, run, rows, float(looked))
    kv = run.series[:, :, at.S_KV].sum(axis=1) / run.hosts[:, at.KV_BLOCKS]
    metrics["kv_utilisation"] = float(kv.sum() / on.sum()) if done.any() else 0.0
    metrics["compute_utilisation"] = float(run.clocks[:, at.BUSY_SECONDS].sum() / on.sum()) if done.any() else 0.0
    metrics["tenant_fairness"] = _fairness(rows, done)
    metrics["iterations"] = float(run.hosts[:, at.ITERATIONS].sum())
    metrics["extrapolated"] = float(sum(replica.timing.parameters[0] for replica in run.replicas))
    return metrics


def _describe_caches(
    metrics: dict[str, float], run: Simulation, rows: Mapping[str, npt.NDArray[Any]], looked: float
) -> None:
    """What came from each tier below the cache, what was kept, and each tenant's share of prompt tokens found, where there are several and not many."""
    found = run.caches.tier_hits().sum(axis=0)
    metrics["tier_hit_rate"] = float(found.sum() / looked) if looked else 0.0
    for number, tokens in enumerate(found.tolist(), 1):
        metrics[f"tier_{number}_hit_rate"] = tokens / looked if looked else 0.0
    metrics["pins"] = float(run.fleet.retained.pins) if run.fleet else 0.0
    tenants, index = np.unique(rows["tenant"], return_inverse=True)
    if not run.caches.caching or not 1 < len(tenants) <= TENANTS_SHOWN:
        return
    begun = ~np.isnan(rows["scheduled"])
    prompt = np.bincount(index, rows["prompt_tokens"] * begun, len(tenants))
    cached = np.bincount(index, rows["cached_tokens"] * begun, len(tenants))
    for tenant, hits, tokens in zip(tenants.tolist(), cached.tolist(), prompt.tolist(), strict=True):
        metrics[f"prefix_hit_rate of {tenant}"] = hits / tokens if tokens else 0.0


def _describe_recalls(metrics: dict[str, float], run: Simulation, recalled: npt.NDArray[np.bool_]) -> None:
    """What a semantic cache did, where there is one."""
    if run.fleet is None or run.fleet.store is None:
        return
    store, rows = run.fleet.store, max(len(recalled), 1)
    metrics["recalled"] = float(recalled.sum())
    metrics["recall_rate"] = float(recalled.sum()) / store.looked if store.looked else 0.0
    metrics["recalled_wrong_share"] = float((recalled & ~store.right).sum()) / rows


def _describe_programs(metrics: dict[str, float], run: Simulation, rows: Mapping[str, npt.NDArray[Any]]) -> None:
    """From a program's first arrival to the end of its last call, over programs of which every call is done."""
    programs = run.workload.programs
    if programs is None:
        return
    count = int(programs.program.max(initial=-1)) + 1
    begin, end = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(begin, programs.program, run.workload.arrival)
    never = np.where(rows["status"] == "spared", -np.inf, np.inf)
    np.maximum.at(end, programs.program, np.where(np.isnan(rows["finish"]), never, rows["finish"]))
    took = (end - begin)[np.isfinite(end)]
    _describe(metrics, "program_e2e", took)
    metrics["programs_done"] = float(len(took))
    if run.fleet is not None and run.fleet.rounds is not None:
        metrics |= run.fleet.rounds.summary(rows["status"], np.isfinite(end))


def _describe_money(metrics: dict[str, float], run: Simulation, on: FloatColumn, span: float) -> None:
    """GPU hours from the first arrival to the last token, and what they cost where prices are known. `on`: seconds of each replica."""
    hours = on * gpu_shares(run.replicas) / 3600
    prices = [replica.price for replica in run.replicas]
    metrics["replicas_mean"] = float(on.sum() / span) if span > 0 else float("nan")
    metrics["gpu_hours"] = float(hours.sum())
    known = all(price is not None for price in prices)
    metrics["cost"] = (
        float(sum(h * p for h, p in zip(hours, prices, strict=True) if p is not None)) if known else float("nan")
    )
    tokens = metrics["throughput_tokens"] * span
    metrics["cost_per_million_tokens"] = 1e6 * metrics["cost"] / tokens if tokens > 0 else float("nan")


def _describe(metrics: dict[str, float], family: str, values: FloatColumn) -> None:
    metrics[f"{family}_mean"] = float(values.mean()) if len(values) else float("nan")
    points = np.percentile(values, PERCENTILES) if len(values) else [float("nan")] * len(PERCENTILES)
    for p, value in zip(PERCENTILES, points, strict=True):
        metrics[f"{family}_p{p}"] = float(value)


def _describe_gaps(metrics: dict[str, float], histogram: FloatColumn) -> None:
    """Inter-token latency from the histogram of gaps: the mean is exact, a percentile is the mean of its bin (within 0.1 %)."""
    counts, sums = histogram
    total = counts.sum()
    metrics["itl_mean"] = float(sums.sum() / total) if total else float("nan")
    cumulated = np.cumsum(counts)
    for p in PERCENTILES:
        position = int(np.searchsorted(cumulated, total * p / 100)) if total else 0
        metrics[f"itl_p{p}"] = float(sums[position] / counts[position]) if total else float("nan")


def _fairness(rows: Mapping[str, npt.NDArray[Any]], done: npt.NDArray[np.bool_]) -> float:
    """Jain's index over tenants of the mean latency a token: 1 when all tenants are served alike."""
    tenants, index = np.unique(rows["tenant"][done], return_inverse=True)
    if len(tenants) < 2:
        return 1.0
    normalised = rows["e2e"][done] / (rows["prompt_tokens"][done] + rows["output_tokens"][done])
    return float(jain(np.bincount(index, normalised) / np.bincount(index)))


def series(run: Simulation) -> dict[str, npt.NDArray[Any]]:
    """Time series in equal bins, a row a bin and replica: means of queued, running and KV use over the bin."""
    width, start = float(run.clock[at.BIN_SECONDS]), float(run.clock[at.BIN_START])
    end = float(np.nanmax(run.seconds[at.FINISH], initial=start))
    bins = min(max(int(np.ceil((end - start) / width)), 1), run.series.shape[1])
    hosts = len(run.replicas)
    shown = run.series[:, :bins] / width
    found = {
        "time": np.tile(start + np.arange(bins) * width, hosts),
        "host": np.repeat(np.arange(hosts), bins),
        "queued": shown[:, :, at.S_QUEUED].reshape(-1),
        "running": shown[:, :, at.S_RUNNING].reshape(-1),
        "kv_use": (shown[:, :, at.S_KV] / run.hosts[:, None, at.KV_BLOCKS]).reshape(-1),
        "busy": shown[:, :, at.S_BUSY].reshape(-1),
    }
    if run.fleet is not None and run.fleet.energy is not None:
        found["watts"] = run.fleet.energy.series(start + np.arange(bins + 1) * width).reshape(-1)
    return found


def spans(rows: Mapping[str, npt.NDArray[Any]], at_most: int = 400) -> dict[str, npt.NDArray[Any]]:
    """The requests nearest to the arrival of the slowest one, for a Gantt chart: each request's wait, prefill and decode, on lanes of its replica."""
    done = np.flatnonzero(rows["status"] == "finished")
    if not len(done):
        return {}
    worst = done[np.argmax(rows["e2e"][done])]
    middle = rows["arrival"][worst]
    near = done[np.argsort(np.abs(rows["scheduled"][done] - middle), kind="stable")[: at_most // 2]]
    near = near[np.lexsort((near, rows["arrival"][near]))]
    lane = _lanes(rows["replica"][near], rows["arrival"][near], rows["finish"][near])
    pieces = (
        ("queued", "arrival", "scheduled"),
        ("prefill", "scheduled", "first_token"),
        ("decode", "first_token", "finish"),
    )
    columns = {
        "host": np.concatenate([rows["replica"][near]] * 3),
        "lane": np.concatenate([lane] * 3),
        "label": np.concatenate([np.array([f"{kind} of request {j}" for j in near]) for kind, _, _ in pieces]),
        "kind": np.repeat([kind for kind, _, _ in pieces], len(near)),
        "start": np.concatenate([rows[start][near] for _, start, _ in pieces]),
        "end": np.concatenate([rows[end][near] for _, _, end in pieces]),
    }
    drawn = columns["end"] > columns["start"]
    return {name: column[drawn] for name, column in columns.items()}


def _lanes(host: npt.NDArray[Any], start: FloatColumn, end: FloatColumn) -> npt.NDArray[np.int64]:
    """The lowest free lane of its host for each span, in order of start."""
    lanes = np.zeros(len(host), np.int64)
    free: dict[int, list[float]] = {}
    for k in range(len(host)):
        ends = free.setdefault(int(host[k]), [])
        lane = next((i for i, until in enumerate(ends) if until <= start[k]), len(ends))
        ends[lane : lane + 1] = [float(end[k])]
        lanes[k] = lane
    return lanes
