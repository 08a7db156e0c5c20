"""A request's way to an engine and its answer's way back: byte for byte, tried again only before the first byte has gone out."""

import asyncio
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from rota.route.answers import Events, usage
from rota.route.ask import JSON_PATHS, NOTHING_ASKED, read_any, read_ask, read_limits
from rota.route.backend import Backend
from rota.route.headers import METHODS, request_head, response_headers
from rota.route.hedge import Opened, hedged
from rota.route.job import NEVER, Job
from rota.route.problems import Problem
from rota.route.router import Router
from rota.route.upstream import Connection, Head, Pool, UpstreamError

ENCODINGS = (
    "identity",
    "gzip",
    "deflate",
    "br",
    "zstd",
)  # that the server undoes before we read; others would reach the engine
CONGESTED = 64 * 1024  # bytes not yet taken by a client, from which on it is waited for


class _Failed(Exception):
    """A try failed before anything went out; `answer` is what the engine said, if it said something whole."""

    def __init__(self, why: str, text: str, answer: web.Response | None = None) -> None:
        super().__init__(text)
        self.why, self.answer = why, answer


@dataclass
class Exchange:
    """One request and what is needed to send it, again if need be."""

    router: Router
    request: web.BaseRequest
    job: Job
    target: str
    body: bytes
    served_by: Backend | None = None
    started: bool = False  # whether bytes of the answer have gone out


async def forward(router: Router, request: web.BaseRequest, path: str) -> web.StreamResponse:
    """Serve one request from the fleet. Raises Problem where it cannot be."""
    if request.method not in METHODS:
        raise Problem(405, f"the method {request.method[:16]} is not served here", "invalid_request_error")
    _refuse_when_draining(router)
    arrived = router.clock()
    tenant = await router.tenants.who(request.headers)
    limits = read_limits(request.headers)
    body = await read_body(router, request)
    _refuse_when_draining(router)  # it may have begun while the body came
    ask = NOTHING_ASKED
    if request.method == "POST":
        ask = read_ask(path, body) if path in JSON_PATHS else read_any(request.content_type, body)
    job = router.arrive(path, tenant, ask, limits, arrived)
    exchange = Exchange(router, request, job, request.raw_path, body)
    try:
        answer = await _serve(exchange)
        if not answer.prepared:
            await _write_whole(exchange, answer)
        return answer
    except Problem as problem:
        job.status, job.outcome = problem.status, "refused" if problem.status < 500 else "failed"
        raise
    except (asyncio.CancelledError, ConnectionError):
        job.outcome = "cancelled"
        raise
    except BaseException:
        job.status, job.outcome = 500, "failed"
        raise
    finally:
        router.end(job, exchange.served_by)


def _refuse_when_draining(router: Router) -> None:
    if router.draining:
        raise Problem(503, "the router is shutting down", code="draining", retry_after=1.0)


async def _write_whole(exchange: Exchange, answer: web.StreamResponse) -> None:
    """Hand an answer in one piece to the client. The backend is free by then; the router waits for the client before it ends."""
    router, job = exchange.router, exchange.job
    router.leave_backend(job)
    if router.draining:
        answer.force_close()
    job.transport, job.writing = exchange.request.transport, router.clock()
    router.answering.add(job)
    try:
        await answer.prepare(exchange.request)
        await answer.write_eof()
    finally:
        router.answering.discard(job)


async def read_body(router: Router, request: web.BaseRequest) -> bytes:
    """The whole body. Raises Problem: 413 too large, 408 too slow, 415 in an unknown encoding, 400 damaged."""
    most = router.settings.written.bodies.request_bytes
    if request.content_length is not None and request.content_length > most:
        raise _too_large(most)
    if request.headers.get("Content-Encoding", "identity").lower() not in ENCODINGS:
        raise Problem(415, f"the body's encoding must be one of {', '.join(ENCODINGS)}", "invalid_request_error")
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if not request.body_exists:
        return b""
    pieces, size = [], 0
    try:
        if request.content.is_eof():  # it came with its head: no timer is needed
            pieces.append(request.content.read_nowait())
            size = len(pieces[0])
        else:
            async with asyncio.timeout(router.settings.written.timeouts.body):
                while size <= most and (piece := await request.content.readany()):
                    size += len(piece)
                    pieces.append(piece)
    except TimeoutError:
        raise Problem(408, "the body did not come in time", "invalid_request_error") from None
    except (web.RequestPayloadError, BadHttpMessage):
        raise Problem(400, "the body is cut or badly framed or encoded", "invalid_request_error") from None
    if size > most:
        raise _too_large(most)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(most: int) -> Problem:
    return Problem(413, f"the body is larger than {most} bytes", "invalid_request_error", code="body_too_large")


async def _serve(exchange: Exchange) -> web.StreamResponse:
    router, job = exchange.router, exchange.job
    while True:
        await router.line.place(job)
        job.attempts += 1
        exchange.served_by = job.backend
        try:
            return await _try(exchange)
        except _Failed as failure:
            exchange.served_by = job.backend or exchange.served_by
            router.failed(job, failure.why)
            if router.may_retry(job):
                continue
            if failure.answer is not None:
                job.status, job.outcome = failure.answer.status, "failed"
                return failure.answer
            status = 504 if failure.why == "timeout" else 502
            raise Problem(status, f"the backend failed: {failure}", code="backend_failed") from None


async def _try(exchange: Exchange) -> web.StreamResponse:
    """One try. Raises _Failed while nothing has gone out."""
    backend = exchange.job.backend
    assert backend is not None
    connection: Connection | None = None
    pool = backend.pool  # a reload may give the backend another one
    try:
        if exchange.router.settings.written.hedge.after is None or exchange.job.path not in JSON_PATHS:
            connection, head = await _ask(exchange, backend, pool)
        else:
            pool, connection, head = await hedged(exchange.router, exchange.job, lambda job: _open(exchange, job))
            exchange.served_by = exchange.job.backend
        if head.event_stream and head.status == 200:
            return await _EventStream(exchange, connection, head).run()
        return await _answer(exchange, connection, head)
    except UpstreamError as error:
        raise _Failed(error.why, str(error)) from None
    finally:
        if connection is not None:
            pool.give(connection)


async def _ask(exchange: Exchange, backend: Backend, pool: Pool) -> tuple[Connection, Head]:
    """Send the request and wait for the head of the answer. A kept connection that the engine had closed meanwhile is replaced once."""
    router, request = exchange.router, exchange.request
    timeouts = router.settings.written.timeouts
    head = request_head(
        request.method,
        pool.prefix + exchange.target,
        pool.authority,
        request.raw_headers,
        backend.settings.api_key,
        router.tenants.keys is None,
        len(exchange.body),
    )
    fresh = False
    while True:
        connection = await pool.take(fresh)
        try:
            connection.send(
                head,
                exchange.body,
                head_only=request.method == "HEAD",
                first_byte=timeouts.first_byte,
                idle=timeouts.idle,
            )
            return connection, await connection.head()
        except UpstreamError as error:
            pool.give(connection)
            if not error.stale or fresh:
                raise
            fresh = True
        except BaseException:
            connection.abort()
            raise


async def _open(exchange: Exchange, job: Job) -> Opened:
    """Send the request for a job, which may be a twin, and wait for the first bytes of the answer."""
    assert job.backend is not None
    pool = job.backend.pool
    connection, head = await _ask(exchange, job.backend, pool)
    try:
        await connection.begun()
    except BaseException:
        connection.abort()
        raise
    return pool, connection, head


def _came(exchange: Exchange, backend: Backend) -> None:
    """Bytes of an answer came: a sign of life, and the first one is the first token."""
    now = exchange.router.clock()
    backend.last_byte = exchange.job.last_byte = now
    if exchange.job.first_byte != exchange.job.first_byte:
        exchange.job.first_byte = now


async def _answer(exchange: Exchange, connection: Connection, head: Head) -> web.StreamResponse:
    """An answer in one piece; it is held until it is whole unless it is very large."""
    router, job, backend = exchange.router, exchange.job, exchange.job.backend
    assert backend is not None
    most = router.settings.written.bodies.hold_bytes
    pieces, size = [], 0
    while piece := await connection.read():
        pieces.append(piece)
        size += len(piece)
        if size > most:
            return await _stream_bytes(exchange, connection, head, b"".join(pieces))
    _came(exchange, backend)
    body = b"".join(pieces)
    framed = exchange.request.method != "HEAD"
    answer = web.Response(status=head.status, reason=head.reason, body=body if framed else None)
    answer.headers.clear()
    answer.headers.extend(response_headers(head.headers, framed))
    if head.status in router.settings.written.retry.statuses:
        raise _Failed("status", f"status {head.status}", answer)
    if head.status >= 500:
        router.failed(job, f"status {head.status}")
        job.outcome = "failed"
    else:
        router.answered(job)
        job.outcome = "complete" if head.status < 400 else "refused"
    job.status = head.status
    if head.status == 200 and job.path in JSON_PATHS and (said := usage(body)) is not None:
        job.counted_prompt, job.counted_output, job.cached_tokens = said
    return answer


async def _begin(exchange: Exchange, head: Head) -> web.StreamResponse:
    """Send the head of an answer to the client: from here on there is no other try."""
    response = web.StreamResponse(status=head.status, reason=head.reason)
    response.headers.extend(response_headers(head.headers, framed=False))
    if head.length is None:
        response.enable_chunked_encoding() if exchange.request.version >= (1, 1) else response.force_close()
    exchange.started = True
    exchange.job.status = head.status
    await response.prepare(exchange.request)
    return response


async def _stream_bytes(exchange: Exchange, connection: Connection, head: Head, first: bytes) -> web.StreamResponse:
    """A large answer: passed on as it comes; where it is cut, the client's connection is cut as well."""
    router, job, backend = exchange.router, exchange.job, exchange.job.backend
    assert backend is not None
    job.transport = exchange.request.transport
    response = await _begin(exchange, head)
    piece = first
    try:
        while piece:
            _came(exchange, backend)
            job.writing = job.last_byte
            await response.write(piece)
            job.writing = NEVER
            piece = await connection.read()
    except UpstreamError as error:
        router.failed(job, error.why)
        job.outcome = "cut"
        _hang_up(exchange)
        return response
    router.answered(job)
    job.outcome = "complete" if head.status < 400 else "failed"
    await response.write_eof()
    return response


def _hang_up(exchange: Exchange) -> None:
    transport = exchange.request.transport
    if transport is not None:
        transport.abort()


class _EventStream:
    """A stream of events, each passed on when it is whole.

    The first events go the usual way. After that pieces go from socket to socket in one callback, without waking the request's task, as
    long as the client takes them; when it does not, the usual way waits for it.
    """

    def __init__(self, exchange: Exchange, connection: Connection, head: Head) -> None:
        self.exchange, self.connection, self.head = exchange, connection, head
        self.router, self.job = exchange.router, exchange.job
        assert exchange.job.backend is not None
        self.backend = exchange.job.backend
        self.events = Events()
        self.telling = self.router.decisions.wants_progress
        self.gaps = self.router.meters.gaps(self.job.model)
        self.chunked = head.length is None and exchange.request.version >= (1, 1)
        self.transport = self.job.transport = exchange.request.transport

    async def run(self) -> web.StreamResponse:
        response: web.StreamResponse | None = None
        try:
            while piece := await self.connection.read():
                if not (ready := self._take(piece)):
                    continue
                if response is None:
                    response = await _begin(self.exchange, self.head)
                self.job.writing = self.job.last_byte
                await response.write(ready)
                self.job.writing = NEVER
                if self.transport is not None and self.transport.get_write_buffer_size() < CONGESTED:
                    self.connection.sink = self._pass_on
            if response is None:
                response = await _begin(self.exchange, self.head)
            if rest := self.events.rest():
                await response.write(rest)
        except UpstreamError as error:
            if response is None:
                raise
            return await self._break_off(response, error)
        finally:
            self.connection.sink = None
            _count(self.job, self.events)
        self.router.answered(self.job)
        self.job.outcome = "complete"
        await response.write_eof()
        return response

    def _take(self, piece: bytes) -> bytes:
        """The whole events that a piece completes, counted."""
        ready = self.events.whole(piece)
        if ready:
            job, count, before = self.job, self.events.count, self.job.last_byte
            _came(self.exchange, self.backend)
            new = count - job.generated
            if new > 0 and before == before:
                self.gaps.add((job.last_byte - before) / new, new)
            job.generated = count
            if self.telling:
                self.router.decisions.progressed(job)
        return ready

    def _pass_on(self, piece: bytes) -> bool:
        """Write a piece to the client at once. False where the client is slow or gone: the next pieces wait for it."""
        transport = self.transport
        if transport is None:
            return False
        ready = self._take(piece)
        if ready:
            transport.write(b"%x\r\n%b\r\n" % (len(ready), ready) if self.chunked else ready)
        return not transport.is_closing() and transport.get_write_buffer_size() < CONGESTED

    async def _break_off(self, response: web.StreamResponse, error: UpstreamError) -> web.StreamResponse:
        """The backend failed: half an event is dropped, and one event says so."""
        self.router.failed(self.job, error.why)
        self.job.outcome = "cut"
        text = f"the backend failed in the middle of the answer: {error}"
        await response.write(Problem(502, text, code="backend_failed").event())
        return response


def _count(job: Job, events: Events) -> None:
    """Tokens as the engine counted them; otherwise events stand for tokens, less the one that says the stream is done."""
    if (said := events.usage()) is not None:
        job.counted_prompt, job.counted_output, job.cached_tokens = said
    else:
        job.generated = max(events.count - 1, 0)
