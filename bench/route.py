"""What the router adds: first byte of streams against asking the engine directly, and requests a second at saturation.

``python -m bench.route`` starts an engine that does nothing but answer on a schedule (bare asyncio, so that it costs little), the router in a
process of its own, and a bare load generator in this one; the streams of both paths are interleaved in the same seconds, so that both see the same
machine. Figures are ratios and differences of one run on one machine. ``--against NAME=URL`` puts another router that is already running beside ours.
"""

import argparse
import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from bench.route_others import free_port, started, wait_for
from rota.kernel.streams import exponential

BODY = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hello, how are you?"}]}'
SHORT = b'{"model": "m", "messages": [{"role": "user", "content": "hello, how are you?"}]}'
EVENT = (
    b'data: {"id":"x","object":"chat.completion.chunk","created":0,"model":"m","choices":[{"index":0,'
    b'"delta":{"content":" word"},"finish_reason":null}]}\n\n'
)
DONE = b"data: [DONE]\n\n"
ANSWER = (
    b'{"id":"x","object":"chat.completion","created":0,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}}'
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Engine(asyncio.Protocol):
    """Answers /v1/chat/completions: at once, or as a stream of `events` at `rate` a second. No parser: it knows its client."""

    events, rate = 20, 50.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._buffer = transport, b""
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            mark = head.find(b"content-length:")
            size = int(head[mark + 15 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
            if len(self._buffer) < end + 4 + size:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + size], self._buffer[end + 4 + size :]
            if not head.partition(b"\r\n")[0].endswith(b"http/1.1"):  # some routers try HTTP/2 first
                self._transport.close()
                return
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        if path == b"/v1/models":
            self._whole(b'{"object":"list","data":[{"id":"m","object":"model"}]}')
        elif path != b"/v1/chat/completions":
            self._whole(b"")
        elif b'"stream":true' in body.replace(b" ", b""):
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
            self._transport.write(head + chunk(EVENT))
            self._timer = asyncio.get_running_loop().call_later(1 / self.rate, self._next, 1, time.perf_counter())
        else:
            self._whole(ANSWER)

    def _whole(self, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )

    def _next(self, number: int, start: float) -> None:
        if self._transport.is_closing():
            return
        if number >= self.events:
            self._transport.write(chunk(DONE) + b"0\r\n\r\n")
            return
        self._transport.write(chunk(EVENT))
        due = start + (number + 1) / self.rate
        self._timer = asyncio.get_running_loop().call_later(
            max(due - time.perf_counter(), 0), self._next, number + 1, start
        )


class Caller(asyncio.Protocol):
    """One connection of the load: sends a request, notes when the first event and the end came."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.free = True
        self.end: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, path: str, body: bytes) -> "asyncio.Future[None]":
        self.start, self.tail, self.first_event, self.left, self.seen = b"", b"", 0.0, -1, 0
        self.end = self.loop.create_future()
        self.began = time.perf_counter()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        return self.end

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.first_event and b"data: " in data:
            self.first_event = now
        self.seen += len(data)
        self.tail = (self.tail + data)[-16:]
        if self.left < 0:
            self.start += data
            if (end := self.start.find(b"\r\n\r\n")) >= 0 and not self._read_head(self.start[:end].lower(), end + 4):
                return
        whole = self.seen >= self.left if self.left else self.tail.endswith(b"0\r\n\r\n")
        if self.left >= 0 and whole and self.end is not None and not self.end.done():
            self.finished = now
            self.end.set_result(None)

    def _read_head(self, head: bytes, size: int) -> bool:
        mark = head.find(b"content-length:")
        self.left = size + int(head[mark + 15 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
        if head.startswith(b"http/1.1 200") or self.end is None or self.end.done():
            return True
        self.end.set_exception(ConnectionError(self.start[:300].decode("utf-8", "replace")))
        self.transport.abort()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self.end is not None and not self.end.done():
            self.end.set_exception(ConnectionError("closed"))


class Callers:
    """Connections to one address, kept."""

    def __init__(self, port: int, prefix: str = "/v1/chat/completions") -> None:
        self.port, self.path, self.free = port, prefix, list[Caller]()

    async def take(self) -> Caller:
        if self.free:
            return self.free.pop()
        _, caller = await asyncio.get_running_loop().create_connection(Caller, "127.0.0.1", self.port)
        return caller


async def stream(callers: Callers, found: list[float]) -> None:
    caller = await callers.take()
    await caller.ask(callers.path, BODY)
    found.append(caller.first_event - caller.began)
    callers.free.append(caller)


async def streams(ports: dict[str, int], rate: float, seconds: float) -> dict[str, list[float]]:
    """Open arrivals at `rate` in all, dealt to the paths in turn; the first second warms up and is not counted."""
    paths = {name: Callers(port) for name, port in ports.items()}
    found: dict[str, list[float]] = {name: [] for name in ports}
    gaps = exponential(1, "bench/route", range(int(rate * seconds))) / rate
    start, due, tasks = time.perf_counter(), 0.0, []
    names = list(ports)
    for number, gap in enumerate(gaps.tolist()):
        due += gap
        wait = start + due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        name = names[number % len(names)]
        tasks.append(asyncio.create_task(stream(paths[name], found[name] if due > 1 else [])))
    await asyncio.gather(*tasks)
    return found


async def saturate(port: int, seconds: float, width: int, pid: int | None) -> tuple[float, float]:
    """Requests a second of `width` callers in a closed loop, and requests a CPU second of the process `pid`."""
    callers = Callers(port)
    end = time.perf_counter() + seconds
    count = 0

    async def one() -> None:
        nonlocal count
        caller = await callers.take()
        while time.perf_counter() < end:
            await caller.ask(callers.path, SHORT)
            count += 1

    before, began = cpu(pid), time.perf_counter()
    await asyncio.gather(*(one() for _ in range(width)))
    return count / (time.perf_counter() - began), count / max(cpu(pid) - before, 0.01)


def cpu(pid: int | None) -> float:
    """CPU seconds of a process so far; not a number where it is unknown."""
    if pid is None:
        return float("nan")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Resident MiB of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def leaver(port: int) -> None:
    """A client that leaves in the middle of a stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n"
    writer.write(head.encode() + BODY)
    await reader.read(100)
    writer.transport.abort()


async def soak(port: int, pid: int, rate: float, seconds: float) -> None:
    """Streams at a rate, a tenth of whose clients leave; the router's memory every tenth of the time."""
    end, shown = time.perf_counter() + seconds, 0
    while (now := time.perf_counter()) < end:
        await streams({"rota route": port}, rate, 5.0)
        await asyncio.gather(*(leaver(port) for _ in range(int(rate * 0.5))))
        if (done := int(10 * (1 - (end - now) / seconds))) >= shown:
            shown = done + 1
            print(f"  {seconds - (end - now):5.0f} s: {memory(pid):.1f} MiB", flush=True)
    await asyncio.sleep(2)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    page = (await reader.read()).decode()
    writer.close()
    print("  " + next(line for line in page.splitlines() if line.startswith("rota_backend_outstanding{")))


def percentile(values: list[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(int(share * len(ranked)), len(ranked) - 1)]


async def serve_engine(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


@contextlib.contextmanager
def processes(folder: Path, settings: dict[str, Any]) -> Any:
    """The engine and the router, each a process; their ports and the router's pid."""
    engine, router = free_port(), free_port()
    config = folder / "route.yaml"
    backends = [{"url": f"http://127.0.0.1:{engine}"}]
    config.write_text(
        yaml.safe_dump({"listen": f"127.0.0.1:{router}", "backends": backends, "log": {"requests": False}, **settings})
    )
    started = [subprocess.Popen([sys.executable, "-m", "bench.route", "--engine", str(engine)])]
    try:
        wait_for(engine)
        started.append(
            subprocess.Popen([sys.executable, "-m", "rota.cli.main", "route", str(config)], stderr=subprocess.DEVNULL)
        )
        wait_for(router)
        yield engine, router, started[1].pid
    finally:
        for each in reversed(started):
            each.send_signal(signal.SIGTERM)
        for each in started:
            each.wait(40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=int, help="serve the engine at this port (used by the bench itself)")
    parser.add_argument("--rate", type=float, default=500.0, help="streams a second through the router")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--place", default="least_outstanding")
    parser.add_argument("--record", action="store_true", help="with a recording")
    parser.add_argument(
        "--against", action="append", default=[], metavar="NAME=PORT", help="another router, already running"
    )
    parser.add_argument(
        "--others",
        metavar="PYTHON",
        help="a Python that has LiteLLM, SGLang's router or vLLM's router: start them beside ours",
    )
    parser.add_argument(
        "--soak", type=float, metavar="SECONDS", help="instead: memory under streams and clients that leave"
    )
    given = parser.parse_args()
    if given.engine:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve_engine(given.engine))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    others = {name: (int(port), None) for name, _, port in (each.partition("=") for each in given.against)}
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {"policy": {"place": given.place}}
        if given.record:
            settings["recording"] = {"folder": "recording"}
        with processes(Path(folder), settings) as (engine, router, pid):
            if given.soak:
                asyncio.run(soak(router, pid, given.rate, given.soak))
                return
            with started(Path(folder), given.others, engine) as found:
                report(engine, {"rota route": (router, pid), **others, **found}, given.rate, given.seconds)


async def refuses(port: int) -> str | None:
    """Why a router does not serve a stream; it has half a minute to find its engine."""
    why: str | None = None
    for _ in range(60):
        try:
            await stream(Callers(port), [])
            return None
        except OSError as error:
            why = " ".join(str(error).split())
            await asyncio.sleep(0.5)
    return why


def report(engine: int, routers: dict[str, tuple[int, int | None]], rate: float, seconds: float) -> None:
    """`routers`: port and, where it is known, process of each, ours first."""
    print(f"load of the machine before: {', '.join(f'{each:.1f}' for each in os.getloadavg())}; {os.cpu_count()} cores")
    for name, (port, pid) in list(routers.items()):
        if (why := asyncio.run(refuses(port))) is not None:
            print(f"{name}: does not serve, left out: {why}")
            del routers[name]
            continue
        before = cpu(pid)
        found = asyncio.run(streams({"direct": engine, name: port}, 2 * rate, seconds))
        used = (cpu(pid) - before) / (rate * seconds)
        print(f"{name}: {rate:g} streams/s of {Engine.events} events at {Engine.rate:g}/s beside as many direct ones")
        for path, times in found.items():
            points = "  ".join(f"p{p:g} {1000 * percentile(times, p / 100):8.2f} ms" for p in (50, 90, 99))
            print(f"  first byte, {path:16} {points}  ({len(times)} streams)")
        added = [percentile(found[name], p / 100) - percentile(found["direct"], p / 100) for p in (50, 99)]
        print(f"  added: p50 {1000 * added[0]:.2f} ms, p99 {1000 * added[1]:.2f} ms; CPU {1000 * used:.2f} ms a stream")
    alone, _ = asyncio.run(saturate(engine, 5.0, 64, None))
    print(f"non-streaming, 64 callers: direct {alone:,.0f} requests/s")
    for name, (port, pid) in routers.items():
        through, core = asyncio.run(saturate(port, 5.0, 64, pid))
        print(f"  {name:16} {through:8,.0f} requests/s, {core:8,.0f} a CPU second of the router")


if __name__ == "__main__":
    main()
