"""How long a search takes is a random number: what its distribution says of restarts and of parallel starts.

The time of n parallel starts is the least of n draws. From a sample it follows by order statistics; with a shifted exponential law (x0, rate)
the speed-up is (x0 + 1 / rate) / (x0 + 1 / (n rate)), which no number of starts lifts above 1 + 1 / (x0 rate). Arbelaez, Truchet, Codognet,
Using sequential runtime distributions for the parallel speedup prediction of SAT local search, 2013. The best time to give up and begin again:
Luby, Sinclair, Zuckerman, Optimal speedup of Las Vegas algorithms, 1993.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.worlds.shop.model import Problem
from rota.worlds.shop.schedule import Solution
from rota.worlds.shop.solve import solve


@dataclass(frozen=True)
class Runtimes:
    """Times to the same goal of independent runs, all of which reached it; any unit."""

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.times) < 2 or not all(time >= 0 for time in self.times):
            raise InputError(f"runtimes: need at least two times of at least 0, found {len(self.times)}")

    @property
    def _sorted(self) -> npt.NDArray[np.float64]:
        return np.sort(np.asarray(self.times, np.float64))

    def least_of(self, starts: int) -> float:
        """Expected time of the first of so many parallel starts, drawn from the sample."""
        if starts < 1:
            raise InputError(f"runtimes: starts must be at least 1, found {starts}")
        size = len(self.times)
        behind = (np.arange(size, -1, -1) / size) ** starts  # chance that none of the first k is among them
        return float((self._sorted * (behind[:-1] - behind[1:])).sum())

    def speed_up(self, starts: int) -> float:
        """By how much so many parallel starts are sooner at the goal, from the sample itself; it cannot see beyond its least time."""
        least = self.least_of(starts)
        return self.least_of(1) / least if least > 0 else inf

    def exponential(self) -> tuple[float, float]:
        """(shift, rate) of the shifted exponential law: its least biased estimates (Cohen and Helm 1973)."""
        size, least = len(self.times), float(self._sorted[0])
        rest = (float(np.mean(self.times)) - least) * size / (size - 1)
        shift = max(0.0, least - rest / size)
        return shift, 1.0 / rest if rest > 0 else inf

    def predicted_speed_up(self, starts: int) -> float:
        """The same by the shifted exponential law, which goes beyond the sample."""
        shift, rate = self.exponential()
        mean = 0.0 if rate == inf else 1.0 / rate
        return (shift + mean) / (shift + mean / starts) if shift + mean > 0 else 1.0

    def restart(self) -> tuple[float, float]:
        """(time after which to begin again, expected time to the goal with it); inf: never.

        Only times that at least a tenth of the runs (and two) needed no longer than are considered: the first few of a sample are luck.
        """
        times, best = self._sorted, (inf, float(np.mean(self.times)))
        for k in range(max(2, -(-len(times) // 10)), len(times)):
            cut = float(times[k - 1])
            reached = k / len(times)
            expected = (float(times[:k].sum()) / len(times) + cut * (1.0 - reached)) / reached
            if expected < best[1]:
                best = cut, expected
        return best


def starts(
    problem: Problem, solver: str, count: int, *, seconds: float | None = None, work: int | None = None, seed: int = 0
) -> tuple[Solution, Runtimes, int]:
    """Independent runs of a solver, one after the other, with seeds of their own.

    Returns:
        The best solution; the times, in units of the solver's work where a limit of work was given, else seconds, to the goal; the goal: the worst of the final
        values, which every run reached.
    """
    if count < 2:
        raise InputError(f"starts: must be at least 2, found {count}")
    found = [solve(problem, solver, seconds=seconds, work=work, workers=1, seed=seed + k) for k in range(count)]
    values = [each.value for each in found if each.value is not None]
    if len(values) < count:
        raise InputError("starts: a run found no schedule within its limit; raise it")
    goal = max(values)
    return (
        min(found, key=lambda each: each.value or 0),
        Runtimes(tuple(_reached(each, goal, work is not None) for each in found)),
        goal,
    )


def _reached(found: Solution, goal: int, by_work: bool) -> float:
    first = next(each for each in found.trace if each.value <= goal)
    return float(first.work) if by_work else first.seconds


def summary(runtimes: Runtimes, goal: int, unit: str, counts: Sequence[int] = (2, 4, 8, 16)) -> list[str]:
    """What to tell a person: how the times spread, what parallel starts would bring, when to begin again."""
    times = np.sort(runtimes.times)
    ups = ", ".join(f"{n}: {runtimes.predicted_speed_up(n):.1f}x" for n in counts)
    cut, expected = runtimes.restart()
    gain = (
        "beginning again never pays"
        if cut == inf
        else f"begin again after {cut:.4g} {unit} (expected {expected:.4g} instead of {times.mean():.4g})"
    )
    return [
        f"{len(times)} starts reached {goal} after {times[0]:.4g} to {times[-1]:.4g} {unit}, {times.mean():.4g} on average",
        f"predicted speed-up of parallel starts: {ups}",
        gain,
    ]
