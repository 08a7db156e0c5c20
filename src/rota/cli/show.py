"""`rota show` and `rota report`: a finished study once more."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from rota.study.statistics import LeagueRow, league
from rota.study.store import Study, load


def show_study(folder: Path, as_json: bool) -> None:
    """Print the league of a study. Raises InputError where the folder holds none."""
    study = load(folder)
    if as_json:
        print_json(study, league(study))
        return
    from rich.console import Console

    from rota.report.league import render

    Console(width=None if sys.stdout.isatty() else 120).print(render(study, league(study)))


def rebuild_report(folder: Path) -> None:
    """Write the report of a study again. Raises InputError where the folder holds none."""
    from rota.report.page import write_page

    study = load(folder)
    write_page(study, league(study), folder / "report.html")
    print(f"report: {folder / 'report.html'}")


def print_json(study: Study, table: Sequence[LeagueRow]) -> None:
    """One object: the scenario, a row a run, the league. What is not a number is null."""
    rows = [
        {"policy": row.pop("policy"), "seed": row.pop("seed"), "metrics": row}
        for row in study.summary.sort("seed").to_dicts()
    ]
    order = {name: place for place, name in enumerate(study.policies)}
    rows.sort(key=lambda row: (order.get(row["policy"], len(order)), row["seed"]))
    document = {
        "scenario": study.scenario,
        "rows": rows,
        "league": [asdict(row) for row in table],
        "bounds": study.bounds,
        "skipped": [{"policy": name, "reason": reason} for name, reason in study.skipped],
        "failures": [{"run": name, "error": error} for name, error in study.failures],
        "notices": study.notices,
    }
    print(json.dumps(_plain(document), allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
