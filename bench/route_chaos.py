"""Nothing lost: a thousand streams at a time while engines are killed and hang, clients leave or dawdle, and the configuration is read again.

``python -m bench.route_chaos`` starts four `rota engine` processes of one seed, so that every engine gives the same answer to the same question, and a
router. What each client got is compared with what an engine says when it is asked alone. Every request must end as one of: the whole and identical
answer; one clean error (a status with a JSON error, or an error event after whole events of the right answer); left by its own client. In the end the
router is drained with SIGTERM while streams run.
"""

import argparse
import asyncio
import contextlib
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from bench.route import memory
from bench.route_others import free_port, wait_for
from rota.kernel.streams import uniform
from rota.worlds.serving.recording import rows

MODEL = "llama-3.1-8b"
QUESTIONS = 200
ENGINES = 4


def body(question: int, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"question {question}"}]
    return {"model": MODEL, "messages": messages, "stream": True, "max_tokens": tokens, "ignore_eos": True}


def said(data: bytes) -> tuple[str, str]:
    """The text of a stream so far, and how it ended: whole, error, or broken."""
    text, end = "", "broken"
    for event in data.split(b"\n\n"):
        if event == b"data: [DONE]":
            end = "whole"
        elif event.startswith(b"data: "):
            found = json.loads(event[6:])
            if "error" in found:
                end = "error"
            else:
                text += "".join(choice["delta"].get("content") or "" for choice in found["choices"])
        elif event:
            return text, "broken"  # half an event
    return text, end


@dataclass
class Storm:
    """The clients, and what became of their requests."""

    port: int
    truth: list[str]
    tokens: int
    seed: int
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    over: bool = False
    number: int = 0

    async def client(self, session: aiohttp.ClientSession) -> None:
        """Asks one question after the other."""
        while not self.over:
            self.number += 1
            mine = self.number
            try:
                end = await self.one(session, mine)
            except aiohttp.ClientConnectorError:
                end = "refused"
                await asyncio.sleep(0.2)
            except aiohttp.ClientError as error:
                end = "broken"
                self.wrong.append(f"request {mine}: {type(error).__name__}: {error}")
            self.ends[end] += 1

    async def one(self, session: aiohttp.ClientSession, mine: int) -> str:
        kind, question = float(uniform(self.seed, "kind", mine)), int(uniform(self.seed, "question", mine) * QUESTIONS)
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        leaves = float(uniform(self.seed, "leave", mine)) * 10 if kind < 0.1 else None
        data = b""
        try:
            async with asyncio.timeout(leaves), session.post(url, json=body(question, self.tokens)) as answer:
                async for piece in answer.content.iter_any():
                    data += piece
                    if kind > 0.95:
                        await asyncio.sleep(0.5)  # dawdles
        except TimeoutError:
            return "left"
        if answer.status != 200:
            assert json.loads(data)["error"]["message"]
            return f"status {answer.status}"
        text, end = said(data)
        right = text == self.truth[question] if end == "whole" else self.truth[question].startswith(text)
        if end == "broken" or not right:
            self.wrong.append(f"request {mine}: {end}, {'right' if right else 'wrong'} text: {data[-200:]!r}")
            return "broken"
        return {"whole": "whole", "error": "error event"}[end]


@dataclass
class Fleet:
    """Engine processes that are killed and come back at the same port."""

    ports: list[int]
    options: list[str]
    running: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    kills: int = 0
    hangs: int = 0

    def start(self, port: int) -> None:
        command = [sys.executable, "-m", "rota.cli.main", "engine", "--port", str(port), *self.options]
        self.running[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    async def trouble(self, seed: int, every: float) -> None:
        """One engine after the other is killed or hangs for a while; at least two are always well."""
        async with aiohttp.ClientSession() as session:
            number = 0
            while True:
                await asyncio.sleep(every)
                number += 1
                port = self.ports[number % len(self.ports)]
                if float(uniform(seed, "trouble", number)) < 0.5:
                    self.kills += 1
                    self.running[port].kill()
                    self.running[port].wait()
                    await asyncio.sleep(every / 2)
                    self.start(port)
                else:
                    self.hangs += 1
                    rule = {"kind": "hang", "probability": 0.5, "tokens": 0 if number % 2 else 5}
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.post(f"http://127.0.0.1:{port}/rota/faults", json=rule):
                            pass
                        await asyncio.sleep(every / 2)
                        async with session.delete(f"http://127.0.0.1:{port}/rota/faults"):
                            pass


@contextlib.contextmanager
def started(folder: Path, speed: float) -> Iterator[tuple[Fleet, "subprocess.Popen[bytes]", int, Path]]:
    fleet = Fleet([free_port() for _ in range(ENGINES)], ["--speed", str(speed), "--seed", "1"])
    router: subprocess.Popen[bytes] | None = None
    try:
        for port in fleet.ports:
            fleet.start(port)
        for port in fleet.ports:
            wait_for(port)
        port, config = free_port(), folder / "route.yaml"
        backends = [{"name": f"e{k}", "url": f"http://127.0.0.1:{each}"} for k, each in enumerate(fleet.ports)]
        document = {
            "listen": f"127.0.0.1:{port}", "backends": backends, "recording": {"folder": "recording"}, "admin": "admin.sock",
            "log": {"requests": False, "level": "error"}, "timeouts": {"idle": 10, "first_byte": 20}, "drain_seconds": 120,
            "health": {"every": 0.5, "timeout": 2},
        }  # fmt: skip
        config.write_text(yaml.safe_dump(document))
        router = subprocess.Popen([sys.executable, "-m", "rota.cli.main", "route", str(config)])
        wait_for(port)
        yield fleet, router, port, config
    finally:
        for each in (*fleet.running.values(), *([router] if router is not None else [])):
            each.kill()
            each.wait()


async def reloads(router: "subprocess.Popen[bytes]", config: Path, every: float, count: list[int]) -> None:
    """The configuration changes and is read again."""
    text = config.read_text()
    while True:
        await asyncio.sleep(every)
        count[0] += 1
        config.write_text(text + ("" if count[0] % 2 else "slow_start_seconds: 3\n"))
        router.send_signal(signal.SIGHUP)


async def run(given: argparse.Namespace, folder: Path) -> bool:
    with started(folder, given.speed) as (fleet, router, port, config):
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
            truth = await answers(session, fleet.ports[0], given.tokens)
            storm = Storm(port, truth, given.tokens, given.seed)
            clients = [asyncio.create_task(storm.client(session)) for _ in range(given.streams)]
            count = [0]
            trouble = [
                asyncio.create_task(fleet.trouble(given.seed, given.every)),
                asyncio.create_task(reloads(router, config, given.every, count)),
            ]
            began = time.perf_counter()
            for _ in range(10):
                await asyncio.sleep(given.seconds / 10)
                seconds = time.perf_counter() - began
                print(f"  {seconds:5.0f} s: {memory(router.pid):6.1f} MiB, {dict(storm.ends)}", flush=True)
            for each in trouble:
                each.cancel()
            await asyncio.gather(*trouble, return_exceptions=True)
            before = Counter(storm.ends)
            router.send_signal(signal.SIGTERM)
            storm.over = True
            await asyncio.gather(*clients)
            code = await asyncio.to_thread(router.wait)
        print(f"{given.streams} streams at a time, {fleet.kills} kills, {fleet.hangs} hangs, {count[0]} reloads")
        print(f"ends: {dict(storm.ends)}; of these during the drain {dict(storm.ends - before)}; exit code {code}")
        written = rows(folder / "recording")
        came = sum(storm.ends.values()) - storm.ends["refused"]
        print(f"requests that reached the router {came}, rows recorded {len(written)}")
        for text in storm.wrong[:10]:
            print(f"WRONG {text}")
        return not storm.wrong and code == 0


async def answers(session: aiohttp.ClientSession, port: int, tokens: int) -> list[str]:
    """What an engine says to each question when nobody disturbs it."""

    async def one(question: int) -> str:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        async with session.post(url, json=body(question, tokens)) as answer:
            text, end = said(await answer.read())
            assert end == "whole"
            return text

    return list(await asyncio.gather(*(one(question) for question in range(QUESTIONS))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000, help="clients, each with one stream at a time")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--tokens", type=int, default=60, help="of each answer")
    parser.add_argument("--speed", type=float, default=0.1, help="engine seconds a second")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two troubles")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with tempfile.TemporaryDirectory() as name:
        raise SystemExit(0 if asyncio.run(run(given, Path(name))) else 1)


if __name__ == "__main__":
    main()
