"""The router's own HTTP side: which path is what, and errors in OpenAI's form whatever a client sends."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from rota.route.dashboard import PAGE, events
from rota.route.headers import path_of
from rota.route.metrics import Page
from rota.route.openapi import description
from rota.route.problems import Problem
from rota.route.proxy import forward
from rota.route.router import Router

HEAD_MOST = 16 * 1024  # bytes of the request line, and of one header
HEADERS_MOST = 100
MODEL = "/v1/models/"


class _Connection(RequestHandler):
    """aiohttp's connection, whose own errors are JSON too and whose tracebacks stay here.

    A client that connects and does not send the head of a request in time is cut: after the first request the keep-alive timer sees to that.
    """

    head_seconds = 60.0
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._patience = asyncio.get_running_loop().call_later(self.head_seconds, transport.close)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.asked()
        super().connection_lost(exc)

    def asked(self) -> None:
        """A whole head has come."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("an answer has begun")
        kind = "invalid_request_error" if status < 500 else "server_error"
        phrase = HTTPStatus(status).phrase.lower()
        answer = Problem(status, f"the request cannot be read: {phrase}" if status < 500 else phrase, kind).response()
        answer.force_close()
        return answer


class Server(web.Server):
    """Connections of the kind above; a client that leaves ends its request."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        head_seconds: Callable[[], float] = lambda: 60.0,
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._head_seconds = head_seconds

    def __call__(self) -> RequestHandler:
        made = _Connection(
            self,
            loop=self._loop,
            access_log=None,  # type: ignore[arg-type] # as AppRunner(access_log=None) does
            max_line_size=HEAD_MOST,
            max_field_size=HEAD_MOST,
            max_headers=HEADERS_MOST,
            keepalive_timeout=75.0,
            lingering_time=2.0,
        )
        made.head_seconds = self._head_seconds()
        return made


class Front:
    """Answers every request: pages of our own, and everything under /v1 from the fleet."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._metrics = Page(router)
        self._pages: dict[str, Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]] = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._metrics_page,
            "/v1/models": self._models,
            "/openapi.json": self._openapi,
            "/": self._dashboard,
            "/events": self._events,
        }

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.protocol, _Connection):
            request.protocol.asked()
        try:
            if request.method == "CONNECT":
                raise Problem(405, "CONNECT is not served here", "invalid_request_error")
            if request.raw_path.startswith(MODEL):  # names of models have slashes, written as they are or escaped
                return await self._model(request)
            path = path_of(request.raw_path)
            page = self._pages.get(path)
            if page is not None:
                if request.method not in ("GET", "HEAD"):
                    raise Problem(405, f"{path} is read with GET", "invalid_request_error")
                return await page(request)
            if not path.startswith("/v1/"):
                raise Problem(404, f"there is no {path[:200]} here", "invalid_request_error", code="not_found")
            return await forward(self._router, request, path)
        except Problem as problem:
            return self._refused(request, problem)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:  # a bug of ours: the client learns that, the log learns which
            place = _where(error)
            self._router.log.often("internal error", because=f"{type(error).__name__}: {str(error)[:200]}", at=place)
            return self._refused(request, Problem(500, "internal error of the router"))

    def _refused(self, request: web.BaseRequest, problem: Problem) -> web.StreamResponse:
        answer = problem.response()
        if self._router.draining or not request.content.at_eof():
            answer.force_close()  # no further request is served, or the rest of the body is not read
        return answer

    async def _health(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"", headers={"Server": "rota"})

    async def _ready(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._router.ready:
            return web.Response(body=b"", headers={"Server": "rota"})
        raise Problem(
            503, "no backend is up" if not self._router.draining else "draining", code="not_ready", retry_after=1.0
        )

    async def _metrics_page(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self._router.settings.written.pages.metrics:
            raise Problem(404, "there is no /metrics here", "invalid_request_error", code="not_found")
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=self._metrics.text(), headers={"Content-Type": kind, "Server": "rota"})

    async def _models(self, request: web.BaseRequest) -> web.StreamResponse:
        await self._router.tenants.who(request.headers)
        return _json({"object": "list", "data": [_described(model) for model in self._router.fleet.models()]})

    async def _model(self, request: web.BaseRequest) -> web.StreamResponse:
        """One model. Answered here: which backend has it is known here, and the name goes nowhere."""
        if request.method not in ("GET", "HEAD"):
            raise Problem(405, "a model is read with GET", "invalid_request_error")
        await self._router.tenants.who(request.headers)
        name = unquote(request.raw_path.partition("?")[0][len(MODEL) :])
        if name not in self._router.fleet.models():
            raise Problem(
                404, "the model does not exist here", "invalid_request_error", param="model", code="model_not_found"
            )
        return _json(_described(name))

    async def _openapi(self, request: web.BaseRequest) -> web.StreamResponse:
        return _json(description())

    async def _dashboard(self, request: web.BaseRequest) -> web.StreamResponse:
        self._shown()
        headers: dict[str, Any] = {
            "Server": "rota",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:",
        }
        return web.Response(body=PAGE, content_type="text/html", charset="utf-8", headers=headers)

    async def _events(self, request: web.BaseRequest) -> web.StreamResponse:
        self._shown()
        return await events(self._router, request)

    def _shown(self) -> None:
        if not self._router.settings.written.pages.dashboard:
            raise Problem(404, "there is no dashboard here", "invalid_request_error", code="not_found")


def _described(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "rota"}


def _json(document: dict[str, Any]) -> web.Response:
    return web.Response(body=json.dumps(document).encode(), content_type="application/json", headers={"Server": "rota"})


def _where(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace is not None else ""
