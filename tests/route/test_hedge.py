"""Hedging: the second try begins when it should, the faster one serves, and every account is right afterwards."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.route.stub import Stub, event, routed, until
from tests.route.test_proxy import CHAT, STREAM, chat

HEDGE = {"after": 0.1, "budget": 1.0}


def at_zero(setup: Any) -> None:
    router = setup.running.router
    assert router.outstanding == 0
    assert all(tenant.active == 0 for tenant in router.tenants.all)


def test_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub(pause=0.1), Stub()], policy={"place": "round_robin"}) as setup:
            async with chat(setup) as answer:
                assert answer.status == 200
            assert [len(stub.seen) for stub in setup.stubs] == [1, 0]
            assert setup.running.router.hedges == 0

    asyncio.run(run())


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
def test_the_faster_one_serves_and_the_other_is_aborted(body: dict[str, Any], tmp_path: Path) -> None:
    async def run() -> None:
        slow, fast = Stub(hang=True), Stub()
        async with routed(tmp_path, [slow, fast], policy={"place": "round_robin"}, hedge=HEDGE) as setup:
            async with chat(setup, body) as answer:
                assert answer.status == 200
                said = await answer.read()
            if body is STREAM:
                assert said == b"".join(event(STREAM, k) for k in range(5)) + b"data: [DONE]\n\n"
            await until(lambda: slow.left == 1)
            assert (fast.finished, slow.finished) == (1, 0)
            router = setup.running.router
            assert (router.hedges, router.hedges_won, router.retries) == (1, 1, 0)
            backends = router.fleet.backends
            assert (backends["a"].finished, backends["b"].finished) == (0, 1)
            assert (backends["a"].sent, backends["b"].sent) == (1, 1)
            assert backends["a"].failed == 0  # slow is not broken
            at_zero(setup)

    asyncio.run(run())


def test_the_first_one_may_still_win(tmp_path: Path) -> None:
    async def run() -> None:
        gate = asyncio.Event()
        stubs = [Stub(gate=gate), Stub(hang=True)]
        async with routed(tmp_path, stubs, policy={"place": "round_robin"}, hedge=HEDGE) as setup:
            task = asyncio.create_task(whole(setup))
            await until(lambda: stubs[1].running == 1)
            gate.set()
            assert await task == 200
            await until(lambda: stubs[1].left == 1)
            router = setup.running.router
            assert (router.hedges, router.hedges_won) == (1, 0)
            assert router.fleet.backends["a"].finished == 1
            at_zero(setup)

    asyncio.run(run())


def test_a_second_that_fails_does_not_spoil_the_first(tmp_path: Path) -> None:
    async def run() -> None:
        for number, bad in enumerate((Stub(status=503), Stub(close_at_once=True))):
            folder = tmp_path / str(number)
            folder.mkdir()
            gate = asyncio.Event()
            async with routed(folder, [Stub(gate=gate), bad], policy={"place": "round_robin"}, hedge=HEDGE) as setup:
                backends = setup.running.router.fleet.backends
                task = asyncio.create_task(whole(setup))
                await until(lambda backends=backends: backends["b"].failed == 1)
                gate.set()
                assert await task == 200
                assert (backends["a"].finished, backends["b"].failed) == (1, 1)
                at_zero(setup)

    asyncio.run(run())


def test_a_first_that_fails_leaves_it_to_the_second(tmp_path: Path) -> None:
    async def run() -> None:
        gate = asyncio.Event()
        stubs = [Stub(hang=True), Stub(gate=gate)]
        async with routed(tmp_path, stubs, policy={"place": "round_robin"}, hedge=HEDGE) as setup:
            backends = setup.running.router.fleet.backends
            task = asyncio.create_task(whole(setup))
            await until(lambda: stubs[1].running == 1)
            await stubs[0].stop()
            await until(lambda: backends["a"].failed == 1)
            gate.set()
            assert await task == 200
            assert (backends["b"].failed, backends["b"].finished) == (0, 1)
            assert setup.running.router.retries == 0
            at_zero(setup)

    asyncio.run(run())


async def whole(setup: Any) -> int:
    async with chat(setup) as answer:
        await answer.read()
        return int(answer.status)


def test_when_both_fail_there_is_one_error(tmp_path: Path) -> None:
    async def run() -> None:
        stubs = [Stub(hang=True), Stub(hang=True)]
        settings = {
            "hedge": HEDGE,
            "policy": {"place": "round_robin"},
            "timeouts": {"first_byte": 1.0},
            "retry": {"attempts": 1},
        }
        async with routed(tmp_path, stubs, **settings) as setup:
            assert await whole(setup) == 504
            backends = setup.running.router.fleet.backends
            assert [each.failed for each in backends.values()] == [1, 1]
            await until(lambda: all(stub.left == 1 for stub in stubs))
            at_zero(setup)

    asyncio.run(run())


def test_a_client_that_leaves_aborts_both(tmp_path: Path) -> None:
    async def run() -> None:
        stubs = [Stub(hang=True), Stub(hang=True)]
        async with routed(tmp_path, stubs, hedge=HEDGE) as setup:
            task = asyncio.create_task(whole(setup))
            await until(lambda: all(stub.running for stub in stubs))
            task.cancel()
            await until(lambda: all(stub.left == 1 for stub in stubs))
            await until(lambda: setup.running.router.outstanding == 0)
            at_zero(setup)

    asyncio.run(run())


def test_it_is_a_share_of_requests_and_only_where_there_is_room(tmp_path: Path) -> None:
    async def run() -> None:
        stubs = [Stub(tokens=1, pause=0.5) for _ in range(2)]
        async with routed(tmp_path, stubs, hedge={"after": 0.05, "budget": 0.0}) as setup:
            setup.running.router.hedge_budget.level = 2.0  # two are left
            for _ in range(4):
                assert await whole(setup) == 200
            assert setup.running.router.hedges == 2
        folder = tmp_path / "full"
        folder.mkdir()
        async with routed(folder, stubs, hedge=HEDGE, each={"max_outstanding": 1}) as setup:
            found = await asyncio.gather(whole(setup), whole(setup))
            assert found == [200, 200]
            assert setup.running.router.hedges == 0  # both backends are full

    asyncio.run(run())


def test_one_row_a_request_and_policies_hear_the_twin_leave(tmp_path: Path) -> None:
    (tmp_path / "heard.py").write_text(
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "from rota.kernel.decisions import Place\n"
        "HEARD = []\n"
        "@dataclass\n"
        "class Heard(Place):\n"
        "    reads = ('outstanding',)\n"
        "    def costs(self, jobs, hosts, now):\n"
        "        return np.array(hosts.outstanding, float)\n"
        "    def on_arrival(self, job, now):\n"
        "        HEARD.append(('arrival', job))\n"
        "    def on_start(self, job, host, now):\n"
        "        HEARD.append(('start', job, host))\n"
        "    def on_preempt(self, job, host, now):\n"
        "        HEARD.append(('preempt', job, host))\n"
        "    def on_finish(self, job, host, now):\n"
        "        HEARD.append(('finish', job, host))\n"
        "    def on_leave(self, job, why, now):\n"
        "        HEARD.append(('leave', job, why))\n"
    )

    async def run() -> Any:
        stubs = [Stub(hang=True), Stub()]
        settings = {"recording": {"folder": "recording"}, "policy": {"place": "heard:Heard"}}
        async with routed(tmp_path, stubs, hedge=HEDGE, **settings) as setup:
            assert await whole(setup) == 200
            place: Any = setup.running.router.decisions.place
            return list(place.costs.__globals__["HEARD"])

    heard = asyncio.run(run())
    assert heard == [
        ("arrival", 1), ("start", 1, 0),
        ("arrival", 2), ("start", 2, 1),
        ("preempt", 1, 0), ("start", 1, 1), ("leave", 2, "hedged"),
        ("finish", 1, 1),
    ]  # fmt: skip
    from rota.worlds.serving.recording import rows

    [row] = rows(tmp_path / "recording").to_dicts()
    assert (row["backend"], row["outcome"], row["attempts"]) == ("b", "complete", 2)
