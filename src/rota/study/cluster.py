"""The same study on a Ray cluster: cells are computed anywhere and stored here, so that nodes need not share a disk for the results.

What a cell gives depends on its words and its seed alone, so a cell whose worker was killed is simply computed again. The scenario's folder (its
trace, a user's own policies) must be at the same path on every node.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rota.kernel.errors import InputError, MissingExtraError
from rota.study.runner import Cell, Computed, Worker
from rota.study.scenario import Scenario, parse

RETRIES = 3  # how often a cell is tried again whose worker died
AHEAD = 2  # cells in flight for each process: enough to keep it busy, few enough to interrupt

_worker: tuple[str, Worker] | None = None


def _compute(document: dict[str, Any], folder: Path, digest: str, cell: Cell) -> Computed:
    """In a worker: build the world once, then run cell by cell."""
    global _worker
    if _worker is None or _worker[0] != digest:
        _worker = digest, Worker(parse(document, folder))
    return _worker[1].run(cell)


def run_on_ray(
    scenario: Scenario, todo: Sequence[Cell], jobs: int, address: str | None
) -> Iterator[tuple[Cell, Computed]]:
    """Yield every cell with its result, in the order in which they end.

    Args:
        scenario: What to run.
        todo: The cells.
        jobs: Processes of a local cluster that is started when no address is given.
        address: Of a running cluster, such as ``auto`` or ``ray://head:10001``.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: the cluster cannot be reached, or a cell's worker died again and again.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("--executor ray needs Ray: pip install 'rota[ray]'") from None

    settings: Mapping[str, Any] = {"address": address} if address else {"num_cpus": jobs, "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"--address {address}: no Ray cluster answers there ({str(error).splitlines()[0]})") from None
    try:
        compute = ray.remote(num_cpus=1, max_retries=RETRIES)(_compute)
        document, digest = ray.put(scenario.resolved()), scenario.digest()
        waiting, flying = list(reversed(todo)), dict[Any, Cell]()
        resources: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        room = AHEAD * max(1, int(resources.get("CPU", jobs)))
        while waiting or flying:
            while waiting and len(flying) < room:
                cell = waiting.pop()
                flying[compute.remote(document, scenario.folder, digest, cell)] = cell
            [done], _ = ray.wait(list(flying), num_returns=1)
            cell = flying.pop(done)
            try:
                yield cell, ray.get(done)
            except ray.exceptions.WorkerCrashedError:
                raise InputError(
                    f"the worker of {cell.name} died {RETRIES + 1} times, perhaps for want of memory; what was finished is kept: run again"
                ) from None
    finally:
        ray.shutdown()
