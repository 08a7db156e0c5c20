"""What concerns more than one host: prompts handed to decoders, KV on its way, hosts that fail, slow down and come back.

The simulation stops when something of this kind begins; here it is decided where things go and when they are done. Every consequence is an action at a
time; actions at one time happen in the order in which they were made, after iterations that end and requests that arrive then, and before anything is
routed or begins: what comes at one instant is decided on together.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Place, Policy
from rota.kernel.errors import BrokenRunError
from rota.kernel.streams import exponential
from rota.kernel.tables import Hosts
from rota.worlds.serving import doors
from rota.worlds.serving.admission import Gate
from rota.worlds.serving.energy import Energy, EnergyPlan
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.learned import Learned
from rota.worlds.serving.links import Link, Transfers
from rota.worlds.serving.migration import LiveMigration
from rota.worlds.serving.nodes import Machines
from rota.worlds.serving.pool_engine import PoolEngine
from rota.worlds.serving.pools import PoolBook
from rota.worlds.serving.power import Power
from rota.worlds.serving.retain import Retained
from rota.worlds.serving.rounds import LEFT, Rounds, ToCome
from rota.worlds.serving.semantic import AnswerStore

if TYPE_CHECKING:
    from rota.worlds.serving.simulate import Simulation

MIXED = "mixed"  # the role of a replica that computes prompts and decodes
LOADS = -(1 << 40)  # numbers of waits for adapters go down from here, those of swaps from 0


@dataclass(frozen=True)
class Outage:
    """A host is away from `start` to `end`, seconds, with a cold cache afterwards; or, with a factor, only slower by that much."""

    host: int
    start: float
    end: float
    factor: float = np.inf

    @property
    def is_crash(self) -> bool:
        """Whether the host is gone, not merely slow."""
        return bool(np.isinf(self.factor))


def random_outages(seed: int, host: int, mean_between: float, mean_repair: float, restart: float) -> Iterator[Outage]:
    """Endless outages of a host: exponential times up and repairs, and then a restart; keyed, so that every policy sees the same ones."""
    now = 0.0
    for ordinal in count():
        up, repair = (float(exponential(seed, f"failures/{what}", host, ordinal)) for what in ("up", "repair"))
        start = now + mean_between * up
        now = start + mean_repair * repair + restart
        yield Outage(host, start, now)


class Migrate(Policy):
    """Which hosts give a decoding request to which others.

    Asked every `every` seconds. Of the least urgent requests the one with the least KV goes. Its KV is copied in stages while it decodes on; then it stands
    still until the last blocks are copied, and goes on at the other host (`migration.py`). A migration is given up where the request has ended or was displaced
    meanwhile, and where the other host has no room.

    Attributes:
        every: Seconds between two questions.
        stop: Seconds that a request stands still besides the time of its last copy: what the hosts have to say to each other.
        last_blocks: KV blocks of the source that may be left for the last copy.
        stages: Copies at most, the last one with them; a migration that needs more is given up.
    """

    every: float = 0.2
    stop: float = 0.02
    last_blocks: int = 16
    stages: int = 3

    def pairs(self, hosts: Hosts, now: float) -> Sequence[tuple[int, int]]:
        """(from, to): ids of hosts; at most one request goes from each."""
        raise NotImplementedError(f"{type(self).__name__} does not say what migrates")


class Scaler(Policy):
    """How many replicas are on.

    Asked every `every` seconds with the table of all hosts; `up` says which take requests. The answer is cut to the scenario's least and most. A
    replica that is switched on takes requests after its start-up time; one that is switched off first finishes what it has.
    """

    every: float = 10.0

    def wanted(self, hosts: Hosts, now: float) -> float:
        """Replicas that should be on or starting."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many are wanted")


@dataclass(frozen=True)
class Scaling:
    """What an autoscaler may do."""

    least: int = 1
    most: int = 1 << 30
    first: int | None = None  # on at the beginning; None: the least
    start_seconds: float = 60.0  # from the decision until it takes requests: a machine, the process, the weights


@dataclass(frozen=True)
class Plan:
    """What happens to a fleet besides its requests.

    Args:
        link: The network between hosts.
        kv_bytes: Bytes of KV a token, a value a host.
        outages: For each host its outages in the order of time; may be endless.
        scaling: What an autoscaler may do, where there is one.
        energy: What is known of power; None: it is not accounted.
    """

    link: Link = field(default_factory=Link)
    kv_bytes: Sequence[float] = ()
    outages: Sequence[Iterator[Outage]] = ()
    scaling: Scaling = field(default_factory=Scaling)
    energy: EnergyPlan | None = None


@dataclass
class Fleet:
    """The hosts of one run together."""

    run: "Simulation"
    plan: Plan
    decode: Place
    moves: int = 0
    moved_bytes: float = 0.0
    crashes: int = 0
    loads: int = 0  # requests that waited for an adapter

    def __post_init__(self) -> None:
        self._actions: list[tuple[float, int, Callable[[float], None]]] = []
        self._number: Iterator[int] = count()
        self._decided = self.run.decides_decode(self.decode)
        self._samples = self._sampled()
        self._transfers = Transfers(self.plan.link, len(self.run.replicas))
        self._flights: dict[
            int, tuple[int, int, int]
        ] = {}  # job -> (number, source, target) of its transfer until it lands; an older one is void
        self._stranded: dict[int, float] = {}  # prompts that are done, and no host is there to decode them, since when
        self.stranded_seconds = 0.0
        self._pending = 0  # actions that are not outages
        self._family()
        self.migrations = self.swaps = 0
        migrate = self.run.roles.migrate
        self.live = None if migrate is None else LiveMigration(self, migrate)
        self.engine: PoolEngine | None = None
        self.pools = None if self.run.roles.pool is None else PoolBook(self, self.run.roles.pool)
        self.engine = (
            None if self.pools is None else self.pools.engine
        )  # what keeps the accounts of pools in the kernel
        self.retained = Retained(self)
        self.power = Power(self)
        self.gate = None if self.run.roles.admit is None else Gate(self, self.run.roles.admit)
        self.learned = None if self.run.learns is None else Learned(self.run, self.run.learns)
        recall, known = self.run.roles.recall, self.run.similarity
        self.store = None if recall is None or known is None else AnswerStore(self, recall, known)
        self.machines = Machines(self, self.run.replicas)
        self.energy = None if self.plan.energy is None else Energy(self, self.plan.energy)
        for outages in self.plan.outages:
            self._next_outage(outages)

    def _sampled(self) -> npt.NDArray[np.int64] | None:
        """The hosts that the decode role looks at, a row a request; None: all."""
        decoders = np.flatnonzero(self.run.hosts[:, at.ROLE] != at.PREFILL_ROLE)
        return self.decode.sample(self.run.views.static_table(self.decode.reads_job), Hosts({"id": decoders}))

    # -- time -----------------------------------------------------------------------------------------------------

    def next(self) -> float:
        """When something is to be done next."""
        first = min(self._actions[0][0] if self._actions else np.inf, self._transfers.next())
        return first if self.engine is None else min(first, self.engine.peek()[0])

    def head(self) -> tuple[float, int]:
        """(when, which number) of the first action."""
        return self._actions[0][:2] if self._actions else (np.inf, 0)

    @property
    def idle(self) -> bool:
        """Whether nothing but outages and switches is to come, so that a fleet whose hosts have nothing to do will never have."""
        if self._pending or self._transfers.active or self.run.hosts[:, at.DOWN].any():
            return False
        if self.engine is not None and self.engine.pending:
            return False
        return not (self.power.starting and (self.run.state[at.WAITING_AT_ROUTER] or self._stranded))

    def act(self, now: float) -> None:
        """Do what is due at `now`, which `next` has named."""
        self.run.clock[at.NOW_CLOCK] = now
        if self.engine is not None and self.engine.peek() < self.head():
            self.engine.act(now)
            return
        if self._transfers.next() <= now:
            for job in self._transfers.through(now):
                if self.live is not None and self.live.through(job, now):
                    continue
                self.later(now + self.plan.link.latency, partial(self._land, job, self._flights[job]))
            return
        _, _, action = heappop(self._actions)
        action(now)

    def later(self, time: float, action: Callable[[float], None], outage: bool = False) -> None:
        self._pending += not outage

        def done(now: float) -> None:
            self._pending -= not outage
            action(now)

        heappush(self._actions, (time, next(self._number), done))

    # -- prompts and their KV -------------------------------------------------------------------------------------

    def stops(self) -> None:
        """Go through what the kernel has stopped for."""
        if self.engine is not None:
            self.engine.stops()
            return
        run, now = self.run, self.run.now
        stops = run.take_stops()
        for kind, job in stops:
            if kind == at.STOP_HANDOFF:
                self._hand_over(job, now)
            elif kind == at.STOP_MOVE:
                self._move(job, now)
            elif kind == at.STOP_COLD:
                self.machines.wanted(job, now)  # the number of a host
            elif kind == at.STOP_LOAD:
                self._load(job)
            elif kind == at.STOP_GATE:
                if self.learned is not None:
                    self.learned.arrives(job)
                if self.store is not None:
                    self.store.arrives(job, now)
                else:
                    self.comes(job, now)
            elif kind == at.STOP_BOUNDARY:
                if self.pools is not None and self.pools.mirrors is not None:
                    self.pools.mirrors.boundary(job, now)
            elif kind == at.STOP_STUCK:
                if self.pools is not None:
                    self.pools.untie(job, now)
            else:
                self._ended(job, now)
        if self.pools is not None and self.pools.lent:
            self.pools.give_back()

    def comes(self, job: int, now: float) -> None:
        """A request that no earlier answer will do for: it stands at the gate, where there is one."""
        if self.gate is not None:
            self.gate.arrives(job, now)
        else:
            doors.let_in(self.run, job)

    # -- programs -------------------------------------------------------------------------------------------------

    def _family(self) -> None:
        """Who waits for whom."""
        programs = self.run.workload.programs
        self._programs = programs
        self.rounds: Rounds | None = None
        self.to_come: ToCome | None = None
        if programs is None:
            return
        self._waits_for = np.diff(programs.offsets).tolist()
        self._children: dict[int, list[int]] = {}
        for child, parent in zip(
            np.repeat(np.arange(len(programs.program)), np.diff(programs.offsets)).tolist(),
            programs.parents.tolist(),
            strict=True,
        ):
            self._children.setdefault(parent, []).append(child)
        order = np.argsort(programs.program, kind="stable")
        self._members = np.split(order, np.flatnonzero(np.diff(programs.program[order])) + 1)
        self._attained = np.zeros(len(self._members))
        self._path = np.zeros(len(programs.program))
        if any(LEFT in policy.reads for policy in self.run.roles.policies()):
            self.to_come = ToCome(self.run, programs.program, self._members, programs.kind)
        if programs.answers is not None:
            self.rounds = Rounds(self.run, programs.program, self._members, programs.answers)
            for probe in self.rounds.unasked.tolist():
                self._waits_for[probe] = 0  # and never comes down to it
                for child in self._children.get(probe, ()):
                    self._waits_for[child] -= 1

    def _ended(self, job: int, now: float) -> None:
        """A call is done: those that waited for it last are on their way."""
        self.machines.ended(int(self.run.jobs[at.HOST, job]), now)
        if self.live is not None:
            self.live.ended(job, now)
        if self.pools is not None:
            self.pools.forget(job)
            if self.pools.mirrors is not None:
                self.pools.mirrors.drop(job, now)
        self.retained.ended(job, now)
        if self.learned is not None:
            self.learned.ended(job)
        if self.store is not None:
            self.store.ended(job, now)
        if self._programs is None:
            return
        program, work = int(self._programs.program[job]), doors.served(self.run, job)
        self._attained[program] += work
        self.run.views.tell_program("program_attained", self._members[program], float(self._attained[program]))
        over = self.rounds is not None and self.rounds.ended(job, now)
        if self.to_come is not None:
            self.to_come.ended(program, job, over)
        if over:
            return
        for child in self._children.get(job, ()):
            self._path[child] = max(self._path[child], self._path[job] + work)
            self._waits_for[child] -= 1
            if self._waits_for[child] == 0:
                self.run.views.tell_program("path_attained", child, float(self._path[child]))
                self.later(now + float(self._programs.delay[child]), partial(self._enter, child, job))

    def _enter(self, child: int, parent: int, now: float) -> None:
        """A call arrives: what it waited for is over."""
        self.retained.returned(parent, now)
        doors.enter(self.run, child, now)

    def _hand_over(self, job: int, now: float) -> None:
        """Choose the host that decodes; the job waits there for blocks and a slot."""
        if self.engine is not None:
            if not self.engine.hand_over(job, now):
                self.find_decoder(job, now)
            return
        if self._flights.pop(job, None) is not None:
            self._transfers.cancel(job, now)
        if self.pools is not None:
            self.run.jobs[at.GOES_TO, job] = at.HERE  # where it decodes it stays, also when it must compute again
            target = self.pools.target(job)
            if target is not None:
                doors.send(self.run, job, target, now)
                return
        self.find_decoder(job, now)

    def find_decoder(self, job: int, now: float) -> None:
        """The decode role chooses a host for a computed prompt that was promised to none, or to one that is not up."""
        if self._decided:
            if not doors.send_to_cheapest(self.run, job, now):
                self._strand(job, now)
            return
        self.run.telling.deliver()  # who is asked knows what has happened
        able = doors.can_decode(self.run, job)
        able[self.run.jobs[at.SOURCE, job] - 1] = False
        if self._samples is not None and able[self._samples[job]].any():
            able &= np.isin(np.arange(len(able)), self._samples[job])
        costs = np.where(able, self.run.views.costs(self.decode, job, now, able), np.inf)
        if not np.isfinite(costs).any():
            self._strand(job, now)
            return
        decisions = self.run.hosts[:, at.DECISIONS_HERE]
        best = min(np.flatnonzero(np.isfinite(costs)).tolist(), key=lambda r: (costs[r], decisions[r], r))
        doors.send(self.run, job, best, now)

    def _strand(self, job: int, now: float) -> None:
        """No other host can decode a computed prompt: it waits for one, or is computed again where it can be decoded too, which its role may have become."""
        source = int(self.run.jobs[at.SOURCE, job]) - 1
        if source >= 0 and doors.can_decode(self.run, job)[source]:
            doors.restart(self.run, job, now)
        else:
            self._stranded[job] = now

    def _move(self, job: int, now: float) -> None:
        """Blocks are set aside: the KV begins to move. A whole prompt takes its bytes; what went ahead layer by layer does not count again."""
        source, target = int(self.run.jobs[at.SOURCE, job]) - 1, int(self.run.jobs[at.HOST, job])
        if source < 0:  # from the host's memory, which no one else uses
            replica = self.run.replicas[target]
            self.swaps += 1
            self._flights[job] = (next(self._number), target, target)
            rate = replica.kv_bytes * replica.swap_compress / replica.swap_bandwidth
            copies = -(-int(self.run.jobs[at.SWAPPED, job]) // replica.swap_group)
            took = rate * float(self.run.jobs[at.TARGET, job]) + replica.swap_per_copy * copies
            ready = self.run.adapters.loaded_at(target, job) if self.run.adapters else now
            self.later(max(now + took, ready), partial(self._land, job, self._flights[job]))
            return
        size = self.plan.kv_bytes[source] * float(self.run.jobs[at.TARGET, job]) * (1.0 - self.plan.link.overlap)
        self._flights[job] = (next(self._number), source, target)
        self.moves += 1
        self.moved_bytes += size
        self._transfers.begin(job, source, target, size, now)

    def _land(self, job: int, flight: tuple[int, int, int], now: float) -> None:
        if self._flights.get(job) == flight:
            del self._flights[job]
            doors.land(self.run, job, now)
            if self.pools is not None:
                self.pools.arrived(job, now)

    def _load(self, job: int) -> None:
        """A request waits for its adapter."""
        host, adapters = int(self.run.jobs[at.HOST, job]), self.run.adapters
        if adapters is None:
            raise BrokenRunError(f"request {job} waits for an adapter, and there are none")
        self.loads += 1
        flight = (LOADS - self.loads, host, host)
        self._flights[job] = flight
        self.later(adapters.loaded_at(host, job), partial(self._loaded, job, flight))

    def _loaded(self, job: int, flight: tuple[int, int, int], now: float) -> None:
        if self._flights.get(job) == flight and self.run.adapters is not None:
            del self._flights[job]
            self.run.adapters.loaded(flight[1], job, now)

    # -- migration ------------------------------------------------------------------------------------------------

    def send_kv(self, job: int, source: int, target: int, size: float, now: float) -> None:
        """Bytes of a request's KV begin to move."""
        self._transfers.begin(job, source, target, size, now)

    def cancel_kv(self, job: int, now: float) -> None:
        """They stop."""
        self._transfers.cancel(job, now)

    def land_later(self, job: int, source: int, target: int, time: float) -> None:
        """A request goes on at `target` at a time, unless one of both hosts goes down before."""
        flight = (next(self._number), source, target)
        self._flights[job] = flight
        self.later(time, partial(self._land, job, flight))

    # -- hosts ----------------------------------------------------------------------------------------------------

    def _next_outage(self, outages: Iterator[Outage]) -> None:
        outage = next(outages, None)
        if outage is not None:
            self.later(outage.start, partial(self._down, outage, outages), outage=True)

    def _down(self, outage: Outage, outages: Iterator[Outage], now: float) -> None:
        if outage.is_crash:
            self.crashes += 1
            if self.pools is not None and self.pools.mirrors is not None:
                self.pools.mirrors.fall(outage.host, now)
            if self.engine is not None:
                self.engine.fall(outage.host, now)
            doors.crash(self.run, outage.host, now)
            if self.engine is not None:
                self.engine.lost(outage.host, now)
            for job in [job for job, (_, *ends) in self._flights.items() if outage.host in ends]:
                self._transfers.cancel(job, now)
                del self._flights[job]
            if self.live is not None:
                self.live.fallen(outage.host, now)
            lost = [job for job in self._stranded if self.run.jobs[at.SOURCE, job] == outage.host + 1]
            for job in lost:
                del self._stranded[job]
                doors.restart(self.run, job, now)
            self.stops()
        else:
            self.run.clocks[outage.host, at.SLOWNESS] = outage.factor
        self.later(outage.end, partial(self._up, outage, outages), outage=True)

    def _up(self, outage: Outage, outages: Iterator[Outage], now: float) -> None:
        self.run.clocks[outage.host, at.SLOWNESS] = 1.0
        if outage.is_crash:
            self.power.repaired(outage.host, now)
        self._next_outage(outages)

    def open(self, host: int, now: float) -> None:
        """A host takes requests again, those too whose prompts are done and that found no host to decode."""
        doors.open_host(self.run, host, now)
        self.decoders_again(now)

    def decoders_again(self, now: float) -> None:
        """Prompts that found no host to decode them look again."""
        stranded, self._stranded = self._stranded, {}
        for job, since in stranded.items():
            self.stranded_seconds += now - since
            self._hand_over(job, now)
