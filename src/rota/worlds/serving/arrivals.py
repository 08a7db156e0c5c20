"""When the requests of a workload arrive: as recorded, faster or slower, redrawn, or in a closed loop."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from rota.kernel.config import decode
from rota.kernel.errors import InputError, nearest
from rota.worlds.serving.model import FloatColumn, Workload
from rota.worlds.serving.numbers import Duration, Spread

Above0 = Annotated[float, msgspec.Meta(gt=0)]
STEPS_MOST = 50_000_000  # changes of the rate in a workload: more do not fit in memory


class Poisson(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Independent exponential gaps: arrivals are cumsum(exponential(1 / rate))."""

    rate: Above0  # requests a second


class Gamma(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Independent gamma gaps of mean 1 / rate; cv 1 is Poisson, above 1 comes in bursts, below 1 is more even."""

    rate: Above0  # requests a second
    cv: Spread = 1.0  # standard deviation of a gap / its mean


@dataclass(frozen=True)
class Closed:
    """A closed loop: `concurrency` users, each sends its next request a think time after the answer to the last one.

    The engine executes it: requests start in row order, think times are exponential, keyed by request.
    """

    concurrency: int
    think_seconds: float = 0.0  # mean


class _ClosedSpec(msgspec.Struct, forbid_unknown_fields=True):
    concurrency: Annotated[int, msgspec.Meta(ge=1)]
    think: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class _Spec(msgspec.Struct, forbid_unknown_fields=True):
    scale: Above0 | None = None
    poisson: Poisson | None = None
    gamma: Gamma | None = None
    closed: _ClosedSpec | None = None


@dataclass(frozen=True)
class Scale:
    """The recorded arrivals at `factor` times their rate."""

    factor: float


@dataclass(frozen=True)
class Replay:
    """The recorded arrivals."""


Arrivals = Replay | Scale | Poisson | Gamma | Closed


def parse_arrivals(spec: Any, where: str = "workload.arrivals") -> Arrivals:
    """Read the scenario's ``arrivals``.

    Args:
        spec: ``replay``, ``{scale: 2.0}``, ``{poisson: {rate: 6.0}}``, ``{gamma: {rate: 6.0, cv: 2.0}}`` or
            ``{closed: {concurrency: 32, think: 0.0}}``; None means replay.
        where: what an error message starts with.

    Raises:
        InputError: an unknown word or key, a missing or impossible value, none or several kinds at once.
    """
    if isinstance(spec, Arrivals):
        return spec
    if spec is None or spec == "replay":
        return Replay()
    kinds = _Spec.__struct_fields__
    if isinstance(spec, str):
        if spec in kinds:
            raise InputError(f"{where}: '{spec}' needs a value, for example {_EXAMPLES[spec]}")
        raise InputError(f"{where}: unknown arrivals '{spec}'{nearest(spec, ('replay', *kinds))}")
    parsed = decode(_Spec, spec, where)
    chosen = [kind for kind in kinds if getattr(parsed, kind) is not None]
    if len(chosen) != 1:
        raise InputError(f"{where}: needs exactly one of {', '.join(kinds)}, found {' and '.join(chosen) or 'none'}")
    value = getattr(parsed, chosen[0])
    for name, number in [(chosen[0], value)] if chosen == ["scale"] else msgspec.structs.asdict(value).items():
        if not np.isfinite(number):
            raise InputError(f"{where}: {name} must be finite, found {number}")
    if isinstance(value, _ClosedSpec):
        return Closed(value.concurrency, value.think)
    return Scale(value) if chosen == ["scale"] else value


_EXAMPLES = {
    "scale": "{scale: 2.0}",
    "poisson": "{poisson: {rate: 6.0}}",
    "gamma": "{gamma: {rate: 6.0, cv: 2.0}}",
    "closed": "{closed: {concurrency: 32}}",
}


def apply_arrivals(workload: Workload, spec: Any, rng: np.random.Generator) -> Workload:
    """Give a workload the arrivals that are asked for. Rows keep their order, so sizes and prefixes stay theirs.

    Closed loops set every arrival to 0, the earliest time at which a request could be sent; the engine does the rest.

    Args:
        workload: what was read or generated.
        spec: what `parse_arrivals` takes or gives.
        rng: the seed's stream for arrivals; drawn from by poisson and gamma only.
    """
    arrivals = parse_arrivals(spec)
    if isinstance(arrivals, Replay):
        return workload
    with np.errstate(over="ignore"):
        times = _times(workload, arrivals, rng)
    if not np.all(np.isfinite(times)):
        raise InputError(f"workload.arrivals: {spec} gives times that overflow; choose a larger rate or scale")
    return replace(workload, arrival=times)


def _times(workload: Workload, arrivals: Arrivals, rng: np.random.Generator) -> FloatColumn:
    rows = len(workload)
    if isinstance(arrivals, Scale):
        return np.asarray(workload.arrival / arrivals.factor)
    if isinstance(arrivals, Poisson):
        return np.cumsum(rng.exponential(1 / arrivals.rate, rows))
    if isinstance(arrivals, Gamma):
        return np.asarray(np.cumsum(gamma_gaps(arrivals.cv, rows, rng)) / arrivals.rate)
    return np.zeros(rows)


def gamma_gaps(cv: float, count: int, rng: np.random.Generator) -> FloatColumn:
    """Gaps of mean 1 and coefficient of variation `cv`: gamma with shape 1 / cv^2."""
    return rng.gamma(cv**-2, cv**2, count)


class Variation(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A rate that jumps between two levels at random (a Markov-modulated process, Fischer and Meier-Hellstern 1993).

    Up to cv 1 the levels are (1 - cv) and (1 + cv) times the mean, equally long. Above, they are silence and (1 +
    cv^2) times the mean: bursts of mean length seconds (1 + cv^2) / cv^2. The autocorrelation of the rate is exp(-lag
    / seconds) in both.
    """

    cv: Spread  # standard deviation of the rate / its mean
    seconds: Duration  # correlation time


@dataclass(frozen=True)
class Process:
    """A random arrival process of a given mean rate."""

    rate: float  # requests a second
    cv: float = 1.0  # of the gaps, in time in which the rate is constant; gamma
    variation: Variation | None = None
    day: float | None = None  # seconds of a day in which the rate is a wave; None: no daily wave
    peak_to_trough: float = 3.0

    def first(self, count: int, rng: np.random.Generator) -> FloatColumn:
        """The times of the first `count` arrivals, seconds."""
        owed = np.cumsum(gamma_gaps(self.cv, count, rng))
        return self._when(owed, *self._expected(owed[-1], np.inf, rng)) if count else owed

    def until(self, duration: float, rng: np.random.Generator) -> FloatColumn:
        """The times of all arrivals within `duration` seconds."""
        knots, expected = self._expected(np.inf, duration, rng)
        parts, total, size = [np.empty(0)], 0.0, int(expected[-1] * 1.05 + 100)
        while total < expected[-1]:
            parts.append(total + np.cumsum(gamma_gaps(self.cv, size, rng)))
            total = parts[-1][-1]
        owed = np.concatenate(parts)
        return self._when(owed[owed < expected[-1]], knots, expected)

    @staticmethod
    def _when(owed: FloatColumn, knots: FloatColumn, expected: FloatColumn) -> FloatColumn:
        """The times at which the expected number of arrivals reaches `owed`."""
        return np.interp(owed, expected, knots)

    def _expected(self, most: float, duration: float, rng: np.random.Generator) -> tuple[FloatColumn, FloatColumn]:
        """Times and the expected number of arrivals until then, up to `most` arrivals or `duration` seconds."""
        ends, levels = np.zeros(1), np.empty(0)
        high = False
        if self.variation is not None:
            high = bool(rng.random() < 0.5 if self.variation.cv < 1 else rng.random() < 1 / (1 + self.variation.cv**2))
        while True:
            reach = min(duration, max(2 * ends[-1], 1.2 * min(most, duration * self.rate) / self.rate))
            spans, heights = self._levels(reach - ends[-1], high, rng)
            ends = np.concatenate((ends, ends[-1] + np.cumsum(spans)))
            levels = np.concatenate((levels, heights))
            knots = np.unique(np.concatenate((ends, self._grid(ends[-1]))))
            if knots[-1] > duration:
                knots = np.append(knots[knots < duration], duration)
            level = levels[np.searchsorted(ends, knots[:-1], side="right") - 1]
            expected = np.concatenate(([0.0], np.cumsum(self.rate * level * np.diff(self._wave(knots)))))
            if expected[-1] >= most or knots[-1] >= duration:
                return knots, expected

    def _levels(self, span: float, high: bool, rng: np.random.Generator) -> tuple[FloatColumn, FloatColumn]:
        """Lengths and heights (mean 1) of an even number of levels of the rate, for about `span` seconds or more."""
        if self.variation is None:
            return np.array([span]), np.ones(1)
        cv, seconds = self.variation.cv, self.variation.seconds
        share = 0.5 if cv < 1 else 1 / (1 + cv**2)
        means = np.array([seconds / (1 - share), seconds / share])  # high, low
        heights = np.array([1 + cv, 1 - cv]) if cv < 1 else np.array([1 / share, 0.0])
        if not high:
            means, heights = means[::-1], heights[::-1]
        pairs = int(_steps(span / means.sum() * 1.1)) + 8
        return rng.exponential(np.tile(means, pairs)), np.tile(heights, pairs)

    def _grid(self, end: float) -> FloatColumn:
        """Where the daily wave is evaluated: every 1/1440 of a day; linear in between."""
        if self.day is None:
            return np.empty(0)
        _steps(end / self.day * 1440)
        return np.arange(0.0, end, self.day / 1440)

    def _wave(self, time: FloatColumn) -> FloatColumn:
        """Integral of 1 + a cos(2 pi (time / day - 14/24)), a = (p - 1) / (p + 1) for a peak-to-trough ratio p."""
        if self.day is None:
            return time
        swing, turn = (self.peak_to_trough - 1) / (self.peak_to_trough + 1), 2 * np.pi / self.day
        peak = 2 * np.pi * 14 / 24
        return np.asarray(time + swing / turn * (np.sin(turn * time - peak) + np.sin(peak)))


class Rhythm(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How what is drawn at a rate comes around it; where nothing is said, Poisson. The keys are those of ``workload.generate``."""

    cv: Spread | None = None  # of the gaps, gamma; 1: Poisson
    variation: Variation | Literal["none"] = "none"  # of the rate
    profile: Literal["constant", "day"] = "constant"  # day: a cosine, highest at 14:00
    day_seconds: Duration = 86400.0  # length of the day, to compress it
    peak_to_trough: Annotated[float, msgspec.Meta(ge=1, le=1e6)] = 3.0

    @property
    def poisson(self) -> bool:
        """Whether it is said to be nothing but Poisson."""
        return self.cv is None and self.variation == "none" and self.profile == "constant"

    def process(self, rate: float) -> Process:
        """Arrivals in this rhythm."""
        variation = self.variation if isinstance(self.variation, Variation) else None
        day = self.day_seconds if self.profile == "day" else None
        return Process(rate, self.cv or 1.0, variation, day, self.peak_to_trough)

    def words(self) -> str:
        """For a report."""
        said = [] if self.cv is None else [f"gaps of cv {self.cv:g}"]
        if isinstance(self.variation, Variation):
            said.append(f"rate of cv {self.variation.cv:g} over {self.variation.seconds:g} s")
        if self.profile == "day":
            said.append(f"a day of {self.day_seconds:g} s, peak to trough {self.peak_to_trough:g}")
        return ", ".join(said) or "Poisson"


def _steps(count: float) -> float:
    """Raises InputError where the rate changes so often that its course does not fit in memory."""
    if count > STEPS_MOST:
        raise InputError(
            f"workload: the rate changes {count:.3g} times in so long a time, and {STEPS_MOST:,} is the most; "
            "choose longer seconds of variation, a longer day_seconds, or a higher rate"
        )
    return count
