"""BatchLLM: all prompts are known, and those that share a beginning are served one after the other.

Zheng et al., BatchLLM: Optimizing Large Batched LLM Inference with Global Prefix Sharing and Throughput-oriented Token Batching (arXiv 2412.03594).
A tree over all prompts; first-level prefixes are chosen by dynamic programming so that as many tokens as possible are shared with one prefix a
prompt; groups go one after the other, those with the most answer tokens for each prompt token first, so that decodes are there to fill the iterations
of what follows. It batches by the memory of tokens: give the fleet a large `max_running`, and the KV cache is the limit. Offline: it orders what
waits, so all should arrive at once.
"""

from dataclasses import dataclass

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.tables import FloatColumn, Jobs


@dataclass
class PrefixGroups(Order):
    """By group, the most answer tokens for each prompt token to compute first.

    Attributes:
        by_ratio: Groups go by that ratio; otherwise the largest saving first.
    """

    by_ratio: bool = True
    asked = "arrival"
    reads = ("prompt_tokens", "output_tokens", "prefix_group", "group_tokens")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        groups, index = np.unique(jobs.prefix_group, return_inverse=True)
        count, shared = np.bincount(index, minlength=len(groups)), np.zeros(len(groups))
        np.maximum.at(shared, index, jobs.group_tokens)
        prompt = np.bincount(index, jobs.prompt_tokens, len(groups)) - shared * (count - 1)
        output = np.nan_to_num(jobs.output_tokens)
        rows = np.argsort(output)  # sums of predictions, in an order that does not depend on that of the rows
        answers = np.bincount(index[rows], output[rows], len(groups))
        rank = -answers / np.maximum(prompt, 1.0) if self.by_ratio else -shared * (count - 1.0)
        return np.column_stack([rank[index], jobs.prefix_group])
