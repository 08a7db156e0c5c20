"""An independent check of a finished run: from its outcomes alone, sharing no code with the simulator.

What it cannot see (chunks, the moments of a preemption) it does not judge: requests that were displaced count towards no limit, so a
run that passes may still be wrong, but one that fails is.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.worlds.serving.simulate import Replica

TIMES = ("arrival", "dispatched", "scheduled", "first_token", "finish")


def verify(outcomes: Mapping[str, npt.NDArray[Any]], replicas: Sequence[Replica]) -> list[str]:
    """Broken rules of a run, a line each; none: nothing was found.

    Args:
        outcomes: The columns of `metrics.outcomes`.
        replicas: The fleet.
    """
    found: list[str] = []
    done = outcomes["status"] == "finished"
    for earlier, later in pairwise(TIMES):
        wrong = done & ~(outcomes[earlier] <= outcomes[later])
        found += [f"request {j}: {later} comes before {earlier}" for j in np.flatnonzero(wrong)]
    rejected = outcomes["status"] == "rejected"
    touched = rejected & ~(np.isnan(outcomes["scheduled"]) & np.isnan(outcomes["finish"]))
    found += [f"request {j}: was rejected and yet served" for j in np.flatnonzero(touched)]
    one = done & (outcomes["output_tokens"] == 1) & (outcomes["first_token"] != outcomes["finish"])
    found += [f"request {j}: has one token, which came at two times" for j in np.flatnonzero(one)]
    for number, replica in enumerate(replicas):
        here = done & (outcomes["replica"] == number) & (outcomes["preemptions"] == 0)
        found += _limits(outcomes, here, number, replica)
    return found


def _limits(
    outcomes: Mapping[str, npt.NDArray[Any]], here: npt.NDArray[np.bool_], number: int, replica: Replica
) -> list[str]:
    """Slots and KV blocks of one replica at every moment at which something begins."""
    found = []
    slots = _most(outcomes["scheduled"][here], outcomes["finish"][here], np.ones(int(here.sum())))
    if slots > replica.max_running:
        found.append(f"replica {number}: {slots:g} requests ran at once, at most {replica.max_running} may")
    if not replica.prefix_caching:  # cached blocks are shared
        blocks = -(-outcomes["prompt_tokens"][here] // replica.block_tokens)
        used = _most(outcomes["first_token"][here], outcomes["finish"][here], blocks.astype(np.float64))
        if used > replica.kv_blocks:
            found.append(f"replica {number}: prompts held {used:g} KV blocks at once, there are {replica.kv_blocks}")
    return found


def _most(start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]) -> float:
    """The largest sum of weights of intervals [start, end) that overlap; an end at the same time goes first."""
    if not len(start):
        return 0.0
    times = np.concatenate([end, start])
    steps = np.concatenate([-weight, weight])
    kind = np.concatenate([np.zeros(len(end)), np.ones(len(start))])
    empty = np.concatenate([end <= start, end <= start])
    order = np.lexsort((kind, times))
    return float(np.cumsum(np.where(empty, 0.0, steps)[order]).max(initial=0.0))
