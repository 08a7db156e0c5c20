"""The command line: what is printed where, exit codes, one line for a mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.study.small import SMALL, write

from rota import __version__


def rota(*words: Any, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rota.cli.main", *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


def test_version_and_help() -> None:
    assert rota("--version").stdout == f"rota {__version__}\n"
    said = rota("--help").stdout
    assert all(command in said for command in ("run", "check", "list", "show", "report", "fit-timing"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--frobnicate", "x"), "error: rota run: no such option: --frobnicate; see 'rota run --help'\n"),
        (("run",), "error: rota run: missing argument 'SCENARIO'; see 'rota run --help'\n"),
        (("rum",), "error: rota: no such command 'rum'. Did you mean 'run'?; see 'rota --help'\n"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(words: tuple[str, ...], said: str) -> None:
    done = rota(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_run_show_and_report(tmp_path: Path) -> None:
    write(tmp_path)
    done = rota("run", "small.yaml", "--jobs", 1, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # one object and nothing else
    assert found["scenario"]["name"] == "small"
    assert [(row["policy"], row["seed"]) for row in found["rows"]] == [
        ("turns", 0),
        ("turns", 1),
        ("luck", 0),
        ("luck", 1),
    ]
    assert found["rows"][0]["metrics"]["e2e_mean"] > 0
    assert [row["rank"] for row in found["league"]] == [1, 2]
    [out] = (tmp_path / "rota-results").iterdir()
    assert out.name.startswith("small-")
    assert (out / "report.html").is_file()
    shown = rota("show", out)
    assert "turns" in shown.stdout
    assert shown.returncode == 0
    assert json.loads(rota("show", out, "--json").stdout)["league"] == found["league"]
    (out / "report.html").unlink()
    assert "report.html" in rota("report", out).stdout
    assert (out / "report.html").is_file()
    again = rota("run", "small.yaml", "--quiet", folder=tmp_path)
    assert again.returncode == 0
    assert "report.html" in again.stdout.splitlines()[-1]
    assert again.stderr == ""


def test_check(tmp_path: Path) -> None:
    write(tmp_path)
    done = rota("check", "small.yaml", "--set", "policies.1.order=sjf", folder=tmp_path)
    assert done.returncode == 0
    assert "would be skipped: it reads" in done.stdout
    assert not (tmp_path / "rota-results").exists()


@pytest.mark.parametrize("kind", ["worlds", "policies", "gpus", "models"])
def test_lists(kind: str) -> None:
    found = json.loads(rota("list", kind, "--json").stdout)
    rows = found[kind] if isinstance(found, dict) else found
    assert rows
    assert all(row["name"] for row in rows)
    assert rows[0]["name"] in rota("list", kind).stdout


MISTAKES = {
    "no file": (("run", "none.yaml"), "none.yaml"),
    "unknown key": (("run", "small.yaml", "--set", "slo.tfft=1"), "did you mean 'ttft'"),
    "unknown policy": (("run", "small.yaml", "--set", "policies.1.route=randm"), "did you mean 'random'"),
    "unknown GPU": (("check", "small.yaml", "--set", "fleet.0.gpu=h10"), "gpu"),
    "unknown model": (("check", "small.yaml", "--set", "fleet.0.model=llama-3-8"), "did you mean"),
    "does not fit": (("check", "small.yaml", "--set", "fleet.0.model=llama-3-70b"), "fleet[0]"),
    "no trace": (("run", "small.yaml", "--set", "workload={trace: none.csv}"), "none.csv"),
    "jobs": (("run", "small.yaml", "--jobs", 0), "at least 1"),
    "seeds": (("run", "small.yaml", "--seeds", 0), "seeds: expected"),
    "other module": (("run", "small.yaml", "--set", "policies.1.order=nowhere:Mine"), "nowhere"),
    "show nothing": (("show", "."), "holds no study"),
    "report nothing": (("report", "absent"), "absent"),
    "list what": (("list", "polices"), "polic"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_ends_in_one_line_and_code_2(case: str, tmp_path: Path) -> None:
    write(tmp_path)
    words, said = MISTAKES[case]
    done = rota(*words, folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_keeps_what_is_done(jobs: int, tmp_path: Path) -> None:
    write(tmp_path, SMALL.replace("requests: 300", "requests: 20000"))
    words = [
        sys.executable,
        "-m",
        "rota.cli.main",
        "run",
        "small.yaml",
        "--seeds",
        "40",
        "--jobs",
        str(jobs),
        "--out",
        "out",
    ]
    run = subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for _ in range(1200):
        if list(tmp_path.glob("out/cells/run-*.json")) or run.poll() is not None:
            break
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the whole group, which is this run's own
    _, said = run.communicate(timeout=120)
    assert run.returncode == 130
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert list(tmp_path.glob("out/cells/run-*.json"))
