"""A study on disk: plain Parquet and JSON, each file whole or not at all, readable without rota.

While a study runs, every finished cell (one policy on one seed) lies in ``cells/``; an interrupted study goes on from there.
When it is complete the cells become ``outcomes``, ``summary``, ``series`` and ``spans``, one table each.
"""

import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from rota import __version__
from rota.kernel.errors import InputError
from rota.kernel.world import Measure, RunResult
from rota.study.identity import source
from rota.worlds import world

TABLES = ("outcomes", "series", "spans")
ENVIRONMENT = (
    "rota",
    "python",
    "packages",
    "machine",
    "scenario_hash",
    "files",
    "random_workload",
    "source",
)  # shown by the report
OWN = {
    "cells",
    "manifest.json",
    "scenario.yaml",
    "report.html",
    "summary.parquet",
    *(f"{table}.parquet" for table in TABLES),
}


@dataclass(frozen=True)
class Study:
    """A finished study. The tables have the columns `policy` and `seed` before those of the world."""

    folder: Path
    scenario: dict[str, Any]
    world: str
    measures: Mapping[str, Measure]
    objective: str
    policies: tuple[str, ...]  # those that finished at least one run, in the order of the scenario
    seeds: tuple[int, ...]
    outcomes: pl.DataFrame
    summary: pl.DataFrame
    series: pl.DataFrame
    spans: pl.DataFrame
    bounds: dict[str, float]
    knew: dict[str, str]
    notices: list[str]
    describe: list[tuple[str, str]]
    failures: list[tuple[str, str]]
    skipped: list[tuple[str, str]]
    manifest: dict[str, Any] = field(repr=False)


def whole(path: Path, data: bytes) -> None:
    """Write a file so that it is either whole or as it was before. Raises InputError where it cannot be written."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror}); what was finished is kept") from None


def whole_table(path: Path, frame: pl.DataFrame | pl.LazyFrame) -> None:
    """Write a table as Parquet, whole or not at all. Raises InputError where it cannot be written."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if isinstance(frame, pl.LazyFrame):
            frame.sink_parquet(part, compression="zstd", compression_level=1)
        else:
            frame.write_parquet(part, compression="zstd", compression_level=1)
        os.replace(part, path)
    except (OSError, pl.exceptions.PolarsError) as error:
        part.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be written ({reason}); what was finished is kept") from None


def open_folder(folder: Path, digest: str, ran: Mapping[str, Any], tell: Callable[[str], None]) -> bool:
    """Make the folder of a study, or take up an interrupted one. Says whether this very study is complete there.

    What other code left there of the same study, finished or not, is set aside in a folder beside it, and one line told: results may differ.

    Args:
        folder: Of the study.
        digest: Of its scenario and files.
        ran: The `environment` that is to run it.
        tell: Takes the line.

    Raises:
        InputError: the folder belongs to another study or to something else, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        inside = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another with --out") from None
    manifest = _json(folder / "manifest.json") if "manifest.json" in inside else None
    if manifest is not None and manifest.get("scenario_hash") != digest:
        raise InputError(f"{folder}: holds another study; choose another folder with --out, or remove this one")
    same = manifest is None or all(manifest.get(name) == ran[name] for name in ("rota", "source"))
    if manifest is not None and manifest.get("status") == "complete" and same:
        return True
    if manifest is None and inside - {"cells"}:
        raise InputError(f"{folder}: is not empty and holds no study; choose another folder with --out")
    foreign = sorted(inside - OWN)
    if foreign:
        raise InputError(f"{folder}: holds {foreign[0]}, which is no part of a study; move it, or choose another --out")
    if manifest is not None and not same:
        aside = _set_aside(folder, sorted(inside & OWN), str(manifest.get("source", "unknown"))[:8])
        tell(
            f"{folder}: this study was run by {_code(manifest)}, and this is {_code(ran)}: it is run again, and what was there is now in {aside.name}"
        )
    try:
        (folder / "cells").mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another with --out") from None
    return False


def _code(ran: Mapping[str, Any]) -> str:
    return f"rota {ran.get('rota', 'of an unknown version')} (source {str(ran.get('source', 'unknown'))[:8]})"


def _set_aside(folder: Path, names: list[str], by: str) -> Path:
    """Move what a study has left into a new folder beside its own, the manifest last: until then it is known whose it is."""
    place = folder.resolve()
    number, aside = 1, place.with_name(f"{place.name}.{by}")
    while aside.exists():
        number += 1
        aside = place.with_name(f"{place.name}.{by}-{number}")
    try:
        aside.mkdir()
        for name in sorted(names, key=lambda each: each == "manifest.json"):
            (folder / name).rename(aside / name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be set aside ({error.strerror}); choose another with --out") from None
    return aside


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path}: is not readable as JSON; was it written by rota?") from None
    return found if isinstance(found, dict) else {}


def write_cell(folder: Path, cell: str, policy: str, seed: int, result: RunResult) -> None:
    """Store one run. The JSON file is written last: where it is, the cell is whole."""
    tag = (pl.lit(policy).alias("policy"), pl.lit(seed).alias("seed"))
    for table in TABLES:
        columns = getattr(result, table)
        if columns:
            frame = pl.DataFrame(columns)
            whole_table(folder / "cells" / f"{cell}.{table}.parquet", frame.select(*tag, *frame.columns))
    about = {
        "policy": policy,
        "seed": seed,
        "metrics": result.metrics,
        "knew": result.knew,
        "notices": list(result.notices),
    }
    whole(folder / "cells" / f"{cell}.json", json.dumps(about).encode())
    (folder / "cells" / f"{cell}.failed.json").unlink(missing_ok=True)  # of an attempt before


def write_failure(folder: Path, cell: str, policy: str, seed: int, error: str, trace: str) -> None:
    """Store that a run failed and why. It is tried again when the study is resumed."""
    about = {"policy": policy, "seed": seed, "error": error, "trace": trace}
    whole(folder / "cells" / f"{cell}.failed.json", json.dumps(about).encode())


def finish(folder: Path, manifest: dict[str, Any]) -> None:
    """Turn the cells into the tables of the study."""
    cells = [_json(path) for path in sorted((folder / "cells").glob("*.json"))]
    done = [cell for cell in cells if "metrics" in cell]
    failed = [cell for cell in cells if "error" in cell]
    for table in TABLES:
        parts = sorted((folder / "cells").glob(f"*.{table}.parquet"))
        if parts:
            whole_table(folder / f"{table}.parquet", pl.concat([pl.scan_parquet(part) for part in parts]))
    rows = [{"policy": cell["policy"], "seed": cell["seed"], **cell["metrics"]} for cell in done]
    empty = {"policy": pl.String, "seed": pl.Int64}
    whole_table(
        folder / "summary.parquet", pl.DataFrame(rows, schema=None if rows else empty, infer_schema_length=None)
    )
    manifest["knew"] = {cell["policy"]: cell["knew"] for cell in done}
    manifest["notices"] = [*_notices(done), *manifest.get("notices", [])]
    if not manifest.get("random_workload", True) and len(manifest["seeds"]) > 1 and _alike(done):
        manifest["notices"].append(
            f"all {len(manifest['seeds'])} seeds gave the same results, because nothing here is random: one seed is enough"
        )
    manifest["failures"] = [[f"{cell['policy']}, seed {cell['seed']}", cell["error"], cell["trace"]] for cell in failed]
    manifest["cells"] = [
        {"policy": cell["policy"], "seed": cell["seed"], "status": cell.get("error", "finished")}
        for cell in (*done, *failed)
    ]
    manifest["status"] = "complete"
    write_manifest(folder, manifest)
    shutil.rmtree(folder / "cells", ignore_errors=True)


def _notices(done: list[dict[str, Any]]) -> list[str]:
    """What the runs noticed; a line that every run says is said once, another with the name of its policy."""
    said: dict[str, list[str]] = {}
    for cell in done:
        for line in cell["notices"]:
            said.setdefault(line, []).append(cell["policy"])
    lines = []
    for line, names in said.items():
        lines.append(line if len(names) == len(done) else f"{', '.join(dict.fromkeys(names))}: {line}")
    return lines[:50] + ([f"and {len(lines) - 50} more notices, in the cells' outcomes"] if len(lines) > 50 else [])


def _alike(done: list[dict[str, Any]]) -> bool:
    """Whether every policy gave the same on all its seeds."""
    first: dict[str, str] = {}
    return bool(done) and all(
        first.setdefault(cell["policy"], str(cell["metrics"])) == str(cell["metrics"]) for cell in done
    )


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write what the study is made of: versions, hashes, seeds, status."""
    whole(folder / "manifest.json", json.dumps(manifest, indent=2, sort_keys=True).encode())


def environment() -> dict[str, Any]:
    """Versions, rota's own code and the machine: equal ones give equal bits."""
    packages = {}
    for name in ("numpy", "numba", "llvmlite", "polars", "scipy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    return {
        "rota": __version__,
        "source": source(),
        "python": platform.python_version(),
        "packages": packages,
        "machine": platform.machine(),
    }


def load(folder: Path) -> Study:
    """Read a finished study. Raises InputError where the folder holds none."""
    if not (folder / "manifest.json").is_file():
        raise InputError(f"{folder}: holds no study (there is no manifest.json)")
    manifest = _json(folder / "manifest.json")
    if manifest.get("status") != "complete":
        raise InputError(f"{folder}: this study is not complete; run it again with the same --out to resume it")
    try:
        scenario = yaml.safe_load((folder / "scenario.yaml").read_text(encoding="utf-8"))
        tables = {name: _table(folder / f"{name}.parquet") for name in (*TABLES, "summary")}
    except (OSError, ValueError, yaml.YAMLError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{folder}: is damaged ({str(error).splitlines()[0]})") from None
    found = world(scenario["world"])
    finished = set(tables["summary"]["policy"].to_list()) if tables["summary"].height else set()
    return Study(
        folder=folder,
        scenario=scenario,
        world=scenario["world"],
        measures=found.measures,
        objective=scenario["objective"],
        policies=tuple(policy["name"] for policy in scenario["policies"] if policy["name"] in finished),
        seeds=tuple(scenario["seeds"]),
        bounds={name: float(value) for name, value in manifest.get("bounds", {}).items()},
        knew=manifest.get("knew", {}),
        notices=manifest.get("notices", []),
        describe=[(label, text) for label, text in manifest.get("describe", [])],
        failures=[(name, error) for name, error, _ in manifest.get("failures", [])],
        skipped=[(name, reason) for name, reason in manifest.get("skipped", [])],
        manifest={key: value for key, value in manifest.items() if key in ENVIRONMENT},
        **tables,
    )


def _table(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path) if path.is_file() else pl.DataFrame()
