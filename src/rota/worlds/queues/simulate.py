"""Jobs and servers in time. The fastest loop that can do what the roles ask for is taken; all of them agree."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.decisions import Allot, Order, Place, Policy, Rank, checked, hooks, ranked
from rota.kernel.errors import InputError, PolicyError
from rota.kernel.tables import HOST_COLUMNS, JOB_COLUMNS, Claims, Column, Hosts, Jobs
from rota.rules.budget import ProportionalShare
from rota.worlds.queues.kernels import layout as at
from rota.worlds.queues.model import FloatColumn, IntColumn, Servers, Workload, child_lists

KEY_ROOM = 8  # columns that a policy's keys may have

QUEUES_JOB_COLUMNS = {
    column.name: column
    for column in (
        Column("job_class", "", "index of the job's class"),
        Column("predicted_size", "s", "what was predicted of the service time"),
        Column(
            "predicted_remaining",
            "s",
            "predicted size minus attained service; negative when it was predicted too short",
        ),
        Column("short", "", "1 when the job is said to be short"),
        Column("running", "", "1 when in service, 0 when waiting"),
        Column("preemptions", "", "times displaced"),
        Column("class_done", "jobs", "jobs of the same class that are done"),
        Column("class_attained", "s", "service that all jobs of the same class have received"),
        Column("rate", "", "seconds of service a second now"),
        Column("start", "s", "when service first began, NaN: not yet"),
        Column("patience", "s", "how long the job waits for its service to begin, inf: for ever"),
    )
}


@dataclass(frozen=True)
class Roles:
    """The decisions of a run. `share` takes the place of `order`: servers are divided instead of given to one job each."""

    order: Order
    route: Place
    share: Allot | None = None
    admit: Allot | None = None

    def policies(self) -> list[Policy]:
        """Each distinct policy once."""
        found: list[Policy] = []
        for policy in (self.route, self.order if self.share is None else None, self.share, self.admit):
            if policy is not None and all(policy is not other for other in found):
                found.append(policy)
        return found


@dataclass
class Simulation:
    """One run of servers under given roles.

    Args:
        workload: The jobs.
        servers: Who serves them.
        roles: The policies, already bound to their generators.
        visible: What policies may know of the sizes, seconds; None: nothing before a job is done.
        quality: How that was obtained, for the columns `size` and `remaining`.
        predicted: The column `predicted_size`, and `predicted_quality` how it was obtained; None: there is none.
        short: One bit a job, 1: said to be short; None: nobody says.
        refresh: Seconds between two looks at the hosts; the dispatcher sees what was true at the last one. 0: it always sees the present.
        every: Placements between two looks; 0: `refresh` decides.
        budget: What `admit` may spend on accepted jobs' sizes in all.
    """

    workload: Workload
    servers: Servers
    roles: Roles
    visible: FloatColumn | None = None
    quality: Column = field(default_factory=lambda: JOB_COLUMNS["size"])
    predicted: FloatColumn | None = None
    predicted_quality: Column = field(default_factory=lambda: QUEUES_JOB_COLUMNS["predicted_size"])
    short: FloatColumn | None = None
    refresh: float = 0.0
    every: int = 0
    budget: float = np.inf

    def __post_init__(self) -> None:
        self.questions = 0
        self._arrays: dict[int, npt.NDArray[Any]] = {}
        self.state = np.zeros(at.SCALARS, np.int64)
        self.spent = 0.0
        self._columns = {**JOB_COLUMNS, **QUEUES_JOB_COLUMNS, **{name: Column(name) for name in self.workload.columns}}
        self._jobs()
        self._lines()
        self._what_is_seen()
        self._overhead()
        self._loop()

    # -- arrays ---------------------------------------------------------------------------------------------------

    def _own(self, slot: int, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Keep an array alive and tell the kernel where it lies."""
        self._arrays[slot] = array
        self.state[slot] = array.ctypes.data
        return array

    def _jobs(self) -> None:
        work, rows = self.workload, len(self.workload)
        self.jobs = self._own(at.A_JOB_INTS, np.zeros((at.JOB_INTS, rows), np.int64))
        self.seconds = self._own(at.A_JOB_FLOATS, np.zeros((at.JOB_FLOATS, rows)))
        self.seconds[at.ARRIVAL], self.seconds[at.SIZE], self.seconds[at.WEIGHT] = work.arrival, work.size, work.weight
        self.seconds[at.PATIENCE] = work.arrival + work.patience
        self.seconds[at.START] = self.seconds[at.FINISH] = np.nan
        self.jobs[at.SERVER], self.jobs[at.CLASS] = -1, work.job_class
        self.state[[at.JOBS, at.HAS_PATIENCE]] = rows, np.isfinite(work.patience).any()
        self._own(at.A_EXPIRY, np.zeros((1, rows if self.state[at.HAS_PATIENCE] else 1), np.int64))
        offsets, children = np.zeros(rows + 1, np.int64), np.zeros(1, np.int64)
        if work.parents is not None:
            offsets, children = child_lists(work.parents, rows)
            self.jobs[at.PARENTS_LEFT] = np.diff(work.parents[0])
        self._own(at.A_CHILD_OFFSETS, offsets)
        self._own(at.A_CHILDREN, children if len(children) else np.zeros(1, np.int64))

    def _lines(self) -> None:
        fleet, count = self.servers, len(self.servers)
        queues = 1 if fleet.central else count
        classes = int(self.workload.job_class.max(initial=0)) + 1
        for what, given in (("speeds", fleet.speeds), ("setups", fleet.setups)):
            known = 0 if given is None else given.shape[1]
            if 1 < known < classes or (what == "setups" and 0 < known < classes):
                raise InputError(f"servers: {what} are given for {known} classes, the workload has {classes}")
            classes = max(classes, known)
        speeds = np.ascontiguousarray(np.broadcast_to(fleet.speeds, (count, classes)))
        setups = np.zeros((classes + 1, classes)) if fleet.setups is None else np.ascontiguousarray(fleet.setups)
        self._own(at.A_SPEEDS, speeds)
        self._own(at.A_SETUPS, setups)
        self.server = self._own(at.A_SERVER_INTS, np.zeros((at.SERVER_INTS, count), np.int64))
        self.clocks = self._own(at.A_SERVER_FLOATS, np.zeros((at.SERVER_FLOATS, count)))
        self.server[at.JOB] = self.server[at.LAST_CLASS] = -1
        self.clocks[at.SPEED] = speeds[:, 0]
        self.clocks[at.NEXT_EVENT] = self.clocks[at.REVIEW_AT] = np.inf
        self.lines = self._own(at.A_QUEUES, np.zeros((at.QUEUE_INTS, queues), np.int64))
        self.lines[at.ROOT] = -1
        width = 1 << (count - 1).bit_length()
        tree = np.full((1, 2 * width), -1, np.int64)
        tree[0, width : width + count] = np.arange(count)
        for i in range(width - 1, 0, -1):
            tree[0, i] = tree[0, 2 * i]
        self._own(at.A_TREE, tree)
        self.clock = self._own(at.A_CLOCK, np.zeros((1, at.CLOCK_FLOATS)))
        self._own(at.A_ROWS, np.zeros((1, queues), np.int64))
        state = self.state
        state[[at.SERVERS, at.QUEUES, at.CLASSES]] = count, queues, classes
        state[[at.HAS_SETUP, at.BUFFER, at.EVEN_SPEEDS]] = fleet.setups is not None, fleet.buffer, fleet.even

    def _what_is_seen(self) -> None:
        """The columns that policies may read, with their quality."""
        work, rows = self.workload, len(self.workload)
        if self.visible is None:
            for name in ("size", "remaining"):
                self._columns[name] = Column(name, "s", self._columns[name].meaning, "hidden")
        else:
            for name in ("size", "remaining"):
                quality = self.quality
                self._columns[name] = Column(name, "s", self._columns[name].meaning, quality.quality, quality.by)
        known = np.zeros(rows) if self.visible is None else np.nan_to_num(self.visible)
        said = np.zeros(rows) if self.predicted is None else self.predicted
        self._own(at.A_VISIBLE, np.ascontiguousarray(np.stack([known, said])))
        self._fixed: dict[str, npt.NDArray[Any]] = {
            "id": np.arange(rows),
            "job_class": work.job_class,
            "weight": work.weight,
            "due": work.due,
            "tenant": work.tenant,
            "priority": work.priority,
            "patience": work.patience,
            **work.columns,
        }
        if self.visible is not None:
            self._fixed["size"] = self.visible
        if self.short is not None:
            self._fixed["short"] = self.short
        for name in ("predicted_size", "predicted_remaining"):
            quality = self.predicted_quality
            self._columns[name] = Column(name, "s", QUEUES_JOB_COLUMNS[name].meaning, quality.quality, quality.by)
        if self.predicted is not None:
            self._fixed["predicted_size"] = self.predicted

    def _at_arrival(self, reads: tuple[str, ...]) -> Jobs:
        """All jobs as they are when they arrive."""
        rows = len(self.workload)
        values: dict[str, npt.NDArray[Any]] = {}
        for name in reads:
            if name in self._fixed:
                values[name] = self._fixed[name]
            elif name == "release":
                values[name] = self.workload.arrival
            elif name == "remaining" and self.visible is not None:
                values[name] = self.visible
            elif name == "predicted_remaining" and self.predicted is not None:
                values[name] = self.predicted
            elif name in ("attained", "running", "preemptions", "rate", "class_done", "class_attained"):
                values[name] = np.zeros(rows)
        return Jobs(values, self._columns.values(), rows=rows)

    def _is_known(self, name: str) -> bool:
        hidden = (name == "remaining" and self.visible is None) or (
            name == "predicted_remaining" and self.predicted is None
        )
        return not hidden

    def _overhead(self) -> None:
        """Service that the policy itself spends on each job, such as buying a prediction on the server."""
        overhead = getattr(self.roles.order, "overhead", None)
        if self.roles.share is None and overhead is not None:
            extra = np.asarray(overhead(self._at_arrival(self.roles.order.reads)), np.float64)
            self.seconds[at.SIZE] = self.seconds[at.SIZE] + extra

    # -- which loop ---------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        """Choose the loop, and prepare what only it needs."""
        state, roles, work = self.state, self.roles, self.workload
        route_asked = self._prepare_route()
        self._hooked = {name: [p for p in roles.policies() if name in hooks(p)] for name in _HOOK_NAMES}
        self._progress = [p for p in roles.policies() if "on_progress" in hooks(p)]
        self._refreshed = [p for p in roles.policies() if "on_refresh" in hooks(p)]
        state[at.HOOKS] = any(self._hooked.values()) or bool(self._progress)
        state[at.ROUTE_ASKED], state[at.ADMIT_ASKED] = route_asked, roles.admit is not None
        general = bool(route_asked or state[at.HOOKS] or roles.admit is not None or work.parents is not None)
        plain = not general and not state[at.HAS_SETUP] and not state[at.HAS_PATIENCE]
        alone = state[at.QUEUES] == len(self.servers)  # each server has a line of its own
        if roles.share is not None:
            self._share(roles.share, plain, alone)
            return
        order = roles.order
        state[at.PREEMPTIVE], state[at.SHARED_TIES] = order.preemptive, order.ties == "share"
        state[at.PICK] = order.asked == "pick"
        rank = order.rank(self._at_arrival(order.reads)) if ranked(order) else None
        static = order.asked == "arrival" and work.parents is None
        if rank is None and static:
            rank = self._dense_rank(order)
        falls = rank is not None and bool((rank.slope <= 0.0).all())
        moves = order.preemptive and bool(state[at.QUEUES] == 1) and not self.servers.even and len(self.servers) > 1
        equals_share = order.ties == "share" and order.preemptive
        from rota.worlds.queues.kernels import ranked as kernel

        if rank is not None and falls and not general and not moves and not equals_share:
            self._own_rank(rank)
            self._advance: Callable[..., int] = kernel.advance_ranked
        elif rank is not None and equals_share and plain and alone and _is_least_attained(rank):
            from rota.worlds.queues.kernels import shared

            self._advance = shared.advance_least_attained
        else:
            if equals_share and state[at.HAS_SETUP]:
                raise InputError(
                    f"{type(order).__name__}: equals share a server, so it cannot be set up for classes: leave out servers.setup"
                )
            if equals_share and not self.servers.even:
                raise InputError(f"{type(order).__name__}: equals share the servers, which must be alike in speed")
            still = rank is not None and static and len(rank.slope) == 1
            if still and rank is not None:
                self._own_rank(rank)
            self._rank = None if still or not ranked(order) else rank
            state[at.MEETS] = equals_share and rank is not None and _is_least_attained(rank)
            self._general(at.ASKED_NOTHING if still else at.ASKED_ORDER)

    def _share(self, share: Allot, plain: bool, alone: bool) -> None:
        even = self.servers.even and bool((self.servers.speeds == self.servers.speeds[:, :1]).all())
        if isinstance(share, ProportionalShare) and type(share).amounts is ProportionalShare.amounts and plain and even:
            weights = share.weights(self._claims_at_arrival(share))
            if alone or bool((weights == weights[:1]).all()):
                from rota.worlds.queues.kernels import shared

                self.seconds[at.WEIGHT] = weights
                self._advance = shared.advance_processor_sharing
                return
        if self.state[at.HAS_SETUP]:
            raise InputError(
                f"{type(share).__name__}: a shared server cannot be set up for one class: leave out servers.setup"
            )
        self._rank = None
        self._general(at.ASKED_SHARE)

    def _claims_at_arrival(self, share: Allot) -> Claims:
        jobs = self._at_arrival(share.reads)
        return Claims({name: getattr(jobs, name) for name in jobs.names}, self._columns.values(), rows=len(jobs))

    def _prepare_route(self) -> bool:
        """Whether the dispatcher must be asked at each arrival."""
        state, route = self.state, self.roles.route
        self._own(at.A_SAMPLES, np.zeros((1, 1), np.int64))
        if self.servers.central or len(self.servers) == 1:
            return False
        plain = (
            type(route).costs is Place.costs
            and route.cost_column in _ROUTE_COLUMNS
            and not route.cost_terms
            and not (self.refresh or self.every)
        )
        state[at.ROUTE_COLUMN] = _ROUTE_COLUMNS[route.cost_column] if plain else at.COLUMN_ASKED
        if not plain:
            return True
        hosts = Hosts({"id": np.arange(len(self.servers))})
        samples = route.sample(self._at_arrival(route.reads_job), hosts)
        if samples is not None:
            drawn = np.ascontiguousarray(samples, np.int64)
            inside = not drawn.size or 0 <= drawn.min() <= drawn.max() < len(hosts)
            if drawn.ndim != 2 or len(drawn) != len(self.workload) or not inside:
                raise PolicyError(
                    f"{type(route).__name__}: sample must give host ids, shape (jobs, d), found shape {drawn.shape}"
                )
            state[at.SAMPLE_WIDTH] = drawn.shape[1]
            self._own(at.A_SAMPLES, drawn)
        return False

    def _dense_rank(self, order: Order) -> Rank:
        """Keys that never change, as places in the one order of all jobs: comparing them is comparing two numbers."""
        rows = len(self.workload)
        keys = checked(order.keys(self._at_arrival(order.reads), 0.0), (rows,), order, "keys", 0.0).reshape(rows, -1)
        columns = [keys[:, c] for c in reversed(range(keys.shape[1]))]
        places = np.empty(rows)
        never = np.isinf(keys).any(axis=1) & (keys > 0).any(axis=1)
        if len(columns) == 1:
            places[np.argsort(columns[0], kind="stable")] = np.arange(rows)  # rows are in order of release, then id
        else:
            places[np.lexsort(columns)] = np.arange(rows)
        if never.any():
            raise PolicyError(
                f"{type(order).__name__}: a key that never changes is inf: job {int(np.flatnonzero(never)[0])} would never be served"
            )
        return Rank.line(places, 0.0)

    def _own_rank(self, rank: Rank) -> None:
        until, level, start = (np.ascontiguousarray(part, np.float64) for part in (rank.until, rank.level, rank.start))
        slope = np.ascontiguousarray(rank.slope, np.float64).reshape(1, -1)
        rows, pieces = start.shape
        if rows not in (1, len(self.workload)) or slope.shape[1] != pieces or not np.isinf(until[:, -1]).all():
            raise PolicyError(
                f"{type(self.roles.order).__name__}: its rank has shape {start.shape}, expected ({len(self.workload)} or 1, pieces), the last until inf"
            )
        if np.isnan(start).any() or np.isnan(level).any() or np.isnan(until).any():
            raise PolicyError(f"{type(self.roles.order).__name__}: its rank contains NaN")
        for slot, array in (
            (at.A_RANK_UNTIL, until),
            (at.A_RANK_LEVEL, level),
            (at.A_RANK_START, start),
            (at.A_RANK_SLOPE, slope),
        ):
            self._own(slot, array)
        self.state[[at.PIECES, at.RANK_ROWS]] = pieces, rows

    def _general(self, asked: int) -> None:
        """What the loop that asks needs besides."""
        from rota.worlds.queues.kernels.asked import advance_asked
        from rota.worlds.queues.kernels.gather import MOVING

        state, rows, count = self.state, len(self.workload), len(self.servers)
        if not state[at.RANK_ROWS]:
            self._own_rank(Rank.line(np.zeros(1), 0.0))
        queues = int(state[at.QUEUES])
        self._own(at.A_PRESENT, np.zeros((queues, rows), np.int64))
        self._rows = self._own(at.A_ROWS, np.zeros((1, rows + queues), np.int64))[0]
        self._answer = self._own(at.A_ANSWER, np.zeros((1, KEY_ROOM * rows + count)))[0]
        self._own(at.A_READY, np.zeros((2, max(rows, 1)), np.int64))
        state[at.EVENT_ROOM] = 4096 + 8 * count if not self._progress else 256 + 8 * count
        self._events = self._own(
            at.A_EVENTS, np.zeros((state[at.EVENT_ROOM] + rows, 4)) if state[at.HOOKS] else np.zeros((1, 4))
        )
        if state[at.HOOKS]:
            state[at.EVENT_ROOM] += rows
        else:
            state[at.EVENT_ROOM] = 1
        state[at.ASKED] = asked
        policy = self.roles.share if asked == at.ASKED_SHARE else self.roles.order
        self._own(at.A_CLASS_COUNTS, np.zeros((at.CLASS_COUNTS, int(state[at.CLASSES]))))
        self._asked = policy
        names = tuple(policy.reads) if policy is not None else ()
        self._names = tuple(name for name in names if name in self._fixed or (name in MOVING and self._is_known(name)))
        fixed = [name for name in self._names if name in self._fixed]
        columns = [self._fixed[name] for name in fixed] or [np.zeros(rows)]
        self._own(at.A_FIXED, np.ascontiguousarray(columns, np.float64))
        codes = [fixed.index(name) if name in self._fixed else MOVING[name] for name in self._names]
        self._own(at.A_CODES, np.array([codes or [0]], np.int64))
        state[[at.CODES, at.FIXED]] = len(codes), len(fixed)
        shown = self._own(at.A_OUT, np.zeros((max(len(codes), 1), rows))).view()
        shown.flags.writeable = False
        self._shown = list(zip(self._names, shown, strict=False))  # the kernel fills these before it asks
        self._told = np.zeros(rows) if self._progress else None
        self._reviews = isinstance(policy, Order) and (
            type(policy).review is not Order.review or self._rank is not None
        )
        self._advance = advance_asked
        self._snapshot: dict[str, npt.NDArray[Any]] | None = None
        self._next_refresh = 0.0 if self.refresh else np.inf

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self, until: float = np.inf) -> None:
        """Advance to the end, or to `until` seconds.

        Raises:
            PolicyError: a policy's answer is no answer.
        """
        state = self.state
        refreshing = self.refresh > 0 and bool(state[at.ROUTE_ASKED])
        while True:
            limit = min(until, self._next_refresh) if refreshing else until
            code = self._advance(state, limit)
            if state[at.EVENT_COUNT]:
                self._deliver()
            if code == at.ORDER:
                self._ask_order()
            elif code == at.SHARE:
                self._ask_share()
            elif code == at.PLACE:
                self._ask_place()
            elif code == at.ADMIT:
                self._ask_admit()
            elif code == at.UNTIL and limit < until:
                self._refresh()
            elif code == at.NOT_A_NUMBER:
                raise PolicyError(
                    f"{type(self._asked).__name__}: keys at {self.now:g} s contain NaN; answer with finite numbers or inf"
                )
            elif code != at.EVENTS:
                return

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return float(self.clock[0, at.NOW])

    def _ask_order(self) -> None:
        state, order = self.state, self.roles.order
        count, now = int(state[at.ASK_ROWS]), float(self.clock[0, at.NOW])
        if self._told is not None:
            self._tell_progress(now)
        jobs = Jobs.over({name: column[:count] for name, column in self._shown}, self._columns, count)
        answer = order.keys(jobs, now)
        keys = answer if isinstance(answer, np.ndarray) else np.asarray(answer, np.float64)
        shape = keys.shape
        if not shape or shape[0] != count or len(shape) > 2 or (len(shape) == 2 and shape[1] > KEY_ROOM):
            raise PolicyError(
                f"{type(order).__name__}: keys at {now:g} s have shape {shape}, expected ({count},) or ({count}, k <= {KEY_ROOM})"
            )
        if len(shape) == 1:
            self._answer[:count] = keys
            state[at.ANSWER_WIDTH] = 1
        else:
            self._answer[: keys.size] = keys.reshape(-1)
            state[at.ANSWER_WIDTH] = shape[1]
        state[at.ANSWERED] = 1
        self.questions += 1
        if self._reviews:
            self._plan_review(order, jobs, now)

    def _plan_review(self, order: Order, jobs: Jobs, now: float) -> None:
        line = 0 if self.state[at.QUEUES] == 1 else int(self.state[at.ASK_QUEUE])
        if self._rank is None:
            again = order.review(jobs, now)
        else:  # when a job in service enters the next piece of its rank, if nothing changes before
            rows = self._rows[: len(jobs)]
            until = self._rank.until[rows if len(self._rank.until) > 1 else np.zeros(len(rows), np.int64)]
            left = until - self.seconds[at.ATTAINED, rows][:, None]
            left[left <= 0] = np.inf
            again = now + float(left.min(initial=np.inf)) / float(self.servers.speeds.max())
        self.clocks[at.REVIEW_AT, line] = again if again > now else np.inf

    def _ask_share(self) -> None:
        state, share = self.state, self.roles.share
        if share is None:
            return
        count, now, line = int(state[at.ASK_ROWS]), self.now, int(state[at.ASK_QUEUE])
        if self._told is not None:
            self._tell_progress(now)
        claims = Claims.over({name: column[:count] for name, column in self._shown}, self._columns, count)
        speeds = self._arrays[at.A_SPEEDS] if self.servers.central else self._arrays[at.A_SPEEDS][line : line + 1]
        kinds = self.jobs[at.CLASS, self._rows[:count]]
        budget = {"servers": float(len(speeds)), "rate": float(speeds[:, 0].sum())}
        amounts = checked(share.amounts(claims, budget, now), (count,), share, "amounts", now)
        self._answer[:count] = _rates(amounts, speeds, kinds, share, now)
        again = share.review(claims, now)
        self.clocks[at.REVIEW_AT, line] = again if again > now else np.inf
        state[[at.ANSWERED, at.ANSWER_WIDTH]] = 1
        self.questions += 1

    def _ask_place(self) -> None:
        state, route, job = self.state, self.roles.route, int(self.state[at.ASK_JOB])
        if self._told is not None:
            self._tell_progress(self.now)
        values = {name: self._fixed[name][job : job + 1] for name in route.reads_job if name in self._fixed}
        if "release" in route.reads_job:
            values["release"] = self.seconds[at.ARRIVAL, job : job + 1]
        if self.every and self.server[at.DECISIONS].sum() % self.every == 0:
            self._snapshot = self._hosts(route.reads)
        hosts = self._hosts(route.reads) if self._snapshot is None else {**self._snapshot, **self._hosts(_OWN)}
        hosts = {name: column for name, column in hosts.items() if name in route.reads}
        known = HOST_COLUMNS
        if self.refresh or self.every:
            old = {
                name: Column(name, column.unit, column.meaning, "stale", as_of=self.refresh)
                for name, column in known.items()
            }
            known = old | {name: known[name] for name in _OWN}
        table = Hosts(hosts, known.values(), rows=len(self.servers))
        costs = checked(
            route.costs(Jobs(values, self._columns.values(), rows=1), table, self.now),
            (len(self.servers),),
            route,
            "costs",
            self.now,
        )
        self._answer[: len(costs)] = costs
        state[at.PLACED] = job + 1
        self.questions += 1

    def _hosts(self, reads: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
        return {name: _HOST_VALUES[name](self) for name in reads if name in _HOST_VALUES}

    def _refresh(self) -> None:
        """A look at the hosts: what the dispatcher sees until the next one."""
        now = self._next_refresh
        self._snapshot = self._hosts(self.roles.route.reads)
        self._next_refresh = self.refresh * (round(now / self.refresh) + 1)
        for policy in self._refreshed:
            policy.on_refresh(now)

    def _ask_admit(self) -> None:
        admit, job = self.roles.admit, int(self.state[at.ASK_JOB])
        size = float(self.workload.size[job])
        values = {name: self._fixed[name][job : job + 1] for name in admit.reads if name in self._fixed}  # type: ignore[union-attr]
        if "release" in admit.reads:  # type: ignore[union-attr]
            values["release"] = self.seconds[at.ARRIVAL, job : job + 1]
        budget = {"work": self.budget - self.spent, "work_in_all": self.budget}
        claims = Claims(values, self._columns.values(), rows=1)
        amount = float(checked(admit.amounts(claims, budget, self.now), (1,), admit, "amounts", self.now)[0])  # type: ignore[union-attr, arg-type]
        accepted = amount > 0.0 and self.spent + size <= self.budget
        self.spent += size if accepted else 0.0
        self.jobs[at.PIECE, job] = 1 if accepted else 2
        self.questions += 1

    # -- hooks ----------------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Tell the policies what happened since the last question."""
        events = self._events[: self.state[at.EVENT_COUNT]]
        if self._told is not None:
            ended = events[events[:, 0] == at.E_FINISH, 1].astype(np.int64)
            self._tell(ended, self.now)
        for kind, job, server, now in events.tolist():
            name = _HOOK_NAMES[int(kind)]
            for policy in self._hooked[name]:
                if name == "on_arrival":
                    policy.on_arrival(int(job), now)
                elif name == "on_leave":
                    policy.on_leave(int(job), _WHY[int(self.jobs[at.STATE, int(job)])], now)
                else:
                    getattr(policy, name)(int(job), int(server), now)
        self.state[at.EVENT_COUNT] = 0

    def _tell_progress(self, now: float) -> None:
        line = int(self.state[at.ASK_QUEUE])
        present = self._arrays[at.A_PRESENT][line, : self.lines[at.PRESENT_COUNT, line]]
        self._tell(present, now)

    def _tell(self, rows: IntColumn, now: float) -> None:
        if self._told is None:
            return
        deltas = self.seconds[at.ATTAINED, rows] - self._told[rows]
        served = deltas > 0
        if served.any():
            self._told[rows] += deltas
            for policy in self._progress:
                policy.on_progress(rows[served].copy(), deltas[served], now)


def _is_least_attained(rank: Rank) -> bool:
    same = len(rank.start) == 1 or bool((rank.start == rank.start[0]).all())
    return len(rank.slope) == 1 and rank.slope[0] == 1.0 and same


def _rates(amounts: FloatColumn, speeds: FloatColumn, kinds: IntColumn, share: Allot, now: float) -> FloatColumn:
    """Seconds of service a second of each job: amounts are shares of the servers, a column a server, or of all of them alike."""
    name = type(share).__name__
    if (amounts < 0).any() or not np.isfinite(amounts).all():
        raise PolicyError(f"{name}: amounts at {now:g} s must be finite and not negative")
    slack = 1.0 + 1e-9
    if amounts.ndim == 2:
        if amounts.shape[1] != len(speeds):
            raise PolicyError(
                f"{name}: amounts at {now:g} s have {amounts.shape[1]} columns, there are {len(speeds)} servers"
            )
        if (amounts.sum(axis=0) > slack).any() or (amounts.sum(axis=1) > slack).any():
            raise PolicyError(f"{name}: amounts at {now:g} s give a server or a job more than one server's time")
        return np.asarray((amounts * speeds[:, kinds].T).sum(axis=1))
    if not (speeds == speeds[0]).all():
        raise PolicyError(f"{name}: servers differ in speed, so amounts must have a column a server")
    if amounts.sum() > len(speeds) * slack or (amounts > slack).any():
        raise PolicyError(f"{name}: amounts at {now:g} s exceed {len(speeds)} servers, or one server for a job")
    return np.asarray(amounts * speeds[0, kinds])


_HOOK_NAMES = ("on_arrival", "on_start", "on_preempt", "on_finish", "on_leave")
_WHY = {at.BLOCKED: "blocked", at.ABANDONED: "abandoned", at.REFUSED: "refused"}
_ROUTE_COLUMNS = {
    "": at.COLUMN_NONE,
    "decisions": at.COLUMN_DECISIONS,
    "outstanding": at.COLUMN_OUTSTANDING,
    "queued": at.COLUMN_QUEUED,
    "running": at.COLUMN_RUNNING,
    "work": at.COLUMN_WORK,
}


def _running(run: Simulation) -> IntColumn:
    busy = (run.server[at.JOB] >= 0).astype(np.int64)
    return np.asarray(np.where(run.server[at.JOB] == -2, run.server[at.OUTSTANDING], busy))


_OWN = ("id", "speed", "decisions")  # what a dispatcher knows by itself, however old its view of the servers is
_HOST_VALUES: dict[str, Callable[[Simulation], npt.NDArray[Any]]] = {
    "id": lambda run: np.arange(len(run.servers)),
    "queued": lambda run: run.server[at.OUTSTANDING] - _running(run),
    "running": _running,
    "outstanding": lambda run: run.server[at.OUTSTANDING].copy(),
    "work": lambda run: np.maximum(0.0, run.clocks[at.KNOWN_WORK] - run.clocks[at.KNOWN_ATTAINED]),
    "speed": lambda run: run.clocks[at.SPEED].copy(),
    "decisions": lambda run: run.server[at.DECISIONS].copy(),
}
