"""Runtime distributions: order statistics against simulation and formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.worlds.shop.generate import instance
from rota.worlds.shop.restarts import Runtimes, starts, summary

times = st.lists(st.floats(0.01, 100.0), min_size=2, max_size=40).map(tuple)


@given(times, st.integers(1, 8))
def test_the_least_of_several_is_that_of_all_draws(sample: tuple[float, ...], count: int) -> None:
    drawn = np.random.default_rng(0).choice(sample, size=(4000, count)).min(axis=1)
    assert Runtimes(sample).least_of(count) == pytest.approx(
        drawn.mean(), abs=5 * drawn.std() / 60 + 0.01 * max(sample)
    )
    assert Runtimes(sample).least_of(1) == pytest.approx(np.mean(sample))


def test_the_shifted_exponential_is_found_again() -> None:
    sample = 2.0 + np.random.default_rng(1).exponential(4.0, 5000)
    shift, rate = Runtimes(tuple(sample)).exponential()
    assert shift == pytest.approx(2.0, abs=0.01)
    assert rate == pytest.approx(0.25, rel=0.05)
    assert Runtimes(tuple(sample)).predicted_speed_up(8) == pytest.approx(6.0 / 2.5, rel=0.05)
    assert Runtimes(tuple(sample)).speed_up(8) == pytest.approx(6.0 / 2.5, rel=0.05)
    assert Runtimes(tuple(sample)).predicted_speed_up(10_000) < 3.01  # never above 1 + 1 / (x0 rate)


def test_when_to_begin_again() -> None:
    """Of ten runs nine are there at once and one takes a thousand: give up after 1. An exponential law has no memory: it hardly matters."""
    assert Runtimes((1.0,) * 9 + (1000.0,)).restart() == (1.0, pytest.approx(1.0 + 1.0 / 9.0))
    assert Runtimes((5.0, 5.0, 5.0)).restart()[0] == float("inf")
    sample = tuple(np.random.default_rng(2).exponential(4.0, 5000))
    assert Runtimes(sample).restart()[1] == pytest.approx(np.mean(sample), rel=0.05)


def test_starts_of_a_solver() -> None:
    best, runtimes, goal = starts(instance("ft10"), "tabu", 4, work=20_000)
    assert len(runtimes.times) == 4
    assert best.value is not None
    assert best.value <= goal
    lines = summary(runtimes, goal, "moves")
    assert f"4 starts reached {goal}" in lines[0]
    assert "2: " in lines[1]


def test_mistakes() -> None:
    with pytest.raises(InputError, match="need at least two times"):
        Runtimes((1.0,))
    with pytest.raises(InputError, match="starts: must be at least 2, found 1"):
        starts(instance("ft06"), "tabu", 1, work=10)
