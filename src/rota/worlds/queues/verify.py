"""An independent check of a finished run, from its outcomes alone: it shares no code with the loops."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.worlds.queues.model import Servers, Workload

SLACK = 1e-9  # relative, of the longest time: what rounding may do


def verify(
    work: Workload, servers: Servers, rows: Mapping[str, npt.NDArray[Any]], area: float, busy: float
) -> list[str]:
    """The rules that a run breaks, one line each; empty when it is sound.

    Every job has one end; nothing starts before it came or ends sooner than its service takes at the fastest server; servers do
    not do more than they can in any time (checked at every finish); parents come first; Little's law: the integral of the number present
    equals the sum of the stays, and equals `area`, which the loop has added up on its own.

    Args:
        work, servers: What was run.
        rows: The outcomes.
        area: Integral over time of the number of jobs present, as the loop counted it.
        busy: Seconds of use of all servers, as the loop counted it.
    """
    found: list[str] = []
    arrival, start, finish, status = (rows[name] for name in ("arrival", "start", "finish", "status"))
    done = status == "finished"
    slack = SLACK * max(1.0, float(np.nanmax(np.where(done, finish, 0.0), initial=0.0)))

    def complain(bad: npt.NDArray[np.bool_], rule: str) -> None:
        where = np.flatnonzero(bad)
        if len(where):
            found.append(f"job {where[0]} {rule} ({len(where):,} such jobs)")

    complain(done != ~np.isnan(finish), "has an end that does not fit its status")
    complain(status == "unfinished", "was never done")
    complain(done & ~(start >= arrival - slack), "was served before it came")
    fastest = servers.speeds.max(axis=0)
    least = work.size / (fastest[work.job_class] if len(fastest) > 1 else fastest[0])
    complain(done & ~(finish - start >= least - slack), "was done faster than its service takes")
    complain(arrival < work.arrival - slack, "came before its time")
    if work.parents is not None:
        offsets, ids = work.parents
        child = np.repeat(np.arange(len(work)), np.diff(offsets))
        early = np.zeros(len(work), bool)
        early[child[~(finish[ids] <= arrival[child] + slack) & done[child]]] = True
        complain(early, "came before its parents were done")
    found += _capacity(work, servers, arrival, finish, done, slack)
    left = (status == "abandoned").any()
    if not left and not (status == "unfinished").any():
        stays = float((finish - arrival)[done].sum())
        if not abs(stays - area) <= 1e-7 * max(1.0, area):
            found.append(f"Little's law: jobs stayed {stays:g} s in all, the number present adds up to {area:g} s")
    ends = float(np.nanmax(finish, initial=0.0))
    if busy > len(servers) * ends * (1 + 1e-9) + slack:
        found.append(f"servers were in use for {busy:g} s, there were only {len(servers) * ends:g} s")
    return found


def _capacity(
    work: Workload,
    servers: Servers,
    arrival: npt.NDArray[Any],
    finish: npt.NDArray[Any],
    done: npt.NDArray[np.bool_],
    slack: float,
) -> list[str]:
    """Work done by each finish is at most what all servers can do since the busy period began (or since time zero)."""
    total = float(servers.speeds.max(axis=1).sum())
    order = np.argsort(finish[done], kind="stable")
    ends, sizes = finish[done][order], work.size[done][order]
    if not len(ends):
        return []
    first = float(arrival[done].min())
    late = np.cumsum(sizes) > (ends - first) * total + slack * total + 1e-9 * np.cumsum(sizes)
    if late.any():
        at = int(np.argmax(late))
        return [f"by {ends[at]:g} s more work was done than {len(servers)} servers can do"]
    return []
