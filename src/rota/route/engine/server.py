"""vLLM's HTTP interface before a live replica, and the two pages of our own: `/rota/state` and `/rota/faults`."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from hmac import compare_digest
from typing import Any
from uuid import uuid4

import msgspec
from aiohttp import web

from rota import __version__
from rota.kernel.config import decode
from rota.kernel.errors import InputError
from rota.route.engine import answers, requests
from rota.route.engine.errors import ApiError
from rota.route.engine.faults import Fault, Faults, Strike
from rota.route.engine.live import LiveReplica, ReplicaLost, Ticket
from rota.route.engine.metrics import EngineMetrics
from rota.route.engine.requests import Job
from rota.route.engine.sequence import Sequence
from rota.route.engine.settings import Plan
from rota.route.engine.words import Prompt, pieces, token_ids

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MOST_BODY = 256 * 2**20  # bytes
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Closed(Exception):
    """The connection is to be closed without another word."""

    def __init__(self, reset: bool) -> None:
        self.reset = reset  # at once, instead of after what was written has gone out


def reply(data: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=msgspec.json.encode(data), status=status, content_type="application/json")


class Server:
    """The handlers of one engine."""

    def __init__(
        self,
        plan: Plan,
        live: LiveReplica,
        faults: Faults,
        metrics: EngineMetrics,
        on_restart: Callable[[float], None],
    ) -> None:
        self.plan, self.live, self.faults, self.metrics, self.on_restart = plan, live, faults, metrics, on_restart
        self.draining = False
        self.started = int(time.time())
        self._released = asyncio.Event()  # set when faults are cleared: who hangs goes on

    def app(self) -> web.Application:
        """The application of aiohttp."""
        app = web.Application(middlewares=[self._guard], client_max_size=MOST_BODY)
        app.router.add_post("/v1/chat/completions", self._struck(self.chat))
        app.router.add_post("/v1/completions", self._struck(self.completion))
        app.router.add_post("/v1/embeddings", self._struck(self.embedding))
        app.router.add_post("/v1/responses", self._struck(self.response))
        app.router.add_post("/tokenize", self.tokenize)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.health)
        app.router.add_get("/ping", self.health)
        app.router.add_get("/version", self.version)
        app.router.add_get("/metrics", self.page)
        app.router.add_get("/rota/state", self.state)
        app.router.add_get("/rota/faults", self.show_faults)
        app.router.add_post("/rota/faults", self.set_faults)
        app.router.add_delete("/rota/faults", self.clear_faults)
        return app

    # -- around every request -------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Errors in OpenAI's form; keys; connections that a fault or a restart closes."""
        try:
            key = self.plan.settings.api_key
            if key is not None and request.path.startswith("/v1") and not _knows(request, key):
                raise ApiError(401, "Unauthorized", None, "AuthenticationError")
            return await handler(request)
        except ApiError as error:
            return reply(error.body, error.status)
        except web.HTTPException as error:
            body = ApiError(error.status, error.reason, None, _kind(error.status)).body
            return reply(body, error.status)
        except (Closed, ReplicaLost) as why:
            if request.transport is not None:
                request.transport.abort() if isinstance(why, Closed) and why.reset else request.transport.close()
            return web.Response()  # nobody reads it

    def _struck(self, handler: Callable[[web.Request, Strike], Awaitable[web.StreamResponse]]) -> Handler:
        """A handler of requests, before which faults may strike."""

        async def struck(request: web.Request) -> web.StreamResponse:
            if self.draining:
                raise ApiError(503, "the engine is shutting down", None, "ServiceUnavailableError")
            strike = self.faults.strike("requests")
            await self._before(strike)
            return await handler(request, strike)

        return struck

    async def _before(self, strike: Strike) -> None:
        """Faults that strike before anything is said."""
        if strike.restart is not None:
            self.on_restart(strike.restart)
        if strike.refuse or strike.restart is not None:
            raise Closed(reset=True)
        if strike.hang_after == 0:
            await self._hang(strike)
        if strike.status is not None:
            raise ApiError(strike.status, f"injected fault: status {strike.status}", None, _kind(strike.status))

    async def _hang(self, strike: Strike) -> None:
        """Do nothing until the fault's seconds have passed or the faults are cleared."""
        released = asyncio.ensure_future(self._released.wait())
        slept = asyncio.ensure_future(self._sleep(strike.hang_seconds))
        try:
            await asyncio.wait((released, slept), return_when=asyncio.FIRST_COMPLETED)
        finally:
            released.cancel()
            slept.cancel()
        if self.draining:
            raise Closed(reset=True)

    async def _sleep(self, seconds: float) -> None:
        if seconds == float("inf"):
            await asyncio.get_running_loop().create_future()
        await self.live.clock.sleep_until(self.live.clock.now() + seconds)

    def release(self) -> None:
        """Let all who hang go on."""
        self._released.set()
        self._released = asyncio.Event()

    # -- what generates -------------------------------------------------------------------------------------------

    async def chat(self, request: web.Request, strike: Strike) -> web.StreamResponse:
        """POST /v1/chat/completions"""
        body = requests.read_body(await request.read(), requests.ChatBody)
        requests.check_model(self.plan, body.model)
        job = requests.chat_job(self.plan, body)
        return await self._answer(request, strike, [job], answers.ChatForm(uuid4().hex, self.plan.name, job))

    async def completion(self, request: web.Request, strike: Strike) -> web.StreamResponse:
        """POST /v1/completions"""
        body = requests.read_body(await request.read(), requests.CompletionBody)
        requests.check_model(self.plan, body.model)
        jobs = requests.completion_jobs(self.plan, body)
        return await self._answer(request, strike, jobs, answers.CompletionForm(uuid4().hex, self.plan.name, jobs))

    async def response(self, request: web.Request, strike: Strike) -> web.StreamResponse:
        """POST /v1/responses"""
        body = requests.read_body(await request.read(), requests.ResponseBody)
        requests.check_model(self.plan, body.model)
        job = requests.response_job(self.plan, body)
        return await self._answer(request, strike, [job], answers.ResponseForm(uuid4().hex, self.plan.name, job))

    async def embedding(self, request: web.Request, strike: Strike) -> web.StreamResponse:
        """POST /v1/embeddings: prompts are computed, nothing is generated."""
        body = requests.read_body(await request.read(), requests.EmbeddingBody)
        requests.check_model(self.plan, body.model)
        prompts = requests.embedding_prompts(self.plan, body)
        tickets = [self._submit(prompt, 1, pooled=True) for prompt in prompts]
        try:
            await self._all_out(tickets, strike)
            for ticket in tickets:
                self.metrics.finished(ticket.sequence, "stop")
        finally:
            self._leave(tickets)
        width = body.dimensions or self.plan.hidden
        base64 = body.encoding_format == "base64"
        return reply(answers.embeddings(self.plan.settings.seed, self.plan.name, prompts, width, base64))

    async def _answer(
        self, request: web.Request, strike: Strike, jobs: list[Job], form: answers.Form
    ) -> web.StreamResponse:
        for job in jobs:
            self.metrics.requested(job.max_tokens, self.plan.longest - len(job.prompt))
        tickets = [self._submit(job.prompt, len(job.tokens), job.tokens) for job in jobs]
        try:
            if jobs[0].stream:
                return await self._stream(request, strike, jobs[0], tickets[0], form)
            await self._all_out(tickets, strike)
            for job, ticket in zip(jobs, tickets, strict=True):
                self.metrics.finished(ticket.sequence, "length" if job.ending == "length" else "stop")
            return reply(form.whole(self._usage(jobs, tickets)))
        finally:
            self._leave(tickets)

    async def _all_out(self, tickets: list[Ticket], strike: Strike) -> None:
        """Wait for all tokens, or for as many as a fault leaves."""
        for ticket in tickets:
            count = 0
            while count < min(ticket.sequence.output, strike.cut_after):
                if count >= strike.hang_after > 0:
                    await self._hang(strike)
                    strike = Strike(cut_after=strike.cut_after)
                count = await ticket.more(count)
        if any(ticket.sequence.output > strike.cut_after for ticket in tickets):
            raise Closed(reset=False)

    async def _stream(
        self, request: web.Request, strike: Strike, job: Job, ticket: Ticket, form: answers.Form
    ) -> web.StreamResponse:
        """Tokens as they come; those that came while the client was slow go out together."""
        response = web.StreamResponse(headers=EVENTS)
        await response.prepare(request)
        tokens, sent = job.tokens, 0
        limit = min(len(tokens), strike.cut_after)
        while sent < limit:
            if sent >= strike.hang_after > 0:
                await self._hang(strike)
                strike = Strike()
            out = int(min(await ticket.more(sent), limit, strike.hang_after if strike.hang_after > sent else limit))
            parts = [form.opening()] if sent == 0 else []
            parts += [form.piece(tokens[at], at + 1 == len(tokens)) for at in range(sent, out)]
            if out == len(tokens):
                self.metrics.finished(ticket.sequence, "length" if job.ending == "length" else "stop")
                parts.append(form.closing(self._usage([job], [ticket])))
            await response.write(b"".join(parts))
            sent = out
        if limit < len(tokens):
            raise Closed(reset=False)
        await response.write_eof()
        return response

    def _submit(self, prompt: Prompt, output: int, tokens: list[str] | None = None, pooled: bool = False) -> Ticket:
        ids = None
        if self.plan.settings.prefix_caching:
            ids = prompt.ids + token_ids(tokens or [""])
        return self.live.submit(Sequence(0, len(prompt), output, ids, pooled))

    def _leave(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            self.live.leave(ticket)

    def _usage(self, jobs: list[Job], tickets: list[Ticket]) -> dict[str, Any]:
        cached = None
        if self.plan.settings.prefix_caching:
            cached = sum(ticket.sequence.cached or 0 for ticket in tickets)
        prompt = sum(len(job.prompt) for job in jobs)
        return answers.usage_of(prompt, sum(len(job.tokens) for job in jobs), cached)

    # -- what informs ---------------------------------------------------------------------------------------------

    async def tokenize(self, request: web.Request) -> web.Response:
        """POST /tokenize"""
        body = requests.read_body(await request.read(), requests.TokenizeBody)
        requests.check_model(self.plan, body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give either prompt or messages", "prompt")
        prompt = (
            requests.chat_prompt(body.messages, None)
            if body.messages is not None
            else Prompt(pieces(body.prompt or ""))
        )
        strings = list(prompt.tokens or ()) if body.return_token_strs else None
        found = {"count": len(prompt), "max_model_len": self.plan.longest, "tokens": list(prompt.ids)}
        return reply({**found, "token_strs": strings})

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models"""
        card = {"id": self.plan.name, "object": "model", "created": self.started, "owned_by": "rota"}
        card |= {"root": self.plan.settings.model, "parent": None, "max_model_len": self.plan.longest}
        return reply({"object": "list", "data": [card]})

    async def health(self, request: web.Request) -> web.Response:
        """GET /health: empty and 200, as vLLM's."""
        await self._before(self.faults.strike("health"))
        return web.Response(status=503 if self.draining else 200)

    async def version(self, request: web.Request) -> web.Response:
        """GET /version"""
        return reply({"version": f"rota-{__version__}"})

    async def page(self, request: web.Request) -> web.Response:
        """GET /metrics"""
        return web.Response(body=self.metrics.text(), headers={"Content-Type": METRICS_TYPE})

    async def state(self, request: web.Request) -> web.Response:
        """GET /rota/state"""
        return reply(self.snapshot())

    def snapshot(self) -> dict[str, Any]:
        """The replica now, for tests and the curious. Times are engine seconds."""
        replica = self.live.replica
        return {
            "now": self.live.clock.now(),
            "lag": self.live.lag,
            "iteration": replica.iterations,
            "busy": replica.busy,
            "ends": replica.ends if replica.busy else None,
            "blocks": {"total": replica.blocks.total, "free": replica.blocks.free, "tokens": replica.blocks.size},
            "preemptions": replica.preemptions,
            "outstanding": self.live.outstanding,
            "waiting": [answers.state(seq) for seq in (*replica.waiting, *replica.arrivals)],
            "running": [answers.state(seq) for seq in replica.running],
            "draining": self.draining,
            "faults": self.faults.shown(),
        }

    async def show_faults(self, request: web.Request) -> web.Response:
        """GET /rota/faults"""
        return reply(self.faults.shown())

    async def set_faults(self, request: web.Request) -> web.Response:
        """POST /rota/faults: a rule, or a list of them."""
        data = requests.read_body(await request.read(), object)
        try:
            rules = decode(tuple[Fault, ...], data if isinstance(data, list) else [data], "fail")
            self.faults.add(rules)
        except InputError as error:
            raise ApiError(400, str(error), None) from None
        return reply(self.faults.shown())

    async def clear_faults(self, request: web.Request) -> web.Response:
        """DELETE /rota/faults"""
        self.faults.clear()
        self.release()
        return reply([])


def _knows(request: web.Request, key: str) -> bool:
    given = request.headers.get("Authorization", "")
    return compare_digest(given.encode("utf-8", "surrogateescape"), f"Bearer {key}".encode())


def _kind(status: int) -> str:
    names = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError", 429: "RateLimitError"}
    return names.get(
        status, "InternalServerError" if status == 500 else "ServiceUnavailableError" if status == 503 else "Error"
    )
