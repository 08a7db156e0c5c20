"""Failures on purpose: which request, iteration or moment is struck, drawn from the seed.

A rule strikes requests with a `probability`, and only while its window is open: from `after` until `until`, engine seconds since it
was set. What is drawn for a request depends on the seed, the place of the rule and the number of the request, on nothing else.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, Any, Literal

import msgspec

from rota.kernel.errors import InputError, nearest
from rota.kernel.streams import uniform

Kind = Literal["refuse", "hang", "status", "cut", "slow", "restart"]
# What each kind takes beside probability, after, until and on: (key, whether it must be given).
KEYS: dict[str, dict[str, bool]] = {
    "refuse": {},
    "hang": {"tokens": False, "seconds": False},
    "status": {"status": True},
    "cut": {"tokens": True},
    "slow": {"factor": True},
    "restart": {"seconds": True},
}
SPECIAL = ("status", "tokens", "factor", "seconds")


class Fault(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """One rule. ``on``: what it strikes: requests (POST), health (GET /health), or all of both."""

    kind: str
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    after: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    until: Annotated[float, msgspec.Meta(ge=0)] | None = None
    on: Literal["requests", "health", "all"] = "requests"
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None  # cut, hang: after so many tokens of the answer
    factor: Annotated[float, msgspec.Meta(gt=0)] | None = None  # slow: on the seconds of an iteration
    seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None  # restart: down; hang: for so long, None: for ever


def check_fault(fault: Fault, where: str) -> None:
    """Raise InputError where a rule makes no sense."""
    if fault.kind not in KEYS:
        raise InputError(f"{where}.kind: unknown fault '{fault.kind}'{nearest(fault.kind, KEYS)}")
    takes = KEYS[fault.kind]
    for key in SPECIAL:
        given = getattr(fault, key) is not None
        if given and key not in takes:
            raise InputError(f"{where}.{key}: a {fault.kind} takes no {key}" + (nearest(key, takes) if takes else ""))
        if not given and takes.get(key, False):
            raise InputError(f"{where}.{key}: missing; a {fault.kind} needs it")
    if fault.until is not None and fault.until <= fault.after:
        raise InputError(f"{where}.until: must be later than after ({fault.after:g}), found {fault.until:g}")
    if fault.kind in ("slow", "restart") and fault.on != "requests":
        raise InputError(f"{where}.on: a {fault.kind} strikes the replica; leave `on` away")


@dataclass(frozen=True)
class Strike:
    """What happens to one request. The earliest of the rules that struck decides where two contradict each other."""

    refuse: bool = False
    status: int | None = None
    cut_after: float = inf  # tokens
    hang_after: float = inf  # tokens; 0: before anything is said
    hang_seconds: float = inf
    restart: float | None = None  # seconds down


@dataclass(frozen=True)
class _Rule:
    fault: Fault
    number: int  # ever given; draws are keyed by it
    since: float

    def open(self, now: float) -> bool:
        """Whether its window is open."""
        until = inf if self.fault.until is None else self.fault.until
        return self.fault.after <= now - self.since < until


class Faults:
    """The rules of an engine, set at the start and at any time.

    Args:
        seed: The engine's.
        count: Where strikes are counted by kind.
        now: The engine's clock.
        on_change: Called when rules are set or cleared.
    """

    def __init__(
        self, seed: int, count: Counter[str], now: Callable[[], float], on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.seed, self.count, self.now, self.on_change = seed, count, now, on_change
        self._rules: list[_Rule] = []
        self._given = 0
        self._requests = 0

    def add(self, faults: Sequence[Fault]) -> None:
        """Set rules beside those that are there; their windows begin now. Raises InputError, and then sets none."""
        for number, fault in enumerate(faults):
            check_fault(fault, f"fail[{number}]")
        now = self.now()
        for fault in faults:
            self._rules.append(_Rule(fault, self._given, now))
            self._given += 1
        self.on_change()

    def clear(self) -> None:
        """Forget all rules. Requests that hang go on."""
        self._rules = []
        self.on_change()

    def shown(self) -> list[dict[str, Any]]:
        """The rules as JSON would say them."""
        return [msgspec.to_builtins(rule.fault) for rule in self._rules]

    def strike(self, on: str) -> Strike:
        """What happens to the request that has come now (`on`: requests or health)."""
        number, found = self._requests, dict[str, Any]()
        self._requests += 1
        if not self._rules:
            return Strike()
        now = self.now()
        for rule in self._rules:
            fault = rule.fault
            if fault.on not in (on, "all") or fault.kind == "slow" or not rule.open(now):
                continue
            if fault.kind == "restart" and (fault.probability is None or on == "health"):
                continue  # it comes at its time, not with a request
            if not self._drawn(rule, number):
                continue
            for key, value in _effects(fault).items():
                found.setdefault(key, value)
            if fault.kind != "restart":  # which is counted when it happens
                self.count[fault.kind] += 1
        return Strike(**found)

    def pace(self, iteration: int, now: float) -> float:
        """The factor of all open `slow` rules on an iteration."""
        factor = 1.0
        for rule in self._rules:
            if rule.fault.kind == "slow" and rule.open(now) and self._drawn(rule, iteration):
                factor *= rule.fault.factor or 1.0
                self.count["slow"] += 1
        return factor

    def restarts(self) -> list[tuple[float, int, float]]:
        """The restarts that come at a time: (engine second, number of the rule, seconds down), earliest first."""
        planned = [rule for rule in self._rules if rule.fault.kind == "restart" and rule.fault.probability is None]
        return sorted((rule.since + rule.fault.after, rule.number, rule.fault.seconds or 0.0) for rule in planned)

    def _drawn(self, rule: _Rule, ordinal: int) -> bool:
        probability = rule.fault.probability
        if probability is None or probability >= 1.0:
            return True
        return float(uniform(self.seed, "faults", rule.number, ordinal)) < probability


def _effects(fault: Fault) -> dict[str, Any]:
    if fault.kind == "refuse":
        return {"refuse": True}
    if fault.kind == "status":
        return {"status": fault.status}
    if fault.kind == "cut":
        return {"cut_after": fault.tokens}
    if fault.kind == "restart":
        return {"restart": fault.seconds}
    return {"hang_after": fault.tokens or 0, "hang_seconds": inf if fault.seconds is None else fault.seconds}
