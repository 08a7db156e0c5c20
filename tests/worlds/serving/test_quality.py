"""Quality and dollars: drawn and read as said, the published choice by hand, parts that add up to the whole, wrong settings told."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.kernel.tables import Hosts, Jobs
from rota.study.scenario import Scenario, parse
from rota.testing.conformance import ConformanceSuite, Subject
from rota.worlds.serving.columns import SERVING_HOST_COLUMNS, SERVING_JOB_COLUMNS
from rota.worlds.serving.policies.carrot import BestModel, Carrot
from rota.worlds.serving.policies.mode_switch import ModeSwitch
from rota.worlds.serving.quality import QualitySpec, draw_quality

MODELS = ("llama-3-8b", "llama-3-70b")
MEANS = {"llama-3-8b": 0.6, "llama-3-70b": 0.85}
PRICES = {"llama-3-8b": {"input": 0.05, "output": 0.08}, "llama-3-70b": {"input": 0.6, "output": 0.8}}


class TestRoutes(ConformanceSuite):
    subjects: ClassVar = {
        policy.__name__: Subject(
            policy, "place", job_columns=SERVING_JOB_COLUMNS, host_columns=SERVING_HOST_COLUMNS, world="serving"
        )
        for policy in (Carrot, BestModel, ModeSwitch)
    }


def scenario(tmp_path: Path, **changes: Any) -> Scenario:
    document = {
        "world": "serving",
        "workload": {"generate": {"kind": "burst", "requests": 600, "rate": 6.0, "variation": "none"}},
        "fleet": [
            {"model": "llama-3-8b", "gpu": "a100-80g", "count": 2},
            {"model": "llama-3-70b", "gpu": "a100-80g", "tp": 4},
        ],
        "quality": {"models": MEANS},
        "token_prices": PRICES,
        "policies": [{"name": "any"}],
    }
    given = document | changes
    return parse({name: value for name, value in given.items() if value is not None}, tmp_path)


def run(given: Scenario, policy: dict[str, Any]) -> Any:
    named = {"name": "it", **policy}
    assert given.world.resolve(given.case, named, given.folder) is None
    return given.world.run(given.case, given.world.workload(given.case, 0), named, 0)


# -- what is drawn ------------------------------------------------------------------------------------------------


def test_drawn_qualities_have_their_means_and_agree() -> None:
    rows = 40_000
    nested = draw_quality(QualitySpec(MEANS, agreement=1.0), MODELS, rows, Path(), 0)
    apart = draw_quality(QualitySpec(MEANS, agreement=0.0), MODELS, rows, Path(), 0)
    for drawn in (nested, apart):
        assert np.abs(drawn.true.mean(axis=1) - list(MEANS.values())).max() < 0.012
        assert np.array_equal(drawn.predicted, drawn.true)
    assert (nested.true[0] <= nested.true[1]).all()  # what the small one can, the large one can
    assert (apart.true[0] * (1 - apart.true[1])).mean() == pytest.approx(0.6 * 0.15, abs=0.01)


def test_a_prediction_without_skill_knows_the_mean_only() -> None:
    drawn = draw_quality(QualitySpec(MEANS, skill=0.0), MODELS, 100, Path(), 0)
    assert np.allclose(drawn.predicted, [[0.6], [0.85]])
    noisy = draw_quality(QualitySpec(MEANS, skill=0.5, sigma=0.1), MODELS, 40_000, Path(), 0)
    assert 0.05 < np.std((noisy.predicted - (0.6 + 0.5 * (noisy.true - 0.6)))[0]) < 0.11
    assert noisy.predicted.min() >= 0
    assert noisy.predicted.max() <= 1


def test_a_table_gives_its_rows(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("small,llama-3-70b\n0,1\n1,0.5\n")
    spec = QualitySpec(table="scores.csv", columns={"llama-3-8b": "small"})
    drawn = draw_quality(spec, MODELS, 2000, tmp_path, 0)
    assert {tuple(pair) for pair in drawn.true.T.tolist()} == {(0.0, 1.0), (1.0, 0.5)}
    assert abs(drawn.true[0].mean() - 0.5) < 0.05


# -- the choice ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mu", "first"), [(0.0, 0), (0.4, 0), (0.8, 1), (1.0, 1)])
def test_carrot_by_hand(mu: float, first: int) -> None:
    """Cheap 0.6 at 1 dollar, dear 0.9 at 10: worth 0.6 mu - 0.1 (1 - mu) and 0.9 mu - (1 - mu), equal at mu = 0.75."""
    values = {"quality": [0.6, 0.9, 0.6], "dollars": [1.0, 10.0, 1.0], "outstanding": [5, 0, 9]}
    hosts = Hosts(values, SERVING_HOST_COLUMNS.values(), rows=3)
    costs = Carrot(mu).costs(Jobs({}, rows=1), hosts, 0.0)
    assert int(costs.argmin()) == first
    assert costs[2] - costs[0] == 4.0  # of one model, the one with less to do


def test_carrot_has_the_best_trade_of_all(tmp_path: Path) -> None:
    """With perfect predictions: mu 1 is as good as the best of both models, mu 0 as cheap as the small one, and in between lies in between."""
    given = scenario(tmp_path)
    large = run(given, {"route": "best_model"}).metrics
    cheap, best = (run(given, {"route": {"carrot": {"mu": mu}}}).metrics for mu in (0.0, 1.0))
    middle = run(given, {"route": {"carrot": {"mu": 0.7}}})
    assert best["quality_mean"] == large["quality_mean"] > 0.85
    assert cheap["dollars_mean"] < middle.metrics["dollars_mean"] < best["dollars_mean"]
    assert middle.metrics["quality_mean"] > cheap["quality_mean"] + 0.1
    blind = run(scenario(tmp_path, quality={"models": MEANS, "skill": 0.0}), {"route": {"carrot": {"mu": 0.7}}}).metrics
    assert blind["quality_mean"] < middle.metrics["quality_mean"]


def test_requests_keep_to_the_models_that_they_accept(tmp_path: Path) -> None:
    given = scenario(tmp_path, models={"shares": {"llama-3-8b": 1.0, "llama-3-8b|llama-3-70b": 1.0}})
    rows = run(given, {"route": {"carrot": {"mu": 1.0}}}).outcomes
    assert (rows["model"][rows["asked_model"] == "llama-3-8b"] == "llama-3-8b").all()
    assert "llama-3-70b" in rows["model"].tolist()


def test_mode_switch_by_hand() -> None:
    """Cheap ones at 1 dollar for speed 1, dear ones at 4 for speed 2: cheap while one has less than 8 of its 10 slots taken."""
    base = {"price": [1.0, 1.0, 4.0], "speed": [1.0, 1.0, 2.0], "max_running": [10, 10, 10], "up": [1, 1, 1]}
    for outstanding, first in (([7, 9, 0], 0), ([9, 9, 0], 2), ([9, 9, 19], 0), ([9, 9, 17], 2)):
        hosts = Hosts({**base, "outstanding": outstanding}, SERVING_HOST_COLUMNS.values(), rows=3)
        assert int(ModeSwitch().costs(Jobs({}, rows=1), hosts, 0.0).argmin()) == first
    hosts = Hosts({**base, "up": [0, 0, 1], "outstanding": [0, 0, 5]}, SERVING_HOST_COLUMNS.values(), rows=3)
    assert ModeSwitch().costs(Jobs({}, rows=1), hosts, 0.0)[2] < np.inf  # the only one that is up


# -- dollars ------------------------------------------------------------------------------------------------------


def test_dollars_at_token_prices(tmp_path: Path) -> None:
    found = run(scenario(tmp_path), {})
    rows = found.outcomes
    small = rows["replica"] < 2
    price = np.where(small, 0.05, 0.6) * rows["prompt_tokens"] + np.where(small, 0.08, 0.8) * rows["output_tokens"]
    assert rows["dollars"] == pytest.approx(price * 1e-6)
    assert found.metrics["dollars_mean"] == pytest.approx(price.mean() * 1e-6)


def test_dollars_by_gpu_hours_add_up(tmp_path: Path) -> None:
    """Also with a replica that serves nobody: nothing goes to the dear one, and what it costs is paid all the same."""
    given = scenario(tmp_path, token_prices=None, quality=None, models={"shares": {"llama-3-8b": 1.0}})
    found = run(given, {})
    assert (found.outcomes["replica"] < 2).all()
    assert np.nansum(found.outcomes["dollars"]) == pytest.approx(found.metrics["cost"])
    hours = found.metrics["gpu_hours"]
    assert found.metrics["cost"] == pytest.approx(3.67 * hours)


def test_no_price_no_dollars(tmp_path: Path) -> None:
    fleet = [{"model": "llama-3-8b", "gpu": "h100"}]
    found = run(scenario(tmp_path, fleet=fleet, token_prices=None, quality=None), {})
    assert "dollars" not in found.outcomes
    assert np.isnan(found.metrics["cost"])
    for objective in ("cost", "cost_per_million_tokens", "dollars_mean"):
        with pytest.raises(InputError, match=r"needs prices, and fleet\[0\] \(h100\) has none; give it price"):
            scenario(tmp_path, fleet=fleet, token_prices=None, quality=None, objective=objective)
    scenario(tmp_path, fleet=[{**fleet[0], "price": 2.0}], token_prices=None, quality=None, objective="cost")
    scenario(tmp_path, fleet=fleet, quality=None, objective="dollars_mean")


@pytest.mark.parametrize(
    ("policy", "changes", "message"),
    [
        ({"route": "carrot"}, {"quality": None}, "give the section quality"),
        ({"route": "carrot"}, {"token_prices": None}, "give the section token_prices"),
        (
            {"route": "mode_switch"},
            {"fleet": [{"model": "llama-3-8b", "gpu": "h100"}], "quality": None},
            "it reads price, and",
        ),
    ],
)
def test_who_needs_more_than_there_is(tmp_path: Path, policy: Any, changes: dict[str, Any], message: str) -> None:
    given = scenario(tmp_path, **changes)
    reason = given.world.resolve(given.case, {"name": "it", **policy}, tmp_path)
    assert reason is not None
    assert message in reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quality": {}}, "quality: give one of"),
        ({"quality": {"models": {"llama-3-8b": 0.5}}}, "quality.models: model 'llama-3-70b' of the fleet has none"),
        ({"quality": {"models": {**MEANS, "llama-3-8b": 1.5}}}, "quality.models"),
        (
            {"token_prices": {"llama-3-8b": {"input": 1.0, "output": 1.0}}},
            "token_prices: model 'llama-3-70b' of the fleet has none",
        ),
        ({"token_prices": {**PRICES, "llama-3-8b": {"input": -1.0, "output": 1.0}}}, "token_prices.llama-3-8b.input"),
        ({"token_prices": {**PRICES, "llama-3-8b": {"in": 1.0, "output": 1.0}}}, "unknown key 'in'"),
    ],
)
def test_wrong_settings(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    if changes.get("quality") == {}:
        changes = {"quality": {"skill": 1.0}}
    with pytest.raises(InputError, match=message):
        scenario(tmp_path, **changes)


def test_a_wrong_table(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("llama-3-8b,llama-3-70\n0,1\n1,2\n")
    given = scenario(tmp_path, quality={"table": "scores.csv"})
    with pytest.raises(InputError, match="has no column 'llama-3-70b'; did you mean 'llama-3-70'"):
        run(given, {})
    given = scenario(tmp_path, quality={"table": "scores.csv", "columns": {"llama-3-70b": "llama-3-70"}})
    with pytest.raises(InputError, match="must be from 0 to 1"):
        run(given, {})
