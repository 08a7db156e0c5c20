"""Programs come in a rhythm: rate and variation are those of closed forms, and what comes is the same in every rhythm."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.study.scenario import parse
from rota.worlds.serving.arrivals import Process, Rhythm, Variation
from rota.worlds.serving.model import Workload
from rota.worlds.serving.programs import ProgramSpec, draw_programs
from rota.worlds.serving.reasoning import ReasoningSpec, draw_reasoning

COUNT, RATE = 20_000, 2.0


def drawn(seed: int = 3, count: int = COUNT, **keys: Any) -> Workload:
    return draw_programs(ProgramSpec(kind="best_of", count=count, rate=RATE, width=1, **keys), rng(seed))


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def gaps(work: Workload) -> tuple[float, float]:
    """Mean, and standard deviation over mean."""
    found = np.diff(work.arrival)
    return float(found.mean()), float(found.std() / found.mean())


def test_programs_are_poisson_unless_they_say_more() -> None:
    work = drawn()
    np.testing.assert_array_equal(work.arrival, np.cumsum(rng(3).exponential(1 / RATE, COUNT)))
    mean, cv = gaps(work)
    assert mean == pytest.approx(1 / RATE, rel=0.03)
    assert cv == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize("cv", [0.3, 2.0, 4.0])
def test_gaps_have_their_mean_and_variation(cv: float) -> None:
    mean, found = gaps(drawn(cv=cv))
    assert mean == pytest.approx(1 / RATE, rel=4 * cv / COUNT**0.5)
    assert found == pytest.approx(cv, rel=0.06)


@pytest.mark.parametrize(("cv", "seconds"), [(1.0, 5.0), (2.0, 2.0)])
def test_bursts_are_an_interrupted_poisson_process(cv: float, seconds: float) -> None:
    """Its gaps are hyperexponential (Kuczura 1973): cv^2 = 1 + 2 a w / (w + v)^2 with a requests a second in bursts that end at w and begin at v a second.

    Here a = r (1 + c^2), w + v = 1 / s and w = c^2 / ((1 + c^2) s), so that it is 1 + 2 r c^2 s. The seeds together are 100,000 programs.
    """
    found = np.concatenate([np.diff(drawn(seed, variation=Variation(cv, seconds)).arrival) for seed in range(5)])
    assert found.std() / found.mean() == pytest.approx((1 + 2 * RATE * cv**2 * seconds) ** 0.5, rel=0.05)
    assert found.mean() == pytest.approx(1 / RATE, rel=0.08)


def test_a_day_has_its_peak_at_14() -> None:
    work = drawn(profile="day", day_seconds=1000.0, peak_to_trough=5.0)
    hours = np.bincount((work.arrival % 1000.0 / 1000.0 * 24).astype(int), minlength=24)
    assert hours.argmax() in (13, 14)
    assert hours.max() / hours.min() == pytest.approx(5.0, rel=0.2)


@given(
    rhythm=st.fixed_dictionaries(
        {},
        optional={
            "cv": st.floats(0.01, 20.0),
            "variation": st.builds(Variation, st.floats(0.1, 5.0), st.floats(0.5, 50.0)),
            "profile": st.sampled_from(["constant", "day"]),
        },
    ),
    kind=st.sampled_from(["chain", "fan_out", "best_of"]),
    seed=st.integers(0, 2**32),
)
def test_what_comes_does_not_depend_on_when(rhythm: dict[str, Any], kind: Any, seed: int) -> None:
    common: dict[str, Any] = {"kind": kind, "count": 7, "rate": 3.0, "tools": 3, "tool_sigma": 1.0, "calls": 3.0}
    plain, other = (draw_programs(ProgramSpec(**common, **keys), rng(seed)) for keys in ({}, rhythm))
    assert plain.programs is not None
    assert other.programs is not None
    for mine, theirs in (
        (plain.prompt_tokens, other.prompt_tokens),
        (plain.output_tokens, other.output_tokens),
        (plain.programs.delay, other.programs.delay),
        (plain.programs.parents, other.programs.parents),
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert (other.arrival >= 0).all()
    assert (np.diff(other.arrival) >= 0).all()
    again = draw_programs(ProgramSpec(**common, **rhythm), rng(seed))
    np.testing.assert_array_equal(other.arrival, again.arrival)


def test_programs_that_reason_come_in_bursts_too() -> None:
    spec = ReasoningSpec("samples", 4000, RATE, rounds=1.0, variation=Variation(2.0, 2.0))
    work = draw_reasoning((spec,), rng(5))
    np.testing.assert_array_equal(
        work.arrival, Process(RATE, variation=Variation(2.0, 2.0)).first(4000, rng(5).spawn(1)[0])
    )
    assert gaps(work)[1] == pytest.approx((1 + 2 * RATE * 4.0 * 2.0) ** 0.5, rel=0.2)


def scenario(**keys: Any) -> Any:
    document = {
        "world": "serving",
        "workload": {"programs": {"kind": "chain", "count": 9, "rate": 1.0, **keys}},
        "fleet": [{"model": "llama-3.1-8b", "gpu": "h100"}],
        "policies": [{"name": "a"}, {"name": "b", "order": "plas"}],
        "seeds": [0, 1],
    }
    return parse(document, Path())


def test_a_seed_has_the_same_programs_under_every_policy() -> None:
    made = scenario(cv=4.0)
    first, second, other = (made.world.workload(made.case, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.arrival, second.arrival)
    assert not np.array_equal(first.arrival[:3], other.arrival[:3])
    roots = first.programs.roots
    for policy in made.policies:
        rows = made.world.run(made.case, first, policy, 0).outcomes
        np.testing.assert_array_equal(rows["arrival"][roots], first.arrival[roots])


def test_a_report_says_how_programs_come() -> None:
    assert Rhythm().words() == "Poisson"
    made = scenario(variation={"cv": 2, "seconds": 30}, profile="day")
    said = dict(made.world.describe(made.case))["workload"]
    assert "9 programs, chain, rate of cv 2 over 30 s, a day of 86400 s, peak to trough 3" in said
    assert "chain, gaps of cv 4," in dict(made.world.describe(scenario(cv=4).case))["workload"]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"cv": 0}, r"workload.programs.cv: expected 'float' >= 0.001, found 0$"),
        ({"cv": float("nan")}, "workload.programs.cv: .*found nan"),
        ({"variation": "fitted"}, "workload.programs.variation: .*'fitted'"),
        ({"variation": {"cv": 2}}, "workload.programs.variation: missing the key 'seconds'"),
        ({"variation": {"cv": 2, "secnds": 1}}, "unknown key 'secnds'; did you mean 'seconds'"),
        ({"variation": {"cv": 2, "seconds": float("inf")}}, "variation.seconds: .*found inf"),
        ({"variation": {"cv": 2, "seconds": 1e-9}}, "the rate changes .* times .* choose longer seconds of variation"),
        ({"profile": "week"}, "workload.programs.profile: .*'week'"),
        ({"profile": "day", "day_seconds": 1e-9}, "the rate changes .* times .* a longer day_seconds"),
        ({"peak_to_trough": 0.5}, "workload.programs.peak_to_trough: expected 'float' >= 1.0, found 0.5"),
        ({"variaton": {"cv": 2, "seconds": 1}}, "unknown key 'variaton'; did you mean 'variation'"),
    ],
)
def test_mistakes_are_one_line(keys: dict[str, Any], says: str) -> None:
    def check() -> None:
        made = scenario(**keys)
        made.world.workload(made.case, 0)

    with pytest.raises(InputError, match=says) as caught:
        check()
    assert "\n" not in str(caught.value)
