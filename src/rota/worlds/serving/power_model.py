"""What power a GPU draws in an iteration, and how an iteration stretches when its clock is lowered.

An iteration's arithmetic would take c seconds at the peak of the data sheet and its memory traffic m seconds at the bandwidth. At a clock f (1: the
highest) the arithmetic takes c / f, and the whole, as in the roofline of `timing`,

    seconds(f) = seconds x sqrt(((c / f)^2 + m^2) / (c^2 + m^2))

so that decodes hardly notice and prompts do. Power, as shares of the board's limit, with the shares of time u_c = c / f / seconds(f) and
u_m = m / seconds(f) that arithmetic and memory are busy:

    power(f) = idle + hbm x u_m + (busy + (memory x u_m - hbm x u_m) + compute x u_c) x f x max(f, 0.7)^2,   at most 1

Fitted to the power columns of splitwise-sim's table (bench/fit_power.py: Llama-2-70B and BLOOM-176B on A100 80 GB): averages of runs are met within 0.021 of
the board's limit (rms of 36, worst 0.050), peaks within 0.11 (44, each the largest of a few samples; worst 0.35). What the memory chips draw does not depend
on the clock: 3.92 pJ a bit for HBM2 (O'Connor et al., Fine-Grained DRAM, MICRO 2017). The cube of the clock is the textbook's, as voltage goes with it; that
table's H100 at half its power computes prompts 1.3 times slower and decodes as fast, and 1 / 1.3 cubed is 0.46. Below 0.7 of the clock the voltage is taken to
be at its floor: an assumption, on the side of saving less. Other GPUs are taken to have the same shares of their own limits: nobody measured them here.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

from rota.worlds.serving.catalogue import Gpu, Model, kv_bytes_per_token

HBM_JOULES_A_BYTE = 8 * 3.92e-12
FLOOR = 0.7  # share of the highest clock below which the voltage does not fall any more


@dataclass(frozen=True)
class Work:
    """Of one iteration on one GPU."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class ModelWork:
    """What an iteration of a model asks of each of its GPUs: operations a token and a query-key pair, bytes of weights and of a token of context."""

    token_flops: float
    pair_flops: float
    dense_bytes: float
    expert_bytes: float  # all experts of all layers; an iteration touches some
    expert_share: float  # experts that a token takes, over all; 0: none
    context_bytes: float

    def of(self, tokens: float, pairs: float, context: float) -> Work:
        """The work of so many tokens, query-key pairs of prompts, and tokens of context that decodes read."""
        experts = self.expert_bytes * (1.0 - (1.0 - self.expert_share) ** tokens)
        flops = self.token_flops * tokens + self.pair_flops * (pairs + context)
        return Work(flops, self.dense_bytes + experts + self.context_bytes * context)


def work_of(model: Model, tp: int) -> ModelWork:
    """The work of a model split over `tp` GPUs."""
    experts = model.moe_layers * model.experts * model.expert_weights
    active = model.moe_layers * model.experts_per_token * model.expert_weights
    dense = (
        model.parameters - experts - (0 if model.tied else model.vocabulary * model.hidden)
    )  # embeddings are looked up
    pairs = 4.0 * model.layers * model.heads * (model.kv_rank or model.head_dim)
    return ModelWork(
        2.0 * (dense + active) / tp,
        pairs / tp,
        dense * model.weight_bytes / tp,
        experts * model.weight_bytes / tp,
        model.experts_per_token / model.experts if model.experts else 0.0,
        kv_bytes_per_token(model, tp),
    )


@dataclass(frozen=True)
class GpuPower:
    """Shares of a board's limit."""

    idle: float = 0.173
    busy: float = 0.115
    memory: float = 0.696
    compute: float = 1.645

    def share(self, gpu: Gpu, work: Work, seconds: float, clock: float = 1.0) -> float:
        """Of the limit, in an iteration that takes so many seconds at the highest clock."""
        c, m = work.flops / peak(gpu, 2.0), work.bytes / gpu.bandwidth
        took = seconds * stretch(c, m, clock)
        u_c, u_m = min(c / clock / took, 1.0), min(m / took, 1.0)
        hbm = gpu.bandwidth * HBM_JOULES_A_BYTE / gpu.tdp * u_m
        core = self.busy + max(self.memory * u_m - hbm, 0.0) + self.compute * u_c
        return min(self.idle + hbm + core * clock * max(clock, FLOOR) ** 2, 1.0)


def stretch(c: float, m: float, clock: float) -> float:
    """How much longer an iteration takes at a clock than at the highest."""
    whole = c * c + m * m
    return float(sqrt(((c / clock) ** 2 + m * m) / whole)) if whole > 0 else 1.0


def peak(gpu: Gpu, weight_bytes: float) -> float:
    """Operations a second of the tensor cores for weights of this size."""
    return gpu.fp8 if weight_bytes <= 1.0 and gpu.fp8 else gpu.bf16


# The row of a host in the simulator's table of power: see kernels/power.py.
(
    TOKEN_SECONDS, PAIR_SECONDS, DENSE_SECONDS, EXPERT_SECONDS, EXPERT_SHARE, CONTEXT_SECONDS, LIMIT, IDLE, BUSY, MEMORY,
    COMPUTE, HBM, CLOCK, CAP, POWER_FLOATS,
) = range(15)  # fmt: skip


def row_of(model: Model, gpu: Gpu, tp: int, power: GpuPower, other: float = 0.0) -> npt.NDArray[np.float64]:
    """A replica's row: seconds of arithmetic and of memory for each unit, shares, watts of all its GPUs. `other`: watts of the server for each GPU."""
    work, rate = work_of(model, tp), peak(gpu, model.weight_bytes)
    row = np.zeros(POWER_FLOATS)
    row[[TOKEN_SECONDS, PAIR_SECONDS]] = work.token_flops / rate, work.pair_flops / rate
    row[[DENSE_SECONDS, EXPERT_SECONDS, CONTEXT_SECONDS]] = (
        np.array([work.dense_bytes, work.expert_bytes, work.context_bytes]) / gpu.bandwidth
    )
    row[EXPERT_SHARE], row[LIMIT] = work.expert_share, gpu.tdp * tp
    row[IDLE] = power.idle + other / gpu.tdp
    row[[BUSY, MEMORY, COMPUTE]] = power.busy, power.memory, power.compute
    row[HBM], row[CLOCK], row[CAP] = gpu.bandwidth * HBM_JOULES_A_BYTE / gpu.tdp, 1.0, np.inf
    return row
