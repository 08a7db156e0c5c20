"""Watching the engines: health, models and metrics, on connections of their own, so that no request is waited for.

Each backend has its own two tasks: one that hangs delays nobody else's check, and its metrics do not delay its health.
"""

import asyncio
import os
from collections.abc import Callable

import aiohttp
import msgspec

from rota.route.backend import Backend
from rota.route.fleet import Fleet
from rota.route.log import Log
from rota.route.reported import parse

PAGE_MOST = 8 * 2**20  # bytes of a metrics page or a list of models
MODELS_EVERY = 30.0  # seconds between two looks at the list of models: adapters come and go


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class Watch:
    """The tasks that look after every backend of a fleet."""

    def __init__(self, fleet: Fleet, log: Log, clock: Callable[[], float], refreshed: Callable[[], None]) -> None:
        self._fleet, self._log, self._clock, self._refreshed = fleet, log, clock, refreshed
        self._tasks: dict[Backend, list[asyncio.Task[None]]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Look at every backend once, then go on looking."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True, use_dns_cache=False), trust_env=False
        )
        await asyncio.gather(*(self._check(each) for each in self._fleet.backends.values()))
        self._fleet.started = True
        self.follow()

    def follow(self) -> None:
        """Tasks for backends that joined, none for those that left."""
        current = set(self._fleet.backends.values())
        for backend in [each for each in self._tasks if each not in current]:
            for task in self._tasks.pop(backend):
                task.cancel()
        for backend in current - set(self._tasks):
            self._tasks[backend] = [
                asyncio.create_task(self._watch_health(backend)),
                asyncio.create_task(self._watch_metrics(backend)),
            ]

    async def stop(self) -> None:
        """End all tasks."""
        tasks = [task for tasks in self._tasks.values() for task in tasks]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    # -- health ---------------------------------------------------------------------------------------------------

    async def _watch_health(self, backend: Backend) -> None:
        while True:
            await asyncio.sleep(backend.written.health.every)
            await self._check(backend)

    async def _check(self, backend: Backend) -> None:
        path = backend.settings.health
        if path is not None:
            status, _, why = await self._get(backend, path, backend.written.health.timeout)
            now = self._clock()
            if status == 200:
                if backend.well(now):
                    self._fleet.came_up(backend)
                    self._log.info("backend up", backend=backend.name)
            elif backend.ill(why or f"{path} answered {status}", why.startswith("no answer"), now):
                self._fleet.went_down(backend)
                self._log.warning("backend down", backend=backend.name, because=backend.down_because)
        if backend.up and not backend.settings.models:
            now = self._clock()
            if backend.served is None or not now - backend.models_at < MODELS_EVERY:
                await self._ask_models(backend)

    async def _ask_models(self, backend: Backend) -> None:
        status, body, _ = await self._get(backend, "/v1/models", backend.written.health.timeout)
        backend.models_at = self._clock()
        if status == 200:
            try:
                backend.served = frozenset(each.id for each in msgspec.json.decode(body, type=_Models).data)
            except msgspec.MsgspecError:
                self._log.warning("list of models not understood", backend=backend.name)

    # -- metrics --------------------------------------------------------------------------------------------------

    async def _watch_metrics(self, backend: Backend) -> None:
        told = False
        while True:
            path = backend.settings.metrics
            if path is not None and backend.up:
                asked, before = self._clock(), len(backend.outstanding)
                status, body, why = await self._get(backend, path, backend.written.scrape.timeout)
                if status == 200:
                    self._take(backend, body.decode("utf-8", "replace"), asked, before)
                    told = False
                elif not told:
                    self._log.warning("metrics not read", backend=backend.name, because=why or f"status {status}")
                    told = True
            await asyncio.sleep(backend.written.scrape.every)

    def _take(self, backend: Backend, text: str, asked: float, before: int) -> None:
        seen = parse(text, asked)
        if not seen.known:
            return
        backend.reported = seen
        if backend.written.count_others and seen.running is not None and seen.waiting is not None:
            # ours may have come or gone while it answered: the more of ours, the fewer others are believed
            backend.others = max(0.0, seen.running + seen.waiting - max(before, len(backend.outstanding)))
        else:
            backend.others = 0.0
        self._refreshed()

    async def _get(self, backend: Backend, path: str, seconds: float) -> tuple[int, bytes, str]:
        """Status, body, and in words why there is none (status 0)."""
        assert self._session is not None
        headers = {"User-Agent": "rota", "Accept-Encoding": "identity"}
        if backend.settings.api_key is not None:
            headers["Authorization"] = f"Bearer {backend.settings.api_key}"
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, backend.written.timeouts.connect))
        try:
            async with self._session.get(
                backend.settings.url + path,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                ssl=backend.context if backend.context is not None else True,
                server_hostname=backend.settings.tls.server_name if backend.context is not None else None,
            ) as answer:
                body = b""
                while not answer.content.at_eof() and len(body) < PAGE_MOST:
                    body += await answer.content.read(PAGE_MOST - len(body))
                return answer.status, body, ""
        except aiohttp.ConnectionTimeoutError:
            return 0, b"", "no connection in time"
        except TimeoutError:
            return 0, b"", f"no answer within {seconds:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            number = getattr(getattr(error, "os_error", None) or error, "errno", None)
            said = os.strerror(number).lower() if isinstance(number, int) and number > 0 else type(error).__name__
            return 0, b"", f"not reached ({said})"
