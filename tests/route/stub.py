"""A tiny engine for tests: it answers as vLLM does, and misbehaves when it is told to."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from rota.route.log import Log
from rota.route.run import Running
from rota.route.settings import read


@dataclass
class Stub:
    """One engine. `tokens` events a stream, `pause` seconds between them."""

    models: tuple[str, ...] = ("m",)
    tokens: int = 5
    pause: float = 0.0
    status: int = 200  # of generating requests
    health_status: int = 200
    cut_after: int | None = None  # events of a stream until the connection is cut
    hang: bool = False  # take the request and say nothing
    gate: asyncio.Event | None = None  # say nothing until it is set
    health_hangs: bool = False
    close_at_once: bool = False
    metrics: str = "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\nvllm:kv_cache_usage_perc 0.25\n"
    extra: dict[str, str] = field(default_factory=dict)  # headers of answers
    large: int = 0  # bytes of filling in an answer
    port: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list)  # requests as they came: path, headers, body
    finished: int = 0
    left: int = 0  # requests whose client went away
    running: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_route("*", "/{path:.*}", self._generate)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        if self.health_hangs:
            await asyncio.sleep(3600)
        return web.Response(status=self.health_status)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.metrics)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(
            {"path": request.path_qs, "headers": request.headers.copy(), "body": body, "method": request.method}
        )
        self.running += 1
        try:
            answer = await self._answer(request, body)
            self.finished += 1
            return answer
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self.running -= 1

    async def _answer(self, request: web.Request, body: bytes) -> web.StreamResponse:
        if self.close_at_once and request.transport is not None:
            request.transport.abort()
            await asyncio.sleep(3600)
        if self.hang:
            await asyncio.sleep(3600)
        if self.gate is not None:
            await self.gate.wait()
        if self.status != 200:
            error = {"error": {"message": "from the engine", "type": "engine_error", "code": self.status}}
            return web.json_response(error, status=self.status, headers=self.extra)
        asked = json.loads(body) if body else {}
        usage = {"prompt_tokens": 7, "completion_tokens": self.tokens, "total_tokens": 7 + self.tokens}
        if not asked.get("stream"):
            await asyncio.sleep(self.pause * self.tokens)
            message = {"role": "assistant", "content": "a" * self.tokens, "tool_calls": asked.get("tools")}
            choice = {"index": 0, "message": message, "finish_reason": "stop", "text": "a" * self.tokens}
            filling = {"filling": "x" * self.large} if self.large else {}
            document = {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": asked.get("model", ""),
                "choices": [choice],
            }
            return web.json_response({**document, "usage": usage, **filling}, headers=self.extra)
        return await self._stream(request, asked, usage)

    async def _stream(self, request: web.Request, asked: dict[str, Any], usage: dict[str, int]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", **self.extra})
        await response.prepare(request)
        for number in range(self.tokens):
            if number == self.cut_after and request.transport is not None:
                await response.write(b'data: {"half": ')
                await asyncio.sleep(0.01)
                request.transport.abort()
                await asyncio.sleep(3600)
            await asyncio.sleep(self.pause)
            await response.write(event(asked, number))
        if (asked.get("stream_options") or {}).get("include_usage"):
            await response.write(
                b"data: " + json.dumps({**_chunk(asked), "choices": [], "usage": usage}).encode() + b"\n\n"
            )
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


def _chunk(asked: dict[str, Any]) -> dict[str, Any]:
    return {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": asked.get("model", "")}


def event(asked: dict[str, Any], number: int) -> bytes:
    """The event of one token, to the byte."""
    choice = {"index": 0, "delta": {"content": f"t{number} "}, "finish_reason": None}
    return b"data: " + json.dumps({**_chunk(asked), "choices": [choice]}).encode() + b"\n\n"


QUICK: dict[str, Any] = {
    "listen": "127.0.0.1:0",
    "health": {"every": 0.05, "timeout": 0.2, "silent": 0.4, "fall": 2},
    "scrape": {"every": 0.05, "stale": 1.0},
    "slow_start_seconds": 0,
    "log": {"requests": False},
}


class Lines:
    """Where the router's log goes in tests."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def write(self, text: str) -> int:
        self.events.append(json.loads(text))
        return len(text)

    def flush(self) -> None:
        pass

    def of(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]


@dataclass
class Setup:
    """A router in front of stubs, and a client."""

    running: Running
    stubs: list[Stub]
    client: aiohttp.ClientSession
    log: Lines
    config: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.running.port}"

    def write(self, changes: dict[str, Any]) -> None:
        """Change the configuration file."""
        self.config.write_text(yaml.safe_dump({**yaml.safe_load(self.config.read_text()), **changes}))


@asynccontextmanager
async def routed(folder: Path, stubs: list[Stub], **settings: Any) -> AsyncIterator[Setup]:
    """A running router with these stubs as backends a, b, c, ..."""
    for stub in stubs:
        await stub.start()
    extra = settings.pop("each", {})
    backends = [{"name": chr(97 + k), "url": stub.url, **extra} for k, stub in enumerate(stubs)]
    config = folder / "route.yaml"
    config.write_text(yaml.safe_dump({**QUICK, "backends": backends, **settings}))
    lines = Lines()
    read_settings = read(config)
    try:
        log = Log(read_settings.written.log.level, lambda: 0.0, lines)  # type: ignore[arg-type]
        async with Running(read_settings, log) as running, aiohttp.ClientSession() as client:
            yield Setup(running, stubs, client, lines, config)
    finally:
        for stub in stubs:
            await stub.stop()


async def until(condition: Any, seconds: float = 5.0) -> None:
    """Wait for a condition, but not for ever."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
