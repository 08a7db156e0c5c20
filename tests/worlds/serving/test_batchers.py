"""Every batcher passes the conformance suite, and says in Python what the simulator does compiled."""

from typing import ClassVar

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.kernel.tables import Claims
from rota.testing.conformance import ConformanceSuite, Subject
from rota.worlds.serving.batching import CLAIM_COLUMNS, Batcher, Engine
from rota.worlds.serving.policies import BATCHERS, Orca, Sarathi, VllmV0, VllmV1

ENGINE = Engine(kv_blocks=1000, block_tokens=16, max_running=32, max_batched_tokens=512, context_limit=4096)


DRAWS = {
    "wanted": lambda rng, rows: rng.integers(1, 300, rows),
    "decoding": lambda rng, rows: (np.arange(rows) < rows // 2).astype(np.int64),
}


class TestBatchers(ConformanceSuite):
    subjects: ClassVar = {
        name: Subject(
            batcher, "allot", job_columns=CLAIM_COLUMNS, draws=DRAWS, budget={"tokens": 512.0}, permutes=False
        )
        for name, batcher in BATCHERS.items()
    }


def claims(decodes: int, *prompts: int) -> Claims:
    wanted = np.array([1] * decodes + list(prompts))
    return Claims({"wanted": wanted, "decoding": np.array([1] * decodes + [0] * len(prompts))})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vllm_v0", [0, 0, 200, 0, 0]),  # two prompts of 400 padded are over the budget; decodes wait
        ("vllm_v1", [1, 1, 200, 310, 0]),  # 512 tokens: decodes, a whole prompt, a piece of the next
        ("sarathi", [1, 1, 200, 310, 0]),
        ("orca", [1, 1, 200, 0, 0]),
        ("static", [1, 1, 0, 0, 0]),  # the batch under way is finished first
        ("splitwise", [1, 1, 200, 0, 0]),  # a whole prompt; 512 tokens do not hold a second one, but both decodes
    ],
)
def test_amounts_by_hand(name: str, expected: list[int]) -> None:
    assert BATCHERS[name]().amounts(claims(2, 200, 400, 50), {"tokens": 512}, 0.0).tolist() == expected


def test_prompts_take_the_place_of_decodes() -> None:
    """505 of 512 tokens are prompts: 7 of 9 decodes have a place; a prompt alone may be larger, and leaves none."""
    amounts = BATCHERS["splitwise"]().amounts
    assert amounts(claims(9, 300, 205, 8), {"tokens": 512}, 0.0).tolist() == [1] * 7 + [0, 0, 300, 205, 0]
    assert amounts(claims(9, 600), {"tokens": 512}, 0.0).tolist() == [0] * 9 + [600]
    assert amounts(claims(9), {"tokens": 512}, 0.0).tolist() == [1] * 9


def test_rules_of_an_engine() -> None:
    assert VllmV0().rules(ENGINE).watermark_blocks == 10
    assert Sarathi(chunk_tokens=256).rules(ENGINE).budget == 256
    assert Orca().rules(ENGINE).reserve_tokens == 4096
    assert VllmV1(async_scheduling=True).rules(ENGINE).ahead


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(InputError, match="must be at least max_running"):
        VllmV1().rules(Engine(1000, 16, 1024, 512, 4096))
    with pytest.raises(InputError, match="chunk_tokens must be at least 1"):
        Sarathi(chunk_tokens=0).rules(ENGINE)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Sarathi(watermark=-10.0), "watermark is a share"),
        (VllmV0(watermark=1.0), "watermark is a share"),
        (Sarathi(watermark=float("nan")), "watermark is a share"),
        (Orca(reserve_tokens=-5), "at least 0"),
    ],
)
def test_parameters_out_of_range(made: Batcher, says: str) -> None:
    with pytest.raises(InputError, match=says):
        made.rules(Engine(100, 16, 8, 512, 2048))
