"""What queueing theory says: mean response times of one server (and some facts on many), exactly or by accurate integration.

`rate` is arrivals a second, `law` the distribution of service times in seconds on a server of speed 1; results are seconds. A formula that needs a finite
second moment says so.

Sources: Kleinrock, Queueing Systems II, 1976; Harchol-Balter, Performance Modeling and Design of Computer Systems, 2013 (chapters 14, 30 to 33);
Wierman, Scheduling for today's computer systems, 2007; Scully, Harchol-Balter and Scheller-Wolf, SOAP, 2018.
"""

from collections.abc import Callable, Sequence
from math import factorial, inf, isfinite

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.worlds.queues.distributions import Atoms, Distribution

FloatColumn = npt.NDArray[np.float64]


def load_of(rate: float, law: Distribution) -> float:
    """rate * E[S].

    Raises:
        InputError: the mean is infinite, or the load is 1 or more: there is no steady state.
    """
    load = rate * law.mean
    if not isfinite(load):
        raise InputError(f"theory: {law.name} has an infinite mean, so there is no load and no steady state")
    if load >= 1.0:
        raise InputError(f"theory: load {load:.3g} is 1 or more, so there is no steady state; lower the rate")
    return load


def second_moment(law: Distribution) -> float:
    """E[S^2].

    Raises:
        InputError: it is infinite, and with it the mean waiting time.
    """
    second = law.moment(2)
    if not isfinite(second):
        raise InputError(
            f"theory: {law.name} has an infinite second moment, so the mean waiting time is infinite; bound it"
        )
    return second


# -- many servers -------------------------------------------------------------------------------------------------------


def erlang_b(offered: float, servers: int) -> float:
    """Probability that a job finds all of `servers` servers busy and is lost; `offered` = rate * mean service time."""
    blocked = 1.0
    for k in range(1, servers + 1):
        blocked = offered * blocked / (k + offered * blocked)
    return blocked


def erlang_c(offered: float, servers: int) -> float:
    """Probability that a job must wait in M/M/k."""
    blocked = erlang_b(offered, servers)
    return servers * blocked / (servers - offered * (1.0 - blocked))


def mmk_waiting(rate: float, mean: float, servers: int) -> float:
    """Mean waiting time of M/M/k."""
    offered = rate * mean
    if offered >= servers:
        raise InputError(
            f"theory: load {offered / servers:.3g} is 1 or more, so there is no steady state; lower the rate"
        )
    return erlang_c(offered, servers) * mean / (servers - offered)


def mmkr_blocking(rate: float, mean: float, servers: int, room: int) -> float:
    """Share of jobs that find M/M/k with `room` waiting places full."""
    offered = rate * mean
    terms = [offered**n / factorial(n) for n in range(servers)]
    top = offered**servers / factorial(servers)
    terms += [top * (offered / servers) ** n for n in range(room + 1)]
    return terms[-1] / sum(terms)


def power_of_d_response(load: float, d: int, mean: float = 1.0) -> float:
    """Mean response time of many exponential servers when each job joins the shortest of d lines: the limit of infinitely many servers.

    Mean number at a server is sum_i load^((d^i - 1)/(d - 1)) (Mitzenmacher 1996; Vvedenskaya, Dobrushin and Karpelevich 1996).
    """
    if d == 1:
        return mean / (1.0 - load)
    total, i = 0.0, 1
    while (term := load ** ((d**i - 1) / (d - 1))) > 1e-18:
        total, i = total + term, i + 1
    return mean * total / load


# -- one server, by size or not -------------------------------------------------------------------------------------------


def fcfs_waiting(rate: float, law: Distribution) -> float:
    """Mean waiting time of M/G/1 in order of arrival: rate E[S^2] / (2 (1 - load)), Pollaczek and Khinchine."""
    return rate * second_moment(law) / (2.0 * (1.0 - load_of(rate, law)))


def fcfs_waiting_variance(rate: float, law: Distribution) -> float:
    """Variance of that waiting time: E[W]^2 + rate E[S^3] / (3 (1 - load)), Takacs."""
    return fcfs_waiting(rate, law) ** 2 + rate * law.moment(3) / (3.0 * (1.0 - load_of(rate, law)))


def fcfs(rate: float, law: Distribution) -> float:
    """First come first served; also last come and random order, whose mean is the same."""
    return fcfs_waiting(rate, law) + law.mean


def processor_sharing(rate: float, law: Distribution) -> float:
    """E[S] / (1 - load): depends on the mean only."""
    return law.mean / (1.0 - load_of(rate, law))


def kingman_waiting(rate: float, law: Distribution, arrival_scv: float) -> float:
    """An upper bound of the mean waiting time of GI/G/1 (Kingman 1962), with variances in place of scv."""
    load = load_of(rate, law)
    variance = second_moment(law) - law.mean**2 + arrival_scv / rate**2
    return rate * variance / (2.0 * (1.0 - load))


def priorities(rates: Sequence[float], laws: Sequence[Distribution], preemptive: bool) -> list[float]:
    """Mean response time of each class, most urgent first, in order of arrival within a class (Cobham 1954)."""
    responses, before = [], 0.0
    residual = sum(rate * second_moment(law) for rate, law in zip(rates, laws, strict=True)) / 2.0
    seen = 0.0
    for rate, law in zip(rates, laws, strict=True):
        after = before + rate * law.mean
        if after >= 1.0:
            raise InputError(f"theory: load {after:.3g} is 1 or more, so there is no steady state; lower the rate")
        seen += rate * second_moment(law) / 2.0
        if preemptive:
            responses.append(law.mean / (1.0 - before) + seen / ((1.0 - before) * (1.0 - after)))
        else:
            responses.append(law.mean + residual / ((1.0 - before) * (1.0 - after)))
        before = after
    return responses


def srpt(rate: float, law: Distribution) -> float:
    """Shortest remaining processing time (Schrage and Miller 1966)."""
    curve = _Curve(rate, law)

    def response(x: FloatColumn) -> FloatColumn:
        spared = curve.moment(2, x) + x * x * (1.0 - curve.moment(0, x))
        return rate * spared / (2.0 * (1.0 - curve.load(x)) ** 2) + curve.residence(x)

    return curve.expected(response)


def psjf(rate: float, law: Distribution) -> float:
    """Preemptive shortest job first."""
    curve = _Curve(rate, law)
    return curve.expected(
        lambda x: rate * curve.moment(2, x) / (2.0 * (1.0 - curve.load(x)) ** 2) + x / (1.0 - curve.load(x))
    )


def sjf(rate: float, law: Distribution) -> float:
    """Shortest job first, non-preemptive (Phipps 1956)."""
    curve, residual = _Curve(rate, law), rate * second_moment(law) / 2.0
    return curve.expected(lambda x: residual / (1.0 - curve.load(x)) ** 2 + x)


def las(rate: float, law: Distribution) -> float:
    """Least attained service, also called foreground-background (Schrage 1967)."""
    curve = _Curve(rate, law)

    def response(x: FloatColumn) -> FloatColumn:
        rest = 1.0 - curve.moment(0, x)
        load = curve.load(x) + rate * x * rest
        return rate * (curve.moment(2, x) + x * x * rest) / (2.0 * (1.0 - load) ** 2) + x / (1.0 - load)

    return curve.expected(response)


class _Curve:
    """Truncated moments of a continuous law and expectations over it, by Gauss and Legendre on a grid of quantiles."""

    def __init__(self, rate: float, law: Distribution, pieces: int = 400, order: int = 8) -> None:
        load_of(rate, law)
        self._rate, self._law = rate, law
        self._nodes, self._weights = np.polynomial.legendre.leggauss(order)
        self._edges = quantile_edges(law, pieces)
        points, half = self._inside(self._edges[:-1], self._edges[1:])
        self._scale = float((half * (self._weights * law.density(points)).sum(axis=1)).sum())  # 1 but for the far tails
        self._points, self._mass = (
            points.ravel(),
            (half[:, None] * self._weights * law.density(points)).ravel() / self._scale,
        )
        sums = {k: (self._mass * self._points**k).reshape(points.shape).sum(axis=1) for k in (0, 1, 2)}
        self._sums = {k: np.concatenate([[0.0], np.cumsum(each)]) for k, each in sums.items()}
        delays = half * (self._weights / (1.0 - self.load(points))).sum(axis=1)
        self._delays = self._edges[0] + np.concatenate([[0.0], np.cumsum(delays)])

    def _inside(self, low: FloatColumn, high: FloatColumn) -> tuple[FloatColumn, FloatColumn]:
        """Points of integration between `low` and `high`, a row each, and half the widths."""
        half = (high - low) / 2.0
        return low[..., None] + half[..., None] * (1.0 + self._nodes), half

    def _piece(self, x: FloatColumn) -> npt.NDArray[np.int64]:
        return np.clip(np.searchsorted(self._edges, x, side="right") - 1, 0, len(self._edges) - 2)

    def moment(self, k: int, x: FloatColumn) -> FloatColumn:
        """E[S^k; S <= x]."""
        piece = self._piece(x)
        points, half = self._inside(self._edges[piece], np.clip(x, self._edges[0], self._edges[-1]))
        rest = half * (self._weights * self._law.density(points) * points**k).sum(axis=-1) / self._scale
        return np.asarray(self._sums[k][piece] + rest)

    def load(self, x: FloatColumn) -> FloatColumn:
        """Load of the jobs of at most x."""
        return self._rate * self.moment(1, x)

    def residence(self, x: FloatColumn) -> FloatColumn:
        """Integral from 0 to x of 1 / (1 - load(t)): how long a job is in service, those that overtake it included."""
        piece = self._piece(x)
        points, half = self._inside(self._edges[piece], x)
        return np.asarray(self._delays[piece] + half * (self._weights / (1.0 - self.load(points))).sum(axis=-1))

    def expected(self, function: Callable[[FloatColumn], FloatColumn]) -> float:
        """E[function(S)]."""
        return float((self._mass * function(self._points)).sum())


def quantile_edges(law: Distribution, pieces: int) -> FloatColumn:
    """Edges of a grid that is even in the logarithm of both tails' probability, from next to nothing to next to everything."""
    if isinstance(law, Atoms):
        raise InputError(f"theory: {law.name} is not a continuous law; this formula needs one")
    tail = np.geomspace(0.5, 1e-15, pieces // 2 + 1)
    levels = np.concatenate([[0.0], tail[::-1], 1.0 - tail[1:]])[: pieces + 1]
    with np.errstate(divide="ignore"):
        edges = law.quantile(np.clip(levels, 1e-300, 1.0 - 1e-16))
    low = float(law.law.support()[0]) if law.law is not None else 0.0
    edges[0] = low
    return np.asarray(np.maximum.accumulate(edges))


# -- predictions ------------------------------------------------------------------------------------------------------------


def sprpt(rate: float, law: Distribution, factor: Distribution) -> float:
    """Shortest predicted remaining time, the prediction being the size times an independent `factor` (Mitzenmacher 2020)."""
    return _long(rate, law, factor, lambda s: np.ones_like(s), 0.0, 0.0, 0.0)


def skip_predict(
    rate: float,
    law: Distribution,
    factor: Distribution,
    threshold: float,
    cheap: float = 0.0,
    expensive: float = 0.0,
    bit_factor: Distribution | None = None,
    on_server: bool = False,
) -> float:
    """Mean response time of SkipPredict (Shahout and Mitzenmacher 2024), derived with SOAP in docs/worlds/queues-theory.md.

    A cheap bit says whether a job is short (at most `threshold`): short ones go first in order of arrival; for the others a prediction is
    bought, and shortest predicted remaining time serves them. Predictions cost `cheap` and `expensive` seconds of the server's
    time where `on_server`, otherwise nothing here (add their price to the result).

    Args:
        bit_factor: The bit looks at the size times this factor; None: at the size itself.
    """

    def long(s: FloatColumn) -> FloatColumn:
        if bit_factor is None:
            return (s > threshold).astype(np.float64)
        return 1.0 - bit_factor.cdf(threshold / s)

    c1, c2 = (cheap, expensive) if on_server else (0.0, 0.0)
    x, mass = _grid(law, threshold if bit_factor is None else None)
    q = long(x)
    # the top class, in order of arrival: every job's bit, and the service of the short ones
    first, second = c1 + float((mass * (1 - q) * x).sum()), float((mass * (q * c1**2 + (1 - q) * (c1 + x) ** 2)).sum())
    top_load = rate * first
    if top_load >= 1.0:
        return inf
    shorts = float((mass * (1 - q)).sum())
    wait = rate * second / (2.0 * (1.0 - top_load))
    short = wait * shorts + float((mass * (1 - q) * (c1 + x)).sum())
    return short + _long(rate, law, factor, long, first, c1, c2, threshold if bit_factor is None else None)


def _grid(
    law: Distribution, split: float | None = None, pieces: int = 160, order: int = 6
) -> tuple[FloatColumn, FloatColumn]:
    """Points and probability masses for expectations over a law; `split` is an edge where the integrand jumps."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    edges = quantile_edges(law, pieces)
    if split is not None:
        edges = np.sort(np.append(edges, split))
    half = np.diff(edges) / 2.0
    x = (edges[:-1, None] + half[:, None] * (1.0 + nodes)).ravel()
    mass = (half[:, None] * weights).ravel() * law.density(x)
    kept = mass > 0
    return x[kept], mass[kept] / mass.sum()


def _long(
    rate: float,
    law: Distribution,
    factor: Distribution,
    long: Callable[[FloatColumn], FloatColumn],
    top_first: float,
    c1: float,
    c2: float,
    split: float | None = None,
) -> float:
    """E[T; the job is long] under shortest predicted remaining time below a top class.

    The SOAP formula: a long job of size x and prediction r waits for the work that outranks r, then is delayed while it is served:
    rate M(r) / (2 (1 - rho(r))^2) + (c1 + c2) / (1 - rho(r)) + integral_0^x da / (1 - rho(r - a)).
    M(r) adds the squares of the work that a job brings at a rank better than r: c1 and the service of a short one; c1 + c2 and all of the service of
    a long one predicted below r; c1 + c2, and apart from it the last part, from the age at which its predicted remainder falls below r, of another one.
    """
    s, mass = _grid(law, split)
    e, e_mass = _grid(factor)
    q = long(s)
    r = np.concatenate([[0.0], np.geomspace(1e-9, float(s.max() * e.max()), 1500)])
    shorts = mass * (1 - q)
    top_second = float((shorts * (c1 + s) ** 2).sum())
    loads, seconds = np.empty(len(r)), np.empty(len(r))
    inside = factor.cdf
    for i, rank in enumerate(r):
        below = inside(rank / s)  # the prediction is at most r
        loads[i] = float((mass * q * s * below).sum())
        whole = float((mass * q * below * (c1 + c2 + s) ** 2).sum())
        # predicted above r: the rest after age y - r, and its own predictions before that
        recycled = _recycled(s, rank, factor)
        seconds[i] = whole + float((mass * q * (recycled + (1 - below) * (c1 + c2) ** 2)).sum())
    rho = rate * (top_first + c2 * float((mass * q).sum()) + loads)
    if rho[-1] >= 1.0:
        return inf
    # while a job is served at rank u, only what outranks u with all of its service delays it
    residence = np.concatenate([[0.0], np.cumsum(np.diff(r) * 0.5 * (1 / (1 - rho[1:]) + 1 / (1 - rho[:-1])))])
    x, y = s[:, None], s[:, None] * e[None, :]
    rho_y = np.interp(y, r, rho)
    square = np.interp(y, r, seconds) + top_second
    wait = rate * square / (2.0 * (1.0 - rho_y) ** 2) + (c1 + c2) / (1.0 - rho_y)
    served = np.interp(y, r, residence) - np.interp(np.maximum(y - x, 0.0), r, residence)
    served += np.maximum(x - y, 0.0) / (1.0 - rho[0])
    return float(((mass * q)[:, None] * e_mass[None, :] * (wait + served)).sum())


def _recycled(s: FloatColumn, rank: float, factor: Distribution) -> FloatColumn:
    """E[((s - (s f - rank))+)^2; s f > rank] for each size s: what a job brings after its predicted remainder falls below the rank.

    With v = s - s f + rank this is the integral of v^2 times the density of v from 0 to s.
    """
    nodes, weights = np.polynomial.legendre.leggauss(48)
    v = s[:, None] * 0.5 * (1.0 + nodes)
    density = factor.density(1.0 + (rank - v) / s[:, None]) / s[:, None]
    return np.asarray(0.5 * s * (weights * v**2 * density).sum(axis=1))
