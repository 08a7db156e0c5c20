"""Permutation flow shops, plain, blocking or no-wait: iterated greedy search (Ruiz and Stuetzle 2007) from NEH (Nawaz, Enscore, Ham 1983).

Makespan, total (weighted) flow time and total (weighted) tardiness. A flow shop that does not ask for a permutation gets one all the same: it is
feasible, and for two or three machines some best makespan is one.
"""

from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.streams import stream_key
from rota.worlds.shop.bounds import lower_bound
from rota.worlds.shop.kernels import flow
from rota.worlds.shop.kernels.project import generator_state
from rota.worlds.shop.model import Ints, Problem
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.solver import HEARTBEAT, Limit, Solver, Step, Steps

OBJECTIVES = {
    "makespan": flow.MAKESPAN,
    "total_flow_time": flow.FLOW,
    "weighted_flow_time": flow.FLOW,
    "total_tardiness": flow.TARDINESS,
    "weighted_tardiness": flow.TARDINESS,
}
KNOWN = ("release", "permutation", "blocking", "no_wait")
CHUNK = 20_000_000  # steps of the innermost loop, about, between two looks at the other workers
WORST = 1 << 62


class IteratedGreedy(Solver):
    """Iterated greedy search.

    Args:
        removed: Jobs taken out in each iteration.
        temperature: Of the acceptance, times the mean processing time / 10 (Ruiz and Stuetzle).
    """

    counts = "iterations"

    def __init__(self, removed: int = 2, temperature: float = 0.7) -> None:
        if removed < 1 or temperature <= 0:
            raise InputError(f"iterated_greedy: needs removed >= 1 and temperature > 0; found {removed}, {temperature}")
        self.removed = removed
        self.temperature = temperature

    def refuses(self, problem: Problem) -> str | None:
        if problem.objective.single not in OBJECTIVES:
            return f"minimises {', '.join(OBJECTIVES)}; the objective is {problem.objective}"
        if problem.kind != "flow_shop":
            return f"takes flow shops, this is a {problem.kind.replace('_', ' ')}"
        if problem.as_job_shop(allow=KNOWN) is None:
            return f"does not know {', '.join(sorted(problem.features - {*KNOWN, 'due', 'weights'}))}"
        view = problem.as_job_shop(allow=KNOWN)
        blocking = problem.resources.blocking[view.machine[0]] if view is not None else np.zeros(1, bool)
        if blocking.any() and not blocking[:-1].all():
            return "takes flow shops where all machines block, or none"
        links = problem.precedences
        if "no_wait" in problem.features and ((links.most != 0).any() or blocking.any()):
            return "takes flow shops where no job waits anywhere, or jobs may wait everywhere"
        return None

    def prepare(self, problem: Problem) -> None:
        self.rehearse(problem)

    def solve(self, problem: Problem, limit: Limit, start: Schedule | None = None) -> Steps:  # type: ignore[override]
        pool = ThreadPoolExecutor(limit.workers)
        try:
            yield from _search(self, problem, limit, start, pool)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Shop:
    """The columns that the kernels take."""

    def __init__(self, problem: Problem) -> None:
        view = problem.as_job_shop(allow=KNOWN)
        if view is None:
            raise InputError(f"iterated_greedy: {IteratedGreedy().refuses(problem)}")
        jobs = problem.jobs
        name = problem.objective.single or ""
        self.problem, self.operation = problem, view.operation
        blocking = bool(problem.resources.blocking[view.machine[0]].any())
        self.kind = flow.NO_WAIT if "no_wait" in problem.features else flow.BLOCKING if blocking else flow.PLAIN
        self.objective = OBJECTIVES[name]
        weight = jobs.weight if name.startswith("weighted") else np.ones(len(jobs), np.int64)
        self.columns = view.duration, jobs.release, jobs.due, weight
        self.fast = self.kind == flow.PLAIN and self.objective == flow.MAKESPAN and not jobs.release.any()
        total = view.duration.sum(axis=1)
        rank = {flow.MAKESPAN: -total, flow.FLOW: total, flow.TARDINESS: jobs.due}[self.objective]
        self.order = np.argsort(rank, kind="stable").astype(np.int64)

    def value(self, sequence: Ints) -> int:
        return int(flow.value(sequence, self.kind, self.objective, *self.columns))

    def schedule(self, sequence: Ints) -> Schedule:
        time, release, _, _ = self.columns
        begin = flow.starts(sequence, self.kind, time, release)
        start = np.empty(begin.size, np.int64)
        start[self.operation.ravel()] = begin.ravel()
        return Schedule.from_starts(self.problem, start)


class _Worker:
    """One search: its sequence, its best."""

    def __init__(self, settings: IteratedGreedy, shop: _Shop, seed: int, target: int) -> None:
        self.shop, self.target, self.removed = shop, target, settings.removed
        self.temperature = settings.temperature * max(1.0, float(shop.columns[0].mean())) / 10
        self.state = generator_state(seed)
        self.current, self.best = shop.order.copy(), shop.order.copy()
        self.now, self.value = -1, WORST

    def run(self, iterations: int) -> int:
        shop = self.shop
        self.now, self.value, done = flow.iterated_greedy(
            shop.kind, shop.objective, *shop.columns, shop.fast, shop.order, self.current, self.now, self.best, self.value,
            self.removed, self.temperature, iterations, self.target, self.state,
        )  # fmt: skip
        return max(1, int(done))

    def adopt(self, sequence: Ints, value: int) -> None:
        """Go on from a sequence found elsewhere when it is better."""
        if value < self.value:
            self.current[:], self.best[:] = sequence, sequence
            self.now = self.value = value


def _search(
    settings: IteratedGreedy, problem: Problem, limit: Limit, start: Schedule | None, pool: ThreadPoolExecutor
) -> Steps:
    shop = _Shop(problem)
    target = lower_bound(problem).value
    workers = [_Worker(settings, shop, stream_key(limit.seed, f"flow/{k}") >> 2, target) for k in range(limit.workers)]
    jobs, machines = shop.columns[0].shape
    chunk = max(1, CHUNK // (jobs * jobs * machines * (3 if shop.fast else jobs)))
    best, work, sent = WORST, 0, start
    while limit.work is None or work < limit.work:
        if sent is not None:
            sequence = np.argsort(sent.start[shop.operation[:, 0]], kind="stable").astype(np.int64)
            value = shop.value(sequence)
            for worker in workers:
                worker.adopt(sequence, value)
        left = chunk if work else 1  # the first sequence at once
        if limit.work is not None:
            left = max(1, min(left, (limit.work - work) // len(workers)))
        tasks = [pool.submit(worker.run, left) for worker in workers]
        sent = None
        while wait(tasks, timeout=HEARTBEAT).not_done:
            sent = (yield Step(work=work)) or sent
        work += sum(task.result() for task in tasks)
        leader = min(workers, key=lambda worker: worker.value)
        if leader.value < best:
            best = leader.value
            finished = best <= target
            found = Step(shop.schedule(leader.best), target if finished else None, work, finished)
            sent = (yield found) or sent
            if finished:
                return
        else:
            sent = (yield Step(work=work)) or sent
