"""The parts of a run, from the words of a scenario: replicas, network and failures, power, prices, and what policies may know."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.tables import Column
from rota.worlds.serving import catalogue
from rota.worlds.serving.adapters import AdapterRoom
from rota.worlds.serving.batching import RESERVE_CHUNK, UNLIMITED, Batcher, BatchRules, Engine
from rota.worlds.serving.caching import Tier
from rota.worlds.serving.energy import EnergyPlan
from rota.worlds.serving.fleet import Outage, Plan, Scaling, random_outages
from rota.worlds.serving.links import Link
from rota.worlds.serving.model import Workload
from rota.worlds.serving.power_model import CAP, CLOCK, GpuPower, row_of
from rota.worlds.serving.quality import Choice, draw_quality
from rota.worlds.serving.replica import Replica
from rota.worlds.serving.settings import Case, Group, PrefixCaching, kv_blocks
from rota.worlds.serving.speculative import resolve as resolve_speculative
from rota.worlds.serving.timing import Timing
from rota.worlds.serving.timing import features as f

RESTART = 30.0  # seconds after the repair of a random failure, where the scenario does not say


def build_replica(group: Group, batcher: Batcher, timing: Timing, folder: Path, where: str) -> Replica:
    """One engine of a group under a batcher, with its own count of extrapolations.

    Raises:
        InputError: the batcher's options do not suit the group, or it cannot do what the group's prefix cache needs; `where` names the policy.
    """
    model, gpu = catalogue.model(group.model), catalogue.gpu(group.gpu)
    blocks, context = kv_blocks(group, model, gpu), group.context or model.context
    prefill, decode = work_rates(timing)
    timing = replace(timing, parameters=timing.parameters.copy())
    timing.parameters[0] = 0.0
    engine = Engine(
        blocks, group.block_tokens, group.max_running, group.max_batched_tokens, context, model.layers, timing
    )
    try:
        rules = batcher.rules(engine)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    caching, swap = _caching(group), group.swap
    if caching.tiers:
        _check_tiers(rules, where)
    drafts = group.speculative
    return Replica(
        label=f"{group.model} on {group.tp} x {group.gpu}",
        kv_blocks=blocks,
        block_tokens=group.block_tokens,
        max_running=group.max_running,
        context_limit=context,
        rules=rules,
        timing=timing,
        prefix_caching=bool(group.prefix_caching),
        eviction=caching.eviction,
        tiers=tuple(Tier(each.blocks, each.bandwidth, each.latency, each.compress) for each in caching.tiers),
        max_outstanding=group.max_outstanding or UNLIMITED,
        prefill_rate=prefill,
        decode_rate=decode,
        role=group.role,
        urgent=group.priority == "high",
        gpus=group.tp,
        gang=timing.ranks,
        swap_blocks=swap.blocks if swap else 0,
        swap_bandwidth=swap.bandwidth if swap else 0.0,
        swap_blocking=not (swap and swap.asynchronous),
        swap_per_copy=swap.per_copy if swap else 0.0,
        swap_group=swap.group_blocks if swap else 1,
        swap_compress=swap.compress if swap else 1.0,
        swap_reuse=swap is not None and swap.reuse,
        price=gpu.price or None if group.price is None else group.price,
        kv_bytes=catalogue.kv_bytes_per_token(model),  # once, however many GPUs keep copies
        speculative=None if drafts is None else resolve_speculative(drafts, gpu, group.tp, folder),
        model=group.model,
        adapters=AdapterRoom(group.adapters.slots, group.adapters.seconds) if group.adapters else None,
    )


def choice(
    case: Case, workload: Workload, models: Sequence[str], visible: np.ndarray[Any, Any] | None, seed: int
) -> Choice | None:
    """Qualities and token prices, where the scenario has them."""
    if case.quality is None and not case.prices:
        return None
    known = case.quality
    quality = None if known is None else draw_quality(known, models, len(workload), case.folder, seed)
    return Choice(quality, case.prices, models, workload.prompt_tokens, visible)


def _caching(group: Group) -> PrefixCaching:
    return group.prefix_caching if isinstance(group.prefix_caching, PrefixCaching) else PrefixCaching()


def _check_tiers(rules: BatchRules, where: str) -> None:
    """A prompt that waits for its blocks goes on in the middle of a batch, chunk by chunk."""
    if not (rules.chunked and rules.mixed and rules.reserve == RESERVE_CHUNK):
        raise InputError(
            f"{where}: tiers of the prefix cache need a batcher that cuts prompts, mixes them with decodes and gives blocks chunk by chunk: vllm_v1"
        )


def plan(case: Case, seed: int) -> Plan:
    """What happens to the fleet, and its network."""
    failures, link = case.failures, Link(*msgspec.structs.astuple(case.links))
    section = case.scaling
    scaling = Scaling(section.least, section.most or case.replicas, section.first, section.start_seconds)
    if failures is None:
        return Plan(link, scaling=scaling)
    if failures.mean_between is not None:
        times = failures.mean_between, failures.mean_repair, RESTART if failures.restart is None else failures.restart
        return Plan(
            link, outages=[random_outages(seed, host, *times) for host in range(case.replicas)], scaling=scaling
        )
    lines: dict[int, list[Outage]] = {}
    for each in sorted(failures.outages, key=lambda each: each.start):
        factor = np.inf if each.slower is None else each.slower
        lines.setdefault(each.replica, []).append(Outage(each.replica, each.start, failures.end(each), factor))
    return Plan(link, outages=[iter(line) for line in lines.values()], scaling=scaling)


def energy(case: Case) -> EnergyPlan | None:
    """What is known of the power of the fleet, where the scenario asks for it."""
    section = case.power
    if section is None:
        return None
    named = {name: getattr(section, name) for name in ("idle", "busy", "memory", "compute")}
    power = GpuPower(**{name: value for name, value in named.items() if value is not None})
    rows, urgent = [], []
    for group in case.fleet:
        model, gpu = catalogue.model(group.model), catalogue.gpu(group.gpu)
        row = row_of(model, gpu, group.tp, power, section.other)
        row[CLOCK] = section.clock
        row[CAP] = np.inf if section.board_cap is None else group.tp * (section.board_cap + section.other)
        rows += [row] * group.count
        urgent += [group.priority == "high"] * group.count
    return EnergyPlan(np.array(rows), np.array(urgent), section.cap or np.inf, section.telemetry)


def work_rates(timing: Timing) -> tuple[float, float]:
    """Seconds of a replica's time for a prompt token and for an output token: the unit of `size`, `attained` and `work`.

    A prompt token costs what it costs in a chunk of 1,024; an output token its share of a batch of 32 with 1,024 tokens of context each.
    """
    prefill = np.zeros(f.WIDTH)
    prefill[[f.PREFILL_TOKENS, f.PREFILL_REQUESTS, f.PREFILL_SQUARES, f.PREFILL_PAIRS, f.SAMPLES]] = (
        1024,
        1,
        1024**2,
        1024 * 512.5,
        1,
    )
    decode = np.zeros(f.WIDTH)
    decode[[f.DECODES, f.DECODE_CONTEXT, f.DECODE_MAX, f.DECODE_MIN, f.SAMPLES]] = 32, 32 * 1024, 1024, 1024, 32
    return timing.seconds(prefill) / 1024, timing.seconds(decode) / 32


def visible_output(
    case: Case, workload: Workload, seed: int
) -> tuple[np.ndarray[Any, np.dtype[np.float64]] | None, Column]:
    """What policies may know of the output lengths, and how good that is. Predictions are keyed by request."""
    if case.information.output_tokens == "hidden":
        return None, Column("output_tokens", "tokens", quality="hidden")
    true, predictor = workload.output_tokens.astype(np.float64), case.information.predictor()
    if predictor is None:
        return true, Column("output_tokens", "tokens")
    return predictor.predict(true, seed), Column("output_tokens", "tokens", quality="estimated", by=predictor.by)
