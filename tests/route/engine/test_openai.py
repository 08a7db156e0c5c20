"""The official client, unmodified: chat, completion, streams, tools, embeddings, responses, errors, cancellation."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from rota.route.engine import Engine
from rota.route.engine.words import pieces
from tests.route.engine.serving import MODEL, served, until

HELLO: Any = [{"role": "user", "content": "hello there"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"enum": ["celsius", "kelvin"]},
                "notes": {"type": "string"},
            },
            "required": ["city", "days", "unit"],
        },
    },
}


def ask(work: Callable[[AsyncOpenAI, Engine], Awaitable[Any]], **keys: Any) -> Any:
    async def run(engine: Engine, _: aiohttp.ClientSession) -> Any:
        async with AsyncOpenAI(base_url=f"{engine.url}/v1", api_key="any", max_retries=0) as client:
            return await work(client, engine)

    return served(run, **keys)


def test_chat() -> None:
    async def work(client: AsyncOpenAI, engine: Engine) -> None:
        answer = await client.chat.completions.create(model=MODEL, messages=HELLO)
        choice, usage = answer.choices[0], answer.usage
        assert choice.finish_reason == "stop"
        assert choice.message.role == "assistant"
        assert usage is not None
        assert usage.completion_tokens == len(pieces(choice.message.content or "")) > 1
        assert usage.prompt_tokens == 3 + len(pieces("hello there"))  # markers: user, end, assistant
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        again = await client.chat.completions.create(model=MODEL, messages=HELLO)
        assert again.choices[0].message.content == choice.message.content
        other = await client.chat.completions.create(model=MODEL, messages=HELLO, seed=7)
        assert other.choices[0].message.content != choice.message.content

    ask(work)


def test_another_seed_gives_another_answer() -> None:
    async def work(client: AsyncOpenAI, engine: Engine) -> str | None:
        answer = await client.chat.completions.create(model=MODEL, messages=HELLO)
        return answer.choices[0].message.content

    assert ask(work, seed=1) == ask(work, seed=1) != ask(work, seed=2)


def test_chat_stream() -> None:
    async def work(client: AsyncOpenAI, engine: Engine) -> None:
        asked: Any = {"model": MODEL, "messages": HELLO, "extra_body": {"rota_output_tokens": 50}}
        whole = await client.chat.completions.create(**asked, max_tokens=9)
        stream = await client.chat.completions.create(**asked, max_completion_tokens=9, stream=True)
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == whole.choices[0].message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 9 + ["length"]
        assert all(chunk.usage is None for chunk in chunks)
        counted = await client.chat.completions.create(
            **asked, max_tokens=9, stream=True, stream_options={"include_usage": True}
        )
        *_, last = [chunk async for chunk in counted]
        assert last.choices == []
        assert last.usage == whole.usage

    ask(work)


def test_completion() -> None:
    async def work(client: AsyncOpenAI, engine: Engine) -> None:
        answer = await client.completions.create(model=MODEL, prompt="once upon a time")
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 4
        assert answer.usage.completion_tokens <= 16  # the default of max_tokens
        two = await client.completions.create(model=MODEL, prompt=["once upon a time", "other"], max_tokens=5)
        assert [choice.index for choice in two.choices] == [0, 1]
        assert two.choices[0].text == " ".join(answer.choices[0].text.split()[:5])
        ids = await client.completions.create(
            model=MODEL, prompt=[1, 2, 3], extra_body={"rota_output_tokens": 6}, max_tokens=50
        )
        assert ids.usage is not None
        assert (ids.usage.prompt_tokens, ids.usage.completion_tokens) == (3, 6)
        assert ids.choices[0].finish_reason == "stop"
        stream = await client.completions.create(model=MODEL, prompt="once upon a time", stream=True, max_tokens=5)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == two.choices[0].text

    ask(work)


def test_how_long_an_answer_is() -> None:
    async def work(client: AsyncOpenAI, engine: Engine) -> None:
        async def tokens(**more: Any) -> tuple[int, str]:
            answer = await client.completions.create(model=MODEL, prompt="p", **more)
            assert answer.usage is not None
            return answer.usage.completion_tokens, answer.choices[0].finish_reason

        wanted = {"rota_output_tokens": 8}
        assert await tokens(max_tokens=8, extra_body=wanted) == (8, "stop")
        assert await tokens(max_tokens=7, extra_body=wanted) == (7, "length")
        assert await tokens(max_tokens=30, extra_body=wanted | {"ignore_eos": True}) == (30, "length")
        assert await tokens(max_tokens=30, extra_body=wanted | {"min_tokens": 12}) == (12, "stop")
        words = await client.completions.create(model=MODEL, prompt="p", max_tokens=30, extra_body={"ignore_eos": True})
        third = words.choices[0].text.split()[3]
        first = words.choices[0].text.split().index(third)
        stopped = await client.completions.create(
            model=MODEL, prompt="p", max_tokens=30, stop=[f" {third}"], extra_body={"ignore_eos": True}
        )
        assert stopped.choices[0].finish_reason == "stop"
        assert stopped.choices[0].text == " ".join(words.choices[0].text.split()[:first])
        assert stopped.usage is not None
        assert stopped.usage.completion_tokens == first + 1  # the stop string was computed

    ask(work)


def test_tools() -> None:
    async def work(client: AsyncOpenAI, engine: Engine) -> None:
        free = await client.chat.completions.create(model=MODEL, messages=HELLO, tools=[WEATHER])
        assert free.choices[0].message.content
        assert free.choices[0].message.tool_calls is None
        named: Any = {"type": "function", "function": {"name": "weather"}}
        for choice, ending in (("required", "tool_calls"), (named, "stop")):
            forced = await client.chat.completions.create(
                model=MODEL, messages=HELLO, tools=[WEATHER], tool_choice=choice
            )
            assert forced.choices[0].finish_reason == ending
            assert forced.choices[0].message.content is None
            [call] = forced.choices[0].message.tool_calls or []
            arguments = json.loads(call.function.arguments)  # type: ignore[union-attr]
            assert list(arguments) == ["city", "days", "unit"]
            assert isinstance(arguments["city"], str)
            assert isinstance(arguments["days"], int)
            assert arguments["unit"] in ("celsius", "kelvin")
        stream = await client.chat.completions.create(
            model=MODEL, messages=HELLO, tools=[WEATHER], tool_choice="required", stream=True
        )
        parts = [part async for chunk in stream for part in chunk.choices[0].delta.tool_calls or []]
        assert parts[0].function is not None
        assert parts[0].function.name == "weather"
        assert parts[0].id
        text = "".join(part.function.arguments or "" for part in parts if part.function)
        assert text == call.function.arguments  # type: ignore[union-attr]

    ask(work)


def test_embeddings_and_responses() -> None:
    async def work(client: AsyncOpenAI, engine: Engine) -> None:
        found = await client.embeddings.create(model=MODEL, input=["one two", "three"], dimensions=64)  # sent as base64
        plain = await client.embeddings.create(model=MODEL, input="one two", dimensions=64, encoding_format="float")
        assert [len(each.embedding) for each in found.data] == [64, 64]
        assert found.data[0].embedding == pytest.approx(plain.data[0].embedding)
        assert sum(value**2 for value in plain.data[0].embedding) == pytest.approx(1.0)
        assert found.usage.prompt_tokens == 2 + 2
        said = await client.responses.create(
            model=MODEL, input="hello there", instructions="be short", max_output_tokens=5
        )
        assert said.status == "incomplete"
        assert said.usage is not None
        assert said.usage.output_tokens == 5 == len(said.output_text.split())
        stream = await client.responses.create(
            model=MODEL,
            input=[{"role": "user", "content": "hello there"}],
            instructions="be short",
            max_output_tokens=5,
            stream=True,
        )
        events = [event async for event in stream]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert (
            "".join(event.delta for event in events if event.type == "response.output_text.delta") == said.output_text
        )
        assert events[-1].type == "response.incomplete"
        assert events[-1].response.output_text == said.output_text

    ask(work)


def test_models() -> None:
    async def work(client: AsyncOpenAI, engine: Engine) -> None:
        [card] = (await client.models.list()).data
        assert (card.id, card.owned_by) == ("mine", "rota")

    ask(work, served_model_name="mine")


@pytest.mark.parametrize(
    "more, kind, status, param, said",
    [
        ({"model": "other"}, openai.NotFoundError, 404, "model", "The model `other` does not exist."),
        ({"n": 2}, openai.BadRequestError, 400, "n", "one answer a request, found 2"),
        ({"max_tokens": 0}, openai.BadRequestError, 400, "max_tokens", "at least 1, got 0"),
        ({"max_tokens": 7000}, openai.BadRequestError, 400, "messages", "maximum context length is 6401 tokens"),
        ({"messages": []}, openai.BadRequestError, 400, "messages", "is empty"),
        ({"messages": [{"role": "user", "content": "long " * 7000}]}, openai.BadRequestError, 400, "messages", "7004 in the messages"),
        ({"logprobs": True}, openai.BadRequestError, 400, "logprobs", "not supported"),
        ({"tool_choice": "required"}, openai.BadRequestError, 400, "tool_choice", "no tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, openai.BadRequestError, 400, "tool_choice", "'x'"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, 400, "response_format", "not JSON"),
        ({"extra_body": {"max_tokens": "five"}}, openai.BadRequestError, 400, "max_tokens", "got 'str'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            openai.BadRequestError, 400, "messages", "only text",
        ),
    ],
)  # fmt: skip
def test_errors(more: dict[str, Any], kind: type[openai.APIStatusError], status: int, param: str, said: str) -> None:
    async def work(client: AsyncOpenAI, engine: Engine) -> None:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(**{"model": MODEL, "messages": HELLO, **more})
        assert caught.value.status_code == caught.value.body["code"] == status  # type: ignore[index, call-overload]
        assert caught.value.param == param
        assert said in caught.value.message
        assert engine.state()["outstanding"] == 0

    ask(work)


def test_a_client_that_leaves_frees_its_slot_and_its_blocks() -> None:
    async def work(client: AsyncOpenAI, engine: Engine) -> None:
        long: Any = {"model": MODEL, "messages": HELLO, "extra_body": {"ignore_eos": True}, "max_tokens": 3000}
        stream = await client.chat.completions.create(**long, stream=True)
        async for _ in stream:
            break
        waiting = asyncio.ensure_future(client.chat.completions.create(**long))  # has to wait: there is one slot
        await until(lambda: len(engine.state()["waiting"]) == 1)
        state = engine.state()
        assert len(state["running"]) == 1
        assert state["blocks"]["free"] < state["blocks"]["total"]
        await stream.close()
        await until(lambda: engine.state()["running"][:1] != [] and engine.state()["running"][0]["number"] == 1)
        waiting.cancel()
        await until(lambda: engine.state()["outstanding"] == 0 and engine.state()["running"] == [])
        state = engine.state()
        assert state["blocks"]["free"] == state["blocks"]["total"]
        assert 'vllm:request_success_total{engine="0",finished_reason="abort",model_name="llama-3.1-8b"} 2.0' in (
            engine.metrics.text().decode()
        )

    ask(work, max_running=1, speed=1.0)


def test_a_key() -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> None:
        async with AsyncOpenAI(base_url=f"{engine.url}/v1", api_key="secret", max_retries=0) as client:
            assert (await client.models.list()).data
        async with AsyncOpenAI(base_url=f"{engine.url}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        async with session.get("/health") as answer:
            assert answer.status == 200

    served(work, api_key="secret")
