"""Mechanisms inside a replica that do not go together, or not with what a fleet or a policy does: told by `rota check`, and again where a run is set up."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rota.worlds.serving.replica import Replica, Roles


def clash(replicas: "Sequence[Replica]", roles: "Roles", adapters: bool, power: bool) -> str | None:
    """The first two things that do not go together, in one line; None: there are none.

    Args:
        replicas: The fleet, under its batcher.
        roles: What the policy decides.
        adapters: Requests ask for LoRA adapters.
        power: Power is accounted for.
    """
    for replica in replicas:
        reason = _two_timings(replica) or _beside_streams(replica, roles)
        reason = reason or _beside_parking(replica, roles, adapters, power)
        if reason is not None:
            return reason
    return None


def _two_timings(replica: "Replica") -> str | None:
    """Two mechanisms that both say how long an iteration takes."""
    rules = replica.rules
    timed = {
        "layered_prefill": rules.layer_tokens > 0,
        "semi_pd": rules.streams is not None,
        "qllm": rules.parking is not None,
        "speculative": replica.speculative is not None,
        "replicas that share experts": replica.gang > 1,
    }
    found = _on(timed)
    return f"{found[0]} does not go with {found[1]}: leave one of them out" if len(found) > 1 else None


def _beside_streams(replica: "Replica", roles: "Roles") -> str | None:
    if replica.rules.streams is None or (replica.role == "mixed" and not roles.order.preemptive):
        return None
    return "semi_pd: needs replicas of role mixed and an order that does not displace"


def _beside_parking(replica: "Replica", roles: "Roles", adapters: bool, power: bool) -> str | None:
    """Requests that come and go beside an iteration that may be parked."""
    if replica.rules.parking is None:
        return None
    others = {
        "an order that displaces": roles.order.preemptive,
        "replicas for prompts or decodes only": replica.role != "mixed",
        "migration": roles.migrate is not None,
        "pools": roles.pool is not None,
        "swap": replica.swap_blocks > 0,
        "adapters": adapters,
        "machines that replicas share": replica.seat is not None,
        "power": power,
    }
    found = _on(others)
    return f"qllm: does not go with {found[0]}: leave one of them out" if found else None


def _on(things: Mapping[str, bool]) -> list[str]:
    return [name for name, on in things.items() if on]
