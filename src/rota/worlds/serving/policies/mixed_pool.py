"""Splitwise: a pool of machines for prompts and one for tokens; a machine that is needed in the other pool is lent to it and comes back when it is free.

Patel et al., Splitwise: Efficient Generative LLM Inference Using Phase Splitting, ISCA 2024, section 4; details as in its simulator (MixedPoolScheduler).
Each request gets, when it arrives, the prompt machine with the shortest queue (prompt tokens not computed yet, and one for each answer under way) and the
token machine with the least memory promised. Where the queue is too long or the memory full, the same among the machines that are lent already; then one of
the other pool is lent; then one machine does both. Of equals, the machine goes first that has been in its pool for longest. The simulator knows how long
answers will be, and so does this policy, unless `knows_answers` is off.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, Hosts, IntColumn, Jobs
from rota.worlds.serving.pool_rules import Halves
from rota.worlds.serving.pools import Assignment, Pools

BOTH, PROMPTS, TOKENS = 0, 1, 2
SEARCHED = (PROMPTS, BOTH, TOKENS)  # the order of the pools where all of them are searched
Mask = npt.NDArray[np.bool_]


@dataclass
class MixedPool(Pools):
    """Splitwise's cluster-level scheduler.

    Attributes:
        queue_tokens: A prompt machine on which something waits takes no more than so many queued tokens (prompt_max_pending_batch_tokens).
        knows_answers: The memory of an answer is promised with its prompt.
    """

    queue_tokens: int = 8192
    knows_answers: bool = True

    reads = ("role", "up", "joined", "waiting", "prefill_tokens", "assigned", "assigned_tokens", "capacity_tokens")

    def __post_init__(self) -> None:
        if self.queue_tokens < 1:
            raise InputError(f"mixed_pool: queue_tokens must be at least 1, found {self.queue_tokens}")
        self.reads_job = ("prompt_tokens", "output_tokens") if self.knows_answers else ("prompt_tokens",)

    def rule(self) -> Halves:
        queue, memory = {"prefill_tokens": 1.0, "assigned": 1.0}, {"assigned_tokens": 1.0}
        return Halves(queue, memory, self.queue_tokens, self.knows_answers)

    def assign(self, jobs: Jobs, hosts: Hosts, now: float) -> Assignment | None:
        up, role = hosts.up > 0, hosts.role
        if not up.any():
            return None
        join = hosts.joined
        prompt = float(jobs.prompt_tokens[0])
        whole = prompt + (float(jobs.output_tokens[0]) if self.knows_answers else 0.0)
        queue, memory = hosts.prefill_tokens + hosts.assigned, hosts.assigned_tokens
        long = (hosts.waiting > 0) & (queue + prompt > self.queue_tokens)
        full = memory + whole >= hosts.capacity_tokens
        pools = {kind: up & (role == kind) for kind in (PROMPTS, BOTH, TOKENS)}
        first = best_of((pools[PROMPTS], pools[BOTH]), queue, join, long)
        second = best_of((pools[TOKENS], pools[BOTH]), memory, join, full)
        lend: tuple[int, ...] = ()
        if first is None and pools[TOKENS].any():
            first = least(queue, join, pools[TOKENS])
            lend += (first,)
        if second is None and pools[PROMPTS].any():
            second = least(memory, join, pools[PROMPTS])
            lend += (second,)
        if first is None or second is None:
            order = np.argsort(np.lexsort((join, np.array([SEARCHED.index(each) for each in role]))))
            first = second = least(queue, order, up)
        return Assignment(first, second, lend)


def least(values: FloatColumn, ties: FloatColumn | IntColumn, among: Mask) -> int:
    """The smallest value, and of equals the one with the smaller tie."""
    rows = np.flatnonzero(among)
    return int(rows[np.lexsort((ties[rows], values[rows]))[0]])


def best_of(pools: tuple[Mask, ...], values: FloatColumn, ties: FloatColumn, unfit: Mask) -> int | None:
    """The least of the first pool whose least is fit; None: of neither."""
    for pool in pools:
        if pool.any() and not unfit[best := least(values, ties, pool)]:
            return best
    return None
