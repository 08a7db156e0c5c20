"""What no scheduler can beat on a fleet: bounds for any route, order and batcher within the fleet's settings.

All bounds rest on one assumption about the timing model: an iteration takes at least as long as each of its parts alone, at the
least context (`t(c)` for a chunk of c prompt tokens, `t(d)` for d decodes). Measured tables that are not quite monotone are evaluated at
every size, so only a table where *more* work is faster could break it.

Alone: a prompt of P tokens needs min(t(P), max(P rho, 2 t(1))) seconds, rho = min t(c)/c, because it is computed at once or in two
chunks or more; each further token needs an iteration of its own, at least the fastest decode.

Together: an iteration's time is at least w = a rho c + (1 - a) sigma d for any a between 0 and 1, sigma = min t(d)/d, so each request
brings a least amount of work and R replicas do at most R seconds of it a second. Shortest remaining processing time minimises the mean
flow time on one server of that speed (Schrage 1968), which no fleet can beat. `a` is chosen to make the bound largest.

How loose: contexts are ignored, and prefill and decode may share time for free; see the documentation for measured gaps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rota.worlds.serving.batching import RESERVE_FIXED
from rota.worlds.serving.kernels.relaxation import srpt_flow_times
from rota.worlds.serving.model import Workload
from rota.worlds.serving.replica import Replica
from rota.worlds.serving.timing import features as f

FloatColumn = npt.NDArray[np.float64]
MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
LARGEST_CHUNK = 1 << 14  # sizes beyond are evaluated at powers of two


@dataclass(frozen=True)
class _Floor:
    """The least times of one replica."""

    chunk: FloatColumn  # seconds of a chunk, by its tokens (index 0 unused)
    chunk_rate: float  # least seconds a prompt token
    decode: float  # least seconds of an iteration with a decode
    decode_rate: float  # least seconds a decode


def bounds(workload: Workload, replicas: Sequence[Replica]) -> dict[str, float]:
    """Bounds of metrics by name: the least mean latencies and makespan, the largest throughput. Empty when nothing can be served.

    Requests that no replica could hold are left out, as they are rejected by every policy. With prefix caching a prompt may cost one
    token only.
    """
    served = np.zeros(len(workload), bool)
    for replica in replicas:
        served |= fits(workload, replica)
    if not served.any():
        return {}
    arrival, outputs = workload.arrival[served], workload.output_tokens[served]
    cached = any(replica.prefix_caching for replica in replicas)
    prompts = np.ones(int(served.sum()), np.int64) if cached else workload.prompt_tokens[served]
    kinds = list({id(replica.timing.parameters): replica for replica in replicas}.values())
    floors = [_floor(replica, int(prompts.max())) for replica in kinds]
    first = np.min([_alone(floor, prompts) for floor in floors], axis=0)
    decode, chunk_rate = min(floor.decode for floor in floors), min(floor.chunk_rate for floor in floors)
    decode_rate = min(floor.decode_rate for floor in floors)
    whole = first + (outputs - 1) * decode
    speed = float(len(replicas))
    prefill_work, decode_work = prompts * chunk_rate, (outputs - 1) * decode_rate
    flow = [srpt_flow_times(arrival, a * prefill_work + (1 - a) * decode_work, speed).mean() for a in MIXES]
    work = max(float((a * prefill_work + (1 - a) * decode_work).sum()) for a in MIXES)
    end = max(float((arrival + whole).max()), float(arrival[0]) + work / speed)
    start = float(workload.arrival[0])
    found = {
        "ttft_mean": max(float(first.mean()), float(srpt_flow_times(arrival, prefill_work, speed).mean())),
        "e2e_mean": max(float(whole.mean()), float(max(flow))),
        "makespan": end - start,
        "throughput_tokens": float(outputs.sum()) / (end - start),
        "throughput_requests": len(outputs) / (end - start),
        "served": float(served.sum()),  # how many requests these are about
    }
    if (outputs > 1).any():
        found["tpot_mean"] = decode
    return found


def fits(workload: Workload, replica: Replica) -> npt.NDArray[np.bool_]:
    """Which requests a replica could ever serve: context, KV cache, and the token budget where prompts are not cut."""
    prompt, output, rules = workload.prompt_tokens, workload.output_tokens, replica.rules
    blocks = -(-(prompt + output - 1) // replica.block_tokens) + rules.watermark_blocks
    possible = (prompt + output <= replica.context_limit) & (blocks <= replica.kv_blocks)
    if not rules.chunked and not rules.mixed:
        possible &= prompt <= rules.budget
    if rules.reserve == RESERVE_FIXED:
        possible &= prompt + output - 1 <= rules.reserve_tokens
    return np.asarray(possible)


def _floor(replica: Replica, longest: int) -> _Floor:
    """Evaluate the timing model at every size of a chunk and of a batch of decodes, at the least context."""
    exact = np.arange(1, min(longest, LARGEST_CHUNK) + 1)
    larger = [1 << k for k in range(LARGEST_CHUNK.bit_length(), longest.bit_length() + 1)]
    times = [_prefill(replica, int(c)) for c in exact]
    rates = np.array([*times, *(_prefill(replica, c) for c in larger)]) / np.array([*exact, *larger])
    chunk = np.concatenate([[0.0], np.minimum.accumulate(np.array(times)[::-1])[::-1]])
    decodes = [_decode(replica, d) for d in range(1, replica.max_running + 1)]
    decode_rate = min(seconds / (d + 1) for d, seconds in enumerate(decodes))
    return _Floor(chunk, float(rates.min()), min(decodes), decode_rate)


def _prefill(replica: Replica, tokens: int) -> float:
    return replica.timing.seconds(f.iteration([(0, tokens)], samples=0))


def _decode(replica: Replica, count: int) -> float:
    return replica.timing.seconds(f.iteration(decodes=[1] * count))


def _alone(floor: _Floor, prompts: npt.NDArray[np.int64]) -> FloatColumn:
    at_once = floor.chunk[np.minimum(prompts, len(floor.chunk) - 1)]
    in_chunks = np.maximum(prompts * floor.chunk_rate, 2 * floor.chunk[1:].min())
    return np.asarray(np.minimum(at_once, in_chunks))
