"""The router's /metrics: its accounts under the names that existing dashboards chart.

Names of production-stack's router (gauges with the label `server`) and of llm-d's endpoint picker (prefix ``llm_d_epp_``), and our own with ``rota_``. Every
figure is read from the accounts when it is asked for; nothing is counted twice. docs/route/metrics.md says what each means.
"""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from rota.route.meters import LABELS_MOST, Histogram
from rota.route.router import Router

_PAIR = ("model_name", "target_model_name", "fairness_id")


class _Accounts(Collector):
    def __init__(self, router: Router) -> None:
        self._router = router
        self._before: dict[str, tuple[float, int]] = {}

    def collect(self) -> Iterator[Metric]:
        yield from self._production_stack()
        yield from self._llm_d()
        yield from self._own()

    def _production_stack(self) -> Iterator[Metric]:
        router, now = self._router, self._router.clock()
        backends = list(router.fleet.backends.values())
        sums = router.meters.by_backend
        rates: dict[str, float] = {}
        for each in backends:
            at, sent = self._before.get(each.name, (0.0, 0))
            rates[each.name] = (each.sent - sent) / max(now - at, 1e-9)
            self._before[each.name] = (now, each.sent)
        prefill = {each.name: sum(j.first_byte != j.first_byte for j in each.outstanding.values()) for each in backends}
        yield _gauge("vllm:current_qps", "requests a second sent since the last scrape", "server", rates)
        for name, text, top, count in (
            ("vllm:avg_latency", "mean seconds of whole answers", 1, 0),
            ("vllm:avg_itl", "mean seconds between tokens", 2, 3),
            ("vllm:avg_ttft", "mean seconds to the first token", 4, 5),
        ):
            means = {b: row[top] / row[count] for b, row in sums.items() if row[count] and b}
            yield _gauge(name, text, "server", means)
        yield _gauge("vllm:num_prefill_requests", "requests without a first byte", "server", prefill)
        decoding = {each.name: len(each.outstanding) - prefill[each.name] for each in backends}
        yield _gauge("vllm:num_decoding_requests", "requests with a first byte", "server", decoding)
        healthy = {each.name: float(each.usable(now)) for each in backends}
        yield _gauge("vllm:healthy_pods_total", "1 where a backend can be sent requests", "server", healthy)
        yield _counter(
            "vllm:num_incoming_requests",
            "requests that are over",
            ("model",),
            {(m,): v for m, v in router.meters.incoming.items()},
        )
        latency = {(name,): each for name, each in router.meters.latency.items()}
        yield _histogram("vllm:request_latency_seconds", "whole answers", ("server",), latency)

    def _llm_d(self) -> Iterator[Metric]:
        router, now = self._router, self._router.clock()
        meters = router.meters
        totals: dict[tuple[str, ...], float] = {}
        errors: dict[tuple[str, ...], float] = {}
        for (model, tenant, outcome), count in meters.outcomes.items():
            key = (model, model, tenant)
            totals[key] = totals.get(key, 0) + count
            if outcome != "complete":
                errors[(*key, outcome)] = errors.get((*key, outcome), 0) + count
        yield _counter("llm_d_epp_request_total", "requests that are over", _PAIR, totals)
        yield _counter("llm_d_epp_request_error_total", "of these, not complete", (*_PAIR, "error_code"), errors)
        for name, text, table in (
            ("request_duration_seconds", "whole answers", meters.duration),
            ("request_ttft_seconds", "first byte of streams", meters.first),
            ("request_streaming_tpot_seconds", "mean gap of a stream", meters.per_token),
            ("request_input_tokens", "prompt tokens", meters.prompt),
            ("request_output_tokens", "output tokens", meters.output),
            ("request_cached_tokens", "prompt tokens that the engine had cached", meters.cached),
        ):
            rows = {(model, model, tenant): each for (model, tenant), each in table.items()}
            yield _histogram(f"llm_d_epp_{name}", text, _PAIR, rows)
        if meters.prefix_hits.total:
            yield _histogram(
                "llm_d_epp_prefix_indexer_hit_ratio",
                "share of a prompt's blocks that the index believed cached where it went",
                (),
                {(): meters.prefix_hits},
            )
        gaps = {(model, model): each for model, each in meters.between.items()}
        yield _histogram("llm_d_epp_request_streaming_itl_seconds", "gaps between events", _PAIR[:2], gaps)
        running: dict[tuple[str, ...], float] = {}
        backends = list(router.fleet.backends.values())
        for job in (job for each in backends for job in each.outstanding.values()):
            key = (job.model, job.model, job.tenant.name)
            if key in running or len(running) < LABELS_MOST:
                running[key] = running.get(key, 0) + 1
        yield _gauge_of("llm_d_epp_request_running", "requests at backends", _PAIR, running)
        fresh = [seen for each in backends if (seen := each.fresh(now)) is not None]
        kv = [seen.kv_use for seen in fresh if seen.kv_use is not None]
        waiting = [seen.waiting for seen in fresh if seen.waiting is not None]
        if kv:
            yield _single(
                "llm_d_epp_average_kv_cache_utilization",
                "mean share of KV cache in use, of fresh figures",
                sum(kv) / len(kv),
            )
        if waiting:
            yield _single(
                "llm_d_epp_average_queue_size",
                "mean queue of the engines, of fresh figures",
                sum(waiting) / len(waiting),
            )
        yield _single(
            "llm_d_epp_ready_endpoints",
            "backends that can be sent requests",
            sum(each.usable(now) for each in backends),
        )
        yield _histogram("llm_d_epp_scheduler_e2e_duration_seconds", "seconds of a decision", (), {(): meters.deciding})

    def _own(self) -> Iterator[Metric]:
        router, now = self._router, self._router.clock()
        backends = list(router.fleet.backends.values())
        for name, text, values in (
            ("outstanding", "requests at a backend", {each.name: len(each.outstanding) for each in backends}),
            ("sent", "tries sent", {each.name: each.sent for each in backends}),
            ("failed", "tries that a backend failed", {each.name: each.failed for each in backends}),
        ):
            rows = {(key,): float(value) for key, value in values.items()}
            make = _gauge_of if name == "outstanding" else _counter
            yield make(f"rota_backend_{name}", text, ("server",), rows)
        states = {(each.name, each.state(now)): 1.0 for each in backends}
        yield _gauge_of("rota_backend_state", "1 for the state that a backend is in", ("server", "state"), states)
        tenants = router.tenants.all
        refused = {(each.name,): float(each.refused) for each in tenants}
        yield _counter("rota_tenant_refused", "requests over a tenant's limits", ("fairness_id",), refused)
        tokens = {(each.name,): float(each.prompt_tokens + each.output_tokens) for each in tenants}
        yield _counter("rota_tenant_tokens", "prompt and output tokens served", ("fairness_id",), tokens)
        yield _single("rota_waiting", "requests in the router's line", len(router.line))
        for name, text, value in (
            ("rota_shed", "requests refused because the line was full or the wait too long", router.line.shed),
            ("rota_retries", "tries after the first", router.retries),
            ("rota_hedges", "second tries beside a silent one", router.hedges),
            ("rota_hedges_won", "of these, those that answered first", router.hedges_won),
            ("rota_decisions", "questions to the place policy", router.decisions.asked),
            (
                "rota_policy_fallbacks",
                "decisions taken by the fallback because a policy failed",
                router.decisions.fallbacks,
            ),
            ("rota_recorded_rows", "rows written", router.recorder.written if router.recorder else 0),
        ):
            yield _counter(name, text, (), {(): value})


def _gauge(name: str, text: str, label: str, values: dict[str, Any]) -> Metric:
    return _gauge_of(name, text, (label,), {(key,): float(value) for key, value in values.items()})


def _gauge_of(name: str, text: str, labels: tuple[str, ...], values: dict[Any, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _single(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, labels: tuple[str, ...], values: dict[Any, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, text: str, labels: tuple[str, ...], rows: dict[Any, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, each in rows.items():
        family.add_metric(key, buckets=each.buckets(), sum_value=each.sum)
    return family


class Page:
    """The text of /metrics."""

    def __init__(self, router: Router) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Accounts(router))

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
