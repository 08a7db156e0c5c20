"""Connections to a backend: HTTP/1.1 as RFC 9112 has it, with nothing that a proxy does not need.

A general client costs several times what forwarding costs (see docs/route: overhead), because it builds objects for headers, cookies, redirects and
encodings that are passed on unread here. What is read: the status line, the framing of the body, and whether the connection can be used again.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

HEAD_MOST = 64 * 1024  # bytes of a response head, or of a chunk's size line
BUFFER_MOST = 256 * 1024  # bytes read ahead of the client; then the backend waits
IDLE_SECONDS = 4.0  # shorter than the 5 s after which uvicorn, vLLM's server, closes an idle connection

Why = Literal["refused", "closed", "timeout", "protocol"]


class UpstreamError(Exception):
    """A backend did not answer as it should; `why` says in which way, `stale` that a kept connection had been closed before."""

    def __init__(self, why: Why, text: str, stale: bool = False) -> None:
        super().__init__(text)
        self.why: Why = why
        self.stale = stale


@dataclass(frozen=True)
class Head:
    """The head of an answer. Headers keep their order, spelling and repetitions."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    length: int | None  # content-length, where the body is not chunked
    event_stream: bool


class Connection(asyncio.Protocol):
    """One connection, one request at a time: `send`, then `head`, then `read` until it gives nothing.

    While `sink` is set it is given the pieces of the body as they come, without waking the reader, until it answers False.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.lost = False
        self.used = False  # whether it has carried a request before
        self.touched = 0.0  # last time anything came or was sent
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self._buffer = b""
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self.sink: Callable[[bytes], bool] | None = None
        self._head: Head | None = None
        self._error: UpstreamError | None = None
        self._left = 0  # bytes of the body or the chunk still to come
        self._mode: Literal["head", "length", "size", "chunk", "end", "trailer", "close", "done"] = "done"
        self._keep = True
        self._no_body = False
        self._first_byte_seconds = self._idle_seconds = 0.0

    # -- asyncio's side -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self._mode == "close" and error is None:
            self._mode = "done"
        elif self._mode != "done":
            stale = self.used and self._mode == "head" and not self._buffer
            self._fail(UpstreamError("closed", "the backend closed the connection before the answer was whole", stale))
        self._wake()

    def eof_received(self) -> bool:
        return False  # closes the transport, then connection_lost

    def data_received(self, data: bytes) -> None:
        self.touched = self._loop.time()
        if self._mode == "done":  # bytes that nobody asked for: not to be taken for the next answer
            self.abort()
            return
        try:
            self._feed(data)
        except (ValueError, UnicodeDecodeError) as error:
            self._fail(UpstreamError("protocol", f"the backend's answer is not HTTP/1.1: {error}"))
            self.abort()
        if self.sink is not None and self._pieces:
            if not self.sink(self._take()):
                self.sink = None
            elif not self._over():
                return  # nobody has to be woken
        if self._size > BUFFER_MOST and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    # -- the proxy's side -----------------------------------------------------------------------------------------

    def send(self, request: bytes, body: bytes, *, head_only: bool, first_byte: float, idle: float) -> None:
        """Write a request and start its clocks (seconds)."""
        assert self._transport is not None
        self._reset()
        self._mode, self._no_body = "head", head_only
        self._first_byte_seconds, self._idle_seconds = first_byte, idle
        self.touched = self._loop.time()
        if len(body) < 4096:
            self._transport.write(request + body)
        else:
            self._transport.writelines((request, body))
        self._timer = self._loop.call_later(first_byte, self._look)

    async def head(self) -> Head:
        """The head of the answer. Raises UpstreamError."""
        while self._head is None:
            if self._error is not None:
                raise self._error
            await self._wait()
        return self._head

    async def begun(self) -> None:
        """Wait for the first bytes of the body, or for its end; nothing is taken. Raises UpstreamError."""
        while not self._pieces and self._mode != "done":
            await self._wait()
        if not self._pieces and self._error is not None:
            raise self._error

    async def read(self) -> bytes:
        """The next piece of the body, empty at its end. Raises UpstreamError where it is cut."""
        while not self._pieces:
            if self._mode == "done" and self._error is None:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        data = self._take()
        if self._paused and self._transport is not None:
            self._paused = False
            self.touched = self._loop.time()
            self._transport.resume_reading()
        return data

    def _take(self) -> bytes:
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        return data

    @property
    def reusable(self) -> bool:
        """Whether the answer is over and another request may follow."""
        return self._mode == "done" and self._keep and not self.lost and self._error is None

    def rest(self) -> None:
        """The request is over: its clock is stopped."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abort(self) -> None:
        """Close at once: the backend sees its client leave."""
        self.rest()
        self._keep = False
        if self._transport is not None:
            self._transport.abort()

    # -- parts ----------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: UpstreamError) -> None:
        if self._error is None:
            self._error = error
        self._mode, self._keep = "done", False

    def _look(self) -> None:
        """One timer a request, set again only when it fires: a piece of an answer costs no timer."""
        self._timer = None
        if self._mode == "done":
            return
        now = self._loop.time()
        if self._paused:
            self.touched = now  # it is the client that is slow, and the router that looks after it
        waiting = self._head is None
        limit = self._first_byte_seconds if waiting else self._idle_seconds
        if now - self.touched >= limit - 1e-3:
            text = f"no answer within {limit:g} s" if waiting else f"silent for {limit:g} s in the middle of an answer"
            self._fail(UpstreamError("timeout", text))
            self.abort()
            self._wake()
            return
        again = min(self.touched + limit - now, self._idle_seconds)
        self._timer = self._loop.call_later(max(again, 1e-3), self._look)

    def _feed(self, data: bytes) -> None:
        if self._mode == "size" and not self._buffer and self._one_chunk(data):
            return
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        position = 0
        while position < len(data) or self._mode == "end":
            mode = self._mode
            if mode == "head":
                end = data.find(b"\r\n\r\n", position)
                if end < 0:
                    self._keep_rest(data[position:])
                    return
                self._take_head(data[position:end])
                position = end + 4
            elif mode in ("length", "chunk"):
                piece = data[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                self._give(piece)
                if not self._left:
                    self._mode = "done" if mode == "length" else "end"
            elif mode == "close":
                self._give(data[position:])
                return
            elif mode == "done":
                raise ValueError("more bytes than it announced")
            else:
                end = data.find(b"\r\n", position)
                if end < 0:
                    self._keep_rest(data[position:])
                    return
                self._take_line(data[position:end])
                position = end + 2

    def _one_chunk(self, data: bytes) -> bool:
        """Take a piece that is one chunk and nothing else, as engines write an event; whether it was that."""
        end = data.find(b"\r\n", 0, 8)
        if end <= 0 or not data.endswith(b"\r\n") or not data[:end].isalnum():
            return False
        size = int(data[:end], 16)
        if not size or len(data) != end + size + 4:
            return False
        self._give(data[end + 2 : -2])
        return True

    def _over(self) -> bool:
        return self._mode == "done"

    def _keep_rest(self, rest: bytes) -> None:
        if len(rest) > HEAD_MOST:
            raise ValueError(f"a head or a line of more than {HEAD_MOST} bytes")
        self._buffer = rest

    def _give(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)

    def _take_line(self, line: bytes) -> None:
        """A line of the chunked coding: the end of a chunk, the size of the next, or a trailer (dropped, as proxies may)."""
        if self._mode == "end":
            if line:
                raise ValueError("a chunk is longer than its size")
            self._mode = "size"
        elif self._mode == "size":
            digits = line.split(b";", 1)[0].strip()
            if not digits or digits.strip(b"0123456789abcdefABCDEF"):
                raise ValueError("a chunk has no size")
            self._left = int(digits, 16)
            self._mode = "chunk" if self._left else "trailer"
        elif not line:
            self._mode = "done"

    def _take_head(self, raw: bytes) -> None:
        lines = raw.split(b"\r\n")
        version, _, rest = lines[0].partition(b" ")
        code, _, reason = rest.partition(b" ")
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(code) != 3 or not code.isdigit():
            raise ValueError("no status line")
        status = int(code)
        if 100 <= status < 200:
            return  # interim answers are between the backend and us
        headers: list[tuple[str, str]] = []
        lengths: set[bytes] = set()
        chunked = stream = False
        self._keep = version == b"HTTP/1.1"
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or not name or name != name.strip() or b"\n" in line or b"\r" in line or b"\0" in line:
                raise ValueError("a damaged header")
            value = value.strip()
            lower = name.lower()
            if lower == b"content-length":
                lengths.add(value)
            elif lower == b"transfer-encoding":
                if value.lower() != b"chunked":
                    raise ValueError("a transfer coding other than chunked")
                chunked = True
            elif lower == b"connection":
                options = value.lower()
                self._keep = b"close" not in options and (self._keep or b"keep-alive" in options)
            elif lower == b"content-type":
                stream = value.lower().startswith(b"text/event-stream")
            headers.append((name.decode("ascii"), value.decode("utf-8", "surrogateescape")))
        length = _length(lengths) if not chunked else None
        self._head = Head(status, reason.decode("utf-8", "replace"), tuple(headers), length, stream)
        if self._no_body or status in (204, 304) or length == 0:
            self._mode = "done"
        elif chunked:
            self._mode = "size"
        elif length is not None:
            self._mode, self._left = "length", length
        else:
            self._mode, self._keep = "close", False


def _length(lengths: set[bytes]) -> int | None:
    if not lengths:
        return None
    if len(lengths) > 1 or not (value := next(iter(lengths))).isdigit():
        raise ValueError("a content-length that is no number, or two")
    return int(value)


class Pool:
    """The connections to one backend. The last one used goes first, so that the others grow old and close."""

    def __init__(
        self, url: str, context: ssl.SSLContext | None, connect_seconds: float, server_name: str | None = None
    ) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.prefix = parts.path.rstrip("/")
        default = self.port == (443 if parts.scheme == "https" else 80)
        name = f"[{self.host}]" if ":" in self.host else self.host
        self.authority = (name if default else f"{name}:{self.port}").encode("idna" if not name.isascii() else "ascii")
        self._context = context
        self._server_name = server_name if context is not None else None
        self._connect_seconds = connect_seconds
        self._idle: list[Connection] = []
        self._retired = False

    async def take(self, fresh: bool = False) -> Connection:
        """A connection that is free, or a new one. Raises UpstreamError where none can be made."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._idle and not fresh:
            found = self._idle.pop()
            if not found.lost and now - found.idle_since < IDLE_SECONDS:
                found.used = True
                return found
            found.abort()
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, made = await loop.create_connection(
                    lambda: Connection(loop), self.host, self.port, ssl=self._context, server_hostname=self._server_name
                )
        except TimeoutError:
            raise UpstreamError("refused", f"no connection within {self._connect_seconds:g} s") from None
        except (OSError, ssl.SSLError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise UpstreamError("refused", f"no connection ({text})") from None
        return made

    def give(self, connection: Connection) -> None:
        """Put a connection back, or close it where its answer is not over."""
        connection.rest()
        if connection.reusable and not self._retired:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.abort()

    def sweep(self, now: float) -> None:
        """Close what has been idle for too long."""
        kept = []
        for each in self._idle:
            if each.lost or now - each.idle_since >= IDLE_SECONDS:
                each.abort()
            else:
                kept.append(each)
        self._idle = kept

    def retire(self) -> None:
        """Close the idle ones now, and those at work when they come back: the backend has another address or other settings."""
        self._retired = True
        self.close()

    def close(self) -> None:
        """Close the idle ones."""
        for each in self._idle:
            each.abort()
        self._idle.clear()
