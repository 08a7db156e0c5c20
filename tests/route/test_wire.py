"""What HTTP/1.1 allows and few clients do: pipelines, HTTP/1.0, chunked bodies, Expect, HEAD; and connections that outlive the router's will to serve."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.route.stub import Stub, event, routed, until
from tests.route.test_proxy import CHAT, STREAM, chat

GOOD, STREAMED = json.dumps(CHAT).encode(), json.dumps(STREAM).encode()
EVENTS = b"".join(event(STREAM, k) for k in range(5)) + b"data: [DONE]\n\n"


def post(body: bytes, *headers: bytes, version: bytes = b"1.1", path: bytes = b"/v1/chat/completions") -> bytes:
    lines = b"".join(each + b"\r\n" for each in headers)
    return b"POST %b HTTP/%b\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b" % (path, version, len(body), lines, body)


class Wire:
    """A client connection on which bytes are written as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, framed: bool = True) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers (names in lower case) and body of the next answer."""
        async with asyncio.timeout(5):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
            body = b""
            if not framed:
                pass
            elif headers.get(b"transfer-encoding") == b"chunked":
                while size := int((await self.reader.readuntil(b"\r\n")).strip(), 16):
                    body += (await self.reader.readexactly(size + 2))[:-2]
                assert await self.reader.readexactly(2) == b"\r\n"
            elif b"content-length" in headers:
                body = await self.reader.readexactly(int(headers[b"content-length"]))
            elif int(first.split()[1]) >= 200:
                body = await self.reader.read()
            return int(first.split()[1]), headers, body

    async def over(self) -> bool:
        """Whether the router closes the connection without another byte."""
        async with asyncio.timeout(5):
            return await self.reader.read() == b""


@asynccontextmanager
async def wires(setup: Any, count: int = 1) -> AsyncIterator[list[Wire]]:
    """So many connections to the router, closed in the end."""
    made = [Wire(*await asyncio.open_connection("127.0.0.1", setup.running.port)) for _ in range(count)]
    try:
        yield made
    finally:
        for each in made:
            each.writer.transport.abort()


def test_pipelined_requests_are_answered_in_their_order(tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            routed(tmp_path, [Stub(), Stub(pause=0.01)], policy={"place": "round_robin"}) as setup,
            wires(setup) as [wire],
        ):
            wire.send(post(GOOD) + post(STREAMED) + post(b"[]") + post(STREAMED) + post(GOOD))
            found = [await wire.answer() for _ in range(5)]
            assert [status for status, *_ in found] == [200, 200, 400, 200, 200]
            assert found[1][2] == found[3][2] == EVENTS
            assert json.loads(found[4][2])["object"] == "chat.completion"
            assert sum(len(stub.seen) for stub in setup.stubs) == 4

    asyncio.run(run())


def test_http_1_0(tmp_path: Path) -> None:
    """No chunks, and the connection ends with the answer."""

    async def run() -> None:
        async with routed(tmp_path, [Stub()]) as setup:
            for body in (GOOD, STREAMED):
                async with wires(setup) as [wire]:
                    wire.send(post(body, version=b"1.0"))
                    status, headers, said = await wire.answer()
                    assert status == 200
                    assert b"transfer-encoding" not in headers
                    assert said == EVENTS if body is STREAMED else json.loads(said)["usage"]
                    assert await wire.over()

    asyncio.run(run())


def test_chunked_bodies_and_expect(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub()
        async with routed(tmp_path, [stub], bodies={"request_bytes": 1000}) as setup, wires(setup) as [wire]:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            pieces = [GOOD[:5], GOOD[5:6], GOOD[6:]]
            chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
            wire.send(head + chunks + b"0\r\nTrailer-Of-Mine: x\r\n\r\n")
            assert (await wire.answer())[0] == 200
            assert stub.seen[-1]["body"] == GOOD
            assert stub.seen[-1]["headers"]["Content-Length"] == str(len(GOOD))
            assert "Transfer-Encoding" not in stub.seen[-1]["headers"]
            wire.send(post(GOOD, b"Expect: 100-continue").removesuffix(GOOD))
            assert (await wire.answer())[0] == 100
            wire.send(GOOD)
            assert (await wire.answer())[0] == 200
            assert "Expect" not in stub.seen[-1]["headers"]
            wire.send(post(b"x" * 1001, b"Expect: 100-continue").removesuffix(b"x" * 1001))
            assert (await wire.answer())[0] == 413  # refused before it was sent

    asyncio.run(run())


def test_head_and_options_and_other_methods(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub()
        async with routed(tmp_path, [stub]) as setup, wires(setup) as [wire]:
            for path in (b"/health", b"/v1/models", b"/v1/models/m", b"/metrics", b"/", b"/openapi.json"):
                wire.send(b"HEAD %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
                assert (await wire.answer(framed=False))[0] == 200, path
            wire.send(b"HEAD /v1/files HTTP/1.1\r\nHost: x\r\n\r\n" + post(GOOD))
            assert (await wire.answer(framed=False))[0] == 200
            assert (await wire.answer())[0] == 200  # nothing of the HEAD's body was in the way
            for method in (b"OPTIONS", b"DELETE", b"PUT", b"PATCH"):
                wire.send(b"%b /v1/files/1 HTTP/1.1\r\nHost: x\r\n\r\n" % method)
                assert (await wire.answer())[0] == 200
                assert stub.seen[-1]["method"] == method.decode()
            wire.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await wire.answer())[0] == 400

    asyncio.run(run())


class Bare(asyncio.Protocol):
    """An engine whose answers have as few headers as can be."""

    alive = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        Bare.alive += 1

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def connection_lost(self, error: Exception | None) -> None:
        Bare.alive -= 1


def test_the_library_is_not_named_where_the_engine_names_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        engine = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}"
        backends = [{"name": "a", "url": url, "models": ["m"], "metrics": None}]
        async with routed(tmp_path, [], backends=backends) as setup, chat(setup) as answer:
            assert (answer.status, await answer.read()) == (200, b"{}")
            assert answer.headers["Server"] == "rota"
        engine.close()
        await until(lambda: Bare.alive == 0)

    asyncio.run(run())


def test_headers_of_all_kinds_pass_unchanged(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub(extra={"X-Answer": "gr\u00fc\u00dfe"})
        async with routed(tmp_path, [stub]) as setup, wires(setup) as [wire]:
            long = b"y" * 8000
            raw = "gr\u00fc\u00dfe \u65e5\u672c".encode()
            wire.send(post(GOOD, b"X-Raw: " + raw, b"X-Latin: \xfc", b"X-Long: " + long, b"X-Twice: 1", b"X-Twice: 2", b"X-Empty:"))  # fmt: skip
            status, headers, _ = await wire.answer()
            assert (status, headers[b"x-answer"]) == (200, "gr\u00fc\u00dfe".encode())
            seen = stub.seen[0]["headers"]
            assert seen["X-Raw"].encode("utf-8", "surrogateescape") == raw
            assert seen["X-Latin"].encode("utf-8", "surrogateescape") == b"\xfc"
            assert seen["X-Long"] == long.decode()
            assert seen.getall("X-Twice") == ["1", "2"]
            assert seen["X-Empty"] == ""
            for name, value in ((b"x-session-id", raw), (b"x-session-id", b"\xfc\xff")):
                wire.send(post(GOOD, name + b": " + value))
                assert (await wire.answer())[0] == 200
            wire.send(post(GOOD, b"x-llm-d-inference-fairness-id: \xfc\xff"))
            assert (await wire.answer())[0] == 400
            async with setup.client.get(setup.url + "/metrics") as answer:
                assert answer.status == 200

    asyncio.run(run())


def test_a_client_that_does_not_send_is_cut(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub()], timeouts={"body": 0.3}) as setup, wires(setup, 4) as made:
            silent, slow, halfway, patient = made
            slow.send(b"POST /v1/chat/completions HT")
            halfway.send(post(GOOD)[:-5])
            patient.send(post(GOOD))
            assert (await patient.answer())[0] == 200
            for each in (silent, slow):
                assert await each.over()
            assert (await halfway.answer())[0] == 408
            await asyncio.sleep(0.3)
            patient.send(post(GOOD))  # a kept connection has the time that keep-alive gives it
            assert (await patient.answer())[0] == 200

    asyncio.run(run())


def test_made_up_models_leave_no_trace(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub()], recording={"folder": "recording"}) as setup:
            for number in range(50):
                async with chat(setup, {**CHAT, "model": f"made-up-{number}\n\u202e"}) as answer:
                    assert answer.status == 404
            async with chat(setup) as answer:
                assert answer.status == 200
            async with setup.client.get(setup.url + "/metrics") as answer:
                page = await answer.text()
            assert "made-up" not in page
            assert 'vllm:num_incoming_requests_total{model="(unknown)"} 50.0' in page
        for file in (tmp_path / "recording").iterdir():
            assert b"made-up" not in file.read_bytes()

    asyncio.run(run())


def test_other_paths_go_where_their_model_is(tmp_path: Path) -> None:
    async def run() -> None:
        stubs = [Stub(models=("a",)), Stub(models=("b",))]
        async with routed(tmp_path, stubs) as setup:
            for _ in range(3):
                async with chat(setup, {"model": "b", "query": "x", "documents": []}, "/v1/rerank") as answer:
                    assert answer.status == 200
            async with chat(setup, {"model": "c"}, "/v1/rerank") as answer:
                assert answer.status == 404
            async with setup.client.post(setup.url + "/v1/audio/transcriptions", data=b"\x00\xff model") as answer:
                assert answer.status == 500  # the stub wants JSON; the router passes it on as it is
            assert [each["path"] for each in stubs[1].seen].count("/v1/rerank") == 3
            assert all(each["path"] != "/v1/rerank" for each in stubs[0].seen)

    asyncio.run(run())


def test_a_kept_connection_during_drain_gets_a_clean_answer_and_is_closed(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub(tokens=30, pause=0.02)
        async with routed(tmp_path, [stub], drain_seconds=5) as setup, wires(setup, 3) as [kept, busy, late]:
            for each in (kept, late):
                each.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await each.answer())[0] == 200
            busy.send(post(STREAMED))
            await until(lambda: stub.running == 1)
            head = post(b"x" * 300_000).removesuffix(b"x" * 300_000)
            late.send(head + b"x" * 1000)  # a body that is on its way when the drain begins
            await asyncio.sleep(0.05)
            drain = asyncio.create_task(setup.running.drain())
            await until(lambda: setup.running.router.draining)
            kept.send(post(GOOD) + post(GOOD))
            late.send(b"x" * 299_000)
            for each in (kept, late):
                status, headers, body = await each.answer()
                assert (status, headers[b"connection"], headers[b"retry-after"]) == (503, b"close", b"1")
                assert json.loads(body)["error"]["code"] == "draining"
                assert await each.over()
            status, _, body = await busy.answer()
            assert (status, body) == (200, b"".join(event(STREAM, k) for k in range(30)) + b"data: [DONE]\n\n")
            await drain
            assert len(stub.seen) == 1

    asyncio.run(run())


def test_a_drain_waits_for_a_client_that_takes_its_whole_answer_slowly(tmp_path: Path) -> None:
    async def run() -> None:
        size = 6_000_000
        async with routed(tmp_path, [Stub(large=size)], drain_seconds=10) as setup, wires(setup) as [wire]:
            wire.send(post(GOOD))
            router = setup.running.router
            await until(lambda: bool(router.answering))
            assert router.fleet.outstanding == 0  # the engine has done its part
            drain = asyncio.create_task(setup.running.drain())
            await asyncio.sleep(0.3)
            assert not drain.done()
            status, _, body = await wire.answer()
            assert status == 200
            assert len(json.loads(body)["filling"]) == size
            await drain
            assert router.outstanding == 0

    asyncio.run(run())


def test_a_client_that_does_not_take_its_whole_answer_is_cut(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub(large=6_000_000)], timeouts={"client": 0.3}) as setup, wires(setup) as [wire]:
            wire.send(post(GOOD))
            router = setup.running.router
            await until(lambda: bool(router.answering))
            await until(lambda: not router.answering)
            assert setup.log.of("slow client cut")

    asyncio.run(run())


@pytest.mark.parametrize(
    "page",
    [
        "vllm:num_requests_running -5\nvllm:num_requests_waiting -7\nvllm:kv_cache_usage_perc -3\n",
        "vllm:num_requests_running 1e300\nvllm:num_requests_waiting 1e300\nvllm:kv_cache_usage_perc 1e300\n",
        "vllm:num_requests_running NaN\nvllm:num_requests_waiting +Inf\nvllm:kv_cache_usage_perc -Inf\n",
        'vllm:num_requests_running 0\nvllm:cache_config_info{block_size="0",num_gpu_blocks="-1"} 1\n',
        "\x00\xff vllm:num_requests_running\n" * 1000,
    ],
    ids=["negative", "huge", "nan", "no blocks", "rubbish"],
)
@pytest.mark.parametrize("place", ["least_outstanding", "least_queued", "kv_router", "least_work"])
def test_an_engine_that_lies_stops_nobody(page: str, place: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub(metrics=page), Stub()], policy={"place": place}, count_others=True) as setup:
            backends = setup.running.router.fleet.backends
            await until(lambda: backends["b"].reported is not None)
            found = await asyncio.gather(*(whole(setup) for _ in range(10)))
            assert found == [200] * 10
            assert setup.running.router.decisions.fallbacks == 0
            assert backends["b"].finished >= 1
            now = setup.running.router.clock()
            assert all(0 <= each.queued(now) <= each.count() < float("inf") for each in backends.values())

    asyncio.run(run())


async def whole(setup: Any) -> int:
    async with chat(setup) as answer:
        await answer.read()
        return int(answer.status)
