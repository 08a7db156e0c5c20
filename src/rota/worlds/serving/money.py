"""What each request cost: at token prices where the scenario has them, else its part of the GPU hours of the replica that served it.

By GPU hours, what a replica cost is divided among the requests that ended there in proportion to their work (seconds of prompt and answer at the replica's
rates); what replicas cost that served nobody is divided among all in proportion to their part of the rest. So the parts add up to the whole.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.nodes import gpu_shares

if TYPE_CHECKING:
    from rota.worlds.serving.settings import Case
    from rota.worlds.serving.simulate import Simulation

FloatColumn = npt.NDArray[np.float64]
ASKS = ("cost", "cost_per_million_tokens", "dollars_mean")


def replica_costs(run: "Simulation", on: FloatColumn) -> FloatColumn:
    """US dollars of each replica for the seconds that it was on, NaN where its price is not known."""
    prices = np.array([np.nan if replica.price is None else replica.price for replica in run.replicas])
    return np.asarray(on * gpu_shares(run.replicas) / 3600 * prices)


def request_costs(run: "Simulation", costs: FloatColumn) -> FloatColumn:
    """US dollars of each request that was finished; NaN for others, and for all where a price is not known."""
    jobs = run.jobs
    done = (jobs[at.STATE] == at.FINISHED_STATE) & (jobs[at.HOST] >= 0)
    paid = np.full(len(done), np.nan)
    if np.isnan(costs).any() or not done.any():
        return paid
    host = jobs[at.HOST, done]
    rates = run.clocks[host]
    work = rates[:, at.PREFILL_RATE] * jobs[at.PROMPT, done] + rates[:, at.DECODE_RATE] * jobs[at.OUTPUT, done]
    work = np.where(work > 0, work, 1.0)
    of_host = np.bincount(host, work, minlength=len(costs))
    served = of_host > 0
    parts = work / of_host[host] * costs[host]
    rest = float(costs[~served].sum())
    whole = float(parts.sum())
    parts = parts * (1.0 + rest / whole) if whole > 0 else parts + rest / len(parts)
    paid[done] = parts
    return paid


def check_prices(case: "Case", objective: str) -> None:
    """Raises InputError where dollars are asked for and a GPU has no price."""
    if objective not in ASKS or (objective == "dollars_mean" and case.prices):
        return
    from rota.worlds.serving import catalogue

    for number, group in enumerate(case.fleet):
        if group.price is None and not catalogue.gpu(group.gpu).price:
            raise InputError(
                f"objective: '{objective}' needs prices, and fleet[{number}] ({group.gpu}) has none; give it price: DOLLARS a GPU hour"
            )
