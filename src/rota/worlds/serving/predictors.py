"""What is known of an answer's length before it is out: one interface for predictors of stated quality, and one that learns.

A scenario says it in `information.output_tokens`::

    exact | hidden | oracle
    {noisy: {sigma: 0.5}}                 the truth times a lognormal factor; {predicted: {error: 0.5}} says the same
    {bucket: {k: 10, accuracy: 0.8}}      which of k classes the length falls in, right with probability `accuracy`
    {rank: {tau: 0.6}}                    a score whose order has Kendall's tau `tau` with the order of the true lengths
    {history: {quantile: 0.5, by: tenant}}   a quantile of the answers of the same tenant that have ended when the request arrives

All but the last are drawn once, keyed by request, so that every policy of a study is told the same. Where they come from in practice: regression
gives `noisy`; classifiers (S3, Jin et al., NeurIPS 2023) give `bucket`; rankers trained by ListMLE (Fu et al., Efficient LLM
Scheduling by Learning to Rank, NeurIPS 2024, which judges them by Kendall's tau) give `rank`. `history` cannot be drawn beforehand, because what
has ended depends on the policy: it begins with its prior, and `learned` predicts while the run goes. Conditional lengths from past answers are the
estimator of Gong et al., Past-Future Scheduler for LLM Serving, ASPLOS 2025; the router (`rota route`) takes the mean of a tenant's last answers.
"""

from bisect import bisect_right, insort
from collections.abc import Hashable
from math import ceil
from typing import Annotated, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError, nearest
from rota.kernel.streams import normal, uniform
from rota.worlds.serving.numbers import Many, Sigma, Tokens

FloatColumn = npt.NDArray[np.float64]
STREAM = "predictions"
GROUPS = ("tenant", "model", "category", "class", "adapter", "session", "none")  # a workload without tenants has one


class Predictor(Protocol):
    """A prediction of every answer's length, made when the request arrives."""

    @property
    def by(self) -> str:
        """Who estimates, in words, for the quality of the columns."""

    def predict(self, true: FloatColumn, seed: int) -> FloatColumn:
        """Predicted tokens of every request, from the true ones; the draw of a request depends on the seed and its row."""


class Oracle(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The truth, told as an estimate: what the best possible predictor would give."""

    @property
    def by(self) -> str:
        return "an oracle"

    def predict(self, true: FloatColumn, seed: int) -> FloatColumn:
        return true.copy()


class Noisy(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The truth times exp(sigma x), x standard normal, rounded, at least 1: the median is right."""

    sigma: Sigma = 0.5  # of the logarithm

    @property
    def by(self) -> str:
        return f"lognormal error, sigma {self.sigma:g}"

    def predict(self, true: FloatColumn, seed: int) -> FloatColumn:
        noise = normal(seed, STREAM, np.arange(len(true)))
        return np.asarray(np.maximum(1.0, np.rint(true * np.exp(self.sigma * noise))))


class Bucket(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The class of the length among `k` equally full ones, told as the median length of that class.

    A wrong answer is any of the other classes, all alike: harder on a scheduler than real classifiers, which err towards neighbours. Where so
    many lengths are equal that classes coincide, fewer than `k` are left.
    """

    k: Annotated[int, msgspec.Meta(ge=2)] = 10
    accuracy: float = 0.8  # probability of the right class

    def __post_init__(self) -> None:
        if not 1.0 / self.k <= self.accuracy <= 1.0:
            raise InputError(
                f"accuracy must be from 1/k = {1.0 / self.k:g} (a guess among {self.k}) to 1, found {self.accuracy:g}"
            )

    @property
    def by(self) -> str:
        return f"one of {self.k} classes, right in {self.accuracy:.0%}"

    def classes(self, true: FloatColumn) -> tuple[npt.NDArray[np.int64], FloatColumn]:
        """The class of each length, and the median length of each class."""
        edges = np.unique(np.quantile(true, np.arange(1, self.k) / self.k)) if len(true) else np.zeros(0)
        _, found = np.unique(np.searchsorted(edges, true, side="left"), return_inverse=True)
        medians = [np.median(true[found == each]) for each in range(int(found.max(initial=-1)) + 1)]
        return np.asarray(found, np.int64), np.array(medians, np.float64)

    def predict(self, true: FloatColumn, seed: int) -> FloatColumn:
        found, medians = self.classes(true)
        rows, others = np.arange(len(true)), len(medians) - 1
        wrong = uniform(seed, STREAM, rows, 0) >= self.accuracy if others > 0 else np.zeros(len(true), np.bool_)
        step = 1 + np.floor(uniform(seed, STREAM, rows, 1) * others).astype(np.int64)
        told = np.where(wrong, (found + step) % max(others + 1, 1), found)
        return np.asarray(medians[told])


class Rank(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A score in tokens whose order agrees with the true one to Kendall's tau `tau`; its values are the trace's own lengths.

    The scores' ranks and the lengths' ranks are coupled by a Gaussian copula of correlation sin(pi tau / 2), which has that tau (Kruskal, Ordinal
    measures of association, JASA 1958). Equal lengths are put in an order by lot, so tau counts all pairs. 1 is the truth, 0 knows nothing, -1 is
    the opposite.
    """

    tau: Annotated[float, msgspec.Meta(ge=-1, le=1)] = 0.6

    @property
    def by(self) -> str:
        return f"a ranking, Kendall's tau {self.tau:g}"

    def predict(self, true: FloatColumn, seed: int) -> FloatColumn:
        from scipy.special import ndtri

        rows = np.arange(len(true))
        order = np.lexsort((uniform(seed, STREAM, rows, 2), true))
        scores = np.empty(len(true))
        scores[order] = ndtri((rows + 0.5) / max(len(true), 1))
        rho = np.sin(np.pi * self.tau / 2.0)
        told = rho * scores + np.sqrt(max(0.0, 1.0 - rho * rho)) * normal(seed, STREAM, rows)
        predicted = np.empty(len(true))
        predicted[np.argsort(told, kind="stable")] = true[order]
        return predicted


class History(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A quantile of the answers of a request's group that have ended in this run when it arrives; see `LengthHistory` and `learned`.

    The quantile is a length that was seen: the smallest one that so large a share of the answers does not exceed. Before any has ended it is the prior.
    """

    quantile: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    prior: Tokens = 256.0  # tokens, until an answer has ended
    window: Many = 1000  # how many of the last answers of a group count
    group: str = msgspec.field(default="tenant", name="by")  # whose answers are alike; see `GROUPS`

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise InputError(f"by: '{self.group}' is no group of requests{nearest(self.group, GROUPS)}")

    @property
    def by(self) -> str:
        return f"history, quantile {self.quantile:g} " + ("of all" if self.group == "none" else f"by {self.group}")

    def predict(self, true: FloatColumn, seed: int) -> FloatColumn:
        """The prior, for all: what is known before the run."""
        return np.full(len(true), self.prior)


class LengthHistory:
    """Lengths of finished answers by group (a tenant, a model): what may be learned while a run goes, by a policy or for all of them.

    The estimate is the `quantile` of the finished lengths of the group that are longer than what is already out: the distribution conditional on
    survival. A group without finished answers is judged by all groups together; before the first one ends, `prior` tokens are taken. An answer
    that has outgrown everything seen is taken to be twice what is out, as S3 does (Jin et al., NeurIPS 2023).

    Args:
        quantile: Above 0 and below 1.
        prior: Tokens of an answer when nothing has finished yet.
        window: How many of the last answers of a group count.
    """

    def __init__(self, quantile: float = 0.5, prior: float = 256.0, window: int = 1000) -> None:
        if not 0.0 < quantile < 1.0:
            raise InputError(f"quantile must be above 0 and below 1, found {quantile:g}")
        if not prior > 0.0 or window < 1:
            raise InputError(f"prior and window must be above 0, found {prior:g} and {window}")
        self.quantile, self.prior, self.window = quantile, prior, window
        self._sorted: dict[Hashable, list[float]] = {}
        self._recent: dict[Hashable, list[float]] = {}

    def observe(self, group: Hashable, tokens: float) -> None:
        """An answer of a group has ended with so many tokens."""
        for key in (group, None):
            lengths, recent = self._sorted.setdefault(key, []), self._recent.setdefault(key, [])
            insort(lengths, tokens)
            recent.append(tokens)
            if len(recent) > self.window:
                lengths.pop(bisect_right(lengths, recent.pop(0)) - 1)

    def estimate(self, group: Hashable, generated: float = 0.0) -> float:
        """Tokens that an answer of a group will have in all, when `generated` are out."""
        lengths = self._sorted.get(group) or self._sorted.get(None) or [self.prior]
        shorter = bisect_right(lengths, generated)
        left = len(lengths) - shorter
        if left == 0:
            return 2.0 * generated
        return lengths[shorter + ceil(self.quantile * left) - 1]
