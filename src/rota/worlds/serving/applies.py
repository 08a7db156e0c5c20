"""Why a policy does not apply in a scenario, in words that say what to change."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rota.worlds.serving.batching import Batcher
from rota.worlds.serving.clashes import clash
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.settings import Case


def why_not(
    case: Case, policy: Mapping[str, Any], roles: Roles, replicas: Sequence[Replica], batcher: Batcher
) -> str | None:
    """None, or the first thing that stands in a policy's way."""
    reason = _no_adapters(case, replicas, roles) or _no_moves(replicas, roles) or _no_prices(case, replicas, roles)
    reason = reason or _no_topics(case, roles) or _never_asked(case, policy, roles, replicas)
    if roles.stop is not None and case.workload.reasoning is None:
        return "it ends programs early, and the workload has none with answers: give workload: {reasoning: [{kind: samples, ...}]}"
    if reason is not None:
        return reason
    if roles.clocks is not None and case.power is None:
        return "it sets clocks, and the scenario accounts for no power: add the section power: {}"
    if roles.pool is not None and roles.pool.mirrored < np.inf and any(g.prefix_caching for g in case.fleet):
        return "it keeps copies of KV, which is not modelled beside a prefix cache: set prefix_caching: false"
    hidden = case.information.output_tokens == "hidden"
    if hidden and batcher.foresees:
        return "it works with predicted answers, which are hidden: set information.output_tokens, for example to {bucket: {k: 10, accuracy: 0.8}}"
    if batcher.packs and policy.get("order", "fcfs") != "fcfs":
        return "its batcher says itself who goes first: leave the order out"
    if not batcher.displaces and roles.order.preemptive:
        return "its order displaces requests, which its batcher does not do"
    for member in roles.policies():
        reads = {*member.reads, *getattr(member, "reads_job", ())}
        blind = sorted(reads & {"size", "remaining", "output_tokens"})
        if hidden and blind:
            return f"it reads {blind[0]}, which is hidden: set information.output_tokens to exact or {{noisy: {{sigma: 0.5}}}}"
        group = sorted(name for name in reads if name.startswith(("program", "path_")))
        if group and not case.workload.has_programs:
            return f"it reads {group[0]}, and the workload has no programs"
        reason = member.supports("serving")
        if reason is not None:
            return reason
    adapters = case.adapters is not None or any(group.adapters for group in case.fleet)
    return clash(replicas, roles, adapters, case.power is not None)


def _no_adapters(case: Case, replicas: Sequence[Replica], roles: Roles) -> str | None:
    """Why adapters cannot be loaded under a policy; None: they can, or there are none."""
    if not any(group.adapters for group in case.fleet):
        return None
    if not all(replica.rules.chunked and replica.rules.mixed for replica in replicas):
        return "it cannot load adapters while others run: prompts must be cut and mixed with decodes, as vllm_v1 and sarathi do"
    if roles.migrate is not None or any(replica.role != "mixed" for replica in replicas):
        return "adapters do not move between replicas: no migration, and no prefill and decode apart"
    return None


def _no_moves(replicas: Sequence[Replica], roles: Roles) -> str | None:
    """Why requests cannot move between the replicas of a fleet under a policy that moves them."""
    moving = roles.migrate is not None or any(replica.role != "mixed" for replica in replicas)
    if moving and len({replica.model for replica in replicas}) > 1:
        return "the fleet has several models, and the KV of one is of no use to another: no migration, and no prefill and decode apart"
    if roles.scale is not None and any(replica.seat is not None for replica in replicas):
        return "replicas that share a machine are not scaled"
    return None


def _no_prices(case: Case, replicas: Sequence[Replica], roles: Roles) -> str | None:
    """What a policy asks for and the scenario does not say: qualities, prices."""
    reads = {name for member in roles.policies() for name in member.reads}
    if "quality" in reads and case.quality is None:
        return "it reads quality: give the section quality: {models: {NAME: MEAN}}"
    if "dollars" in reads and not case.prices:
        return "it reads dollars: give the section token_prices: {NAME: {input: DOLLARS, output: DOLLARS}}"
    unpriced = [replica.label for replica in replicas if replica.price is None]
    if "price" in reads and unpriced:
        return f"it reads price, and {unpriced[0]} has none: give its group price: DOLLARS a GPU hour"
    return None


def _no_topics(case: Case, roles: Roles) -> str | None:
    """Why no answer can be recalled in a scenario; None: it can, or nobody asks."""
    if roles.recall is None:
        return None
    if case.workload.has_programs:
        return "the calls of programs are not recalled: what follows them depends on the answer"
    return None if case.topics else "it recalls answers: give the section categories: {NAME: {topics: 1000}}"


def _never_asked(case: Case, policy: Mapping[str, Any], roles: Roles, replicas: Sequence[Replica]) -> str | None:
    """Why a role that a policy names would change nothing; None: it is asked. Defaults are not looked at."""
    if roles.pool is not None and "route" in policy:
        return "its pool says where requests go, and its route would never be asked: leave one of them out"
    if "decode" not in policy:
        return None
    if roles.pool is not None:
        if case.failures is not None or roles.scale is not None:
            return None  # it chooses where the promised decoder is not up
        return "its pool says where requests are decoded, and its decode would never be asked: leave one of them out"
    if all(replica.role != "prefill" for replica in replicas):
        return "its decode would never be asked: no replica of the fleet has the role prefill; leave decode out"
    return None
