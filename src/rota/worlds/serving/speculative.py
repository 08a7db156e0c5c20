"""Speculative decoding: a draft proposes tokens, the model verifies them all in one iteration, and those up to the first wrong one are kept.

Leviathan, Kalman, Matias, Fast Inference from Transformers via Speculative Decoding, ICML 2023: with k draft tokens of which each is accepted with
probability alpha, independently, an iteration gives (1 - alpha^(k+1)) / (1 - alpha) tokens on average: the accepted ones and one of the model's own.
Here a draft token at a place of an answer is accepted or not by a draw keyed by (seed, request, place), so that it is the same whatever the policy.

What an iteration costs: the draft's k decodes one after the other (its own timing, or a share of the model's iteration of decodes alone for each),
and the model's iteration with k + 1 tokens for each decode, whose KV is read once. The draft also computes every prompt. Where the cache has no room
for k tokens more of every decode, and where `off_above` says so, an iteration goes without a draft.

`off_above: auto` asks the timing: an iteration has a draft where that makes a token cheaper, counting what decodes add to the iteration's prompts.

Approximated: acceptance does not depend on the text; the draft's own KV is counted in memory but never displaced apart; the attention of k + 1 query
tokens costs what reading the KV costs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from rota.kernel.errors import InputError
from rota.worlds.serving import catalogue
from rota.worlds.serving.timing import Timing, build

AUTO = -1  # decide by the timing, iteration by iteration
NEVER_OFF = 1 << 40


class SpeculativeSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a fleet's group says."""

    tokens: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4  # of the draft, an iteration
    acceptance: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.7  # probability that one is accepted
    draft: str | float = 0.05  # a model, or the share of an iteration of decodes that a draft token costs
    off_above: Annotated[int, msgspec.Meta(ge=1)] | Literal["auto"] | None = None  # decodes; None: never off


@dataclass(frozen=True)
class Speculative:
    """The same, resolved."""

    tokens: int
    acceptance: float
    cost: float  # share for each draft token, where there is no draft model
    draft: Timing | None
    off_above: int

    @property
    def expected(self) -> float:
        """Tokens an iteration gives on average, for an answer that does not end."""
        return expected_tokens(self.tokens, self.acceptance)


def expected_tokens(tokens: int, acceptance: float) -> float:
    """(1 - alpha^(k+1)) / (1 - alpha): k draft tokens, each accepted with probability alpha until one is not, and one more."""
    return (1.0 - acceptance ** (tokens + 1)) / (1.0 - acceptance)


def check(section: SpeculativeSection, caching: bool) -> None:
    """Raises InputError: an unknown draft, a share that is none, a prefix cache beside it."""
    if isinstance(section.draft, str):
        catalogue.model(section.draft)
    elif not 0.0 < section.draft < 1.0:
        raise InputError(
            f"speculative.draft: a share of an iteration is above 0 and below 1, found {section.draft:g}; or name a model"
        )
    if caching:
        raise InputError("speculative: does not go with prefix_caching yet; leave one of them out")


def resolve(section: SpeculativeSection, gpu: catalogue.Gpu, tp: int, folder: Path) -> Speculative:
    """The draft's timing is a roofline on the same GPUs. Raises InputError where the draft cannot be split over them."""
    draft = (
        build("roofline", catalogue.model(section.draft), gpu, tp, folder) if isinstance(section.draft, str) else None
    )
    cost = section.draft if isinstance(section.draft, int | float) else 0.0
    off = section.off_above
    above = AUTO if off == "auto" else NEVER_OFF if off is None else off
    return Speculative(section.tokens, section.acceptance, cost, draft, above)


def blocks_beside(blocks: int, section: SpeculativeSection, model: catalogue.Model, sizes: Mapping[str, Any]) -> int:
    """KV blocks that are left when a draft model keeps its weights and its own KV on the same GPUs.

    Args:
        blocks: What fits without it.
        model: The model that is served.
        sizes: `tp` and `block_tokens` of the replica.

    Raises:
        InputError: nothing is left.
    """
    if not isinstance(section.draft, str):
        return blocks
    draft, tp = catalogue.model(section.draft), sizes["tp"]
    mine = catalogue.kv_bytes_per_token(model, tp) * sizes["block_tokens"]
    both = mine + catalogue.kv_bytes_per_token(draft, tp) * sizes["block_tokens"]
    left = int((blocks * mine - catalogue.weight_bytes(draft, tp)) // both)
    if left < 1:
        raise InputError(
            f"speculative.draft: {draft.name} leaves no memory for the KV cache beside {model.name}; choose a smaller one"
        )
    return left
