"""The router before processes of `rota engine`: the official client, a kill, and nothing lost."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import yaml

from rota.route.run import Running
from rota.route.settings import read
from rota.worlds.serving.recording import rows
from tests.route.stub import QUICK, until

MODEL = "llama-3.1-8b"


@asynccontextmanager
async def engines(count: int, *options: str) -> AsyncIterator[list[Any]]:
    """Processes with their urls as `.url`."""
    started = []
    try:
        for number in range(count):
            words = (
                "engine",
                "--port",
                "0",
                "--seed",
                str(number),
                "--speed",
                "20",
                "--output-tokens",
                "20,0.3",
                *options,
            )
            made: Any = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "rota.cli.main", *words,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=dict(os.environ),
            )  # fmt: skip
            started.append(made)
        for made in started:
            async with asyncio.timeout(120):
                said = b""
                while b"http://" not in said:
                    said = await made.stdout.readline()
                    assert said, "an engine ended before it listened"
            made.url = "http://" + said.split(b"http://")[1].split()[0].decode().rstrip("/.,")
        yield started
    finally:
        for made in started:
            if made.returncode is None:
                made.send_signal(signal.SIGKILL)
            await made.communicate()


def config(folder: Path, urls: list[str]) -> Path:
    path = folder / "route.yaml"
    backends = [{"name": chr(97 + k), "url": url} for k, url in enumerate(urls)]
    recording = {"folder": "recording", "flush_seconds": 0.2}
    document = {
        **QUICK,
        "log": {"level": "error"},
        "backends": backends,
        "recording": recording,
        "policy": {"place": "round_robin"},
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_official_client_before_two_engines(tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            engines(2) as started,
            Running(read(config(tmp_path, [each.url for each in started]))) as running,
            openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key="sk-x", max_retries=0) as client,
        ):
            messages: Any = [{"role": "user", "content": "hello, how are you today?"}]
            assert [model.id async for model in client.models.list()] == [MODEL]
            whole = await client.chat.completions.create(model=MODEL, messages=messages)
            assert whole.usage is not None
            assert whole.usage.completion_tokens >= 1
            assert whole.choices[0].message.content
            stream = await client.chat.completions.create(
                model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True}, max_tokens=12
            )
            pieces = [piece async for piece in stream]
            assert pieces[-1].usage is not None
            assert pieces[-1].usage.completion_tokens <= 12
            assert (
                (await client.completions.create(model=MODEL, prompt="once upon a time", max_tokens=5)).choices[0].text
            )
            with pytest.raises(openai.BadRequestError):
                await client.chat.completions.create(model=MODEL, messages=messages, max_tokens=-1)
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model="other", messages=messages)
            backends = running.router.fleet.backends
            await until(lambda: all(each.reported is not None and each.reported.known for each in backends.values()))
            assert {each.sent for each in backends.values()} == {2}

    asyncio.run(run())


def test_tools_responses_embeddings_errors_and_cancellation_before_engines(tmp_path: Path) -> None:
    weather: Any = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }

    async def run() -> None:
        async with (
            engines(2, "--speed", "1") as started,
            Running(read(config(tmp_path, [each.url for each in started]))) as running,
            openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key="sk-x", max_retries=0) as client,
        ):
            messages: Any = [{"role": "user", "content": "what is the weather in Delft?"}]
            called = await client.chat.completions.create(
                model=MODEL, messages=messages, tools=[weather], tool_choice="required"
            )
            [call] = called.choices[0].message.tool_calls or []
            function: Any = call
            assert function.function.name == "weather"
            assert set(json.loads(function.function.arguments)) == {"city"}
            answer = await client.responses.create(model=MODEL, input="hello", max_output_tokens=4)
            assert answer.output_text
            assert answer.usage is not None
            assert answer.usage.output_tokens == 4
            kinds = [
                each.type
                async for each in await client.responses.create(
                    model=MODEL, input="hello", max_output_tokens=4, stream=True
                )
            ]
            assert kinds[0] == "response.created"
            assert kinds[-1] in ("response.completed", "response.incomplete")
            assert kinds.count("response.output_text.delta") == 4
            vectors = await client.embeddings.create(model=MODEL, input=["a", "b"])
            assert len(vectors.data) == 2
            assert (await client.models.retrieve(MODEL)).id == MODEL
            with pytest.raises(openai.BadRequestError) as caught:
                await client.chat.completions.create(model=MODEL, messages=messages, n=2)
            direct = openai.AsyncOpenAI(base_url=started[0].url + "/v1", api_key="sk-x", max_retries=0)
            async with direct:
                with pytest.raises(openai.BadRequestError) as there:
                    await direct.chat.completions.create(model=MODEL, messages=messages, n=2)
            assert caught.value.body == there.value.body
            stream = await client.chat.completions.create(
                model=MODEL, messages=messages, stream=True, max_tokens=100_000, extra_body={"ignore_eos": True}
            )
            async for _ in stream:
                break
            await stream.close()
            await until(lambda: running.router.outstanding == 0)
            assert await aborted(started) == 1

    asyncio.run(run())
    written = rows(tmp_path / "recording")
    responses = written.filter(written["path"] == "/v1/responses")
    assert responses["output_tokens"].to_list() == [4, 4]
    assert responses["counted"].to_list() == [True, True]


async def aborted(started: list[Any]) -> float:
    """Requests that engines ended because their client had left; waited for, for a while."""
    found = 0.0
    async with aiohttp.ClientSession() as client:
        for _ in range(100):
            found = 0.0
            for each in started:
                async with client.get(each.url + "/metrics") as answer:
                    page = await answer.text()
                found += sum(
                    float(line.rpartition(" ")[2])
                    for line in page.splitlines()
                    if line.startswith("vllm:request_success_total") and 'finished_reason="abort"' in line
                )
            if found:
                break
            await asyncio.sleep(0.05)
    return found


def test_a_killed_engine_costs_at_most_what_it_was_saying(tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            engines(2) as started,
            Running(read(config(tmp_path, [each.url for each in started]))) as running,
            openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key="sk-x", max_retries=0) as client,
        ):

            async def one(number: int) -> str:
                messages: Any = [{"role": "user", "content": f"question {number}"}]
                begun = False
                try:
                    stream = await client.chat.completions.create(
                        model=MODEL, messages=messages, stream=True, max_tokens=40
                    )
                    last = None
                    async for piece in stream:
                        begun, last = True, piece
                    assert last is not None
                    return "whole"
                except openai.APIError:
                    return "cut" if begun else "refused"

            async def storm() -> list[str]:
                tasks = []
                for number in range(60):
                    tasks.append(asyncio.create_task(one(number)))
                    await asyncio.sleep(0.02)
                    if number == 30:
                        started[0].send_signal(signal.SIGKILL)
                return list(await asyncio.gather(*tasks))

            found = await storm()
            assert "refused" not in found  # before the first byte there was another engine
            assert found.count("whole") >= 45
            router = running.router
            await until(lambda: router.fleet.outstanding == 0)
            assert not router.fleet.backends["a"].up

    asyncio.run(run())
    written = rows(tmp_path / "recording")
    assert len(written) == 60
    assert set(written["outcome"].to_list()) <= {"complete", "cut"}
