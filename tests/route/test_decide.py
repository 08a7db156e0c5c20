"""The router's decisions are the simulator's: the same classes, the same columns, the same ties."""

import asyncio
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from rota.kernel.errors import InputError
from rota.route.backend import Backend
from rota.route.beliefs import LengthHistory, PrefixIndex, Sessions
from rota.route.decide import Decisions, Situation, build, columns
from rota.route.job import Job
from rota.route.settings import BackendSettings, Document, Lengths, TenantSettings
from rota.route.settings import Policy as PolicySettings
from rota.route.tenants import Tenant
from rota.rules import ORDERS, PLACES
from rota.worlds.serving.columns import SERVING_HOST_COLUMNS, SERVING_JOB_COLUMNS
from rota.worlds.serving.policies import ROUTES, SERVING_ORDERS
from rota.worlds.serving.world import Serving
from tests.route.stub import Stub, routed, until
from tests.route.test_proxy import CHAT, STREAM, chat

WRITTEN = Document()
USER = '''
from dataclasses import dataclass
import numpy as np
from rota.kernel.decisions import Place

@dataclass
class Fussy(Place):
    """Answers as it is told to."""
    how: str = "nan"
    reads = ("outstanding",)
    def costs(self, jobs, hosts, now):
        if self.how == "raise":
            raise RuntimeError("no idea")
        if self.how == "exit":
            raise SystemExit(3)
        if self.how == "none":
            return None
        if self.how == "text":
            return np.array(["a"] * len(hosts))
        if self.how == "shape":
            return np.zeros(len(hosts) + 1)
        if self.how == "inf":
            return np.full(len(hosts), np.inf)
        return np.full(len(hosts), np.nan)

@dataclass
class Greedy(Place):
    """Reads what no router has."""
    reads = ("temperature",)
'''


def backends(count: int, **options: Any) -> list[Backend]:
    made = [
        Backend(k, BackendSettings(f"http://h:{k + 1}", name=f"h{k}", **options), WRITTEN, Path()) for k in range(count)
    ]
    for each in made:
        each.up = True
    return made


def job(id: int, **known: Any) -> Job:
    tenant = Tenant(0, TenantSettings("t"))
    return Job(
        **{
            "id": id,
            "release": 0.0,
            "wall": 0.0,
            "tenant": tenant,
            "model": "m",
            "path": "",
            "stream": True,
            "generates": True,
            **known,
        }
    )


def decisions(
    place: Any = "least_outstanding", hold: Any = "fcfs", folder: Path = Path()
) -> tuple[Decisions, list[str]]:
    said: list[str] = []
    situation = Situation(PrefixIndex(100))
    return Decisions(PolicySettings(place, hold), WRITTEN, folder, situation, said.append), said


SIMULATED = ("lora_affinity", "adapter_first", "resident_first", "carrot", "best_model", "mode_switch", "own_class")
SIMULATED_COLUMNS = {
    *("adapter_here", "adapter_active", "adapter_waiting", "adapters_active", "adapters_waiting", "adapter_slots"),
    *("resident", "quality", "dollars", "price", "held", "prefill_rate", "slo_class", "first_due"),
}
LIVE = [name for name in {**PLACES, **ROUTES} if name not in SIMULATED]


@pytest.mark.parametrize("name", SIMULATED)
def test_a_place_that_reads_what_only_a_simulation_knows_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="which a router does not have"):
        build(PolicySettings(place=name), Path())


@pytest.mark.parametrize("name", LIVE)
def test_a_place_is_the_class_that_the_world_runs(name: str) -> None:
    place, _ = build(PolicySettings(place=name), Path())
    assert (
        type(place) is type(Serving()._roles({"name": "p", "route": name}, Path()).route) is {**PLACES, **ROUTES}[name]
    )


def test_a_headroom_for_urgent_requests_is_refused() -> None:
    """Which requests run, and how urgent the least urgent ones are, only a simulation knows."""
    build(PolicySettings(place={"freest": {}}), Path())
    with pytest.raises(InputError, match="'urgent_running', which a router does not have"):
        build(PolicySettings(place={"freest": {"headroom": 4000}}), Path())


def test_freest_counts_the_first_of_the_line() -> None:
    """Two requests wait at the first backend, by the router's own account: of 640 and 6,400 tokens, ten blocks of 64 for the first. Six others run there."""
    from rota.route.decide import _head_blocks

    [host] = backends(1)
    assert _head_blocks(host, 0.0, 64) == 0.0
    for number, (tokens, first_byte) in enumerate([*[(64.0, 1.0)] * 6, (640.0, math.nan), (6400.0, math.nan)]):
        each = job(number, prompt_tokens=tokens)
        each.first_byte = first_byte
        host.start(each, 0.0)
    assert host.queued(2.0) == 2
    assert _head_blocks(host, 2.0, 64) == 10.0


ENGINE_ONLY = ("dlpm", "prefix_groups")  # they read what only an engine knows of prompts
ENGINE_COLUMNS = {"cached_tokens", "prefix_group", "group_tokens", "tool", "context_tokens", "reload_seconds"}


@pytest.mark.parametrize("name", ENGINE_ONLY)
def test_an_order_that_reads_what_a_router_does_not_have_says_so(name: str) -> None:
    with pytest.raises(InputError, match="which a router does not have"):
        build(PolicySettings(hold=name), Path())


@pytest.mark.parametrize("name", [name for name in {**ORDERS, **SERVING_ORDERS} if name not in ENGINE_ONLY])
def test_an_order_is_the_class_that_the_world_runs(name: str) -> None:
    _, hold = build(PolicySettings(hold=name), Path())
    assert (
        type(hold)
        is type(Serving()._roles({"name": "p", "hold": name}, Path()).hold)
        is {**ORDERS, **SERVING_ORDERS}[name]
    )


def test_a_file_of_the_user_is_one_class_in_both(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER)
    place, _ = build(PolicySettings(place={"mine:Fussy": {"how": "inf"}}), tmp_path)
    assert type(place) is type(Serving()._roles({"name": "p", "route": "mine:Fussy"}, tmp_path).route)


def test_power_of_two_draws_the_hosts_that_the_world_draws() -> None:
    """The same seed gives the same generator, so job by job the same hosts are looked at."""
    from rota.kernel.streams import generator
    from rota.kernel.tables import Hosts, Jobs

    made = Serving()._roles({"name": "p", "route": "power_of_two"}, Path()).route
    made.bind(generator(0, "policy/route"))
    live, _ = decisions("power_of_two")
    fleet = backends(6)
    for number in range(50):
        drawn = made.sample(Jobs({"id": np.array([number])}), Hosts({"id": np.arange(6)}))
        assert drawn is not None
        costs = live.choose(job(number), fleet, 0.0).costs
        assert {name for name, cost in costs.items() if cost < math.inf} == {f"h{k}" for k in drawn[0]}


def test_every_column_of_the_world_exists_live() -> None:
    from rota.kernel.tables import HOST_COLUMNS, JOB_COLUMNS
    from rota.route.decide import _HOST_VALUES, _JOB_VALUES

    hidden = SIMULATED_COLUMNS | ENGINE_COLUMNS | {"urgent", "urgent_running"}
    assert {*HOST_COLUMNS, *SERVING_HOST_COLUMNS} - hidden <= set(_HOST_VALUES)
    assert {*JOB_COLUMNS, *SERVING_JOB_COLUMNS} - hidden <= set(_JOB_VALUES)
    known = columns(WRITTEN)
    assert known[1]["outstanding"].quality == "exact"
    assert known[1]["queued"].quality == "stale"
    assert known[1]["queued"].as_of == WRITTEN.scrape.stale
    assert known[0]["size"].quality == "estimated"


@pytest.mark.parametrize("name", LIVE)
def test_every_place_decides_live(name: str) -> None:
    live, said = decisions(name)
    fleet = backends(3)
    for number in range(6):
        choice = live.choose(job(number), fleet, float(number))
        assert choice.backend is not None
        choice.backend.start(job(number), float(number))
    assert said == []
    assert live.fallbacks == 0


@pytest.mark.parametrize("name", [name for name in {**ORDERS, **SERVING_ORDERS} if name not in ENGINE_ONLY])
def test_every_order_decides_live(name: str) -> None:
    live, said = decisions(hold=name)
    waiting = [job(number) for number in range(4)]
    for each in waiting:
        live.tell("on_arrival", each.id, 0.0)
    assert set(live.order(waiting, 1.0)) == set(waiting)
    live.tell("on_start", 0, 0, 1.0)
    live.tell("on_finish", 0, 0, 2.0)
    assert set(live.order(waiting[1:], 3.0)) == set(waiting[1:])
    assert said == []
    assert live.fallbacks == 0


def test_what_is_left_of_a_session_is_learned_from_those_that_went_quiet() -> None:
    """Two sessions of 100 and 300 tokens are over after ten quiet minutes: 200 are expected of a new one, 300 - 150 of one that had 150 in two calls, and
    one more call like the others of one that is longer than any.
    """
    sessions = Sessions()
    for number, tokens in ((1, 100.0), (2, 300.0)):
        sessions.of(number, 0.0).ended(0.0, 1.0, tokens)
    assert sessions.of(3, 500.0).left == 0.0  # nobody is over
    third = sessions.of(3, 601.0)
    assert third.left == 200.0
    third.ended(0.0, 1.0, 50.0)
    third.ended(0.0, 1.0, 100.0)
    assert third.left == 150.0
    third.ended(0.0, 1.0, 450.0)
    assert third.left == 200.0
    assert sessions.of(-1, 602.0).left == 200.0


def test_requests_of_a_session_are_a_program() -> None:
    sessions = Sessions(room=2)
    first = sessions.of(7, 1.0)
    assert sessions.of(7, 5.0) is first
    assert first.release == 1.0
    first.ended(0.0, 2.0, 10.0)  # two that came at the same time, then one that waited for both
    first.ended(0.0, 3.0, 10.0)
    first.ended(first.path, 1.0, 10.0)
    assert (first.attained, first.path) == (6.0, 4.0)
    assert sessions.of(-1, 5.0) is not sessions.of(-1, 5.0)
    sessions.of(8, 6.0), sessions.of(9, 6.0)
    assert sessions.of(7, 7.0).release == 7.0  # forgotten, the oldest

    live, _ = decisions(hold="plas")
    busy, fresh = job(1), job(2)
    busy.program.attained = 100.0
    assert live.order([busy, fresh], 0.0) == [fresh, busy]


def test_ties_go_to_the_fewest_decisions_then_the_id() -> None:
    live, _ = decisions()
    fleet = backends(3)
    names = []
    for number in range(7):
        choice = live.choose(job(number), fleet, 0.0)
        assert choice.backend is not None
        choice.backend.start(job(number), 0.0)
        names.append(choice.backend.name)
        choice.backend.end(next(iter(choice.backend.outstanding.values())), 0.0)
    assert names == ["h0", "h1", "h2", "h0", "h1", "h2", "h0"]


def test_counts_are_exact_and_immediate() -> None:
    live, _ = decisions()
    fleet = backends(2, max_outstanding=2)
    sent = [job(number) for number in range(4)]
    for each in sent:
        choice = live.choose(each, fleet, 0.0)
        assert choice.backend is not None
        choice.backend.start(each, 0.0)
    assert [len(each.outstanding) for each in fleet] == [2, 2]
    assert live.choose(job(9), fleet, 0.0).backend is None  # all are full
    fleet[1].end(sent[1], 1.0)
    assert live.choose(job(9), fleet, 1.0).backend is fleet[1]


def test_least_work_knows_sizes_and_progress() -> None:
    live, _ = decisions("least_work")
    fleet = backends(2, prefill_seconds=0.001, decode_seconds=0.01)
    fleet[0].start(job(1, prompt_tokens=1000.0, output_tokens=10.0), 0.0)
    long = job(2, prompt_tokens=10.0, output_tokens=500.0)
    fleet[1].start(long, 0.0)
    assert live.choose(job(3), fleet, 0.0).costs == {"h0": pytest.approx(1.1), "h1": pytest.approx(5.01)}
    long.first_byte, long.generated = 1.0, 450
    assert live.choose(job(3), fleet, 0.0).costs["h1"] == pytest.approx(0.5)


def test_rates_are_learned_from_the_time_that_work_took() -> None:
    """An engine that is never idle learns the same as one that is idle between requests."""
    learned = []
    for overlap in (0.0, 0.5):
        [host] = backends(1)
        now = 0.0
        for number in range(200):
            each = job(number, prompt_tokens=1000.0, first_byte=0.0, counted_output=100)
            host.start(each, now)
            if overlap:
                host.start(job(-1 - number), now + 0.1)
            host.end(each, now + 0.28)  # twice what the first belief says
            now += 0.28
        learned.append(host.rates())
    assert learned[0] == pytest.approx(learned[1], rel=1e-6)
    assert learned[0] == pytest.approx((2e-4, 8e-4))


@pytest.mark.parametrize("how", ["nan", "raise", "shape", "exit", "none", "text"])
def test_a_policy_that_fails_is_replaced_for_that_decision(how: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER)
    live, said = decisions({"mine:Fussy": {"how": how}}, folder=tmp_path)
    fleet = backends(2)
    fleet[0].start(job(1), 0.0)
    choice = live.choose(job(2), fleet, 0.0)
    assert choice.backend is fleet[1]
    assert (live.fallbacks, live.asked) == (1, 1)
    assert "fallback" in choice.by
    assert len(said) == 1
    assert len(said[0].splitlines()) == 1


def test_a_policy_may_let_everybody_wait(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER)
    live, _ = decisions({"mine:Fussy": {"how": "inf"}}, folder=tmp_path)
    assert live.choose(job(1), backends(2), 0.0).backend is None
    assert live.fallbacks == 0


def test_a_column_that_a_router_has_not_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER)
    with pytest.raises(InputError, match="temperature"):
        build(PolicySettings(place="mine:Greedy"), tmp_path)


def test_order_of_the_line() -> None:
    live, _ = decisions(hold="edf")
    waiting = [job(1, release=0.0), job(2, release=1.0, e2e_limit=5.0), job(3, release=2.0, ttft_limit=1.0)]
    assert [each.id for each in live.order(waiting, 3.0)] == [3, 2, 1]
    live, _ = decisions(hold="sjf")
    waiting = [job(1, output_tokens=100.0), job(2, output_tokens=5.0), job(3, output_tokens=50.0)]
    assert [each.id for each in live.order(waiting, 3.0)] == [2, 3, 1]


def test_stale_figures_are_not_used() -> None:
    from rota.route.reported import Reported

    [host] = backends(1)
    for number in range(4):
        host.start(job(number), 0.0)
    host.reported = Reported(at=10.0, running=3, waiting=1, kv_use=0.5)
    assert host.queued(12.0) == 1
    assert host.queued(10.0 + WRITTEN.scrape.stale + 0.1) == 4  # nobody has a first byte yet


def test_lengths_are_learned_a_model_and_tenant() -> None:
    history = LengthHistory(Lengths(bytes_per_token=4.0, output_tokens=100, history=2))
    assert history.prompt_tokens("m", 400) == 100
    assert history.output_tokens("m", "t", 10) == 10
    for output in (1, 20, 40):
        history.counted("m", "t", 300, 100, output)
    assert history.output_tokens("m", "t", None) == 30  # of the last two
    assert history.output_tokens("m", "other", None) == 30  # of anyone
    assert history.output_tokens("n", "t", None) == 100
    assert history.prompt_tokens("m", 300) == pytest.approx(100)


def test_the_prefix_index_forgets_the_end_first() -> None:
    index = PrefixIndex(room=4)
    index.sent(0, (1, 2, 3))
    assert index.match(0, (1, 2, 9)) == 2
    assert index.match(1, (1, 2, 3)) == 0
    index.sent(0, (7, 8))
    assert index.match(0, (1, 2, 3)) == 2
    assert index.match(0, (7, 8)) == 2
    index.forget(0)
    assert index.match(0, (7, 8)) == 0


def test_full_backends_make_a_line_and_a_full_line_sheds(tmp_path: Path) -> None:
    async def run() -> None:
        gate = asyncio.Event()
        stub = Stub(tokens=4, gate=gate)
        async with routed(tmp_path, [stub], each={"max_outstanding": 2}, line={"room": 3, "seconds": 30}) as setup:

            async def one() -> tuple[int, str | None]:
                async with chat(setup, STREAM) as answer:
                    await answer.read()
                    return answer.status, answer.headers.get("Retry-After")

            asking = asyncio.gather(*(one() for _ in range(8)))
            await until(lambda: setup.running.router.line.shed == 3)
            gate.set()
            found = await asking
            assert sorted(status for status, _ in found) == [200] * 5 + [429] * 3
            assert all(retry is not None and int(retry) >= 1 for status, retry in found if status == 429)
            assert setup.running.router.line.shed == 3
            stub.hang = True
            setup.write({"line": {"room": 3, "seconds": 0.1}, "timeouts": {"first_byte": 0.6}})
            setup.running.reload()
            assert sorted(status for status, _ in await asyncio.gather(*(one() for _ in range(3)))) == [429, 504, 504]

    asyncio.run(run())


def test_the_line_is_served_in_the_order_of_the_hold_policy(tmp_path: Path) -> None:
    async def run() -> None:
        gate = asyncio.Event()
        stub = Stub(tokens=1, gate=gate)
        async with routed(tmp_path, [stub], each={"max_outstanding": 1}, policy={"hold": "priority"}) as setup:
            line = setup.running.router.line

            async def one(priority: int) -> None:
                async with chat(
                    setup, {**CHAT, "user": str(priority)}, headers={"x-priority": str(priority)}
                ) as answer:
                    assert answer.status == 200

            tasks = []
            for number, priority in enumerate((0, 5, 9, 1)):
                tasks.append(asyncio.create_task(one(priority)))
                await until(lambda number=number: len(line) + setup.running.router.fleet.outstanding == number + 1)
            gate.set()
            await asyncio.gather(*tasks)
            order = [msgspec.json.decode(each["body"])["user"] for each in stub.seen]
            assert order == ["0", "1", "5", "9"]

    asyncio.run(run())


def test_a_full_line_sheds_the_last_of_its_order(tmp_path: Path) -> None:
    async def run() -> None:
        gate = asyncio.Event()
        stub = Stub(tokens=1, gate=gate)
        settings = {"each": {"max_outstanding": 1}, "policy": {"hold": "priority"}, "line": {"room": 1}}
        async with routed(tmp_path, [stub], **settings) as setup:
            line = setup.running.router.line

            async def one(priority: int) -> int:
                async with chat(setup, headers={"x-priority": str(priority)}) as answer:
                    return int(answer.status)

            first = asyncio.create_task(one(0))
            await until(lambda: setup.running.router.fleet.outstanding == 1)
            patient = asyncio.create_task(one(9))
            await until(lambda: len(line) == 1)
            urgent = asyncio.create_task(one(1))
            assert await patient == 429
            gate.set()
            assert await urgent == 200
            assert await first == 200

    asyncio.run(run())


def test_hooks_hear_of_every_request(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass, field\nfrom rota.rules.balance import LeastOutstanding\n"
        "@dataclass\nclass Ears(LeastOutstanding):\n    heard: list = field(default_factory=list)\n"
        + "".join(
            f"    def {name}(self, *what): self.heard.append(('{name}', what))\n"
            for name in ("on_arrival", "on_start", "on_progress", "on_finish", "on_leave", "on_host")
        )
    )

    async def run() -> None:
        async with routed(tmp_path, [Stub(), Stub()], policy={"place": "mine:Ears"}) as setup:
            for _ in range(2):
                async with chat(setup, STREAM) as answer:
                    await answer.read()
            setup.stubs[0].status = setup.stubs[1].status = 400
            async with chat(setup) as answer:
                await answer.read()
            heard = setup.running.router.decisions.place.heard  # type: ignore[attr-defined]
            names = [name for name, _ in heard if name != "on_host"]
            assert names.count("on_arrival") == names.count("on_start") == 3
            assert (names.count("on_finish"), names.count("on_leave")) == (2, 1)
            progress = [what for name, what in heard if name == "on_progress"]
            assert progress
            assert float(progress[0][1].sum()) == 5  # told before the next question

    asyncio.run(run())
