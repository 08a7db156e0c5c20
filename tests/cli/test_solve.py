"""`rota solve`, as a user types it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def rota(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rota.cli.main", "solve", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )


def test_json_is_one_object(tmp_path: Path) -> None:
    done = rota("ft06", "--time", "20", "--json", "--out", str(tmp_path / "s.json"), "--gantt", str(tmp_path / "g.svg"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["value"], found["bound"], found["gap"], found["status"], found["verified"]) == (
        55,
        55,
        0.0,
        "optimal",
        True,
    )
    assert found["proof"] == "cpsat"
    assert found["trace"][-1]["value"] == 55
    assert {"seconds", "value", "solver"} <= set(found["trace"][0])
    assert json.loads((tmp_path / "s.json").read_text())["value"] == 55
    assert (tmp_path / "g.svg").read_text().startswith("<svg")


def test_a_table_for_people() -> None:
    done = rota("la01", "--solver", "tabu", "--time", "20")
    assert done.returncode == 0
    assert "optimal, proved by preemptive schedule" in done.stdout
    assert "best known" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ta99"], "instance 'ta99' is not known"),
        (["nowhere.jsp"], "nowhere.jsp: "),
        (["ft06", "--solver", "magic"], "solver: there is none called 'magic'"),
        (["ft06", "--time", "0"], "time: must be above 0 seconds, found 0"),
        (["ft06", "--work", "-3"], "work: must be at least 1, found -3"),
        (["ft06", "--objective", "makspan"], "objective: 'makspan' is not a criterion; did you mean 'makespan'?"),
        (["ft06", "--gantt", "picture.pdf"], "picture.pdf: a Gantt chart is .html, .svg, .png, found '.pdf'"),
        (["ft06", "--out", "missing/s.json"], "the folder"),
        (["ft06:blocking", "--solver", "tabu"], "solver tabu: does not know blocking"),
    ],
)
def test_mistakes_end_in_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    done = rota(*words, folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_infeasible_instance_says_why(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text("job,machine1,deadline\na,3,5\nb,4,5\n")
    done = rota("jobs.csv", "--time", "20", folder=tmp_path)
    assert done.returncode == 1
    assert "infeasible: the deadlines cannot hold together with the rest" in done.stderr


def test_ctrl_c_prints_the_best_so_far() -> None:
    """A real signal, in the middle of CP-SAT and, side by side with it, of local search."""
    for solver in ("cpsat", "portfolio"):
        command = [sys.executable, "-m", "rota.cli.main", "solve", "ta21", "--solver", solver, "--time", "100"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                process.wait(timeout=12)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert "terminate" not in err
        if process.returncode == 130:  # still compiling, where there is nothing to lose yet
            continue
        assert process.returncode == 0, err
        assert "interrupted: the best so far" in out
        assert "feasible" in out
