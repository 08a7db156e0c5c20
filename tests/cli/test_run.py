"""The command line from end to end, on a small generated workload."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

SCENARIO = """
world: serving
workload: {generate: {kind: chat, requests: 300, rate: 20.0}}
fleet:
  - {model: llama-3-8b, gpu: a100-80g, count: 2, max_running: 16, max_batched_tokens: 2048}
information: {output_tokens: hidden}
slo: {ttft: 1.0, tpot: 0.05}
policies:
  - {name: turns, route: round_robin}
  - {name: chunks, batch: {sarathi: {chunk_tokens: 256}}}
  - {name: lots, order: random, route: random}
  - {name: mine, order: "my_policy:ShortPromptFirst"}
  - {name: sizes, order: sjf}
seeds: 2
"""
MINE = '''
from dataclasses import dataclass
from rota.kernel.decisions import Order

@dataclass
class ShortPromptFirst(Order):
    """Short prompts go first."""

    reads = ("prompt_tokens",)

    def keys(self, jobs, now):
        return jobs.prompt_tokens

@dataclass
class Broken(Order):
    """Fails when it is asked."""

    reads = ("output_tokens",)

    def keys(self, jobs, now):
        raise RuntimeError("no idea")

@dataclass
class Peeks(Order):
    """Reads what it did not declare."""

    def keys(self, jobs, now):
        return jobs.prompt_tokens
'''


def rota(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rota.cli.main", *words]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SCENARIO)
    (tmp_path / "my_policy.py").write_text(MINE)
    return tmp_path


def test_a_study_from_file_to_report(folder: Path) -> None:
    done = rota("run", "small.yaml", "--out", "out", "--jobs", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "report: out/report.html" in done.stdout
    assert "sizes was skipped: it reads size, which is hidden" in " ".join(done.stdout.split())
    assert sorted(entry.name for entry in (folder / "out").iterdir()) == [
        "manifest.json",
        "outcomes.parquet",
        "report.html",
        "scenario.yaml",
        "series.parquet",
        "spans.parquet",
        "summary.parquet",
    ]
    summary = pl.read_parquet(folder / "out/summary.parquet")
    assert summary.height == 8
    assert {
        "ttft_mean",
        "tpot_p99",
        "itl_p90",
        "e2e_p50",
        "queueing_mean",
        "goodput",
        "preemptions",
        "rejected",
    } <= set(summary.columns)
    again = rota("show", "out", cwd=folder)
    assert "mine" in again.stdout
    assert rota("report", "out", cwd=folder).returncode == 0


def test_json_is_one_object(folder: Path) -> None:
    done = rota("run", "small.yaml", "--out", "out", "--seeds", "1", "--json", cwd=folder)
    found: dict[str, Any] = json.loads(done.stdout)
    assert {"scenario", "rows", "league"} <= set(found)
    assert [row["policy"] for row in found["rows"]] == ["turns", "chunks", "lots", "mine"]
    assert all(isinstance(value, float | int) for value in found["rows"][0]["metrics"].values() if value is not None)
    bound = found["bounds"]["e2e_mean"]
    assert all(row["metrics"]["e2e_mean"] >= bound for row in found["rows"])


def test_the_same_bits_whoever_runs_them(folder: Path) -> None:
    """One worker or two, another hash seed, other policies beside it: the same results."""
    words = ("run", "small.yaml", "--json")
    one = json.loads(rota(*words, "--out", "a", "--jobs", "1", cwd=folder, PYTHONHASHSEED="1").stdout)
    two = json.loads(rota(*words, "--out", "b", "--jobs", "2", cwd=folder, PYTHONHASHSEED="2").stdout)
    assert one["rows"] == two["rows"]
    few = json.loads(
        rota(*words, "--out", "c", "--set", "policies=[{name: lots, order: random, route: random}]", cwd=folder).stdout
    )
    assert few["rows"] == [row for row in one["rows"] if row["policy"] == "lots"]


def test_a_failing_policy_does_not_stop_the_others(folder: Path) -> None:
    policies = "[{name: turns}, {name: broken, order: 'my_policy:Broken'}, {name: peeks, order: 'my_policy:Peeks'}]"
    words = (
        "--set",
        "information.output_tokens=exact",
        "--set",
        f"policies={policies}",
        "--set",
        "workload.generate.rate=200",
    )
    done = rota("run", "small.yaml", "--out", "out", "--seeds", "1", *words, cwd=folder)
    text = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stderr
    assert "broken, seed 0 failed: RuntimeError: no idea" in text
    assert "column prompt_tokens was not declared: add it to `reads`" in text


def test_an_interrupted_study_goes_on(folder: Path) -> None:
    assert rota("run", "small.yaml", "--out", "out", "--json", cwd=folder).returncode == 0
    whole = pl.read_parquet(folder / "out/summary.parquet")
    manifest = json.loads((folder / "out/manifest.json").read_text())
    manifest["status"] = "running"
    (folder / "out/manifest.json").write_text(json.dumps(manifest))
    assert "not complete" in rota("show", "out", cwd=folder).stderr
    assert rota("run", "small.yaml", "--out", "out", "--json", cwd=folder).returncode == 0
    assert pl.read_parquet(folder / "out/summary.parquet").equals(whole)


MISTAKES = {
    "unknown key": (["--set", "fleets=1"], "unknown key 'fleets'; did you mean 'fleet'?"),
    "unknown key inside": (["--set", "fleet.0.max_runing=3"], "unknown key 'max_runing'; did you mean 'max_running'"),
    "unknown policy": (["--set", "policies.0.order=fcsf"], "unknown order 'fcsf'; did you mean 'fcfs'?"),
    "unknown parameter": (
        ["--set", "policies.1.batch={sarathi: {chunk: 3}}"],
        "unknown parameter 'chunk' (known: chunk_tokens, watermark)",
    ),
    "unknown gpu": (["--set", "fleet.0.gpu=a100-80"], "gpu 'a100-80' is not in the catalogue; did you mean 'a100-80g'"),
    "unknown model": (["--set", "fleet.0.model=llama-3-8"], "did you mean 'llama-3-8b'"),
    "too big": (["--set", "fleet.0.model=llama-3-70b"], "does not fit on a100-80g"),
    "missing trace": (["--set", "workload={trace: gone.csv}"], "gone.csv"),
    "negative": (["--set", "fleet.0.count=-1"], "fleet[0].count"),
    "objective": (["--set", "objective=ttft"], "objective: 'ttft' is not a metric; did you mean"),
    "seeds": (["--set", "seeds=0"], "seeds: expected a number of seeds"),
    "set": (["--set", "fleet.9.count=1"], "fleet.9 does not exist (items are 0..0)"),
    "world": (["--set", "world=servng"], "world: 'servng' does not exist; did you mean 'serving'?"),
    "budget": (["--set", "fleet.0.max_batched_tokens=8"], "max_batched_tokens (8) must be at least max_running (16)"),
    "no policies": (["--set", "policies=[]"], "policies: give a list of at least one"),
    "same name": (["--set", "policies.1.name=turns"], "the name 'turns' is taken by policies[0]"),
    "module": (["--set", "policies.0.order=nothing:Here"], "nothing"),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_is_one_line_and_exit_code_two(mistake: str, folder: Path) -> None:
    words, expected = MISTAKES[mistake]
    done = rota("run", "small.yaml", "--out", "out", *words, cwd=folder)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("world: serving\nworld: serving\n", "line 2: the key 'world' is already on line 1"),
        ("world: [serving\n", "is not YAML"),
        ("- 1\n", "a scenario is a mapping"),
        ("", "a scenario is a mapping"),
        ("policies: []\n", "world: missing"),
    ],
)
def test_a_file_that_is_no_scenario(text: str, expected: str, folder: Path) -> None:
    (folder / "bad.yaml").write_text(text)
    done = rota("check", "bad.yaml", cwd=folder)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_of_something_else_is_left_alone(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/thesis.txt").write_text("mine")
    done = rota("run", "small.yaml", "--out", "out", cwd=folder)
    assert done.returncode == 2
    assert "is not empty and holds no study" in done.stderr
    assert [entry.name for entry in (folder / "out").iterdir()] == ["thesis.txt"]
    assert rota("run", "small.yaml", "--out", "here", "--seeds", "1", cwd=folder).returncode == 0
    other = rota("run", "small.yaml", "--out", "here", "--seeds", "2", cwd=folder)
    assert other.returncode == 2
    assert "holds another study" in other.stderr


def test_check_and_lists(folder: Path) -> None:
    done = rota("check", "small.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "policy sizes: would be skipped" in done.stdout
    for what in ("worlds", "policies", "gpus", "models"):
        found = json.loads(rota("list", what, "--json", cwd=folder).stdout)
        assert found[what]
    assert "did you mean 'policies'" in rota("list", "policys", cwd=folder).stderr
    assert rota("--version", cwd=folder).stdout.startswith("rota 0.")


def test_where_no_policy_applies_check_and_run_agree(folder: Path) -> None:
    words = ("small.yaml", "--set", "policies=[{name: a, order: sjf}]")
    for command in (("check", *words), ("run", *words, "--out", "out", "--jobs", "1")):
        done = rota(*command, cwd=folder)
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr.strip() == "error: policies: none applies here; the reasons are above"
        assert "it reads size, which is hidden" in " ".join(done.stdout.split())


def test_a_policy_that_says_its_name_says_it_once(folder: Path) -> None:
    done = rota("check", "small.yaml", "--set", "policies.0.scale={predictive: {rate: 0}}", cwd=folder)
    assert done.returncode == 2
    assert "policy turns, scale: predictive: needs rate > 0" in done.stderr
    done = rota("check", "small.yaml", "--set", "policies.0.batch={qllm: {switch: -1}}", cwd=folder)
    assert done.returncode == 2
    assert "error: policy turns, batch: qllm: switch and chunk_tokens" in done.stderr


def test_a_study_of_other_code_is_run_again(folder: Path) -> None:
    assert rota("run", "small.yaml", "--out", "out", "--seeds", "1", cwd=folder).returncode == 0
    manifest = folder / "out/manifest.json"
    known = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**known, "source": "0123456789abcdef"}))
    again = rota("run", "small.yaml", "--out", "out", "--seeds", "1", cwd=folder)
    assert again.returncode == 0, again.stderr
    lines = [line for line in again.stderr.splitlines() if "is run again" in line]
    assert len(lines) == 1
    assert "(source 01234567)" in lines[0]
    assert json.loads(manifest.read_text())["source"] == known["source"]
    assert "is run again" not in rota("run", "small.yaml", "--out", "out", "--seeds", "1", cwd=folder).stderr
