"""Run a study: every policy on every seed, over local processes, so that it can be interrupted and goes on.

Workers are spawned, not forked: polars keeps threads that a fork would break. Everything is compiled in the parent first, so a worker
only loads it. Each worker builds the world and draws the workload of a seed itself, from the same words and the same streams:
cheaper than sending it, and the same to the bit.
"""

import json
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite, nan
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from rota.kernel.errors import InputError, RotaError, nearest
from rota.kernel.world import RunResult
from rota.study import store
from rota.study.scenario import Scenario, parse

Progress = Callable[[int, int, str], None]  # done, in all, what was done last
BOUNDS = "bounds"
EXECUTORS = ("processes", "ray")


@dataclass(frozen=True)
class Cell:
    """One policy on one seed; the bound of a seed has no policy."""

    name: str  # of its files: zero-padded, so that sorting is the order of the scenario
    policy: Mapping[str, Any] | None
    seed: int


@dataclass(frozen=True)
class Failure:
    """Why a run failed: one line, and the trace."""

    error: str
    trace: str


Computed = RunResult | Failure | dict[str, Any]  # of a policy's run, or of a seed's bound


def run_study(
    scenario: Scenario,
    out: Path,
    jobs: int = 1,
    progress: Progress | None = None,
    executor: str = "processes",
    address: str | None = None,
    say: Callable[[str], None] | None = None,
) -> store.Study:
    """Run what is not yet done and return the finished study.

    Args:
        scenario: What to run.
        out: The folder of results; an interrupted study of the same scenario is resumed, and one that other code has run is set aside and run again.
        jobs: Processes. The results do not depend on it.
        progress: Called after each run.
        executor: ``"processes"`` on this machine, or ``"ray"``.
        address: Of a Ray cluster; without one, a local one is started with `jobs` processes.
        say: Called with one line where the study is run again, and why.

    Raises:
        InputError: the folder cannot be used, or a policy of the scenario is wrong.
        MissingExtraError: Ray is asked for and not installed.
        KeyboardInterrupt: passed on; what was finished is kept.
    """
    applies, skipped = _who_applies(scenario)
    digest = scenario.digest()
    if jobs < 1:
        raise InputError(f"jobs: expected at least 1, found {jobs}")
    if executor not in EXECUTORS:
        raise InputError(f"executor: '{executor}' does not exist{nearest(executor, EXECUTORS)}")
    if address is not None and executor != "ray":
        raise InputError("address: is of a Ray cluster; give --executor ray with it")
    first = scenario.world.workload(
        scenario.case, scenario.seeds[0]
    )  # a wrong trace is told before anything is written
    environment = store.environment()
    if store.open_folder(out, digest, environment, say or (lambda line: None)):
        return store.load(out)
    manifest: dict[str, Any] = {
        **environment,
        "scenario_hash": digest,
        "folder": str(scenario.folder.resolve()),
        "seeds": list(scenario.seeds),
        "skipped": skipped,
        "describe": [list(line) for line in scenario.world.describe(scenario.case)],
        "random_workload": scenario.world.random_workload(scenario.case),
        "files": scenario.files(),
        "status": "running",
    }
    store.write_manifest(out, manifest)
    text = yaml.safe_dump(scenario.resolved(), sort_keys=False, allow_unicode=True)
    store.whole(out / "scenario.yaml", text.encode())
    cells = _cells(scenario, applies)
    todo = [cell for cell in cells if not (out / "cells" / f"{cell.name}.json").is_file()]
    tell = progress or (lambda done, total, what: None)
    tell(len(cells) - len(todo), len(cells), "compiling")
    _prepare(scenario, [cell.policy for cell in todo if cell.policy is not None and cell.seed == todo[-1].seed])
    with _interruptible() as check:

        def told(done: int, total: int, what: str) -> None:
            tell(done, total, what)
            check()

        if executor == "ray":
            from rota.study.cluster import run_on_ray

            done = len(cells) - len(todo)
            for cell, computed in run_on_ray(scenario, todo, jobs, address):
                keep(out, cell, computed)
                done += 1
                told(done, len(cells), _title(cell))
        else:
            _run(scenario, out, todo, len(cells), min(jobs, len(todo)), told, first)
        check()
    manifest["bounds"], manifest["notices"] = _bounds(out)
    store.finish(out, manifest)
    return store.load(out)


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Remember Ctrl-C: raised while compiled code calls back, KeyboardInterrupt is lost, so it is raised again between runs."""
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield lambda: None
        return
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)


def _who_applies(scenario: Scenario) -> tuple[list[Mapping[str, Any]], list[list[str]]]:
    applies: list[Mapping[str, Any]] = []
    skipped = []
    for policy in scenario.policies:
        try:
            reason = scenario.world.resolve(scenario.case, policy, scenario.folder)
        except RotaError:
            raise
        except Exception as error:  # a user's own constructor, or `supports`
            raise InputError(f"policy {policy['name']}: {_line(error)}") from error
        if reason is None:
            applies.append(policy)
        else:
            skipped.append([str(policy["name"]), reason])
    return applies, skipped


def _prepare(scenario: Scenario, policies: list[Mapping[str, Any]]) -> None:
    """Compile once, here. A policy that fails here fails in its runs too, where it is recorded."""
    for policy in policies:
        try:
            scenario.world.prepare(scenario.case, [policy])
        except Exception:
            continue


def _line(error: Exception) -> str:
    """An error in one line; its kind is told where it was not raised on purpose."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, RotaError) else f"{type(error).__name__}: {text}"


def _cells(scenario: Scenario, policies: list[Mapping[str, Any]]) -> list[Cell]:
    """All cells, seed by seed: a worker that stays with a seed draws its workload once."""
    cells = []
    for s, seed in enumerate(scenario.seeds):
        cells.append(Cell(f"{BOUNDS}-{s:04d}", None, seed))
        cells += [Cell(f"run-{p:04d}-{s:04d}", policy, seed) for p, policy in enumerate(policies)]
    return cells


def _run(scenario: Scenario, out: Path, todo: list[Cell], total: int, jobs: int, tell: Progress, workload: Any) -> None:
    done = total - len(todo)
    if jobs <= 1:
        worker = Worker(scenario, workload)
        for cell in todo:
            keep(out, cell, worker.run(cell))
            done += 1
            tell(done, total, _title(cell))
        return
    start = (scenario.resolved(), scenario.folder, out)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker, start) as pool:
        waiting: dict[Future[None], Cell] = {pool.submit(_work, cell): cell for cell in todo}
        try:
            while waiting:
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    cell = waiting.pop(future)
                    future.result()
                    done += 1
                    tell(done, total, _title(cell))
        except BrokenProcessPool:
            raise InputError(
                f"{out}: a worker process died, perhaps for want of memory; what was finished is kept: run again, with fewer --jobs"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _title(cell: Cell) -> str:
    return f"{cell.policy['name'] if cell.policy else 'bound'}, seed {cell.seed}"


def keep(out: Path, cell: Cell, computed: Computed) -> None:
    """Store what a cell gave."""
    if cell.policy is None:
        store.whole(out / "cells" / f"{cell.name}.json", json.dumps(computed).encode())
    elif isinstance(computed, Failure):
        store.write_failure(out, cell.name, str(cell.policy["name"]), cell.seed, computed.error, computed.trace)
    elif isinstance(computed, RunResult):
        store.write_cell(out, cell.name, str(cell.policy["name"]), cell.seed, computed)


class Worker:
    """Runs cells in one process; keeps the workload of the seed at hand."""

    def __init__(self, scenario: Scenario, first: Any = None) -> None:
        self.scenario = scenario
        self._seed: int | None = None if first is None else scenario.seeds[0]
        self._workload = first  # of the first seed, where it was drawn already

    def run(self, cell: Cell) -> Computed:
        """A policy's result on a seed, or the seed's bound. A policy is anybody's code: its failure is a result too."""
        world, case = self.scenario.world, self.scenario.case
        if self._seed != cell.seed:
            self._workload, self._seed = world.workload(case, cell.seed), cell.seed
        if cell.policy is None:
            try:
                return {"bounds": world.bounds(case, self._workload)}
            except Exception as error:  # a study without a bound is still a study
                return {"bounds": {}, "no_bounds": _line(error)}
        try:
            return world.run(case, self._workload, cell.policy, cell.seed)
        except Exception as error:
            return Failure(_line(error), traceback.format_exc())


_worker: tuple[Worker, Path] | None = None


def _start_worker(document: dict[str, Any], folder: Path, out: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    global _worker
    _worker = Worker(parse(document, folder)), out


def _work(cell: Cell) -> None:
    if _worker is None:
        raise RuntimeError("the worker was not started")
    worker, out = _worker
    keep(out, cell, worker.run(cell))


def _bounds(out: Path) -> tuple[dict[str, float], list[str]]:
    """Means over the seeds of what no policy can beat, where every seed has it; and why there are none."""
    read = [json.loads(path.read_text()) for path in sorted((out / "cells").glob(f"{BOUNDS}-*.json"))]
    found = [each["bounds"] for each in read]
    names = [name for name in (found[0] if found else ()) if all(isfinite(each.get(name, nan)) for each in found)]
    notices = dict.fromkeys(f"no bound: {each['no_bounds']}" for each in read if "no_bounds" in each)
    return {name: sum(each[name] for each in found) / len(found) for name in names}, list(notices)
