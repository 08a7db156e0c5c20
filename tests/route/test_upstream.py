"""The client's parser against every way in which an answer can be cut into pieces, and against answers that are none."""

import asyncio
import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.route.upstream import Connection, Pool, UpstreamError


class Wire(asyncio.Transport):
    """A transport that only remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.aborted, self.paused = b"", False, False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def exchange(
    pieces: list[bytes], closed: bool = False, head_only: bool = False
) -> tuple[Connection, Callable[[], object]]:
    """Feed an answer; what `head` and `read` give comes from calling the second value."""

    async def run() -> object:
        wire = Wire()
        connection.connection_made(wire)
        connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", head_only=head_only, first_byte=5, idle=5)
        for piece in pieces:
            connection.data_received(piece)
        if closed:
            connection.connection_lost(None)
        head = await asyncio.wait_for(connection.head(), 1)
        body = b""
        while piece := await asyncio.wait_for(connection.read(), 1):
            body += piece
        connection.rest()
        return head, body

    loop = asyncio.new_event_loop()
    connection = Connection(loop)

    def result() -> object:
        try:
            return loop.run_until_complete(run())
        finally:
            loop.close()

    return connection, result


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(marks) if b > a]


CHUNKED = b"HTTP/1.1 200 OK\r\nA: 1\r\na: 2\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n \r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n"


@given(st.lists(st.integers(0, 10_000), max_size=12))
def test_chunks_are_joined_however_they_come(places: list[int]) -> None:
    connection, result = exchange(cut(CHUNKED, places))
    head, body = result()  # type: ignore[misc]
    assert body == b"hello 0123456789"
    assert [value for name, value in head.headers if name.lower() == "a"] == ["1", "2"]
    assert connection.reusable


@given(st.lists(st.integers(0, 10_000), max_size=6), st.booleans())
def test_length_and_close(places: list[int], lengthy: bool) -> None:
    framing = b"Content-Length: 7\r\n" if lengthy else b""
    data = b"HTTP/1.1 503 Over loaded\r\n" + framing + b"\r\nsevenXX"
    connection, result = exchange(cut(data, places), closed=not lengthy)
    head, body = result()  # type: ignore[misc]
    assert (head.status, head.reason, body) == (503, "Over loaded", b"sevenXX")
    assert connection.reusable == lengthy


def test_interim_answers_and_answers_without_body() -> None:
    _, result = exchange([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"])
    head, body = result()  # type: ignore[misc]
    assert (head.status, body) == (204, b"")
    _, result = exchange([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"], head_only=True)
    assert result()[1] == b""  # type: ignore[index]


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: 1\nB: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc",
        b"x" * 70_000,
    ],
)
def test_what_is_not_http_is_refused(data: bytes) -> None:
    connection, result = exchange([data])
    with pytest.raises(UpstreamError) as caught:
        result()
    assert caught.value.why == "protocol"
    assert not connection.reusable


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
def test_a_cut_answer_is_an_error(data: bytes) -> None:
    _, result = exchange([data] if data else [], closed=True)
    with pytest.raises(UpstreamError) as caught:
        result()
    assert caught.value.why == "closed"


def test_silence_ends_by_the_clock() -> None:
    async def run() -> str:
        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.wait([asyncio.ensure_future(reader.read())])
            writer.transport.abort()

        server = await asyncio.start_server(mute, "127.0.0.1", 0)
        pool = Pool(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", None, 1.0)
        connection = await pool.take()
        connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", head_only=False, first_byte=0.05, idle=1)
        try:
            await connection.head()
        except UpstreamError as error:
            return error.why
        finally:
            pool.give(connection)
            await asyncio.sleep(0.01)  # both ends hear of the abort
            server.close()
            await server.wait_closed()
        return "answered"

    assert asyncio.run(run()) == "timeout"


def test_nobody_there_is_refused() -> None:
    async def run() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        await Pool(f"http://127.0.0.1:{port}", None, 1.0).take()

    with pytest.raises(UpstreamError) as caught:
        asyncio.run(run())
    assert caught.value.why == "refused"
