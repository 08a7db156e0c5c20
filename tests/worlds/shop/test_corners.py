"""Corners that once went wrong: lags below nothing, ends that are known, operations that take no time, numbers that fit two formats."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.worlds.shop.brute import optimum

from rota.kernel.errors import InputError
from rota.worlds.shop.bounds import lower_bound
from rota.worlds.shop.model import Problem
from rota.worlds.shop.read import read
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.solve import solve
from rota.worlds.shop.solvers import solver
from rota.worlds.shop.verify import verify


def problem(folder: Path, **document: Any) -> Problem:
    path = folder / "case.json"
    path.write_text(json.dumps({"format": "rota-shop", **document}))
    return read(path)


def one(name: str, **operation: Any) -> dict[str, Any]:
    return {"name": name, "operations": [operation]}


MACHINES = [{"name": "m"}, {"name": "n"}]


@pytest.mark.parametrize("kind", ["start_start", "finish_start", "finish_finish", "start_finish"])
def test_a_greatest_lag_below_nothing_makes_the_first_wait(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("ortools", reason="the extra solve is not installed")
    made = problem(
        tmp_path,
        resources=MACHINES,
        jobs=[one("a", duration=1, machine="m"), one("b", duration=1, machine="n")],
        precedences=[{"first": "a.0", "second": "b.0", "kind": kind, "least": -10, "most": -5}],
    )
    found = solve(made, solver="cpsat", seconds=10)
    assert (found.status, found.value) == ("optimal", optimum(made, 9))


def test_work_that_ended_early_counts_for_what_it_took(tmp_path: Path) -> None:
    made = problem(
        tmp_path,
        resources=[{"name": "crew", "kind": "renewable", "capacity": 1}],
        jobs=[
            one("a", duration=10, demands={"crew": 1}, frozen={"mode": 0, "start": 0, "end": 3}),
            one("b", duration=2, demands={"crew": 1}),
        ],
    )
    assert lower_bound(made).value <= 5
    assert optimum(made, 8) == 5


@pytest.mark.parametrize("back", [0, 2])
def test_what_takes_no_time_is_put_in_an_order_that_works(back: int, tmp_path: Path) -> None:
    setups = {"families": ["x", "y"], "times": [[0, 3], [back, 0]]}
    made = problem(
        tmp_path,
        zero_durations=True,
        resources=[{"name": "m", "setups": setups}],
        jobs=[one("a", duration=0, machine="m", family="x"), one("b", duration=0, machine="m", family="y")],
    )
    broken = verify(made, Schedule.from_starts(made, [0, 0]))
    assert bool(broken) == (back > 0)
    if broken:
        assert "a setup of" in broken[0]


def test_three_machines_cannot_contradict_each_other_on_the_order_of_jobs(tmp_path: Path) -> None:
    """Jobs that take no time at one moment are in either order there, but all machines together must agree on one."""
    times = [[0, 0, 3], [3, 0, 0], [0, 3, 0]]
    path = tmp_path / "flow.txt"
    path.write_text("3 3\n" + "\n".join(" ".join(map(str, row)) for row in times))
    names = [{"name": f"m{k}"} for k in range(3)]
    jobs = [
        {"name": f"j{j}", "chain": False, "operations": [{"duration": 1, "machine": f"m{k}"} for k in range(3)]}
        for j in range(3)
    ]
    made = problem(tmp_path, resources=names, jobs=jobs, permutation=True)
    good = [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert verify(made, Schedule.from_starts(made, good)) == []
    turned = [0, 5, 7, 1, 3, 8, 2, 4, 6]  # j0 j1 j2, then j1 j2 j0, then j2 j0 j1
    assert any("one order" in line for line in verify(made, Schedule.from_starts(made, turned)))


def test_numbers_that_fit_two_formats(tmp_path: Path) -> None:
    text = "3 3\n1 2 1 5 2 4\n1 2 2 6 1 4\n1 2 2 5 1 4\n"
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match="could be standard or fjs: say which"):
        read(tmp_path / "a.txt")
    assert read(tmp_path / "a.txt", format="fjs").kind == "parallel_machines"
    assert read(tmp_path / "a.txt", format="standard").kind == "job_shop"
    (tmp_path / "a.fjs").write_text(text)
    assert read(tmp_path / "a.fjs").kind == "parallel_machines"
    (tmp_path / "b.txt").write_text("2 2\n1 3 0 2\n0 2 1 4\n")
    assert read(tmp_path / "b.txt").kind == "job_shop"


@pytest.mark.parametrize(
    "head", ["3 6\n", "number of jobs, number of machines, seed, upper, lower\n3 6 1 9 9\nprocessing times :\n"]
)
@pytest.mark.parametrize("machines", [2, 6, 3])
def test_flow_shops_of_any_shape(head: str, machines: int, tmp_path: Path) -> None:
    rows = "\n".join(f"{k + 1} 2 3" for k in range(machines))
    (tmp_path / "flow.txt").write_text(head.replace("3 6", f"3 {machines}") + rows + "\n")
    made = read(tmp_path / "flow.txt")
    assert (made.kind, len(made.jobs), len(made.resources)) == ("flow_shop", 3, machines)


@pytest.mark.parametrize("name", ["tabu:3", "cpsat:x", "portfolio:y"])
def test_text_after_a_name_that_takes_none(name: str) -> None:
    with pytest.raises(InputError, match="takes nothing after its name"):
        solver(name)


def test_families_that_are_no_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="families must be a list"):
        problem(
            tmp_path,
            resources=[{"name": "m", "setups": {"families": 5, "times": [[0]]}}],
            jobs=[one("a", duration=1, machine="m")],
        )


def test_a_short_time_is_enough_for_a_first_sequence(tmp_path: Path) -> None:
    (tmp_path / "flow.txt").write_text("2 3\n0 3 1 2 2 2\n0 1 1 4 2 2\n")
    found = solve(read(tmp_path / "flow.txt", format="standard"), solver="iterated_greedy", seconds=0.001, workers=1)
    assert found.schedule is not None
