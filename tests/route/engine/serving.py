"""What tests of the server share: a small engine in this process, and a client."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from rota.route.engine import Engine

SMALL = {"port": 0, "speed": 50.0, "kv_blocks": 400, "output_tokens": {"mean": 12.0, "sigma": 0.3}}
MODEL = "llama-3.1-8b"
Work = Callable[[Engine, aiohttp.ClientSession], Awaitable[Any]]


def served(work: Work, **keys: Any) -> Any:
    """Run `work` on an engine and a session whose paths are relative to it."""

    async def run() -> Any:
        engine = Engine(**{**SMALL, **keys})
        async with engine, aiohttp.ClientSession(engine.url) as session:
            return await asyncio.wait_for(work(engine, session), 30)

    return asyncio.run(run())


def chat(text: str = "hello there", **more: Any) -> dict[str, Any]:
    """The body of a chat."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}


async def ask(
    session: aiohttp.ClientSession, path: str, body: Any = None, method: str = "POST", **more: Any
) -> tuple[int, Any]:
    """Status and JSON of an answer that is read whole."""
    async with session.request(method, path, json=body, **more) as answer:
        content = await answer.read()
        return answer.status, json.loads(content) if content else None


async def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for something to become true. Raises AssertionError when it does not."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not true():
        assert loop.time() < end, "it did not become true"
        await asyncio.sleep(0.002)
