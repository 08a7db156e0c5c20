"""Positive random quantities: sizes of jobs and gaps between arrivals, drawn from uniforms so that each draw is keyed by its job.

SciPy does the mathematics; here are the names and parameters that people write, and the laws that SciPy lacks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite, log, sqrt
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from rota.kernel.config import decode
from rota.kernel.errors import InputError, nearest
from rota.kernel.streams import uniform

FloatColumn = npt.NDArray[np.float64]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass(frozen=True)
class Distribution:
    """A law on the positive numbers: `law` is a frozen SciPy distribution.

    Attributes:
        name: What the scenario calls it.
        uniforms: How many uniforms a draw needs.
    """

    name: str
    law: Any
    uniforms: ClassVar[int] = 1

    @property
    def mean(self) -> float:
        """E[S]; inf where it does not exist."""
        return self.moment(1)

    @property
    def scv(self) -> float:
        """Squared coefficient of variation; inf where the second moment is."""
        second = self.moment(2)
        return second / self.mean**2 - 1.0 if isfinite(second) else inf

    def moment(self, k: int) -> float:
        """E[S^k]; inf where it does not exist."""
        found = float(self.law.moment(k))
        return found if isfinite(found) else inf

    def cdf(self, x: npt.ArrayLike) -> FloatColumn:
        """P(S <= x)."""
        return np.asarray(self.law.cdf(x), np.float64)

    def density(self, x: npt.ArrayLike) -> FloatColumn:
        """The density at x."""
        return np.asarray(self.law.pdf(x), np.float64)

    def quantile(self, u: npt.ArrayLike) -> FloatColumn:
        """The smallest x with P(S <= x) >= u, for u in (0, 1)."""
        return np.asarray(self.law.ppf(u), np.float64)

    def draw(self, u: FloatColumn) -> FloatColumn:
        """Values for uniforms of shape ``(uniforms, n)``."""
        return self.quantile(u[0])

    def partial(self, k: int, x: float) -> float:
        """E[S^k; S <= x]."""
        if x <= self.law.support()[0]:
            return 0.0
        return float(
            self.law.expect(
                lambda s: s**k, lb=self.law.support()[0], ub=min(x, self.law.support()[1]), epsrel=1e-10, limit=200
            )
        )


@dataclass(frozen=True)
class Exponential(Distribution):
    """Memoryless; drawn by its own formula, which is many times faster."""

    def quantile(self, u: npt.ArrayLike) -> FloatColumn:
        return np.asarray(-self.mean * np.log1p(-np.asarray(u, np.float64)))

    @property
    def mean(self) -> float:
        return float(self.law.kwds["scale"])

    def partial(self, k: int, x: float) -> float:
        from scipy.special import gamma, gammainc

        return float(self.mean**k * gamma(k + 1) * gammainc(k + 1, x / self.mean)) if x > 0 else 0.0


@dataclass(frozen=True)
class Pareto(Distribution):
    """P(S > x) = (low / x)^alpha: moments from alpha on are infinite."""

    alpha: float = 2.5
    low: float = 1.0

    def moment(self, k: int) -> float:
        return self.alpha * self.low**k / (self.alpha - k) if k < self.alpha else inf


@dataclass(frozen=True)
class Atoms(Distribution):
    """Finitely many values, with their probabilities: a constant, or what was measured. `law` is not used."""

    values: FloatColumn = field(default_factory=lambda: np.ones(1))
    shares: FloatColumn = field(default_factory=lambda: np.ones(1))

    def moment(self, k: int) -> float:
        return float((self.shares * self.values**k).sum())

    def cdf(self, x: npt.ArrayLike) -> FloatColumn:
        reached = np.concatenate([[0.0], np.cumsum(self.shares)])
        return np.asarray(np.minimum(1.0, reached[np.searchsorted(self.values, x, side="right")]))

    def density(self, x: npt.ArrayLike) -> FloatColumn:
        return np.zeros(np.shape(x))

    def quantile(self, u: npt.ArrayLike) -> FloatColumn:
        place = np.searchsorted(np.cumsum(self.shares), u, side="left")
        return np.asarray(self.values[np.minimum(place, len(self.values) - 1)])

    def partial(self, k: int, x: float) -> float:
        inside = self.values <= x
        return float((self.shares[inside] * self.values[inside] ** k).sum())


@dataclass(frozen=True)
class Hyperexponential(Distribution):
    """One of several exponentials, chosen by lot. `law` is not used."""

    uniforms: ClassVar[int] = 2
    means: FloatColumn = field(default_factory=lambda: np.ones(1))
    shares: FloatColumn = field(default_factory=lambda: np.ones(1))

    def moment(self, k: int) -> float:
        from scipy.special import gamma

        return float((self.shares * self.means**k).sum() * gamma(k + 1))

    def cdf(self, x: npt.ArrayLike) -> FloatColumn:
        at = np.maximum(np.asarray(x, np.float64), 0.0)
        return np.asarray(-(self.shares * np.expm1(-at[..., None] / self.means)).sum(axis=-1))

    def density(self, x: npt.ArrayLike) -> FloatColumn:
        at = np.asarray(x, np.float64)
        return np.asarray(
            np.where(at >= 0, (self.shares / self.means * np.exp(-at[..., None] / self.means)).sum(axis=-1), 0.0)
        )

    def quantile(self, u: npt.ArrayLike) -> FloatColumn:
        wanted = np.asarray(u, np.float64)
        low, high = np.zeros(wanted.shape), -self.means.max() * np.log1p(-wanted)
        for _ in range(100):  # bisection to the last bit: the distribution function has no inverse in closed form
            middle = 0.5 * (low + high)
            below = self.cdf(middle) < wanted
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray(high)

    def draw(self, u: FloatColumn) -> FloatColumn:
        kind = np.searchsorted(np.cumsum(self.shares), u[1], side="right")
        return np.asarray(-self.means[np.minimum(kind, len(self.means) - 1)] * np.log1p(-u[0]))

    def partial(self, k: int, x: float) -> float:
        from scipy.special import gamma, gammainc

        return (
            float((self.shares * self.means**k * gammainc(k + 1, x / self.means)).sum() * gamma(k + 1))
            if x > 0
            else 0.0
        )


# -- what people write ------------------------------------------------------------------------------------------------


class _Exponential(msgspec.Struct, forbid_unknown_fields=True):
    mean: Positive = 1.0


class _Deterministic(msgspec.Struct, forbid_unknown_fields=True):
    value: Annotated[float, msgspec.Meta(ge=0)] = 1.0


class _Gamma(msgspec.Struct, forbid_unknown_fields=True):
    mean: Positive = 1.0
    scv: Positive = 1.0


class _Weibull(msgspec.Struct, forbid_unknown_fields=True):
    mean: Positive = 1.0
    shape: Positive = 1.0


class _Hyperexponential(msgspec.Struct, forbid_unknown_fields=True):
    mean: Positive = 1.0
    scv: Annotated[float, msgspec.Meta(ge=1)] = 4.0
    means: tuple[Positive, ...] | None = None
    shares: tuple[Probability, ...] | None = None


class _BoundedPareto(msgspec.Struct, forbid_unknown_fields=True):
    alpha: Positive = 1.5
    low: Positive = 1.0
    high: Positive = 1e4


class _Pareto(msgspec.Struct, forbid_unknown_fields=True):
    alpha: Positive = 2.5
    low: Positive = 1.0


class _Uniform(msgspec.Struct, forbid_unknown_fields=True):
    low: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    high: Positive = 2.0


class _Empirical(msgspec.Struct, forbid_unknown_fields=True):
    values: tuple[Annotated[float, msgspec.Meta(ge=0)], ...] | None = None
    file: str | None = None
    column: str | None = None


SETTINGS: dict[str, Any] = {
    "exponential": _Exponential,
    "deterministic": _Deterministic,
    "gamma": _Gamma,
    "weibull": _Weibull,
    "lognormal": _Gamma,
    "hyperexponential": _Hyperexponential,
    "bounded_pareto": _BoundedPareto,
    "pareto": _Pareto,
    "uniform": _Uniform,
    "empirical": _Empirical,
}


def parse_distribution(spec: Any, folder: Path | None = None, where: str = "distribution") -> Distribution:
    """A distribution from ``"exponential"`` or ``{"gamma": {"mean": 1, "scv": 4}}``.

    Raises:
        InputError: an unknown name (nearest ones named), a parameter out of range, probabilities that do not sum to 1, a bad file.
    """
    name, given = _split(spec, SETTINGS, where)
    found = decode(SETTINGS[name], given, f"{where}.{name}")
    numbers = [value for value in msgspec.structs.asdict(found).values() if isinstance(value, float)]
    if not all(isfinite(number) for number in numbers):
        raise InputError(f"{where}.{name}: parameters must be finite numbers, found {given}")
    return _MAKERS[name](found, folder, f"{where}.{name}")


def _split(spec: Any, known: Mapping[str, Any], where: str) -> tuple[str, Mapping[str, Any]]:
    if isinstance(spec, str):
        name, given = spec, dict[str, Any]()
    elif isinstance(spec, Mapping) and len(spec) == 1:
        [(name, given)] = spec.items()
        given = {} if given is None else given
    else:
        raise InputError(f"{where}: expected a name or {{name: {{parameter: value}}}}, found {spec!r}")
    if name not in known:
        raise InputError(f"{where}: '{name}' is not a distribution{nearest(str(name), known)}")
    if not isinstance(given, Mapping):
        raise InputError(f"{where}.{name}: expected parameters such as {{mean: 1}}, found {given!r}")
    return str(name), given


def _exponential(found: _Exponential, folder: Path | None, where: str) -> Distribution:
    from scipy import stats

    return Exponential("exponential", stats.expon(scale=found.mean))


def _deterministic(found: _Deterministic, folder: Path | None, where: str) -> Distribution:
    return Atoms("deterministic", None, np.array([found.value]), np.ones(1))


def _gamma(found: _Gamma, folder: Path | None, where: str) -> Distribution:
    from scipy import stats

    return Distribution("gamma", stats.gamma(1.0 / found.scv, scale=found.mean * found.scv))


def _weibull(found: _Weibull, folder: Path | None, where: str) -> Distribution:
    from scipy import special, stats

    return Distribution(
        "weibull", stats.weibull_min(found.shape, scale=found.mean / special.gamma(1.0 + 1.0 / found.shape))
    )


def _lognormal(found: _Gamma, folder: Path | None, where: str) -> Distribution:
    from scipy import stats

    sigma = sqrt(log(1.0 + found.scv))
    return Distribution("lognormal", stats.lognorm(sigma, scale=found.mean / sqrt(1.0 + found.scv)))


def _hyperexponential(found: _Hyperexponential, folder: Path | None, where: str) -> Distribution:
    if (found.means is None) != (found.shares is None):
        raise InputError(f"{where}: give means and shares together, or mean and scv")
    if found.means is None or found.shares is None:  # two phases with equal loads ("balanced means")
        share = 0.5 * (1.0 + sqrt((found.scv - 1.0) / (found.scv + 1.0)))
        shares = np.array([share, 1.0 - share])
        return Hyperexponential("hyperexponential", None, found.mean / (2.0 * shares), shares)
    if len(found.means) != len(found.shares) or not found.means or abs(sum(found.shares) - 1.0) > 1e-9:
        raise InputError(
            f"{where}.shares: a probability for each of the {len(found.means)} means, 1 in all; found {list(found.shares)}"
        )
    return Hyperexponential("hyperexponential", None, np.array(found.means), np.array(found.shares))


def _bounded_pareto(found: _BoundedPareto, folder: Path | None, where: str) -> Distribution:
    from scipy import stats

    if found.high <= found.low:
        raise InputError(f"{where}: high must be above low, found {found.low:g} and {found.high:g}")
    return Distribution("bounded_pareto", stats.truncpareto(found.alpha, found.high / found.low, scale=found.low))


def _pareto(found: _Pareto, folder: Path | None, where: str) -> Distribution:
    from scipy import stats

    return Pareto("pareto", stats.pareto(found.alpha, scale=found.low), found.alpha, found.low)


def _uniform(found: _Uniform, folder: Path | None, where: str) -> Distribution:
    from scipy import stats

    if found.high <= found.low:
        raise InputError(f"{where}: high must be above low, found {found.low:g} and {found.high:g}")
    return Distribution("uniform", stats.uniform(found.low, found.high - found.low))


def _empirical(found: _Empirical, folder: Path | None, where: str) -> Distribution:
    if (found.values is None) == (found.file is None):
        raise InputError(f"{where}: give either values or file")
    if found.file is not None:
        values = _from_file((folder or Path()) / Path(found.file).expanduser(), found.column, where)
    else:
        values = np.array(found.values, np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise InputError(f"{where}: needs at least one value, all of them finite")
    distinct, counts = np.unique(values, return_counts=True)
    return Atoms("empirical", None, distinct, counts / len(values))


def _from_file(path: Path, column: str | None, where: str) -> FloatColumn:
    from rota.kernel.reading.columns import complain, numbers
    from rota.kernel.reading.tables import open_table

    table = open_table(path)
    names = table.frame.columns
    if column is None and len(names) > 1:
        raise InputError(f"{where}: {path} has {len(names)} columns; name one with column:")
    name = column or names[0]
    if name not in names:
        raise InputError(f"{where}: {path} has no column '{name}'{nearest(name, names)}")
    values = numbers(table, name)
    complain(table, ~(values >= 0), name, "must be a number that is not negative")
    return values


_MAKERS: dict[str, Callable[..., Distribution]] = {
    "exponential": _exponential,
    "deterministic": _deterministic,
    "gamma": _gamma,
    "weibull": _weibull,
    "lognormal": _lognormal,
    "hyperexponential": _hyperexponential,
    "bounded_pareto": _bounded_pareto,
    "pareto": _pareto,
    "uniform": _uniform,
    "empirical": _empirical,
}


# -- arrivals ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """Arrivals with independent gaps."""

    law: Distribution

    @property
    def rate(self) -> float:
        """Arrivals a second in the long run."""
        return 1.0 / self.law.mean

    def gaps(self, seed: int, stream: str, count: int) -> FloatColumn:
        """The gaps before the first `count` arrivals, seconds, keyed by arrival."""
        rows = np.arange(count)
        return self.law.draw(np.stack([uniform(seed, stream, rows, ordinal) for ordinal in range(self.law.uniforms)]))


@dataclass(frozen=True)
class Modulated(Process):
    """A Poisson process whose rate is switched by a Markov chain (MMPP). `law` is not used."""

    rates: FloatColumn = field(default_factory=lambda: np.ones(1))
    leaving: FloatColumn = field(
        default_factory=lambda: np.ones(1)
    )  # 1 over the mean seconds in a state; states follow in a circle

    @property
    def rate(self) -> float:
        stay = 1.0 / self.leaving
        return float((self.rates * stay).sum() / stay.sum())

    def gaps(self, seed: int, stream: str, count: int) -> FloatColumn:
        """Arrivals of a unit Poisson process, mapped through the integral of the rate."""
        work = np.cumsum(-np.log1p(-uniform(seed, stream, np.arange(count))))
        circle = len(self.rates)
        edges, total = np.zeros(1), np.zeros(1)  # when stays end, and arrivals expected by then
        while total[-1] <= work[-1]:
            more = int((work[-1] - total[-1]) / (self.rates / self.leaving).sum() * 1.2) + 10
            stay = -np.log1p(-uniform(seed, f"{stream}/stay", len(edges) - 1 + np.arange(more * circle)))
            stay /= np.tile(self.leaving, more)
            edges = np.concatenate([edges, edges[-1] + np.cumsum(stay)])
            total = np.concatenate([total, total[-1] + np.cumsum(stay * np.tile(self.rates, more))])
        times = np.interp(work, total, edges)
        return np.diff(times, prepend=0.0)


class _Mmpp(msgspec.Struct, forbid_unknown_fields=True):
    rates: tuple[Annotated[float, msgspec.Meta(ge=0)], ...]
    stays: tuple[Positive, ...]  # mean seconds in each state


class _Burst(msgspec.Struct, forbid_unknown_fields=True):
    on: Positive = 1.0  # mean seconds
    off: Positive = 1.0
    ratio: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0  # rate when off over rate when on


def parse_process(spec: Any, folder: Path | None = None, where: str = "arrivals") -> Process:
    """An arrival process: the name of a distribution of gaps, `poisson`, `mmpp` or `burst`.

    Raises:
        InputError: as `parse_distribution`; a distribution of gaps with infinite mean; states without a rate.
    """
    kinds = {**SETTINGS, "mmpp": _Mmpp, "burst": _Burst, "poisson": _Exponential}
    name, given = _split(spec, kinds, where)
    if name == "poisson":
        return Process(parse_distribution({"exponential": given}, folder, where))
    if name == "mmpp":
        found = decode(_Mmpp, given, f"{where}.mmpp")
        if len(found.rates) != len(found.stays) or not any(found.rates):
            raise InputError(
                f"{where}.mmpp: give as many stays as rates, and at least one rate above 0; found {list(found.rates)} and {list(found.stays)}"
            )
        return Modulated(Exponential("", None), np.array(found.rates), 1.0 / np.array(found.stays))
    if name == "burst":
        burst = decode(_Burst, given, f"{where}.burst")
        return Modulated(Exponential("", None), np.array([1.0, burst.ratio]), 1.0 / np.array([burst.on, burst.off]))
    law = parse_distribution(spec, folder, where)
    if not isfinite(law.mean) or law.mean <= 0:
        raise InputError(f"{where}: gaps need a finite mean above 0, {name} has {law.mean:g}")
    return Process(law)
