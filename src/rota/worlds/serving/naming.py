"""Names of KV blocks, laid out for the kernels before a run: what the trace knows of prompts, cut into the blocks of the caches."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.worlds.serving.model import Workload

NAMES_MOST = (1 << 31) - 1  # they are 32 bits wide


def check_block_sizes(workload: Workload, sizes: Sequence[int]) -> None:
    """Whether the blocks of caches and those of the trace fall on one another: only then does the name of one say what is in the other.

    Raises:
        InputError: a size neither divides the trace's nor is a multiple of it.
    """
    prefix = workload.prefix
    if prefix is None or not len(prefix.ids):
        return
    known = prefix.block_tokens
    for size in sizes:
        if known % size and size % known:
            raise InputError(
                f"fleet, block_tokens: a prefix cache with blocks of {size} tokens does not fit a workload that names its prompts in blocks of {known}: "
                f"take a divisor or a multiple of {known}"
            )


def lay_out_names(
    workload: Workload, sizes: Sequence[int], reserved: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], int]:
    """Names of all blocks of all requests, for each size of blocks.

    Args:
        workload: The requests, with what their trace says of their prefixes.
        sizes: Tokens of a block, each size once.
        reserved: Tokens that a request may have set aside, needed or not: their blocks have names too.

    Returns:
        Two rows a size: where the names of each request begin, and what is added to the number of a block that the trace does not name to get a
        name of its own; the names; and how many different ones there are at most.

    Raises:
        InputError: there are more than fit into 32 bits, or blocks of caches and of the trace do not fall on one another.
    """
    check_block_sizes(workload, sizes)
    starts = np.zeros((2 * len(sizes), len(workload) + 1), np.int64)
    filled, most, begin = [], 1, 0
    tokens = np.maximum(workload.prompt_tokens + workload.output_tokens, reserved)
    for row, size in enumerate(sizes):
        counts, names, shared = _named(workload, size)
        starts[2 * row, 1:] = np.cumsum(counts)
        starts[2 * row] += begin
        begin += len(names)
        own = -(-tokens // size) - counts
        starts[2 * row + 1, :-1] = shared + np.cumsum(own) - own - counts
        most = max(most, shared + int(own.sum()))
        filled.append(names)
    if most > NAMES_MOST:
        raise InputError(
            f"workload: {most:,} different KV blocks, the prefix caches know {NAMES_MOST:,} at most: use larger blocks or fewer requests"
        )
    return starts, np.concatenate([*filled, np.zeros(1, np.int32)]), most


def _named(workload: Workload, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], int]:
    """Blocks of each request that the trace names, their names, and how many different ones there may be."""
    from rota.worlds.serving.kernels.names import fill_names  # compiled only where prefixes are cached

    prefix = workload.prefix
    if prefix is None or not len(prefix.ids):
        return np.zeros(len(workload), np.int64), np.zeros(0, np.int32), 0
    known = prefix.block_tokens
    tokens = workload.prompt_tokens + (workload.output_tokens if prefix.answers else 0)
    blocks = np.diff(prefix.offsets)
    counts = np.minimum(tokens // size, blocks * (known // size) if known >= size else blocks // (size // known))
    shared = (int(prefix.ids.max()) + 1) * max(known // size, 1)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    names = np.zeros(int(starts[-1]) if shared <= NAMES_MOST else 0, np.int32)
    if len(names):
        offsets, ids = (np.ascontiguousarray(column, np.int64) for column in (prefix.offsets, prefix.ids))
        fill_names(offsets, ids, known, size, starts, names)
    return counts, names, shared
