"""How much one engine process sustains, how exact its token times are, and how fast it starts.

    python -m bench.engine

The engine runs in this process, its clients in another one; what both share (two cores, the loopback) is part of the figures.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
from rich.console import Console
from rich.table import Table

from rota.route.engine import Engine
from rota.route.engine.selector import new_event_loop
from rota.route.engine.sequence import Sequence

PATH = "/v1/completions"


@dataclass
class Load:
    """What the clients do: `requests` in all, `together` at a time."""

    requests: int
    together: int
    tokens: int
    stream: bool
    prompt: int = 64  # tokens of the first; the next has one more


async def clients(url: str, load: Load, file: str) -> None:
    """Run the load, read every answer to its end, and write down when each token of a stream came (monotonic seconds)."""
    times = np.full((load.requests, load.tokens), np.nan)
    left = iter(range(load.requests))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def client() -> None:
            for number in left:
                # Of a stream, the length of the prompt is the name of the request.
                prompt = [number, *range(load.prompt - 1 + (number if load.stream else 0))]
                body = {"prompt": prompt, "max_tokens": load.tokens, "stream": load.stream, "ignore_eos": True}
                async with session.post(PATH, json=body) as answer:
                    at = 0
                    while line := await answer.content.readline():
                        if line.startswith(b'data: {"id"'):
                            times[number, at] = time.monotonic()
                            at += 1
                    assert answer.status == 200
                    assert not load.stream or at == load.tokens

        await asyncio.gather(*(client() for _ in range(load.together)))
    np.save(file, times)


@dataclass
class Seen:
    seconds: float  # from first to last
    cpu: float  # seconds of this process
    tokens: int
    iterations: int
    known: np.ndarray[
        Any, np.dtype[np.float64]
    ]  # real seconds from a token's time until the engine gave it to its handler
    seen: np.ndarray[Any, np.dtype[np.float64]]  # and until its client had it


async def run(load: Load, **keys: Any) -> Seen:
    """An engine here, its clients elsewhere."""
    async with Engine(port=0, max_running=512, **keys) as engine:
        known, sequences = list[float](), dict[int, Sequence]()
        told, submit = engine.metrics.iteration, engine.live.submit

        def iteration(replica: Any, got: Any, now: float) -> None:
            known.extend([(now - replica.now) / engine.settings.speed] * len(got))
            told(replica, got, now)

        def remember(sequence: Sequence) -> Any:
            sequences[sequence.prompt - load.prompt] = sequence
            return submit(sequence)

        engine.metrics.iteration = iteration  # type: ignore[method-assign]
        engine.live.submit = remember  # type: ignore[method-assign]
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            words = [engine.url, load.requests, load.together, load.tokens, int(load.stream), load.prompt, file.name]
            command = [sys.executable, "-m", "bench.engine", "--clients", *map(str, words)]
            child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
            assert child.stdout is not None
            await child.stdout.readline()  # its imports are done
            began, cpu = time.perf_counter(), time.process_time()
            assert child.stdin is not None
            child.stdin.write(b"\n")
            assert await child.wait() == 0
            times = np.load(file.name)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        origin = time.monotonic() - engine.live.clock.now() / engine.settings.speed
        due = np.array([sequences[number if load.stream else 0].token_times for number in range(load.requests)])
        late = times - (origin + due / engine.settings.speed)  # not a number for answers that came whole
        tokens, iterations = engine.metrics.counts["vllm:generation_tokens"], engine.live.replica.iterations
        return Seen(wall, cpu, tokens, iterations, np.array(known), late.ravel())


def on(loop: Callable[[], asyncio.AbstractEventLoop], load: Load, **keys: Any) -> Seen:
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(run(load, **keys))


def throughput(console: Console) -> None:
    """Speeds at which the replica has more to do than this process can: batches are as full as clients make them."""
    table = Table(
        "load", "speed", "batch", "wall s", "tokens/s", "answers/s", "tokens per CPU s", title="As fast as it can"
    )
    for name, speed, load in (
        ("256 streams of 300 tokens", 10.0, Load(768, 256, 300, True)),
        ("32 streams of 300 tokens", 30.0, Load(256, 32, 300, True)),
        ("1 stream of 2,000 tokens", 1000.0, Load(6, 1, 2000, True)),
        ("256 at once, whole, 300 tokens", 30.0, Load(2048, 256, 300, False)),
        ("32 at once, whole, 1 token", 100.0, Load(8192, 32, 1, False)),
    ):
        seen = on(new_event_loop, load, speed=speed)
        table.add_row(
            name,
            f"{speed:g}",
            f"{seen.tokens / seen.iterations:.0f}",
            f"{seen.seconds:.2f}",
            f"{seen.tokens / seen.seconds:,.0f}",
            f"{load.requests / seen.seconds:,.0f}",
            f"{seen.tokens / seen.cpu:,.0f}",
        )
    console.print(table)


def exactness(console: Console) -> None:
    table = Table(
        "load at speed 1", "event loop", "tokens/s", "known p50", "p99", "client p50", "p99", "max", "core used"
    )
    table.title = "Real time, ms: from the moment of a token until the engine knew, and until its client had it"
    for name, load in (
        ("1 stream", Load(4, 1, 250, True)),
        ("32 streams", Load(64, 32, 300, True)),
        ("256 streams", Load(512, 256, 300, True)),
    ):
        for kind, loop in (("asyncio's", asyncio.new_event_loop), ("ours", new_event_loop)):
            found = on(loop, load, speed=1.0)
            ms = [*np.quantile(found.known, [0.5, 0.99]), *np.quantile(found.seen, [0.5, 0.99]), found.seen.max()]
            shown = [f"{1000 * value:.2f}" for value in ms]
            table.add_row(
                name, kind, f"{found.tokens / found.seconds:,.0f}", *shown, f"{found.cpu / found.seconds:.0%}"
            )
    console.print(table)


async def start_up(console: Console, count: int = 20) -> None:
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        engine = Engine(port=0)
        await engine.start()
        seconds.append(time.perf_counter() - began)
        await engine.stop()
    ms = 1000 * np.array(seconds)
    console.print(f"start: first engine of a process {ms[0]:.0f} ms, further ones {np.median(ms[1:]):.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs=7, help=argparse.SUPPRESS)
    given = parser.parse_args().clients
    if given:
        print("ready", flush=True)
        sys.stdin.readline()
        numbers = [int(word) for word in given[1:-1]]
        load = Load(numbers[0], numbers[1], numbers[2], bool(numbers[3]), numbers[4])
        asyncio.run(clients(given[0], load, given[-1]))
        return
    console = Console(width=130)
    asyncio.run(start_up(console))
    throughput(console)
    exactness(console)


if __name__ == "__main__":
    main()
