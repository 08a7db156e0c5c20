"""Every injected fault, seen from a client; rules that make no sense; and what a restart loses."""

import asyncio
import json
from collections import Counter
from typing import Any

import aiohttp
import pytest

from rota.kernel.errors import InputError
from rota.route.engine import Engine, Fault
from rota.route.engine.faults import Faults
from tests.route.engine.serving import ask, chat, served, until

CHAT = "/v1/chat/completions"


async def events(answer: aiohttp.ClientResponse) -> list[str]:
    """The data of a stream's events, until it ends or breaks."""
    found: list[str] = []
    try:
        while line := await answer.content.readline():
            if line.startswith(b"data: "):
                found.append(line[6:].decode().strip())
    except aiohttp.ClientError:
        found.append("broken")
    return found


async def set_faults(session: aiohttp.ClientSession, *rules: dict[str, Any]) -> None:
    async with session.post("/rota/faults", json=list(rules)) as answer:
        assert answer.status == 200, await answer.text()


def test_refuse_and_clear() -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> None:
        await set_faults(session, {"kind": "refuse"})
        with pytest.raises(aiohttp.ClientError):
            await ask(session, CHAT, chat())
        async with session.get("/rota/faults") as answer:
            assert await answer.json() == [{"kind": "refuse"}]
        async with session.get("/health") as answer:
            assert answer.status == 200  # requests are struck, health is not
        async with session.delete("/rota/faults") as answer:
            assert await answer.json() == []
        async with session.post(CHAT, json=chat()) as answer:
            assert answer.status == 200
        assert 'rota:engine_faults_total{kind="refuse"} 1.0' in engine.metrics.text().decode()

    served(work)


def test_status() -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> None:
        async with session.post(CHAT, json=chat()) as answer:
            assert answer.status == 503
            assert (await answer.json())["error"]["code"] == 503
        async with session.get("/health") as answer:
            assert answer.status == 503

    served(work, fail=[{"kind": "status", "status": 503, "on": "all"}])


def test_probability_is_drawn_from_the_seed() -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> list[int]:
        found = []
        for _ in range(60):
            async with session.post(CHAT, json=chat(max_tokens=1)) as answer:
                found.append(answer.status)
        return found

    rule = [{"kind": "status", "status": 500, "probability": 0.3}]
    once, again, other = (served(work, fail=rule, seed=seed, speed=1000.0) for seed in (1, 1, 2))
    assert once == again != other
    assert 6 <= once.count(500) <= 32  # 18 expected, more than three standard deviations either way


def test_cut() -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> None:
        body = chat(max_tokens=20, ignore_eos=True)
        async with session.post(CHAT, json=body | {"stream": True}) as answer:
            *chunks, end = await events(answer)
        assert end == "broken"
        texts = [json.loads(chunk)["choices"][0]["delta"]["content"] for chunk in chunks]
        assert len(texts) == 1 + 4  # the role, and four tokens
        with pytest.raises(aiohttp.ClientError):
            await ask(session, CHAT, body)
        async with session.post(CHAT, json=body | {"max_tokens": 4}) as answer:  # short enough
            assert answer.status == 200
        await until(lambda: engine.state()["running"] == [])
        assert engine.state()["blocks"]["free"] == engine.state()["blocks"]["total"]

    served(work, fail=[{"kind": "cut", "tokens": 4}])


def test_hang_before_anything_until_faults_are_cleared() -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> None:
        asked = asyncio.ensure_future(ask(session, CHAT, chat()))
        await asyncio.sleep(0.15)
        assert not asked.done()
        assert engine.state()["outstanding"] == 0  # it never came to the replica
        await ask(session, "/rota/faults", method="DELETE")
        assert (await asked)[0] == 200
        engine.faults.add([Fault("hang")])
        with pytest.raises(TimeoutError):
            await ask(session, CHAT, chat(), timeout=aiohttp.ClientTimeout(total=0.1))

    served(work, fail=[{"kind": "hang"}])


def test_hang_in_the_middle_of_a_stream() -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> None:
        loop = asyncio.get_running_loop()
        async with session.post(CHAT, json=chat(max_tokens=10, ignore_eos=True, stream=True)) as answer:
            times, began = list[float](), loop.time()
            async for line in answer.content:
                if b'"content":"' in line:
                    times.append(loop.time() - began)
        assert len(times) == 1 + 10
        assert times[3] < 0.15  # the role and three tokens
        assert times[4] >= 0.2  # 10 engine seconds at speed 50

    served(work, fail=[{"kind": "hang", "tokens": 3, "seconds": 10.0}])


def test_slow() -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> float:
        async with session.post(CHAT, json=chat(max_tokens=20, ignore_eos=True)) as answer:
            assert answer.status == 200
        histogram = engine.metrics.histograms["vllm:inter_token_latency_seconds"]
        return histogram.sum / sum(histogram.counts)

    usual, slow = served(work), served(work, fail=[{"kind": "slow", "factor": 4.0}])
    assert slow == pytest.approx(4.0 * usual)
    assert served(work, slower=2.0) == pytest.approx(2.0 * usual)
    noisy = served(work, noise=0.1, seed=3)
    assert noisy == pytest.approx(usual, rel=0.1)  # 19 iterations: standard error 2.3 %
    assert noisy != pytest.approx(usual)
    assert noisy == pytest.approx(served(work, noise=0.1, seed=3))


def test_windows() -> None:
    now = 100.0
    faults = Faults(0, Counter(), lambda: now)
    faults.add([Fault("refuse", after=5.0, until=8.0)])
    seen = []
    for now in (100.0, 104.9, 105.0, 107.9, 108.0):  # noqa: B007 - the clock reads it
        seen.append(faults.strike("requests").refuse)  # noqa: PERF401
    assert seen == [False, False, True, True, False]
    faults.add([Fault("slow", factor=3.0, probability=0.5, until=10.0)])
    factors = {faults.pace(iteration, 110.0) for iteration in range(40)}
    assert factors == {1.0, 3.0}
    assert faults.pace(0, 119.0) == 1.0


@pytest.mark.parametrize("how", ["at its time", "with a request", "asked for"])
def test_restart(how: str) -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> None:
        body = chat(max_tokens=4000, ignore_eos=True, stream=True)
        first = await session.post(CHAT, json=body)
        await first.content.readline()
        assert engine.state()["blocks"]["free"] < engine.state()["blocks"]["total"]
        if how == "at its time":
            await set_faults(session, {"kind": "restart", "after": 2.0, "seconds": 20.0})
        elif how == "asked for":
            await set_faults(session, {"kind": "restart", "seconds": 20.0})
        else:
            await set_faults(session, {"kind": "restart", "probability": 1.0, "seconds": 20.0})
            with pytest.raises(aiohttp.ClientError):
                await ask(session, CHAT, chat())
            engine.faults.clear()
        assert (await events(first))[-1] == "broken"
        first.close()
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(session, "/health", method="GET")
        await until(lambda: engine.state()["blocks"]["free"] == engine.state()["blocks"]["total"])
        await asyncio.sleep(0.5)  # 20 engine seconds are 0.4 real ones
        async with session.post(CHAT, json=chat()) as answer:
            assert answer.status == 200
            tokens = (await answer.json())["usage"]["completion_tokens"]
        assert engine.state()["iteration"] == tokens  # a new replica
        page = engine.metrics.text().decode()
        assert 'rota:engine_restarts_total{engine="0",model_name="llama-3.1-8b"} 1.0' in page

    served(work)


def test_a_restart_empties_the_prefix_cache() -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> list[int]:
        found = []
        for restart in (False, False, True):
            if restart:
                await engine.restart(0.0)
            async with session.post(CHAT, json=chat("word " * 64)) as answer:
                found.append((await answer.json())["usage"]["prompt_tokens_details"]["cached_tokens"])
        return found

    assert served(work, prefix_caching=True) == [0, 64, 0]


@pytest.mark.parametrize(
    "rule, said",
    [
        ({"kind": "refus"}, "fail[0].kind: unknown fault 'refus'; did you mean 'refuse'?"),
        ({"kind": "status"}, "fail[0].status: missing; a status needs it"),
        ({"kind": "status", "status": 200}, "fail[0].status"),
        ({"kind": "refuse", "tokens": 3}, "fail[0].tokens: a refuse takes no tokens"),
        ({"kind": "cut", "tokens": 3, "probability": 1.5}, "fail[0].probability"),
        ({"kind": "hang", "after": 5.0, "until": 4.0}, "fail[0].until: must be later than after (5), found 4"),
        ({"kind": "slow", "factor": 2.0, "on": "health"}, "fail[0].on: a slow strikes the replica"),
        ({"kind": "slow", "fctor": 2.0}, "fail[0]: unknown key 'fctor'; did you mean 'factor' or 'after'?"),
    ],
)
def test_rules_that_make_no_sense(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Engine(port=0, fail=[rule])
    assert said in str(caught.value)

    async def work(engine: Engine, session: aiohttp.ClientSession) -> None:
        async with session.post("/rota/faults", json=[{"kind": "refuse"}, rule]) as answer:
            assert answer.status == 400
            assert said.replace("[0]", "[1]") in (await answer.json())["error"]["message"]
        assert engine.faults.shown() == []  # none of them was set

    served(work)
