"""The fleet in time: it runs until a policy must be asked, shows the table, and takes the answer back."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Order, Place, hooks
from rota.kernel.errors import InputError, PolicyError
from rota.kernel.tables import HOST_COLUMNS, JOB_COLUMNS, Column, Hosts, Jobs
from rota.rules.balance import LeastOutstanding
from rota.worlds.serving.adapters import COLUMNS as ADAPTER_COLUMNS
from rota.worlds.serving.adapters import AdapterTable
from rota.worlds.serving.asked_models import serves
from rota.worlds.serving.batching import UNLIMITED
from rota.worlds.serving.caching import Caches, Index
from rota.worlds.serving.classes import due
from rota.worlds.serving.columns import (
    HOST_VALUES,
    LOADS,
    PAIR_COLUMNS,
    ROUTE_COLUMNS,
    SERVING_HOST_COLUMNS,
    SERVING_JOB_COLUMNS,
)
from rota.worlds.serving.energy import Clocks
from rota.worlds.serving.fleet import MIXED, ROLES, Fleet, Plan
from rota.worlds.serving.inside import equip, iteration_entries
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.kernels.pages import PAGE
from rota.worlds.serving.model import PrefixBlocks, Workload
from rota.worlds.serving.naming import lay_out_names
from rota.worlds.serving.pools import Pools
from rota.worlds.serving.predictors import History
from rota.worlds.serving.prefix_tree import prefix_groups
from rota.worlds.serving.quality import COLUMNS as CHOICE_COLUMNS
from rota.worlds.serving.quality import Choice
from rota.worlds.serving.questions import Question, kept
from rota.worlds.serving.replica import Replica, Roles
from rota.worlds.serving.rounds import LEFT
from rota.worlds.serving.semantic import Similarity

FloatColumn = npt.NDArray[np.float64]
IntColumn = npt.NDArray[np.int64]

SERIES_BINS = 512
KEY_ROOM = 8  # columns that a policy's keys may have
LENGTHS = ("output_tokens", "size", "remaining")  # columns that say how long an answer will be
NO_COLUMNS: Mapping[str, FloatColumn] = MappingProxyType({})


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
    reserved: list[tuple[IntColumn, int]] = field(
        default_factory=list, init=False, repr=False
    )  # tokens set aside for each request, in buckets of so many
    choice: Choice | None = None  # qualities and token prices of the models
    index: Index = field(default_factory=Index)
    renewed: int = 1
    similarity: Similarity | None = None  # what a look-up in a semantic cache finds
    learns: History | None = None

    @property
    def tells_progress(self) -> bool:
        """Whether a policy is told of the tokens that running requests get."""
        return bool(self._progress)

    @cached_property
    def least_urgent(self) -> int:
        """The largest priority of a request."""
        return int(self.workload.priority.max(initial=0))

    @property
    def makes_arrivals(self) -> bool:
        """Whether requests arrive when others have ended, so that the run makes their arrivals."""
        return self.concurrency > 0 or self.workload.programs is not None

    def __post_init__(self) -> None:
        if self.concurrency and self.workload.programs is not None:
            raise InputError("workload: programs make their own arrivals; a closed loop cannot drive them")
        self.questions = Questions()
        self._arrays: dict[int, npt.NDArray[Any]] = {}
        self.state: IntColumn = np.zeros(at.SCALARS, np.int64)
        self._hosts()
        self._jobs()
        self._lines()
        self._accounts()
        self._prefix()
        equip(self)
        label = self.workload.labels.adapter
        self.adapters = None if label is None else AdapterTable(self, self.replicas, label)
        self._models()
        self._fixed_columns()
        self._decide_who_is_asked()
        self._entries()

    # -- arrays ---------------------------------------------------------------------------------------------------

    def _own(self, slot: int, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Keep an array alive and tell the kernel where it lies."""
        self._arrays[slot] = array
        self.state[slot] = array.ctypes.data
        return array

    def _jobs(self) -> None:
        rows = len(self.workload)
        self.jobs = self._own(at.A_JOB_INTS, np.zeros((at.JOB_INTS, rows), np.int64))
        self.seconds = self._own(at.A_JOB_FLOATS, np.full((at.JOB_FLOATS, rows), np.nan))
        self.jobs[at.PROMPT], self.jobs[at.OUTPUT] = self.workload.prompt_tokens, self.workload.output_tokens
        self.jobs[at.HOST] = -1
        visible = self.visible_output
        self.seconds[at.SIZE] = 0.0 if visible is None else np.nan_to_num(visible)
        self.state[at.JOBS] = rows
        heap = np.zeros(max(rows, 1) if self.makes_arrivals else 1, np.int64)
        self._own(at.A_ARRIVALS, heap)
        programs = self.workload.programs
        if programs is not None:
            roots = np.flatnonzero(programs.roots)  # in the order of arrival: a sorted array is a heap
            heap[: len(roots)] = roots
            self.seconds[at.ARRIVAL, roots] = self.workload.arrival[roots]
            self.state[[at.CLOSED, at.PENDING, at.ISSUED]] = 1, len(roots), rows  # none is issued when another one ends
            self.jobs[at.WATCHED] = 1
        elif self.concurrency:
            self.seconds[at.THINK] = 0.0 if self.think is None else self.think
            users = min(self.concurrency, rows)
            starts = np.argsort(self.seconds[at.THINK, :users], kind="stable")  # a sorted array is a heap
            self.seconds[at.ARRIVAL, :users] = self.seconds[at.THINK, :users]
            heap[:users] = starts
            self.state[[at.CLOSED, at.PENDING, at.ISSUED]] = self.concurrency, users, users
        else:
            self.seconds[at.ARRIVAL] = self.workload.arrival
        self.state[[at.KEY_WIDTH, at.HOLD_KEY_WIDTH, at.VICTIM_WIDTH]] = 1
        for slot in (at.A_KEYS, at.A_HOLD_KEYS, at.A_VICTIM_KEYS):
            self._own(slot, np.zeros((rows, 1)))

    def _hosts(self) -> None:
        fleet = self.replicas
        self.hosts: IntColumn = self._own(at.A_HOST_INTS, np.zeros((len(fleet), at.HOST_INTS), np.int64))
        self.clocks: FloatColumn = self._own(at.A_HOST_FLOATS, np.zeros((len(fleet), at.HOST_FLOATS)))
        for row, clock, replica in zip(self.hosts, self.clocks, fleet, strict=True):
            rules = replica.rules
            row[at.KV_BLOCKS] = row[at.FREE] = replica.kv_blocks
            row[at.BLOCK_TOKENS], row[at.MAX_RUNNING] = (
                replica.block_tokens,
                min(replica.max_running, rules.max_running),
            )
            row[at.MAX_OUTSTANDING], row[at.CONTEXT_LIMIT] = replica.max_outstanding, replica.context_limit
            row[[at.BUDGET, at.CHUNKED, at.MIXED, at.PADDED]] = rules.budget, rules.chunked, rules.mixed, rules.padded
            row[[at.WHEN_EMPTY, at.WATERMARK, at.RESERVE]] = rules.when_empty, rules.watermark_blocks, rules.reserve
            row[[at.RESERVE_TOKENS, at.FULL_CHECK, at.ASYNC]] = rules.reserve_tokens, rules.full_check, rules.ahead
            row[at.TIMING_ENTRY] = replica.timing.entry.address
            row[at.TIMING_PARAMETERS] = replica.timing.parameters.ctypes.data
            row[at.EXTREMES] = replica.timing.kind == "llmservingsim"
            clock[[at.PREFILL_RATE, at.DECODE_RATE]] = replica.prefill_rate, replica.decode_rate
            clock[at.REVIEW_AT], clock[at.SLOWNESS] = np.inf, 1.0
            row[at.SWAP_ROOM], row[at.SPARE] = replica.swap_blocks, rules.spare_block
            row[at.PROMPTS_FIRST], row[at.LONG_WAIT] = rules.prompts_first, rules.long_prompts_wait
            if replica.swap_blocks and replica.swap_blocking:
                clock[at.SWAP_RATE] = replica.kv_bytes * replica.swap_compress / replica.swap_bandwidth
                clock[at.SWAP_COPY] = replica.swap_per_copy
            row[[at.SWAP_GROUP, at.SWAP_KEEPS]] = replica.swap_group, replica.swap_reuse
            row[at.ROLE], row[at.GANG_SIZE] = ROLES[replica.role], replica.gang
        gangs = [k for k, replica in enumerate(fleet) if k == 0 or replica != fleet[k - 1]]
        for begin in gangs:  # a run of equal replicas is cut into gangs
            size = fleet[begin].gang
            for k in range(begin, next((each for each in gangs if each > begin), len(fleet))):
                self.hosts[k, at.GANG] = begin + (k - begin) // size * size
        self.state[at.HOSTS] = len(fleet)
        self.state[at.CLASS_ROOM] = max(replica.block_tokens for replica in fleet)
        self.state[at.RUNNING_ROOM] = max(replica.max_running for replica in fleet) + 1
        self._own(at.A_CLASSES, np.zeros((len(fleet), self.state[at.CLASS_ROOM]), np.int64))
        self._own(at.A_FEATURES, np.zeros((len(fleet), at.FEATURES)))
        for slot in (at.A_RUNNING, at.A_ENDING, at.A_PREFILLS, at.A_FRESH, at.A_LAGGING):
            self._own(slot, np.zeros((len(fleet), self.state[at.RUNNING_ROOM]), np.int64))

    def _lines(self, room: int = 0) -> None:
        """Room for waiting jobs; a larger copy when it was too little."""
        hosts, before = len(self.replicas), self._arrays.get(at.A_QUEUE)
        room = max(room, 1024 + 2 * int(self.state[at.RUNNING_ROOM]))
        queue = np.zeros((hosts + 1, room), np.int64)
        if before is not None:
            queue[:, : before.shape[1]] = before
        self._own(at.A_QUEUE, queue)
        self.state[at.QUEUE_ROOM] = room
        self.state[at.FULL] &= ~1
        rows = room + int(self.state[at.RUNNING_ROOM])
        self._rows = self._own(at.A_ROWS, np.zeros(rows, np.int64))
        self._answer = self._own(at.A_ANSWER, np.zeros(max(rows * KEY_ROOM, hosts)))
        self._room = rows
        self._shown: FloatColumn | None = None
        if self.state[at.ADAPTER_ENTRY] and self.adapters is not None:
            self.adapters.lines()

    def _accounts(self) -> None:
        hosts, rows = len(self.replicas), len(self.workload)
        self.state[at.BINS] = SERIES_BINS
        self.series = self._own(at.A_SERIES, np.zeros((hosts, SERIES_BINS, at.SERIES)))
        self.histogram = self._own(at.A_HISTOGRAM, np.zeros((2, at.HISTOGRAM_ROOM)))
        self.clock = self._own(at.A_CLOCK, np.zeros(at.CLOCK_FLOATS))
        first, last = (
            (float(self.workload.arrival[k]) for k in (0, -1)) if rows and not self.concurrency else (0.0, 0.0)
        )
        self.clock[at.BIN_SECONDS] = max((last - first) / SERIES_BINS, 1e-3)
        self.clock[at.BIN_START] = self.clocks[:, at.TOUCHED] = first
        self.state[at.EVENT_ROOM] = 4096 + 4 * self.state[at.RUNNING_ROOM]
        self._events = self._own(at.A_EVENTS, np.zeros((self.state[at.EVENT_ROOM], 4)))

    def _prefix(self) -> None:
        """Arrays of the prefix cache; tiny ones when no replica has it, so that addresses are always valid."""
        caching = any(replica.prefix_caching for replica in self.replicas)
        hosts = len(self.replicas)
        sizes = sorted({replica.block_tokens for replica in self.replicas if replica.prefix_caching})
        reserved = max(replica.rules.reserve_tokens for replica in self.replicas)
        starts, names, most = lay_out_names(self.workload, sizes, reserved)
        for row, replica in zip(self.hosts, self.replicas, strict=True):
            row[at.PREFIX] = 1 + sizes.index(replica.block_tokens) if replica.prefix_caching else 0
        self._own(at.A_NAME_STARTS, starts)
        self._own(at.A_NAMES, names)
        blocks = max(replica.kv_blocks for replica in self.replicas) if caching else 1
        smallest = min(replica.block_tokens for replica in self.replicas)
        longest = int((self.workload.prompt_tokens + self.workload.output_tokens).max(initial=1))
        longest = max(longest, reserved)  # set aside, needed or not
        table = min(-(-longest // smallest) + 1, blocks) if caching else 1
        slots = int(self.state[at.RUNNING_ROOM]) if caching else 1
        room = -(-most // PAGE) + blocks + 1
        self.state[[at.BLOCK_ROOM, at.TABLE_ROOM, at.MAP_ROOM, at.SLOT_ROOM]] = blocks, table, room, slots
        self._caching = caching
        self._own(at.A_BLOCKS, np.zeros((hosts, blocks, 4), np.int32))
        self._own(at.A_TABLES, np.zeros((hosts, slots, table), np.int32))
        self._own(at.A_SLOTS, np.zeros((hosts, slots), np.int64))
        self._own(at.A_MAP_PAGES, np.zeros((hosts, room), np.int32))
        self._own(at.A_MAP_BLOCKS, np.zeros((hosts, blocks + 1, PAGE) if caching else (1, 1, 1), np.int32))
        self.caches = Caches(self, self._own)
        for r in range(hosts if caching else 0):
            self._empty_cache(r)

    def _empty_cache(self, host: int) -> None:
        """All blocks of a host are free and hold nothing."""
        count, slots = self.replicas[host].kv_blocks, int(self.state[at.SLOT_ROOM])
        name, holders, previous, after = self._arrays[at.A_BLOCKS][host].T
        name[:], holders[:], previous[:], after[:] = -1, 0, -1, -1
        previous[:count] = np.arange(-1, count - 1)
        after[: count - 1] = np.arange(1, count)
        self.hosts[host, [at.FREE_HEAD, at.FREE_TAIL, at.SLOTS_FREE]] = 0, count - 1, slots
        self._arrays[at.A_SLOTS][host] = np.arange(slots)
        both, most = self._arrays[at.A_MAP_PAGES][host], int(self.state[at.BLOCK_ROOM]) + 1
        where, vacant = both[:-most], both[-most:]
        self._arrays[at.A_MAP_BLOCKS][host, where[where > 0]] = 0
        where[:] = 0
        vacant[:] = np.arange(1, most + 1)  # each says which is the next
        self.caches.empty(host)

    def _models(self) -> None:
        """Which replica serves what a request asks for."""
        label = self.workload.labels.model
        if label is None:
            return
        served = self._own(at.A_SERVES, serves(label, [replica.model for replica in self.replicas]))
        self._own(at.A_ASKED, np.where(label.index < 0, len(label.names), label.index))
        self.state[at.MODELS] = len(served)

    def take_turns(self) -> None:
        """Tell the kernel what requests were promised, for machines whose replicas take turns."""
        from rota.worlds.serving.kernels import nodes

        work = self.workload
        self._own(at.A_PROMISES, np.stack([work.ttft_limit, np.where(np.isinf(work.tpot_limit), 0.0, work.tpot_limit)]))
        self.state[at.TURN_ENTRY] = nodes.turn_entry.address

    def lose_cache(self, host: int) -> None:
        """A replica's model has gone, and what it had in its prefix cache."""
        from rota.worlds.serving.kernels import nodes

        nodes.let_go(self.state, host)
        if self.replicas[host].prefix_caching:
            self._empty_cache(host)

    def wake(self, host: int, now: float) -> None:
        """A replica's model has come."""
        from rota.worlds.serving.kernels import nodes

        nodes.wake(self.state, host, now)

    # -- what policies see ----------------------------------------------------------------------------------------

    def _fixed_columns(self) -> None:
        work, rows = self.workload, len(self.workload)
        rate = self.replicas[0]
        arrives = work.arrival if not self.makes_arrivals else np.full(rows, np.inf)
        weight, slo_class = work.labels.weight, work.labels.slo_class
        fixed = {
            "priority": work.priority,
            "due": due(work) + arrives,
            "first_due": work.ttft_limit + arrives,
            "weight": np.ones(rows) if weight is None else weight,
            "slo_class": np.full(rows, -1) if slo_class is None else slo_class.index,
            "tenant": work.tenant,
            "prompt_tokens": work.prompt_tokens,
            "session": work.session,
        }
        if work.programs is not None:
            begins = np.full(int(work.programs.program.max(initial=-1)) + 1, np.inf)
            np.minimum.at(begins, work.programs.program, work.arrival)
            fixed["program"] = work.programs.program
            fixed["program_release"] = begins[work.programs.program]
            fixed["program_attained"] = fixed["path_attained"] = fixed[LEFT] = np.zeros(rows)
        if any({"prefix_group", "group_tokens"} & set(policy.reads) for policy in self.roles.policies()):
            empty = PrefixBlocks(np.zeros(rows + 1, np.int64), np.zeros(0, np.int64), 1)
            fixed["prefix_group"], fixed["group_tokens"] = prefix_groups(work.prefix or empty)
        self._columns = {**JOB_COLUMNS, **SERVING_JOB_COLUMNS}
        moving = {
            "cached_tokens": -7,
            "attained": -6,
            "remaining": -5,
            "generated_tokens": -4,
            "prefilled_tokens": -3,
            "running": -2,
            "preemptions": -1,
        }
        if self.visible_output is None:
            del moving["remaining"]
            for name in LENGTHS:
                self._columns[name] = Column(name, self._columns[name].unit, self._columns[name].meaning, "hidden")
        else:
            fixed["output_tokens"] = self.visible_output
            fixed["size"] = rate.prefill_rate * work.prompt_tokens + rate.decode_rate * self.visible_output
            for name in LENGTHS:
                column = self._columns[name]
                self._columns[name] = Column(name, column.unit, column.meaning, self.quality.quality, self.quality.by)
        if self.makes_arrivals:  # looked up when asked
            fixed["release"] = np.full(rows, np.nan)
        else:
            fixed["release"] = work.arrival
        self._fixed = np.ascontiguousarray(np.stack([np.asarray(column, np.float64) for column in fixed.values()]))
        self._codes = {name: position for position, name in enumerate(fixed)} | moving

    def static_table(self, reads: tuple[str, ...]) -> Jobs:
        """Columns of all requests as they are when they arrive; those that are learned meanwhile are not known yet."""
        values: dict[str, npt.NDArray[Any]] = {}
        for name in reads:
            if self.learns is not None and name in LENGTHS:
                continue
            if name == "id":
                values[name] = np.arange(len(self.workload))
            elif name in self._codes and (code := self._codes[name]) >= 0:
                values[name] = self._fixed[code]
            elif name in self._codes and name != "remaining":
                values[name] = np.zeros(len(self.workload))
            elif name in self._codes:
                values[name] = self._fixed[self._codes["size"]]
        columns = self._columns
        if self.learns is not None:
            columns = columns | {name: replace(columns[name], quality="hidden", by="") for name in LENGTHS}
        return Jobs(values, columns.values(), rows=len(self.workload))

    def _decide_who_is_asked(self) -> None:
        """Orders that never change and costs that are a plain column stay in the kernel; the others are asked."""
        state, roles = self.state, self.roles
        dynamic = self._static_keys(roles.order, at.A_KEYS, at.KEY_WIDTH)
        state[at.DYNAMIC] = dynamic
        state[at.PICK] = dynamic and roles.order.asked == "pick"
        state[at.PREEMPTIVE] = roles.order.preemptive
        state[at.HOLD_DYNAMIC] = self._static_keys(roles.hold, at.A_HOLD_KEYS, at.HOLD_KEY_WIDTH)
        if roles.victim is not None:
            state[at.VICTIM] = 2 if self._static_keys(roles.victim, at.A_VICTIM_KEYS, at.VICTIM_WIDTH) else 1
        route = roles.route
        plain = self._terms(route, at.A_ROUTE_TERMS, at.ROUTE_TERMS) and roles.pool is None and self.renewed == 1
        state[at.ROUTE_ASKED] = not plain
        hosts = Hosts({"id": np.arange(len(self.replicas))})
        samples = route.sample(self.static_table(route.reads_job), hosts) if plain else None
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
            self._own(at.A_SAMPLES, drawn)
        else:
            self._own(at.A_SAMPLES, np.zeros((1, 1), np.int64))
        self._hooked = {name: [p for p in roles.policies() if name in hooks(p)] for name in _HOOK_NAMES}
        self._progress = [p for p in roles.policies() if "on_progress" in hooks(p)]
        self._told = np.zeros(len(self.workload))  # tokens of each answer that progress was told of
        state[at.HOOKS] = any(self._hooked.values()) or bool(self._progress)
        limited = any(replica.max_outstanding < UNLIMITED for replica in self.replicas)
        asked = dynamic or state[at.HOLD_DYNAMIC] or state[at.VICTIM] == 2 or state[at.ROUTE_ASKED]
        self._views: dict[int, tuple[int, Mapping[str, FloatColumn]]] = {}
        self._questions: dict[int, Question] = {}
        self.fleet = self._together()
        in_step = any(replica.gang > 1 for replica in self.replicas)
        together = asked or limited or in_step or self.fleet is not None or state[at.HOOKS] or self.makes_arrivals
        together = together or self.caches.told
        state[at.GLOBAL] = together or self._line_matters()
        self._reviewed = {id(p) for p in (roles.order, roles.hold) if type(p).review is not Order.review}
        self._plans: dict[int, _Plan] = {}

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
            self._own(at.A_STOPS, np.zeros((1, 2), np.int64))
            return None
        self.state[at.STOP_ROOM] = len(self.workload) + 2 * int(self.state[at.RUNNING_ROOM]) + len(self.replicas)
        self._own(at.A_STOPS, np.zeros((int(self.state[at.STOP_ROOM]), 2), np.int64))
        plan = self.plan or Plan()
        return Fleet(
            self,
            replace(plan, kv_bytes=[replica.kv_bytes for replica in self.replicas]),
            self.roles.decode or LeastOutstanding(),
        )

    def _line_matters(self) -> bool:
        """Whether a router that never has to wait yet changes the order of requests that come together, or keeps some for ever."""
        keys, arrival = self._arrays[at.A_HOLD_KEYS], self.seconds[at.ARRIVAL]
        together = arrival[1:] == arrival[:-1]
        moved = (keys[1:] != keys[:-1]).any(axis=1)
        return bool((together & moved).any() or np.isinf(keys[:, 0]).any())

    def _static_keys(self, policy: Order, slot: int, width: int) -> bool:
        """Compute keys once where they cannot change. Returns whether the policy must be asked instead."""
        if policy.asked != "arrival" or (self.makes_arrivals and {"release", *_PROGRAM_COLUMNS} & set(policy.reads)):
            return True
        if self.learns is not None and set(LENGTHS) & set(policy.reads):
            return True
        rows = len(self.workload)
        keys = np.asarray(policy.keys(self.static_table(policy.reads), 0.0), np.float64)
        if keys.shape[:1] != (rows,) or keys.ndim > 2 or np.isnan(keys).any():
            raise PolicyError(
                f"{type(policy).__name__}: keys for {rows} jobs have shape {keys.shape} or contain NaN; answer one number (or inf) a row"
            )
        self._own(slot, np.ascontiguousarray(keys.reshape(rows, -1)))
        self.state[width] = self._arrays[slot].shape[1]
        return False

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
                    f"{self._asked_name()}: keys at {self.clock[0]:g} s contain NaN; answer with finite numbers or inf"
                )
            due = np.inf if fleet is None else fleet.next()
            code = self._advance(state, min(until, due))
            if state[at.EVENT_COUNT]:
                self._deliver()
            if self._progress:
                self._tell_progress()
            if code == at.ORDER:
                self._ask_order()
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

    def grow(self) -> None:
        """More room for what has become too little: lines of requests, or events on their way to the router.

        Raises:
            PolicyError: requests displace one another for ever.
        """
        if self.state[at.FULL] & at.ENDLESS:
            order, victim = self.roles.order, self.roles.victim
            names = type(order).__name__ + (f" with victim {type(victim).__name__}" if victim is not None else "")
            raise PolicyError(
                f"{names}: requests displace one another for ever at {self.now:g} s ({self.state[at.DISPLACED]:,} displaced without a token): "
                "the KV cache is too small for it, or the order turns round when work is lost"
            )
        if self.caches.grow():
            return
        self._lines(2 * int(self.state[at.QUEUE_ROOM]))

    def _room_for_one_more(self) -> None:
        if self.state[at.FULL] & 1:
            self._lines(2 * int(self.state[at.QUEUE_ROOM]))

    def _over(self, code: int) -> bool:
        """Whether nothing that is still to come changes anything."""
        done = self.state[at.FINISHED] == self.state[at.JOBS]
        return bool(done or (code == at.DONE and self.fleet is not None and self.fleet.idle))

    # -- what the fleet does --------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return float(self.clock[at.NOW_CLOCK])

    def take_stops(self) -> list[tuple[int, int]]:
        """(kind, request) of all that the kernel has stopped for, in this order."""
        found = sorted(map(tuple, self._arrays[at.A_STOPS][: self.state[at.STOP_COUNT]].tolist()))
        self.state[at.STOP_COUNT] = 0
        if self._caching:
            self.table_for_each()
        return found

    def table_for_each(self) -> None:
        """As many block tables as requests may run, besides those that keep their KV where they ran until it has moved."""
        hosts, room = self.hosts, int(self.state[at.SLOT_ROOM])
        running = hosts[:, at.RUNNING_COUNT] + hosts[:, at.LAGGING]
        if (hosts[:, at.SLOTS_FREE] + running >= self.state[at.RUNNING_ROOM]).all():
            return
        tables = np.zeros((len(hosts), 2 * room, int(self.state[at.TABLE_ROOM])), np.int32)
        tables[:, :room] = self._arrays[at.A_TABLES]
        self._own(at.A_TABLES, tables)
        slots = np.zeros((len(hosts), 2 * room), np.int64)
        for row, old, host in zip(slots, self._arrays[at.A_SLOTS], hosts, strict=True):
            free = int(host[at.SLOTS_FREE])
            row[:free], row[free : free + room] = old[:free], np.arange(room, 2 * room)
            host[at.SLOTS_FREE] = free + room
        self._own(at.A_SLOTS, slots)
        self.state[at.SLOT_ROOM] = 2 * room

    def can_decode(self, job: int) -> npt.NDArray[np.bool_]:
        """Which hosts are up and could hold a request whose prompt was computed elsewhere."""
        tokens = self.jobs[at.PROMPT, job] + self.jobs[at.OUTPUT, job]
        whole = -(-(tokens - 1) // self.hosts[:, at.BLOCK_TOKENS]) + self.hosts[:, at.WATERMARK]
        fits = (whole <= self.hosts[:, at.KV_BLOCKS]) & (tokens <= self.hosts[:, at.CONTEXT_LIMIT])
        fits &= (self.hosts[:, at.RESERVE] != at.RESERVE_FIXED) | (tokens - 1 <= self.hosts[:, at.RESERVE_TOKENS])
        return np.asarray(fits & (self.hosts[:, at.ROLE] != at.PREFILL_ROLE) & ~self.hosts[:, at.SHUT].astype(bool))

    def holds(self, job: int, host: int) -> bool:
        """Whether a host could hold prompt and answer of a request, whatever its role."""
        from rota.worlds.serving.kernels import fleet

        return bool(fleet.could_hold(self.state, host, job))

    def takes(self, job: int, host: int) -> bool:
        """Whether the router may send a request to a host now."""
        from rota.worlds.serving.kernels import fleet

        return bool(fleet.could_take(self.state, host, job))

    def hold_blocks(self, host: int, blocks: int, now: float) -> None:
        """A host sets KV blocks aside for a copy; negative: gives them back."""
        from rota.worlds.serving.kernels import fleet

        fleet.hold(self.state, host, blocks, now)

    def waiting(self) -> FloatColumn:
        """For each host the prompts and answers that are there and not in the iteration under way."""
        from rota.worlds.serving.kernels import fleet

        out = np.zeros(len(self.replicas))
        fleet.count_waiting(self.state, out)
        return out

    def at_host(self, host: int) -> IntColumn:
        """Requests that run or wait at a host."""
        counts = self.hosts[host, [at.RUNNING_COUNT, at.QUEUED_COUNT]]
        slots = (at.A_RUNNING, at.A_QUEUE)
        return np.concatenate([self._arrays[a][host, :count] for a, count in zip(slots, counts, strict=True)])

    def present(self, host: int) -> bool:
        """Whether a host has a request whose KV is there, or is to be computed there."""
        rows = self.at_host(host)
        coming = (self.jobs[at.STATE, rows] == at.MOVING) | (self.jobs[at.SOURCE, rows] > 0)
        return bool(self.hosts[host, at.INBOX_COUNT] > 0 or not coming.all())

    def visible_tokens(self, job: int) -> float:
        """KV of a request at its end, as far as its answer is visible."""
        return float(self.workload.prompt_tokens[job] + self.seconds[at.SIZE, job])

    def send(self, job: int, host: int, now: float) -> None:
        """A parked request goes to a host: its KV at once where links push and there is room, otherwise it queues."""
        from rota.worlds.serving.kernels import fleet

        if self.plan is not None and self.plan.link.push and fleet.push_to(self.state, job, host, now):
            return
        self._room_for_one_more()
        fleet.send(self.state, job, host, now)

    def _terms(self, place: Place, slot: int, count: int) -> bool:
        """Tell the kernel what a cost is made of. False: it must be asked for."""
        plain = type(place).costs is Place.costs and all(name in ROUTE_COLUMNS for name in place.terms)
        terms = [[float(ROUTE_COLUMNS[name]), weight] for name, weight in place.terms.items()] if plain else []
        self._own(slot, np.array(terms or [[0.0, 0.0]]))
        self.state[count] = len(terms)
        return plain

    def decides_decode(self, place: Place) -> bool:
        """Whether the kernel can choose the host that decodes; what looks at some hosts only is asked."""
        return self._terms(place, at.A_DECODE_TERMS, at.DECODE_TERMS) and type(place).sample is Place.sample

    def send_to_cheapest(self, job: int, now: float) -> bool:
        """A parked request queues at the host that can decode it for the least. False: there is none."""
        from rota.worlds.serving.kernels import fleet

        if self.plan is not None and self.plan.link.push:
            host = fleet.cheapest_decoder(self.state, job)
            if host >= 0:
                self.send(job, host, now)
            return bool(host >= 0)
        self._room_for_one_more()
        return bool(fleet.send_to_cheapest(self.state, job, now))

    def enter(self, job: int, now: float) -> None:
        """A request arrives that others had held back."""
        from rota.worlds.serving.kernels import fleet

        self.seconds[at.ARRIVAL, job] = now
        self._room_for_one_more()
        fleet.enter(self.state, job, now)

    def served(self, job: int) -> float:
        """Seconds of work that an ended request was."""
        clock = self.clocks[self.jobs[at.HOST, job]]
        return float(
            clock[at.PREFILL_RATE] * self.jobs[at.PROMPT, job] + clock[at.DECODE_RATE] * self.jobs[at.OUTPUT, job]
        )

    def tell_program(self, name: str, rows: IntColumn | int, value: float | FloatColumn) -> None:
        """A column of programs changes for these requests."""
        self._fixed[self._codes[name], rows] = value

    def switch(self, job: int, host: int, now: float) -> bool:
        """A decoding request stops where it is and goes on at another host. False: it decodes no more, or there is no room."""
        from rota.worlds.serving.kernels import fleet

        return bool(fleet.switch(self.state, job, host, now))

    def reserve_room(self, job: int, host: int, tokens: int, reserved: int, now: float) -> int:
        """A host sets KV blocks aside for a decoding request's first tokens. Returns how many, with those from before; -1: it refuses."""
        from rota.worlds.serving.kernels import migrate

        return int(migrate.reserve_room(self.state, job, host, tokens, reserved, now))

    def depart(self, job: int, host: int, reserved: int, now: float) -> bool:
        """A decoding request leaves its batch for another host, whose reserved blocks become its own; its KV stays until it lands. False: it cannot."""
        from rota.worlds.serving.kernels import migrate

        done = bool(migrate.depart(self.state, job, host, reserved, now))
        if self._caching:
            self.table_for_each()
        return done

    def decoding(self, host: int) -> IntColumn:
        """Requests that decode at a host, the one with the least KV first."""
        rows = self._arrays[at.A_RUNNING][host, : self.hosts[host, at.RUNNING_COUNT]]
        rows = rows[self.jobs[at.STATE, rows] == at.DECODING]
        context = self.jobs[at.BASE, rows] - self.jobs[at.JOINED, rows]
        return np.asarray(rows[np.lexsort((rows, context))])

    def kv_tokens(self, job: int) -> int:
        """Tokens that a decoding request has in the KV cache."""
        return int(self.jobs[at.BASE, job] + self.hosts[self.jobs[at.HOST, job], at.STEP] - self.jobs[at.JOINED, job])

    def table(self, reads: Sequence[str]) -> Hosts:
        """Columns of all hosts that do not depend on a request."""
        columns = {**HOST_COLUMNS, **SERVING_HOST_COLUMNS}
        return Hosts(
            {name: HOST_VALUES[name](self) for name in reads if name in HOST_VALUES},
            columns.values(),
            rows=len(self.replicas),
        )

    def set_power(self, rows: FloatColumn) -> FloatColumn:
        """Account for power from now on. Returns the table that the kernel looks at, a row a host: a clock that is written there counts at once."""
        from rota.worlds.serving.kernels import power

        self.hosts[:, at.POWERED] = 1
        self.state[at.POWER_ENTRY] = power.power_entry.address
        return self._own(at.A_POWER, np.array(rows, np.float64, order="C"))

    def joules(self, now: float) -> FloatColumn:
        """What each host has drawn above idle until now."""
        from rota.worlds.serving.kernels import power

        out = np.zeros(len(self.replicas))
        power.read_joules(self.state, now, out)
        return out

    def land(self, job: int, now: float) -> None:
        """The KV of a request has come to its host."""
        from rota.worlds.serving.kernels import moves

        moves.land(self.state, job, int(self.jobs[at.HOST, job]), now)

    def crash(self, host: int, now: float) -> None:
        """A host goes down; what it had waits at the router again, or for another decoder."""
        from rota.worlds.serving.kernels import fleet

        while self.state[at.WAITING_AT_ROUTER] + len(self._arrays[at.A_STOPS]) + 2 >= self.state[at.QUEUE_ROOM]:
            self._lines(2 * int(self.state[at.QUEUE_ROOM]))
        fleet.crash(self.state, host, now)
        if self.replicas[host].prefix_caching:
            self._empty_cache(host)
        if self.adapters is not None:
            self.adapters.crash(host)

    def restart(self, job: int, now: float) -> None:
        """A parked request starts again."""
        from rota.worlds.serving.kernels import fleet

        fleet.restart_parked(self.state, job, now)

    def open(self, host: int, now: float) -> None:
        """A host takes requests again."""
        self.hosts[host, [at.SHUT, at.DOWN]] = 0
        self.state[at.DISPATCH] = 1

    def ended_table(self, own: dict[str, Any], reads: Sequence[str], job: int) -> Jobs:
        """A table of one request that has ended: `own` columns, and those that never change."""
        values = {name: np.array([value]) for name, value in own.items()}
        for name in reads:
            if name not in values and self._codes.get(name, -1) >= 0:
                values[name] = self._fixed[self._codes[name], job : job + 1]
        return Jobs(values, self._columns.values(), rows=1)

    def deliver(self) -> None:
        """Tell the policies what has happened so far."""
        if self.state[at.EVENT_COUNT]:
            self._deliver()

    def _asked_name(self) -> str:
        return type((self.roles.order, self.roles.victim, self.roles.hold)[self.state[at.ASK_KIND]]).__name__

    def _plan(self, kind: int) -> "_Plan":
        """What is prepared once for each role that is asked: codes, buffers and the keys' width."""
        from rota.worlds.serving.kernels.gather import gather  # compiled only when a policy is asked

        policy = (self.roles.order, self.roles.victim, self.roles.hold)[kind]
        names = tuple(name for name in policy.reads if name in self._codes)  # type: ignore[union-attr]
        codes = np.array([self._codes[name] for name in names], np.int64)
        out = np.zeros((max(len(names), 1), self._room))
        shown = out.view()
        shown.flags.writeable = False
        ids = self._rows.view()
        ids.flags.writeable = False
        plan = _Plan(policy, names, codes, out, shown, ids if "id" in policy.reads else None, gather)  # type: ignore[arg-type, union-attr]
        self._plans[kind] = plan
        return plan

    def _ask_order(self) -> None:
        state = self.state
        kind, count, now = int(state[at.ASK_KIND]), int(state[at.ASK_ROWS]), float(self.clock[0])
        plan = self._plans.get(kind)
        if plan is None or plan.out.shape[1] != self._room:
            plan = self._plan(kind)
        if self.makes_arrivals:
            self._fixed[self._codes["release"]] = self.seconds[at.ARRIVAL]
        plan.gather(state, plan.codes, self._fixed, count, plan.out)
        shown = plan.shown
        values: dict[str, npt.NDArray[Any]] = {name: shown[c, :count] for c, name in enumerate(plan.names)}
        if plan.ids is not None:
            values["id"] = plan.ids[:count]
        jobs = Jobs.over(values, self._columns, count)
        answer = plan.policy.keys(jobs, now)
        self.questions.order += 1
        self._take(plan, kind, answer, count)
        if id(plan.policy) in self._reviewed and state[at.ASK_HOST] >= 0:
            again = plan.policy.review(jobs, now)
            self.clocks[state[at.ASK_HOST], at.REVIEW_AT] = again if again > now else np.inf

    def _take(self, plan: "_Plan", kind: int, answer: Any, count: int) -> None:
        keys = answer if isinstance(answer, np.ndarray) else np.asarray(answer, np.float64)
        shape = keys.shape
        if not shape or shape[0] != count or len(shape) > 2 or (len(shape) == 2 and shape[1] > KEY_ROOM):
            raise PolicyError(
                f"{type(plan.policy).__name__}: keys at {self.clock[0]:g} s have shape {shape}, expected ({count},) or ({count}, k <= {KEY_ROOM})"
            )
        width = shape[1] if len(shape) == 2 else 1
        slot, scalar = _KEY_SLOTS[kind]
        if width != self.state[scalar]:
            self._own(slot, np.zeros((len(self.workload), width)))
            self.state[scalar] = width
        self.state[at.ANSWER_WIDTH] = width
        if len(shape) == 1:
            self._answer[:count] = keys
        else:
            self._answer[: count * width] = keys.reshape(-1)

    def _ask_place(self) -> None:
        job = int(self.state[at.ASK_HOST])
        pools = self.fleet.pools if self.fleet is not None else None
        if self._engine is not None:
            self._engine.place(job, self.now)
            self.questions.place += 1
            return
        costs = self.costs(self.roles.route, job, self.now) if pools is None else pools.costs(job, self.now)
        self.questions.place += 1
        self._answer[: len(costs)] = costs
        self.state[at.PLACED] = job + 1

    def question(
        self, policy: Place | Pools | Clocks, job: int | None, more: Mapping[str, FloatColumn] = NO_COLUMNS
    ) -> tuple[Jobs, Hosts]:
        """The tables that a policy sees of a request (None: of none) and of all hosts; `more`: columns of hosts that somebody else keeps."""
        question = self._questions.get(id(policy))
        if question is None:
            question = self._questions[id(policy)] = Question(self, policy, tuple(more))
        return question.ask(job, more)

    def code(self, name: str) -> int | None:
        """The row of `fixed` that has a column of requests; None: it moves, or there is none."""
        code = self._codes.get(name, -1)
        return code if code >= 0 else None

    @property
    def fixed(self) -> FloatColumn:
        """Columns of requests that do not change, a row a column."""
        return self._fixed

    def look_up_release(self, job: int) -> None:
        """Where requests arrive when others have ended: when this one did."""
        self._fixed[self._codes["release"], job] = self.seconds[at.ARRIVAL, job]

    def _view(self, route: Place) -> Mapping[str, FloatColumn]:
        """The loads as they were when they were last looked up."""
        asked, view = self._views.get(id(route), (0, NO_COLUMNS))
        if asked % self.renewed == 0:
            names = [name for name in route.reads if name in LOADS]
            view = {name: HOST_VALUES[name](self) for name in names if name in HOST_VALUES}
            view |= {name: self._pair(PAIR_COLUMNS[name], 0) for name in names if name in PAIR_COLUMNS}
            view = {name: kept(column) for name, column in view.items()}  # some are views of what goes on
        self._views[id(route)] = (asked + 1, view)
        return view

    def costs(self, route: Place, job: int, now: float) -> FloatColumn:
        """What a route answers for a request. Raises PolicyError where that is no answer."""
        old = self._view(route) if self.renewed > 1 else NO_COLUMNS
        costs = np.asarray(route.costs(*self.question(route, job, old), now), np.float64)
        if costs.shape != (len(self.replicas),) or np.count_nonzero(np.isnan(costs)):
            raise PolicyError(
                f"{type(route).__name__}: costs at {now:g} s have shape {costs.shape} or contain NaN, expected ({len(self.replicas)},) numbers or inf"
            )
        return costs

    def host_values(self, reads: Sequence[str], job: int) -> dict[str, npt.NDArray[Any]]:
        """Columns of all hosts, those that depend on a request for this one."""
        hosts = {name: HOST_VALUES[name](self) for name in reads if name in HOST_VALUES}
        hosts |= {name: self._pair(PAIR_COLUMNS[name], job) for name in reads if name in PAIR_COLUMNS}
        if self.choice is not None:
            hosts |= {name: self.choice.column(name, job) for name in reads if name in CHOICE_COLUMNS}
        named = [name for name in reads if name in ADAPTER_COLUMNS]
        nothing = np.zeros(len(self.replicas))  # no request names an adapter
        return hosts | {name: self.adapters.column(name, job) if self.adapters else nothing for name in named}

    def fixed_column(self, name: str, rows: IntColumn) -> FloatColumn | None:
        """A column of requests as it is when they arrive; None: there is no such column."""
        arrival = self.seconds[at.ARRIVAL, rows]
        if name == "release":
            return np.asarray(arrival)
        if self.makes_arrivals and name in ("due", "first_due"):  # known now that they have arrived
            limits = due(self.workload) if name == "due" else self.workload.ttft_limit
            return np.asarray(arrival + limits[rows])
        code = self._codes.get(name, -1)
        return self._fixed[code, rows] if code >= 0 else None

    @property
    def columns(self) -> Iterable[Column]:
        """What the columns of requests mean."""
        return self._columns.values()

    def held(self) -> IntColumn:
        """Requests that wait at the router."""
        return self._arrays[at.A_QUEUE][-1, : self.state[at.WAITING_AT_ROUTER]].copy()

    def let_in(self, job: int) -> None:
        """A request that stood at the gate waits at the router."""
        from rota.worlds.serving.kernels import gate

        self._room_for_one_more()
        gate.let_in(self.state, job)

    def recall(self, job: int, now: float) -> None:
        """A request is answered from what was stored."""
        from rota.worlds.serving.kernels import gate

        gate.recall(self.state, job, now)

    def _pair(self, column: int, job: int) -> FloatColumn:
        """A host column that depends on the request."""
        from rota.worlds.serving.kernels import fleet

        out = np.zeros(len(self.replicas))
        fleet.pair_column(self.state, column, job, out)
        return out

    def _deliver(self) -> None:
        """Tell the policies what happened since the last question."""
        for kind, job, host, now in self._events[: self.state[at.EVENT_COUNT]].tolist():
            name = _HOOK_NAMES[int(kind)]
            if name == "on_finish" and self._progress:
                whole = np.array([float(self.workload.output_tokens[int(job)])])
                self._tell(np.array([int(job)]), whole, now)
            for policy in self._hooked[name]:
                if name == "on_arrival":
                    policy.on_arrival(int(job), now)
                elif name == "on_leave":
                    policy.on_leave(int(job), self._why_left(int(job)), now)
                else:
                    getattr(policy, name)(int(job), int(host), now)
        self.state[at.EVENT_COUNT] = 0

    def _why_left(self, job: int) -> str:
        return {at.SHED: "shed", at.RECALLED: "recalled"}.get(int(self.jobs[at.STATE, job]), "rejected")

    def _tell_progress(self) -> None:
        """Tell of the tokens that running requests got since the last question."""
        from rota.worlds.serving.kernels.gather import GENERATED_TOKENS, gather

        rows = self._arrays[at.A_RUNNING]
        lists = [rows[r, :count] for r, count in enumerate(self.hosts[:, at.RUNNING_COUNT].tolist()) if count]
        if not lists:
            return
        running = np.sort(np.concatenate(lists))  # the order of their numbers, whatever the replicas
        asked, out = self._rows[: len(running)].copy(), np.zeros((1, len(running)))
        self._rows[: len(running)] = running
        gather(self.state, np.array([GENERATED_TOKENS]), self._fixed, len(running), out)
        self._rows[: len(running)] = asked
        self._tell(running, out[0], float(self.clock[0]))

    def _tell(self, rows: IntColumn, tokens: FloatColumn, now: float) -> None:
        deltas = tokens - self._told[rows]
        more = deltas > 0
        if more.any():
            self._told[rows[more]] = tokens[more]
            for policy in self._progress:
                policy.on_progress(rows[more], deltas[more], now)


@dataclass
class _Plan:
    policy: Order
    names: tuple[str, ...]
    codes: IntColumn
    out: FloatColumn
    shown: FloatColumn
    ids: IntColumn | None
    gather: Callable[..., None]


_HOOK_NAMES = ("on_arrival", "on_start", "on_preempt", "on_finish", "on_leave")
_KEY_SLOTS = ((at.A_KEYS, at.KEY_WIDTH), (at.A_VICTIM_KEYS, at.VICTIM_WIDTH), (at.A_HOLD_KEYS, at.HOLD_KEY_WIDTH))
_PROGRAM_COLUMNS = ("program_attained", "path_attained", LEFT)
