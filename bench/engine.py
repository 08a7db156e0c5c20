"""How much one engine process sustains, how exact its token times are, and how fast it starts.

    python -m bench.engine

The engine runs in this process, its clients in another one; what both share (two cores, the loopback) is part of the figures.
"""

import argparse
import asyncio
import subprocess
import sys
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

PATH = "/v1/completions"


@dataclass
class Load:
    """What the clients do: `requests` in all, `together` at a time."""

    requests: int
    together: int
    tokens: int
    stream: bool
    prompt: int = 64  # tokens


async def clients(url: str, load: Load) -> None:
    """Run the load and read every answer to its end."""
    left = iter(range(load.requests))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def client() -> None:
            for number in left:
                body = {"prompt": [number, *range(load.prompt - 1)], "max_tokens": load.tokens, "stream": load.stream}
                async with session.post(PATH, json=body | {"ignore_eos": True}) as answer:
                    content = await answer.read()
                    assert answer.status == 200, content
                    assert not load.stream or content.endswith(b"data: [DONE]\n\n")

        await asyncio.gather(*(client() for _ in range(load.together)))


@dataclass
class Seen:
    seconds: float  # from first to last
    cpu: float  # seconds of this process
    tokens: int
    iterations: int
    late: np.ndarray[Any, np.dtype[np.float64]]  # real seconds from a token's time to its delivery
    lag: float  # the most that the replica was behind, engine seconds


async def run(load: Load, **keys: Any) -> Seen:
    """An engine here, its clients elsewhere."""
    async with Engine(port=0, max_running=512, **keys) as engine:
        late, lag = list[float](), [0.0]
        told = engine.metrics.iteration

        def iteration(replica: Any, got: Any, now: float) -> None:
            late.extend([(now - replica.now) / engine.settings.speed] * len(got))
            lag[0] = max(lag[0], now - replica.now)
            told(replica, got, now)

        engine.metrics.iteration = iteration  # type: ignore[method-assign]
        words = [load.requests, load.together, load.tokens, int(load.stream), load.prompt]
        command = [sys.executable, "-m", "bench.engine", "--clients", engine.url, *map(str, words)]
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
        assert child.stdout is not None
        await child.stdout.readline()  # its imports are done
        began, cpu = time.perf_counter(), time.process_time()
        assert child.stdin is not None
        child.stdin.write(b"\n")
        assert await child.wait() == 0
        return Seen(
            time.perf_counter() - began,
            time.process_time() - cpu,
            engine.metrics.counts["vllm:generation_tokens"],
            engine.live.replica.iterations,
            np.array(late),
            lag[0],
        )


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
    table = Table("load at speed 1", "event loop", "tokens/s", "mean ms", "p50", "p99", "max", "core used")
    table.title = "Real time: from the moment of a token to its delivery"
    for name, load in (
        ("1 stream", Load(4, 1, 250, True)),
        ("32 streams", Load(64, 32, 300, True)),
        ("256 streams", Load(512, 256, 300, True)),
    ):
        for kind, loop in (("asyncio's", asyncio.new_event_loop), ("ours", new_event_loop)):
            seen = on(loop, load, speed=1.0)
            ms = 1000 * seen.late
            quantiles = [f"{value:.2f}" for value in (ms.mean(), *np.quantile(ms, [0.5, 0.99]), ms.max())]
            table.add_row(
                name, kind, f"{seen.tokens / seen.seconds:,.0f}", *quantiles, f"{seen.cpu / seen.seconds:.0%}"
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
    parser.add_argument("--clients", nargs=6, metavar=("URL", "REQUESTS", "TOGETHER", "TOKENS", "STREAM", "PROMPT"))
    given = parser.parse_args().clients
    if given:
        print("ready", flush=True)
        sys.stdin.readline()
        numbers = [int(word) for word in given[1:]]
        asyncio.run(clients(given[0], Load(numbers[0], numbers[1], numbers[2], bool(numbers[3]), numbers[4])))
        return
    console = Console(width=130)
    asyncio.run(start_up(console))
    throughput(console)
    exactness(console)


if __name__ == "__main__":
    main()
