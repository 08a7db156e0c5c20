"""What a timing model sees of an iteration: a float64 vector with these slots.

A *prefill* is a chunk of a prompt, a *decode* one token of a running request. `context` is the tokens that a request
has in the KV cache before the iteration.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

PREFILL_TOKENS = 0  # sum of the chunk lengths
PREFILL_REQUESTS = 1
PREFILL_CONTEXT = 2  # sum over prefills of their context
PREFILL_SQUARES = 3  # sum of chunk^2
PREFILL_PAIRS = 4  # sum of chunk * (context + (chunk + 1) / 2): query-key pairs under a causal mask
DECODES = 5
DECODE_CONTEXT = 6  # sum over decodes of their context
DECODE_MAX = 7  # the largest of them
DECODE_MIN = 8  # the smallest of them
SAMPLES = 9  # sequences that give a token at the end of the iteration: decodes and finishing prefills
FEATURES = 10
GANG_TOKENS = (
    10  # tokens of all replicas that share the experts, 0 where none do; not an input of models that know no experts
)
WIDTH = 11  # of the vector

NAMES = (
    "prefill_tokens",
    "prefill_requests",
    "prefill_context",
    "prefill_squares",
    "prefill_pairs",
    "decodes",
    "decode_context",
    "decode_max",
    "decode_min",
    "samples",
)


def iteration(
    prefills: Sequence[tuple[int, int]] = (), decodes: Sequence[int] = (), samples: int | None = None
) -> npt.NDArray[np.float64]:
    """The features of one iteration.

    Args:
        prefills: (context, chunk) of each prefill.
        decodes: context of each decode.
        samples: sequences that give a token; by default every sequence of the iteration.
    """
    features = np.zeros(WIDTH)
    for context, chunk in prefills:
        features[PREFILL_TOKENS] += chunk
        features[PREFILL_REQUESTS] += 1
        features[PREFILL_CONTEXT] += context
        features[PREFILL_SQUARES] += chunk * chunk
        features[PREFILL_PAIRS] += chunk * (context + (chunk + 1) / 2)
    features[DECODES] = len(decodes)
    features[DECODE_CONTEXT] = sum(decodes)
    features[DECODE_MAX] = max(decodes, default=0)
    features[DECODE_MIN] = min(decodes, default=0)
    features[SAMPLES] = len(prefills) + len(decodes) if samples is None else samples
    return features
