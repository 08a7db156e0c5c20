"""The report is one file that needs nothing else, and a browser draws it."""

import re
import shutil
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from tests.report.synthetic import NAMES, study

from rota.report.league import render
from rota.report.page import page, write_page
from rota.study.statistics import league


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    text = page(made := study(tmp_path), league(made))
    for attribute in re.findall(r'(?:src|href)="([^"]*)"', text):
        assert not attribute.startswith(("http", "//"))
    assert all(name in text for name in NAMES)
    assert len(text) < 6_000_000


def test_names_are_escaped(tmp_path: Path) -> None:
    made = study(tmp_path, policies=("<script>alert(1)</script>", "b & c"), jobs=50)
    assert "<script>alert(1)" not in page(made, league(made))


@pytest.mark.parametrize("kind", ["one policy", "no series", "no spans", "no bounds", "failures"])
def test_what_is_absent_is_left_out(kind: str, tmp_path: Path) -> None:
    made = study(
        tmp_path,
        policies=NAMES[:1] if kind == "one policy" else NAMES[:3],
        seeds=1,
        jobs=60,
        series=kind != "no series",
        spans=kind != "no spans",
        bounds=kind != "no bounds",
        failures=(("broken, seed 0", "RuntimeError: no idea"),) if kind == "failures" else (),
    )
    write_page(made, league(made), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert ("no idea" in text) == (kind == "failures")


def test_the_terminal_says_who_is_best(tmp_path: Path) -> None:
    from rich.console import Console

    made = study(tmp_path)
    console = Console(width=100, record=True, file=StringIO())
    console.print(render(made, league(made)))
    text = console.export_text()
    assert league(made)[0].policy.split()[0] in text
    assert "runner-up" in text or "cannot be told apart" in text


def test_a_browser_draws_it(tmp_path: Path) -> None:
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH: the page cannot be opened")
    made = study(tmp_path, jobs=200)
    write_page(made, league(made), tmp_path / "report.html")
    switches = (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
    )
    more = (
        "disable-dev-shm-usage",
        "disable-component-update",
        "disable-sync",
        "virtual-time-budget=10000",
        "enable-logging=stderr",
    )
    flags = [f"--{switch}" for switch in (*switches, *more, "window-size=1280,4000")]
    done = subprocess.run(
        [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "report.html").as_uri()],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in console if "rror" in line], console
    assert done.stdout.count('class="main-svg"') >= 3, done.stderr[-2000:]
