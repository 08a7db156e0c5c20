"""Seeded random problems: single machine with due dates, job shops, flexible job shops, solvable projects with windows and downtime."""

from dataclasses import dataclass

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.streams import generator
from rota.worlds.shop.build import ProblemBuilder
from rota.worlds.shop.model import Ints, Problem
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.shapes import flexible_job_shop, job_shop, single_machine


def tardiness(
    jobs: int, *, seed: int, range_of_due: float = 0.6, tightness: float = 0.6, weighted: bool = False
) -> Problem:
    """One machine, due dates, total (weighted) tardiness; the scheme of Potts and Van Wassenhove 1982, 1985.

    Durations U{1..100}, weights U{1..10}, due dates U[P(1 - TF - RDD/2), P(1 - TF + RDD/2)] with P the sum of durations,
    RDD = `range_of_due`, TF = `tightness`; a due date below 0 becomes 0.
    """
    _positive(jobs=jobs)
    draw = generator(seed, "tardiness")
    durations = draw.integers(1, 100, size=jobs, endpoint=True)
    total = int(durations.sum())
    low = round(total * (1 - tightness - range_of_due / 2))
    high = round(total * (1 - tightness + range_of_due / 2))
    due = np.maximum(0, draw.integers(low, max(low, high), size=jobs, endpoint=True))
    weight = draw.integers(1, 10, size=jobs, endpoint=True) if weighted else None
    name = f"tardiness-{jobs}-{range_of_due:g}-{tightness:g}-{seed}"
    goal = "weighted_tardiness" if weighted else "total_tardiness"
    return single_machine(durations, due=due, weight=weight, objective=goal, name=name, source=name)


def random_job_shop(jobs: int, machines: int, *, seed: int, longest: int = 99) -> Problem:
    """A job shop like Taillard's (every job once on every machine, durations U{1..longest}) from any seed."""
    _positive(jobs=jobs, machines=machines)
    draw = generator(seed, "job shop")
    durations = draw.integers(1, longest, size=(jobs, machines), endpoint=True)
    where = draw.permuted(np.tile(np.arange(machines), (jobs, 1)), axis=1)
    name = f"job_shop-{jobs}x{machines}-{seed}"
    return job_shop(where, durations, machine_count=machines, name=name, source=name)


def random_flexible(
    jobs: int, machines: int, operations: int, *, seed: int, flexibility: float = 2.0, longest: int = 20
) -> Problem:
    """A flexible job shop: `flexibility` machines an operation on average, durations U{1..longest} for each alternative."""
    _positive(jobs=jobs, machines=machines, operations=operations)
    if not 1 <= flexibility <= machines:
        raise InputError(f"flexible job shop: flexibility must be in 1..{machines}, found {flexibility:g}")
    draw = generator(seed, "flexible")
    rows = []
    for _ in range(jobs):
        row = []
        for _ in range(operations):
            # 1 + binomial has mean `flexibility` and never exceeds the machines
            share = (flexibility - 1) / max(1, machines - 1)
            chosen = draw.permutation(machines)[: 1 + int(draw.binomial(machines - 1, share))]
            row.append([(int(m), int(draw.integers(1, longest, endpoint=True))) for m in np.sort(chosen)])
        rows.append(row)
    name = f"flexible-{jobs}x{machines}-{seed}"
    return flexible_job_shop(rows, machine_count=machines, name=name, source=name)


@dataclass(frozen=True, eq=False)
class Witnessed:
    """A problem, and a schedule that shows that it can be solved."""

    problem: Problem
    witness: Schedule


def constraint_bench(
    tasks: int,
    level: int,
    *,
    seed: int,
    layers: int = 5,
    resources: int = 3,
    downtime: float = 0.0,
    windows: float = 0.0,
    disjunctive: float = 0.0,
) -> Witnessed:
    """A feasibility problem in the scheme of R-ConstraintBench (Jain and Wetter, arXiv 2508.15204); always solvable.

    Tasks are dealt to `layers`; `level` precedences run forward between layers, each accepted only where no path joined its ends before and where
    it leaves no earlier one redundant (the published scheme checks only the first, so that its levels can hold redundant precedences).
    Then, each with its probability: downtime of a resource, a window (release, deadline) of a task, and for a task a partner that it must
    not overlap. What is added around a schedule made first, the witness, cannot exclude it. The sizes of durations, demands and windows are
    ours: the paper's text was not at hand.

    Raises:
        InputError: `level` precedences without redundancy do not fit into the layers.
    """
    _positive(tasks=tasks, layers=layers, resources=resources)
    draw = generator(seed, "constraint bench")
    links = _layered(tasks, level, layers, draw)
    capacity = draw.integers(2, 6, size=resources, endpoint=True)
    duration = draw.integers(1, 10, size=tasks, endpoint=True)
    demand = draw.integers(0, capacity, size=(tasks, resources), endpoint=True)
    horizon = 4 * int(duration.sum()) + 100
    closed = np.zeros((resources, horizon), bool)
    spans: list[tuple[int, int, int]] = []
    for resource in np.flatnonzero(draw.random(resources) < downtime).tolist():
        begin = int(draw.integers(0, max(1, int(duration.sum()) // 2), endpoint=True))
        length = int(draw.integers(2, 10, endpoint=True))
        spans.append((resource, begin, begin + length))
        closed[resource, begin : begin + length] = True
    start = _place(duration, demand, capacity, closed, links, draw)
    name = f"constraint_bench-{tasks}-{level}-{seed}"
    builder = ProblemBuilder(name=name, source=name)
    for units in capacity.tolist():
        builder.add_resource(capacity=units)
    for resource, begin, end in spans:
        builder.add_breaks(resource, [(begin, end)])
    builder.add_job("project")
    partners = _partners(start, duration, disjunctive, draw)
    has_window = draw.random(tasks) < windows
    slack = draw.integers(0, 8, size=(tasks, 2), endpoint=True)
    for task in range(tasks):
        first = max(0, int(start[task] - slack[task, 0])) if has_window[task] else 0
        last = int(start[task] + duration[task] + slack[task, 1]) if has_window[task] else None
        builder.add_operation(0, release=first, deadline=last)
    needs = [dict(enumerate(row)) for row in demand.tolist()]
    for a, b in partners:
        pair = builder.add_resource(f"not_both_{a}_{b}", capacity=1)
        needs[a][pair] = needs[b][pair] = 1
    for task in range(tasks):
        builder.add_mode(task, int(duration[task]), demands=needs[task])
    for a, b in links:
        builder.add_precedence(a, b)
    problem = builder.build()
    return Witnessed(problem, Schedule.from_starts(problem, start))


def _layered(tasks: int, level: int, layers: int, draw: np.random.Generator) -> list[tuple[int, int]]:
    """`level` precedences (earlier layer, later layer), none of which a path of others makes redundant, whichever came first."""
    layer = np.sort(draw.integers(0, layers, size=tasks))
    candidates = [(a, b) for a in range(tasks) for b in range(tasks) if layer[a] < layer[b]]
    reach = np.eye(tasks, dtype=bool)  # reach[a, b]: a path from a to b
    links: list[tuple[int, int]] = []
    for index in draw.permutation(len(candidates)).tolist():
        if len(links) == level:
            break
        a, b = candidates[index]
        shortcut = any(reach[u, a] and reach[b, v] for u, v in links)  # it would make an earlier one redundant
        if not reach[a, b] and not shortcut:
            links.append((a, b))
            reach |= np.outer(reach[:, a], reach[b])
    if len(links) < level:
        raise InputError(
            f"constraint bench: {level} precedences without redundancy do not fit, {len(links)} did; use more tasks or layers"
        )
    return links


def _place(
    duration: Ints,
    demand: Ints,
    capacity: Ints,
    closed: np.ndarray,
    links: list[tuple[int, int]],
    draw: np.random.Generator,
) -> Ints:
    """Starts of the witness: task after task (numbers follow the layers), at the first place that fits, sometimes a little later."""
    used = np.zeros(closed.shape, np.int64)
    start = np.zeros(len(duration), np.int64)
    before: list[list[int]] = [[] for _ in duration]
    for a, b in links:
        before[b].append(a)
    for task, length in enumerate(duration.tolist()):
        at = max([int(start[a] + duration[a]) for a in before[task]], default=0)
        at += int(draw.integers(1, 6)) if draw.random() < 0.3 else 0
        needs = demand[task] > 0
        while True:
            window = slice(at, at + length)
            full = (used[:, window] + demand[task][:, None] > capacity[:, None]) | closed[:, window]
            if not full[needs].any():
                break
            at += 1
        start[task] = at
        used[:, window] += demand[task][:, None]
    return start


def _partners(start: Ints, duration: Ints, share: float, draw: np.random.Generator) -> list[tuple[int, int]]:
    """Pairs of tasks that do not overlap in the witness."""
    pairs = set()
    end = start + duration
    for task in np.flatnonzero(draw.random(len(start)) < share).tolist():
        apart = np.flatnonzero((end <= start[task]) | (start >= end[task]))
        if len(apart):
            other = int(draw.choice(apart))
            pairs.add((min(task, other), max(task, other)))
    return sorted(pairs)


def _positive(**sizes: int) -> None:
    for what, value in sizes.items():
        if value < 1:
            raise InputError(f"generator: {what} must be at least 1, found {value}")
