"""An independent check of a finished run: from its outcomes, series and metrics, sharing no code with the simulator.

What it cannot see (chunks, the moments of a preemption) it does not judge: requests that were displaced count towards no limit, so a
run that passes may still be wrong, but one that fails is.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.worlds.serving.model import Workload
from rota.worlds.serving.replica import Replica

Columns = Mapping[str, npt.NDArray[Any]]
Mask = npt.NDArray[np.bool_]
TIMES = ("arrival", "dispatched", "scheduled", "first_token", "finish")
ROUNDING = 1e-6  # relative: sums of millions of floats, added in another order
AT_MOST = 20  # lines of one kind
LARGE = 20_000  # requests; of a larger run, slots and blocks are counted on the busiest replica only, because sorting is what costs


def verify(
    workload: Workload,
    replicas: Sequence[Replica],
    rows: Columns,
    metrics: Mapping[str, float],
    series: Columns,
    bin_seconds: float,
    closed: bool = False,
) -> list[str]:
    """Broken rules of a run, a line each; none: nothing was found.

    Args:
        workload: What was asked for.
        replicas: The fleet.
        rows: The columns of `metrics.outcomes`.
        metrics: As `metrics.summarise` gives them.
        series: As `metrics.series` gives them, bins of `bin_seconds`.
        closed: Arrivals are made by the run, so they are not those of the workload.
    """
    done, rejected, unfinished = (rows["status"] == status for status in ("finished", "rejected", "unfinished"))
    shed, recalled = rows["status"] == "shed", rows["status"] == "recalled"
    spared = rows["status"] == "spared"
    known = done | rejected | shed | recalled | unfinished | spared
    found = _complete(workload, rows, int(known.sum()), closed)
    if found:
        return found  # rows that are not those of the workload have no further meaning
    found += _times(rows, done, rejected | shed | spared, recalled)
    # Where requests move, nobody here knows when one came to its last replica.
    moved = metrics.get("moves", 0.0) or metrics.get("migrations", 0.0)
    alone = all(replica.role == "mixed" for replica in replicas) and not moved
    judged = range(len(replicas))
    if len(workload) > LARGE:
        busiest = int(np.bincount(rows["replica"][done], minlength=1).argmax())
        judged = range(busiest, busiest + 1)
    for number, replica in enumerate(replicas):
        if number in judged:
            here = done & (rows["replica"] == number) & (rows["preemptions"] == 0) & (rows["restarts"] == 0) & alone
            found += _limits(rows, here, number, replica)
        of_host = series["host"] == number
        for name, most in (("kv_use", 1.0), ("busy", 1.0), ("running", float(replica.max_running))):
            seen = float(series[name][of_host].max(initial=0.0))
            if seen > most * (1 + ROUNDING):
                found.append(
                    f"replica {number}: {name} is {seen:g} on average over a bin, at most {most:g} is possible"
                )
    if not unfinished.any() and not rows["restarts"].any():  # otherwise nobody knows how long they stay
        found += _law_of_little(rows, done, series, bin_seconds, metrics.get("stranded_seconds", 0.0))
    if metrics["shed"] != shed.sum():
        found.append(f"the metrics say shed = {metrics['shed']:g}, the outcomes {shed.sum()}")
    return found + _counts(rows, done, recalled, rejected, unfinished, metrics)


def _complete(workload: Workload, rows: Columns, known: int, closed: bool) -> list[str]:
    """Every request has one outcome, with its own tokens."""
    if not np.array_equal(rows["job"], np.arange(len(workload))):
        return [f"there are {len(rows['job'])} outcomes of {len(workload)} requests, or in another order"]
    if known != len(workload):
        return [f"{len(workload) - known} requests have no outcome that is known"]
    own = {"prompt_tokens": workload.prompt_tokens, "output_tokens": workload.output_tokens}
    if not closed:
        own["arrival"] = workload.arrival  # type: ignore[assignment]
    wrong = [(name, np.flatnonzero(rows[name] != column)) for name, column in own.items()]
    return [f"request {j[0]}: {name} is not that of the workload" for name, j in wrong if len(j)]


def _times(rows: Columns, done: Mask, rejected: Mask, recalled: Mask) -> list[str]:
    """Nothing happens before its cause, nor to those that were turned away."""
    found: list[str] = []
    for earlier, later in pairwise(TIMES):
        wrong = np.flatnonzero(done & ~(rows[earlier] <= rows[later]))
        found += [f"request {j}: {later} comes before {earlier}" for j in wrong[:AT_MOST]]
    served = rejected & ~np.isnan(rows["scheduled"])
    found += [f"request {j}: was {rows['status'][j]} and yet served" for j in np.flatnonzero(served)[:AT_MOST]]
    served = recalled & (~np.isnan(rows["scheduled"]) | ~(rows["arrival"] <= rows["finish"]))
    found += [f"request {j}: was recalled, and yet served or late for itself" for j in np.flatnonzero(served)[:AT_MOST]]
    ended = ~done & ~recalled & ~np.isnan(rows["finish"])
    found += [f"request {j}: is {rows['status'][j]} and yet has an end" for j in np.flatnonzero(ended)[:AT_MOST]]
    one = done & (rows["output_tokens"] == 1) & (rows["first_token"] != rows["finish"])
    found += [f"request {j}: has one token, which came at two times" for j in np.flatnonzero(one)[:AT_MOST]]
    more = done & (rows["output_tokens"] > 1) & ~(rows["first_token"] < rows["finish"])
    return found + [f"request {j}: all its tokens came at once" for j in np.flatnonzero(more)[:AT_MOST]]


def _law_of_little(rows: Columns, done: Mask, series: Columns, bin_seconds: float, nowhere: float = 0.0) -> list[str]:
    """The time that requests spend at the replicas, all but `nowhere` of it, is the integral of their number."""
    spent = float((rows["finish"][done] - rows["dispatched"][done]).sum()) - nowhere
    number = float((series["queued"].sum() + series["running"].sum()) * bin_seconds)
    if abs(number - spent) <= ROUNDING * max(spent, bin_seconds):
        return []
    return [
        f"requests spent {spent:.9g} s at the replicas, but their number over time makes {number:.9g} s (Little's law)"
    ]


def _counts(
    rows: Columns, done: Mask, recalled: Mask, rejected: Mask, unfinished: Mask, metrics: Mapping[str, float]
) -> list[str]:
    """The metrics count what the outcomes say."""
    expected = {
        "preemptions": float(rows["preemptions"].sum()),
        "rejected": float(rejected.sum()),
        "unfinished": float(unfinished.sum()),
    }
    tokens = float(rows["output_tokens"][done].sum())
    done = done | recalled
    if done.any():
        expected["makespan"] = float(rows["finish"][done].max() - np.nanmin(rows["arrival"]))
        expected["e2e_mean"] = float((rows["finish"][done] - rows["arrival"][done]).sum() / done.sum())
        expected["ttft_mean"] = float((rows["first_token"][done] - rows["arrival"][done]).sum() / done.sum())
        span = expected["makespan"]
        expected |= {"throughput_tokens": tokens / span, "throughput_requests": float(done.sum()) / span}
    return [
        f"the metrics say {name} = {metrics[name]:g}, the outcomes {value:g}"
        for name, value in expected.items()
        if not abs(metrics[name] - value) <= ROUNDING * max(abs(value), 1e-12)
    ]


def _limits(rows: Columns, here: Mask, number: int, replica: Replica) -> list[str]:
    """Slots and KV blocks of one replica at every moment at which something begins."""
    found = []
    names = ("scheduled", "first_token", "finish", "prompt_tokens")
    scheduled, first_token, finish, prompt_tokens = (rows[name][here] for name in names)
    order = np.argsort(finish, kind="stable")
    slots = _most(scheduled, finish[order], np.ones(len(finish), np.int64), order)
    if slots > replica.max_running:
        found.append(f"replica {number}: {slots:g} requests ran at once, at most {replica.max_running} may")
    if not replica.prefix_caching:  # cached blocks are shared
        used = _most(first_token, finish[order], -(-prompt_tokens // replica.block_tokens), order)
        if used > replica.kv_blocks:
            found.append(f"replica {number}: prompts held {used:g} KV blocks at once, there are {replica.kv_blocks}")
    return found


def _most(start: npt.NDArray[np.float64], ends: npt.NDArray[np.float64], weight: npt.NDArray[Any], order: Any) -> float:
    """The largest sum of weights of intervals [start, end) that overlap; an end at the same time goes first.

    `ends` are sorted, `order` says by whom; the other columns are not.
    """
    if not len(start):
        return 0.0
    begins = np.argsort(start, kind="stable")
    over = np.concatenate([[0], np.cumsum(weight[order])])[np.searchsorted(ends, start[begins], side="right")]
    return float((np.cumsum(weight[begins]) - over).max())
