"""Requests through the router: byte for byte, whatever the engine does, and one clean end for each."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.route.stub import Stub, event, routed, until

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
STREAM = {**CHAT, "stream": True}


def chat(setup: Any, body: Any = CHAT, path: str = "/v1/chat/completions", **options: Any) -> Any:
    return setup.client.post(setup.url + path, json=body, **options)


def test_an_answer_keeps_status_body_and_headers(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub(extra={"X-Engine": "yes", "Connection": "x-hop", "X-Hop": "no"})
        async with routed(tmp_path, [stub]) as setup:
            async with chat(
                setup, headers={"X-Mine": "kept", "Connection": "X-Private", "X-Private": "dropped"}
            ) as answer:
                assert answer.status == 200
                assert answer.headers["X-Engine"] == "yes"
                assert "X-Hop" not in answer.headers
                assert (await answer.json())["choices"][0]["message"]["content"] == "aaaaa"
            seen = stub.seen[0]
            assert json.loads(seen["body"]) == CHAT
            assert seen["headers"]["X-Mine"] == "kept"
            assert "X-Private" not in seen["headers"]
            for status in (400, 404, 422, 429, 500, 503):
                stub.status = status
                async with chat(setup) as answer:
                    assert answer.status == status
                    assert (await answer.json())["error"]["message"] == "from the engine"
                    assert answer.headers["X-Engine"] == "yes"
            assert setup.running.router.fleet.outstanding == 0

    asyncio.run(run())


def test_a_stream_comes_byte_for_byte_as_it_is_made(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub(pause=0.05)
        async with routed(tmp_path, [stub]) as setup:
            times, body = [], b""
            loop = asyncio.get_running_loop()
            async with chat(setup, STREAM) as answer:
                assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
                async for piece in answer.content.iter_any():
                    times.append(loop.time())
                    body += piece
            assert body == b"".join(event(STREAM, k) for k in range(5)) + b"data: [DONE]\n\n"
            assert len(times) >= 5  # not collected and sent at the end
            assert times[-1] - times[0] > 0.1

    asyncio.run(run())


def test_other_paths_pass_through_and_ours_do_not(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub()
        async with routed(tmp_path, [stub, Stub(models=("m", "n"))]) as setup:
            async with setup.client.get(setup.url + "/v1/files/f-1?x=%20y&z=1") as answer:
                assert answer.status == 200
            assert [each["path"] for stub in setup.stubs for each in stub.seen] == ["/v1/files/f-1?x=%20y&z=1"]
            async with setup.client.get(setup.url + "/v1/models") as answer:
                assert [each["id"] for each in (await answer.json())["data"]] == ["m", "n"]
            for path, status in (
                ("/health", 200),
                ("/ready", 200),
                ("/metrics", 200),
                ("/other", 404),
                ("/admin", 404),
            ):
                async with setup.client.get(setup.url + path) as answer:
                    assert answer.status == status, path
            async with chat(setup, {**CHAT, "model": "n"}) as answer:
                assert answer.status == 200
            assert setup.stubs[1].seen
            async with chat(setup, {**CHAT, "model": "nobody has it"}) as answer:
                assert answer.status == 404
                assert (await answer.json())["error"]["code"] == "model_not_found"

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_aborts_the_engines_request(tmp_path: Path, stream: bool) -> None:
    async def run() -> None:
        stub = Stub(tokens=1000, pause=0.02)
        async with routed(tmp_path, [stub]) as setup:
            with pytest.raises((TimeoutError, aiohttp.ClientError)):
                async with chat(setup, {**CHAT, "stream": stream}, timeout=aiohttp.ClientTimeout(total=0.2)) as answer:
                    await answer.read()
            await until(lambda: stub.left == 1)
            await until(lambda: setup.running.router.fleet.outstanding == 0)
            assert stub.finished == 0
            [tenant] = setup.running.router.tenants.all
            assert tenant.active == 0

    asyncio.run(run())


def test_failures_before_the_first_byte_are_tried_elsewhere(tmp_path: Path) -> None:
    async def run() -> None:
        bad = [Stub(close_at_once=True), Stub(status=503), Stub(cut_after=0)]
        for number, stub in enumerate(bad):
            folder = tmp_path / str(number)
            folder.mkdir()
            async with routed(folder, [stub, Stub()], policy={"place": "round_robin"}, retry={"budget": 1.0}) as setup:
                for _ in range(4):
                    async with chat(setup, STREAM) as answer:
                        assert answer.status == 200
                        assert (await answer.read()).endswith(b"data: [DONE]\n\n")
                assert setup.running.router.retries >= 1
                assert setup.stubs[1].finished == 4  # each exactly once

    asyncio.run(run())


def test_a_cut_after_the_first_byte_is_one_clean_error_and_no_second_try(tmp_path: Path) -> None:
    async def run() -> None:
        stubs = [Stub(cut_after=2), Stub(cut_after=2)]
        async with routed(tmp_path, stubs) as setup:
            async with chat(setup, STREAM) as answer:
                body = await answer.read()
            events = body.split(b"\n\n")
            assert events[:2] == [event(STREAM, 0)[:-2], event(STREAM, 1)[:-2]]
            assert json.loads(events[2].removeprefix(b"data: "))["error"]["code"] == "backend_failed"
            assert events[3:] == [b""]
            assert sum(len(stub.seen) for stub in stubs) == 1

    asyncio.run(run())


def test_retries_have_a_budget(tmp_path: Path) -> None:
    async def run() -> None:
        stubs = [Stub(status=503), Stub(status=503)]
        retry = {"budget": 0.0, "reserve": 3, "attempts": 3}
        async with routed(tmp_path, stubs, retry=retry, breaker={"failures": 1000}) as setup:
            for _ in range(10):
                async with chat(setup) as answer:
                    assert answer.status == 503
                    assert (await answer.json())["error"]["type"] == "engine_error"
            assert sum(len(stub.seen) for stub in stubs) == 10 + 3

    asyncio.run(run())


def test_hanging_engines_end_by_the_clock(tmp_path: Path) -> None:
    async def run() -> None:
        timeouts = {"first_byte": 0.2, "idle": 0.2}
        async with routed(tmp_path, [Stub(hang=True)], timeouts=timeouts, retry={"attempts": 1}) as setup:
            async with chat(setup, STREAM) as answer:
                assert answer.status == 504
                assert (await answer.json())["error"]["code"] == "backend_failed"
            setup.stubs[0].hang, setup.stubs[0].pause = False, 0.01
            async with chat(setup, STREAM) as answer:
                assert (await answer.read()).endswith(b"[DONE]\n\n")
            setup.stubs[0].pause = 0.6
            setup.stubs[0].tokens = 1
            async with chat(setup, STREAM) as answer:
                assert "error" in (await answer.text())

    asyncio.run(run())


def test_an_idle_connection_that_the_engine_closed_is_no_failure(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub()], retry={"attempts": 1}) as setup:
            async with chat(setup) as answer:
                assert answer.status == 200
            backend = setup.running.router.fleet.backends["a"]
            [kept] = backend.pool._idle
            assert kept._transport is not None
            setup.stubs[0].close_at_once = False
            await setup.stubs[0].stop()
            await setup.stubs[0].start()
            async with chat(setup) as answer:
                assert answer.status == 200
            assert backend.failed == 0

    asyncio.run(run())


def test_a_large_answer_and_a_large_request(tmp_path: Path) -> None:
    async def run() -> None:
        bodies = {"request_bytes": 1_000_000, "hold_bytes": 100_000}
        async with routed(tmp_path, [Stub(large=3_000_000)], bodies=bodies) as setup:
            async with chat(setup) as answer:
                assert len((await answer.json())["filling"]) == 3_000_000
            async with chat(setup, {**CHAT, "user": "x" * 900_000}) as answer:
                assert answer.status == 200
            async with chat(setup, {**CHAT, "user": "x" * 1_000_000}) as answer:
                assert answer.status == 413
            chunked = setup.client.post(setup.url + "/v1/completions", data=_pieces(20, 100_000))
            async with chunked as answer:
                assert answer.status == 413
                assert (await answer.json())["error"]["code"] == "body_too_large"

    asyncio.run(run())


async def _pieces(count: int, size: int) -> Any:
    for _ in range(count):
        yield b"x" * size


def test_a_client_that_does_not_read_is_cut(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub(tokens=60_000)
        async with routed(tmp_path, [stub], timeouts={"client": 0.3}) as setup:
            _, writer = await asyncio.open_connection("127.0.0.1", setup.running.port, limit=2**16)
            body = json.dumps(STREAM).encode()
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            await until(lambda: setup.running.router.fleet.outstanding == 1)
            await until(lambda: setup.running.router.fleet.outstanding == 0)
            await until(lambda: stub.left == 1)
            assert setup.log.of("slow client cut")
            assert setup.running.router.fleet.backends["a"].failed == 0  # not the backend's fault
            writer.transport.abort()

    asyncio.run(run())


def test_a_moved_backend_gets_no_connection_of_its_old_address(tmp_path: Path) -> None:
    async def run() -> None:
        old, new = Stub(tokens=30, pause=0.01), Stub()
        await new.start()
        async with routed(tmp_path, [old]) as setup:
            stream = asyncio.create_task(read_stream(setup))
            await until(lambda: old.running == 1)
            setup.write({"backends": [{"name": "a", "url": new.url}]})
            setup.running.reload()
            assert (await stream).endswith(b"data: [DONE]\n\n")
            await until(lambda: setup.running.router.ready)
            for _ in range(3):
                async with chat(setup) as answer:
                    assert answer.status == 200
            assert (len(old.seen), len(new.seen)) == (1, 3)
        await new.stop()

    asyncio.run(run())


async def read_stream(setup: Any) -> bytes:
    async with chat(setup, STREAM) as answer:
        return bytes(await answer.read())


def test_tls_to_the_backend_and_to_the_client(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH: no certificate can be made")
    made = subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.mkdir()
    outer.mkdir()

    async def run() -> None:
        own = {"tls_cert": "../cert.pem", "tls_key": "../key.pem"}
        async with routed(inner, [Stub()], **own) as engine:  # a router with TLS stands for an engine with TLS
            url = f"https://127.0.0.1:{engine.running.port}"
            ca = "../cert.pem"
            for tls, works in (
                ({"ca": ca}, True),
                ({}, False),
                ({"verify": False}, True),
                ({"ca": ca, "server_name": "localhost"}, True),
                ({"ca": ca, "server_name": "engine.example"}, False),
            ):
                backends = [{"name": "a", "url": url, "tls": tls}]
                async with routed(outer, [], backends=backends) as setup, chat(setup, STREAM) as answer:
                    assert (answer.status == 200) == works
                    assert (b"[DONE]" in await answer.read()) == works
            dns = {"name": "localhost", "port": engine.running.port, "scheme": "https", "backend": {"tls": {"ca": ca}}}
            async with routed(outer, [], backends_dns=dns) as setup:
                assert {each.settings.tls.server_name for each in setup.running.router.fleet.backends.values()} == {
                    "localhost"
                }
                async with chat(setup, STREAM) as answer:
                    assert answer.status == 200

    asyncio.run(run())
