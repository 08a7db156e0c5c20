"""Rules of pools: what the simulator decides by itself, without asking a policy in Python at every request.

A pool policy whose `rule` says one of these gives the same answers in `assign` and `moves`; a test holds that. A subclass that writes another `assign` or
`moves` is asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Halves:
    """The prompt and the answer of a request each go to the host that costs the least for them.

    Prompts go to hosts for prompts, then to those that do both; answers to hosts for answers, then to those that do both; each to the host of that kind that
    costs the least, if it is fit, of equals to the one that has had its role for longest. Where none is fit, the cheapest host of the other kind is lent. Where
    there is none either, the cheapest host for the prompt does both halves, of equals one for prompts, then one for both.

    Args:
        prompt: Columns of hosts and their weights, in the order in which they are added: what a prompt costs there.
        answer: The same for an answer.
        limit: A host where something waits is not fit for a prompt that would bring its cost, with the prompt's tokens, above this.
        knows_answers: A host is fit for an answer while its cost and the request's tokens are below its capacity: those of prompt and answer, or of the
            prompt alone.
    """

    prompt: Mapping[str, float]
    answer: Mapping[str, float]
    limit: float
    knows_answers: bool


@dataclass(frozen=True)
class Pairs:
    """Neighbours, 0 and 1, 2 and 3, are pairs with copies of all their requests.

    A request goes to the pair with the fewest requests for each of its hosts that are up. Its prompt is computed by the one that has some to compute already,
    up to `backlog` tokens, otherwise by the one with fewer tokens to compute, then with fewer decodes; the other one decodes. A host alone does both. Where one
    of a pair has prompts, all its decodes go to the other; where neither has, one with `apart` decodes more gives half of the difference.
    """

    apart: int
    backlog: float
