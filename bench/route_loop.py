"""The loop, closed: traffic recorded under round robin, replayed under every policy, the winner applied to the live router and measured.

``python -m bench.route_loop`` starts four `rota engine` processes of speeds 1 : 0.8 : 0.6 : 0.5 with 10 % noise on every iteration, and a router. The same
conversations (same starts, lengths and think times; some begin with a long document) are sent once under each policy. The replay sees the recording of
the first run only.
"""

import argparse
import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import yaml

from bench.route_others import free_port, wait_for
from rota.kernel.streams import exponential, normal, uniform
from rota.route.admin import ask
from rota.route.loop import errors, league, rates, since
from rota.route.replay import Shape, measured, read_replay

SPEEDS = (1.0, 0.8, 0.6, 0.5)
MODEL = "llama-3.1-8b"
TURNS, THINK = 3.0, 2.0  # mean turns of a conversation, mean seconds until the next one
SYSTEM = 150  # tokens of the system prompt that all share
DOCUMENT = 4000  # median tokens of the document that some conversations begin with
POLICIES = ("round_robin", "power_of_two", "least_outstanding", "least_work")


def words(count: int, key: int) -> str:
    """So many words of at most four letters, each a token of `rota engine`; other words for other keys."""
    draws = uniform(key, "bench/words", np.arange(count))
    return " ".join(f"w{int(draw * 900) + 100}" for draw in draws)


async def conversation(client: aiohttp.ClientSession, url: str, number: int, seed: int, documents: float) -> None:
    turns = 1 + int(exponential(seed, "turns", number) * (TURNS - 1) + 0.5)
    messages = [{"role": "system", "content": words(SYSTEM, 0)}]
    for turn in range(min(turns, 8)):
        length = int(np.clip(np.exp(5.3 + 1.0 * float(normal(seed, "prompt", number, turn))), 10, 4000))
        if turn == 0 and float(uniform(seed, "documents", number)) < documents:
            length += int(np.clip(DOCUMENT * np.exp(0.6 * float(normal(seed, "document", number))), 200, 16000))
        messages.append({"role": "user", "content": words(length, 1000 * number + turn + 1)})
        most = int(np.clip(np.exp(4.9 + 0.7 * float(normal(seed, "answer", number, turn))), 10, 800))
        body = {
            "model": MODEL, "messages": messages, "stream": True, "max_tokens": most, "min_tokens": most, "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        async with client.post(url, json=body, headers={"x-session-id": f"s{number}"}) as answer:
            await answer.read()
        messages.append({"role": "assistant", "content": words(most, number)})
        await asyncio.sleep(float(exponential(seed, "think", number, turn)) * THINK)


async def traffic(port: int, rate: float, seconds: float, seed: int, documents: float) -> None:
    """Conversations begin as a Poisson process for so long; all of them are finished."""
    starts = np.cumsum(exponential(seed, "starts", np.arange(int(2 * rate * seconds) + 20)) / rate)
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    begun, tasks = time.perf_counter(), []
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
    ) as client:
        for number, start in enumerate(starts[starts < seconds].tolist()):
            await asyncio.sleep(max(begun + start - time.perf_counter(), 0))
            tasks.append(asyncio.create_task(conversation(client, url, number, seed, documents)))
        await asyncio.gather(*tasks)


@contextlib.contextmanager
def fleet(folder: Path, slower: float, noise: float) -> Iterator[tuple[int, Path, Path]]:
    """Engines and router as processes: the router's port, its admin socket and its recording."""
    started, backends = [], []
    try:
        for number, speed in enumerate(SPEEDS):
            port = free_port()
            options = ("--slower", str(slower / speed), "--noise", str(noise), "--seed", str(number))
            command = [sys.executable, "-m", "rota.cli.main", "engine", "--port", str(port), *options]
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            backends.append({"name": f"engine-{speed:g}", "url": f"http://127.0.0.1:{port}"})
        for each in backends:
            wait_for(int(str(each["url"]).rpartition(":")[2]))
        port, config = free_port(), folder / "route.yaml"
        document: dict[str, Any] = {
            "listen": f"127.0.0.1:{port}", "backends": backends, "policy": {"place": "round_robin"}, "admin": "admin.sock",
            "recording": {"folder": "recording", "flush_seconds": 1.0}, "log": {"requests": False, "level": "warning"},
        }  # fmt: skip
        config.write_text(yaml.safe_dump(document))
        started.append(subprocess.Popen([sys.executable, "-m", "rota.cli.main", "route", str(config)]))
        wait_for(port)
        yield port, folder / "admin.sock", folder / "recording"
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=2.2, help="conversations a second")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each policy")
    parser.add_argument(
        "--slower", type=float, default=4.0, help="factor on all engines, so that a small machine can drive them"
    )
    parser.add_argument("--documents", type=float, default=0.3, help="share of conversations that begin with one")
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", default=",".join(POLICIES))
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        fleet(Path(name), given.slower, given.noise) as (port, socket, recording),
    ):
        asyncio.run(traffic(port, given.rate, given.seconds, given.seed, given.documents))
        time.sleep(2)  # flushed
        replay = read_replay(recording, Shape())
        table = league(replay, given.policies.split(","), "ttft_p90")
        print(
            f"{len(replay.rows):,} requests recorded under round_robin; fits off by { ({n: round(v, 3) for n, v in replay.off.items()}) }"
        )
        before = measured(replay.rows)
        found = {"round_robin": before}
        for row in table:  # the winner first
            if row.policy == "round_robin":
                continue
            ask(socket, {"do": "policy", "place": row.policy, "rates": rates(replay)})
            start = time.time()
            asyncio.run(traffic(port, given.rate, given.seconds, given.seed, given.documents))
            time.sleep(2)
            found[row.policy] = since(recording, start, row.policy)
        show(table, found, before)


def show(table: list[Any], found: dict[str, dict[str, float]], before: dict[str, float]) -> None:
    print(f"{'policy':20}{'ttft mean':>26}{'ttft p90':>26}{'e2e mean':>26}   gain in ttft p90")
    for row in table:
        seen = found[row.policy]
        off = errors(row.metrics, seen)
        cells = [
            f"{seen[n]:8.3f} / {row.metrics[n]:6.3f} ({100 * off[n]:+5.1f} %)"
            for n in ("ttft_mean", "ttft_p90", "e2e_mean")
        ]
        gain = f"{100 * (1 - seen['ttft_p90'] / before['ttft_p90']):+.0f} %"
        print(f"{row.policy:20}" + "".join(f"{cell:>26}" for cell in cells) + f"   {gain}")
    print("measured / predicted by the replay, seconds")


if __name__ == "__main__":
    main()
