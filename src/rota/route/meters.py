"""What the router counts: histograms with few additions a token, read by the metrics page and the dashboard."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from rota.route.job import Job

# Upper bounds in seconds. Whole answers as production-stack's router has them; first tokens and gaps as vLLM has them.
LATENCY = (
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    0.75,
    1.0,
    1.5,
    2.0,
    3.0,
    5.0,
    7.5,
    10.0,
    15.0,
    20.0,
    30.0,
    45.0,
    60.0,
    90.0,
    120.0,
)
FIRST = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
)  # fmt: skip
GAP = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)  # fmt: skip
DECISION = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.1)
RATIO = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
TOKENS = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131072.0)  # fmt: skip
LABELS_MOST = 1000  # as llm-d: what is beyond is counted under one name
OTHER = "(others)"


class Histogram:
    """Counts by bound; the last counts what is above all of them."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value, so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def total(self) -> int:
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """(bound, values up to it), the last bound +Inf, as Prometheus wants them."""
        so_far, rows = 0, []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            so_far += count
            rows.append(("+Inf" if bound == float("inf") else repr(bound), float(so_far)))
        return rows


class Meters:
    """Everything that is counted over requests that are over, by model, tenant or backend."""

    def __init__(self) -> None:
        self.incoming: dict[str, int] = {}  # by model
        self.outcomes: dict[tuple[str, str, str], int] = {}  # (model, tenant, outcome) -> requests
        self.latency: dict[str, Histogram] = {}  # whole answers, by backend
        self.duration: dict[tuple[str, str], Histogram] = {}  # the same by (model, tenant)
        self.first: dict[tuple[str, str], Histogram] = {}
        self.per_token: dict[tuple[str, str], Histogram] = {}
        self.between: dict[str, Histogram] = {}  # gaps between events, by model
        self.prompt: dict[tuple[str, str], Histogram] = {}
        self.output: dict[tuple[str, str], Histogram] = {}
        self.cached: dict[tuple[str, str], Histogram] = {}
        self.deciding = Histogram(DECISION)
        self.prefix_hits = Histogram(RATIO)
        self.by_backend: dict[
            str, list[float]
        ] = {}  # requests, sum of seconds, sum of gaps, gaps, sum of first tokens, of these
        self.last: OrderedDict[int, tuple[float, float, float]] = (
            OrderedDict()
        )  # the last answers: (end, ttft, mean gap)
        self._labels: set[tuple[str, str]] = set()
        self._models: set[str] = set()

    def gaps(self, model: str) -> Histogram:
        """The histogram of gaps of a model."""
        return _at(self.between, self._model(model), GAP)

    def _model(self, model: str) -> str:
        if model not in self._models:
            if len(self._models) >= LABELS_MOST:
                return OTHER
            self._models.add(model)
        return model

    def _label(self, model: str, tenant: str) -> tuple[str, str]:
        pair = (model, tenant)
        if pair not in self._labels:
            if len(self._labels) >= LABELS_MOST:
                return (OTHER, OTHER)
            self._labels.add(pair)
        return pair

    def end(self, job: Job, backend: str, now: float, prompt: int, output: int) -> None:
        """A request is over."""
        label = self._label(job.model, job.tenant.name)
        self.incoming[label[0]] = self.incoming.get(label[0], 0) + 1
        counted = (*label, job.outcome)
        self.outcomes[counted] = self.outcomes.get(counted, 0) + 1
        if job.outcome != "complete":
            return
        seconds, ttft = now - job.release, job.first_byte - job.release
        _at(self.latency, backend, LATENCY).add(seconds)
        _at(self.duration, label, LATENCY).add(seconds)
        _at(self.prompt, label, TOKENS).add(prompt)
        gap = float("nan")
        if job.stream:
            _at(self.first, label, FIRST).add(ttft)
        if job.generates:
            _at(self.output, label, TOKENS).add(output)
        if job.cached_tokens is not None:
            _at(self.cached, label, TOKENS).add(job.cached_tokens)
        if job.stream and output > 1:
            gap = (job.last_byte - job.first_byte) / (output - 1)
            _at(self.per_token, label, GAP).add(gap)
        sums = self.by_backend.setdefault(backend, [0.0] * 6)
        for position, value in enumerate(
            (1.0, seconds, 0.0 if gap != gap else gap, float(gap == gap), ttft * job.stream, job.stream)
        ):
            sums[position] += value
        self.last[job.id] = (now, ttft if job.stream else float("nan"), gap)
        if len(self.last) > 4096:
            self.last.popitem(last=False)

    def recent(self, now: float, seconds: float = 60.0) -> tuple[list[float], list[float]]:
        """First-token times and mean gaps of the answers that ended within the last so many seconds."""
        rows = [row for row in self.last.values() if now - row[0] <= seconds]
        return [row[1] for row in rows if row[1] == row[1]], [row[2] for row in rows if row[2] == row[2]]


def _at(table: dict[Any, Histogram], key: Any, bounds: tuple[float, ...]) -> Histogram:
    found = table.get(key)
    if found is None:
        found = table[key] = Histogram(bounds)
    return found


def percentile(values: Iterable[float], share: float) -> float | None:
    """The value that a share of all values does not exceed; None of nothing."""
    ranked = sorted(values)
    return ranked[min(int(share * len(ranked)), len(ranked) - 1)] if ranked else None
