"""Dispatching rules as solvers: ``rule:mwkr``, a mixture ``rule:0.7*mwkr+0.3*spt``, active instead of non-delay schedules ``rule:mwkr/active``.

The first schedule is the rule's own. While there is work or time left, more are drawn from blurred keys; a rule that is asked at each
decision makes one schedule and ends. An order of your own is given to `dispatch.dispatch`.
"""

import re
import time

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError, nearest
from rota.kernel.streams import generator
from rota.worlds.shop.dispatch import ALLOWED, board, dispatch, fixed_keys, mixture
from rota.worlds.shop.model import Problem
from rota.worlds.shop.policies import RULES
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.solver import HEARTBEAT, Limit, Solver, Step, Steps

_PART = re.compile(r"(?:(\d*\.?\d+)\*)?([a-z_]+)")


class Dispatch(Solver):
    """One rule, then blurred copies of it.

    Args:
        rule: A name of `policies.RULES`, or a weighted sum of such.
        noise: By which share of the spread of the keys later schedules are blurred.
    """

    counts = "schedules"
    takes = "a rule"

    def __init__(self, rule: str = "fdd_mwkr", noise: float = 0.1) -> None:
        if noise < 0:
            raise InputError(f"rule: noise: must be at least 0, found {noise:g}")
        self.name, _, form = rule.partition("/")
        if form not in ("", "active", "non_delay"):
            raise InputError(f"rule:{rule}: a schedule is made active or non_delay, found '{form}'")
        self.active = form == "active"
        self.noise = noise
        self.order()

    def order(self) -> Order:
        """A fresh copy of the rule."""
        parts = []
        for part in self.name.replace(" ", "").split("+"):
            found = _PART.fullmatch(part)
            if found is None or found[2] not in RULES:
                name = found[2] if found else part
                raise InputError(f"rule: there is none called '{name}'{nearest(name, RULES)}")
            parts.append((float(found[1] or 1.0), RULES[found[2]]()))
        return parts[0][1] if len(parts) == 1 else mixture(parts)

    def refuses(self, problem: Problem) -> str | None:
        if problem.as_flexible_job_shop(allow=ALLOWED) is None:
            extra = sorted(problem.features - {"due", "weights", *ALLOWED})
            reason = f"this one has {', '.join(extra)}" if extra else f"this is a {problem.kind.replace('_', ' ')}"
            return f"dispatches chains of operations on machines, {reason}"
        return None

    def prepare(self, problem: Problem) -> None:
        dispatch(problem, self.order(), active=self.active)

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        shop, rule = board(problem), self.order()
        draws = generator(limit.seed, f"rule:{self.name}")
        schedule = dispatch(shop, rule, active=self.active, rng=draws)
        best, work, told = schedule.value(problem), 1, time.monotonic()
        yield Step(schedule, work=work)
        if fixed_keys(shop, rule) is None or not self.noise:
            return
        while limit.work is None or work < limit.work:
            schedule = dispatch(shop, rule, active=self.active, rng=draws, noise=self.noise)
            work += 1
            value = schedule.value(problem)
            if value < best or time.monotonic() - told > HEARTBEAT / 2:
                told = time.monotonic()
                yield Step(schedule if value < best else None, work=work)
                best = min(best, value)
