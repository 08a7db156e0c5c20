"""Laws: moments, quantiles and draws agree with each other; what is written wrongly is said in one line."""

from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.worlds.queues.distributions import parse_distribution, parse_process

LAWS: list[Any] = [
    "exponential",
    {"exponential": {"mean": 3}},
    {"gamma": {"mean": 2, "scv": 4}},
    {"gamma": {"mean": 2, "scv": 0.3}},
    {"weibull": {"mean": 1.5, "shape": 0.6}},
    {"lognormal": {"mean": 2, "scv": 3}},
    {"hyperexponential": {"mean": 1, "scv": 9}},
    {"hyperexponential": {"means": [1, 4], "shares": [0.25, 0.75]}},
    {"bounded_pareto": {"alpha": 1.2, "low": 0.5, "high": 100}},
    {"pareto": {"alpha": 3.5, "low": 1}},
    {"uniform": {"low": 1, "high": 2}},
    {"empirical": {"values": [1, 2, 2, 5]}},
    {"deterministic": {"value": 4}},
]


@pytest.mark.parametrize("spec", LAWS, ids=str)
def test_moments_partials_quantiles_and_draws_agree(spec: Any) -> None:
    law = parse_distribution(spec)
    rng = np.random.default_rng(0)
    values = law.draw(rng.random((law.uniforms, 400_000)))
    assert values.mean() == pytest.approx(law.mean, rel=0.02)
    assert law.scv == pytest.approx(law.moment(2) / law.mean**2 - 1)
    middle = float(law.quantile(np.array([0.6]))[0])
    assert float(law.cdf(np.array([middle]))[0]) >= 0.6 - 1e-9
    assert np.mean(values <= middle) == pytest.approx(float(law.cdf(np.array([middle]))[0]), abs=0.005)
    assert law.partial(1, middle) == pytest.approx(
        float(np.where(values <= middle, values, 0).mean()), rel=0.03, abs=0.01
    )
    far = float(law.quantile(np.array([1 - 1e-13]))[0])
    assert law.partial(1, far) == pytest.approx(law.mean, rel=1e-3)


@pytest.mark.parametrize(
    ("spec", "mean", "scv"),
    [
        ({"gamma": {"mean": 2, "scv": 4}}, 2, 4),
        ({"hyperexponential": {"mean": 3, "scv": 9}}, 3, 9),
        ({"lognormal": {"mean": 5, "scv": 0.5}}, 5, 0.5),
    ],
)
def test_parameters_mean_what_they_say(spec: Any, mean: float, scv: float) -> None:
    law = parse_distribution(spec)
    assert (law.mean, law.scv) == (pytest.approx(mean), pytest.approx(scv))


def test_heavy_tails_have_infinite_moments() -> None:
    assert parse_distribution({"pareto": {"alpha": 0.9, "low": 1}}).mean == inf
    law = parse_distribution({"pareto": {"alpha": 1.5, "low": 1}})
    assert (law.mean, law.moment(2), law.scv) == (pytest.approx(3.0), inf, inf)


def test_values_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "sizes.csv").write_text("seconds,other\n1,9\n3,9\n")
    law = parse_distribution({"empirical": {"file": "sizes.csv", "column": "seconds"}}, tmp_path)
    assert law.mean == 2.0
    with pytest.raises(InputError, match="2 columns; name one"):
        parse_distribution({"empirical": {"file": "sizes.csv"}}, tmp_path)
    (tmp_path / "bad.csv").write_text("seconds\n1\n-3\n")
    with pytest.raises(InputError, match="line 3: seconds must be a number that is not negative, found '-3'"):
        parse_distribution({"empirical": {"file": "bad.csv"}}, tmp_path)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("exponentail", "did you mean 'exponential'"),
        ({"gamma": {"mean": -1}}, "gamma.mean: expected"),
        ({"gamma": {"mena": 1}}, "did you mean 'mean'"),
        ({"exponential": {"mean": float("nan")}}, "finite|expected"),
        ({"hyperexponential": {"means": [1, 2], "shares": [0.5, 0.6]}}, "1 in all"),
        ({"hyperexponential": {"means": [1, 2], "shares": [1.5, -0.5]}}, "expected"),
        ({"hyperexponential": {"means": [1, 2]}}, "together"),
        ({"bounded_pareto": {"low": 5, "high": 2}}, "high must be above low"),
        ({"uniform": {"low": 5, "high": 2}}, "high must be above low"),
        ({"empirical": {}}, "either values or file"),
        ({"empirical": {"values": []}}, "at least one value"),
        (3.0, "expected a name"),
        ({"gamma": 3}, "expected parameters"),
    ],
)
def test_what_is_wrong_is_said(spec: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        parse_distribution(spec, None, "workload.service")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spec",
    [
        "poisson",
        {"gamma": {"mean": 2, "scv": 3}},
        {"mmpp": {"rates": [1, 10], "stays": [5, 1]}},
        {"burst": {"on": 1, "off": 3}},
    ],
)
def test_processes_come_at_their_rate(spec: Any) -> None:
    process = parse_process(spec)
    gaps = process.gaps(0, "arrivals", 200_000)
    assert gaps.min() >= 0
    assert 1 / gaps.mean() == pytest.approx(process.rate, rel=0.05)
    np.testing.assert_array_equal(process.gaps(0, "arrivals", 1000), gaps[:1000])  # keyed: a prefix is a prefix


def test_bursts_are_burstier_than_poisson() -> None:
    def dispersion(spec: Any) -> float:
        process = parse_process(spec)
        times = np.cumsum(process.gaps(0, "a", 100_000)) * process.rate
        counts = np.bincount(np.floor(times / 20).astype(int))
        return float(counts.var() / counts.mean())

    assert dispersion("poisson") == pytest.approx(1.0, abs=0.1)
    assert dispersion({"burst": {"on": 5, "off": 20}}) > 5


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"mmpp": {"rates": [1], "stays": [1, 2]}}, "as many stays as rates"),
        ({"mmpp": {"rates": [0, 0], "stays": [1, 2]}}, "at least one rate above 0"),
        ({"pareto": {"alpha": 0.8}}, "finite mean"),
        ({"burst": {"ratio": 2}}, "burst.ratio"),
        ("possion", "did you mean 'poisson'"),
    ],
)
def test_processes_that_are_none(spec: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_process(spec)
