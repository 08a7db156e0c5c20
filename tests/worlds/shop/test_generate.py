"""Published instances bit for bit, and what the random ones promise."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.worlds.shop.best_known import best_known
from rota.worlds.shop.bounds import lower_bound
from rota.worlds.shop.generate import canonical, instance, names, synthetic
from rota.worlds.shop.generate.published import taillard_durations
from rota.worlds.shop.model import Problem
from rota.worlds.shop.read import read
from rota.worlds.shop.solve import solve
from rota.worlds.shop.verify import verify


def same(first: Problem, second: Problem) -> bool:
    """Whether two job shops have the same machines and durations."""
    a, b = first.as_job_shop(), second.as_job_shop()
    assert a is not None
    assert b is not None
    return np.array_equal(a.machine, b.machine) and np.array_equal(a.duration, b.duration)


@pytest.mark.parametrize(
    "family", [*(f"ta{k:02}" for k in range(1, 81)), *(f"dmu{k:02}" for k in range(1, 41) if k != 29)]
)
def test_job_shops_equal_the_public_files(family: str, shared_data: Path) -> None:
    assert same(instance(family), read(shared_data / f"shop/jsp/{family}.txt"))


def test_dmu29_differs_by_one_in_one_duration(shared_data: Path) -> None:
    ours, theirs = instance("dmu29").as_job_shop(), read(shared_data / "shop/jsp/dmu29.txt").as_job_shop()
    assert ours is not None
    assert theirs is not None
    assert np.array_equal(ours.machine, theirs.machine)
    assert sorted(np.abs(ours.duration - theirs.duration).ravel().tolist())[-2:] == [0, 1]
    assert "differs by 1" in instance("dmu29").source


@pytest.mark.parametrize("name", ["ft06", "ft10", "ft20", "la01", "la02", "la03", "la04", "la05"])
def test_classic_shops_equal_the_public_files(name: str, shared_data: Path) -> None:
    assert same(instance(name), read(shared_data / f"shop/jsp/{name}.txt"))


def test_flow_shops_have_the_published_seeds(shared_data: Path) -> None:
    """All 120: each from the seed of the public list, durations machine by machine."""
    rows = json.loads((shared_data / "shop/generator_seeds.json").read_text())["pfsp"]
    assert len(rows) == 120
    for row in rows:
        view = instance(row["instance"]).as_job_shop(allow=("permutation",))
        assert view is not None
        assert np.array_equal(view.duration, taillard_durations(row["machines"], row["jobs"], row["time_seed"]).T)
        known = best_known(row["instance"])
        assert known is not None
        assert known.upper == row["best_known_makespan"]


def test_the_first_numbers_of_the_generator() -> None:
    """The first job of ta01 as printed in the paper's instances."""
    view = instance("ta01").as_job_shop()
    assert view is not None
    assert view.machine[0].tolist() == [6, 12, 4, 7, 3, 2, 10, 11, 8, 14, 9, 13, 5, 0, 1]
    assert view.duration[0].tolist() == [94, 66, 10, 53, 26, 15, 65, 82, 10, 27, 93, 92, 96, 70, 83]


def test_open_shops_have_their_published_bounds() -> None:
    """The trivial bound of taos01..taos10 (4 x 4) lies below the known optimum, and CP-SAT proves the first: 193."""
    for number in range(1, 11):
        known = best_known(f"taos{number:02}")
        assert known is not None
        assert known.upper is not None
        assert lower_bound(instance(f"taos{number:02}")).value <= known.upper
    assert solve(instance("taos01"), "cpsat", seconds=30, workers=1).value == 193


@pytest.mark.parametrize(
    ("given_name", "found"),
    [("TA1", "ta01"), ("tafs7", "tafs007"), ("ft06:blocking", "ft06:blocking"), ("ta81", None), ("x", None)],
)
def test_names(given_name: str, found: str | None) -> None:
    assert canonical(given_name) == found


def test_every_name_gives_an_instance() -> None:
    for name in names()[::17]:
        assert instance(name).name == name
    with pytest.raises(InputError, match="instance 'ta081' is not known"):
        instance("ta081")
    with pytest.raises(InputError, match="variant 'blockng' does not exist; did you mean 'blocking'"):
        instance("ft06:blockng")


@given(st.integers(1, 30), st.integers(0, 10_000))
def test_tardiness_instances(jobs: int, seed: int) -> None:
    """Durations in 1..100, due dates in the window that tightness and range give, the same for the same seed."""
    view = synthetic.tardiness(jobs, seed=seed, tightness=0.6, range_of_due=0.4).as_single_machine()
    again = synthetic.tardiness(jobs, seed=seed, tightness=0.6, range_of_due=0.4).as_single_machine()
    assert view is not None
    assert again is not None
    total = int(view.duration.sum())
    assert view.duration.min() >= 1
    assert view.duration.max() <= 100
    assert round(total * 0.2) <= view.due.min() <= view.due.max() <= round(total * 0.6)
    assert np.array_equal(view.due, again.due)
    assert np.array_equal(view.duration, again.duration)


@given(
    tasks=st.integers(6, 20), level=st.integers(0, 12), seed=st.integers(0, 1000),
    shares=st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 3),
)  # fmt: skip
def test_constraint_bench_is_solvable_and_has_no_redundant_precedence(
    tasks: int, level: int, seed: int, shares: tuple[float, float, float]
) -> None:
    try:
        made = synthetic.constraint_bench(
            tasks, level, seed=seed, downtime=shares[0], windows=shares[1], disjunctive=shares[2]
        )
    except InputError as error:
        assert "do not fit" in str(error) or "layers" in str(error)  # noqa: PT017 - only some levels fit
        return
    problem = made.problem
    assert verify(problem, made.witness) == []
    pairs = list(zip(problem.precedences.first.tolist(), problem.precedences.second.tolist(), strict=True))
    assert len(pairs) == level
    follow: dict[int, set[int]] = {}
    for first, second in pairs:
        follow.setdefault(first, set()).add(second)
    for first, second in pairs:
        seen, stack = set(), [each for each in follow[first] if each != second]
        while stack:
            each = stack.pop()
            assert each != second
            if each not in seen:
                seen.add(each)
                stack += follow.get(each, ())


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 100))
def test_flexible_shops(jobs: int, machines: int, operations: int, seed: int) -> None:
    problem = synthetic.random_flexible(jobs, machines, operations, seed=seed, flexibility=1.0 + (machines - 1) / 2)
    view = problem.as_flexible_job_shop()
    assert view is not None
    assert len(view.operation) == jobs * operations
    assert np.diff(view.alternative_offsets).min() >= 1
    assert np.diff(view.alternative_offsets).max() <= machines


def test_variants() -> None:
    assert instance("ft06:blocking").resources.blocking.all()
    assert "no_wait" in instance("ft06:no_wait").features
    assert not instance("tafs001:non_permutation").permutation
    with pytest.raises(InputError, match=r"flexibility must be in 1\.\.3, found 4"):
        synthetic.random_flexible(2, 3, 2, seed=1, flexibility=4)
