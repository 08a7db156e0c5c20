"""`rota run`."""

import os
import sys
from pathlib import Path

from rota.cli.show import print_json
from rota.kernel.errors import InputError
from rota.study.runner import run_study
from rota.study.scenario import Scenario, read
from rota.study.statistics import league
from rota.study.store import Study


def run_scenario(
    file: Path,
    overrides: list[str],
    seeds: int | None,
    jobs: int | None,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    executor: str = "processes",
    address: str | None = None,
) -> None:
    """Run a scenario, print its league and write its report. Raises InputError."""
    from rich.console import Console

    from rota.report.league import render
    from rota.report.page import write_page

    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs: must be at least 1, found {jobs}")
    scenario = read(file, overrides, seeds)
    folder = out or Path("rota-results") / f"{_slug(scenario.name)}-{scenario.digest()[:8]}"
    try:
        where = (jobs or os.cpu_count() or 1, executor, address)
        study = _with_progress(scenario, folder, where, quiet or not sys.stderr.isatty())
    except KeyboardInterrupt:  # typer would leave with no word on how to go on
        print(
            f"interrupted: what was finished is kept in {folder}; run the same command again to go on", file=sys.stderr
        )
        sys.exit(130)
    table = league(study)
    write_page(study, table, folder / "report.html")
    if as_json:
        print_json(study, table)
    else:
        console = Console() if sys.stdout.isatty() else Console(width=120)
        console.print(render(study, table))
        console.print(f"report: {folder / 'report.html'}", soft_wrap=True, highlight=False)
    if len(study.skipped) == len(scenario.policies):
        raise InputError("policies: none applies here; the reasons are above")
    if not table:
        sys.exit(1)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name) or "study"


def _with_progress(scenario: Scenario, folder: Path, where: tuple[int, str, str | None], quiet: bool) -> Study:
    jobs, executor, address = where
    if quiet:
        return run_study(scenario, folder, jobs, None, executor, address, lambda line: print(line, file=sys.stderr))
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        return run_study(
            scenario,
            folder,
            jobs,
            lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
            executor,
            address,
            lambda line: bar.console.print(line, soft_wrap=True, highlight=False, markup=False),
        )
