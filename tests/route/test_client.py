"""The official client, unmodified, against the router."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.route.stub import Stub, routed, until


@asynccontextmanager
async def clients(folder: Path, stubs: list[Stub], **settings: Any) -> AsyncIterator[tuple[Any, openai.AsyncOpenAI]]:
    async with (
        routed(folder, stubs, **settings) as setup,
        openai.AsyncOpenAI(base_url=setup.url + "/v1", api_key="sk-x", max_retries=0) as client,
    ):
        yield setup, client


async def collect(stream: Any, pieces: list[Any]) -> None:
    async for piece in stream:
        pieces.append(piece)  # noqa: PERF401 # what came before an error counts


def test_chat_completion_streaming_and_models(tmp_path: Path) -> None:
    async def run() -> None:
        async with clients(tmp_path, [Stub(), Stub()]) as (setup, client):
            messages: Any = [{"role": "user", "content": "hello"}]
            answer = await client.chat.completions.create(model="m", messages=messages)
            assert answer.choices[0].message.content == "aaaaa"
            assert answer.usage is not None
            assert answer.usage.total_tokens == 12
            text = await client.completions.create(model="m", prompt="hello")
            assert text.choices[0].text == "aaaaa"
            stream = await client.chat.completions.create(
                model="m", messages=messages, stream=True, stream_options={"include_usage": True}
            )
            pieces = [piece async for piece in stream]
            assert (
                "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == "t0 t1 t2 t3 t4 "
            )
            assert pieces[-1].usage is not None
            assert [model.id async for model in client.models.list()] == ["m"]
            assert sum(len(stub.seen) for stub in setup.stubs) == 3

    asyncio.run(run())


def test_tools_are_passed_through(tmp_path: Path) -> None:
    async def run() -> None:
        async with clients(tmp_path, [Stub()]) as (setup, client):
            tool: Any = {
                "type": "function",
                "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
            }
            await client.chat.completions.with_raw_response.create(
                model="m", messages=[{"role": "user", "content": "x"}], tools=[tool]
            )
            assert json.loads(setup.stubs[0].seen[0]["body"])["tools"] == [tool]

    asyncio.run(run())


def test_the_engines_errors_are_the_clients_errors(tmp_path: Path) -> None:
    async def run() -> None:
        kinds: dict[int, Any] = {
            400: openai.BadRequestError, 404: openai.NotFoundError, 422: openai.UnprocessableEntityError,
            429: openai.RateLimitError, 500: openai.InternalServerError,
        }  # fmt: skip
        async with clients(tmp_path, [Stub(extra={"x-request-id": "engine-7"})]) as (setup, client):
            for status, kind in kinds.items():
                setup.stubs[0].status = status
                with pytest.raises(kind) as caught:
                    await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
                assert caught.value.status_code == status
                assert caught.value.body["message"] == "from the engine"
                assert caught.value.request_id == "engine-7"

    asyncio.run(run())


def test_a_cut_stream_is_an_error_of_the_client(tmp_path: Path) -> None:
    async def run() -> None:
        async with clients(tmp_path, [Stub(cut_after=2)]) as (_, client):
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "x"}], stream=True
            )
            pieces: list[Any] = []
            with pytest.raises(openai.APIError, match="in the middle of the answer"):
                await collect(stream, pieces)
            assert len(pieces) == 2

    asyncio.run(run())


def test_a_cut_stream_of_responses_is_an_error_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with clients(tmp_path, [Stub(cut_after=2)]) as (_, client):
            stream = await client.responses.create(model="m", input="hello", stream=True)
            pieces: list[Any] = []
            with pytest.raises(openai.APIError, match="in the middle of the answer"):
                await collect(stream, pieces)
            assert len(pieces) == 2

    asyncio.run(run())


def test_the_routers_own_refusals_are_the_clients_errors(tmp_path: Path) -> None:
    async def run() -> None:
        settings = {"tenants": {"known": [], "other": {"name": "", "requests_per_minute": 1}}}
        async with clients(tmp_path, [Stub()], **settings) as (setup, client):
            messages: Any = [{"role": "user", "content": "x"}]
            await client.chat.completions.create(model="m", messages=messages)
            with pytest.raises(openai.RateLimitError) as limited:
                await client.chat.completions.create(model="m", messages=messages)
            assert int(limited.value.response.headers["retry-after"]) in range(1, 62)
            other = {"x-llm-d-inference-fairness-id": "other"}
            with pytest.raises(openai.NotFoundError, match="does not exist here"):
                await client.chat.completions.create(model="no", messages=messages, extra_headers=other)
            await setup.stubs[0].stop()
            await until(lambda: not setup.running.router.ready)
            third = {"x-llm-d-inference-fairness-id": "third"}
            with pytest.raises(openai.InternalServerError) as down:
                await client.chat.completions.create(model="m", messages=messages, extra_headers=third)
            assert down.value.status_code == 503
            assert down.value.code == "no_backend"

    asyncio.run(run())


def test_cancellation_reaches_the_engine(tmp_path: Path) -> None:
    async def run() -> None:
        async with clients(tmp_path, [Stub(tokens=1000, pause=0.01)]) as (setup, client):
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "x"}], stream=True
            )
            async for _ in stream:
                break
            await stream.close()
            await until(lambda: setup.stubs[0].left == 1)
            await until(lambda: setup.running.router.fleet.outstanding == 0)

    asyncio.run(run())
