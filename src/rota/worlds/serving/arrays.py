"""The arrays of a run, laid out as the kernels expect them: requests, hosts, lines, accounts, prefix caches."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rota.worlds.serving.asked_models import serves
from rota.worlds.serving.caching import Caches
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.kernels.pages import PAGE
from rota.worlds.serving.naming import lay_out_names

if TYPE_CHECKING:
    from rota.worlds.serving.simulate import Simulation

FloatColumn = npt.NDArray[np.float64]
IntColumn = npt.NDArray[np.int64]

SERIES_BINS = 512
KEY_ROOM = 8  # columns that a policy's keys may have


def lay_out(run: "Simulation") -> None:
    """Make all arrays of a run that no mechanism brings along."""
    _hosts(run)
    _jobs(run)
    lay_out_lines(run)
    _accounts(run)
    _caches(run)
    _models(run)


def _jobs(run: "Simulation") -> None:
    rows = len(run.workload)
    run.jobs = run.own(at.A_JOB_INTS, np.zeros((at.JOB_INTS, rows), np.int64))
    run.seconds = run.own(at.A_JOB_FLOATS, np.full((at.JOB_FLOATS, rows), np.nan))
    run.jobs[at.PROMPT], run.jobs[at.OUTPUT] = run.workload.prompt_tokens, run.workload.output_tokens
    run.jobs[at.HOST] = -1
    visible = run.visible_output
    run.seconds[at.SIZE] = 0.0 if visible is None else np.nan_to_num(visible)
    run.state[at.JOBS] = rows
    heap = np.zeros(max(rows, 1) if run.makes_arrivals else 1, np.int64)
    run.own(at.A_ARRIVALS, heap)
    programs = run.workload.programs
    if programs is not None:
        roots = np.flatnonzero(programs.roots)  # in the order of arrival: a sorted array is a heap
        heap[: len(roots)] = roots
        run.seconds[at.ARRIVAL, roots] = run.workload.arrival[roots]
        run.state[[at.CLOSED, at.PENDING, at.ISSUED]] = 1, len(roots), rows  # none is issued when another one ends
        run.jobs[at.WATCHED] = 1
    elif run.concurrency:
        run.seconds[at.THINK] = 0.0 if run.think is None else run.think
        users = min(run.concurrency, rows)
        starts = np.argsort(run.seconds[at.THINK, :users], kind="stable")  # a sorted array is a heap
        run.seconds[at.ARRIVAL, :users] = run.seconds[at.THINK, :users]
        heap[:users] = starts
        run.state[[at.CLOSED, at.PENDING, at.ISSUED]] = run.concurrency, users, users
    else:
        run.seconds[at.ARRIVAL] = run.workload.arrival
    run.state[[at.KEY_WIDTH, at.HOLD_KEY_WIDTH, at.VICTIM_WIDTH]] = 1
    for slot in (at.A_KEYS, at.A_HOLD_KEYS, at.A_VICTIM_KEYS):
        run.own(slot, np.zeros((rows, 1)))


def _hosts(run: "Simulation") -> None:
    fleet = run.replicas
    run.hosts = run.own(at.A_HOST_INTS, np.zeros((len(fleet), at.HOST_INTS), np.int64))
    run.clocks = run.own(at.A_HOST_FLOATS, np.zeros((len(fleet), at.HOST_FLOATS)))
    for row, clock, replica in zip(run.hosts, run.clocks, fleet, strict=True):
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
        row[at.ROLE], row[at.GANG_SIZE] = at.ROLES[replica.role], replica.gang
    gangs = [k for k, replica in enumerate(fleet) if k == 0 or replica != fleet[k - 1]]
    for begin in gangs:  # a run of equal replicas is cut into gangs
        size = fleet[begin].gang
        for k in range(begin, next((each for each in gangs if each > begin), len(fleet))):
            run.hosts[k, at.GANG] = begin + (k - begin) // size * size
    run.state[at.HOSTS] = len(fleet)
    run.state[at.CLASS_ROOM] = max(replica.block_tokens for replica in fleet)
    run.state[at.RUNNING_ROOM] = max(replica.max_running for replica in fleet) + 1
    run.own(at.A_CLASSES, np.zeros((len(fleet), run.state[at.CLASS_ROOM]), np.int64))
    run.own(at.A_FEATURES, np.zeros((len(fleet), at.FEATURES)))
    for slot in (at.A_RUNNING, at.A_ENDING, at.A_PREFILLS, at.A_FRESH, at.A_LAGGING):
        run.own(slot, np.zeros((len(fleet), run.state[at.RUNNING_ROOM]), np.int64))


def lay_out_lines(run: "Simulation", room: int = 0) -> None:
    """Room for waiting jobs; a larger copy when it was too little."""
    hosts, before = len(run.replicas), run.arrays.get(at.A_QUEUE)
    room = max(room, 1024 + 2 * int(run.state[at.RUNNING_ROOM]))
    queue = np.zeros((hosts + 1, room), np.int64)
    if before is not None:
        queue[:, : before.shape[1]] = before
    run.own(at.A_QUEUE, queue)
    run.state[at.QUEUE_ROOM] = room
    run.state[at.FULL] &= ~1
    rows = room + int(run.state[at.RUNNING_ROOM])
    run.rows = run.own(at.A_ROWS, np.zeros(rows, np.int64))
    run.answer = run.own(at.A_ANSWER, np.zeros(max(rows * KEY_ROOM, hosts)))

    if run.state[at.ADAPTER_ENTRY] and run.adapters is not None:
        run.adapters.lines()


def _accounts(run: "Simulation") -> None:
    hosts, rows = len(run.replicas), len(run.workload)
    run.state[at.BINS] = SERIES_BINS
    run.series = run.own(at.A_SERIES, np.zeros((hosts, SERIES_BINS, at.SERIES)))
    run.histogram = run.own(at.A_HISTOGRAM, np.zeros((2, at.HISTOGRAM_ROOM)))
    run.clock = run.own(at.A_CLOCK, np.zeros(at.CLOCK_FLOATS))
    first, last = (float(run.workload.arrival[k]) for k in (0, -1)) if rows and not run.concurrency else (0.0, 0.0)
    run.clock[at.BIN_SECONDS] = max((last - first) / SERIES_BINS, 1e-3)
    run.clock[at.BIN_START] = run.clocks[:, at.TOUCHED] = first
    run.state[at.EVENT_ROOM] = 4096 + 4 * run.state[at.RUNNING_ROOM]
    run.events = run.own(at.A_EVENTS, np.zeros((run.state[at.EVENT_ROOM], 4)))


def _caches(run: "Simulation") -> None:
    """Arrays of the prefix cache; tiny ones when no replica has it, so that addresses are always valid."""
    caching = any(replica.prefix_caching for replica in run.replicas)
    hosts = len(run.replicas)
    sizes = sorted({replica.block_tokens for replica in run.replicas if replica.prefix_caching})
    reserved = max(replica.rules.reserve_tokens for replica in run.replicas)
    starts, names, most = lay_out_names(run.workload, sizes, reserved)
    for row, replica in zip(run.hosts, run.replicas, strict=True):
        row[at.PREFIX] = 1 + sizes.index(replica.block_tokens) if replica.prefix_caching else 0
    run.own(at.A_NAME_STARTS, starts)
    run.own(at.A_NAMES, names)
    blocks = max(replica.kv_blocks for replica in run.replicas) if caching else 1
    smallest = min(replica.block_tokens for replica in run.replicas)
    longest = int((run.workload.prompt_tokens + run.workload.output_tokens).max(initial=1))
    longest = max(longest, reserved)  # set aside, needed or not
    table = min(-(-longest // smallest) + 1, blocks) if caching else 1
    slots = int(run.state[at.RUNNING_ROOM]) if caching else 1
    room = -(-most // PAGE) + blocks + 1
    run.state[[at.BLOCK_ROOM, at.TABLE_ROOM, at.MAP_ROOM, at.SLOT_ROOM]] = blocks, table, room, slots
    run.caching = caching
    run.own(at.A_BLOCKS, np.zeros((hosts, blocks, 4), np.int32))
    run.own(at.A_TABLES, np.zeros((hosts, slots, table), np.int32))
    run.own(at.A_SLOTS, np.zeros((hosts, slots), np.int64))
    run.own(at.A_MAP_PAGES, np.zeros((hosts, room), np.int32))
    run.own(at.A_MAP_BLOCKS, np.zeros((hosts, blocks + 1, PAGE) if caching else (1, 1, 1), np.int32))
    run.caches = Caches(run, run.own)
    for r in range(hosts if caching else 0):
        empty_cache(run, r)


def empty_cache(run: "Simulation", host: int) -> None:
    """All blocks of a host are free and hold nothing."""
    count, slots = run.replicas[host].kv_blocks, int(run.state[at.SLOT_ROOM])
    name, holders, previous, after = run.arrays[at.A_BLOCKS][host].T
    name[:], holders[:], previous[:], after[:] = -1, 0, -1, -1
    previous[:count] = np.arange(-1, count - 1)
    after[: count - 1] = np.arange(1, count)
    run.hosts[host, [at.FREE_HEAD, at.FREE_TAIL, at.SLOTS_FREE]] = 0, count - 1, slots
    run.arrays[at.A_SLOTS][host] = np.arange(slots)
    both, most = run.arrays[at.A_MAP_PAGES][host], int(run.state[at.BLOCK_ROOM]) + 1
    where, vacant = both[:-most], both[-most:]
    run.arrays[at.A_MAP_BLOCKS][host, where[where > 0]] = 0
    where[:] = 0
    vacant[:] = np.arange(1, most + 1)  # each says which is the next
    run.caches.empty(host)


def _models(run: "Simulation") -> None:
    """Which replica serves what a request asks for."""
    label = run.workload.labels.model
    if label is None:
        return
    served = run.own(at.A_SERVES, serves(label, [replica.model for replica in run.replicas]))
    run.own(at.A_ASKED, np.where(label.index < 0, len(label.names), label.index))
    run.state[at.MODELS] = len(served)
