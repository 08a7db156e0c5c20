"""From the words of a scenario to a policy, and one line for each mistake."""

import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.kernel.tables import Jobs
from rota.rules import ORDERS, PLACES
from rota.rules import find as module
from rota.rules.arrival import FirstCome
from rota.rules.find import Room, find, locate
from rota.rules.sampling import PowerOfTwo
from rota.testing.conformance import check_policy

MINE = """
from __future__ import annotations
from dataclasses import dataclass
from rota.kernel.decisions import Order
from neighbour import FACTOR

@dataclass
class Mine(Order):
    reads = ("release",)
    slope: float = 1.0
    names: tuple[str, ...] = ()

    def keys(self, jobs, now):
        return self.slope * FACTOR * jobs.release

@dataclass
class Needs(Order):
    level: int

class Plain(Order):
    def __init__(self, cap: int = 1):
        if cap > 5:
            raise ValueError("cap too high\\nsecond line")
        self.cap = cap
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "neighbour.py").write_text("FACTOR = 2.0\n")
    (tmp_path / "broken.py").write_text("x = 1\ny = unknown_name\n")
    (tmp_path / "typo.py").write_text("x = 1\ny = = 2\n")
    (tmp_path / "lacks.py").write_text("import module_that_is_nowhere\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    return tmp_path


def order(spec: Any, folder: Path | None = None) -> Any:
    return find("order", spec, [ORDERS], folder)


def test_names_parameters_and_lazy_rooms() -> None:
    assert isinstance(order("fcfs"), FirstCome)
    assert isinstance(order({"fcfs": None}), FirstCome)
    assert find("place", {"power_of_two": {"d": 3}}, [PLACES]) == PowerOfTwo(d=3)
    rooms: list[Room] = [{"first": "rota.rules.arrival:FirstCome"}, {"first": PowerOfTwo}]
    assert (
        type(find("order", "first", rooms)) is FirstCome
    )  # the first room wins; a string is imported when it is needed
    assert locate("order", "rota.rules.arrival:FirstCome", []) is FirstCome


def test_a_file_beside_the_scenario(folder: Path) -> None:
    before = list(sys.path)
    policy = order({"mine:Mine": {"slope": 3, "names": ["a"]}}, folder)
    assert policy.slope == 3.0
    assert policy.names == ("a",)
    assert policy.keys(Jobs({"release": np.array([1.0, 2.0])}), 0.0).tolist() == [6.0, 12.0]
    assert sys.path == before
    assert not list(folder.rglob("mine*.pyc"))
    assert type(order("mine:Mine", folder)) is type(policy)  # run once
    assert pickle.loads(pickle.dumps(policy)) == policy
    check_policy(type(policy), "order")


def test_an_edited_file_and_a_namesake_elsewhere_are_their_own(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = order("mine:Mine", folder)
    (folder / "mine.py").write_text(MINE.replace("slope: float = 1.0", "slope: float = 4.0"))
    elsewhere = tmp_path_factory.mktemp("other")
    for name in ("mine.py", "neighbour.py"):
        (elsewhere / name).write_text((folder / name).read_text().replace("4.0", "5.0"))
    assert [policy.slope for policy in (first, order("mine:Mine", folder), order("mine:Mine", elsewhere))] == [
        1.0,
        4.0,
        5.0,
    ]


def test_workers_find_it_too(folder: Path) -> None:
    code = (
        f"import sys; sys.path[:] = {[entry for entry in sys.path if entry]!r}\n"
        "from pathlib import Path; from rota.rules.find import find\n"
        f"print(find('order', {{'mine:Mine': {{'slope': 2.5}}}}, [], Path({str(folder)!r})).slope)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "2.5", out.stderr


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fcsf", r"^order: unknown order 'fcsf'; did you mean 'fcfs'"),
        ("power_of_two", "unknown order 'power_of_two'"),
        ({"fcfs": {"x": 1}}, r"fcfs: unknown parameter 'x' \(it has none\)"),
        ({"mine:Mine": {"slop": 1}}, "mine:Mine: unknown parameter 'slop'; did you mean 'slope'"),
        ({"mine:Mine": {"slope": "steep"}}, "mine:Mine: slope: expected 'float', found 'steep'"),
        ({"mine:Mine": {"slope": True}}, "slope: expected 'float'"),
        ({"mine:Needs": {"level": 1.5}}, "level: expected 'int'"),
        ("mine:Needs", "mine:Needs: parameter level is missing"),
        ({"mine:Plain": {"cap": "a"}}, "cap: expected 'int'"),
        ({"mine:Plain": {"cap": 9}}, "mine:Plain: cannot be built: ValueError: cap too high$"),
        ("mine:Mien", "module mine has no Mien; did you mean 'Mine'"),
        ("mine:FACTOR", "mine:FACTOR must be a class that derives from Order; found 2.0"),
        ("rota.rules.sampling:PowerOfTwo", "must be a class that derives from Order; it has the shape place"),
        ("mien:Mine", "no file mien.py in .* and no installed module mien; did you mean 'mine'"),
        ("no.such.module:Mine", "no file no/such/module.py in"),
        ("broken:Mine", "^order: broken.py, line 2: NameError: name 'unknown_name' is not defined$"),
        ("typo:Mine", "^order: typo.py, line 2: SyntaxError: invalid syntax"),
        ("lacks:Mine", "^order: lacks.py, line 1: ModuleNotFoundError: No module named 'module_that_is_nowhere'$"),
        ("leaves:Mine", "^order: leaves.py, line 2: SystemExit: 3$"),
        ("mine:", "expected module:Class, found 'mine:'"),
        ("../mine:Mine", "expected module:Class"),
        ({"fcfs": {}, "lcfs": {}}, "expected a name or"),
        ({"fcfs": 3}, "expected a name or"),
        (3, "expected a name or {name: {parameter: value}}, found 3"),
        ("", "expected a name or"),
        (None, "expected a name or"),
    ],
)
def test_mistakes_are_one_line(folder: Path, spec: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        order(spec, folder)
    assert "\n" not in str(caught.value)


def test_messages_begin_with_the_place_in_the_scenario() -> None:
    with pytest.raises(InputError, match=r"^policies\[2\].route: power_of_two: d must be at least 1 host, found 0$"):
        find("place", {"power_of_two": {"d": 0}}, [PLACES], None, "policies[2].route")
    with pytest.raises(InputError, match=r"^order: no installed module nowhere_at_all"):
        order("nowhere_at_all:Mine")


def test_third_parties_are_asked_only_when_a_name_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def points(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [
            EntryPoint("theirs", "rota.rules.arrival:FirstCome", group),
            EntryPoint("gone", "module_that_is_nowhere:A", group),
        ]

    monkeypatch.setattr(sys.modules["rota.rules.find"], "entry_points", points)
    assert type(order("fcfs")) is FirstCome
    assert not asked
    assert type(order("theirs")) is FirstCome
    assert asked == ["rota.policies"]
    with pytest.raises(InputError, match=r"entry point gone \(module_that_is_nowhere:A\): ModuleNotFoundError"):
        order("gone")
    with pytest.raises(InputError, match="unknown order 'theris'; did you mean 'theirs'"):
        order("theris")
    assert module.ENTRY_POINTS == "rota.policies"
