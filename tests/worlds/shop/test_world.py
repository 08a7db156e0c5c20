"""The shop world in a study: scenarios, leagues, and what is wrong in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.study.runner import run_study
from rota.study.scenario import read
from rota.study.statistics import league
from rota.worlds.shop.world import Shop, expand

SCENARIO = """
world: shop
instances: [ft06, la01..la03]
limit: {work: 2000}
policies:
  - {name: tabu}
  - {name: most work remaining, plan: "rule:mwkr"}
  - {name: portfolio}
seeds: 2
"""


def test_a_league_of_solvers(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SCENARIO)
    study = run_study(read(tmp_path / "s.yaml"), tmp_path / "out", jobs=1)
    rows = league(study)
    assert {row.policy for row in rows} == {"tabu", "most work remaining", "portfolio"}
    assert rows[-1].policy == "most work remaining"
    assert rows[0].mean < 1.0
    outcomes = study.outcomes
    assert outcomes.height == 3 * 2 * 4
    assert set(outcomes["instance"]) == {"ft06", "la01", "la02", "la03"}
    gaps = outcomes.filter(outcomes["policy"] == "tabu")["gap"].to_numpy()
    assert rows[[row.policy for row in rows].index("tabu")].mean == pytest.approx(gaps.mean())
    assert (gaps >= 0).all()


def test_a_study_is_the_same_with_two_workers(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SCENARIO)
    first, second = (run_study(read(tmp_path / "s.yaml"), tmp_path / f"out{jobs}", jobs=jobs) for jobs in (1, 2))
    columns = ["policy", "seed", "job", "value", "gap", "status"]
    assert first.outcomes.select(columns).sort(columns[:3]).equals(second.outcomes.select(columns).sort(columns[:3]))


def test_gaps_to_a_bound_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "mine.jsp").write_text("2 2\n0 3 1 2\n1 2 0 4\n")
    world = Shop()
    case = world.load({"instances": ["mine.jsp"], "limit": {"work": 10}}, tmp_path)
    assert case.notices == ("no best known value for mine: their gaps are to a lower bound",)
    found = world.run(case, world.workload(case, 0), {"name": "x", "plan": "rule:spt"}, 0)
    assert found.metrics["gap_mean"] == 0.0
    assert world.bounds(case, case.problems) == {"gap_mean": 0.0}
    assert np.isfinite(found.outcomes["seconds"]).all()


@pytest.mark.parametrize(
    ("item", "names"),
    [
        ("ta01", ["ta01"]),
        ("ta09..ta11", ["ta09", "ta10", "ta11"]),
        ("la01..la02:blocking", ["la01:blocking", "la02:blocking"]),
        ("x.fjs", ["x.fjs"]),
    ],
)
def test_ranges(item: str, names: list[str]) -> None:
    assert expand(item) == names


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"limit": {"work": 1}}, "instances: must be a list of names and files"),
        ({"instances": ["ft06"]}, "limit: needs exactly one of seconds and work"),
        ({"instances": ["ft06"], "limit": {"work": 1, "seconds": 1}}, "limit: needs exactly one of seconds and work"),
        ({"instances": ["ft06"], "limit": {"wrok": 1}}, "limit: unknown key 'wrok'"),
        ({"instances": ["ta09..ta01"], "limit": {"work": 1}}, "ta09..ta01 is empty"),
        ({"instances": [7], "limit": {"work": 1}}, "each must be a name or a file, found 7"),
        ({"instances": ["ft06"], "minimise": "makspan", "limit": {"work": 1}}, "'makspan' is not a criterion"),
        ({"instances": ["nothing.jsp"], "limit": {"work": 1}}, "does not exist"),
    ],
)
def test_broken_scenarios(sections: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        Shop().load(sections, tmp_path)
    assert said in str(caught.value)


def test_solvers_that_do_not_apply(tmp_path: Path) -> None:
    world = Shop()
    case = world.load({"instances": ["ft06:blocking"], "limit": {"work": 1}}, tmp_path)
    assert world.resolve(case, {"name": "tabu"}, tmp_path) == "does not know blocking"
    assert world.resolve(case, {"name": "any", "plan": "cpsat"}, tmp_path) is None
    with pytest.raises(InputError, match="there is none called 'tabbu'"):
        world.resolve(case, {"name": "tabbu"}, tmp_path)
