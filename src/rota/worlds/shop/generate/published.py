"""Published benchmark generators, bit for bit, from their published seeds.

- Job, flow and open shop: E. Taillard, Benchmarks for basic scheduling problems, EJOR 64 (1993) 278-285.
- DMU job shops: E. Demirkol, S. Mehta, R. Uzsoy, Benchmarks for shop scheduling problems, EJOR 109 (1998) 137-141. The public file of dmu29
  differs from what its seed gives by 1 in one duration; we give what the seed gives, and say so in the problem's source.
"""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.worlds.shop.model import Problem
from rota.worlds.shop.shapes import flow_shop, job_shop, open_shop

Matrix = npt.NDArray[np.int64]
_MODULUS = (1 << 31) - 1


class Lehmer:
    """The generator of both benchmarks: x <- 16807 x mod (2^31 - 1), the "minimal standard" of Park and Miller 1988."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def next(self) -> int:
        """The next state."""
        self.state = 16807 * self.state % _MODULUS
        return self.state

    def between(self, low: int, high: int) -> int:
        """A number in low..high; in double precision, as published."""
        return low + int(self.next() / _MODULUS * (high - low + 1))

    def half_open(self) -> float:
        """A number in [0, 1) as DMU draws it: the state over 2^31."""
        return self.next() / (1 << 31)


def taillard_durations(rows: int, columns: int, seed: int) -> Matrix:
    """A (rows, columns) matrix of U(1, 99), row by row."""
    draw = Lehmer(seed)
    return np.array([[draw.between(1, 99) for _ in range(columns)] for _ in range(rows)], dtype=np.int64)


def taillard_machines(jobs: int, machines: int, seed: int) -> Matrix:
    """(jobs, machines): each job's machines 0..machines-1, shuffled by swapping each place with a later one."""
    draw = Lehmer(seed)
    rows = []
    for _ in range(jobs):
        route = list(range(machines))
        for place in range(machines):
            other = draw.between(place, machines - 1)
            route[place], route[other] = route[other], route[place]
        rows.append(route)
    return np.array(rows, dtype=np.int64)


def dmu_matrices(jobs: int, machines: int, seed: int, two_sets: bool) -> tuple[Matrix, Matrix]:
    """(machines, durations) of a DMU job shop; `two_sets`: every job visits the first half of the machines before the rest."""
    draw = Lehmer(seed)
    where, times = [], []
    for _ in range(jobs):
        keys = [draw.half_open() for _ in range(machines)]
        half = machines // 2
        where.append(sorted(range(machines), key=lambda m: (two_sets and m >= half, keys[m])))
        times.append([int(1 + 200 * draw.half_open()) for _ in range(machines)])
    return np.array(where, dtype=np.int64), np.array(times, dtype=np.int64)


@cache
def seeds() -> dict[str, Any]:
    """The published seeds, see seeds.toml."""
    return tomllib.loads((files(__package__) / "seeds.toml").read_text(encoding="utf-8"))


@cache
def classic() -> dict[str, list[list[int]]]:
    """Small job shops in full, see classic.toml."""
    return tomllib.loads((files(__package__) / "classic.toml").read_text(encoding="utf-8"))


def _pick(family: str, number: int, width: int) -> tuple[int, int, list[int]]:
    """Jobs, machines and the `width` seeds of instance `number` (from 1)."""
    left = number - 1
    for jobs, machines, values in seeds()[family]:
        if left * width < len(values):
            return jobs, machines, values[left * width : (left + 1) * width]
        left -= len(values) // width
    raise IndexError(number)


def taillard_job_shop(number: int) -> Problem:
    """Job shop ta01..ta80."""
    jobs, machines, (time_seed, machine_seed) = _pick("job_shop", number, 2)
    where, times = taillard_machines(jobs, machines, machine_seed), taillard_durations(jobs, machines, time_seed)
    return job_shop(where, times, name=f"ta{number:02}", source=f"ta{number:02} (Taillard 1993)")


def taillard_flow_shop(number: int) -> Problem:
    """Permutation flow shop tafs001..tafs120. Its durations are drawn machine by machine."""
    jobs, machines, (seed,) = _pick("flow_shop", number, 1)
    name = f"tafs{number:03}"
    return flow_shop(taillard_durations(machines, jobs, seed).T, name=name, source=f"{name} (Taillard 1993)")


def taillard_open_shop(number: int) -> Problem:
    """Open shop taos01..taos60."""
    jobs, machines, (time_seed, machine_seed) = _pick("open_shop", number, 2)
    where, times = taillard_machines(jobs, machines, machine_seed), taillard_durations(jobs, machines, time_seed)
    name = f"taos{number:02}"
    return open_shop(times, machines=where, name=name, source=f"{name} (Taillard 1993)")


def dmu_job_shop(number: int) -> Problem:
    """Job shop dmu01..dmu80."""
    jobs, machines, (seed,) = _pick("dmu", number, 1)
    where, times = dmu_matrices(jobs, machines, seed, two_sets=number > 40)
    note = "; the public file differs by 1 in one duration" if number == 29 else ""
    return job_shop(where, times, name=f"dmu{number:02}", source=f"dmu{number:02} (Demirkol 1998{note})")


def classic_job_shop(name: str) -> Problem:
    """One of ft06, ft10, ft20, la01..la05."""
    rows = np.array(classic()[name], dtype=np.int64)
    return job_shop(rows[:, ::2], rows[:, 1::2], name=name, source=name)
