"""Fast equals slow: every loop against the twin in exact fractions, on random small cases full of ties."""

from fractions import Fraction as F
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.decisions import Order
from rota.kernel.tables import FloatColumn, Jobs
from rota.rules import ALLOTS, ORDERS, PLACES
from rota.worlds.queues.kernels import layout as at
from rota.worlds.queues.model import Servers, make_workload
from rota.worlds.queues.simulate import Roles, Simulation
from tests.worlds.queues import slow

STEP = F(1, 8)  # times are multiples of it: floats have no rounding there
KEYS: dict[str, slow.Key] = {
    "fcfs": lambda job: (job.release,),
    "lcfs": lambda job: (-job.release,),
    "sjf": lambda job: (job.size,),
    "srpt": lambda job: (job.size - job.attained,),
    "psjf": lambda job: (job.size,),
    "las": lambda job: (job.attained,),
    "priority": lambda job: (job.priority,),
    "edf": lambda job: (job.due,),
}
PREEMPTIVE = ("srpt", "psjf", "las")

cases = st.lists(
    st.tuples(
        st.integers(0, 8),  # gap
        st.integers(1, 24),  # size
        st.integers(1, 4),  # weight
        st.integers(0, 2),  # priority
        st.integers(0, 64),  # due, after release
        st.integers(0, 1),  # class
        st.one_of(st.none(), st.integers(0, 16)),  # patience
    ),
    min_size=1,
    max_size=14,
)


def asked(rule: Order) -> Order:
    """The same rule, its rank kept from the world, so that it must be asked at each decision."""

    class Asked(type(rule)):  # type: ignore[misc]
        asked = "decision"

        def keys(self, jobs: Jobs, now: float) -> FloatColumn:
            return super().keys(jobs, now)

    return Asked()


def build(case: list[tuple[int, ...]], patient: bool = True, apart: bool = False):  # type: ignore[no-untyped-def]
    gaps, sizes, weights, priorities, dues, kinds, patience = zip(*case, strict=True)
    release = np.cumsum(gaps) * float(STEP)
    if apart:  # shared service is rounded: nothing may end in the very moment of an arrival
        release = release + np.arange(1, len(case) + 1) * np.pi / 1009
    due = release + np.array(dues) * float(STEP)
    endless = [inf if patient or each is None else each * float(STEP) for each in patience]
    work = make_workload(
        release,
        np.array(sizes) * float(STEP),
        weight=np.array(weights, np.float64),
        priority=np.array(priorities),
        due=due,
        job_class=np.array(kinds),
        patience=np.array(endless),
        classes=("a", "b"),
    )
    jobs = [
        slow.Job(
            i, F(release[i]), F(sizes[i]) * STEP, F(weights[i]), priorities[i], F(due[i]), kinds[i],
            inf if endless[i] == inf else F(endless[i]),
        )
        for i in range(len(case))
    ]  # fmt: skip
    return work, jobs


def compare(run: Simulation, jobs: list[slow.Job], exact: bool = True, preemptions: bool = True) -> None:
    names = {at.FINISHED_STATE: "finished", at.BLOCKED: "blocked", at.ABANDONED: "abandoned"}
    assert [names.get(int(state), "?") for state in run.jobs[at.STATE]] == [job.status for job in jobs]
    for column, attribute in ((at.START, "start"), (at.FINISH, "finish")):
        expected = np.array([np.nan if (time := getattr(job, attribute)) is None else float(time) for job in jobs])
        if exact:
            np.testing.assert_array_equal(run.seconds[column], expected)
        else:
            np.testing.assert_allclose(run.seconds[column], expected, rtol=1e-9, atol=1e-9)
    if preemptions:
        assert run.jobs[at.PREEMPTIONS].tolist() == [job.preemptions for job in jobs]


def simulation(work, servers: Servers, order: Order, share: str = "", route: str = "round_robin") -> Simulation:  # type: ignore[no-untyped-def]
    place = PLACES[route]()
    for policy in (order, place):
        policy.bind(np.random.default_rng(0))
    roles = Roles(order, place, ALLOTS[share]() if share else None)
    run = Simulation(work, servers, roles, visible=work.size)
    run.run()
    return run


@pytest.mark.parametrize("name", [name for name in KEYS if name != "las"])
@settings(max_examples=60, deadline=None)
@given(
    case=cases,
    count=st.integers(1, 3),
    patient=st.booleans(),
    general=st.booleans(),
    buffer=st.sampled_from([None, 0, 2]),
)
def test_one_line(name, case, count, patient, general, buffer) -> None:  # type: ignore[no-untyped-def]
    work, jobs = build(case, patient)
    slow.simulate(jobs, [F(1)] * count, KEYS[name], preemptive=name in PREEMPTIVE, buffer=buffer)
    rule = asked(ORDERS[name]()) if general else ORDERS[name]()
    run = simulation(work, Servers(np.ones((count, 1)), buffer=-1 if buffer is None else buffer), rule)
    compare(run, jobs)


@pytest.mark.parametrize("name", ["fcfs", "sjf", "psjf", "srpt"])
@settings(max_examples=60, deadline=None)
@given(case=cases, count=st.integers(1, 2), general=st.booleans(), there=st.integers(0, 6), back=st.integers(0, 6))
def test_setups(name, case, count, general, there, back) -> None:  # type: ignore[no-untyped-def]
    work, jobs = build(case)
    times = {(0, 1): there * STEP, (1, 0): back * STEP}
    slow.simulate(
        jobs, [F(1)] * count, KEYS[name], preemptive=name in PREEMPTIVE, setup=lambda a, b: times.get((a, b), F(0))  # type: ignore[arg-type]
    )  # fmt: skip
    setups = np.array([[0.0, 0.0], [0.0, float(times[0, 1])], [float(times[1, 0]), 0.0]])
    rule = asked(ORDERS[name]()) if general else ORDERS[name]()
    compare(simulation(work, Servers(np.ones((count, 1)), setups=setups), rule), jobs)


def least_outstanding(job: slow.Job, lines: list[slow.Line], decisions: list[int], now: F) -> int:
    return min(range(len(lines)), key=lambda s: (len(lines[s].jobs), decisions[s], s))


def least_queued(job: slow.Job, lines: list[slow.Line], decisions: list[int], now: F) -> int:
    return min(
        range(len(lines)), key=lambda s: (sum(job.server is None for job in lines[s].jobs), decisions[s], s)
    )  # fmt: skip


def least_work(job: slow.Job, lines: list[slow.Line], decisions: list[int], now: F) -> int:
    return min(range(len(lines)), key=lambda s: (sum(j.size - j.attained for j in lines[s].jobs), decisions[s], s))


def round_robin(job: slow.Job, lines: list[slow.Line], decisions: list[int], now: F) -> int:
    return min(range(len(lines)), key=lambda s: (decisions[s], s))


ROUTES = {
    "least_outstanding": least_outstanding,
    "least_queued": least_queued,
    "least_work": least_work,
    "round_robin": round_robin,
}


@pytest.mark.parametrize("route", ROUTES)
@settings(max_examples=60, deadline=None)
@given(
    case=cases,
    count=st.integers(2, 4),
    general=st.booleans(),
    name=st.sampled_from(["fcfs", "sjf", "srpt", "psjf"]),
    patient=st.booleans(),
)
def test_a_line_a_server(route, case, count, general, name, patient) -> None:  # type: ignore[no-untyped-def]
    work, jobs = build(case, patient)
    slow.simulate(jobs, [F(1)] * count, KEYS[name], preemptive=name in PREEMPTIVE, central=False, route=ROUTES[route])
    rule = asked(ORDERS[name]()) if general else ORDERS[name]()
    compare(simulation(work, Servers(np.ones((count, 1)), central=False), rule, route=route), jobs)


@pytest.mark.parametrize("name", ["fcfs", "sjf"])
@settings(max_examples=60, deadline=None)
@given(case=cases, speeds=st.lists(st.sampled_from([1, 2, 4]), min_size=2, max_size=3), general=st.booleans())
def test_servers_of_different_speeds(name, case, speeds, general) -> None:  # type: ignore[no-untyped-def]
    work, jobs = build(case)
    slow.simulate(jobs, [F(speed) for speed in speeds], KEYS[name])
    rule = asked(ORDERS[name]()) if general else ORDERS[name]()
    compare(simulation(work, Servers(np.array(speeds, np.float64)[:, None]), rule), jobs)


@settings(max_examples=150, deadline=None)
@given(case=cases, count=st.integers(1, 3), central=st.booleans())
def test_least_attained_service(case, count, central) -> None:  # type: ignore[no-untyped-def]
    work, jobs = build(case, apart=True)
    slow.simulate(
        jobs, [F(1)] * count, KEYS["las"], preemptive=True, share="ties", central=central, route=least_outstanding
    )  # fmt: skip
    run = simulation(work, Servers(np.ones((count, 1)), central=central), ORDERS["las"](), route="least_outstanding")
    compare(run, jobs, exact=False, preemptions=False)


@pytest.mark.parametrize("share", ["processor_sharing", "weighted_sharing"])
@settings(max_examples=150, deadline=None)
@given(case=cases, count=st.integers(1, 3), central=st.booleans())
def test_sharing(share, case, count, central) -> None:  # type: ignore[no-untyped-def]
    work, jobs = build(case, apart=True)
    if share == "processor_sharing":
        for job in jobs:
            job.weight = F(1)
    slow.simulate(jobs, [F(1)] * count, KEYS["fcfs"], share="weights", central=central, route=least_outstanding)
    run = simulation(work, Servers(np.ones((count, 1)), central=central), ORDERS["fcfs"](), share, "least_outstanding")
    compare(run, jobs, exact=False, preemptions=False)
