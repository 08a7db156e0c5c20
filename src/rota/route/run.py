"""The life of a router: start, watch its files, reload, drain."""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from rota.kernel.errors import InputError
from rota.route.admin import Admin
from rota.route.checks import secret
from rota.route.log import Log
from rota.route.record import Recorder
from rota.route.router import Router
from rota.route.server import Front, Server
from rota.route.settings import (
    BackendSettings,
    Policy,
    Settings,
    address,
    named,
    read,
    read_backends,
    server_context,
)
from rota.route.watch import Watch

TICK = 0.5  # seconds between two looks at files, the waiting line and idle connections


class Running:
    """A router with its listener, watches and files. `async with Running(settings): ...` starts and stops all of it."""

    def __init__(self, settings: Settings, log: Log | None = None) -> None:
        self.settings = settings
        self.log = log or Log(settings.written.log.level, time.time)
        recording = settings.written.recording
        salt = secrets.token_bytes(16)
        if recording is not None and recording.salt_file is not None:
            salt = secret(settings.folder / recording.salt_file, "recording.salt_file").encode()[:64]
        self.router = Router(settings, self.log, salt)
        if recording is not None:
            folder = settings.folder / Path(recording.folder).expanduser()
            self.router.recorder = Recorder(recording, folder, settings.written.prefix.block_tokens, self.log)
            self.router.recorder.fleet = self.router.fleet.describe
        self.watch = Watch(self.router.fleet, self.log, self.router.clock, self.router.refreshed)
        self.port = settings.port
        self._listed: dict[str, tuple[BackendSettings, ...]] = {"static": settings.backends, "dns": ()}
        self._seen: tuple[int, int] | None = self._stamp()
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.ServerRunner | None = None
        self._admin: Admin | None = None
        self.over = asyncio.Event()

    async def __aenter__(self) -> "Running":
        """Open everything. Raises InputError where a port, a folder or a socket cannot be had."""
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _open(self) -> None:
        written = self.settings.written
        if self.router.recorder is not None:
            self.router.recorder.open()
        context = server_context(self.settings)
        self._runner = web.ServerRunner(
            Server(Front(self.router), lambda: self.settings.written.timeouts.body), shutdown_timeout=1.0
        )
        await self._runner.setup()
        if written.backends_dns is not None:
            await self._resolve()
        await self.watch.start()
        site = web.TCPSite(self._runner, self.settings.host, self.settings.port, ssl_context=context, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            text = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
            raise InputError(f"listen: {written.listen} cannot be listened on ({text.lower()})") from None
        server = site._server
        if isinstance(server, asyncio.Server) and server.sockets:
            self.port = server.sockets[0].getsockname()[1]
        if written.admin is not None:
            self._admin = Admin(self.settings.folder / Path(written.admin).expanduser(), self)
            await self._admin.start()
        if self.router.recorder is not None:
            self.router.recorder.start(self.router.clock)
        self._tasks = [asyncio.create_task(self._tick())]
        if written.backends_dns is not None:
            self._tasks.append(asyncio.create_task(self._watch_dns()))
        up = sum(each.up for each in self.router.fleet.backends.values())
        self.log.info(
            "listening", address=f"{self.settings.host}:{self.port}", backends=len(self.router.fleet.backends), up=up
        )

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._admin is not None:
            await self._admin.stop()
        await self.watch.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        for each in self.router.fleet.backends.values():
            each.pool.close()
        if self.router.recorder is not None:
            await self.router.recorder.close()

    # -- changes --------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the configuration again. Where it is wrong the old one stays. Raises InputError."""
        settings = read(self.settings.path)
        dns = settings.written.backends_dns
        if (dns is None) != (self.settings.written.backends_dns is None):
            raise InputError("backends_dns: cannot come or go while the router runs; restart it")
        both = self._join(settings.backends, self._listed["dns"], settings)
        self.router.reload(
            Settings(settings.written, settings.path, settings.host, settings.port, both, settings.tenants)
        )
        self.settings = settings
        self._listed["static"] = settings.backends
        self._seen = self._stamp()
        self.watch.follow()
        self.log.info("configuration loaded", backends=len(both))

    def try_reload(self) -> None:
        """Reload; a mistake is logged and changes nothing."""
        try:
            self.reload()
        except InputError as error:
            self.log.error("configuration not loaded, the old one stays", because=str(error))

    def swap(self, policy: Policy) -> None:
        """Another policy until the next reload. Raises InputError."""
        self.router.swap(policy)
        self.log.info("policy changed", place=self.router.decisions.name)

    def _join(
        self, static: Sequence[BackendSettings], dns: Sequence[BackendSettings], settings: Settings
    ) -> tuple[BackendSettings, ...]:
        return named((*static, *dns), "backends", settings.folder)

    def _stamp(self) -> tuple[int, int] | None:
        """What tells whether the watched file has changed."""
        file = self.settings.written.backends_file
        if file is None:
            return None
        with suppress(OSError):
            found = (self.settings.folder / file).stat()
            return found.st_mtime_ns, found.st_size
        return None

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self.router.fleet.sweep(asyncio.get_running_loop().time())
            self.router.line.pump()
            self.router.cut_slow_clients()
            stamp = self._stamp()
            if stamp is not None and stamp != self._seen:
                self._seen = stamp
                self._read_backends_file()

    def _read_backends_file(self) -> None:
        written, folder = self.settings.written, self.settings.folder
        assert written.backends_file is not None
        try:
            listed = named((*written.backends, *read_backends(folder / written.backends_file)), "backends", folder)
            both = self._join(listed, self._listed["dns"], self.settings)
        except InputError as error:
            self.log.error("list of backends not loaded, the old one stays", because=str(error))
            return
        self._listed["static"] = listed
        self._change(both)

    def _change(self, both: tuple[BackendSettings, ...]) -> None:
        self.router.change_backends(both)
        self.watch.follow()
        self.log.info("backends changed", backends=[each.name for each in both])

    async def _watch_dns(self) -> None:
        while True:
            dns = self.settings.written.backends_dns
            await asyncio.sleep(dns.every_seconds if dns is not None else 10.0)
            await self._resolve()

    async def _resolve(self) -> None:
        """Every address of the DNS name is a backend. A name that cannot be resolved leaves the fleet as it is."""
        dns = self.settings.written.backends_dns
        if dns is None:
            return
        try:
            found = await asyncio.get_running_loop().getaddrinfo(dns.name, dns.port, type=1)
            hosts = sorted({str(entry[4][0]) for entry in found})
            listed = named((address(dns, host) for host in hosts), "backends_dns", self.settings.folder)
            if listed != self._listed["dns"]:
                both = self._join(self._listed["static"], listed, self.settings)
                self._listed["dns"] = listed
                self._change(both)
        except (OSError, InputError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            self.log.often("name not resolved, the backends stay", name=dns.name, because=said)

    # -- the end --------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Take no more requests, finish those that are on their way, then stop."""
        if self.router.draining:
            return
        self.router.drain()
        seconds = self.settings.written.drain_seconds
        self.log.info("draining", outstanding=self.router.fleet.outstanding, seconds=seconds)
        if self._runner is not None:
            for site in list(self._runner.sites):
                server = getattr(site, "_server", None)
                if server is not None:
                    server.close()  # the listener only: connections stay
        end = self.router.clock() + seconds
        while self.router.outstanding and self.router.clock() < end:
            await asyncio.sleep(0.05)
        left = self.router.outstanding
        (self.log.warning if left else self.log.info)("drained", cut=left)
        self.over.set()


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT (drain; a second one stops at once); SIGHUP reloads. Raises InputError."""
    running = Running(settings)
    loop = asyncio.get_running_loop()
    draining: list[asyncio.Task[None]] = []

    def leave() -> None:
        if draining:
            running.over.set()
        else:
            draining.append(asyncio.create_task(running.drain()))

    async with running:
        loop.add_signal_handler(signal.SIGHUP, running.try_reload)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leave)
        await running.over.wait()
