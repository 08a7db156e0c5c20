"""What comes back from the host's memory finds room for its next token: cases by hand (`test_twin_moves` compares with a slow simulator)."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from rota.worlds.serving.batching import BatchRules
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import make_workload
from rota.worlds.serving.replica import Replica
from rota.worlds.serving.timing import build
from tests.worlds.serving.test_simulate import simulate


def replica(kv_blocks: int) -> Replica:
    """Blocks of 16 tokens, 0.125 s for each iteration, copies that take no time."""
    timing = build({"linear": {"constant": 0.125}}, model("llama-3-8b"), gpu("a100-80g"), 1, Path())
    one = Replica("hand", kv_blocks, 16, 4, 64, BatchRules(budget=64, chunked=True), timing)
    return replace(one, swap_blocks=100, swap_bandwidth=1.0, kv_bytes=0.0, prefill_rate=0.001, decode_rate=0.01)


def test_who_came_back_finds_a_block_for_its_next_token() -> None:
    """Five blocks. Both prompts take two, the first takes the fifth in iteration 4 and none is left for the second in iteration 5: it goes, with
    3 tokens of 20. Its 32 tokens of KV take two blocks, and two are free, but for its next token it needs a third: it waits for the end of the
    first, after 20 iterations, and makes 17 tokens alone.
    """
    work = make_workload(np.array([0.0, 0.01]), np.array([30, 30]), np.array([20, 20]))
    run = simulate(work, [replica(5)])
    assert run.jobs[at.PREEMPTIONS].tolist() == [0, 1]
    assert run.seconds[at.FINISH].tolist() == [20 * 0.125, 37 * 0.125]


def test_who_needs_all_blocks_comes_back_when_all_are_free() -> None:
    """Three blocks, all of them held by the first from its fourth token on. One that had no service yet comes while iteration 5 runs, displaces it,
    and takes two iterations; then the first comes back, though there is no fourth block, and makes the other 13 of its 18 tokens.
    """
    work = make_workload(np.array([0.0, 0.6]), np.array([30, 10]), np.array([18, 2]))
    run = simulate(work, [replica(3)], order="las")
    assert run.jobs[at.PREEMPTIONS].tolist() == [1, 0]
    assert run.seconds[at.FINISH].tolist() == [20 * 0.125, 7 * 0.125]
