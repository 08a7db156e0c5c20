"""Beam search over a dispatching rule: ``beam:mwkr``, over active schedules ``beam:mwkr/active``. Shops of chains, any objective.

Ow and Morton, Filtered beam search in scheduling, International Journal of Production Research 26 (1988); Sabuncuoglu and Bayiz, Job shop
scheduling with beam search, European Journal of Operational Research 118 (1999). A node is a partial schedule, without delay or active. The
rule is the filter: of a node's next choices its few best are kept; each is completed by the rule and judged by the whole schedule's value; the
`width` best nodes go on. A beam that has come to its end begins again twice as wide, until the work or the time is spent.
"""

import time

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.streams import generator
from rota.worlds.shop.dispatch import Board, Floats, board, fixed_keys, follow
from rota.worlds.shop.kernels import dispatch as kernel
from rota.worlds.shop.model import Ints, Problem
from rota.worlds.shop.schedule import Schedule, values
from rota.worlds.shop.solver import HEARTBEAT, Limit, Step, Steps
from rota.worlds.shop.solvers.rule import Dispatch


class Beam(Dispatch):
    """Widening beam search.

    Args:
        rule: A name of `policies.RULES`, or a weighted sum of such, whose keys are known at arrival.
        spread: Choices of a node that pass the filter.
        width: Nodes that the first beam keeps.
    """

    counts = "schedules"

    def __init__(self, rule: str = "mwkr", spread: int = 3, width: int = 1) -> None:
        super().__init__(rule)
        self.patience = float(self.active)
        if spread < 1 or width < 1:
            raise InputError(f"beam: spread and width must be at least 1, found {spread} and {width}")
        self.spread, self.width = spread, width

    def prepare(self, problem: Problem) -> None:
        shop = board(problem)
        _Nodes(shop, *self._keys(shop, np.random.default_rng(0)), self.patience, 1).level(1)

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        shop = board(problem)
        keys, slope = self._keys(shop, generator(limit.seed, f"beam:{self.name}"))
        best, work, told, width = None, 0, time.monotonic(), self.width
        while limit.work is None or work < limit.work:
            nodes = _Nodes(shop, keys, slope, self.patience, self.spread)
            for _ in range(shop.operations.shape[1]):
                value, forced, made = nodes.level(width)
                work += made
                better = best is None or value < best
                if better or time.monotonic() - told > HEARTBEAT / 2:
                    told = time.monotonic()
                    yield Step(follow(shop, keys, slope, forced, self.patience) if better else None, work=work)
                    best = value if better else best
                if limit.work is not None and work >= limit.work:
                    break
            width *= 2

    def _keys(self, shop: Board, draws: np.random.Generator) -> tuple[Floats, float]:
        rule = self.order()
        rule.bind(draws)
        found = fixed_keys(shop, rule)
        if found is None:
            raise InputError(
                f"beam: {self.name} is asked at each decision; a beam needs keys that are known at arrival"
            )
        return found


class _Nodes:
    """The nodes of one level and how each was reached."""

    def __init__(self, shop: Board, keys: Floats, slope: float, patience: float, spread: int) -> None:
        self.shop, self.keys, self.slope = shop, keys, slope
        self.patience, self.spread = patience, spread
        self.front = shop.heads[None, :].copy()
        self.ready = shop.operations[kernel.RELEASE][shop.heads][None, :]
        self.free = np.zeros((1, shop.machines), np.int64)
        self.choices = np.zeros((1, 0), np.int64)  # alternatives so far, a row a node

    def level(self, width: int) -> tuple[int, Ints, int]:
        """Branch, and keep the `width` best: (value of the best, its choices so far, schedules made)."""
        shop, jobs, most = self.shop, self.front.shape[1], len(self.front) * self.spread
        origin = np.empty((most, 3), np.int64)
        children = np.empty((most, 2 * jobs + shop.machines), np.int64)
        ends = np.empty((most, jobs), np.int64)
        made = kernel.branch(
            shop.alternatives, shop.operations, self.keys, self.slope, self.front, self.ready, self.free, self.patience, self.spread, origin, children, ends
        )  # fmt: skip
        worth = values(shop.problem, _by_job(shop, ends[:made]))
        _, different = np.unique(
            children[:made], axis=0, return_index=True
        )  # one state is often reached in several orders
        different.sort()
        kept = different[np.argsort(worth[different], kind="stable")[:width]]
        self.front, self.ready, self.free = np.split(children[kept], [jobs, 2 * jobs], axis=1)
        self.front, self.ready, self.free = map(np.ascontiguousarray, (self.front, self.ready, self.free))
        self.choices = np.column_stack([self.choices[origin[kept, 0]], origin[kept, 1]])
        return int(worth[kept[0]]), self.choices[0], made


def _by_job(shop: Board, ends: Ints) -> Ints:
    """Completions in the order of the jobs; the kernels have them in the order of release."""
    found = np.zeros((len(ends), len(shop.problem.jobs)), np.int64)
    found[:, shop.problem.operations.job[shop.operation[shop.heads]]] = ends
    return found
