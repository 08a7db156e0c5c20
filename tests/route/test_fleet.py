"""Backends come, go, fail and return, and the router keeps serving."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import yaml

from rota.route.backend import Backend
from rota.route.breaker import Breaker
from rota.route.settings import BackendSettings, Document
from rota.route.settings import Breaker as BreakerSettings
from tests.route.stub import Stub, routed, until
from tests.route.test_proxy import CHAT, STREAM, chat


def test_the_breaker_opens_tries_and_closes() -> None:
    breaker = Breaker(BreakerSettings(failures=2, open=1.0, open_most=3.0))
    assert not breaker.failed(1, 0.0)
    assert breaker.failed(2, 0.0)
    assert not breaker.permits(0.9)
    assert breaker.permits(1.0)
    breaker.sent(3)
    assert not breaker.permits(1.0)  # one at a time
    breaker.left(3)
    assert breaker.permits(1.0)  # its client left: another may decide
    breaker.sent(4)
    assert not breaker.succeeded(1)  # of before it opened
    assert breaker.failed(4, 1.0)
    assert not breaker.permits(2.9)
    assert breaker.permits(3.0)  # twice as long
    breaker.sent(5)
    assert breaker.succeeded(5)
    assert breaker.state == "closed"
    assert not breaker.failed(6, 4.0)


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker(BreakerSettings(failures=2))
    for request in range(10):
        assert not breaker.failed(request, 0.0)
        breaker.succeeded(request)
    assert breaker.state == "closed"


def test_a_long_prefill_is_not_taken_for_a_failure(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub(tokens=60, pause=0.02)
        async with routed(tmp_path, [stub]) as setup:
            backend = setup.running.router.fleet.backends["a"]
            stub.health_hangs = True  # its loop is busy, but tokens still come
            async with chat(setup, STREAM) as answer:
                await answer.read()
            assert backend.up
            await until(lambda: not backend.up)  # and now it has been silent for long enough
            assert setup.log.of("backend down")[0]["because"].startswith("no answer")

    asyncio.run(run())


def test_down_and_up_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub(), Stub()]) as setup:
            backend = setup.running.router.fleet.backends["a"]
            await setup.stubs[0].stop()
            await until(lambda: not backend.up)
            for _ in range(6):
                async with chat(setup) as answer:
                    assert answer.status == 200
            setup.stubs[1].health_status = 500
            await until(lambda: not setup.running.router.ready)
            async with setup.client.get(setup.url + "/ready") as answer:
                assert answer.status == 503
            async with chat(setup) as answer:
                assert answer.status == 503
                assert (await answer.json())["error"]["code"] == "no_backend"
                assert int(answer.headers["Retry-After"]) >= 1
            await setup.stubs[0].start()
            await until(lambda: backend.up)
            async with chat(setup) as answer:
                assert answer.status == 200

    asyncio.run(run())


def test_the_breaker_spares_a_backend_whose_health_check_lies(tmp_path: Path) -> None:
    async def run() -> None:
        bad = Stub(status=503)
        breaker = {"failures": 3, "open": 0.3, "open_most": 0.3}
        async with routed(tmp_path, [bad, Stub()], breaker=breaker, retry={"budget": 1.0}) as setup:
            for _ in range(30):
                async with chat(setup) as answer:
                    assert answer.status == 200
            assert len(bad.seen) <= 4
            assert setup.log.of("breaker open")
            bad.status = 200
            await asyncio.sleep(0.35)
            for _ in range(6):
                async with chat(setup) as answer:
                    assert answer.status == 200
            assert setup.log.of("breaker closed")
            assert setup.running.router.fleet.backends["a"].state(setup.running.router.clock()) == "up"

    asyncio.run(run())


def test_slow_start_gives_a_share_of_what_the_busiest_has() -> None:
    written = msgspec.convert({"slow_start_seconds": 10.0}, Document)
    backend = Backend(0, BackendSettings("http://h:1", name="h"), written, Path())
    backend.warm_since = 100.0
    assert [backend.limit(now, 19) for now in (100.0, 102.5, 105.0)] == [1, 5, 10]
    assert backend.limit(110.0, 19) > 1000
    assert backend.warm_since is None


def test_who_joins_late_is_not_paid_back_its_turns(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub()], policy={"place": "round_robin"}) as setup:
            for _ in range(20):
                async with chat(setup) as answer:
                    await answer.read()
            late = Stub()
            await late.start()
            backends = yaml.safe_load(setup.config.read_text())["backends"]
            setup.write({"backends": [*backends, {"name": "late", "url": late.url}]})
            setup.running.reload()
            await until(lambda: setup.running.router.fleet.backends["late"].up)
            for _ in range(10):
                async with chat(setup) as answer:
                    await answer.read()
            assert len(late.seen) == 5
            await late.stop()

    asyncio.run(run())


def test_weights_are_shares_of_turns(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub(), Stub()], policy={"place": "round_robin"}) as setup:
            backends = yaml.safe_load(setup.config.read_text())["backends"]
            backends[0]["weight"] = 3.0
            setup.write({"backends": backends})
            setup.running.reload()
            for _ in range(40):
                async with chat(setup) as answer:
                    await answer.read()
            assert [len(stub.seen) for stub in setup.stubs] == [30, 10]

    asyncio.run(run())


def test_reload_drops_no_stream_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub(tokens=20, pause=0.02), Stub(tokens=20, pause=0.02)]) as setup:
            stream = asyncio.create_task(_read(setup))
            await until(lambda: setup.running.router.fleet.outstanding == 1)
            backends = yaml.safe_load(setup.config.read_text())["backends"]
            used = next(iter(each.name for each in setup.running.router.fleet.backends.values() if each.outstanding))
            setup.write({"backends": [each for each in backends if each["name"] != used]})
            setup.running.reload()
            assert list(setup.running.router.fleet.backends) == [each for each in "ab" if each != used]
            assert (await stream).endswith(b"data: [DONE]\n\n")
            await until(lambda: not setup.running.router.fleet.leaving)
            policy = setup.running.router.decisions
            for bad in (
                {"polcy": {}},
                {"policy": {"place": "least_outstandin"}},
                {"backends": []},
                {"listen": "127.0.0.1:1"},
            ):
                before = setup.config.read_text()
                setup.write(bad)
                setup.running.try_reload()
                assert len(setup.log.of("configuration not loaded, the old one stays")[-1]["because"].splitlines()) == 1
                setup.config.write_text(before)
            assert len(setup.log.of("configuration not loaded, the old one stays")) == 4
            assert setup.running.router.decisions is policy
            async with chat(setup) as answer:
                assert answer.status == 200

    asyncio.run(run())


async def _read(setup: Any) -> bytes:
    async with chat(setup, STREAM) as answer:
        return bytes(await answer.read())


def test_the_watched_file_is_followed(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub()
        await stub.start()
        listed = tmp_path / "backends.yaml"
        listed.write_text(yaml.safe_dump({"backends": []}))
        async with routed(tmp_path, [], backends_file="backends.yaml") as setup:
            async with chat(setup) as answer:
                assert answer.status == 503
            listed.write_text("backends: [{urk: x}]")
            await until(lambda: setup.log.of("list of backends not loaded, the old one stays"))
            listed.write_text(yaml.safe_dump({"backends": [{"url": stub.url}]}))
            await until(lambda: setup.running.router.ready)
            async with chat(setup) as answer:
                assert answer.status == 200
        await stub.stop()

    asyncio.run(run())


def test_every_address_of_a_name_is_a_backend(tmp_path: Path) -> None:
    async def run() -> None:
        stub = Stub()
        await stub.start()
        dns = {"name": "localhost", "port": stub.port, "backend": {"max_outstanding": 7}}
        async with routed(tmp_path, [], backends_dns=dns) as setup:
            await until(lambda: setup.running.router.ready)
            names = list(setup.running.router.fleet.backends)
            assert f"127.0.0.1:{stub.port}" in names
            assert setup.running.router.fleet.backends[f"127.0.0.1:{stub.port}"].settings.max_outstanding == 7
            async with chat(setup) as answer:
                assert answer.status == 200
        await stub.stop()

    asyncio.run(run())


def test_draining_finishes_what_is_on_its_way(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub(tokens=20, pause=0.02)], each={"max_outstanding": 1}) as setup:
            stream = asyncio.create_task(_read(setup))
            await until(lambda: setup.running.router.fleet.outstanding == 1)
            waiting = asyncio.create_task(_status(setup))
            await until(lambda: len(setup.running.router.line) == 1)
            draining = asyncio.create_task(setup.running.drain())
            assert await waiting == 503
            assert (await stream).endswith(b"data: [DONE]\n\n")
            await draining
            assert setup.running.over.is_set()
            assert not setup.running.router.ready

    asyncio.run(run())


async def _status(setup: Any) -> int:
    async with chat(setup) as answer:
        await answer.read()
        return int(answer.status)


def test_models_are_as_the_engine_says_or_as_configured(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub(models=("x", "y"))], each={"models": ["y"]}) as setup:
            async with chat(setup, {**CHAT, "model": "x"}) as answer:
                assert answer.status == 404
            async with chat(setup, {**CHAT, "model": "y"}) as answer:
                assert answer.status == 200

    asyncio.run(run())


def test_the_backends_key_replaces_the_clients(tmp_path: Path) -> None:
    async def run() -> None:
        (tmp_path / "key").write_text("sk-backend\n")
        async with routed(tmp_path, [Stub()], each={"api_key_file": "key"}) as setup:
            async with chat(setup, headers={"Authorization": "Bearer sk-client"}) as answer:
                assert answer.status == 200
            assert setup.stubs[0].seen[0]["headers"].getall("Authorization") == ["Bearer sk-backend"]
        async with routed(tmp_path, [Stub()]) as setup:
            async with chat(setup, headers={"Authorization": "Bearer sk-client"}) as answer:
                assert answer.status == 200
            assert setup.stubs[0].seen[0]["headers"].getall("Authorization") == ["Bearer sk-client"]

    asyncio.run(run())


def test_accounts_return_to_zero_after_a_storm(tmp_path: Path) -> None:
    """Random misbehaviour of engines and clients: each request ends once, and nothing is left in any account."""

    async def one(setup: Any, number: int) -> str:
        timeout = 0.05 if number % 7 == 0 else 10
        try:
            async with asyncio.timeout(timeout):
                async with chat(setup, STREAM if number % 2 else CHAT) as answer:
                    body = await answer.read()
        except TimeoutError:
            return "left"
        if answer.status != 200:
            json.loads(body)["error"]
            return "error"
        if not number % 2:
            return "whole" if json.loads(body)["usage"] else ""
        last = body.split(b"\n\n")[-2]
        if last == b"data: [DONE]":
            return "whole"
        json.loads(last.removeprefix(b"data: "))["error"]
        return "error"

    async def run() -> None:
        stubs = [
            Stub(pause=0.005),
            Stub(pause=0.005, cut_after=2),
            Stub(pause=0.01, close_at_once=True),
            Stub(status=500),
        ]
        settings = {"breaker": {"failures": 3, "open": 0.05}, "timeouts": {"first_byte": 0.3, "idle": 0.3}}
        async with routed(tmp_path, stubs, each={"max_outstanding": 8}, **settings) as setup:

            async def trouble() -> None:
                for number in range(15):
                    await asyncio.sleep(0.03)
                    stubs[number % 4].hang = number % 3 == 0
                    if number % 5 == 0:
                        setup.running.reload()
                for stub in stubs:
                    stub.hang = False

            ends = asyncio.gather(*(one(setup, number) for number in range(200)))
            storm = asyncio.create_task(trouble())
            await asyncio.wait([storm])
            found = await ends
            assert set(found) <= {"whole", "error", "left"}
            assert found.count("whole") > 0
            router = setup.running.router
            await until(lambda: router.fleet.outstanding == 0 and not len(router.line))
            assert all(tenant.active == 0 for tenant in router.tenants.all)
            assert sum(router.meters.outcomes.values()) == sum(tenant.requests for tenant in router.tenants.all)

    asyncio.run(run())
