"""Servers whose speeds depend on the job, and are not known: what can be done with predicted speeds, and with their order alone.

Lindermayr, Megow and Rapp, Speed-oblivious online scheduling: knowing (precise) speeds is not necessary, ICML 2023. Each policy answers with
the share of each server's time that each job gets; a job is on one server at a time, jobs may move.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Allot
from rota.kernel.errors import InputError
from rota.kernel.tables import Claims, FloatColumn


@dataclass
class GreatestDensity(Allot):
    """Pairs of job and server by predicted density w s / p, greatest first, each job and each server once (clairvoyant: sizes are known).

    Attributes:
        speeds: Predicted speeds, a row a class of jobs, a column a server; empty: the true order is not known, all are 1.
    """

    speeds: tuple[tuple[float, ...], ...] = ()
    reads = ("id", "release", "weight", "size", "job_class")

    def __post_init__(self) -> None:
        if any(not speed > 0 for row in self.speeds for speed in row):
            raise InputError("speeds must be positive, a row a class and a column a server")

    def amounts(self, claims: Claims, budget: Mapping[str, float], now: float) -> FloatColumn:
        servers, rows = int(next(iter(budget.values()))), len(claims)
        table = np.array(self.speeds, np.float64) if self.speeds else np.ones((1, servers))
        kinds = np.minimum(claims.job_class.astype(np.int64), len(table) - 1)
        density = claims.weight[:, None] * table[kinds][:, :servers] / np.maximum(claims.size, 1e-300)[:, None]
        amounts = np.zeros((rows, servers))
        order = np.lexsort((np.tile(np.arange(servers), rows), np.repeat(claims.id, servers), -density.ravel()))
        for pair in order.tolist():
            row, server = divmod(pair, servers)
            if not amounts[row].any() and not amounts[:, server].any():
                amounts[row, server] = 1.0
        return amounts


@dataclass
class InTurnOnFastest(Allot):
    """Non-clairvoyant, only the order of the servers is known: the jobs share the fastest servers alike, as many as there are jobs.

    Attributes:
        order: Servers from the fastest to the slowest; empty: as they are numbered.
    """

    order: tuple[int, ...] = ()
    reads = ("id",)

    def amounts(self, claims: Claims, budget: Mapping[str, float], now: float) -> FloatColumn:
        servers, rows = int(next(iter(budget.values()))), len(claims)
        amounts = np.zeros((rows, servers))
        used = (self.order or tuple(range(servers)))[: min(rows, servers)]
        if rows:
            amounts[:, list(used)] = 1.0 / rows
        return amounts
