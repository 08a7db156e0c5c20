"""What a batcher is: an allotment of an iteration's token budget, and what is set aside for a request when it begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Allot
from rota.kernel.errors import InputError
from rota.kernel.tables import Claims, Column, FloatColumn, IntColumn
from rota.worlds.serving.timing.model import Timing

UNLIMITED = 1 << 40
RESERVE_CHUNK, RESERVE_PROMPT, RESERVE_FIXED = range(3)
ESTIMATES = {
    "sample": 0,
    "quantile": 1,
    "released": 2,
    "limit": 3,
}  # how a length is foreseen; see policies/past_future


@dataclass(frozen=True)
class Engine:
    """The settings of a replica that a batcher works with."""

    kv_blocks: int
    block_tokens: int
    max_running: int
    max_batched_tokens: int
    context_limit: int  # longest prompt and answer together, tokens
    layers: int = UNLIMITED  # of the model
    timing: Timing | None = None  # of an iteration, where a batcher works with it


@dataclass(frozen=True)
class FutureMemory:
    """Admit while the peak of the memory that the batch will need is within the cache; see policies/past_future."""

    estimate: str
    limit: int  # tokens of the longest answer that may be asked for
    window: int  # finished answers that are remembered
    quantile: float
    reserved: float  # share of the cache that stays out of it


@dataclass(frozen=True)
class Reservation:
    """Set memory aside for the predicted answer, rounded up to whole buckets; see policies/s3."""

    bucket_tokens: int


@dataclass(frozen=True)
class Streams:
    """Prompts and decodes as two streams with shares of the compute; see policies/semi_pd."""

    share: float  # of the prompts at the beginning
    prompt_scale: float
    decode_scale: float
    contention: float
    control_seconds: float  # 0: the share stays as it is
    ttft: float
    tpot: float
    least: float  # share of either


@dataclass(frozen=True)
class Parking:
    """Iterations are parked between layers for urgent requests; see policies/qllm."""

    urgent: int  # requests of this priority, or a smaller number, are
    together: bool  # their decodes go with the others
    switch: float  # seconds to park, and to go on


@dataclass(frozen=True)
class BatchRules:
    """What makes one batcher differ from another; see the files in `policies/` for the published ones."""

    budget: int = UNLIMITED  # tokens an iteration
    chunked: bool = False  # prompts may be cut
    mixed: bool = True  # prefills and decodes share an iteration
    padded: bool = False  # the budget counts requests times the longest prompt
    when_empty: bool = False  # admit only when the last batch is done
    watermark_blocks: int = 0  # blocks that stay free at admission
    reserve: int = RESERVE_CHUNK  # set aside at admission: the chunk, the prompt, or a fixed length
    reserve_tokens: int = 0  # that fixed length
    full_check: bool = False  # admit only when the whole prompt would fit
    spare_block: bool = False  # in order of arrival a decode goes on only while a block is free, needed or not
    prompts_first: bool = False  # whole prompts take tokens before decodes; decodes without any pause for the iteration
    long_prompts_wait: bool = False  # with prompts_first: see policies/splitwise_batch
    ahead: bool = False  # the next iteration is put together while this one runs (asynchronous scheduling)
    future: FutureMemory | None = None
    reservation: Reservation | None = None
    layer_tokens: int = (
        0  # prompts go through a group of layers an iteration, so many tokens x layers of work; 0: through all of them
    )
    layers: int = UNLIMITED  # of the model, with layer_tokens and parking
    streams: Streams | None = None
    parking: Parking | None = None
    max_running: int = UNLIMITED  # fewer than the engine's slots

    @property
    def plain(self) -> bool:
        """Whether this is all that goes on inside a replica."""
        alone = self.future is None and self.reservation is None and not self.layer_tokens
        return alone and self.streams is None and self.parking is None


CLAIM_COLUMNS = {
    "wanted": Column("wanted", "tokens", "1 for a decode, what is left of the prompt for a prefill"),
    "decoding": Column("decoding", "", "1 for a decode, 0 for a prefill"),
}


class Batcher(Allot):
    """A batcher is told by its rules; the simulator runs them compiled, `amounts` says the same slowly and readably.

    The rows of the claims are the running requests and then the waiting ones, each in its order. Columns: `wanted` (tokens: 1 for a
    decode, what is left of the prompt for a prefill) and `decoding` (1 for a decode).
    """

    reads = ("wanted", "decoding")
    foresees: ClassVar[bool] = False  # it works with predicted lengths
    packs: ClassVar[bool] = False  # it says itself who goes first
    advises: ClassVar[bool] = False  # it works with the timing of the replica
    displaces: ClassVar[bool] = True  # an order may displace what runs

    def rules(self, engine: Engine) -> BatchRules:
        """The rules on an engine. Raises InputError where the settings contradict each other."""
        raise NotImplementedError(f"{type(self).__name__} defines no rules")

    def amounts(self, claims: Claims, budget: Mapping[str, float], now: float) -> FloatColumn:
        """Tokens for each claim in this iteration, within ``budget["tokens"]``."""
        tokens = int(budget["tokens"])
        rules = self.rules(Engine(1, 1, 1, tokens, tokens))
        wanted, decoding = claims.wanted.astype(np.int64), claims.decoding > 0
        granted = np.zeros(len(claims), np.int64)
        waiting = np.flatnonzero(~decoding)
        if rules.prompts_first:
            return self._prompts_first(wanted, decoding, min(rules.budget, tokens))
        if rules.mixed:
            granted[decoding] = 1
        elif rules.when_empty and decoding.any():
            waiting = waiting[:0]
        left, longest, count = min(rules.budget, tokens) - int(granted.sum()), 0, 0
        for row in waiting:
            chunk = min(int(wanted[row]), left) if rules.chunked else int(wanted[row])
            longest = max(longest, chunk)
            over = (count + 1) * longest > tokens if rules.padded else chunk > left
            if chunk <= 0 or (over and count > 0) or (over and not rules.padded):
                break
            granted[row] = chunk
            left, count = left - chunk, count + 1
        if not rules.mixed and count == 0:
            granted[decoding] = 1
        return granted.astype(np.float64)

    def _prompts_first(self, wanted: IntColumn, decoding: npt.NDArray[np.bool_], tokens: int) -> FloatColumn:
        """Whole prompts in their order, the first whatever its length; then decodes while tokens last, and one where nothing else runs."""
        granted, left = np.zeros(len(wanted)), tokens
        for row in np.flatnonzero(~decoding):
            if wanted[row] > left and left < tokens:
                break
            granted[row] = wanted[row]
            left -= int(wanted[row])
            if left <= 0:
                break
        rows = np.flatnonzero(decoding)
        granted[rows[: max(left, 0)]] = 1
        return granted


def watermark_blocks(batcher: str, share: float, engine: Engine) -> int:
    """KV blocks that stay free at admission. Raises InputError where the share is not in [0, 1)."""
    if not 0.0 <= share < 1.0:
        raise InputError(f"{batcher}: watermark is a share of the KV blocks: at least 0 and below 1, found {share:g}")
    return int(share * engine.kv_blocks)
