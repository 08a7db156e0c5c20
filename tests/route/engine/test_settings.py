"""Settings: one line for every mistake, files and options, and what a request may ask of a replica."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rota.kernel.errors import InputError
from rota.route.engine import Engine
from rota.route.engine.settings import limits, parse_fault, parse_output_tokens, read, resolve
from rota.worlds.serving.batching import RESERVE_FIXED, BatchRules


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"modl": "x"}, "unknown key 'modl'; did you mean 'model'?"),
        ({"model": "llama-3.1-8"}, "model 'llama-3.1-8' is not in the catalogue; did you mean"),
        ({"gpu": "h101"}, "gpu 'h101' is not in the catalogue"),
        ({"tp": 3}, "tp: llama-3.1-8b has 32 attention heads"),
        ({"model": "llama-3.1-70b"}, "does not fit on h100"),
        ({"port": 70000}, "port: expected 'int' <= 65535"),
        ({"speed": 0.0}, "speed: expected 'float' > 0.0"),
        ({"batch": "vlm_v1"}, "batch: unknown allot 'vlm_v1'; did you mean 'vllm_v1'"),
        ({"max_batched_tokens": 100}, "vllm_v1: max_batched_tokens (100) must be at least max_running (256)"),
        ({"timing": "rofline"}, "timing: unknown kind 'rofline'"),
        (
            {"kv_blocks": 1, "block_tokens": 1, "batch": {"sarathi": {"watermark": 0.0}}, "context": 1},
            "hold no request",
        ),
        ({"output_tokens": {"mean": 0.0}}, "output_tokens.mean: expected 'float' > 0.0"),
    ],
)
def test_mistakes(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Engine(**keys)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_and_options(tmp_path: Path) -> None:
    file = tmp_path / "engine.yaml"
    file.write_text("model: llama-3-8b\nspeed: 2.0\nfail:\n  - {kind: cut, tokens: 3}\n")
    settings = read(file, {"speed": 4.0})
    assert (settings.model, settings.speed, settings.gpu) == ("llama-3-8b", 4.0, "h100")
    assert settings.fail[0].tokens == 3
    for text, said in (
        ("modl: x", f"{file}: unknown key 'modl'"),
        ("[1, 2]", f"{file}: expected keys"),
        ("a: [", f"{file}: is not YAML"),
    ):
        file.write_text(text)
        with pytest.raises(InputError) as caught:
            read(file, {})
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "missing.yaml", {})


def test_a_batcher_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from rota.worlds.serving.policies import VllmV1\n\n\nclass Mine(VllmV1):\n    chunked_prefill = False\n"
    )
    plan = resolve(read(None, {"batch": "mine:Mine"}), tmp_path)
    assert plan.rules.budget == 8192


def test_what_a_replica_can_ever_serve() -> None:
    assert limits(BatchRules(budget=8, chunked=True), 10, 4, 1000) == (41, 40)  # the last token is never cached
    assert limits(BatchRules(budget=8, chunked=True), 10, 4, 30) == (30, 29)
    assert limits(BatchRules(budget=8, chunked=True, watermark_blocks=2), 10, 4, 1000) == (33, 32)
    assert limits(BatchRules(budget=8, mixed=False), 10, 4, 1000) == (41, 8)
    assert limits(BatchRules(reserve=RESERVE_FIXED, reserve_tokens=20), 10, 4, 1000) == (21, 20)


def test_words_of_the_command_line() -> None:
    assert parse_output_tokens("100,0.5") == {"mean": 100.0, "sigma": 0.5}
    assert parse_fault("refuse") == {"kind": "refuse"}
    assert parse_fault("status:status=503,probability=0.1") == {"kind": "status", "status": 503, "probability": 0.1}
    wrong: list[tuple[Callable[[str], Any], str]] = [(parse_output_tokens, "100"), (parse_fault, "status:503")]
    for parse, text in wrong:
        with pytest.raises(InputError, match="expected"):
            parse(text)
