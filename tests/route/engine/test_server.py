"""The pages of an engine, odd requests, the end of an engine, and many engines beside each other."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rota.route.engine import Engine, Fault
from rota.route.engine.words import pieces
from tests.route.engine.serving import MODEL, SMALL, ask, chat, served, until

CHAT = "/v1/chat/completions"
GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
COUNTERS = (
    "vllm:prompt_tokens",
    "vllm:generation_tokens",
    "vllm:num_preemptions",
    "vllm:prefix_cache_queries",
    "vllm:prefix_cache_hits",
)
HISTOGRAMS = (
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:time_per_output_token_seconds",
    "vllm:request_time_per_output_token_seconds",
    "vllm:e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds",
    "vllm:request_prefill_time_seconds",
    "vllm:request_decode_time_seconds",
    "vllm:request_inference_time_seconds",
    "vllm:request_prompt_tokens",
    "vllm:request_generation_tokens",
    "vllm:request_params_max_tokens",
    "vllm:iteration_tokens_total",
)  # fmt: skip


def families(page: str) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(page)}


def value(found: dict[str, Any], family: str, sample: str | None = None, **labels: str) -> float:
    """The one sample of a family with these labels."""
    wanted = {"model_name": MODEL, "engine": "0", **labels}
    [hit] = [each for each in found[family].samples if each.name == (sample or family) and each.labels == wanted]
    return float(hit.value)


def test_metrics() -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> None:
        async with session.post(CHAT, json=chat("hello there", max_tokens=8, ignore_eos=True)) as answer:
            prompt = (await answer.json())["usage"]["prompt_tokens"]
        async with session.get("/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            found = families(await answer.text())
        assert [found[name].type for name in GAUGES] == ["gauge"] * 3
        assert [value(found, name) for name in GAUGES] == [0.0, 0.0, 0.0]
        assert {found[name].type for name in COUNTERS} == {"counter"}
        assert {found[name].type for name in HISTOGRAMS} == {"histogram"}
        assert value(found, "vllm:prompt_tokens", "vllm:prompt_tokens_total") == prompt
        assert value(found, "vllm:generation_tokens", "vllm:generation_tokens_total") == 8
        ended = found["vllm:request_success"].samples
        assert {each.labels["finished_reason"]: each.value for each in ended} == {"stop": 0, "length": 1, "abort": 0}
        count = {name: value(found, name, f"{name}_count") for name in HISTOGRAMS}
        assert count["vllm:inter_token_latency_seconds"] == 7
        assert count["vllm:iteration_tokens_total"] == 8
        assert {
            count[name] for name in HISTOGRAMS if name.startswith(("vllm:request", "vllm:e2e", "vllm:time_to"))
        } == {1}
        first = value(found, "vllm:time_to_first_token_seconds", "vllm:time_to_first_token_seconds_sum")
        decode = value(found, "vllm:request_decode_time_seconds", "vllm:request_decode_time_seconds_sum")
        whole = value(found, "vllm:e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds_sum")
        assert first + decode == pytest.approx(whole)
        [info] = found["vllm:cache_config_info"].samples
        assert (info.labels["block_size"], info.labels["num_gpu_blocks"]) == ("16", "400")

    served(work)


def test_gauges_under_load() -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> None:
        body = chat("word " * 100, max_tokens=1000, ignore_eos=True)
        asked = [asyncio.ensure_future(ask(session, CHAT, body)) for _ in range(5)]
        await until(lambda: len(engine.state()["running"]) == 2 and len(engine.state()["waiting"]) == 3)
        found = families(engine.metrics.text().decode())
        assert [value(found, name) for name in GAUGES[:2]] == [2.0, 3.0]
        state = engine.state()
        assert value(found, GAUGES[2]) == pytest.approx(1 - state["blocks"]["free"] / state["blocks"]["total"])
        assert state["running"][0]["prompt"] == 104  # the last space is one, and so are the three markers
        for each in asked:
            each.cancel()
        await until(lambda: engine.state()["outstanding"] == 0)

    served(work, max_running=2, speed=1.0)


def test_prefix_cache_over_the_turns_of_a_conversation() -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> None:
        messages: list[dict[str, str]] = [{"role": "user", "content": "tell me of the sea " * 20}]
        cached = []
        for _ in range(3):
            body = {"messages": messages, "max_tokens": 64, "ignore_eos": True}
            async with session.post(CHAT, json=body) as answer:
                found = await answer.json()
            cached.append((found["usage"]["prompt_tokens_details"]["cached_tokens"], found["usage"]["prompt_tokens"]))
            messages += [found["choices"][0]["message"], {"role": "user", "content": "and then"}]
            messages[-2] = {"role": "assistant", "content": messages[-2]["content"]}
        # All of a turn but its last block: also the answer, which is text of the next prompt.
        assert cached[0][0] == 0
        assert cached[1][0] == (cached[0][1] + 64 - 1) // 16 * 16
        assert cached[2][0] == (cached[1][1] + 64 - 1) // 16 * 16

    served(work, prefix_caching=True)


def test_pages() -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> None:
        async with session.get("/version") as answer:
            assert (await answer.json())["version"].startswith("rota-")
        async with session.get("/health") as answer:
            assert (answer.status, await answer.read()) == (200, b"")
        async with session.post("/tokenize", json={"prompt": "some words here", "return_token_strs": True}) as answer:
            found = await answer.json()
        assert found["token_strs"] == ["some", " word", "s", " here"] == pieces("some words here")
        assert found["count"] == len(found["tokens"]) == 4
        async with session.get("/rota/state") as answer:
            assert (await answer.json())["blocks"] == {"total": 400, "free": 400, "tokens": 16}

    served(work)


@pytest.mark.parametrize(
    "method, path, body, status",
    [
        ("POST", CHAT, b"{not json", 400),
        ("POST", CHAT, b"\xff\xfe{}", 400),
        ("POST", CHAT, b"[" * 100_000, 400),
        ("POST", CHAT, b'{"messages": "hello"}', 400),
        ("POST", CHAT, b"", 400),
        ("POST", "/v1/completions", b'{"prompt": [1, "two"]}', 400),
        ("POST", "/v1/completions", b'{"prompt": [-1]}', 400),
        ("POST", "/v1/completions", b'{"prompt": ""}', 400),
        ("POST", "/v1/embeddings", b'{"input": "a", "dimensions": 0}', 400),
        ("POST", "/tokenize", b"{}", 400),
        ("POST", "/rota/faults", b"3", 400),
        ("GET", "/v1/nothing", None, 404),
        ("GET", CHAT, None, 405),
    ],
)
def test_odd_requests(method: str, path: str, body: bytes | None, status: int) -> None:
    async def work(engine: Engine, session: aiohttp.ClientSession) -> None:
        async with session.request(method, path, data=body) as answer:
            assert answer.status == status
            error = json.loads(await answer.read())["error"]
            assert error["code"] == status
            assert "Traceback" not in error["message"]
        async with session.post(CHAT, json=chat()) as answer:
            assert answer.status == 200

    served(work)


def test_the_end_lets_streams_finish() -> None:
    async def work() -> None:
        engine = Engine(**SMALL)
        await engine.start()
        async with aiohttp.ClientSession(engine.url) as session:
            body = chat(max_tokens=50, ignore_eos=True, stream=True)
            async with session.post(CHAT, json=body) as answer:
                await answer.content.readline()
                await ask(session, "/health", method="GET")  # leaves a connection that is open
                stopping = asyncio.ensure_future(engine.stop(grace=10.0))
                await until(lambda: engine.server.draining)
                async with session.post(CHAT, json=chat()) as refused:
                    assert refused.status == 503
                assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")
            await stopping
            with pytest.raises(aiohttp.ClientConnectorError):
                await ask(session, "/health", method="GET")

    asyncio.run(work())


def test_the_end_of_the_grace_period_cuts_streams() -> None:
    async def work() -> None:
        engine = Engine(**{**SMALL, "speed": 1.0})
        await engine.start()
        async with aiohttp.ClientSession(engine.url) as session:
            answer = await session.post(CHAT, json=chat(max_tokens=5000, ignore_eos=True, stream=True))
            await answer.content.readline()
            engine.faults.add([Fault("hang")])
            hung = asyncio.ensure_future(ask(session, CHAT, chat()))
            await until(lambda: engine.faults.count["hang"] == 1)
            await engine.stop(grace=0.1)
            with pytest.raises(aiohttp.ClientError):
                await answer.content.read()
            answer.close()
            with pytest.raises(aiohttp.ClientError):
                await hung

    asyncio.run(work())


def test_many_engines_in_one_process() -> None:
    async def work() -> None:
        engines = [Engine(**SMALL, seed=seed) for seed in range(6)]
        await asyncio.gather(*(engine.start() for engine in engines))
        assert len({engine.port for engine in engines}) == 6
        async with aiohttp.ClientSession() as session:
            texts = []
            for engine in engines:
                async with session.post(engine.url + CHAT, json=chat()) as answer:
                    texts.append((await answer.json())["choices"][0]["message"]["content"])
        assert len(set(texts)) == 6
        await asyncio.gather(*(engine.stop() for engine in engines))

    asyncio.run(work())


def test_a_replica_that_falls_behind_says_so() -> None:
    """A thousand times faster than real is more than Python can do: nothing is skipped, and the lag is shown."""

    async def work(engine: Engine, session: aiohttp.ClientSession) -> None:
        asked = [ask(session, CHAT, chat(f"{number}", max_tokens=200, ignore_eos=True)) for number in range(8)]
        done = asyncio.gather(*asked)
        await until(lambda: engine.state()["lag"] > 0.0)
        assert [status for status, _ in await done] == [200] * 8
        assert engine.metrics.counts["vllm:generation_tokens"] == 1600
        assert engine.metrics.histograms["rota:engine_lateness_seconds"].sum > 0.0

    served(work, speed=5000.0)
