"""Keyed draws do not depend on the order or the company in which they are drawn."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.streams import exponential, generator, normal, stream_key, uniform

IDS = st.lists(st.integers(0, 2**40), min_size=1, max_size=20)


@given(st.integers(0, 2**63), IDS, st.integers(0, 100))
def test_a_draw_depends_on_its_key_only(seed: int, ids: list[int], ordinal: int) -> None:
    together = uniform(seed, "sizes", ids, ordinal)
    alone = [float(uniform(seed, "sizes", each, ordinal)) for each in ids]
    assert together.tolist() == alone
    assert np.all((together > 0) & (together < 1))


def test_streams_seeds_and_ordinals_differ() -> None:
    draws = [
        uniform(1, "a", range(100)),
        uniform(2, "a", range(100)),
        uniform(1, "b", range(100)),
        uniform(1, "a", range(100), 1),
    ]
    assert len(np.unique(np.concatenate(draws))) == 400
    assert np.abs(np.asarray(np.corrcoef(draws))[np.triu_indices(4, 1)]).max() < 0.4  # 4 standard errors of 100 pairs


def test_known_values_do_not_change_with_the_hash_seed() -> None:
    assert stream_key(0, "arrivals") == 5663363257077252906
    assert (
        generator(0, "arrivals").integers(1000, size=3).tolist()
        == generator(0, "arrivals").integers(1000, size=3).tolist()
    )


def test_moments_lie_within_four_standard_errors() -> None:
    rows = 100_000
    assert abs(uniform(3, "u", np.arange(rows)).mean() - 0.5) < 4 * np.sqrt(1 / 12 / rows)
    assert abs(exponential(3, "e", np.arange(rows)).mean() - 1.0) < 4 / np.sqrt(rows)
    drawn = normal(3, "n", np.arange(rows))
    assert abs(drawn.mean()) < 4 / np.sqrt(rows)
    assert abs(drawn.var() - 1.0) < 4 * np.sqrt(2 / rows)
