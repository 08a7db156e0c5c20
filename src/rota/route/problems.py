"""Errors as OpenAI's API says them: a status and ``{"error": {"message", "type", "param", "code"}}``."""

import json

from aiohttp import web


class Problem(Exception):
    """A request that is refused, or cannot be served; the message is for the client and holds nothing of the request's text."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "server_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code
        self.retry_after = retry_after

    def body(self) -> bytes:
        """The JSON text."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code or self.kind}
        return json.dumps({"error": error}).encode()

    def event(self) -> bytes:
        """As an event of a stream that cannot go on: clients raise it as an error."""
        return b"data: " + self.body() + b"\n\n"

    def response(self) -> web.Response:
        """As an answer."""
        headers = {"Server": "rota"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after + 0.499)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return web.Response(status=self.status, body=self.body(), content_type="application/json", headers=headers)
