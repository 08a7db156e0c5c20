"""Studies: the same bits however they are run, resumed where they stopped, and failing in pieces only."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.study.small import BROKEN_POLICY, SMALL, TRACE, replay, write

from rota.kernel.errors import InputError
from rota.study import store
from rota.study.runner import run_study
from rota.study.scenario import read
from rota.study.statistics import league


def test_a_study_leaves_its_folder(tmp_path: Path) -> None:
    out, told = tmp_path / "out", []
    study = run_study(read(write(tmp_path)), out, 1, lambda done, total, what: told.append((done, total)))
    assert sorted(each.name for each in out.iterdir()) == [
        "manifest.json", "outcomes.parquet", "scenario.yaml", "series.parquet", "spans.parquet", "summary.parquet",
    ]  # fmt: skip
    assert study.summary.height == 4
    assert study.outcomes.height == 4 * 300
    assert study.outcomes.columns[:2] == ["policy", "seed"]
    assert study.policies == ("turns", "luck")
    assert told[-1][0] == told[-1][1]
    assert study.manifest["rota"]
    assert [row.rank for row in league(study)] == [1, 2]


def test_workers_other_policies_and_hash_seeds_change_nothing(tmp_path: Path) -> None:
    path = write(tmp_path)
    one = run_study(read(path), tmp_path / "one", 1)
    two = run_study(read(path), tmp_path / "two", 2)
    alone = run_study(read(path, ["policies=[{name: luck, route: random}]"]), tmp_path / "alone", 1)
    for table in ("outcomes", "summary", "series", "spans"):
        mine = getattr(one, table)
        assert mine.equals(getattr(two, table), null_equal=True)
        assert mine.filter(pl.col("policy") == "luck").equals(getattr(alone, table), null_equal=True)
    code = (
        "import sys; from pathlib import Path; from rota.study.runner import run_study; from rota.study.scenario import read\n"
        "if __name__ == '__main__': run_study(read(Path(sys.argv[1])), Path(sys.argv[2]), 1)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, path, tmp_path / "hashed"], env=environment, check=True)
    assert store.load(tmp_path / "hashed").outcomes.equals(one.outcomes, null_equal=True)


def test_an_interrupted_study_resumes(tmp_path: Path) -> None:
    path, out = write(tmp_path), tmp_path / "out"
    seen: list[str] = []

    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(read(path), out, 1, stop)
    with pytest.raises(InputError, match="not complete"):
        store.load(out)
    kept = sorted(each.name for each in (out / "cells").glob("*.json"))
    assert len(kept) == 3
    study = run_study(read(path), out, 1, lambda done, total, what: seen.append(what))
    assert len([what for what in seen if "seed" in what]) == 3  # six cells with the bounds, three were left
    assert study.outcomes.equals(run_study(read(path), tmp_path / "whole", 1).outcomes, null_equal=True)


def test_a_complete_study_is_not_run_again(tmp_path: Path) -> None:
    path, out, told = write(tmp_path), tmp_path / "out", []
    first = run_study(read(path), out, 1)
    written = (out / "manifest.json").stat().st_mtime_ns
    again = run_study(read(path), out, 1, lambda *each: told.append(each))
    assert not told
    assert again.summary.equals(first.summary, null_equal=True)
    assert (out / "manifest.json").stat().st_mtime_ns == written


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    path, out = write(tmp_path), tmp_path / "out"
    run_study(read(path), out, 1)
    with pytest.raises(InputError, match="holds another study"):
        run_study(read(path, ["fleet.0.count=3"]), out, 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="is not empty and holds no study"):
        run_study(read(path), tmp_path / "full", 1)
    with pytest.raises(InputError, match="cannot be made"):
        run_study(read(path), path / "under a file", 1)
    assert [each.name for each in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_a_full_disk_is_one_line_and_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out, replace = write(tmp_path), tmp_path / "out", os.replace
    finished: list[Any] = []

    def full(source: Any, target: Any) -> None:
        if str(target).endswith(".json") and "run-" in str(target):
            finished.append(target)
            if len(finished) == 2:
                raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        run_study(read(path), out, 1)
    monkeypatch.undo()
    assert len(list((out / "cells").glob("run-*.json"))) == 1
    assert not [each for each in out.rglob("*") if each.name.startswith(".")]
    assert run_study(read(path), out, 1).summary.height == 4


def test_a_failing_policy_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BROKEN_POLICY, encoding="utf-8")
    path = write(tmp_path, SMALL.replace("route: random", "order: 'mine:Breaks'"))
    study = run_study(read(path), tmp_path / "out", 1)
    assert study.policies == ("turns",)
    assert study.summary.height == 2
    assert len(study.failures) == 2
    assert study.failures[0][0] == "luck, seed 0"
    assert "the user's bug" in study.failures[0][1]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert "Traceback" in manifest["failures"][0][2]
    assert "mine.py" in manifest["files"]


def test_a_study_in_which_everything_fails_has_an_empty_league(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BROKEN_POLICY, encoding="utf-8")
    path = write(tmp_path, SMALL)
    study = run_study(read(path, ["policies=[{name: bad, order: 'mine:Breaks'}]"]), tmp_path / "out", 1)
    assert league(study) == []
    assert study.summary.height == 0


def test_a_policy_that_does_not_apply_is_skipped_with_the_reason(tmp_path: Path) -> None:
    study = run_study(read(write(tmp_path), ["policies.1.order=sjf"]), tmp_path / "out", 1)
    assert study.policies == ("turns",)
    assert study.skipped[0][0] == "luck"
    assert "hidden" in study.skipped[0][1]


def test_seeds_of_a_trace_that_change_nothing_are_told(tmp_path: Path) -> None:
    study = run_study(read(replay(tmp_path, seeds=2)), tmp_path / "out", 1)
    assert any("one seed is enough" in each for each in study.notices)
    rows = league(study)
    assert "one trace" in rows[0].method
    assert rows[1].p_value == 1.0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert list(manifest["files"]) == ["trace.csv"]


def test_a_wrong_trace_is_told_before_anything_is_written(tmp_path: Path) -> None:
    path = replay(tmp_path)
    (tmp_path / "trace.csv").write_text(TRACE + "x,1,1\n", encoding="utf-8")
    with pytest.raises(InputError):
        run_study(read(path), tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_damaged_studies_are_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_study(read(write(tmp_path)), out, 1)
    (out / "summary.parquet").write_bytes(b"junk")
    with pytest.raises(InputError, match="is damaged"):
        store.load(out)
    (out / "manifest.json").write_text("junk", encoding="utf-8")
    with pytest.raises(InputError, match="not readable as JSON"):
        store.load(out)
    with pytest.raises(InputError, match="holds no study"):
        store.load(tmp_path)
