"""The columns of the serving world: what policies see of requests and of hosts."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rota.kernel.tables import Column
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.nodes import gpu_shares

if TYPE_CHECKING:
    from rota.worlds.serving.simulate import Simulation

FloatColumn = npt.NDArray[np.float64]

SERVING_JOB_COLUMNS = {
    column.name: column
    for column in (
        Column("prompt_tokens", "tokens", "length of the prompt"),
        Column("output_tokens", "tokens", "length of the answer"),
        Column("generated_tokens", "tokens", "tokens of the answer that are out"),
        Column("prefilled_tokens", "tokens", "tokens of the prompt in the KV cache"),
        Column("running", "", "1 when in the batch, 0 when waiting"),
        Column("preemptions", "", "times displaced"),
        Column("session", "", "conversation, -1: none"),
        Column("slo_class", "", "number of its class in the scenario, -1: none"),
        Column("first_due", "s", "when its first token should be out, inf: no limit"),
        Column("cached_tokens", "tokens", "beginning of its prompt that is in the prefix cache of its replica"),
        Column("prefix_group", "", "which shared beginning it has, of those that are worth the most together"),
        Column("group_tokens", "tokens", "tokens of that beginning, 0: it shares none"),
        Column("tool", "", "kind of the tool that runs after the call, -1: none; known when it has ended"),
        Column("context_tokens", "tokens", "KV of an ended call"),
        Column("reload_seconds", "s", "time to have the KV of an ended call back, once it is lost"),
        Column("program", "", "which program the call belongs to"),
        Column("program_release", "s", "when the program's first call arrived"),
        Column("program_attained", "s", "service that the program's ended calls received"),
        Column(
            "program_left",
            "tokens",
            "expected output tokens still to come to the program, from programs of its kind that have ended",
            "estimated",
            "history",
        ),
        Column("path_attained", "s", "the same, along the longest path of calls that this one waited for"),
    )
}
SERVING_HOST_COLUMNS = {
    column.name: column
    for column in (
        Column(
            "outstanding_tokens",
            "tokens",
            "prompt tokens not yet in the cache, and answer tokens that are visible and not yet out",
        ),
        Column("prefill_tokens", "tokens", "prompt tokens of outstanding requests not yet in the cache"),
        Column("active_tokens", "tokens", "KV that requests hold, and prompts that wait"),
        Column("cached_tokens", "tokens", "beginning of this request's prompt that is in the prefix cache"),
        Column("missing_tokens", "tokens", "rest of this request's prompt"),
        Column("decisions", "", "jobs placed here so far"),
        Column("waiting_tokens", "tokens", "prompts that wait"),
        Column("up", "", "1 when the host takes requests"),
        Column("kv_use", "", "share of KV blocks in use"),
        Column("free_blocks", "blocks", "KV blocks nobody holds"),
        Column("max_running", "", "slots of the batch"),
        Column("block_tokens", "tokens", "tokens of a KV block"),
        Column("adapter_here", "", "1 when this request's adapter is loaded or being loaded, or it has none"),
        Column("adapter_active", "", "1 when a running request has this request's adapter"),
        Column("adapter_waiting", "", "1 when a waiting request has this request's adapter"),
        Column("adapters_active", "", "adapters of running requests"),
        Column("adapters_waiting", "", "adapters that only waiting requests have"),
        Column("adapter_slots", "", "adapters that it can hold"),
        Column("resident", "", "1 when its model is loaded or being loaded"),
        Column(
            "quality",
            "",
            "how good this request's answer by its model is predicted to be, 0 to 1",
            "estimated",
            "quality",
        ),
        Column("dollars", "USD", "what this request's answer by its model is predicted to cost at token prices"),
        Column("price", "USD", "dollars an hour of its GPUs"),
        Column("held", "jobs", "requests that wait at the router, the same for every host"),
        Column("prefill_rate", "s", "seconds of work a prompt token"),
        Column("head_blocks", "blocks", "KV blocks that the first of the line asks for, 0: nobody waits"),
        Column("urgent_running", "jobs", "running requests more urgent than the least urgent ones of the workload"),
        Column("urgent", "", "1 for hosts of high priority, 0 for those of low priority"),
    )
}

PAIR_COLUMNS = {
    "prefill_tokens": at.COLUMN_PREFILL,
    "active_tokens": at.COLUMN_ACTIVE,
    "cached_tokens": at.COLUMN_CACHED,
    "missing_tokens": at.COLUMN_MISSING,
    "adapter_here": at.COLUMN_ADAPTER,
    "resident": at.COLUMN_RESIDENT,
}
LOADS = {
    *("queued", "running", "outstanding", "work", "outstanding_tokens", "kv_use", "free_blocks", "waiting_tokens"),
    *("prefill_tokens", "active_tokens", "head_blocks", "urgent_running"),
}
LOOKED_AT = ("head_blocks", "urgent_running")  # columns of hosts that a question looks up in a call of their own
ROUTE_COLUMNS = {
    "id": at.COLUMN_ID,
    "decisions": at.COLUMN_DECISIONS,
    "outstanding": at.COLUMN_OUTSTANDING,
    "queued": at.COLUMN_QUEUED,
    "running": at.COLUMN_RUNNING,
    "work": at.COLUMN_WORK,
    "outstanding_tokens": at.COLUMN_TOKENS,
    **PAIR_COLUMNS,
}


def _left(run: "Simulation") -> tuple[FloatColumn, FloatColumn]:
    """Tokens and seconds of work outstanding at each host."""
    from rota.worlds.serving.kernels.outstanding import outstanding_work  # compiled only for a policy that is asked

    tokens, seconds = np.zeros(len(run.replicas)), np.zeros(len(run.replicas))
    outstanding_work(run.state, tokens, seconds)
    return tokens, seconds


def _head_blocks(run: "Simulation") -> npt.NDArray[np.int64]:
    from rota.worlds.serving.kernels.virtual import head_blocks  # compiled only for a policy that reads it

    out = np.zeros(len(run.replicas), np.int64)
    head_blocks(run.state, out)
    return out


def _urgent_running(run: "Simulation") -> npt.NDArray[np.int64]:
    from rota.worlds.serving.kernels.virtual import urgent_running

    out, priority = np.zeros(len(run.replicas), np.int64), run.workload.priority
    urgent_running(run.state, priority, run.least_urgent, out)
    return out


HOST_VALUES: dict[str, Callable[["Simulation"], npt.NDArray[Any]]] = {
    "id": lambda run: np.arange(len(run.replicas)),
    "queued": lambda run: run.hosts[:, at.QUEUED_COUNT] + run.hosts[:, at.INBOX_COUNT],
    "running": lambda run: run.hosts[:, at.RUNNING_COUNT],
    "outstanding": lambda run: run.hosts[:, [at.QUEUED_COUNT, at.INBOX_COUNT, at.RUNNING_COUNT]].sum(axis=1),
    "decisions": lambda run: run.hosts[:, at.DECISIONS_HERE],
    "work": lambda run: _left(run)[1],
    "outstanding_tokens": lambda run: _left(run)[0],
    "kv_use": lambda run: 1.0 - run.hosts[:, at.FREE] / run.hosts[:, at.KV_BLOCKS],
    "free_blocks": lambda run: run.hosts[:, at.FREE],
    "block_tokens": lambda run: run.hosts[:, at.BLOCK_TOKENS],
    "head_blocks": _head_blocks,
    "urgent_running": _urgent_running,
    "waiting_tokens": lambda run: run.clocks[:, at.WAITING_PROMPT].copy(),
    "up": lambda run: 1 - run.hosts[:, at.SHUT],
    "urgent": lambda run: np.array([float(replica.urgent) for replica in run.replicas]),
    "max_running": lambda run: run.hosts[:, at.MAX_RUNNING],
    "price": lambda run: gpu_shares(run.replicas) * np.array([replica.price or 0.0 for replica in run.replicas]),
    "held": lambda run: np.full(len(run.replicas), run.state[at.WAITING_AT_ROUTER]),
    "prefill_rate": lambda run: run.clocks[:, at.PREFILL_RATE].copy(),
    "speed": lambda run: np.array(
        [run.replicas[0].decode_rate / replica.decode_rate if replica.decode_rate else 1.0 for replica in run.replicas]
    ),
}
