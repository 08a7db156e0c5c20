"""An engine: settings, a live replica, a server on a port; it starts, restarts, drains and stops."""

import asyncio
import errno
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from rota.kernel.errors import InputError
from rota.kernel.streams import normal
from rota.route.engine.clock import Clock, RealClock
from rota.route.engine.faults import Fault, Faults
from rota.route.engine.live import LiveReplica
from rota.route.engine.metrics import EngineMetrics
from rota.route.engine.replica import Replica
from rota.route.engine.server import Server
from rota.route.engine.settings import Plan, Settings, read, resolve

log = logging.getLogger("rota.engine")
DRAIN_STEP = 0.02  # real seconds between two looks at what still runs
BEFORE_RESTART = 0.02  # real seconds for the answer to the request that asked for it
CLOSING = 0.5  # real seconds that handlers get to close their connections, at the very end
TRIES = 50  # to take the port again after a restart, DRAIN_STEP apart


class Engine:
    """One replica behind vLLM's HTTP interface.

    ``async with Engine(port=0, speed=100) as engine: ... engine.url``

    Args:
        settings: A `Settings`, or None to build one from the keywords (the keys of the YAML file).
        clock: Engine seconds; by default the machine's, scaled by `speed`.
        folder: What relative paths in the settings are relative to.

    Raises:
        InputError: settings that break a rule.
    """

    def __init__(
        self, settings: Settings | None = None, clock: Clock | None = None, folder: Path | None = None, **keys: Any
    ) -> None:
        self.settings = settings if settings is not None else read(None, keys)
        self.plan: Plan = resolve(self.settings, folder)
        self._clock = clock
        self.port = self.settings.port  # the one that was taken, once started
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._restarts: asyncio.Task[None] | None = None
        self._restarted = set[int]()  # rules whose restart has been
        self._down: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens, without /v1."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self.port}"

    def state(self) -> dict[str, Any]:
        """What `GET /rota/state` says."""
        return self.server.snapshot()

    async def start(self) -> None:
        """Listen and live.

        Raises:
            InputError: the port is taken, or the host is not this machine's.
        """
        plan, settings = self.plan, self.settings
        _ = plan.timing.entry  # compiled here, not in the first iteration
        self._restarted = set()
        clock = self._clock or RealClock(settings.speed)
        self.metrics = EngineMetrics(
            plan.name, plan.longest, settings.block_tokens, plan.kv_blocks, settings.prefix_caching
        )
        self.live = LiveReplica(self._replica, clock, self.metrics)
        self.faults = Faults(settings.seed, self.metrics.faults, clock.now, self._plan_restarts)
        self.server = Server(plan, self.live, self.faults, self.metrics, self._restart_soon)
        self._runner = web.AppRunner(
            self.server.app(),
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=CLOSING,
            keepalive_timeout=75.0,
        )
        await self._runner.setup()
        try:
            await self._listen(tries=1)
        except InputError:
            await self._runner.cleanup()
            self._runner = None
            raise
        self.live.start()
        self.faults.add(settings.fail)

    async def stop(self, grace: float | None = None) -> None:
        """Take no more requests, let those that run finish for `grace` real seconds (default: the setting), close the rest."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        self.server.draining = True
        for task in (*self._down, *([self._restarts] if self._restarts else [])):
            task.cancel()
        await self._close_site()
        left = self.settings.grace if grace is None else grace
        while self.live.outstanding and left > 0:
            await asyncio.sleep(min(DRAIN_STEP, left))
            left -= DRAIN_STEP
        if self.live.outstanding:
            log.warning("%d requests were cut at the end of the grace period", self.live.outstanding)
        await self.live.stop()
        self.server.release()
        await asyncio.sleep(0)
        await runner.cleanup()

    async def restart(self, seconds: float) -> None:
        """Die and come back: running requests are cut, the cache is lost, nobody listens for `seconds` engine seconds."""
        runner = self._runner
        if runner is None or self._site is None:
            return  # stopped, or down already
        log.warning("injected restart: down for %g s", seconds)
        self.faults.count["restart"] += 1
        await self._close_site()
        await self.live.restart()
        for connection in runner.server.connections if runner.server is not None else ():
            connection.force_close()
        await self.live.clock.sleep_until(self.live.clock.now() + seconds)
        await self._listen(TRIES)
        if self._runner is not None:  # not stopped meanwhile
            self.live.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(grace=0.0)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _replica(self) -> Replica:
        settings, plan = self.settings, self.plan
        return Replica(
            rules=plan.rules,
            timing=plan.timing,
            kv_blocks=plan.kv_blocks,
            block_tokens=settings.block_tokens,
            max_running=settings.max_running,
            prefix_caching=settings.prefix_caching,
            pace=self._pace,
        )

    def _pace(self, iteration: int, now: float) -> float:
        settings, factor = self.settings, self.faults.pace(iteration, now) * self.settings.slower
        if settings.noise > 0.0:
            score = float(normal(settings.seed, "noise", iteration))
            factor *= 2.718281828459045 ** (settings.noise * score - settings.noise**2 / 2)
        return factor

    async def _listen(self, tries: int) -> None:
        runner = self._runner
        if runner is None:
            return
        for left in reversed(range(tries)):
            site = web.TCPSite(runner, self.settings.host, self.port, reuse_address=True, backlog=1024)
            try:
                await site.start()
            except OSError as error:
                await site.stop()
                if left and error.errno == errno.EADDRINUSE:
                    await asyncio.sleep(DRAIN_STEP)
                    continue
                reason = (
                    "is in use; choose another"
                    if error.errno == errno.EADDRINUSE
                    else f"cannot be used ({error.strerror})"
                )
                raise InputError(f"port {self.port} on {self.settings.host} {reason}") from None
            self._site, self.port = site, site.port
            return

    async def _close_site(self) -> None:
        site, self._site = self._site, None
        if site is not None:
            await site.stop()

    def _restart_soon(self, seconds: float) -> None:
        async def later() -> None:
            await asyncio.sleep(BEFORE_RESTART)
            await self.restart(seconds)

        task = asyncio.get_running_loop().create_task(later())
        self._down.add(task)
        task.add_done_callback(self._down.discard)

    def _plan_restarts(self) -> None:
        """Rules have changed: wait for the restarts that are now planned, but for those that have been."""
        if self._restarts is not None:
            self._restarts.cancel()
        self._restarts = asyncio.get_running_loop().create_task(self._wait_for_restarts())

    async def _wait_for_restarts(self) -> None:
        for when, number, seconds in self.faults.restarts():
            if number not in self._restarted:
                await self.live.clock.sleep_until(when)
                self._restarted.add(number)
                self._restart_soon(seconds)


def engine_of(file: Path | None, overrides: Mapping[str, Any]) -> Engine:
    """An engine of a YAML file and what replaces its keys. Raises InputError."""
    return Engine(read(file, overrides), folder=file.parent if file is not None else None)


__all__ = ["Engine", "Fault", "engine_of"]
