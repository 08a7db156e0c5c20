"""Build a schedule by a dispatching rule: an `Order` over the operations that wait at a machine.

What an order may read (`COLUMNS`): the columns that mean the same in every world, of the *operation* (`id`, `size` = processing time, `release` =
when it joined the queue, `due`, `weight`, `priority` = 0) and the job's: `job`, `job_release`, `remaining_work` and `remaining_operations` from this
operation on, `work_done` before it. Durations of alternatives are their own in `size`, and the shortest in sums.

A rule that is asked at arrival is evaluated once for all operations; where its key moves with the moment of joining (first come first served), it
must do so in a straight line, which is measured. Any other rule is asked in Python at each choice between two or more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError, PolicyError
from rota.kernel.tables import JOB_COLUMNS, Column, Jobs
from rota.worlds.shop.kernels import dispatch as kernel
from rota.worlds.shop.model import NEVER, Ints, Problem
from rota.worlds.shop.schedule import Schedule

Floats = npt.NDArray[np.float64]

COLUMNS = {
    **{name: JOB_COLUMNS[name] for name in ("id", "release", "size", "due", "weight", "priority")},
    **{
        column.name: column
        for column in (
            Column("job", "", "index of the job"),
            Column("job_release", "s", "when the job was released"),
            Column("remaining_work", "s", "work of the job from this operation on"),
            Column("remaining_operations", "", "operations of the job from this one on"),
            Column("work_done", "s", "work of the job before this operation"),
        )
    },
}
ALLOWED = ("release",)  # features of a problem, besides due dates and weights


@dataclass(frozen=True, eq=False)
class Board:
    """A shop of chains as the kernels take it."""

    problem: Problem
    alternatives: npt.NDArray[np.int64]
    operations: npt.NDArray[np.int64]
    heads: npt.NDArray[np.int64]
    machines: int
    operation: npt.NDArray[np.int64]  # numbers in the problem
    mode: npt.NDArray[np.int64]
    columns: dict[str, npt.NDArray[Any]]  # by alternative; `release` is not among them


def board(problem: Problem) -> Board:
    """The shop of a problem. Raises InputError where it is not chains of operations on machines, or has more than a dispatcher honours."""
    view = problem.as_flexible_job_shop(allow=ALLOWED)
    if view is None:
        extra = sorted(problem.features - {"due", "weights", *ALLOWED})
        reason = f"has {', '.join(extra)}" if extra else f"is a {problem.kind.replace('_', ' ')}"
        raise InputError(f"dispatch: takes chains of operations on machines; this problem {reason}")
    count, offsets, jobs = len(view.operation), view.job_offsets, problem.jobs
    of = np.repeat(np.arange(count), np.diff(view.alternative_offsets))
    alternatives = np.ascontiguousarray(np.stack([view.machine, view.duration, of]))
    follower = np.arange(1, count + 1)
    follower[offsets[1:] - 1] = -1
    job = np.repeat(np.arange(len(jobs)), np.diff(offsets))
    zero = np.zeros(count, np.int64)
    operations = np.ascontiguousarray(
        np.stack([view.alternative_offsets[:-1], view.alternative_offsets[1:], follower, zero, zero, jobs.release[job]])
    )
    first = offsets[:-1]
    shortest = np.minimum.reduceat(view.duration, view.alternative_offsets[:-1])
    total = np.concatenate([[0], np.cumsum(shortest)])
    due = np.where(jobs.due < NEVER, jobs.due, np.inf)
    by_operation = {
        "id": view.operation,
        "due": due[job],
        "weight": jobs.weight[job].astype(np.float64),
        "priority": zero,
        "job": job,
        "job_release": jobs.release[job].astype(np.float64),
        "remaining_work": (total[offsets[1:]][job] - total[:-1]).astype(np.float64),
        "remaining_operations": offsets[1:][job] - np.arange(count),
        "work_done": (total[:-1] - total[offsets[:-1]][job]).astype(np.float64),
    }
    columns = {name: np.ascontiguousarray(column[of]) for name, column in by_operation.items()}
    columns["size"] = view.duration.astype(np.float64)
    heads = first[np.lexsort((first, jobs.release))]
    return Board(problem, alternatives, operations, heads, view.machines, view.operation, view.mode, columns)


def dispatch(
    problem: Problem | Board,
    rule: Order,
    *,
    active: bool = False,
    rng: np.random.Generator | None = None,
    noise: float = 0.0,
) -> Schedule:
    """A schedule by a rule.

    Args:
        problem: A shop of chains, or its `board` where many schedules are made.
        rule: Who is next. It is bound to `rng`.
        active: Active schedule generation (Giffler and Thompson) instead of non-delay; for rules that are asked at arrival.
        rng: For rules that draw, and for `noise`.
        noise: Keys known at arrival are blurred by up to this share of their spread.

    Raises:
        InputError: The problem is no shop of chains; a rule asked at each decision with `active` or `noise`.
        PolicyError: The rule answers with something that is not one key a row.
    """
    shop = problem if isinstance(problem, Board) else board(problem)
    draws = np.random.default_rng(0) if rng is None else rng
    rule.bind(draws)
    fixed = fixed_keys(shop, rule)
    if fixed is None and (active or noise):
        what = "active schedules" if active else "noise"
        raise InputError(
            f"dispatch: {type(rule).__name__} is asked at each decision; {what} need keys that are known at arrival"
        )
    keys, slope = fixed if fixed is not None else (np.zeros(shop.alternatives.shape[1]), 0.0)
    if noise:
        spread = float(np.ptp(keys)) or 1.0
        keys = keys + draws.uniform(-noise, noise, len(keys)) * spread
    if active:
        return follow(shop, keys, slope, np.zeros(0, np.int64), 1.0)
    return _run(shop, keys, slope, None if fixed is not None else rule)


def fixed_keys(shop: Board, rule: Order) -> tuple[Floats, float] | None:
    """(keys, change for each unit of waiting begun later) of a rule asked at arrival; None: it must be asked at each decision."""
    if rule.asked != "arrival":
        return None
    rows = shop.alternatives.shape[1]

    def at(moment: float) -> Floats:
        table = Jobs({**_readable(shop, rule), "release": np.full(rows, moment)}, COLUMNS.values(), rows=rows)
        return _checked(rule, rule.keys(table, moment), rows)

    keys = at(0.0)
    if "release" not in rule.reads or not rows:
        return keys, 0.0
    later, much_later = at(1.0), at(1024.0)
    slope = float(later[0] - keys[0])
    if np.array_equal(later, keys + slope) and np.array_equal(much_later, keys + 1024.0 * slope):
        return keys, slope
    return None


def _readable(shop: Board, rule: Order) -> dict[str, npt.NDArray[Any]]:
    """The columns that a rule declares."""
    for name in rule.reads:
        if name not in COLUMNS:
            raise InputError(
                f"dispatch: {type(rule).__name__} reads {name}, which a shop does not have (columns: {', '.join(COLUMNS)})"
            )
    return {name: shop.columns[name] for name in rule.reads if name != "release"}


def _checked(rule: Order, keys: Any, rows: int) -> Floats:
    found = np.asarray(keys, np.float64)
    if found.shape != (rows,) or np.isnan(found).any():
        raise PolicyError(f"{type(rule).__name__}: keys must be {rows} numbers, one a row; found shape {found.shape}")
    return found


def follow(shop: Board, keys: Floats, slope: float, forced: Ints, patience: float) -> Schedule:
    """The schedule that begins with the alternatives `forced` and goes on by keys; for `patience` see `kernels.dispatch.conflict`."""
    starts = np.zeros((2, shop.operations.shape[1]), np.int64)
    kernel.choices(shop.alternatives, shop.operations, starts, keys, slope, shop.heads, forced, shop.machines, patience)
    return _schedule(shop, starts)


def _schedule(shop: Board, starts: Ints) -> Schedule:
    start, mode = np.empty(starts.shape[1], np.int64), np.empty(starts.shape[1], np.int64)
    start[shop.operation], mode[shop.operation] = starts[0], shop.mode[starts[1]]
    return Schedule.from_starts(shop.problem, start, mode)


def _run(shop: Board, keys: Floats, slope: float, asked: Order | None) -> Schedule:
    operations = shop.operations.copy()
    count = operations.shape[1]
    starts = np.zeros((2, count), np.int64)
    machines = np.zeros((3, shop.machines), np.int64)
    machines[kernel.COMING] = -1
    width = int(np.bincount(shop.alternatives[kernel.MACHINE], minlength=shop.machines).max(initial=1))
    queue = np.zeros((shop.machines, width), np.int64)
    clock = np.array([-1, 0, 0, -1, 0])
    machines[kernel.FREE] = -1
    arguments = (
        shop.alternatives,
        operations,
        starts,
        machines,
        queue,
        keys,
        slope,
        shop.heads,
        clock,
        asked is not None,
    )
    machine = kernel.non_delay(*arguments)
    if asked is not None:
        columns, ready = _readable(shop, asked), operations[kernel.READY]
        moves = "release" in asked.reads
        while machine >= 0:
            waiting = queue[machine, : machines[kernel.WAITING, machine]]
            values = {name: column[waiting] for name, column in columns.items()}
            if moves:
                values["release"] = ready[shop.alternatives[kernel.OPERATION, waiting]]
            answer = asked.keys(Jobs.over(values, COLUMNS, len(waiting)), float(clock[kernel.NOW]))
            if len(answer) != len(waiting) or answer.ndim != 1:
                _checked(asked, answer, len(waiting))
            clock[kernel.ANSWER] = _first(answer, waiting, shop.alternatives[kernel.OPERATION], ready)
            machine = kernel.non_delay(*arguments)
    return _schedule(shop, starts)


def _first(keys: Floats, waiting: Ints, operation: Ints, joined: Ints) -> int:
    """Place of the least key; of equals the one that joined first, then the alternative with the smaller number."""
    best = int(keys.argmin())
    value = keys[best]
    if value != value:
        raise PolicyError("a rule answered with NaN")
    equals = (keys == value).nonzero()[0]
    return (
        best if len(equals) == 1 else int(equals[np.lexsort((waiting[equals], joined[operation[waiting[equals]]]))[0]])
    )


def mixture(rules: Sequence[tuple[float, Order]]) -> Order:
    """A rule whose key is the weighted sum of the keys of others, each scaled to its spread; all must be asked at arrival."""
    return _Mixture(tuple(rules))


@dataclass
class _Mixture(Order):
    """A weighted sum of rules."""

    rules: tuple[tuple[float, Order], ...]
    asked = "arrival"

    def __post_init__(self) -> None:
        for _, rule in self.rules:
            if rule.asked != "arrival" or "release" in rule.reads:
                raise InputError(
                    f"mixture: {type(rule).__name__} has keys that are not known before the schedule is made"
                )
        self.reads = tuple(dict.fromkeys(name for _, rule in self.rules for name in rule.reads))

    def bind(self, rng: np.random.Generator) -> None:
        for _, rule in self.rules:
            rule.bind(rng)

    def keys(self, jobs: Jobs, now: float) -> Floats:
        total = np.zeros(len(jobs))
        for share, rule in self.rules:
            keys = np.asarray(rule.keys(jobs, now), np.float64)
            total += share * keys / (float(np.ptp(keys)) or 1.0)
        return total
