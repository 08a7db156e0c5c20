"""The accounts of pools where the kernel keeps them, so that a run stops only for what a policy must be asked.

That is so in runs in which nothing but pools, links, failures, clocks and scaling acts on several hosts; in the others `PoolBook` and `Mirrors` keep
them. Both give the same results, to the bit.
"""

from collections.abc import Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import PolicyError, nearest
from rota.worlds.serving import doors
from rota.worlds.serving.columns import ROUTE_COLUMNS
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.pool_rules import Halves, Pairs

if TYPE_CHECKING:
    from rota.worlds.serving.pools import PoolBook, Pools
    from rota.worlds.serving.simulate import Simulation

# Columns of pools in the order of their codes in kernels/pool_rules; costs are made of all but the last two.
COLUMNS = ("assigned", "assigned_tokens", "capacity_tokens", "decoding", "waiting", "role", "joined")


def can_keep(run: "Simulation") -> bool:
    """Whether the kernel can keep the accounts of a run: nothing else moves requests between hosts, and nobody is told of every token meanwhile."""
    roles = run.roles
    others = roles.migrate, roles.admit, roles.recall, roles.retain, run.workload.programs, run.adapters, run.learns
    if any(each is not None for each in others) or run.tells_progress:
        return False
    return all(replica.seat is None for replica in run.replicas)


def rule_of(policy: "Pools") -> Halves | Pairs | None:
    """What a policy decides by, if that is all: None where a subclass has written another `assign` or `moves`."""
    for kind in type(policy).__mro__:
        if "rule" in vars(kind):
            return policy.rule()
        if "assign" in vars(kind) or "moves" in vars(kind):
            return None
    return None


class PoolEngine:
    """The arrays that the kernel works on, and the doors to it."""

    def __init__(self, book: "PoolBook") -> None:
        from rota.worlds.serving.kernels import pool, pool_layout, pool_rules, pool_stops

        self.book, self.fleet, self.run = book, book.fleet, book.fleet.run
        self.kernel, self.answers, self.slots = pool, pool_stops, pool_layout
        self.until = inf
        names = tuple(name for name in book.policy.reads if name in COLUMNS)
        codes = np.array([pool_rules.OF_POOLS + COLUMNS.index(name) for name in names], np.int64)
        self._read, self._fill = (names, codes), pool_rules.fill_columns
        self._arrays: dict[int, npt.NDArray[Any]] = {}
        self.vector = np.zeros(pool_layout.POOL_SCALARS, np.int64)
        hosts, rows = len(self.run.replicas), max(len(self.run.workload), 1)
        slots = pool_layout
        self.jobs = self._own(slots.A_OF_JOBS, np.full((slots.OF_JOB, rows), -1))
        self.jobs[slots.LAST_MOVE] = 0
        self.hosts = self._own(slots.A_OF_HOSTS, np.zeros((hosts, slots.OF_HOST), np.int64))
        self.sums = self._own(slots.A_SUMS, np.zeros((hosts, slots.SUMS)))
        self.numbers = self._own(slots.A_NUMBERS, np.zeros(slots.NUMBERS))
        self._own(slots.A_LINE, np.zeros(int(self.run.state[at.RUNNING_ROOM]), np.int64))
        self._room_for_stops()
        self._room_for_actions(1024)
        self._room_for_moves(hosts)
        self._link()
        self._rule()
        self.hosts[:, slots.HOME] = self.run.hosts[:, at.ROLE]
        self.hosts[:, slots.RANK] = np.arange(hosts)
        self.vector[[slots.FIRST_COPY, slots.LAST_COPY]] = -1
        self.vector[slots.CACHING] = any(replica.prefix_caching for replica in self.run.replicas)
        self.vector[slots.NUMBER] = next(self.fleet._number)
        self.fleet._number = self._numbers()

    # -- arrays ---------------------------------------------------------------------------------------------------

    def _own(self, slot: int, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Keep an array alive and tell the kernel where it lies."""
        self._arrays[slot] = array
        self.vector[slot] = array.ctypes.data
        return array

    def _room_for_stops(self) -> None:
        rows = int(self.run.state[at.STOP_ROOM])
        self._own(self.slots.A_TAKEN, np.zeros((rows, 2), np.int64))
        self.vector[self.slots.TAKEN_ROOM] = rows
        transfers = len(self.run.replicas) * int(self.run.state[at.RUNNING_ROOM])  # one for each that may run
        self._own(self.slots.A_TRANSFERS, np.zeros((transfers, 3), np.int64))
        self._own(self.slots.A_AMOUNTS, np.zeros((transfers, 2)))
        self.vector[self.slots.TRANSFER_ROOM] = transfers

    def _room_for_actions(self, least: int) -> None:
        """Room on the agenda, and a copy of what is on it."""
        room = least + 4 * len(self.run.replicas) * int(self.run.state[at.RUNNING_ROOM])
        for slot, array in (
            (self.slots.A_TIMES, np.zeros(room)),
            (self.slots.A_ACTIONS, np.zeros((room, 5), np.int64)),
        ):
            if slot in self._arrays:
                array[: len(self._arrays[slot])] = self._arrays[slot]
            self._own(slot, array)
        self.vector[self.slots.ACTION_ROOM] = room

    def _room_for_moves(self, rows: int) -> npt.NDArray[np.int64]:
        self.vector[self.slots.MOVE_ROOM] = max(rows, 1)
        return self._own(self.slots.A_MOVES, np.zeros((max(rows, 1), 3), np.int64))

    def _link(self) -> None:
        slots, link = self.slots, self.fleet.plan.link
        self.numbers[slots.TRANSFERS_NEXT] = inf
        self.numbers[[slots.BANDWIDTH, slots.LATENCY, slots.OVERLAP]] = link.bandwidth, link.latency, link.overlap
        self.vector[[slots.PUSH, slots.SHARED]] = link.push, link.shared
        self.sums[:, slots.KV_BYTES] = self.fleet.plan.kv_bytes
        for row, replica in zip(self.sums, self.run.replicas, strict=True):
            if replica.swap_blocks:
                row[slots.BACK_TOKEN] = replica.kv_bytes * replica.swap_compress / replica.swap_bandwidth
                row[slots.BACK_COPY] = replica.swap_per_copy

    def promised(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Views, a value a host: requests that were promised to it, and their KV in tokens."""
        return self.sums[:, self.slots.ASSIGNED], self.sums[:, self.slots.PROMISED]

    def roles(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Views, a value a host: its own role, and rank by when it took the role that it has."""
        return self.hosts[:, self.slots.HOME], self.hosts[:, self.slots.RANK]

    def columns(self) -> dict[str, npt.NDArray[np.float64]]:
        """The columns of hosts that only pools have, as far as the policy reads them."""
        names, codes = self._read
        out = np.empty((len(names), len(self.hosts)))
        self._fill(self.run.state, self.vector, codes, out)
        out.flags.writeable = False
        return dict(zip(names, out, strict=True))

    # -- who decides ----------------------------------------------------------------------------------------------

    def _rule(self) -> None:
        """Tell the kernel what it decides by; what it cannot decide is asked."""
        slots, policy, rule = self.slots, self.book.policy, rule_of(self.book.policy)
        blind = isinstance(rule, Halves) and rule.knows_answers and self.run.visible_output is None
        assigns = slots.ASKED
        if isinstance(rule, Halves) and not blind:
            assigns = slots.BY_HALVES
            self._terms(rule.prompt, slots.A_PROMPT_TERMS, slots.PROMPT_TERMS)
            self._terms(rule.answer, slots.A_ANSWER_TERMS, slots.ANSWER_TERMS)
            whole = self.run.workload.prompt_tokens.astype(np.float64)
            if rule.knows_answers and self.run.visible_output is not None:
                whole += self.run.visible_output
            self._own(slots.A_WHOLE, whole)
            self.numbers[slots.LIMIT] = rule.limit
        elif isinstance(rule, Pairs):
            assigns = slots.BY_PAIRS
            self.vector[slots.APART], self.numbers[slots.BACKLOG] = rule.apart, rule.backlog
        from rota.worlds.serving.pools import Pools

        wishes = slots.ASKED if type(policy).moves is not Pools.moves else slots.NEVER
        self.vector[[slots.ASSIGNS, slots.WISHES]] = assigns, slots.BY_PAIRS if assigns == slots.BY_PAIRS else wishes

    def _terms(self, terms: Mapping[str, float], slot: int, count: int) -> None:
        """The columns of a cost and their weights. Raises PolicyError where the kernel does not know one, or the policy may not see it."""
        from rota.worlds.serving.kernels.pool_rules import OF_POOLS

        name = type(self.book.policy).__name__
        codes = ROUTE_COLUMNS | {each: OF_POOLS + k for k, each in enumerate(COLUMNS[:-2])}
        for each in terms:
            if each not in codes:
                raise PolicyError(f"{name}: no cost is made of {each}{nearest(each, codes)}")
            if each not in self.book.policy.reads:
                raise PolicyError(f"{name}: column {each} was not declared: add it to `reads`")
        rows = [[float(codes[each]), weight] for each, weight in terms.items()]
        self._own(slot, np.array(rows or [[0.0, 0.0]]))
        self.vector[count] = len(rows)

    # -- time -----------------------------------------------------------------------------------------------------

    def _numbers(self) -> Iterator[int]:
        """The numbers of actions, shared with the kernel."""
        while True:
            number = int(self.vector[self.slots.NUMBER])
            self.vector[self.slots.NUMBER] = number + 1
            yield number

    @property
    def pending(self) -> bool:
        """Whether something is under way that is not only an update of copies."""
        return bool(self.vector[self.slots.PENDING] or self.vector[self.slots.TRANSFERS])

    def update_at(self, time: float, every: float) -> None:
        """Copies are kept from now on, and brought up to date at `time` for the first time."""
        self.vector[self.slots.MIRRORED] = 1
        self.numbers[self.slots.EVERY] = every
        self.kernel.update_first(self.vector, time)

    def peek(self) -> tuple[float, int]:
        """(when, which number) of what the kernel does next by itself."""
        time, number = self.kernel.peek(self.vector)
        return float(time), int(number)

    def advance(self, state: npt.NDArray[np.int64], limit: float) -> int:
        """Advance, and do what can be done without Python, also beyond `limit`, which is when Python or the kernel has something to do."""
        due, number = self.fleet.head()
        while True:
            code = self.kernel.advance_pools(state, self.vector, self.until, due, number)
            if code == self.slots.ROOM:
                self._room_for_actions(2 * int(self.vector[self.slots.ACTION_ROOM]))
            elif not self._answer(code):
                if code in (at.DONE, at.UNTIL):
                    self.settle()
                return int(code)
            else:
                due, number = self.fleet.head()

    def act(self, now: float) -> None:
        """Do what is next on the kernel's agenda."""
        self._answer(self.kernel.act_once(self.run.state, self.vector, now))

    def stops(self) -> None:
        """Go through what the kernel has stopped for while Python was at work."""
        while code := self.kernel.go_through(self.run.state, self.vector, self.run.now):
            if code == at.GROW:
                self.run.grow()
            else:
                self._answer(code)

    def _answer(self, code: int) -> bool:
        """Do what only Python can. False: it is none of this."""
        if code == self.slots.WISH:
            self._ask_moves()
        elif code == self.slots.FIND_DECODER:
            self.fleet.find_decoder(int(self.vector[self.slots.ASKED_FOR]), self.run.now)
        elif code == self.slots.TABLES:
            self.run.table_for_each()
        else:
            return False
        return True

    def _ask_moves(self) -> None:
        now = self.run.now
        moves = self.book.wanted(now)
        rows = self._arrays[self.slots.A_MOVES]
        if len(moves) > len(rows):
            rows = self._room_for_moves(len(moves))
        for k, move in enumerate(moves):
            rows[k] = move
        self.vector[self.slots.MOVES] = len(moves)
        self.answers.take_wishes(self.run.state, self.vector, now)

    def settle(self) -> None:
        """Tell Python's side what has become of the counts."""
        slots, vector, fleet = self.slots, self.vector, self.fleet
        fleet.moves, fleet.migrations = int(vector[slots.MOVED]), int(vector[slots.MIGRATED])
        fleet.swaps = int(vector[slots.SWAPS])
        fleet.moved_bytes = float(self.numbers[slots.MOVED_BYTES])
        self.book.lent = set(np.flatnonzero(self.hosts[:, slots.LENT]).tolist())
        self.book.lends, self.book.dropped = int(vector[slots.LENDS]), int(vector[slots.DROPPED])
        self.book.stays = int(vector[slots.STAYS])

    # -- what Python decides --------------------------------------------------------------------------------------

    def place(self, job: int, now: float) -> None:
        """Ask where a request goes."""
        answer = self.book.ask(job, now)
        prompt, decode, lend = (-1, -1, ()) if answer is None else (answer.prompt, answer.decode, answer.lend)
        self.answers.take_answer(self.run.state, self.vector, job, prompt, decode, np.array(lend, np.int64), now)

    def hand_over(self, job: int, now: float) -> bool:
        """A prompt goes to the host that it was promised to. False: that is not up."""
        while self.run.state[at.FULL] & 1:
            self.run.grow()
        return bool(self.kernel.hand_over_again(self.run.state, self.vector, job, now))

    def set_role(self, host: int, role: int) -> None:
        """A host has another role from now on, and is not lent."""
        self.kernel.settle_role(self.run.state, self.vector, host, role)

    def fall(self, host: int, now: float) -> None:
        """A host is about to go down: copies there, and of what is there, are gone."""
        self.kernel.drop_copies(self.run.state, self.vector, host, doors.at_host(self.run, host), now)

    def lost(self, host: int, now: float) -> None:
        """A host has gone down: KV on its way from and to it is lost."""
        self.kernel.cancel_flights(self.run.state, self.vector, host, now)

    @property
    def copies(self) -> dict[int, tuple[int, int]]:
        """Request -> (host, blocks) of its copy, in the order in which they were made."""
        slots, found = self.slots, {}
        job = int(self.vector[slots.FIRST_COPY])
        while job >= 0:
            found[job] = int(self.jobs[slots.COPY_HOST, job]), int(self.jobs[slots.COPY_BLOCKS, job])
            job = int(self.jobs[slots.COPY_NEXT, job])
        return found
