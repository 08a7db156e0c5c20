"""Running requests that move: a case by hand, and nothing is lost whatever moves wherever and whoever goes down."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError, PolicyError
from rota.kernel.tables import Hosts
from rota.rules import ORDERS, PLACES
from rota.worlds.serving.fleet import Migrate, Outage, Plan
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.links import Link, Transfers
from rota.worlds.serving.policies.llumnix import Freest, PairsByFreeness
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.test_twin_fleet import Rows, replica, rows_of_requests, workload


class Scripted(Migrate):
    """Pairs in turn."""

    every, stop = 0.0625, 0.03125

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        self.script = list(pairs)
        self.asked = 0

    def pairs(self, hosts: Hosts, now: float) -> Sequence[tuple[int, int]]:
        turn = round(now / self.every) - 1
        return self.script[turn : turn + 1]


def simulate(
    rows: Rows, fleet: list[Replica], migrate: Migrate, link: Link, outages: Sequence[Any] = (), **more: Any
) -> Simulation:
    roles = Roles(ORDERS["fcfs"](), PLACES["least_outstanding"](), ORDERS["fcfs"](), migrate=migrate)
    run = Simulation(workload(rows), fleet, roles, plan=Plan(link, outages=outages), **more)
    run.run()
    return run


def moving(name: str = "vllm_v1", slower: float = 1.0, **settings: Any) -> Replica:
    return replica(name, slower, kv_bytes=16.0, **settings)


def test_a_request_stands_still_only_for_the_last_moment() -> None:
    """One request, 40 tokens: copied from 0.0625 s for 80 bytes at 1,024 a second, then 1/32 s of standing still; what the first host had begun is lost."""
    alone = simulate([(0, 4, 40, 0)], [moving(), moving()], Scripted([]), Link(1024.0, 0.0))
    moved = simulate([(0, 4, 40, 0)], [moving(), moving()], Scripted([(0, 1)]), Link(1024.0, 0.0))
    assert moved.fleet is not None
    assert moved.fleet.migrations == 1
    assert moved.jobs[at.HOST, 0] == 1
    later = moved.seconds[at.FINISH, 0] - alone.seconds[at.FINISH, 0]
    step = 0.0131  # an iteration of one decoder with all its tokens
    assert 0.03125 < later <= 0.03125 + step
    assert moved.jobs[at.PREEMPTIONS, 0] == moved.jobs[at.RESTARTS, 0] == 0


def test_no_room_no_migration() -> None:
    """The other host is full with a request of its own: the copy is thrown away, and nobody has lost anything."""
    rows = [(0, 4, 40, 0), (0, 8, 40, 0)]
    run = simulate(rows, [moving(), moving(max_running=1)], Scripted([(0, 1)] * 5), Link(1024.0, 0.0))
    still = simulate(rows, [moving(), moving(max_running=1)], Scripted([]), Link(1024.0, 0.0))
    assert run.fleet is not None
    assert run.fleet.migrations == 0
    assert run.fleet.moves >= 1
    assert run.seconds[at.FINISH].tolist() == still.seconds[at.FINISH].tolist()


pairs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)).filter(lambda pair: pair[0] != pair[1]), max_size=30)
away = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40), st.integers(1, 20)), max_size=4)


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "vllm_v1 ahead", "sarathi", "orca"])
@settings(deadline=None)
@given(rows=rows_of_requests, script=pairs, drawn=away)
def test_nothing_is_lost(name: str, caching: bool, rows: Rows, script: Any, drawn: Any) -> None:
    fleet = [
        moving(name, prefix_caching=caching),
        moving(name, 2.0, kv_blocks=9, prefix_caching=caching),
        moving(name, 0.5, prefix_caching=caching),
    ]
    lines: dict[int, list[Outage]] = {}
    for host, start, length in sorted(drawn, key=lambda each: each[1]):
        line = lines.setdefault(host, [])
        if not line or line[-1].end < start * 0.0625 + 0.0117:
            line.append(Outage(host, start * 0.0625 + 0.0117, (start + length) * 0.0625 + 0.0131))
    run = simulate(rows, fleet, Scripted(script), Link(4096.0, 0.001), [iter(line) for line in lines.values()])
    done = run.jobs[at.STATE] == at.FINISHED_STATE
    assert (done | (run.jobs[at.STATE] == at.REJECTED)).all()
    assert (run.jobs[at.GENERATED, done] <= run.jobs[at.OUTPUT, done]).all()
    assert (run.hosts[:, at.FREE] == run.hosts[:, at.KV_BLOCKS]).all()
    assert not run.hosts[
        :, [at.QUEUED_COUNT, at.RUNNING_COUNT, at.DECODES, at.CONTEXT_SUM, at.LANDINGS, at.PREFILL_COUNT]
    ].any()
    assert run.histogram[0].sum() == (run.jobs[at.OUTPUT, done] - 1).sum(), "every token but the first is counted once"
    assert not run.clocks[:, [at.WAITING_PROMPT, at.WAITING_ANSWER]].any()
    times = run.seconds[[at.ARRIVAL, at.DISPATCHED, at.SCHEDULED, at.FIRST_TOKEN, at.FINISH]][:, done]
    assert (np.diff(times, axis=0) >= 0).all()


def test_links_are_shared_fairly() -> None:
    """Two transfers out of one host have half the bandwidth each; when the first is through, the other one has all of it."""
    net = Transfers(Link(100.0, 0.0), 3)
    net.begin(7, 0, 1, 100.0, 0.0)
    net.begin(8, 0, 2, 200.0, 0.0)
    assert net.next() == 2.0
    assert net.through(2.0) == [7]
    assert net.next() == 3.0
    net.begin(9, 1, 2, 50.0, 2.5)  # into the same host: half each again
    assert net.next() == 3.5
    assert net.through(3.5) == [8, 9]


def test_freeness_by_hand() -> None:
    hosts = Hosts({"free_blocks": np.array([100, 40, 300]), "waiting_tokens": np.array([0.0, 320.0, 0.0]), "block_tokens": np.array([16] * 3),
                   "running": np.array([10, 5, 3]), "up": np.ones(3), "id": np.arange(3)})  # fmt: skip
    assert Freest().costs(None, hosts, 0.0).tolist() == [-10.0, -4.0, -100.0]  # type: ignore[arg-type]
    assert list(PairsByFreeness().pairs(hosts, 0.0)) == [(1, 2)]


def test_wrong_answers() -> None:
    with pytest.raises(PolicyError, match="ids of two hosts"):
        simulate([(0, 4, 9, 0)], [moving(), moving()], Scripted([(0, 5)]), Link())
    with pytest.raises(InputError, match="below <= above"):
        PairsByFreeness(below=9.0, above=1.0)
