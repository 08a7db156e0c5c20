"""Lengths learned while a run goes are what the slow twin says, nothing of the future is in them, and everybody who looks at lengths sees them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.kernel.decisions import Order, Place
from rota.kernel.errors import InputError, NotRevealed
from rota.kernel.tables import Column, FloatColumn, Hosts, IntColumn, Jobs
from rota.rules import ORDERS, PLACES
from rota.study.scenario import Scenario, parse, read
from rota.worlds.serving.admission import Admit
from rota.worlds.serving.catalogue import gpu, model
from rota.worlds.serving.fleet import Plan
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.learned import groups
from rota.worlds.serving.metrics import outcomes
from rota.worlds.serving.model import Workload, make_workload
from rota.worlds.serving.policies import ADMITS, S3, SERVING_ORDERS
from rota.worlds.serving.pools import Assignment, Pools
from rota.worlds.serving.predictors import History
from rota.worlds.serving.quality import Choice, TokenPrice
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.settings import Slo
from rota.worlds.serving.simulate import Simulation
from rota.worlds.serving.timing import build
from rota.worlds.serving.views import LENGTHS
from rota.worlds.serving.world import head
from tests.worlds.serving.everything import scene
from tests.worlds.serving.slow_fleet import SlowFleet
from tests.worlds.serving.slow_learned import LearningFleet, Teaching
from tests.worlds.serving.test_inside_twin import ENGINE
from tests.worlds.serving.test_twin_fleet import replica
from tests.worlds.serving.twin import COSTS, FCFS, MADE, Told, same, slow_requests

EXAMPLES = Path(__file__).parents[3] / "examples/serving"
PLAIN = ["vllm_v0", "vllm_v1", "sarathi", "orca", "static", "vllm_v1 ahead"]
rows_of_requests = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 20), st.integers(1, 16), st.integers(0, 2)), min_size=1, max_size=20
)
Rows = list[tuple[int, int, int, int]]
teachers = st.builds(
    History,
    quantile=st.sampled_from([0.1, 0.5, 0.75, 0.9]),
    prior=st.sampled_from([1.0, 6.0, 256.0]),
    window=st.sampled_from([1, 2, 3, 1000]),
    group=st.sampled_from(["tenant", "none"]),
)


def workload(rows: Rows) -> Workload:
    """Requests of three tenants."""
    time, prompt, output, tenant = (np.array(column) for column in zip(*sorted(rows), strict=True))
    return make_workload(time * 0.0625, prompt, output, tenant=tenant, tenants=("a", "b", "c"))


def learning(
    work: Workload,
    fleet: list[Replica],
    history: History,
    order: Any = None,
    route: Place | None = None,
    hold: Any = None,
    **more: Any,
) -> Simulation:
    """A run, not yet begun, in which lengths are learned."""
    place = route or PLACES["round_robin"]()
    roles = Roles(order or ORDERS["fcfs"](), place, hold or ORDERS["fcfs"](), **more.pop("roles", {}))
    quality = Column("output_tokens", "tokens", "", "estimated", history.by)
    prior = history.predict(work.output_tokens.astype(np.float64), 0)
    return Simulation(work, fleet, roles, prior, quality, learns=history, **more)


def compare(
    work: Workload,
    fleet: list[Replica],
    history: History,
    order: Told,
    route: str = "round_robin",
    hold: Told | None = None,
    victim: Told | None = None,
    concurrency: int = 0,
    think: FloatColumn | None = None,
) -> Simulation:
    """Run both; raise AssertionError where they differ."""
    place = MADE[route]() if route in MADE else PLACES[route]()
    place.bind(np.random.default_rng(1))
    closed = {"concurrency": concurrency, "think": think} if concurrency else {}
    run = learning(work, fleet, history, order, place, hold, roles={"victim": victim}, **closed)
    run.run()
    slow = slow_requests(work)
    rankings = [None if told is None else told.ranking() for told in (order, hold, victim)]
    twin = LearningFleet(fleet, rankings[0], COSTS[route], *rankings[1:])  # type: ignore[arg-type]
    twin.teach(teaching(work, history), slow, *rankings)
    SlowFleet.run(twin, slow, concurrency, [] if think is None else think.tolist())
    same(run, slow)
    assert run.seconds[at.SIZE].tolist() == [r.size for r in slow]
    return run


def teaching(work: Workload, history: History) -> Teaching:
    group = groups(work, history.group).tolist()
    return Teaching(group, history.quantile, history.prior, history.window)


def shortest(asked: str = "arrival", preemptive: bool = False) -> Told:
    return Told(lambda number, release, prompt, output, *_: (prompt + 8 * output,), asked, preemptive)


def least_left(asked: str = "decision") -> Told:
    """What is still to come, as `remaining` counts it: never below nothing."""
    return Told(
        lambda number, release, prompt, output, priority, generated, *_: (max(0.0, output - generated),), asked, True
    )


# -- the twin -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
@given(rows=rows_of_requests, history=teachers)
@settings(max_examples=40)
def test_shortest_first(name: str, rows: Rows, history: History) -> None:
    compare(workload(rows), [replica(name)], history, shortest())


@pytest.mark.parametrize("name", ["vllm_v0", "vllm_v1", "sarathi"])
@given(rows=rows_of_requests, history=teachers)
@settings(max_examples=40)
def test_least_left_first(name: str, rows: Rows, history: History) -> None:
    """Displaces; what has outgrown its prediction has nothing left, as with the other predictors."""
    compare(workload(rows), [replica(name)], history, least_left())


@pytest.mark.parametrize("route", ["least_work", "least_tokens", "asked_work", "asked_tokens", "least_outstanding"])
@given(rows=rows_of_requests, history=teachers)
@settings(max_examples=40)
def test_routes_by_what_is_left(route: str, rows: Rows, history: History) -> None:
    compare(workload(rows), [replica(), replica("vllm_v1", 2.0)], history, shortest("decision"), route)


@given(rows=rows_of_requests, history=teachers, concurrency=st.integers(1, 6), pause=st.integers(0, 3))
@settings(max_examples=60)
def test_closed_loops(rows: Rows, history: History, concurrency: int, pause: int) -> None:
    """Without a pause the next request comes at the very instant at which an answer ends, and has learned from it."""
    think = pause * 0.0625 * (np.arange(len(rows)) % 3)
    work = workload(rows)
    fleet = [replica(), replica("vllm_v0")]
    compare(work, fleet, history, shortest(), "least_work", concurrency=concurrency, think=think)


@given(rows=rows_of_requests, history=teachers)
@settings(max_examples=60)
def test_the_routers_line_and_victims(rows: Rows, history: History) -> None:
    fleet = [replica(max_outstanding=3, kv_blocks=9), replica("vllm_v0", max_outstanding=2, kv_blocks=9)]
    compare(workload(rows), fleet, history, FCFS(), "least_tokens", hold=shortest(), victim=shortest("arrival"))


@given(rows=rows_of_requests, history=teachers, bucket=st.sampled_from([1, 4]))
@settings(max_examples=60)
def test_memory_that_is_set_aside(rows: Rows, history: History, bucket: int) -> None:
    """S3 sets aside what was predicted at the arrival; the prior would be another amount."""
    fleet = [replace(replica(), rules=S3(bucket_tokens=bucket).rules(ENGINE))] * 2
    compare(workload(rows), fleet, history, FCFS(), "least_outstanding")


# -- by hand ------------------------------------------------------------------------------------------------------


def arrival_order(*rows: tuple[float, int, int]) -> Workload:
    """(seconds, tokens of the answer, tenant); prompts of one token."""
    time, output, tenant = (np.array(column) for column in zip(*rows, strict=True))
    return make_workload(time, np.ones(len(rows), np.int64), output, tenant=tenant, tenants=("a", "b"))


def second_each(slots: int = 4) -> Replica:
    """An iteration takes a second, whatever is in it: alone, an answer of n tokens takes n seconds."""
    one = replica("orca", max_running=slots, kv_blocks=1000)
    return replace(one, timing=build({"linear": {"constant": 1.0}}, model("llama-3-8b"), gpu("a100-80g"), 1, Path()))


def test_by_hand() -> None:
    """Answers of 2, 4 and 6 tokens of one tenant end at 2, 4 and 6 s; the prior is what is told before that, and a quantile is a length that was seen."""
    rows = [(0.0, 2, 0), (0.0, 4, 0), (0.0, 6, 0), (2.0, 9, 0), (4.5, 9, 0), (6.5, 9, 1), (6.5, 9, 0), (16.0, 1, 1)]
    work = arrival_order(*rows)
    run = learning(work, [second_each(8)], History(0.5, prior=99.0))
    run.run()
    assert run.seconds[at.FINISH, :3].tolist() == [2.0, 4.0, 6.0]
    assert run.seconds[at.SIZE, :3].tolist() == [99.0] * 3
    assert run.seconds[at.SIZE, 3] == 2.0  # the answer that ends at this very instant counts
    assert run.seconds[at.SIZE, 4] == 2.0  # of 2 and 4 half are at most 2
    assert run.seconds[at.SIZE, 5] == 4.0  # nobody of that tenant has ended: all tell
    assert run.seconds[at.SIZE, 6] == 4.0  # of 2, 4 and 6
    assert run.seconds[at.FINISH, 5] == 16.0
    assert run.seconds[at.SIZE, 7] == 9.0  # now one of that tenant has
    code, size = run.views.codes["output_tokens"], run.views.codes["size"]
    assert code is not None
    assert size is not None
    assert run.views.fixed[code].tolist() == run.seconds[at.SIZE].tolist()
    expected = run.replicas[0].prefill_rate + run.replicas[0].decode_rate * run.seconds[at.SIZE]
    assert run.views.fixed[size].tolist() == expected.tolist()


def test_the_window_forgets() -> None:
    rows = [(0.0, 2, 0), (0.0, 4, 0), (0.0, 6, 0), (8.0, 1, 0)]
    told = []
    for window in (1, 2, 3):
        run = learning(arrival_order(*rows), [second_each()], History(0.5, 99.0, window))
        run.run()
        told.append(run.seconds[at.SIZE, 3])
    assert told == [6.0, 4.0, 4.0]


def test_the_order_goes_by_what_was_learned() -> None:
    """One slot, prior 5. Who came before the first end keeps the prior, and is overtaken by those who are known to be short."""
    rows = [(0.0, 8, 0), (0.0, 2, 1), (0.5, 8, 0), (0.5, 2, 1), (11.0, 8, 0), (11.5, 2, 1), (12.5, 8, 0), (12.5, 2, 1)]
    begin = {
        "sjf": [0.0, 8.0, 10.0, 22.0, 24.0, 18.0, 32.0, 20.0],
        "srpt": [0.0, 8.0, 10.0, 22.0, 24.0, 12.0, 32.0, 14.0],  # 2 tokens displace 3 that are left of the prior
    }
    for order, expected in begin.items():
        run = learning(arrival_order(*rows), [second_each(1)], History(0.5, 5.0), ORDERS[order]())
        run.run()
        assert run.seconds[at.SCHEDULED].tolist() == expected, order
        assert run.seconds[at.SIZE].tolist() == [5.0] * 4 + [8.0, 2.0] * 2


# -- nothing of the future ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["sjf", "srpt", "fcfs"])
@given(rows=rows_of_requests, history=teachers, which=st.integers(0, 19), other=st.integers(1, 16))
@settings(max_examples=60)
def test_the_length_of_an_answer_is_not_known_before_it_ends(
    order: str, rows: Rows, history: History, which: int, other: int
) -> None:
    """One answer becomes longer or shorter: all that arrived before the earlier of its two ends are told the same."""
    work = workload(rows)
    which %= len(work)
    changed = work.output_tokens.copy()
    changed[which] = other
    runs = []
    for each in (work, replace(work, output_tokens=changed)):
        run = learning(each, [replica(kv_blocks=40)], history, ORDERS[order]())
        run.run()
        assert (run.jobs[at.STATE] == at.FINISHED_STATE).all()
        runs.append(run)
    first = min(run.seconds[at.FINISH, which] for run in runs)
    before = work.arrival < first
    assert before[which]
    assert runs[0].seconds[at.SIZE, before].tolist() == runs[1].seconds[at.SIZE, before].tolist()


@given(rows=rows_of_requests, history=teachers)
@settings(max_examples=40)
def test_the_first_request_has_the_prior(rows: Rows, history: History) -> None:
    run = learning(workload(rows), [replica(kv_blocks=40)], history)
    run.run()
    assert run.seconds[at.SIZE, 0] == history.prior


class Peeks(Place):
    """Draws its hosts beforehand by the length of the answer."""

    reads = ("id",)
    reads_job = ("id", "size")

    def sample(self, jobs: Jobs, hosts: Hosts) -> IntColumn:
        return np.asarray(jobs.size > 1.0, np.int64).reshape(-1, 1)


def test_what_is_drawn_beforehand_cannot_read_lengths() -> None:
    with pytest.raises(NotRevealed, match="column size is hidden"):
        learning(workload([(0, 1, 1, 0)]), [replica(), replica()], History(), route=Peeks())


# -- whatever else happens ----------------------------------------------------------------------------------------

CHANGED = {"agents": ("workload.programs.count=12",), "continuum": ("workload.programs.count=8",), "shared-prefix": ("workload.programs.count=20",),
           "dynasor": ("workload.reasoning.0.count=5", "workload.reasoning.1.count=3", "workload.reasoning.2.count=5")}  # fmt: skip
STUDIES = [file.stem for file in sorted(EXAMPLES.glob("*.yaml")) if not file.stem.startswith("parity-")]


def small(name: str, history: str) -> tuple[Scenario, Workload]:
    """An example with few requests, in which lengths are learned."""
    scenario = read(EXAMPLES / f"{name}.yaml", [f"information.output_tokens={history}", *CHANGED.get(name, ())])
    world: Any = scenario.world
    work = world.workload(scenario.case, 0)
    return scenario, work if work.programs is not None else head(work, 120)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_with_learned_lengths(name: str) -> None:
    """Orders, routes, batchers, gates, pools, migration, scaling, caches, programs: every policy of every study runs, and is told what the twin says."""
    scenario, work = small(name, "{history: {quantile: 0.7, prior: 100, window: 20}}")
    world: Any = scenario.world
    teacher = Teaching(work.tenant.tolist(), 0.7, 100.0, 20)
    ran = 0
    for policy in scenario.policies:
        if world.resolve(scenario.case, policy, scenario.folder) is not None:
            continue
        run = world.simulation(scenario.case, work, policy, 0)
        run.run()
        rows = outcomes(run, Slo())
        assert run.seconds[at.SIZE].tolist() == teacher.predictions(dict(rows)), policy["name"]
        finished = (rows["status"] == "finished").sum()
        assert finished, policy["name"]
        ran += 1
    assert ran, f"no policy of {name} applies"


ALSO = {
    "closed loop": ("predicted-order", "workload.arrivals={closed: {concurrency: 24}}"),
    "closed loop with pauses": ("admission", "workload.arrivals={closed: {concurrency: 60, think: 0.5}}"),
    "crashes": ("predicted-order", "failures={outages: [{replica: 0, start: 2.0, seconds: 3}]}"),
    "slow for a while": ("routes", "failures={outages: [{replica: 1, start: 0.5, seconds: 3, slower: 4}]}"),
    "crashes beside pools": ("accellm", "failures={outages: [{replica: 2, start: 4.0, seconds: 3}]}"),
    "loads seen late": ("dispatch", "information.hosts={every: 7}"),
    "swapping": ("predicted-order", "fleet.0.swap={blocks: 4000}"),
}


@pytest.mark.parametrize("what", ALSO)
def test_learned_lengths_beside(what: str) -> None:
    name, change = ALSO[what]
    scenario = read(
        EXAMPLES / f"{name}.yaml", ["information.output_tokens={history: {by: none, quantile: 0.3}}", change]
    )
    world: Any = scenario.world
    work = head(world.workload(scenario.case, 1), 200)
    teacher = Teaching([0] * len(work), 0.3)
    for policy in scenario.policies:
        assert world.resolve(scenario.case, policy, scenario.folder) is None
        run = world.simulation(scenario.case, work, policy, 1)
        run.run()
        assert run.seconds[at.SIZE].tolist() == teacher.predictions(dict(outcomes(run, Slo()))), policy["name"]
        if what.startswith("crashes"):
            assert run.fleet.crashes


@pytest.mark.parametrize(
    "features",
    [("split", "migrate", "fail"), ("swap", "migrate", "scale"), ("cache", "programs", "fail"), ("gang", "closed"),
     ("split", "programs", "scale", "fail"), ("closed", "cache", "migrate", "fail")],
    ids="+".join,
)  # fmt: skip
@given(seed=st.integers(0, 1 << 20), history=teachers)
@settings(max_examples=25)
def test_a_random_fleet_in_which_everything_may_happen(features: tuple[str, ...], seed: int, history: History) -> None:
    found = scene(seed, *features)
    plan = Plan(found.link, outages=found.lines(), scaling=found.scaling)  # type: ignore[arg-type]
    work = replace(found.workload, tenant=np.arange(len(found.workload)) % 3, tenants=("a", "b", "c"))
    told = history.predict(work.output_tokens.astype(np.float64), 0)
    closed = {"concurrency": found.concurrency, "think": found.think}
    roles = found.roles("srpt" if seed % 2 else "sjf", "least_work")
    run = Simulation(work, found.fleet, roles, told, plan=plan, learns=history, **closed)
    run.run()
    assert run.seconds[at.SIZE].tolist() == teaching(work, history).predictions(dict(outcomes(run, Slo())))


@pytest.mark.parametrize("name", ["queue_limit", "lowest_first"])
@given(rows=rows_of_requests, history=teachers)
@settings(max_examples=40)
def test_who_is_shed_teaches_nothing(name: str, rows: Rows, history: History) -> None:
    """Nor does who is rejected: prompts of more than 16 tokens, which this batcher does not cut."""
    crowd = [(0, 1, 9, 0)] * 6 + [(1, 17, 2, 0)] + rows
    run = learning(workload(crowd), [replica("vllm_v0")], history, roles={"admit": ADMITS[name](limit=2)})
    run.run()
    seen = outcomes(run, Slo())
    assert {"shed", "rejected", "finished"} == set(seen["status"].tolist())
    assert run.seconds[at.SIZE].tolist() == teaching(run.workload, history).predictions(dict(seen))


# -- who sees it --------------------------------------------------------------------------------------------------


class SpyOrder(Order):
    """First come, and writes down what it is shown of each request."""

    reads = ("id", *LENGTHS, "generated_tokens")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        self.seen = getattr(self, "seen", [])
        self.seen += zip(jobs.id.tolist(), jobs.output_tokens.tolist(), jobs.size.tolist(), strict=True)
        self.least = min(getattr(self, "least", 0.0), float(jobs.remaining.min()))
        return jobs.id.astype(np.float64)


class SpyOnce(SpyOrder):
    """The same, asked when a request arrives."""

    asked = "arrival"
    reads = ("id", "output_tokens", "size")

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        self.seen = getattr(self, "seen", [])
        self.seen += zip(jobs.id.tolist(), jobs.output_tokens.tolist(), jobs.size.tolist(), strict=True)
        return jobs.id.astype(np.float64)


class SpyRoute(Place):
    """Any host, and writes down."""

    reads = ("id", "dollars")
    reads_job = ("id", "output_tokens", "size")

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, float]] = []
        self.dollars: dict[int, FloatColumn] = {}

    def costs(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        self.seen += zip(jobs.id.tolist(), jobs.output_tokens.tolist(), jobs.size.tolist(), strict=True)
        self.dollars[int(jobs.id[0])] = np.array(hosts.dollars)
        return np.zeros(len(hosts))


class SpyGate(Admit):
    """Lets in every second request at once, the others a little later, and writes down."""

    reads_job = ("id", "output_tokens", "size")

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, float]] = []

    def verdicts(self, jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        again = jobs.id[0] in {job for job, *_ in self.seen} or jobs.id[0] % 2
        self.seen += zip(jobs.id.tolist(), jobs.output_tokens.tolist(), jobs.size.tolist(), strict=True)
        return np.array([0.0 if again else now + 0.4])


class SpyPool(Pools):
    """Prompts at the first host, answers at the second, and writes down."""

    reads = ("id",)
    reads_job = ("id", "output_tokens", "size")

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, float]] = []

    def assign(self, jobs: Jobs, hosts: Hosts, now: float) -> Assignment:
        self.seen += zip(jobs.id.tolist(), jobs.output_tokens.tolist(), jobs.size.tolist(), strict=True)
        return Assignment(0, 1)


@given(rows=rows_of_requests, history=teachers)
@settings(max_examples=40)
def test_everybody_is_told_the_same(rows: Rows, history: History) -> None:
    """Order, the router's line, route, gate and decode role; with a gate that defers, what was said at the arrival stays."""
    work, fleet = workload(rows), [replica(), replica()]
    prices = {"m": TokenPrice(1e6, 2e6)}
    prior = history.predict(np.zeros(len(work)), 0)
    choice = Choice(None, prices, ["m", "m"], work.prompt_tokens, prior)
    spies = SpyOrder(), SpyOnce(), SpyRoute(), SpyGate()
    run = learning(work, fleet, history, spies[0], spies[2], spies[1], roles={"admit": spies[3]}, choice=choice)
    run.run()
    _all_were_told(run, *spies)
    for job, dollars in spies[2].dollars.items():
        assert dollars.tolist() == [work.prompt_tokens[job] + 2 * run.seconds[at.SIZE, job]] * 2
    assert getattr(spies[0], "least", 0.0) == 0.0


@given(rows=rows_of_requests, history=teachers)
@settings(max_examples=40)
def test_decoders_and_pools_are_told(rows: Rows, history: History) -> None:
    work = workload(rows)
    apart = [replica(role="prefill", kv_bytes=16.0), replica(role="decode", kv_bytes=16.0), replica(role="decode")]
    decode = SpyRoute()
    decode.reads = ("id",)
    decode.costs = _noting(decode)  # type: ignore[method-assign]
    run = learning(work, apart, history, roles={"decode": decode})
    run.run()
    _all_were_told(run, decode)
    pool = SpyPool()
    run = learning(work, apart[:2], history, roles={"pool": pool})
    run.run()
    assert run.fleet is not None
    assert run.fleet.engine is None  # the kernel's accounts would be of the prior
    _all_were_told(run, pool)
    assert run.fleet.pools is not None
    assert run.fleet.pools.tokens.tolist() == [0.0, 0.0]  # all that was promised has been kept


def _noting(spy: SpyRoute) -> Any:
    def costs(jobs: Jobs, hosts: Hosts, now: float) -> FloatColumn:
        spy.seen.extend(zip(jobs.id.tolist(), jobs.output_tokens.tolist(), jobs.size.tolist(), strict=True))
        return np.zeros(len(hosts))

    return costs


def _all_were_told(run: Simulation, *spies: Any) -> None:
    rate, work, history = run.replicas[0], run.workload, run.learns
    assert history is not None
    told = teaching(work, history).predictions(dict(outcomes(run, Slo())))
    assert run.seconds[at.SIZE].tolist() == told
    for spy in spies:
        for job, tokens, size in getattr(spy, "seen", []):
            assert tokens == run.seconds[at.SIZE, job], type(spy).__name__
            assert size == rate.prefill_rate * work.prompt_tokens[job] + rate.decode_rate * tokens
    decoded = np.flatnonzero((run.jobs[at.STATE] == at.FINISHED_STATE) & (work.output_tokens > 1))
    assert {job for spy in spies for job, *_ in getattr(spy, "seen", [])} >= set(decoded.tolist())


# -- groups and settings ------------------------------------------------------------------------------------------

MIX = {"kind": "mix", "requests": 150, "rate": 20.0, "mix": [
    {"kind": "chat", "share": 0.5, "tenant": "chat"}, {"kind": "code", "share": 0.5, "tenant": "code"}]}  # fmt: skip
FLEET = [{"model": "llama-3-8b", "gpu": "a100-80g", "count": 2, "max_running": 8}]
LABELS: dict[str, dict[str, Any]] = {
    "model": {"models": {"shares": {"llama-3-8b": 1.0, "llama-3-8b|qwen3-8b": 1.0}},
              "fleet": [*FLEET, {**FLEET[0], "model": "qwen3-8b"}]},
    "category": {"categories": {"easy": {"topics": 5}, "hard": {"topics": 5}}},
    "class": {"classes": {"fast": {"priority": 0}, "slow": {"priority": 1}}, "tenants": {"chat": {"class": "fast"}, "code": {"class": "slow"}}},
    "adapter": {"adapters": {"count": 3}, "fleet": [{**FLEET[0], "adapters": {"slots": 3, "latency": 0.01}}]},
}  # fmt: skip


def scenario_of(history: Any, **sections: Any) -> Scenario:
    document = {
        "world": "serving",
        "workload": {"generate": MIX},
        "fleet": FLEET,
        "information": {"output_tokens": {"history": history}},
        "policies": [{"name": "sjf", "order": "sjf"}],
    }
    return parse(document | sections, Path())


@pytest.mark.parametrize("by", LABELS)
def test_groups_are_labels(by: str) -> None:
    scenario = scenario_of({"by": by, "quantile": 0.6}, **LABELS[by])
    world: Any = scenario.world
    work = world.workload(scenario.case, 2)
    label = getattr(work.labels, "slo_class" if by == "class" else by)
    assert len(set(label.index.tolist())) > 1
    teacher = Teaching(label.index.tolist(), 0.6)
    world.prepare(scenario.case, scenario.policies)  # on requests without labels
    run = world.simulation(scenario.case, work, scenario.policies[0], 2)
    run.run()
    assert run.seconds[at.SIZE].tolist() == teacher.predictions(dict(outcomes(run, Slo())))


def test_groups_are_sessions() -> None:
    session = np.array([0, 0, 1, -1, 1, -1])
    work = make_workload(np.arange(6) * 20.0, np.ones(6, np.int64), np.arange(1, 7), session=session)
    run = learning(work, [second_each()], History(group="session", prior=50.0))
    run.run()
    assert run.seconds[at.SIZE].tolist() == [50.0, 1.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("by", [*LABELS, "session"])
def test_a_label_that_nobody_has_is_one_line(by: str) -> None:
    """Told by `rota check` and `rota run` alike, whose first step is the workload."""
    scenario = scenario_of({"by": by})
    with pytest.raises(InputError, match=f"history.by: no request of the workload has a {by}") as caught:
        scenario.world.workload(scenario.case, 0)
    assert "\n" not in str(caught.value)


def test_the_report_says_what_was_known() -> None:
    scenario = scenario_of({"quantile": 0.9})
    world: Any = scenario.world
    work = world.workload(scenario.case, 0)
    found = world.run(scenario.case, work, {"name": "srpt", "order": "srpt", "route": "least_work"}, 0)
    assert "remaining (estimated by history, quantile 0.9 by tenant)" in found.knew
    assert "work (answers estimated)" in found.knew
    assert ("output lengths", "predicted by history, quantile 0.9 by tenant") in world.describe(scenario.case)
    all_alike = scenario_of({"by": "none"})
    assert all_alike.case.information.learner.by == "history, quantile 0.5 of all"


def test_where_nothing_is_learned_nothing_stops() -> None:
    """Two requests on one replica need no fleet, no gate and no watch; with learned lengths they do."""
    work = workload([(0, 1, 1, 0), (1, 1, 1, 0)])
    roles = Roles(ORDERS["sjf"](), PLACES["round_robin"](), ORDERS["fcfs"]())
    plain = Simulation(work, [replica()], roles, work.output_tokens.astype(np.float64))
    assert plain.fleet is None
    assert not plain.state[at.GATE]
    assert not plain.jobs[at.WATCHED].any()
    assert not plain.state[at.DYNAMIC]
    assert learning(work, [replica()], History()).state[at.GATE]


@pytest.mark.parametrize(
    "name", sorted(name for name, order in {**ORDERS, **SERVING_ORDERS}.items() if {*LENGTHS} & {*order().reads})
)
def test_every_order_that_reads_lengths(name: str) -> None:
    """Each serves all, also where each request is alone in its group; and in no other way in a second run."""
    scenario = scenario_of({"prior": 64}, policies=[{"name": name, "order": name}])
    world: Any = scenario.world
    work = world.workload(scenario.case, 0)
    assert world.resolve(scenario.case, scenario.policies[0], Path()) is None
    one, other = (world.run(scenario.case, work, scenario.policies[0], 0) for _ in range(2))
    assert (one.outcomes["status"] == "finished").all()
    assert one.outcomes["finish"].tolist() == other.outcomes["finish"].tolist()


def test_the_list_of_orders_is_not_empty() -> None:
    assert {"sjf", "srpt", "psjf", "ltr", "alise", "jitserve", "prefix_groups"} <= {
        name for name, order in {**ORDERS, **SERVING_ORDERS}.items() if {*LENGTHS} & {*order().reads}
    }
