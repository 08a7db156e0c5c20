"""Engines' figures are read under every name they have; ours appear under the names that dashboards chart."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from rota.route.meters import Histogram, Meters, percentile
from rota.route.reported import Reported, parse
from tests.route.stub import Stub, routed, until
from tests.route.test_proxy import CHAT, STREAM, chat

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b, \\"c\\"}"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0"} 4.0 1700000000000
vllm:%s{engine="0"} 0.5
vllm:cache_config_info{block_size="16",num_gpu_blocks="9000"} 1.0
vllm:prompt_tokens_total 1e3
vllm:time_to_first_token_seconds_bucket{le="+Inf"} 9
broken line {
"""
SGLANG = """sglang:num_running_reqs{tp_rank="0"} 3
sglang:num_running_reqs{tp_rank="1"} 1
sglang:num_queue_reqs 2
sglang:token_usage{tp_rank="0"} 0.25
sglang:token_usage{tp_rank="1"} 0.75
sglang:cache_config_info{page_size="1",num_pages="500"} 1
"""
TRT = """trtllm_num_requests_running 5
trtllm_num_requests_waiting 1
trtllm_kv_cache_utilization 0.125
trtllm_kv_cache_max_blocks 77
"""
TRITON = """nv_trt_llm_request_metrics{model="m",request_type="waiting",version="1"} 6
nv_trt_llm_request_metrics{model="m",request_type="scheduled",version="1"} 7
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="m"} 0.5
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="m"} 300
"""


@pytest.mark.parametrize(
    "text, expected",
    [
        (VLLM % "kv_cache_usage_perc", (5, 4, 0.5, 9000)),
        (VLLM % "gpu_cache_usage_perc", (5, 4, 0.5, 9000)),
        (SGLANG, (4, 2, 0.75, 500)),
        (TRT, (5, 1, 0.125, 77)),
        (TRITON, (7, 6, 0.5, 300)),
        ("go_goroutines 5\n", (None, None, None, None)),
        ("vllm:num_requests_running NaN\n", (None, None, None, None)),
    ],
)
def test_every_engine_in_one_form(text: str, expected: tuple[float | None, ...]) -> None:
    found = parse(text, 1.0)
    assert (found.running, found.waiting, found.kv_use, found.kv_blocks) == expected
    assert found.known == (expected[0] is not None)


@given(st.text(max_size=300))
def test_any_page_can_be_read(text: str) -> None:
    assert isinstance(parse(text + "\nvllm:num_requests_running 1", 0.0), Reported)


def test_scraped_figures_reach_the_tables(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub(metrics="vllm:num_requests_running 7\nvllm:num_requests_waiting 2\nvllm:kv_cache_usage_perc 0.5\n")
        async with routed(tmp_path, [stub], count_others=True) as setup:
            backend = setup.running.router.fleet.backends["a"]
            await until(lambda: backend.reported is not None)
            assert backend.count() == 9  # none of them ours
            assert backend.queued(setup.running.router.clock()) == 2
        async with routed(tmp_path, [stub]) as setup:
            backend = setup.running.router.fleet.backends["a"]
            await until(lambda: backend.reported is not None)
            assert backend.count() == 0

    asyncio.run(run())


def test_a_histogram_counts_as_prometheus_does() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.add(value)
    assert histogram.buckets() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    assert histogram.sum == 12.0
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([], 0.5) is None


def test_the_page_has_the_names_that_dashboards_chart(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub(pause=0.002), Stub(pause=0.002)]) as setup:
            body = {**STREAM, "stream_options": {"include_usage": True}}
            for _ in range(4):
                async with chat(setup, body, headers={"x-llm-d-inference-fairness-id": "team"}) as answer:
                    await answer.read()
            async with chat(setup, {**CHAT, "model": "none"}) as answer:
                assert answer.status == 404
            async with setup.client.get(setup.url + "/metrics") as answer:
                text = await answer.text()
        found = {family.name: family for family in text_string_to_metric_families(text)}
        for name in (
            "vllm:current_qps", "vllm:avg_latency", "vllm:avg_itl", "vllm:num_prefill_requests", "vllm:num_decoding_requests",
            "vllm:healthy_pods_total", "vllm:num_incoming_requests", "vllm:request_latency_seconds", "llm_d_epp_request",
            "llm_d_epp_request_error", "llm_d_epp_request_duration_seconds", "llm_d_epp_request_ttft_seconds",
            "llm_d_epp_request_streaming_tpot_seconds", "llm_d_epp_request_streaming_itl_seconds", "llm_d_epp_request_input_tokens",
            "llm_d_epp_request_output_tokens", "llm_d_epp_request_running", "llm_d_epp_average_kv_cache_utilization",
            "llm_d_epp_average_queue_size", "llm_d_epp_ready_endpoints", "llm_d_epp_scheduler_e2e_duration_seconds",
            "rota_backend_state", "rota_policy_fallbacks",
        ):  # fmt: skip
            assert name in found, name
        totals = {s.labels["fairness_id"]: s.value for s in found["llm_d_epp_request"].samples}
        assert totals == {"team": 4, "": 1}
        [tokens] = [s for s in found["llm_d_epp_request_input_tokens"].samples if s.name.endswith("_sum")]
        assert tokens.value == 28
        assert sum(s.value for s in found["vllm:healthy_pods_total"].samples) == 2
        gaps = [s for s in found["llm_d_epp_request_streaming_itl_seconds"].samples if s.name.endswith("_count")]
        assert gaps[0].value >= 12

    asyncio.run(run())


def test_labels_are_bounded() -> None:
    meters = Meters()
    for number in range(3000):
        meters._label(f"m{number}", "t")
        meters.gaps(f"m{number}")
    assert len(meters._labels) == 1000
    assert len(meters.between) == 1001
