"""The optimum of tiny problems by trying every start and every mode, with `verify` as the judge: slow, and free of ideas."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from rota.worlds.shop.model import Problem
from rota.worlds.shop.schedule import Schedule
from rota.worlds.shop.verify import verify


def schedules(problem: Problem, horizon: int) -> Iterator[Schedule]:
    """Every feasible schedule that ends by `horizon`; ends are tried too where breaks could lengthen work."""
    own = [
        range(int(problem.mode_offsets[o]), int(problem.mode_offsets[o + 1])) for o in range(len(problem.operations))
    ]
    paused = len(problem.resources.break_start) > 0 and bool(problem.resources.interruptible.any())
    for modes in product(*own):
        lengths = [int(problem.modes.duration[mode]) for mode in modes]
        frozen = problem.operations.frozen_end.tolist()
        choices = []
        for length, end in zip(lengths, frozen, strict=True):
            ends = [
                (s, e)
                for s in range(horizon + 1)
                for e in range(s, horizon + 1)
                if (e - s == length or paused or end >= 0)
            ]
            choices.append([(s, e) for s, e in ends if e - s >= length or end >= 0])
        for spans in product(*choices):
            start, finish = zip(*spans, strict=True)
            made = Schedule(np.array(start), np.array(finish), np.array(modes))
            if not verify(problem, made):
                yield made


def optimum(problem: Problem, horizon: int) -> int | None:
    """The least value of a feasible schedule that ends by `horizon`; None: there is none."""
    return min((made.value(problem) for made in schedules(problem, horizon)), default=None)
