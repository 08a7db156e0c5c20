"""Whatever a body holds: a job that the replica can serve, or an error of the client's, never a traceback."""

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from rota.route.engine import requests
from rota.route.engine.errors import ApiError
from rota.route.engine.settings import read, resolve

PLAN = resolve(read(None, {"kv_blocks": 20}))
# fmt: off
FIELDS = [
    "model", "messages", "max_tokens", "max_completion_tokens", "min_tokens", "n", "stop", "seed", "stream",
    "stream_options", "ignore_eos", "tools", "tool_choice", "prompt", "input", "temperature", "top_p",
    "response_format", "logprobs", "echo", "suffix", "rota_output_tokens", "instructions", "max_output_tokens",
    "dimensions", "encoding_format", "role", "content", "type", "text", "function", "name", "parameters",
    "properties", "required", "user", "object", "string", "llama-3.1-8b",
]
# fmt: on
numbers = st.integers(-3, 400) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8) | st.sampled_from(FIELDS)
anything = st.recursive(
    scalars,
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), each, max_size=5),
    max_leaves=25,
)
message = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=40)})
bodies = st.builds(
    dict.__or__,
    st.fixed_dictionaries(
        {},
        optional={
            "messages": st.lists(message, max_size=3),
            "prompt": st.text(max_size=30),
            "input": st.text(max_size=30),
        },
    ),
    st.dictionaries(st.sampled_from(FIELDS), anything, max_size=6),
)


def fits(job: requests.Job) -> None:
    assert 1 <= len(job.tokens) <= job.max_tokens
    assert len(job.prompt) + len(job.tokens) <= PLAN.longest
    assert job.ending in ("stop", "length", "tool_calls")


@given(body=bodies)
def test_any_body(body: dict[str, Any]) -> None:
    text = msgspec.json.encode(body)
    for kind, understand in (
        (requests.ChatBody, lambda found: [requests.chat_job(PLAN, found)]),
        (requests.CompletionBody, lambda found: requests.completion_jobs(PLAN, found)),
        (requests.ResponseBody, lambda found: [requests.response_job(PLAN, found)]),
        (requests.EmbeddingBody, lambda found: requests.embedding_prompts(PLAN, found) and []),
    ):
        jobs, error = outcome(lambda kind=kind, understand=understand: understand(requests.read_body(text, kind)))
        for job in jobs or []:
            fits(job)
        if error is not None:
            assert 400 <= error.status < 500
            assert error.body["error"]["message"]


def outcome(work: Callable[[], Any]) -> tuple[Any, ApiError | None]:
    try:
        return work(), None
    except ApiError as error:
        return None, error


@given(body=st.binary(max_size=60))
def test_any_bytes(body: bytes) -> None:
    for kind in (requests.ChatBody, requests.CompletionBody, requests.EmbeddingBody):
        _, error = outcome(lambda kind=kind: requests.read_body(body, kind))
        assert error is None or error.status == 400
