"""A random small fleet in which everything may happen, drawn from one seed; run by the simulator, and by its slow twin where that can."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from rota.kernel.streams import generator
from rota.kernel.tables import Hosts
from rota.rules import ORDERS, PLACES
from rota.worlds.serving.fleet import Migrate, Outage, Plan, Scaler, Scaling
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.links import Link
from rota.worlds.serving.model import Programs, Workload, make_workload
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.simulate import Simulation
from tests.worlds.serving.gang_timing import gang_timing
from tests.worlds.serving.slow import SlowReplica
from tests.worlds.serving.slow_everything import SlowEverything
from tests.worlds.serving.slow_fleet import outstanding
from tests.worlds.serving.test_twin_fleet import FCFS, replica, shared_beginnings
from tests.worlds.serving.twin import pool_of, same, slow_requests

# What else goes on inside a replica has its own twins: test_inside_moves, test_twin_pools.
PLAIN = ["vllm_v0", "vllm_v1", "sarathi", "orca", "static", "vllm_v1 ahead", "vllm_v1 whole prompts"]
STEP = 0.0625  # of arrivals, seconds; what happens to hosts lies between, so that ties are not what is tested


class ScriptedPairs(Migrate):
    """Pairs in turn, at each question some of them."""

    def __init__(
        self, script: Sequence[Sequence[tuple[int, int]]], every: float, stop: float, last_blocks: int, stages: int
    ) -> None:
        self.script, self.turn, self.every, self.stop = script, 0, every, stop
        self.last_blocks, self.stages = last_blocks, stages

    def pairs(self, hosts: Hosts, now: float) -> Sequence[tuple[int, int]]:
        return next_of(self.script, self)


class ScriptedScaler(Scaler):
    """Numbers in turn."""

    def __init__(self, script: Sequence[float], every: float) -> None:
        self.script, self.turn, self.every = script, 0, every

    def wanted(self, hosts: Hosts, now: float) -> float:
        return float(next_of(self.script, self))


def next_of(script: Sequence[Any], counter: Any) -> Any:
    counter.turn += 1
    return script[(counter.turn - 1) % len(script)]


@dataclass
class Scene:
    """One random case. The switches say what it has; None or empty: it has not."""

    seed: int
    workload: Workload
    fleet: list[Replica]
    link: Link
    outages: list[Outage] = field(default_factory=list)
    pairs: list[list[tuple[int, int]]] | None = None
    every: float = 0.0
    stop: float = 0.0
    last_blocks: int = 16
    stages: int = 3
    wanted: list[float] | None = None
    scaling: Scaling = field(default_factory=Scaling)
    concurrency: int = 0
    think: Any = None
    visible: Any = None
    features: tuple[str, ...] = ()

    def lines(self) -> list[Iterable[Outage]]:
        hosts = sorted({each.host for each in self.outages})
        return [iter([each for each in self.outages if each.host == host]) for host in hosts]

    def roles(self, order: str = "fcfs", route: str = "least_outstanding") -> Roles:
        migrate = (
            ScriptedPairs(self.pairs, self.every, self.stop, self.last_blocks, self.stages) if self.pairs else None
        )
        scale = ScriptedScaler(self.wanted, 3 * self.every) if self.wanted else None
        place = PLACES[route]()
        place.bind(generator(self.seed, "route"))
        return Roles(
            ORDERS[order](),
            place,
            ORDERS["fcfs"](),
            decode=PLACES["least_outstanding"](),
            migrate=migrate,
            scale=scale,
        )

    def simulation(self, roles: Roles | None = None) -> Simulation:
        plan = Plan(self.link, outages=self.lines(), scaling=self.scaling)  # type: ignore[arg-type]
        return Simulation(
            self.workload,
            self.fleet,
            roles or self.roles(),
            self.visible,
            plan=plan,
            concurrency=self.concurrency,
            think=self.think,
        )

    def twin(self) -> SlowEverything:
        scripts = {"pairs": self.roles().migrate, "wanted": self.roles().scale}

        def pairs(engines: list[SlowReplica], now: float) -> Any:
            return next_of(self.pairs or [[]], scripts["pairs"])

        def wanted(engines: list[SlowReplica], now: float) -> float:
            return float(next_of(self.wanted or [0.0], scripts["wanted"]))

        tree = self.workload.programs
        parents, delays = None, []
        if tree is not None:
            parents = [tree.parents[a:b].tolist() for a, b in pairwise(tree.offsets.tolist())]
            delays = tree.delay.tolist()
        return SlowEverything(
            self.fleet, FCFS().ranking(), outstanding, outstanding, self.link, self.outages, pairs if self.pairs else None, self.every,
            self.stop, wanted if self.wanted else None, 3 * self.every, self.scaling, pool_of(self.workload), parents, delays,
            self.last_blocks, self.stages,
        )  # fmt: skip

    def compare(self) -> Simulation:
        """Run both; raise AssertionError where they differ."""
        run = self.simulation()
        run.run()
        slow = slow_requests(self.workload)
        twin = self.twin()
        twin.run(slow, self.concurrency, [] if self.think is None else self.think.tolist())
        same(run, slow)
        assert run.jobs[at.RESTARTS].tolist() == [r.restarts for r in slow]
        assert (run.fleet.migrations if run.fleet else 0) == twin.migrations
        assert (run.fleet.live.given_up if run.fleet and run.fleet.live else 0) == twin.given_up
        end = float(np.nanmax(run.seconds[at.FINISH], initial=0.0))
        if run.fleet:
            assert run.fleet.power.seconds(end).tolist() == twin.seconds_on(end)
        return run


def scene(seed: int, *features: str) -> Scene:
    """A random case with these features: split, swap, migrate, fail, scale, cache, gang, closed, programs, hidden."""
    draw = generator(seed, "scene")
    rows = int(draw.integers(4, 24))
    arrival = np.sort(draw.integers(0, 24, rows)) * STEP
    least = 9 if "swap" in features else 1  # long answers fill the cache
    prompt, output = draw.integers(1, 21, rows), draw.integers(least, 17, rows)
    prefix = None
    if "cache" in features:
        branches = draw.integers(0, 4, rows).tolist()
        prefix = shared_beginnings(prompt.tolist(), branches, int(draw.choice([2, 4, 8])))
    if "closed" in features or "programs" in features:
        arrival = np.zeros(rows)
    programs = _programs(draw, rows) if "programs" in features else None
    work = make_workload(arrival, prompt, output, prefix=prefix, programs=programs)
    every = float(draw.choice([0.0313, 0.0659, 0.1237]))
    found = Scene(seed, work, _fleet(draw, features), Link(float(draw.choice([512.0, 4096.0])), 0.0151, 0.25), every=every,
                  stop=float(draw.choice([0.0, 0.0309])))  # fmt: skip
    hosts = len(found.fleet)
    if "migrate" in features:
        stages = generator(seed, "stages")  # its own, so that the scenes that were found once stay as they are
        found.last_blocks, found.stages = int(stages.integers(1, 5)), int(stages.integers(1, 5))
        found.pairs = [[_pair(draw, hosts) for _ in range(draw.integers(0, 4))] for _ in range(29)]
    if "fail" in features:
        found.outages = _outages(draw, hosts)
    if "scale" in features:
        found.wanted = draw.integers(0, hosts + 2, 17).astype(float).tolist()
        found.scaling = Scaling(1, hosts, int(draw.integers(1, hosts + 1)), float(draw.choice([0.0, 0.2111, 0.5203])))
    if "closed" in features:
        found.concurrency, found.think = int(draw.integers(1, 9)), draw.integers(0, 8, rows) * STEP
    if "hidden" not in features:
        found.visible = work.output_tokens * draw.choice([0.5, 1.0, 2.0], rows)
    found.features = features
    found.workload = replace(work, priority=draw.integers(0, 3, rows))
    return found


def _fleet(draw: np.random.Generator, features: Sequence[str]) -> list[Replica]:
    """Two to four replicas; alike in what they can hold, so that an autoscaler leaves no request without a host."""
    name = str(draw.choice(PLAIN))
    shape: dict[str, Any] = {"kv_blocks": int(draw.integers(9, 13)), "kv_bytes": 16.0, "prefix_caching": "cache" in features,
                             "max_running": int(draw.integers(2, 5))}  # fmt: skip
    if "swap" in features:
        shape |= {
            "swap_blocks": int(draw.integers(4, 16)),
            "swap_bandwidth": 2048.0,
            "swap_blocking": bool(draw.random() < 0.5),
        }
    if "gang" in features:
        one = replace(replica(name, gang=2, **shape), timing=gang_timing())
        return [one] * 2 * int(draw.integers(1, 3))
    fleet = [replica(name, float(draw.choice([0.5, 1.0, 2.0])), **shape) for _ in range(draw.integers(2, 5))]
    if "split" in features:
        fleet = [
            replace(each, role=str(role))
            for each, role in zip(fleet, draw.choice(["prefill", "decode", "mixed"], len(fleet)), strict=True)
        ]
        fleet[:2] = [replace(fleet[0], role="prefill"), replace(fleet[1], role="decode")]
    return fleet


def _pair(draw: np.random.Generator, hosts: int) -> tuple[int, int]:
    source = int(draw.integers(hosts))
    return source, (source + int(draw.integers(1, hosts))) % hosts


def _outages(draw: np.random.Generator, hosts: int) -> list[Outage]:
    found: list[Outage] = []
    for host in range(hosts):
        now = 0.0
        for _ in range(draw.integers(0, 3)):
            begin = now + float(draw.integers(1, 30)) * STEP + 0.0117
            now = begin + float(draw.integers(1, 20)) * STEP + 0.0031 * (host + 1)
            slower = float(draw.choice([2.0, 3.0])) if draw.random() < 0.3 else np.inf
            found.append(Outage(host, begin, now, slower))
    return found


def _programs(draw: np.random.Generator, rows: int) -> Programs:
    """Calls of a few programs; each waits for some that stand before it."""
    count = int(draw.integers(1, 4))
    parents = [[k - back * count for back in (1, 2) if k >= back * count and draw.random() < 0.6] for k in range(rows)]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in parents])])
    flat = np.array([p for each in parents for p in each], np.int64)
    return Programs(np.arange(rows) % count, offsets, flat, draw.integers(0, 5, rows) * STEP)
