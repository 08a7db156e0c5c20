"""Everything at once: whatever fails, moves, is swapped, displaced, switched off or cached, nothing is lost, nothing is twice, and no limit is crossed.

Larger scenes than the twin's, with orders and routes that are asked, looked at from outside while they run. (What the twin compares to the bit is in
`test_twin_everything`.)
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.rules import ORDERS
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.links import Transfers
from rota.worlds.serving.metrics import outcomes, series, summarise
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.verify import verify
from tests.worlds.serving.everything import Scene, scene

FEATURES = ("split", "swap", "migrate", "fail", "scale", "cache", "gang", "closed", "programs", "hidden")
sets = st.sets(st.sampled_from(FEATURES), min_size=3).map(
    lambda drawn: tuple(
        sorted(drawn - ({"split"} if "gang" in drawn else set()) - ({"closed"} if "programs" in drawn else set()))
    )
)
ORDERS_HERE = ("fcfs", "lcfs", "sjf", "srpt", "las", "priority")


def run_watched(case: Scene, order: str, route: str) -> Simulation:
    """Run a scene in small steps, and look at every limit after each."""
    blind = case.visible is None and order in ("sjf", "srpt")
    run = case.simulation(case.roles("fcfs" if blind else order, route))
    for now in moments(run):
        run.run(now)
        watch(run)
    run.run()
    watch(run)
    return run


def moments(run: Simulation) -> Iterator[float]:
    """Times at which a run is looked at, until nothing is left to come; a run that takes longer than that does not end at all."""
    now = 0.0
    while run.state[at.FINISHED] < run.state[at.JOBS] and now < 60.0:
        now += 0.2117
        yield now


def watch(run: Simulation) -> None:
    hosts, jobs = run.hosts, run.jobs
    running = hosts[:, at.RUNNING_COUNT] + hosts[:, at.LAGGING]
    assert (hosts[:, at.FREE] >= 0).all(), "more KV blocks are held than there are"
    assert (hosts[:, at.FREE] <= hosts[:, at.KV_BLOCKS]).all(), "more KV blocks are free than there are"
    assert (running <= hosts[:, at.MAX_RUNNING]).all()
    assert (hosts[:, at.SWAP_ROOM] >= 0).all()
    assert (run.clocks[:, [at.WAITING_PROMPT, at.WAITING_ANSWER]] >= 0).all()
    where = [run.arrays[at.A_RUNNING][r, : hosts[r, at.RUNNING_COUNT]] for r in range(len(hosts))]
    lines = [run.arrays[at.A_QUEUE][r, : hosts[r, at.QUEUED_COUNT]] for r in range(len(hosts))]
    router = run.arrays[at.A_QUEUE][len(hosts), : run.state[at.WAITING_AT_ROUTER]]
    everywhere = np.concatenate([*where, *lines, router])
    assert len(np.unique(everywhere)) == len(everywhere), "a request is at two places"
    states = jobs[at.STATE]
    assert not np.isin(states[everywhere], (at.FUTURE, at.FINISHED_STATE, at.REJECTED)).any()
    if run.fleet is not None:
        within_bandwidth(run.fleet._transfers)


def within_bandwidth(net: Transfers) -> None:
    """No host sends or receives more than its link carries."""
    for end in ("source", "target"):
        total: dict[int, float] = {}
        for each in net.active:
            total[getattr(each, end)] = total.get(getattr(each, end), 0.0) + each.rate
        assert all(rate <= net.link.bandwidth * (1 + 1e-9) for rate in total.values())


def settle(run: Simulation, case: Scene) -> None:
    """What must be true at the end."""
    jobs, states = run.jobs, run.jobs[at.STATE]
    done = states == at.FINISHED_STATE
    stays = np.isin(states, (at.FINISHED_STATE, at.REJECTED))
    if case.workload.programs is None:
        assert stays.all(), f"lost: {np.flatnonzero(~stays)} in states {states[~stays]}"
    else:  # calls whose parents were rejected never come
        assert np.isin(states[~stays], (at.FUTURE,)).all()
        assert stays.all() or (states == at.REJECTED).any()
    assert run.state[at.FINISHED] == stays.sum()
    assert (run.hosts[:, at.FREE] + lagging_blocks(run) == run.hosts[:, at.KV_BLOCKS]).all(), (
        "KV blocks that nobody holds are gone"
    )
    assert (run.hosts[:, at.SWAP_ROOM] == [replica.swap_blocks for replica in case.fleet]).all()
    assert not run.hosts[
        :, [at.QUEUED_COUNT, at.INBOX_COUNT, at.RUNNING_COUNT, at.DECODES, at.CONTEXT_SUM, at.LANDINGS]
    ].any()
    assert not jobs[at.SOURCE].any()
    assert not jobs[at.SWAPPED].any()
    assert not run.clocks[:, [at.WAITING_PROMPT, at.WAITING_ANSWER]].any()
    assert run.histogram[0].sum() == (jobs[at.OUTPUT, done] - 1).sum(), "every token but the first has one gap"
    spans = run.seconds[at.FINISH, done] - run.seconds[at.FIRST_TOKEN, done]
    assert np.isclose(run.histogram[1].sum(), spans.sum(), rtol=1e-9, atol=1e-9), (
        "the gaps are the time between first and last token"
    )
    times = run.seconds[[at.ARRIVAL, at.DISPATCHED, at.SCHEDULED, at.FIRST_TOKEN, at.FINISH]][:, done]
    assert (np.diff(times, axis=0) >= 0).all()
    money(run, case)


def lagging_blocks(run: Simulation) -> Any:
    """Blocks of requests that have ended and that an asynchronous scheduler has not seen yet."""
    found = np.zeros(len(run.hosts), np.int64)
    for r, count in enumerate(run.hosts[:, at.LAGGING].tolist()):
        found[r] = run.jobs[at.HELD_BLOCKS, run.arrays[at.A_LAGGING][r, :count]].sum()
    return found


def money(run: Simulation, case: Scene) -> None:
    """GPU hours are those of the replicas that were on: never less than they computed, never more than from the first arrival to the last token."""
    rows = outcomes(run, Slo())
    metrics = summarise(run, rows)
    series_of = series(run)
    broken = verify(
        case.workload, case.fleet, rows, metrics, series_of, float(run.clock[at.BIN_SECONDS]), run.makes_arrivals
    )
    assert not broken, broken[0]
    end = float(np.max(rows["finish"][rows["status"] == "finished"], initial=0.0))
    if run.fleet is None or end == 0.0:
        return
    on = run.fleet.power.seconds(end)
    assert metrics["gpu_hours"] * 3600 == pytest.approx(on.sum())
    assert (on <= end + 1e-9).all()
    if "fail" not in case.features:  # a replica that goes down is repaired, whether it is paid for or not
        assert (on >= run.clocks[:, at.BUSY_SECONDS] - overhang(run, end) - 1e-9).all(), "who computes is paid for"


def overhang(run: Simulation, end: float) -> Any:
    """Seconds of iterations that went on after the last token."""
    return np.maximum(0.0, run.clocks[:, at.ENDS_AT] - end)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 1 << 30),
    features=sets,
    order=st.sampled_from(ORDERS_HERE),
    route=st.sampled_from(["least_outstanding", "round_robin", "power_of_two", "least_work"]),
)
def test_nothing_is_lost(seed: int, features: tuple[str, ...], order: str, route: str) -> None:
    case = scene(seed, *features)
    settle(run_watched(case, order if order in ORDERS else "fcfs", route), case)
