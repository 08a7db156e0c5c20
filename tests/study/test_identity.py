"""A finished study is taken for one only where the same code would run it: otherwise it is run again, and one line says why."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.study.small import write

import rota
from rota.study import store
from rota.study.identity import source
from rota.study.runner import run_study
from rota.study.scenario import read


def ran(folder: Path, **changes: Any) -> dict[str, Any]:
    """The manifest of a study, as if other code had written it."""
    path = folder / "manifest.json"
    manifest: dict[str, Any] = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in manifest.items() if value is not None}))
    return manifest


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"source": "0123456789abcdef"}, "was run by rota {v} (source 01234567), and this is rota {v} (source {s}): "),
        ({"rota": "0.0.9"}, "was run by rota 0.0.9 (source {s}), and this is rota {v} (source {s}): "),
        ({"source": None}, "was run by rota {v} (source unknown), and this is rota {v} (source {s}): "),
    ],
)
def test_other_code_runs_a_finished_study_again(other: dict[str, Any], says: str, tmp_path: Path) -> None:
    path, out = write(tmp_path), tmp_path / "out"
    first = run_study(read(path), out)
    ran(out, **other)
    pl.DataFrame({"wrong": [1]}).write_parquet(out / "spans.parquet")
    (out / "report.html").write_text("of the results before")
    before = sorted(each.name for each in out.iterdir())
    told: list[str] = []
    runs: list[str] = []
    again = run_study(read(path), out, 1, lambda done, total, what: runs.append(what), say=told.append)
    expected = says.format(v=rota.__version__, s=source()[:8])
    by = str(other.get("source", source()) or "unknown")[:8]
    assert told == [f"{out}: this study {expected}it is run again, and what was there is now in out.{by}"]
    assert sorted(each.name for each in (tmp_path / f"out.{by}").iterdir()) == before
    assert (tmp_path / f"out.{by}/report.html").read_text() == "of the results before"
    assert len([what for what in runs if "seed" in what]) == 6
    assert again.outcomes.equals(first.outcomes, null_equal=True)
    assert again.spans.equals(first.spans, null_equal=True)
    assert not (out / "report.html").exists()
    assert again.manifest["source"] == source()
    assert (
        run_study(read(path), out, 1, lambda *each: pytest.fail("is run a third time"), say=told.append).summary.height
        == 4
    )
    assert len(told) == 1


def test_cells_of_other_code_are_not_taken_up(tmp_path: Path) -> None:
    path, out = write(tmp_path), tmp_path / "out"

    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(read(path), out, 1, stop)
    ran(out, source="0123456789abcdef")
    told: list[str] = []
    runs: list[str] = []
    run_study(read(path), out, 1, lambda done, total, what: runs.append(what), say=told.append)
    assert len(told) == 1
    assert any((tmp_path / "out.01234567/cells").iterdir())  # to be taken up by that code
    assert len([what for what in runs if "seed" in what]) == 6  # with the three that were there


def test_results_of_other_code_are_never_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice by the same other code, and in the working directory itself."""
    path, out = write(tmp_path), tmp_path / "out"
    out.mkdir()
    monkeypatch.chdir(out)
    for _ in range(3):
        run_study(read(path), Path("."))
        ran(out, source="0123456789abcdef")
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_dir()) == [
        "out",
        "out.01234567",
        "out.01234567-2",
    ]
    assert all((tmp_path / name / "outcomes.parquet").exists() for name in ("out.01234567", "out.01234567-2"))


def test_the_scenario_of_another_study_is_still_refused(tmp_path: Path) -> None:
    path, out = write(tmp_path), tmp_path / "out"
    run_study(read(path), out)
    ran(out, source="0123456789abcdef")
    before = sorted(each.name for each in out.iterdir())
    with pytest.raises(Exception, match="holds another study"):
        run_study(read(path, ["fleet.0.count=3"]), out)
    assert sorted(each.name for each in out.iterdir()) == before


def test_the_source_is_code_and_tables_by_name_and_content(tmp_path: Path) -> None:
    package = tmp_path / "rota"
    (package / "kernel/__pycache__").mkdir(parents=True)
    for name in ("a.py", "kernel/b.py", "kernel/gpus.toml", "kernel/seeds.json"):
        (package / name).write_text("x = 1\n")
    seen = [source(package)]
    for name in ("a.py", "kernel/b.py", "kernel/gpus.toml", "kernel/seeds.json", "kernel/new.py"):
        (package / name).write_text("x = 2\n")
        seen.append(source(package))
    shutil.move(package / "a.py", package / "c.py")
    seen.append(source(package))
    assert len(set(seen)) == len(seen)
    (package / "kernel/__pycache__/b.pyc").write_bytes(b"x")
    (package / "page.html").write_text("x")
    assert source(package) == seen[-1]


def test_the_manifest_has_the_installed_source(tmp_path: Path) -> None:
    study = run_study(read(write(tmp_path)), tmp_path / "out")
    assert study.manifest["source"] == source(Path(rota.__file__).parent) == store.environment()["source"]
