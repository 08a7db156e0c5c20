"""Prefix caches beyond the plain one: how blocks are evicted, tiers below, ended requests whose KV is kept, what a router believes.

The plain cache (least recently used, nothing below it, a router that sees it) needs none of these arrays, and gets tiny ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.worlds.serving.kernels import cache_layout as c
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.timing import features as f

if TYPE_CHECKING:
    from rota.worlds.serving.replica import Replica
    from rota.worlds.serving.simulate import Simulation

LRU = "lru"
EVICTIONS = (LRU, "fifo", "lfu", "two_class", "recompute")  # in the order of kernels/eviction.py
TRUE, SENT, EVENTS = "true", "sent", "events"
INDICES = (TRUE, SENT, EVENTS)  # in the order of kernels/belief.py
BLOCKS_MOST = (1 << 21) - 1  # of a cache: three such counts go into one word


@dataclass(frozen=True)
class Tier:
    """Memory below the cache that evicted blocks go to."""

    blocks: int
    bandwidth: float  # bytes a second, read
    latency: float = 0.0  # seconds before the first byte
    compress: float = 1.0  # share of a block's bytes that are stored and read


@dataclass(frozen=True)
class Index:
    """What a router knows of the caches: everything at once, what it sent itself, or what the engines report `delay` seconds late."""

    kind: str = TRUE
    delay: float = 0.0
    blocks: int | None = (
        None  # sent: a replica's blocks that it remembers, the least recently used leave; None: as many as the replica has
    )


@dataclass
class Caches:
    """The arrays of one run."""

    run: "Simulation"
    own: Callable[[int, npt.NDArray[Any]], npt.NDArray[Any]]

    def __post_init__(self) -> None:
        self._arrays: dict[int, npt.NDArray[Any]] = {}
        self.vector = self.own(at.A_CACHE, np.zeros(c.CACHE_SCALARS, np.int64))
        replicas = self.run.replicas
        self.caching = any(replica.prefix_caching for replica in replicas)
        self.kind = self.run.index.kind if self.caching else TRUE
        if self.caching and max(replica.kv_blocks for replica in replicas) > BLOCKS_MOST:
            raise InputError(f"fleet: a replica with a prefix cache may have {BLOCKS_MOST:,} KV blocks at most")
        self.run.clocks[:, at.LOADS_AT] = np.inf
        self._eviction()
        self._tiers()
        self._index()
        self._pins(1)

    @property
    def told(self) -> bool:
        """Whether engines tell the router, so that all events happen in the order of time."""
        return self.kind == EVENTS

    def _keep(self, slot: int, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        self._arrays[slot] = array
        self.vector[slot] = array.ctypes.data
        return array

    # -- eviction -------------------------------------------------------------------------------------------------

    def _eviction(self) -> None:
        run, replicas = self.run, self.run.replicas
        for row, clock, replica in zip(run.hosts, run.clocks, replicas, strict=True):
            row[at.EVICTION] = EVICTIONS.index(replica.eviction) if replica.prefix_caching else 0
            clock[[at.BLOCK_COST, at.BLOCK_COST_SLOPE]] = block_cost(replica) if row[at.EVICTION] == 4 else (0.0, 0.0)
        ruled = run.hosts[:, at.EVICTION].any()
        rows, room = (len(replicas), int(run.state[at.BLOCK_ROOM])) if ruled else (1, 1)
        self._keep(c.C_HEAP, np.zeros((rows, room), np.int64))
        self._keep(c.C_HEAP_KEYS, np.zeros((rows, room)))
        self._keep(c.C_FACTS, np.zeros((rows * c.FACTS, room), np.int64))

    # -- tiers ----------------------------------------------------------------------------------------------------

    def _tiers(self) -> None:
        replicas = self.run.replicas
        most = max(len(replica.tiers) for replica in replicas)
        room = max((tier.blocks for replica in replicas for tier in replica.tiers), default=1)
        rows, slots = max(most * len(replicas), 1), 1 << (2 * room).bit_length()
        self.vector[[c.TIER_COUNT, c.TIER_ROOM, c.TIER_MAP_ROOM]] = most, room, slots
        self._keep(c.C_TIER_KEYS, np.full((rows, slots), -1, np.int64))
        self._keep(c.C_TIER_VALUES, np.zeros((rows, slots), np.int64))
        self._keep(c.C_TIER_ENTRIES, np.zeros((rows * c.ENTRY_FIELDS, room), np.int64))
        self.tier_lines = self._keep(c.C_TIER_LINES, np.zeros((rows, c.LINE_INTS), np.int64))
        floats = self._keep(c.C_TIER_FLOATS, np.zeros((rows, c.TIER_FLOATS)))
        for r, replica in enumerate(replicas):
            self.run.hosts[r, at.TIERS] = len(replica.tiers)
            for t, tier in enumerate(replica.tiers):
                row = r * most + t
                self.tier_lines[row, c.LIMIT] = tier.blocks
                size = replica.kv_bytes * replica.block_tokens * tier.compress
                floats[row, [c.TIER_SECONDS, c.TIER_LATENCY]] = size / tier.bandwidth, tier.latency

    def tier_hits(self) -> npt.NDArray[np.int64]:
        """Tokens found in each tier, shape (replicas, tiers)."""
        count = int(self.vector[c.TIER_COUNT])
        rows = len(self.run.replicas) * count
        return np.asarray(self.tier_lines[:rows, c.HITS].reshape(len(self.run.replicas), count))

    # -- what the router believes ---------------------------------------------------------------------------------

    def _index(self) -> None:
        state, replicas, index = self.run.state, self.run.replicas, self.run.index
        state[at.BELIEF] = INDICES.index(self.kind)
        rooms = [1]
        if self.kind == SENT:
            rooms = [index.blocks or replica.kv_blocks for replica in replicas]
        elif self.kind == EVENTS:
            rooms = [replica.kv_blocks + sum(tier.blocks for tier in replica.tiers) for replica in replicas]
        room, rows = max(rooms), len(replicas) if self.kind != TRUE else 1
        slots = 1 << (2 * room).bit_length()
        self.vector[[c.INDEX_ROOM, c.INDEX_MAP_ROOM]] = room, slots
        self._keep(c.C_INDEX_KEYS, np.full((rows, slots), -1, np.int64))
        self._keep(c.C_INDEX_VALUES, np.zeros((rows, slots), np.int64))
        self._keep(c.C_INDEX_ENTRIES, np.zeros((rows * c.ENTRY_FIELDS, room), np.int64))
        self.index_lines = self._keep(c.C_INDEX_LINES, np.zeros((rows, c.LINE_INTS), np.int64))
        self.index_lines[:, c.LIMIT] = rooms if self.kind != TRUE else 1
        self._keep(c.C_DELAY, np.array([[index.delay]]))
        self._rings = self._keep(c.C_EVENT_LINES, np.zeros((rows, c.RING_INTS), np.int64))
        self._events(1 << (16 * int(state[at.BLOCK_ROOM])).bit_length() if self.kind == EVENTS else 1)

    def _events(self, room: int) -> None:
        """Rings of events for each host; what is under way is kept in its order."""
        rows, before = len(self._rings), int(self.vector[c.EVENT_ROOM_OF_HOST])
        times, events = np.zeros((rows, room)), np.zeros((rows, room), np.int64)
        for r, (first, count) in enumerate(self._rings.tolist() if before else []):
            places = (first + np.arange(count)) & (before - 1)
            times[r, :count] = self._arrays[c.C_EVENT_TIMES][r, places]
            events[r, :count] = self._arrays[c.C_EVENTS][r, places]
        self._rings[:, c.RING_FIRST] = 0
        self._keep(c.C_EVENT_TIMES, times)
        self._keep(c.C_EVENTS, events)
        self.vector[c.EVENT_ROOM_OF_HOST] = room

    def grow(self) -> bool:
        """Room for more events, where that is what was short."""
        if not self.run.state[at.FULL] & 2:
            return False
        self.run.state[at.FULL] &= ~2
        self._events(2 * int(self.vector[c.EVENT_ROOM_OF_HOST]))
        return not self.run.state[at.FULL]

    # -- ended requests whose KV is kept --------------------------------------------------------------------------

    def _pins(self, room: int) -> None:
        pins, before = np.zeros((len(self.run.replicas), room), np.int64), self._arrays.get(c.C_PINS)
        if before is not None:
            pins[:, : before.shape[1]] = before
        self.vector[c.PIN_ROOM] = room
        self._keep(c.C_PINS, pins)

    def pin(self, job: int, until: float, now: float) -> int:
        """Keep the KV of an ended request where it ended. Returns the blocks that are held."""
        from rota.worlds.serving.kernels import pins

        host = int(self.run.jobs[at.HOST, job])
        if self.run.hosts[host, at.PINS] == self.vector[c.PIN_ROOM]:
            self._pins(2 * int(self.vector[c.PIN_ROOM]))
        return int(pins.pin(self.run.state, host, job, until, now))

    def unpin(self, job: int, now: float) -> None:
        """Let go of the KV of an ended request, if it is still kept."""
        from rota.worlds.serving.kernels import pins

        if self.run.jobs[at.PINNED, job]:
            pins.unpin(self.run.state, int(self.run.jobs[at.HOST, job]), job, now)

    # -- all ------------------------------------------------------------------------------------------------------

    def entries(self) -> None:
        """Compile what this run needs of it."""
        state = self.run.state
        if self.run.hosts[:, at.TIERS].any():
            from rota.worlds.serving.kernels import loads

            state[at.LOADED_ENTRY] = loads.loaded_entry.address
        if self.kind != TRUE:
            from rota.worlds.serving.kernels import belief

            state[at.BELIEF_ENTRY] = belief.believed_entry.address
            state[at.SENT_ENTRY] = belief.sent_entry.address if self.kind == SENT else 0

    def empty(self, host: int) -> None:
        """A host has nothing any more, also not below its cache, and the router knows."""
        run, count = self.run, int(self.vector[c.TIER_COUNT])
        run.hosts[host, [at.RESTING, at.LOADS]] = 0
        run.clocks[host, [at.LOADS_AT, at.AGE]] = np.inf, 0.0
        for position in range(int(run.hosts[host, at.PINS])):
            run.jobs[at.PINNED, self._arrays[c.C_PINS][host, position]] = 0
        run.hosts[host, at.PINS] = 0
        for row in range(host * count, host * count + len(run.replicas[host].tiers)):
            self._empty_line(c.C_TIER_KEYS, c.C_TIER_ENTRIES, c.C_TIER_LINES, row)
            self._arrays[c.C_TIER_FLOATS][row, c.TIER_FREE_AT] = 0.0
        if self.kind != TRUE:
            self._empty_line(c.C_INDEX_KEYS, c.C_INDEX_ENTRIES, c.C_INDEX_LINES, host)
            self._rings[host] = 0

    def _empty_line(self, keys: int, entries: int, lines: int, row: int) -> None:
        self._arrays[keys][row] = -1
        links = self._arrays[entries][row * c.ENTRY_FIELDS + c.AFTER]
        links[:] = np.arange(1, len(links) + 1)
        links[-1] = -1
        self._arrays[lines][row, [c.COUNT, c.OLDEST, c.NEWEST, c.VACANT]] = 0, -1, -1, 0


def block_cost(replica: "Replica") -> tuple[float, float]:
    """Seconds to compute the first block of a prompt, and how many more for each block before it: its part of chunks of 1,024 at depths 0 and 16,384."""
    size, deep, counted = replica.block_tokens, 16_384, replica.timing.parameters[0]
    first, later = (replica.timing.seconds(f.iteration([(depth, 1024)])) * size / 1024 for depth in (0, deep))
    replica.timing.parameters[0] = counted  # extrapolations of the run are counted, not ours
    return first, (later - first) * size / deep
