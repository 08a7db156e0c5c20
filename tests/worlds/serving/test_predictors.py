"""Predictors have the quality that they promise, are keyed by request, and a wrong setting ends in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from rota.kernel.errors import InputError
from rota.kernel.streams import generator
from rota.worlds.serving.build import visible_output
from rota.worlds.serving.generate import generate
from rota.worlds.serving.predictors import Bucket, LengthHistory, Noisy, Oracle, Rank
from rota.worlds.serving.settings import load
from rota.worlds.serving.world import Serving

ROWS = 4000
LENGTHS = generate({"kind": "chat", "requests": ROWS, "rate": 1.0}, generator(0, "workload")).output_tokens.astype(
    float
)
DISTINCT = generator(1, "lengths").permutation(ROWS).astype(float) + 1.0


def case(output_tokens: Any) -> Any:
    sections = {
        "workload": {"generate": {"kind": "chat", "requests": 50}},
        "fleet": [{"model": "llama-3-8b", "gpu": "a100-80g"}],
        "information": {"output_tokens": output_tokens},
    }
    return load(sections, Path())


@pytest.mark.parametrize("tau", [-0.5, 0.0, 0.3, 0.6, 0.9])
def test_a_ranking_has_its_tau(tau: float) -> None:
    """The standard deviation of Kendall's tau of n pairs is at most sqrt(2 (1 - tau^2) / n); each seed is a sample."""
    found = [kendalltau(DISTINCT, Rank(tau).predict(DISTINCT, seed)).statistic for seed in range(8)]
    spread = np.sqrt(2.0 * (1.0 - tau**2) / ROWS / len(found))
    assert abs(np.mean(found) - tau) < 4 * spread + 1e-3


def test_a_perfect_ranking_is_the_truth_and_the_worst_its_opposite() -> None:
    assert Rank(1.0).predict(LENGTHS, 3).tolist() == LENGTHS.tolist()
    opposite = Rank(-1.0).predict(DISTINCT, 3)
    assert opposite.tolist() == (ROWS + 1 - DISTINCT).tolist()


@pytest.mark.parametrize(("k", "accuracy"), [(2, 0.5), (5, 0.2), (5, 0.7), (10, 1.0)])
def test_a_classifier_is_right_as_often_as_it_says(k: int, accuracy: float) -> None:
    bucket = Bucket(k, accuracy)
    true, medians = bucket.classes(DISTINCT)
    assert np.bincount(true).tolist() == [ROWS // k] * k  # equally full
    told = bucket.predict(DISTINCT, 5)
    right = np.mean(told == medians[true])
    assert abs(right - accuracy) <= 4 * np.sqrt(accuracy * (1 - accuracy) / ROWS)
    wrong = told[told != medians[true]]
    if accuracy < 1.0:  # any other class, all alike
        shares = np.array([(wrong == median).mean() for median in medians])
        assert np.abs(shares - 1 / k).max() < 4 * np.sqrt(0.25 / len(wrong))


def test_classes_that_coincide_are_one() -> None:
    found, medians = Bucket(4, 0.9).classes(np.array([7.0] * 30 + [9.0] * 10))
    assert medians.tolist() == [7.0, 9.0]
    assert np.bincount(found).tolist() == [30, 10]
    assert Bucket(4, 0.25).predict(np.full(9, 5.0), 0).tolist() == [5.0] * 9


def test_noise_is_lognormal_around_the_truth() -> None:
    lengths = np.full(ROWS, 100_000.0)
    logs = np.log(Noisy(0.7).predict(lengths, 2) / lengths)
    assert abs(logs.mean()) < 4 * 0.7 / np.sqrt(ROWS)
    assert abs(logs.std() - 0.7) < 4 * 0.7 / np.sqrt(2 * ROWS)
    assert Noisy(0.0).predict(LENGTHS, 2).tolist() == LENGTHS.tolist()


@pytest.mark.parametrize("predictor", [Noisy(0.5), Bucket(5, 0.6), Rank(0.5), Oracle()])
def test_seeds_decide_and_nothing_else(predictor: Any) -> None:
    one, again, other = (predictor.predict(LENGTHS, seed) for seed in (1, 1, 2))
    assert one.tolist() == again.tolist()
    assert isinstance(predictor, Oracle) or one.tolist() != other.tolist()
    assert len(predictor.predict(np.zeros(0), 1)) == 0


def test_the_scenario_names_the_estimator() -> None:
    world = Serving()
    for setting, quality, by in (
        ("hidden", "hidden", ""),
        ("exact", "exact", ""),
        ("oracle", "estimated", "an oracle"),
        ({"predicted": {"error": 0.5}}, "estimated", "lognormal error, sigma 0.5"),
        ({"noisy": {"sigma": 0.5}}, "estimated", "lognormal error, sigma 0.5"),
        ({"bucket": {"k": 5, "accuracy": 0.7}}, "estimated", "one of 5 classes, right in 70%"),
        ({"rank": {"tau": 0.6}}, "estimated", "a ranking, Kendall's tau 0.6"),
        ({"history": {}}, "estimated", "history, quantile 0.5 by tenant"),
        ({"history": {"quantile": 0.25, "by": "none"}}, "estimated", "history, quantile 0.25 of all"),
    ):
        settled = case(setting)
        visible, column = visible_output(settled, world.workload(settled, 0), 0)
        assert (column.quality, column.by) == (quality, by)
        assert (visible is None) == (setting == "hidden")
        assert by in dict(world.describe(settled))["output lengths"]


def test_before_a_run_history_knows_its_prior() -> None:
    settled = case({"history": {"prior": 77}})
    visible, _ = visible_output(settled, Serving().workload(settled, 0), 0)
    assert visible is not None
    assert visible.tolist() == [77.0] * 50


def test_the_older_form_says_the_same_as_noisy() -> None:
    world = Serving()
    draws = [
        visible_output(settled, world.workload(settled, 0), 4)[0]
        for settled in (case({"predicted": {"error": 0.8}}), case({"noisy": {"sigma": 0.8}}))
    ]
    assert draws[0] is not None
    assert draws[1] is not None
    assert draws[0].tolist() == draws[1].tolist()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"bucket": {"k": 5, "accuracy": 0.1}}, r"output_tokens.bucket: accuracy must be from 1/k = 0.2 .* found 0.1"),
        ({"bucket": {"accuracy": 1.5}}, "to 1, found 1.5"),
        ({"bucket": {"k": 1}}, r"output_tokens.bucket.k: expected 'int' >= 2, found 1"),
        ({"rank": {"tau": 1.2}}, "output_tokens.rank.tau: expected 'float' <= 1.0, found 1.2"),
        ({"rank": {"tau": -2}}, "output_tokens.rank.tau: expected 'float' >= -1.0, found -2"),
        ({"noisy": {"sigma": -0.1}}, "output_tokens.noisy.sigma: expected 'float' >= 0.0, found -0.1"),
        ({"noisy": {"error": 0.1}}, "unknown key 'error'"),
        ({"buckets": {}}, "unknown key 'buckets'; did you mean 'bucket'"),
        ({"noisy": {}, "rank": {}}, "needs exactly one of .* found noisy and rank"),
        ({}, "needs exactly one of .* found none"),
        ({"history": {"quantile": 0}}, r"output_tokens.history.quantile: expected 'float' > 0.0, found 0"),
        ({"history": {"quantile": 1}}, "output_tokens.history.quantile: expected 'float' < 1.0, found 1"),
        ({"history": {"quantile": -0.5}}, "output_tokens.history.quantile: expected 'float' > 0.0, found -0.5"),
        ({"history": {"quantile": float("inf")}}, "output_tokens.history.quantile: expected 'float' < 1.0, found inf"),
        ({"history": {"quantile": float("nan")}}, "output_tokens.history.quantile: expected 'float' .* found nan"),
        ({"history": {"quantile": "half"}}, "output_tokens.history.quantile: expected 'float', found 'half'"),
        ({"history": {"window": 0}}, "output_tokens.history.window: expected 'int' >= 1, found 0"),
        ({"history": {"window": 2.5}}, "output_tokens.history.window: expected 'int', found 2.5"),
        ({"history": {"prior": -1}}, "output_tokens.history.prior: expected 'float' > 0.0, found -1"),
        (
            {"history": {"prior": float("inf")}},
            "output_tokens.history.prior: expected 'float' <= 10000000.0, found inf",
        ),
        ({"history": {"by": "tenants"}}, "history: by: 'tenants' is no group of requests; did you mean 'tenant'"),
        ({"history": {"by": 3}}, "output_tokens.history.by: expected 'str', found 3"),
        ({"history": {"group": "tenant"}}, "output_tokens.history: unknown key 'group'"),
        ({"history": {"quantil": 0.5}}, "output_tokens.history: unknown key 'quantil'; did you mean 'quantile'"),
        ({"history": 0.5}, "output_tokens.history: expected 'object.*found 0.5"),
        ({"history": {}, "noisy": {}}, "needs exactly one of .* found noisy and history"),
        ({"hidden": None, "history": {}}, "unknown key 'hidden'"),
    ],
)
def test_a_wrong_predictor_is_one_line(setting: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        case(setting)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quantile", [0.0, 1.0, -1.0])
def test_a_history_has_a_quantile(quantile: float) -> None:
    with pytest.raises(InputError, match="quantile must be above 0 and below 1"):
        LengthHistory(quantile)


def test_history_by_hand() -> None:
    history = LengthHistory(0.5, prior=99.0, window=4)
    assert history.estimate("a") == 99.0
    for tokens in (10.0, 20.0, 30.0, 40.0):
        history.observe("a", tokens)
    assert history.estimate("a") == 20.0
    assert history.estimate("a", 20.0) == 30.0  # of 30 and 40, which are left
    assert history.estimate("a", 40.0) == 80.0  # outgrew all
    assert history.estimate("b") == 20.0  # nothing of b: all groups together
    history.observe("a", 50.0)  # the 10 falls out of the window
    assert history.estimate("a") == 30.0
    history.observe("b", 5.0)
    assert history.estimate("b") == 5.0


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    window=st.integers(1, 20),
    generated=st.integers(0, 60),
    quantile=st.floats(0.01, 0.99),
)
def test_history_is_the_quantile_of_the_survivors(
    lengths: list[int], window: int, generated: int, quantile: float
) -> None:
    history = LengthHistory(quantile, window=window)
    for tokens in lengths:
        history.observe(0, float(tokens))
    longer = sorted(tokens for tokens in lengths[-window:] if tokens > generated)
    found = history.estimate(0, generated)
    if not longer:
        assert found == 2 * generated
        return
    assert found == np.quantile(longer, quantile, method="inverted_cdf")
