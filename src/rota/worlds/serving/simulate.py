"""The fleet in time: it runs until a policy must be asked, shows the table, and takes the answer back."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Place
from rota.kernel.errors import BrokenRunError, InputError, PolicyError
from rota.kernel.tables import Column, Hosts
from rota.rules.balance import LeastOutstanding
from rota.worlds.serving.adapters import AdapterTable
from rota.worlds.serving.arrays import lay_out, lay_out_lines
from rota.worlds.serving.asking import Asking
from rota.worlds.serving.batching import UNLIMITED
from rota.worlds.serving.caching import Caches, Index
from rota.worlds.serving.columns import ROUTE_COLUMNS
from rota.worlds.serving.fleet import MIXED, Fleet, Plan
from rota.worlds.serving.inside import equip, iteration_entries
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.model import Workload
from rota.worlds.serving.predictors import History
from rota.worlds.serving.quality import Choice
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.semantic import Similarity
from rota.worlds.serving.telling import Telling
from rota.worlds.serving.views import Views

FloatColumn = npt.NDArray[np.float64]
IntColumn = npt.NDArray[np.int64]


@dataclass
class Questions:
    """How often policies were asked, for benchmarks and curiosity."""

    order: int = 0
    place: int = 0


@dataclass
class Simulation:
    """One run of a fleet under given roles.

    Args:
        workload: The requests.
        replicas: The fleet.
        roles: The policies, already bound to their generators.
        visible_output: What policies may know of the output lengths in tokens, NaN where unknown; None: hidden.
        quality: How that was obtained, for the columns `output_tokens`, `size` and `remaining`.
        think: Closed loop: seconds between an answer and its user's next request, a row a request.
        concurrency: Closed loop: requests in flight; 0: open arrivals as the workload has them.
        renewed: After so many requests a route sees the loads of hosts anew; 1: they are never old.
        plan: What happens to the hosts, and the network between them; None: nothing, and nothing moves.
        seed: Of draws that a mechanism inside a replica makes.
        choice: Quality and price of each model for each request; None: not known.
        index: What the router knows of the prefix caches.
        similarity: For a semantic cache, how like each request is to earlier ones; None: there is no such cache.
        learns: The predictor that learns lengths while the run goes, where `visible_output` is what it says beforehand; None: nothing is learned.
    """

    workload: Workload
    replicas: Sequence[Replica]
    roles: Roles
    visible_output: FloatColumn | None = None
    quality: Column = field(default_factory=lambda: Column("output_tokens", "tokens", "length of the answer"))
    think: FloatColumn | None = None
    concurrency: int = 0
    plan: Plan | None = None
    seed: int = 0
    kept: list[Any] = field(default_factory=list, init=False, repr=False)  # arrays that only kernels know
    # Tokens that are set aside for each request, in buckets of so many.
    reserved: list[tuple[IntColumn, int]] = field(default_factory=list, init=False, repr=False)
    choice: Choice | None = None  # qualities and token prices of the models
    index: Index = field(default_factory=Index)
    renewed: int = 1
    similarity: Similarity | None = None  # what a look-up in a semantic cache finds
    learns: History | None = None

    # What the kernels work on, laid out by `arrays`: rows and columns are named in `kernels.layout`.
    state: IntColumn = field(init=False, repr=False)  # scalars, and where the arrays lie
    arrays: dict[int, npt.NDArray[Any]] = field(init=False, repr=False)  # all of them, by slot
    jobs: IntColumn = field(init=False, repr=False)  # integers of requests, a column a request
    seconds: FloatColumn = field(init=False, repr=False)  # floats of requests
    hosts: IntColumn = field(init=False, repr=False)  # integers of hosts, a row a host
    clocks: FloatColumn = field(init=False, repr=False)  # floats of hosts
    clock: FloatColumn = field(init=False, repr=False)  # floats of the run
    series: FloatColumn = field(init=False, repr=False)  # over time, for each host
    histogram: FloatColumn = field(init=False, repr=False)  # of times between tokens
    events: FloatColumn = field(init=False, repr=False)  # that policies are to be told of
    rows: IntColumn = field(init=False, repr=False)  # requests that a policy is asked about
    answer: FloatColumn = field(init=False, repr=False)  # what it says
    caches: Caches = field(init=False, repr=False)
    caching: bool = field(init=False, default=False)  # some host has a prefix cache

    @property
    def tells_progress(self) -> bool:
        """Whether a policy is told of the tokens that running requests get."""
        return bool(self.telling.progress)

    @cached_property
    def least_urgent(self) -> int:
        """The largest priority of a request."""
        return int(self.workload.priority.max(initial=0))

    @cached_property
    def begins(self) -> float:
        """When the first request arrives; inf: there is none."""
        arrival = self.seconds[at.ARRIVAL]
        return float(arrival[~np.isnan(arrival)].min(initial=np.inf))

    @property
    def makes_arrivals(self) -> bool:
        """Whether requests arrive when others have ended, so that the run makes their arrivals."""
        return self.concurrency > 0 or self.workload.programs is not None

    def __post_init__(self) -> None:
        if self.concurrency and self.workload.programs is not None:
            raise InputError("workload: programs make their own arrivals; a closed loop cannot drive them")
        self.questions = Questions()
        self.arrays, self.state = {}, np.zeros(at.SCALARS, np.int64)
        lay_out(self)
        equip(self)
        label = self.workload.labels.adapter
        self.adapters = None if label is None else AdapterTable(self, self.replicas, label)
        self.views = Views(self)
        self.telling, self.asking = Telling(self), Asking(self)
        self._decide_who_is_asked()
        self._entries()

    def own(self, slot: int, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Keep an array alive and tell the kernel where it lies."""
        self.arrays[slot] = array
        self.state[slot] = array.ctypes.data
        return array

    # -- who decides ----------------------------------------------------------------------------------------------

    def _decide_who_is_asked(self) -> None:
        """Orders that never change and costs that are a plain column stay in the kernel; the others are asked."""
        state, roles = self.state, self.roles
        dynamic = self.asking.static_keys(roles.order, at.A_KEYS, at.KEY_WIDTH)
        state[at.DYNAMIC] = dynamic
        state[at.PICK] = dynamic and roles.order.asked == "pick"
        state[at.PREEMPTIVE] = roles.order.preemptive
        state[at.HOLD_DYNAMIC] = self.asking.static_keys(roles.hold, at.A_HOLD_KEYS, at.HOLD_KEY_WIDTH)
        if roles.victim is not None:
            state[at.VICTIM] = 2 if self.asking.static_keys(roles.victim, at.A_VICTIM_KEYS, at.VICTIM_WIDTH) else 1
        route = roles.route
        plain = self._terms(route, at.A_ROUTE_TERMS, at.ROUTE_TERMS) and roles.pool is None and self.renewed == 1
        state[at.ROUTE_ASKED] = not plain
        hosts = Hosts({"id": np.arange(len(self.replicas))})
        samples = route.sample(self.views.static_table(route.reads_job), hosts) if plain else None
        state[[at.ROUTE_SAMPLED, at.SAMPLE_WIDTH]] = samples is not None, 1
        if samples is not None:
            drawn = np.ascontiguousarray(samples, np.int64)
            if (
                drawn.ndim != 2
                or len(drawn) != len(self.workload)
                or (drawn.size and not 0 <= drawn.min() <= drawn.max() < len(hosts))
            ):
                raise PolicyError(
                    f"{type(route).__name__}: sample must give host ids, shape (jobs, d), found shape {drawn.shape}"
                )
            state[at.SAMPLE_WIDTH] = drawn.shape[1]
            self.own(at.A_SAMPLES, drawn)
        else:
            self.own(at.A_SAMPLES, np.zeros((1, 1), np.int64))
        limited = any(replica.max_outstanding < UNLIMITED for replica in self.replicas)
        asked = dynamic or state[at.HOLD_DYNAMIC] or state[at.VICTIM] == 2 or state[at.ROUTE_ASKED]
        self.fleet = self._together()
        in_step = any(replica.gang > 1 for replica in self.replicas)
        together = asked or limited or in_step or self.fleet is not None or state[at.HOOKS] or self.makes_arrivals
        together = together or self.caches.told
        state[at.GLOBAL] = together or self._line_matters()

    def _together(self) -> Fleet | None:
        """What acts on several hosts, where anything does."""
        split = any(replica.role != MIXED or replica.swap_blocks for replica in self.replicas)
        quiet = (self.plan is None or (not self.plan.outages and self.plan.energy is None)) and self.roles.scale is None
        if self.roles.retain is not None:
            self.jobs[at.WATCHED] = 1
            split = True
        quiet = quiet and self.roles.admit is None and self.roles.recall is None and self.adapters is None
        quiet = quiet and all(replica.seat is None for replica in self.replicas) and self.learns is None
        alone = self.roles.migrate is None and self.roles.pool is None
        if quiet and not split and self.workload.programs is None and alone:
            self.own(at.A_STOPS, np.zeros((1, 2), np.int64))
            return None
        self.state[at.STOP_ROOM] = len(self.workload) + 2 * int(self.state[at.RUNNING_ROOM]) + len(self.replicas)
        self.own(at.A_STOPS, np.zeros((int(self.state[at.STOP_ROOM]), 2), np.int64))
        plan = self.plan or Plan()
        return Fleet(
            self,
            replace(plan, kv_bytes=[replica.kv_bytes for replica in self.replicas]),
            self.roles.decode or LeastOutstanding(),
        )

    def _line_matters(self) -> bool:
        """Whether a router that never has to wait yet changes the order of requests that come together, or keeps some for ever."""
        keys, arrival = self.arrays[at.A_HOLD_KEYS], self.seconds[at.ARRIVAL]
        together = arrival[1:] == arrival[:-1]
        moved = (keys[1:] != keys[:-1]).any(axis=1)
        return bool((together & moved).any() or np.isinf(keys[:, 0]).any())

    def _terms(self, place: Place, slot: int, count: int) -> bool:
        """Tell the kernel what a cost is made of. False: it must be asked for."""
        plain = type(place).costs is Place.costs and all(name in ROUTE_COLUMNS for name in place.terms)
        terms = [[float(ROUTE_COLUMNS[name]), weight] for name, weight in place.terms.items()] if plain else []
        self.own(slot, np.array(terms or [[0.0, 0.0]]))
        self.state[count] = len(terms)
        return plain

    def decides_decode(self, place: Place) -> bool:
        """Whether the kernel can choose the host that decodes; what looks at some hosts only is asked."""
        return self._terms(place, at.A_DECODE_TERMS, at.DECODE_TERMS) and type(place).sample is Place.sample

    def _entries(self) -> None:
        """Compile what this run needs and nothing else."""
        from rota.worlds.serving.kernels import advance

        state = self.state
        state[at.SELF] = state.ctypes.data
        state[[at.BEGIN_ENTRY, at.COMPLETE_ENTRY]] = iteration_entries(self)
        if any(replica.prefix_caching for replica in self.replicas):
            from rota.worlds.serving.kernels import prefix

            state[[at.CACHED_ENTRY, at.OPEN_ENTRY]] = prefix.cached_entry.address, prefix.open_entry.address
            state[[at.EXTEND_ENTRY, at.RELEASE_ENTRY]] = prefix.extend_entry.address, prefix.release_entry.address
            state[at.EXTEND_DECODERS_ENTRY] = prefix.extend_decoders_entry.address
            self.caches.entries()
        self._advance = advance.advance_together if state[at.GLOBAL] else advance.advance_apart
        self._engine = self.fleet.engine if self.fleet is not None else None  # of pools
        if self._engine is not None:
            self._advance = self._engine.advance
        self._settle = advance.settle

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self, until: float = np.inf) -> None:
        """Advance to the end, or to `until` seconds.

        Raises:
            PolicyError: a policy's answer is no answer.
        """
        state, fleet, engine = self.state, self.fleet, self._engine
        if engine is not None:
            engine.until = until
        while True:
            if state[at.ASK_ROWS] and not self._settle(state):
                raise PolicyError(
                    f"{self.asking.name()}: keys at {self.clock[0]:g} s contain NaN; answer with finite numbers or inf"
                )
            due = np.inf if fleet is None else fleet.next()
            code = self._advance(state, min(until, due))
            if state[at.EVENT_COUNT]:
                self.telling.deliver()
            if self.telling.progress:
                self.telling.tell_progress()
            if code == at.ORDER:
                self.asking.ask()
            elif code == at.PLACE:
                self._ask_place()
            elif code == at.GROW:
                self.grow()
            elif code == at.STOPS and fleet is not None:
                fleet.stops()
            elif code == at.EVENTS:
                continue
            elif fleet is None:
                return
            else:
                if engine is not None:  # it may have gone beyond what was due
                    due = fleet.next()
                if due > until or due == np.inf or self._over(code):
                    return
                fleet.act(due)

    def _ask_place(self) -> None:
        job = int(self.state[at.ASK_HOST])
        pools = self.fleet.pools if self.fleet is not None else None
        if self._engine is not None:
            self._engine.place(job, self.now)
            self.questions.place += 1
            return
        costs = self.views.costs(self.roles.route, job, self.now) if pools is None else pools.costs(job, self.now)
        self.questions.place += 1
        self.answer[: len(costs)] = costs
        self.state[at.PLACED] = job + 1

    def grow(self) -> None:
        """More room for what has become too little: lines of requests, or events on their way to the router.

        Raises:
            PolicyError: requests displace one another for ever.
            BrokenRunError: replicas begin nothing, again and again, while time stands.
        """
        if self.state[at.FULL] & at.ENDLESS:
            if self.state[at.STANDING] > self.state[at.DISPLACED]:
                raise BrokenRunError(
                    f"time stands at {self.now:g} s: replicas were woken {self.state[at.STANDING]:,} times and began nothing; "
                    "this is a bug in rota: please report it with the scenario and its seed"
                )
            order, victim = self.roles.order, self.roles.victim
            names = type(order).__name__ + (f" with victim {type(victim).__name__}" if victim is not None else "")
            raise PolicyError(
                f"{names}: requests displace one another for ever at {self.now:g} s ({self.state[at.DISPLACED]:,} displaced without a token): "
                "the KV cache is too small for it, or the order turns round when work is lost"
            )
        if self.caches.grow():
            return
        lay_out_lines(self, 2 * int(self.state[at.QUEUE_ROOM]))

    def room_for_one_more(self) -> None:
        if self.state[at.FULL] & 1:
            lay_out_lines(self, 2 * int(self.state[at.QUEUE_ROOM]))

    def _over(self, code: int) -> bool:
        """Whether nothing that is still to come changes anything."""
        done = self.state[at.FINISHED] == self.state[at.JOBS]
        return bool(done or (code == at.DONE and self.fleet is not None and self.fleet.idle))

    # -- for the fleet --------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return float(self.clock[at.NOW_CLOCK])

    def take_stops(self) -> list[tuple[int, int]]:
        """(kind, request) of all that the kernel has stopped for, in this order."""
        found = sorted(map(tuple, self.arrays[at.A_STOPS][: self.state[at.STOP_COUNT]].tolist()))
        self.state[at.STOP_COUNT] = 0
        if self.caching:
            self.table_for_each()
        return found

    def table_for_each(self) -> None:
        """As many block tables as requests may run, besides those that keep their KV where they ran until it has moved."""
        hosts, room = self.hosts, int(self.state[at.SLOT_ROOM])
        running = hosts[:, at.RUNNING_COUNT] + hosts[:, at.LAGGING]
        if (hosts[:, at.SLOTS_FREE] + running >= self.state[at.RUNNING_ROOM]).all():
            return
        tables = np.zeros((len(hosts), 2 * room, int(self.state[at.TABLE_ROOM])), np.int32)
        tables[:, :room] = self.arrays[at.A_TABLES]
        self.own(at.A_TABLES, tables)
        slots = np.zeros((len(hosts), 2 * room), np.int64)
        for row, old, host in zip(slots, self.arrays[at.A_SLOTS], hosts, strict=True):
            free = int(host[at.SLOTS_FREE])
            row[:free], row[free : free + room] = old[:free], np.arange(room, 2 * room)
            host[at.SLOTS_FREE] = free + room
        self.own(at.A_SLOTS, slots)
        self.state[at.SLOT_ROOM] = 2 * room
