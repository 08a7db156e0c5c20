"""Formats both ways, and what broken files say: one line, with file, line and rule."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.worlds.shop.document import as_document
from rota.worlds.shop.generate import instance
from rota.worlds.shop.generate.synthetic import random_flexible, tardiness
from rota.worlds.shop.model import Problem
from rota.worlds.shop.read import FORMATS, read
from rota.worlds.shop.shapes import rcpsp, single_machine
from rota.worlds.shop.solutions import read_solution, write_solution
from rota.worlds.shop.solve import solve
from rota.worlds.shop.write import write


def project() -> Problem:
    return rcpsp([0, 3, 4, 2, 0], [[0], [2], [1], [2], [0]], [3], [[1, 2], [3], [3], [4], []])


def same(first: Problem, second: Problem) -> bool:
    """Whether two problems say the same, names and sources apart."""

    def plain(problem: Problem) -> str:
        document = as_document(problem)
        for key in ("name", "source"):
            document.pop(key, None)
        return json.dumps(document)

    return plain(first) == plain(second)


@pytest.mark.parametrize(
    ("form", "problem", "name"),
    [
        ("standard", instance("ft06"), "a.txt"),
        ("taillard", instance("ta01"), "a.txt"),
        ("fjs", random_flexible(4, 3, 3, seed=1), "a.fjs"),
        ("psplib", project(), "a.sm"),
        ("patterson", project(), "a.rcp"),
        ("tardiness", tardiness(20, seed=1, weighted=True), "wt20.txt"),
        ("csv", single_machine([3, 4], due=[5, 6], weight=[1, 2], objective="weighted_tardiness"), "a.csv"),
        ("json", instance("ft06:blocking"), "a.json"),
    ],
)
def test_round_trips(form: str, problem: Problem, name: str, tmp_path: Path) -> None:
    write(problem, tmp_path / name, format=form)
    found = read(tmp_path / name, jobs=20 if form == "tardiness" else None, objective=problem.objective)
    if form in ("standard", "taillard", "fjs"):
        a, b = found.as_flexible_job_shop(), problem.as_flexible_job_shop()
        assert a is not None
        assert b is not None
        assert np.array_equal(a.machine, b.machine)
        assert np.array_equal(a.duration, b.duration)
        assert np.array_equal(a.job_offsets, b.job_offsets)
    elif form in ("psplib", "patterson"):
        x, y = found.as_project(), problem.as_project()
        assert x is not None
        assert y is not None
        assert np.array_equal(x.duration, y.duration)
        assert np.array_equal(x.demand, y.demand)
        assert np.array_equal(x.successors, y.successors)
    elif form in ("tardiness", "csv"):
        v, w = found.as_single_machine(), problem.as_single_machine()
        assert v is not None
        assert w is not None
        assert all(np.array_equal(getattr(v, c), getattr(w, c)) for c in ("duration", "due", "weight"))
    else:
        assert same(found, problem)


@pytest.mark.parametrize("name", ["ft06:blocking", "ft06:no_wait", "tafs001"])
def test_json_says_everything(name: str, tmp_path: Path) -> None:
    write(instance(name), tmp_path / "p.json")
    assert same(read(tmp_path / "p.json"), instance(name))


def test_zipped_and_numbered(tmp_path: Path) -> None:
    import gzip

    write(instance("ft06"), tmp_path / "a.txt", format="standard")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress((tmp_path / "a.txt").read_bytes()))
    assert same(read(tmp_path / "a.txt.gz"), read(tmp_path / "a.txt"))
    (tmp_path / "half.txt.gz").write_bytes(gzip.compress((tmp_path / "a.txt").read_bytes())[:60])
    with pytest.raises(InputError, match=r"half\.txt\.gz"):
        read(tmp_path / "half.txt.gz")


STANDARD = "2 2\n0 3 1 2\n1 2 0 4\n"
FJS = "2 2\n1 2 1 3 2 4\n1 1 1 5\n"
CSV = "job,machine,processing_time\na,m1,3\nb,m1,4\n"
JSON = '{"format": "rota-shop", "resources": [{"name": "m"}], "jobs": [{"name": "a", "operations": [{"machine": "m", "duration": 3}]}]}'

BROKEN = [
    # name of the file, content, what must be said
    ("empty.txt", "", "is empty"),
    ("blank.txt", "\n\n  \n", "is empty"),
    ("binary.txt", "\x00\x01\x02", ""),
    ("words.txt", "hello there\n", ""),
    ("counts.jsp", "3 2\n0 3 1 2\n1 2 0 4\n", "jobs"),
    ("short.jsp", "2 2\n0 3 1\n1 2 0 4\n", "line 2"),
    ("machine.jsp", "2 2\n0 3 7 2\n1 2 0 4\n", "line 2"),
    ("negative.jsp", "2 2\n0 3 1 -2\n1 2 0 4\n", "line 2"),
    ("text.jsp", "2 2\n0 3 1 x\n1 2 0 4\n", "line 2"),
    ("decimal.jsp", "2 2\n0 3 1 2.5\n1 2 0 4\n", "line 2"),
    ("huge.jsp", "2 2\n0 3 1 99999999999999999999\n1 2 0 4\n", "line 2"),
    ("more.jsp", STANDARD + "0 1 1 1\n", "line 4"),
    ("zero.jsp", "0 2\n", ""),
    ("alternatives.fjs", "2 2\n1 3 1 3 2 4\n1 1 1 5\n", "line 2"),
    ("machine.fjs", "2 2\n1 2 1 3 9 4\n1 1 1 5\n", "line 2"),
    ("none.fjs", "2 2\n1 0\n1 1 1 5\n", "line 2"),
    ("short.fjs", "2 2\n2 1 1 3\n1 1 1 5\n", "line 2"),
    ("jobs.fjs", "3 2\n1 2 1 3 2 4\n1 1 1 5\n", "jobs"),
    ("column.csv", "job,colour\na,red\n", "duration on colour must be an integer"),
    ("missing.csv", "machine,processing_time\nm1,3\n", "line 1"),
    ("value.csv", "job,machine,processing_time\na,m1,x\n", "line 2"),
    ("negative.csv", "job,machine,processing_time\na,m1,-3\n", "line 2"),
    ("ragged.csv", "job,machine,processing_time\na,m1\n", "line 2"),
    ("header.csv", "job,machine,processing_time\n", ""),
    ("zero.csv", "job,machine,duration\na,m,0\n", "duration 0"),
    ("twice.csv", "job,saw\na,3\na,4\n", "line 3"),
    ("release.csv", "job,saw,release,deadline\na,3,9,5\n", "line 2"),
    ("alone.csv", "job,duration\na,3\n", "needs both machine and duration"),
    ("broken.json", JSON[:-3], "line"),
    ("list.json", "[1, 2]", ""),
    ("key.json", JSON.replace('"duration"', '"duratoin"'), "duratoin"),
    ("machine.json", JSON.replace('"machine": "m"', '"machine": "n"'), "n"),
    ("twice.json", JSON.replace('"jobs": [', '"jobs": [{"name": "a", "operations": [{"machine": "m", "duration": 3}]}, '), "a"),
    ("negative.json", JSON.replace('"duration": 3', '"duration": -3'), "negative"),
    ("zero.json", JSON.replace('"duration": 3', '"duration": 0'), "duration 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_broken_files(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    text = str(caught.value)
    assert name in text
    assert said in text
    assert len(text.splitlines()) == 1


def test_rules_of_projects(tmp_path: Path) -> None:
    """Patterson files: a cycle, a demand above the capacity, a successor that is not there."""
    good = "4 1\n3\n0 0 2 2 3\n3 2 1 4\n4 1 1 4\n0 0 0\n"
    for content, said in (
        (good.replace("4 1 1 4", "4 9 1 4"), "demand"),
        (good.replace("4 1 1 4", "4 1 1 9"), "line 5"),
        (good.replace("0 0 0\n", "0 0 1 2\n"), "cyclic precedence"),
    ):
        (tmp_path / "p.rcp").write_text(content)
        with pytest.raises(InputError) as caught:
            read(tmp_path / "p.rcp")
        assert said in str(caught.value)
        assert "p.rcp" in str(caught.value)


def test_the_wrong_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsp").write_text(FJS)
    with pytest.raises(InputError, match=r"a\.jsp.*fjs"):
        read(tmp_path / "a.jsp")
    (tmp_path / "b.txt").write_text(STANDARD)
    with pytest.raises(InputError, match="format 'psplb' does not exist; did you mean 'psplib'"):
        read(tmp_path / "b.txt", format="psplb")
    with pytest.raises(InputError, match=r"nowhere\.jsp"):
        read(tmp_path / "nowhere.jsp")


def one_line(path: Path, **options: Any) -> None:
    """Whatever is wrong is said in a line; anything but an InputError fails the test."""
    said = ""
    try:
        read(path, **options)
    except InputError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1


def test_work_that_takes_no_time_is_noticed_in_public_formats(tmp_path: Path) -> None:
    """orb07 has such an operation, so that it cannot be an error there."""
    (tmp_path / "a.jsp").write_text(STANDARD.replace("1 2", "1 0", 1))
    assert any("has duration 0" in line for line in read(tmp_path / "a.jsp").notices)


ALPHABET = st.text(alphabet='0123456789 -.,\nxjob:{}[]"#', max_size=80)


@given(
    content=st.one_of(ALPHABET, st.binary(max_size=60)),
    ending=st.sampled_from([".txt", ".jsp", ".fjs", ".sm", ".mm", ".rcp", ".json", ".csv"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_whatever_is_in_a_file_a_reader_says_what_is_wrong(content: str | bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    one_line(path)


@given(
    form=st.sampled_from(list(FORMATS)),
    place=st.integers(0, 60),
    text=st.sampled_from(["", "-", "9", "x", "\n", " 0 ", "1e9", "."]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_small_damage_to_good_files(form: str, place: int, text: str, tmp_path: Path) -> None:
    problems = {
        "fjs": random_flexible(2, 2, 2, seed=1),
        "psplib": project(),
        "patterson": project(),
        "tardiness": tardiness(3, seed=1, weighted=True),
    }
    problem = problems.get(form, tardiness(3, seed=1) if form == "csv" else instance("ft06"))
    path = tmp_path / ("a.json" if form == "json" else "a.csv" if form == "csv" else "a.txt")
    write(problem, path, format=form)
    whole = path.read_text()
    cut = place * len(whole) // 61
    path.write_text(whole[:cut] + text + whole[cut + 1 :])
    one_line(path, format=form, jobs=3 if form == "tardiness" else None)


def test_solutions_both_ways(tmp_path: Path) -> None:
    problem = instance("ft06")
    found = solve(problem, "cpsat", seconds=20)
    write_solution(problem, found, tmp_path / "s.json", verified=True)
    again = read_solution(problem, tmp_path / "s.json")
    assert again.schedule is not None
    assert found.schedule is not None
    assert np.array_equal(again.schedule.start, found.schedule.start)
    assert (again.status, again.value, again.bound) == (found.status, found.value, found.bound)
    document = json.loads((tmp_path / "s.json").read_text())
    document["operations"][3]["operation"] = "nobody"
    (tmp_path / "s.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="nobody"):
        read_solution(problem, tmp_path / "s.json")
    with pytest.raises(InputError, match="cannot be written"):
        write_solution(problem, found, tmp_path / "missing" / "s.json")


def test_several_modes_both_ways(tmp_path: Path) -> None:
    """A PSPLIB project with two modes an activity and a non-renewable resource."""
    from rota.worlds.shop.build import ProblemBuilder

    builder = ProblemBuilder(name="modes")
    crew, money = builder.add_resource(capacity=4), builder.add_resource(capacity=9, renewable=False)
    job = builder.add_job("project")
    made = [builder.add_operation(job) for _ in range(4)]
    for k, operation in enumerate(made):
        if k in (0, 3):
            builder.add_mode(operation, 0)
        else:
            builder.add_mode(operation, 3, demands={crew: 2, money: 4})
            builder.add_mode(operation, 5, demands={crew: 3})
    for first, second in ((0, 1), (0, 2), (1, 3), (2, 3)):
        builder.add_precedence(made[first], made[second])
    problem = builder.build()
    write(problem, tmp_path / "p.mm", format="psplib")
    found = read(tmp_path / "p.mm")
    x, y = found.as_project(), problem.as_project()
    assert x is not None
    assert y is not None
    assert np.array_equal(x.duration, y.duration)
    assert np.array_equal(x.demand, y.demand)
    assert np.array_equal(x.mode_offsets, y.mode_offsets)
    assert x.renewable.tolist() == [1, 0]
    assert solve(found, "cpsat", seconds=20).value == solve(problem, "cpsat", seconds=20).value
