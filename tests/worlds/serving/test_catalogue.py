"""The catalogue against published totals, and what fits where."""

import pytest

from rota.kernel.errors import InputError
from rota.worlds.serving.catalogue import GIB, gpu, gpus, kv_blocks, kv_bytes_per_token, model, models, weight_bytes


@pytest.mark.parametrize(
    ("name", "billions"),
    [  # parameter counts of the model cards
        ("llama-2-7b", 6.74),
        ("llama-2-13b", 13.02),
        ("llama-2-70b", 68.98),
        ("llama-3-8b", 8.03),
        ("llama-3.1-70b", 70.55),
        ("llama-3.1-405b", 405.85),
        ("qwen3-8b", 8.19),
        ("qwen3-32b", 32.76),
        ("qwen3-30b-a3b", 30.53),
        ("mixtral-8x7b", 46.70),
        ("deepseek-v3", 671.03),
        ("deepseek-v2-lite", 15.7),
        ("opt-13b", 12.85),
        ("opt-66b", 65.72),
    ],
)
def test_parameters_are_those_of_the_model_card(name, billions):
    assert model(name).parameters / 1e9 == pytest.approx(billions, rel=0.002)


def test_all_that_is_promised_is_there():
    assert {"a10g", "l4", "l40s", "a100-40g", "a100-80g", "h100", "h200", "b200", "rtx-4090", "rtx-pro-6000"} <= set(
        gpus()
    )
    for each in gpus().values():
        assert each.memory > 0
        assert each.bandwidth > 1e11
        assert each.bf16 > 1e13
        assert each.link > 0
        assert each.tdp > 0
        assert each.source


def test_kv_bytes_by_hand():
    # 32 layers x (keys, values) x 8 heads x 128 x 2 bytes
    assert kv_bytes_per_token(model("llama-3-8b")) == 131072
    assert kv_bytes_per_token(model("llama-3-8b"), tp=2) == 65536
    assert (
        kv_bytes_per_token(model("llama-2-70b"), tp=16) == 80 * 2 * 1 * 128 * 2
    )  # eight heads on sixteen GPUs: copies
    assert kv_bytes_per_token(model("deepseek-v3"), tp=8) == 61 * (512 + 64) * 2  # compressed, whole on each GPU


def test_blocks_by_hand():
    llama, card = model("llama-3-8b"), gpu("a100-80g")
    left = card.memory * 0.9 - 8029995008 * 2 - 1.15 * GIB
    assert kv_blocks(llama, card) == int(left // (131072 * 16))
    assert kv_blocks(llama, card, block_tokens=32) in (kv_blocks(llama, card) // 2, (kv_blocks(llama, card) + 1) // 2)


def test_blocks_of_a_real_run():
    """vLLM 0.19 resolved 2,588 blocks of 16 for Llama-3.1-8B on an RTX 4090 (LLMServingSim bench data)."""
    assert kv_blocks(model("llama-3.1-8b"), gpu("rtx-4090")) == pytest.approx(2588, rel=0.002)


def test_more_gpus_hold_more():
    llama = model("llama-2-70b")
    counts = [kv_blocks(llama, gpu("a100-80g"), tp) for tp in (2, 4, 8)]
    assert counts == sorted(counts)
    assert counts[0] > 0
    assert weight_bytes(llama, 4) == weight_bytes(llama) / 4


def test_a_model_that_does_not_fit_says_needed_and_available():
    with pytest.raises(
        InputError, match=r"llama-3-70b does not fit on h100: each GPU needs 132\.\d GiB .* has 71\.7 GiB"
    ):
        kv_blocks(model("llama-3-70b"), gpu("h100"))


def test_bad_arguments():
    with pytest.raises(InputError, match=r"28 attention heads|32 attention heads, which 3 GPUs"):
        kv_blocks(model("llama-3-8b"), gpu("h100"), tp=3)
    with pytest.raises(InputError, match="at least 1, found 0"):
        kv_blocks(model("llama-3-8b"), gpu("h100"), tp=0)
    with pytest.raises(InputError, match=r"at most 1, found 90"):
        kv_blocks(model("llama-3-8b"), gpu("h100"), memory_utilisation=90)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"'h10' is not in the catalogue; did you mean .*'h100'"):
        gpu("h10")
    with pytest.raises(InputError, match=r"'llama3-8b' .* 'llama-3-8b'"):
        model("llama3-8b")
    assert all(name == each.name for name, each in models().items())
