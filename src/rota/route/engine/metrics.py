"""What `/metrics` says, under vLLM's names and with its buckets (`vllm/v1/metrics/loggers.py`, read at 0.10 and 0.11).

Times are engine seconds. Names that begin with ``rota:`` are our own: how late this process is, and what was injected.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from rota.route.engine.replica import Replica
from rota.route.engine.sequence import Sequence

# fmt: off
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)
TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
REQUEST = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0)
BATCH = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
LATENESS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# fmt: on

HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": ("Time to first token", FIRST_TOKEN),
    "vllm:inter_token_latency_seconds": ("Time between two tokens of a request", TOKEN),
    "vllm:time_per_output_token_seconds": ("The same, under its older name", TOKEN),
    "vllm:request_time_per_output_token_seconds": ("Mean time per output token of a request", TOKEN),
    "vllm:e2e_request_latency_seconds": ("Time from arrival to last token", REQUEST),
    "vllm:request_queue_time_seconds": ("Time until a request is first scheduled", REQUEST),
    "vllm:request_prefill_time_seconds": ("Time from first scheduled to first token", REQUEST),
    "vllm:request_decode_time_seconds": ("Time from first to last token", REQUEST),
    "vllm:request_inference_time_seconds": ("Time from first scheduled to last token", REQUEST),
    "vllm:request_prompt_tokens": ("Prompt tokens of a request", None),
    "vllm:request_generation_tokens": ("Output tokens of a request", None),
    "vllm:request_params_max_tokens": ("The request's max_tokens", None),
    "vllm:request_max_num_generation_tokens": ("Most output tokens a request may have", None),
    "vllm:iteration_tokens_total": ("Tokens of an iteration", BATCH),
    "rota:engine_lateness_seconds": ("Engine seconds from a token's time to its delivery", LATENESS),
}
ENDINGS = ("stop", "length", "abort")


def powers(most: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, ... up to `most`."""
    steps = (mantissa * 10**exponent for exponent in range(len(str(most))) for mantissa in (1, 2, 5))
    return tuple(float(step) for step in steps if step <= most)


class Histogram:
    """Counts in buckets; cheaper than the library's, which locks, and a token is worth only so much."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, how many were at or below it), the last bound infinite."""
        total, found = 0, []
        for bound, count in zip([*map(float, self.bounds), float("inf")], self.counts, strict=True):
            total += count
            found.append(("+Inf" if bound == float("inf") else repr(bound), float(total)))
        return found


class EngineMetrics(Collector):
    """Counts of one engine. They outlive a restart of the replica, unless the process itself ends."""

    def __init__(self, model_name: str, context: int, block_tokens: int, kv_blocks: int, prefix_caching: bool) -> None:
        self.labels = [model_name, "0"]
        self.cache = {"block_size": block_tokens, "num_gpu_blocks": kv_blocks, "enable_prefix_caching": prefix_caching}
        self.histograms = {name: Histogram(bounds or powers(context)) for name, (_, bounds) in HISTOGRAMS.items()}
        self.counts = Counter[str]()
        self.endings = Counter[str]()
        self.faults = Counter[str]()
        self.replica: Replica | None = None  # whose state the gauges show
        self._registry = CollectorRegistry()
        self._registry.register(self)

    # -- what happens ---------------------------------------------------------------------------------------------

    def requested(self, max_tokens: int, most: int) -> None:
        """A request was understood."""
        self.histograms["vllm:request_params_max_tokens"].observe(max_tokens)
        self.histograms["vllm:request_max_num_generation_tokens"].observe(most)

    def iteration(self, replica: Replica, got: list[Sequence], now: float) -> None:
        """An iteration has ended; `now` is when this process knew."""
        first, gap = (
            self.histograms["vllm:time_to_first_token_seconds"],
            self.histograms["vllm:inter_token_latency_seconds"],
        )
        older, end = self.histograms["vllm:time_per_output_token_seconds"], replica.now
        for seq in got:
            if seq.generated == 1:
                first.observe(end - seq.arrival)
                self.counts["vllm:prompt_tokens"] += seq.prompt
            else:
                seconds = end - seq.token_times[-2]
                gap.observe(seconds)
                older.observe(seconds)
        self.counts["vllm:generation_tokens"] += sum(1 for seq in got if not seq.pooled)
        self.histograms["vllm:iteration_tokens_total"].observe(replica.tokens)
        if got:
            self.histograms["rota:engine_lateness_seconds"].observe(max(0.0, now - end), len(got))

    def finished(self, seq: Sequence, ending: str) -> None:
        """A request has all its tokens."""
        scheduled = seq.arrival if seq.scheduled is None else seq.scheduled
        first, last = seq.token_times[0], seq.token_times[-1]
        self.endings[ending] += 1
        for name, value in (
            ("vllm:e2e_request_latency_seconds", last - seq.arrival),
            ("vllm:request_queue_time_seconds", scheduled - seq.arrival),
            ("vllm:request_prefill_time_seconds", first - scheduled),
            ("vllm:request_decode_time_seconds", last - first),
            ("vllm:request_inference_time_seconds", last - scheduled),
            ("vllm:request_prompt_tokens", seq.prompt),
            ("vllm:request_generation_tokens", 0 if seq.pooled else seq.generated),
        ):
            self.histograms[name].observe(value)
        if seq.generated > 1:
            self.histograms["vllm:request_time_per_output_token_seconds"].observe((last - first) / (seq.generated - 1))

    def aborted(self) -> None:
        """A client left before its answer was whole."""
        self.endings["abort"] += 1

    def lost(self, replica: Replica) -> None:
        """A replica ends: its own counts are kept."""
        self.counts["vllm:num_preemptions"] += replica.preemptions
        self.counts["vllm:prefix_cache_queries"] += replica.blocks.looked_tokens
        self.counts["vllm:prefix_cache_hits"] += replica.blocks.hit_tokens
        self.counts["rota:engine_restarts"] += 1

    # -- what is shown --------------------------------------------------------------------------------------------

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The library's way to ask."""
        yield from self._gauges()
        yield from self._counters()
        for name, (about, _) in HISTOGRAMS.items():
            shown = HistogramMetricFamily(name, about, labels=["model_name", "engine"])
            shown.add_metric(self.labels, self.histograms[name].cumulative(), self.histograms[name].sum)
            yield shown

    def _gauges(self) -> Iterator[Metric]:
        replica = self.replica
        running = len(replica.running) if replica else 0
        waiting = len(replica.waiting) + len(replica.arrivals) if replica else 0
        use = 1.0 - replica.blocks.free / replica.blocks.total if replica else 0.0
        for name, about, value in (
            ("vllm:num_requests_running", "Requests in the batch", running),
            ("vllm:num_requests_waiting", "Requests that wait to be scheduled", waiting),
            ("vllm:kv_cache_usage_perc", "Share of KV blocks in use, 1 is all", use),
        ):
            gauge = GaugeMetricFamily(name, about, labels=["model_name", "engine"])
            gauge.add_metric(self.labels, value)
            yield gauge
        info = GaugeMetricFamily("vllm:cache_config_info", "The KV cache", labels=[*self.cache, "engine"])
        info.add_metric([*map(str, self.cache.values()), "0"], 1.0)
        yield info

    def _counters(self) -> Iterator[Metric]:
        replica, counts = self.replica, self.counts.copy()
        if replica is not None:
            counts["vllm:num_preemptions"] += replica.preemptions
            counts["vllm:prefix_cache_queries"] += replica.blocks.looked_tokens
            counts["vllm:prefix_cache_hits"] += replica.blocks.hit_tokens
        for name, about in (
            ("vllm:prompt_tokens", "Prompt tokens computed or found in the cache"),
            ("vllm:generation_tokens", "Output tokens"),
            ("vllm:num_preemptions", "Requests that had to start again"),
            ("vllm:prefix_cache_queries", "Tokens looked for in the prefix cache"),
            ("vllm:prefix_cache_hits", "Tokens found in the prefix cache"),
            ("rota:engine_restarts", "Injected restarts"),
        ):
            counter = CounterMetricFamily(name, about, labels=["model_name", "engine"])
            counter.add_metric(self.labels, float(counts[name]))
            yield counter
        ended = CounterMetricFamily(
            "vllm:request_success", "Requests by how they ended", labels=["model_name", "engine", "finished_reason"]
        )
        for ending in ENDINGS:
            ended.add_metric([*self.labels, ending], float(self.endings[ending]))
        yield ended
        injected = CounterMetricFamily("rota:engine_faults", "Injected faults that struck", labels=["kind"])
        for kind, count in sorted(self.faults.items()):
            injected.add_metric([kind], float(count))
        yield injected
