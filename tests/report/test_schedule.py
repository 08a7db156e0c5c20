"""The page and the pictures of a schedule."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.report.schedule import BROWSERS, bars_by_job, bars_by_resource, critical, picture, schedule_page, write_gantt
from rota.worlds.shop.generate import instance
from rota.worlds.shop.schedule import Solution
from rota.worlds.shop.shapes import job_shop, rcpsp
from rota.worlds.shop.solve import solve


def test_the_critical_chain_has_no_hole() -> None:
    """From the start to the end of the schedule, each operation beginning when the one before it ends."""
    problem = instance("ft10")
    schedule = solve(problem, "tabu", work=5_000).schedule
    assert schedule is not None
    chain = critical(problem, schedule)
    assert schedule.start[chain[0]] == 0
    assert schedule.end[chain[-1]] == schedule.value(problem)
    assert schedule.end[chain[:-1]].tolist() == schedule.start[chain[1:]].tolist()


def test_rows_are_machines_units_and_jobs() -> None:
    problem = rcpsp([3, 3, 2], [[1], [1], [2]], [2], [[], [], []])
    found = solve(problem, "cpsat", seconds=10)
    assert found.schedule is not None
    rows, bars = bars_by_resource(problem, found.schedule)
    assert len(rows) == 2
    assert {bar.row for bar in bars} == {0, 1}
    rows, bars = bars_by_job(problem, found.schedule)
    assert len(rows) == 3
    assert sorted(bar.row for bar in bars) == [0, 1, 2]
    rows, bars = bars_by_job(instance("ft06"), solve(instance("ft06"), "cpsat", seconds=20).schedule)  # type: ignore[arg-type]
    assert len(rows) == 6
    assert len(bars) == 36


def test_late_jobs_and_names_are_shown_as_they_are(tmp_path: Path) -> None:
    problem = job_shop([[0, 1], [0, 1]], [[3, 4], [5, 1]], due=[4, 20], name="<b>shop</b>")
    found = solve(problem, "cpsat", seconds=10)
    text = schedule_page(problem, found)
    assert "Late jobs: 1" in text
    assert "<b>shop</b>" not in text
    assert "&lt;b&gt;shop" in text


@pytest.mark.parametrize("name", ["g.html", "g.svg"])
def test_files(name: str, tmp_path: Path) -> None:
    problem = instance("ft06")
    write_gantt(problem, solve(problem, "rule:mwkr", work=1), tmp_path / name)
    text = (tmp_path / name).read_text()
    assert text.count("<rect") == 37 if name.endswith("svg") else "By machine" in text
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_what_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = instance("ft06")
    found = solve(problem, "rule:mwkr", work=1)
    with pytest.raises(InputError, match=r"found '\.pdf'"):
        write_gantt(problem, found, tmp_path / "g.pdf")
    with pytest.raises(InputError, match="there is no schedule to draw"):
        write_gantt(problem, Solution("unknown"), tmp_path / "g.svg")
    with pytest.raises(InputError, match="cannot be written"):
        write_gantt(problem, found, tmp_path / "missing" / "g.svg")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InputError, match="a PNG needs Chromium or Chrome on the path"):
        write_gantt(problem, found, tmp_path / "g.png")


def test_a_browser_draws_both_views(tmp_path: Path) -> None:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium or Chrome on PATH: the page cannot be opened")
    problem = instance("ft06")
    drawn = solve(problem, "rule:mwkr", work=1)
    write_gantt(problem, drawn, tmp_path / "g.html")
    write_gantt(problem, drawn, tmp_path / "g.png")
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")
    flags = [
        "--headless",
        "--no-sandbox",
        "--virtual-time-budget=8000",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
    ]
    done = subprocess.run(
        [browser, *flags, (tmp_path / "g.html").as_uri()], capture_output=True, text=True, timeout=90, check=True
    )
    assert done.stdout.count('class="main-svg"') >= 2
    assert done.stdout.count('class="point"') >= 72  # 36 operations in two views


def test_breaks_are_drawn() -> None:
    from rota.worlds.shop.build import ProblemBuilder

    builder = ProblemBuilder()
    machine = builder.add_machine()
    builder.add_breaks(machine, [(2, 4)])
    job = builder.add_job()
    for _ in range(2):
        builder.add_mode(builder.add_operation(job), 2, machine)
    problem = builder.build()
    schedule = solve(problem, "cpsat", seconds=10).schedule
    assert schedule is not None
    assert np.isin([0, 4], schedule.start).all()
    assert picture(problem, schedule).count("<rect") == 4
