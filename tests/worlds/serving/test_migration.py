"""Running requests that move: a case by hand, and nothing is lost whatever moves wherever and whoever goes down."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.errors import InputError, PolicyError
from rota.kernel.tables import Hosts
from rota.rules import ORDERS, PLACES
from rota.worlds.serving.fleet import Migrate, Outage, Plan, Scaler, Scaling
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.links import Link, Transfers
from rota.worlds.serving.policies.llumnix import PairsByFreeness
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.timing.linear import build as linear
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


BEAT = 1 / 64  # seconds of every iteration in the cases by hand


class Once(Migrate):
    """The first host gives to the second, a single time, after 4.5 iterations unless another time is given."""

    def __init__(
        self, last_blocks: int = 2, stages: int = 3, every: float = 4.5 * BEAT, stop: float = 1.5 * BEAT
    ) -> None:
        self.last_blocks, self.stages, self.every, self.stop, self.asked = last_blocks, stages, every, stop, 0

    def pairs(self, hosts: Hosts, now: float) -> Sequence[tuple[int, int]]:
        self.asked += 1
        return [(0, 1)] if self.asked == 1 else []


def even(**settings: Any) -> Replica:
    """A replica whose iterations all take a beat; blocks of 4 tokens, 16 bytes of KV a token."""
    shape = {"kv_blocks": 32, "kv_bytes": 16.0} | settings
    return replace(replica("vllm_v1", **shape), timing=linear({"constant": BEAT}))


def begin(
    rows: Rows, fleet: list[Replica], migrate: Migrate, link: Link, outages: Sequence[Any] = (), **more: Any
) -> Simulation:
    """A run that has not begun yet."""
    scale, scaling = more.get("scale"), more.get("scaling", Scaling())
    roles = Roles(ORDERS["fcfs"](), PLACES["least_outstanding"](), ORDERS["fcfs"](), migrate=migrate, scale=scale)
    return Simulation(workload(rows), fleet, roles, plan=Plan(link, outages=outages, scaling=scaling))


LINE = Link(2048.0, 0.0)
ONE = [(0, 16, 40, 0)]  # 16 tokens in KV and one out after the first beat, one more of both with each further one


def run_until(run: Simulation, beats: float) -> list[int]:
    """Free blocks of the hosts after so many beats."""
    run.run(beats * BEAT)
    return [int(free) for free in run.hosts[:, at.FREE]]


def test_two_stages_and_the_last_one_by_hand() -> None:
    """In beats. At 4.5 there are 19 tokens in 5 blocks: four go, 256 bytes, until 12.5; the other host has set 4 aside.

    At 12.5 there are 27 in 7: two more full ones go, until 16.5. Then there are 31 in 8, two blocks are left, which is few enough: the request leaves, without
    the half iteration that it is in, 7 tokens go until 20, and 1.5 later it goes on. It had 16 of its 40 tokens: the last one comes at 21.5 + 24.
    """
    run = begin(ONE, [even(), even()], Once(), LINE)
    fleet = run.fleet
    assert fleet is not None
    assert fleet.live is not None
    assert run_until(run, 4.6) == [27, 28]
    assert run_until(run, 12.6) == [25, 26]
    assert run_until(run, 16.6) == [24, 24], "its blocks stay at the first host until the second one has them"
    assert run.jobs[at.HOST, 0] == 1
    assert run_until(run, 21.4) == [24, 24]
    assert run_until(run, 21.6) == [32, 24]
    run.run()
    assert run.seconds[at.FINISH, 0] == 45.5 * BEAT
    assert (fleet.moves, fleet.migrations, fleet.live.given_up) == (1, 1, 0)
    assert fleet.moved_bytes == 31 * 16
    assert run.jobs[at.PREEMPTIONS, 0] == run.jobs[at.RESTARTS, 0] == 0
    assert run.hosts[:, at.FREE].tolist() == [32, 32]


def test_a_short_request_goes_in_one_stage() -> None:
    """As many blocks as may be left for the last copy: 19 tokens go while it stands still, 304 bytes in 9.5 beats, and 1.5 more."""
    run = begin(ONE, [even(), even()], Once(last_blocks=5), LINE)
    run.run()
    assert run.seconds[at.FINISH, 0] == (4.5 + 9.5 + 1.5 + 36) * BEAT


def test_too_many_stages() -> None:
    """After the second copy three stages would be needed in all, and two are allowed: it stays, and nothing is set aside any more."""
    run = begin(ONE, [even(), even()], Once(stages=2), LINE)
    assert run_until(run, 16.6)[1] == 32
    run.run()
    assert run.seconds[at.FINISH, 0] == 40 * BEAT
    assert run.fleet is not None
    assert run.fleet.live is not None
    assert (run.fleet.migrations, run.fleet.live.given_up, run.fleet.moved_bytes) == (0, 1, 24 * 16)


def test_no_room_gives_the_blocks_back() -> None:
    """The other host has 15 blocks and a request like ours. At 16.5 beats that holds 8, ours has 6 set aside and needs 8: refused, and 7 are free again."""
    run = begin(ONE * 2, [even(), even(kv_blocks=15)], Once(), LINE)
    assert run_until(run, 4.6)[1] == 15 - 5 - 4
    assert run_until(run, 12.6)[1] == 15 - 7 - 6
    assert run_until(run, 16.6)[1] == 15 - 8
    run.run()
    assert run.seconds[at.FINISH].tolist() == [40 * BEAT] * 2
    assert run.fleet is not None
    assert run.fleet.live is not None
    assert (run.fleet.moves, run.fleet.migrations, run.fleet.live.given_up) == (1, 0, 1)


def test_no_slot_no_migration() -> None:
    """The other host is full with a request of its own: it refuses at once, nothing is copied, and nobody has lost anything."""
    run = begin(ONE * 2, [even(), even(max_running=1)], Once(), LINE)
    run.run()
    assert run.seconds[at.FINISH].tolist() == [40 * BEAT] * 2
    assert run.fleet is not None
    assert run.fleet.live is not None
    assert (run.fleet.moves, run.fleet.moved_bytes, run.fleet.live.given_up) == (0, 0.0, 1)


def test_a_request_that_ends_while_it_is_copied() -> None:
    """It has all its ten tokens at 10 beats, in the first stage: then nothing is under way any more, and nothing set aside."""
    run = begin([(0, 16, 10, 0)], [even(), even()], Once(), LINE)
    assert run_until(run, 9.9) == [27 - 2, 28]
    run.run()
    assert run.seconds[at.FINISH, 0] == 10 * BEAT
    assert run.hosts[:, at.FREE].tolist() == [32, 32]
    assert run.fleet is not None
    assert run.fleet.live is not None
    assert not run.fleet.live.copies
    assert not run.fleet._transfers.active


def test_a_request_that_is_displaced_while_it_is_copied() -> None:
    """Two requests in 11 blocks, whose 15th tokens need a twelfth: the later one is displaced at 8 beats, and its copy is given up."""
    rows = [(0, 16, 20, 0), (0, 8, 20, 0)]
    run = begin(rows, [even(kv_blocks=11), even(role="decode")], Once(last_blocks=1), Link(512.0, 0.0))
    run.run()
    assert run.fleet is not None
    assert run.jobs[at.PREEMPTIONS].tolist() == [0, 1]
    assert run.fleet.live is not None
    assert (run.fleet.moves, run.fleet.migrations, run.fleet.live.given_up) == (1, 0, 1)
    assert run.hosts[:, at.FREE].tolist() == [11, 32]


def test_the_target_goes_down_in_a_stage() -> None:
    """Nothing happens to the request; the target has all its blocks when it is back."""
    run = begin(ONE, [even(), even()], Once(), LINE, [iter([Outage(1, 8.25 * BEAT, 9.25 * BEAT)])])
    assert run_until(run, 8.3) == [26, 32]
    run.run()
    assert run.seconds[at.FINISH, 0] == 40 * BEAT
    assert run.jobs[at.RESTARTS, 0] == 0
    assert run.fleet is not None
    assert run.fleet.live is not None
    assert (run.fleet.migrations, run.fleet.live.given_up) == (0, 1)


def test_the_source_goes_down_in_a_stage() -> None:
    """What was copied is not a whole prefix of its KV at a host that knows of it: the request is computed again, and the blocks are given back before."""
    run = begin(ONE, [even(), even()], Once(), LINE, [iter([Outage(0, 8.25 * BEAT, 99.25 * BEAT)])])
    assert run_until(run, 8.3)[1] == 32 - 4, "only those of the first 16 of its 24 tokens that are computed again"
    run.run()
    assert run.jobs[[at.RESTARTS, at.HOST], 0].tolist() == [1, 1]
    assert run.seconds[at.FINISH, 0] == (8.25 + 2 + 31) * BEAT, "two beats compute 24 tokens, and the first new one"


@pytest.mark.parametrize(("host", "hosts", "restarts", "goes_on"), [(0, 2, 1, 1), (1, 2, 1, 0), (1, 3, 0, 2)])
def test_a_host_goes_down_in_the_last_stage(host: int, hosts: int, restarts: int, goes_on: int) -> None:
    """At 18 beats the request stands still. Without the source its KV is lost; without the target that is still at the source, and a third host decodes it."""
    outage = iter([Outage(host, 18.25 * BEAT, 99.25 * BEAT)])
    run = begin(ONE, [even() for _ in range(hosts)], Once(), LINE, [outage])
    run.run()
    assert run.jobs[[at.RESTARTS, at.HOST], 0].tolist() == [restarts, goes_on]
    assert run.jobs[at.STATE, 0] == at.FINISHED_STATE
    if hosts == 3:  # 31 tokens in 15.5 beats, no stop, and 24 tokens
        assert run.seconds[at.FINISH, 0] == (18.25 + 15.5 + 24) * BEAT
    up = [k for k in range(hosts) if k != host]
    assert run.hosts[up, at.FREE].tolist() == [32] * len(up)


class OneLess(Scaler):
    """One replica, from the first question on."""

    every = 8.25 * BEAT

    def wanted(self, hosts: Hosts, now: float) -> float:
        return 1.0


def test_the_target_is_switched_off() -> None:
    """The autoscaler drains the host that has nothing to do: it has blocks set aside, gives them back, and is off at once."""
    run = begin(ONE, [even(), even()], Once(), LINE, scale=OneLess(), scaling=Scaling(1, 2, 2))
    assert run_until(run, 8.3) == [26, 32]
    assert run.fleet is not None
    assert list(run.fleet.power.since) == [0]
    run.run()
    assert run.seconds[at.FINISH, 0] == 40 * BEAT
    assert run.jobs[at.HOST, 0] == 0


def downtime(prompt: int, migrate: Migrate) -> float:
    fleet = [even(kv_blocks=512, context_limit=4096), even(kv_blocks=512, context_limit=4096)]
    runs = [begin([(0, prompt, 200, 0)], fleet, policy, Link(2.0**16, 0.0)) for policy in (migrate, Once(stages=0))]
    for run in runs:
        run.run()
    assert [run.fleet.migrations for run in runs if run.fleet] == [1, 0]
    return float(runs[0].seconds[at.FINISH, 0] - runs[1].seconds[at.FINISH, 0])


def test_a_long_request_stands_still_no_longer_than_a_short_one() -> None:
    """Sun et al., section 4.2 and figure 10: the time that a request stands still does not grow with its length. Copied at a stroke it does.

    1,024 tokens against 32, 16 bytes each. What an iteration has begun when it leaves is lost, so it may be up to a beat more.
    """
    when = 80.5 * BEAT  # both decode
    staged = [downtime(prompt, Once(every=when)) for prompt in (32, 1024)]
    most = 1.5 * BEAT + 8 * 16 / 2.0**16  # the stop, and two blocks
    assert all(1.5 * BEAT < seconds < BEAT + most for seconds in staged)
    stroke = [downtime(prompt, Once(last_blocks=10_000, every=when)) for prompt in (32, 1024)]
    assert stroke[1] - stroke[0] > 992 * 16 / 2.0**16 - BEAT
    assert stroke[1] > 6 * staged[1]


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


def test_wrong_answers() -> None:
    with pytest.raises(PolicyError, match="ids of two hosts"):
        simulate([(0, 4, 9, 0)], [moving(), moving()], Scripted([(0, 5)]), Link())
    with pytest.raises(InputError, match="below <= above"):
        PairsByFreeness(below=9.0, above=1.0)
    with pytest.raises(InputError, match="1 or more, found 0 and 3"):
        PairsByFreeness(last_blocks=0)
