"""What engines say of themselves: /metrics of vLLM (names of now and before), SGLang, TensorRT-LLM and Triton, in one form.

Names as in llm-d-inference-sim, llm-d-router, production-stack and the engines' own sources; see docs/route/metrics.md.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

# quantity -> (names in order of preference, how series of several models or ranks are put together)
_SERIES: dict[str, tuple[tuple[str, ...], Callable[[Iterable[float]], float]]] = {
    "running": (
        ("vllm:num_requests_running", "sglang:num_running_reqs", "trtllm_num_requests_running"),
        sum,
    ),
    "waiting": (
        ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "trtllm_num_requests_waiting"),
        sum,
    ),
    "kv_use": (
        (
            "vllm:kv_cache_usage_perc",
            "vllm:gpu_cache_usage_perc",
            "sglang:token_usage",
            "trtllm_kv_cache_utilization",
        ),
        max,
    ),
    "prompt_tokens": (("vllm:prompt_tokens_total", "sglang:prompt_tokens_total"), sum),
    "generation_tokens": (("vllm:generation_tokens_total", "sglang:generation_tokens_total"), sum),
    "prefix_queries": (("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"), sum),
    "prefix_hits": (("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"), sum),
    "kv_blocks": (("trtllm_kv_cache_max_blocks",), sum),
    "block_tokens": (("trtllm_kv_cache_tokens_per_block",), max),
}
# The same quantity as one name with a label: (name, label, value) -> quantity.
_LABELLED = {
    ("nv_trt_llm_request_metrics", "request_type", "waiting"): "waiting",
    ("nv_trt_llm_request_metrics", "request_type", "scheduled"): "running",
    ("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "fraction"): "kv_use",
    ("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "max"): "kv_blocks",
    ("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "tokens_per"): "block_tokens",
}
# Series whose value is 1 and whose labels are the figures: (name, label) -> quantity.
_INFO = {
    ("vllm:cache_config_info", "num_gpu_blocks"): "kv_blocks",
    ("vllm:cache_config_info", "block_size"): "block_tokens",
    ("sglang:cache_config_info", "num_pages"): "kv_blocks",
    ("sglang:cache_config_info", "page_size"): "block_tokens",
}
_WANTED = {name for names, _ in _SERIES.values() for name in names} | {name for name, *_ in (*_LABELLED, *_INFO)}
FIGURE_MOST = 1e15  # what is negative or above is no count, whatever a page says


@dataclass(frozen=True)
class Reported:
    """The figures of one scrape; None where the engine does not say. `at`: seconds on the router's clock when they were asked for."""

    at: float
    running: float | None = None
    waiting: float | None = None
    kv_use: float | None = None  # 0..1
    kv_blocks: float | None = None
    block_tokens: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    prefix_queries: float | None = None
    prefix_hits: float | None = None

    @property
    def known(self) -> bool:
        """Whether the page said anything about load: some engines serve metrics of another kind under the same path."""
        return self.running is not None or self.waiting is not None or self.kv_use is not None


def parse(text: str, at: float) -> Reported:
    """Read a page in Prometheus' text format; lines that are not understood are of no interest and left out."""
    found: dict[str, list[float]] = {}
    quantities: dict[str, list[float]] = {}
    for line in text.splitlines():
        match = _LINE.match(line) if line and line[0] != "#" else None
        if match is None or match[1] not in _WANTED:
            continue
        name, labels = match[1], dict(_LABEL.findall(match[2] or ""))
        value = _number(match[3])
        if value is not None:
            found.setdefault(name, []).append(value)
            for label, said in labels.items():
                if quantity := _LABELLED.get((name, label, said)):
                    quantities.setdefault(quantity, []).append(value)
        for label, said in labels.items():
            if (quantity := _INFO.get((name, label))) and (figure := _number(said)) is not None:
                quantities.setdefault(quantity, []).append(figure)
    values: dict[str, float] = {}
    for quantity, (names, together) in _SERIES.items():
        series = next((found[name] for name in names if name in found), None) or quantities.get(quantity)
        if series:
            values[quantity] = float(together(series))
    if "kv_use" in values:
        values["kv_use"] = min(max(values["kv_use"], 0.0), 1.0)
    return Reported(at, **values)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < FIGURE_MOST else None
