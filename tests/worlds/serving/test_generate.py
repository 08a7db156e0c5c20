"""Generated workloads look like the traces they were fitted to, keep what they promise, and explain mistakes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.worlds.serving.generate import generate
from rota.worlds.serving.kinds import KINDS
from rota.worlds.serving.read import read_trace

SOURCES = {
    "chat": "azure2023/AzureLLMInferenceTrace_conv.csv.gz",
    "code": "azure2023/AzureLLMInferenceTrace_code.csv.gz",
    "summarise": "vidur_lengths/arxiv_summarization_lengths.csv.gz",
    "burst": "vidur_lengths/sharegpt_val_10k_lengths.csv.gz",
}
MIX = {
    "kind": "mix",
    "rate": 8.0,
    "requests": 3000,
    "mix": [{"kind": "chat", "share": 3}, {"kind": "code", "tenant": "dev"}],
}


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", list(KINDS))
def test_sizes_are_those_of_the_trace(shared_data: Path, kind: str) -> None:
    """Kolmogorov-Smirnov distance below 0.02; mean within 3 %; quantiles within 1.5 % of the ranks around them."""
    trace = read_trace(shared_data / "traces" / SOURCES[kind])
    made = generate({"kind": kind, "requests": 100_000}, rng())
    for column in ("prompt_tokens", "output_tokens"):
        told, drawn = np.sort(getattr(trace, column)), np.sort(getattr(made, column))
        at = np.unique(told)
        distance = np.abs(
            np.searchsorted(told, at, "right") / len(told) - np.searchsorted(drawn, at, "right") / len(drawn)
        ).max()
        assert distance < 0.02, column
        assert drawn.mean() == pytest.approx(told.mean(), rel=0.03), column
        for rank in (0.1, 0.25, 0.5, 0.75, 0.9, 0.97):
            low, high = np.quantile(told, [rank - 0.015, rank + 0.015])
            assert low - 1 <= np.quantile(drawn, rank) <= high + 1, (column, rank)


@pytest.mark.parametrize("kind", ["chat", "code"])
def test_arrivals_are_as_bursty_as_the_trace(shared_data: Path, kind: str) -> None:
    trace = read_trace(shared_data / "traces" / SOURCES[kind])
    made = generate({"kind": kind, "duration": 100_000}, rng())
    assert len(made) / 100_000 == pytest.approx(len(trace) / trace.arrival[-1], rel=0.06)
    for window in (1.0, 10.0, 60.0):
        told, drawn = (np.histogram(each.arrival, np.arange(0, each.arrival[-1], window))[0] for each in (trace, made))
        assert drawn.var() / drawn.mean() == pytest.approx(told.var() / told.mean(), rel=0.25), window


def test_requests_and_duration_are_kept() -> None:
    assert len(generate({"kind": "chat", "requests": 777}, rng())) == 777
    for sessions in (None, {"turns": 3}):
        made = generate({"kind": "chat", "duration": 500, "sessions": sessions}, rng())
        assert made.arrival[-1] <= 500
    assert len(generate({"kind": "chat", "requests": 777, "sessions": {"turns": 3}}, rng())) == 777


def test_same_generator_same_bits() -> None:
    for spec in (MIX, {"kind": "chat", "requests": 500, "sessions": {}}, {"kind": "code", "duration": 300}):
        one, two = generate(spec, rng(3)), generate(spec, rng(3))
        for name in ("arrival", "prompt_tokens", "output_tokens", "tenant", "session"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert generate(MIX, rng(3)).arrival[0] != generate(MIX, rng(4)).arrival[0]


def test_rate_and_cv_are_parameters() -> None:
    made = generate({"kind": "code", "requests": 50_000, "rate": 20, "cv": 0.5}, rng())
    gaps = np.diff(made.arrival)
    assert gaps.mean() == pytest.approx(0.05, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(0.5, rel=0.03)
    even = generate({"kind": "code", "requests": 50_000, "variation": "none"}, rng())
    gaps = np.diff(even.arrival)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.03)


def test_a_mix_names_its_tenants_and_keeps_its_shares() -> None:
    made = generate(MIX, rng())
    assert made.tenants == ("chat", "dev")
    assert np.bincount(made.tenant).tolist() == [2250, 750]
    assert np.all(np.diff(made.arrival) >= 0)
    assert made.prefix is None


def test_a_part_does_not_change_the_others_luck() -> None:
    other = {**MIX, "mix": [{"kind": "chat", "share": 3}, {"kind": "summarise", "tenant": "dev"}]}
    one, two = generate(MIX, rng()), generate(other, rng())
    np.testing.assert_array_equal(one.arrival[one.tenant == 0], two.arrival[two.tenant == 0])


def test_sessions_grow_and_share_their_blocks() -> None:
    made = generate({"kind": "chat", "requests": 2000, "sessions": {"turns": 4, "system_tokens": 100}}, rng())
    assert made.prefix is not None
    offsets, ids = made.prefix.offsets, made.prefix.ids
    np.testing.assert_array_equal(np.diff(offsets), made.prompt_tokens // 16)
    assert set(ids.tolist()) == set(range(ids.max() + 1))
    assert made.prompt_tokens.min() > 100
    last: dict[int, int] = {}
    for row in range(len(made)):
        blocks = ids[offsets[row] : offsets[row + 1]]
        assert blocks[:6].tolist() == list(range(6))  # 100 // 16 blocks of system prompt, the same for all
        before = last.get(int(made.session[row]))
        if before is not None:
            old = ids[offsets[before] : offsets[before + 1]]
            np.testing.assert_array_equal(blocks[: len(old)], old)
            assert made.prompt_tokens[row] > made.prompt_tokens[before] + made.output_tokens[before]
        last[int(made.session[row])] = row
    assert len(made) / len(last) == pytest.approx(4, rel=0.15)
    first = np.unique(made.session, return_index=True)[1]
    others = set(ids[offsets[first[0]] + 6 : offsets[first[0] + 1]]) & set(
        ids[offsets[first[1]] + 6 : offsets[first[1] + 1]]
    )
    assert not others


def test_a_mix_with_sessions_has_blocks_for_them_only() -> None:
    parts = [{"kind": "code"}, {"kind": "chat", "sessions": {}}, {"kind": "chat", "tenant": "b", "sessions": {}}]
    made = generate({"kind": "mix", "rate": 5, "requests": 600, "mix": parts}, rng())
    assert made.prefix is not None
    np.testing.assert_array_equal(np.diff(made.prefix.offsets)[made.tenant == 0], 0)
    np.testing.assert_array_equal(
        np.diff(made.prefix.offsets)[made.tenant > 0], made.prompt_tokens[made.tenant > 0] // 16
    )
    assert made.session[made.tenant == 0].max() == -1
    owners = [set(made.session[made.tenant == each]) for each in (1, 2)]
    assert not owners[0] & owners[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "chatt", "requests": 1}, "workload.generate.kind: unknown kind 'chatt'; did you mean 'chat'"),
        ({"kind": "chat", "request": 1}, "workload.generate: unknown key 'request'; did you mean 'requests'"),
        ("chat", "needs exactly one of requests and duration .* found neither"),
        ({"kind": "chat", "requests": 1, "duration": 1}, "found both"),
        ({"kind": "chat", "requests": 0}, "requests: expected 'int' >= 1, found 0"),
        ({"kind": "chat", "requests": 1, "rate": -1}, "rate: expected 'float' > 0.0, found -1"),
        ({"kind": "chat", "duration": float("inf")}, "workload.generate.duration: must be finite, found inf"),
        ({"kind": "chat", "duration": 1e12}, "asks for more than 200,000,000 requests"),
        ({"kind": "chat", "duration": 1e-9}, "not one request arrives within duration"),
        ({"kind": "chat", "requests": 1, "profile": "week"}, "profile: invalid enum value 'week'"),
        (
            {"kind": "chat", "requests": 1, "sessions": {"turn": 2}},
            "sessions: unknown key 'turn'; did you mean 'turns'",
        ),
        ({"kind": "mix", "requests": 1}, "kind mix and a list mix"),
        ({"kind": "chat", "requests": 1, "mix": [{"kind": "chat"}]}, "kind mix and a list mix"),
        ({"kind": "mix", "requests": 1, "mix": [{"kind": "chat"}]}, "a mix needs rate"),
        ({**MIX, "cv": 2.0}, "workload.generate.cv: belongs to each part of the mix"),
        (
            {**MIX, "mix": [{"kind": "cod"}]},
            r"workload.generate.mix\[0\].kind: unknown kind 'cod'; did you mean 'code'",
        ),
        ({**MIX, "mix": [{"kind": "code", "shar": 1}]}, r"mix\[0\]: unknown key 'shar'; did you mean 'share'"),
    ],
)
def test_mistakes(spec: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        generate(spec, rng())
    assert "\n" not in str(caught.value)


def test_groups_of_sessions_share_a_system_prompt_each() -> None:
    """Zipf: of 8 groups at power 1 the first has 1 / (1 + 1/2 + ... + 1/8) = 36.8 % of the sessions, the second half of that."""
    spec = {"kind": "chat", "requests": 20_000, "sessions": {"turns": 1.0, "system_tokens": 64, "groups": 8}}
    prefix = generate(spec, rng()).prefix
    assert prefix is not None
    first = prefix.ids[prefix.offsets[:-1]]
    assert np.unique(first).tolist() == [0, 4, 8, 12, 16, 20, 24, 28], "four blocks of 16 tokens each"
    share = np.bincount(first, minlength=29)[::4] / len(first)
    harmonic = (1 / np.arange(1, 9)).sum()
    assert share == pytest.approx(1 / np.arange(1, 9) / harmonic, abs=0.011)  # three standard deviations
    longer = np.diff(prefix.offsets) > 4
    own = prefix.ids[prefix.offsets[:-1][longer] + 4]
    assert own.min() >= 32
    assert len(np.unique(own)) == len(own), "what follows is each session's own"


def test_one_group_is_drawn_as_before() -> None:
    spec = {"kind": "chat", "requests": 500, "sessions": {"turns": 3.0, "system_tokens": 64}}
    plain, grouped = generate(spec, rng()), generate(spec | {"sessions": spec["sessions"] | {"groups": 4}}, rng())  # type: ignore[operator]
    assert np.array_equal(plain.arrival, grouped.arrival)
    assert np.array_equal(plain.prompt_tokens, grouped.prompt_tokens)
    assert plain.prefix is not None
    assert plain.prefix.ids[plain.prefix.offsets[:-1]].tolist() == [0] * 500
