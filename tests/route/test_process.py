"""The router as a process: signals mean what they should."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.route.stub import QUICK, Stub
from tests.route.test_proxy import CHAT, STREAM


async def started(folder: Path, stubs: list[Stub], **settings: Any) -> tuple[Any, int]:
    """A router process before these stubs, and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for stub in stubs:
        await stub.start()
    backends = [{"name": chr(97 + k), "url": stub.url} for k, stub in enumerate(stubs)]
    config = folder / "route.yaml"
    config.write_text(yaml.safe_dump({**QUICK, "listen": f"127.0.0.1:{port}", "backends": backends, **settings}))
    router = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rota.cli.main",
        "route",
        str(config),
        stderr=asyncio.subprocess.PIPE,
        env=dict(os.environ),
    )
    await said(router, "listening")
    return router, port


async def said(router: Any, event: str) -> dict[str, Any]:
    """Wait until the router's log says something."""
    async with asyncio.timeout(60):
        while line := await router.stderr.readline():
            found = json.loads(line)
            if found["event"] == event:
                return dict(found)
    raise AssertionError(f"the router ended without saying {event}")


def test_hup_reloads_and_term_drains(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub(tokens=40, pause=0.02)
        router, port = await started(tmp_path, [stub], drain_seconds=20)
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        async with aiohttp.ClientSession() as client:

            async def read() -> bytes:
                async with client.post(url, json=STREAM) as answer:
                    return bytes(await answer.read())

            stream = asyncio.create_task(read())
            while not stub.running:
                await asyncio.sleep(0.01)
            config = tmp_path / "route.yaml"
            good = config.read_text()
            config.write_text(good + "polcy: {}\n")
            router.send_signal(signal.SIGHUP)
            assert (
                "unknown key 'polcy'" in (await said(router, "configuration not loaded, the old one stays"))["because"]
            )
            config.write_text(good.replace("log:", "retry: {attempts: 1}\nlog:"))
            router.send_signal(signal.SIGHUP)
            await said(router, "configuration loaded")
            router.send_signal(signal.SIGTERM)
            await said(router, "draining")
            try:
                async with client.post(url, json=CHAT) as answer:
                    assert answer.status == 503  # a kept connection
            except aiohttp.ClientConnectionError:
                pass  # nobody listens any more, or the kept connection has just been closed
            assert (await stream).endswith(b"data: [DONE]\n\n")
            async with asyncio.timeout(20):
                assert await router.wait() == 0
        await stub.stop()

    asyncio.run(run())


def test_a_second_term_does_not_wait(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub(hang=True)
        router, port = await started(tmp_path, [stub], drain_seconds=60)
        async with aiohttp.ClientSession() as client:
            request = asyncio.create_task(client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=CHAT))
            while not stub.running:
                await asyncio.sleep(0.01)
            router.send_signal(signal.SIGTERM)
            await said(router, "draining")
            router.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                assert await router.wait() == 0
            await asyncio.wait([request])
            assert request.exception() is not None
        await stub.stop()

    asyncio.run(run())
