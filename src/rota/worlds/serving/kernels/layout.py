"""Where everything lies: the named slots of the simulator's arrays, and how a kernel finds them.

The Python side owns the arrays. A kernel gets one int64 vector: the addresses of the arrays, then their lengths, then the
scalars of the run. Handing over thirty arrays one by one would cost more than the work between two questions.
"""

import numpy as np
from numba import carray

from rota.kernel.compile import floats_at, ints_at, pointer
from rota.worlds.serving.kernels import compiler

# Codes that `advance` returns.
DONE, ORDER, PLACE, GROW, UNTIL, EVENTS, STOPS = range(7)

# The int64 vector: addresses of arrays ...
(
    A_JOB_INTS, A_JOB_FLOATS, A_KEYS, A_HOLD_KEYS, A_HOST_INTS, A_HOST_FLOATS, A_QUEUE, A_RUNNING, A_ENDING,
    A_PREFILLS, A_FRESH, A_CLASSES, A_FEATURES, A_SERIES, A_HISTOGRAM, A_SAMPLES, A_ROWS, A_ANSWER, A_EVENTS,
    A_ARRIVALS, A_CLOCK, A_NAME_STARTS, A_NAMES, A_BLOCKS, A_TABLES, A_SLOTS, A_MAP_PAGES, A_MAP_BLOCKS,
    A_VICTIM_KEYS, A_LAGGING, A_STOPS, A_ROUTE_TERMS, A_DECODE_TERMS, A_INSIDE, A_INSIDE_FLOATS, A_ADAPTERS, A_SERVES,
    A_ASKED, A_CACHE, A_POWER, A_PROMISES, ARRAYS,
) = range(42)  # fmt: skip
# ... then lengths and scalars.
(
    JOBS, HOSTS, QUEUE_ROOM, RUNNING_ROOM, KEY_WIDTH, HOLD_KEY_WIDTH, BINS, SAMPLE_WIDTH, CLASS_ROOM, EVENT_ROOM,
    TABLE_ROOM, MAP_ROOM, BLOCK_ROOM, CLOSED, NEXT_ARRIVAL, PENDING, WAITING_AT_ROUTER, DISPATCH, GLOBAL, DYNAMIC,
    PREEMPTIVE, PICK, HOLD_DYNAMIC, ROUTE_TERMS, ROUTE_SAMPLED, ROUTE_ASKED, HOOKS, EVENT_COUNT, ASK_HOST, ASK_ROWS,
    ASK_KIND, ANSWERED, ANSWER_WIDTH, FINISHED, ISSUED, VICTIM, VICTIM_WIDTH, FULL,
    PLACED, SELF, BEGIN_ENTRY, COMPLETE_ENTRY, CACHED_ENTRY, OPEN_ENTRY, EXTEND_ENTRY, EXTEND_DECODERS_ENTRY,
    RELEASE_ENTRY, STOP_COUNT, STOP_ROOM, DECODE_TERMS, GATE, ADAPTER_ENTRY, MODELS, BELIEF,
    BELIEF_ENTRY, SENT_ENTRY, LOADED_ENTRY, UNPIN_ENTRY, PINS_YIELD, POWER_ENTRY, SLOT_ROOM, TURN_ENTRY, DISPLACED, POOLED,
    STANDING, SCALARS,
) = range(ARRAYS, ARRAYS + 66)  # fmt: skip

# DISPLACED: jobs displaced since a token last came out, anywhere. Many of them: they displace one another for ever, which is a bit of FULL.
# STANDING: times that a host has found nothing to begin since time went on. Many of them: it never will, which is the same bit.
ENDLESS = 4
DISPLACED_AT_MOST = 100_000  # and a hundred times the jobs

# A job's integers.
(
    PROMPT, OUTPUT, TARGET, COMPUTED, GENERATED, JOINED, BASE, ENDS, HELD_BLOCKS, HOST, STATE, PREEMPTIONS, CACHED,
    CHUNK, SLOT, REGISTERED, NEXT_IN_BOX, SOURCE, SOURCE_SLOT, SOURCE_HELD, SOURCE_REGISTERED, WATCHED, RESTARTS,
    SWAPPED, GOES_TO, WAS_PAUSED, ADMITTED, LOADED, PINNED, COPIED, SERVED, JOB_INTS,
) = range(32)  # fmt: skip
# SERVED: most tokens of its prompt that were ever in KV that it has lost: to compute them again is no new service.
# COPIED: blocks whose copies stay in the host's memory while it runs.
# ADMITTED: number of its admission at the host; LOADED: tokens that came from lower tiers of the cache; PINNED: blocks kept after its end.
# TARGET: tokens to prefill (prompt, plus what was generated before a preemption). COMPUTED: tokens in KV while prefilling.
# SOURCE: one more than the number of the host where its KV lies while it waits or moves elsewhere, 0: nowhere else; SOURCE_*: what it holds there.
# SWAPPED: blocks that it has in the host's memory.
# GOES_TO: one more than the number of the host that decodes it; ELSEWHERE than its prompt is computed, HERE, or 0: as that host's role says.
# WAS_PAUSED: the iteration in which it last stood aside (see prompts_first), 0: never.
# JOINED: decode step of the host when the job joined the decoders; BASE: tokens in KV then; ENDS: step at which it is done.

HERE, ELSEWHERE = -2, -1

# A job's floats, seconds.
(
    ARRIVAL, DISPATCHED, SCHEDULED, FIRST_TOKEN, FINISH, LAST_TOKEN, SIZE, THINK, LOADED_AT, PIN_ENDS, JOB_FLOATS,
) = range(11)  # fmt: skip

# A job's states.
(
    FUTURE, HELD, QUEUED, PREFILLING, DECODING, FINISHED_STATE, REJECTED, PARKED, MOVING, LANDED, PAUSED, SHED,
    LOADING, RECALLED, SPARED,
) = range(15)  # fmt: skip
# LOADING: the beginning of its prompt comes from a lower tier of the cache. SPARED: its program had ended before it came.
# PARKED: its prompt is done, its KV stays where it is. MOVING: its KV comes in. LANDED: it is there, and decodes from the next iteration on.
# PAUSED: it decodes, but prompts have taken its place in this iteration.

# A host's integers: first its settings, then its state.
(
    KV_BLOCKS, BLOCK_TOKENS, MAX_RUNNING, BUDGET, CHUNKED, MIXED, PADDED, WHEN_EMPTY, WATERMARK, RESERVE,
    RESERVE_TOKENS, FULL_CHECK, MAX_OUTSTANDING, CONTEXT_LIMIT, TIMING_ENTRY, TIMING_PARAMETERS, EXTREMES, PREFIX,
    ASYNC, BUSY, READY, QUEUED_COUNT, RUNNING_COUNT, DECODES, PREFILL_COUNT, FRESH_COUNT, STEP, CONTEXT_SUM,
    BASE_HIGH, BASE_LOW, FREE, DECISIONS_HERE, DECODING_NOW, ITERATIONS, BATCHED_TOKENS, PREEMPTED_HERE, HIT_TOKENS,
    LOOKED_TOKENS, FREE_HEAD, FREE_TAIL, STAGE, SLOTS_FREE, INBOX_HEAD, INBOX_TAIL, INBOX_COUNT, LAGGING, ROLE, SHUT,
    DOWN, LANDINGS, GANG, GANG_SIZE, SWAP_ROOM, PROMPTS_FIRST, PAUSED_COUNT, INSIDE, NODE, COLD, LONG_WAIT,
    INTERRUPTED, ALONE, EVICTION, CACHE_CLOCK, RESTING, TIERS, LOADS, PINS, POWERED, SWAP_GROUP, SWAP_KEEPS, TURNS,
    CALL_AT_END, SPARE, HOST_INTS,
) = range(74)  # fmt: skip
# SPARE: a decode goes on only while a block is free, needed or not.
# PREFIX: 0: no prefix cache, otherwise one more than which names its blocks have (fleets have several sizes of blocks).
# TURNS: it computes only while no other one of its machine does.
# EVICTION: the rule of its prefix cache; CACHE_CLOCK: counts admissions and frees; RESTING: named blocks that nobody holds.
# TIERS: below its cache; LOADS: jobs whose KV comes from them; PINS: ended jobs whose KV is kept.
# INSIDE: which mechanisms of kernels/inside.py act in this host, as bits; 0: none.
# NODE: one more than the number of the machine that it shares with others, 0: its own. COLD: 0 its model is loaded, 1 it is not, 2 it is being loaded.
# GANG: first of the hosts that go in step with this one, GANG_SIZE: how many they are, 1: it goes alone.
# LONG_WAIT: prompts over the budget do not interrupt decodes; ALONE: decodes of an iteration without prompts;
# INTERRUPTED: KV has left since the iteration began, and something waits.
RESERVE_CHUNK, RESERVE_PROMPT, RESERVE_FIXED = range(3)
MIXED_ROLE, PREFILL_ROLE, DECODE_ROLE = range(3)
ROLES = {"mixed": MIXED_ROLE, "prefill": PREFILL_ROLE, "decode": DECODE_ROLE}  # as scenarios name them

# A host's floats.
(
    NOW, BEGUN, ENDS_AT, LAST_DECODE, BUSY_SECONDS, TOUCHED, PREFILL_RATE, DECODE_RATE, WAITING_PROMPT,
    WAITING_ANSWER, REVIEW_AT, SLOWNESS, STALL, SWAP_RATE, LOADS_AT, AGE, BLOCK_COST, BLOCK_COST_SLOPE, WATTS, JOULES,
    FULL_SECONDS, COMPUTE_SECONDS, SWAP_COPY, HOST_FLOATS,
) = range(24)  # fmt: skip
# SWAP_COPY: seconds besides for each group of SWAP_GROUP blocks. SWAP_KEEPS: copies stay when a job comes back.
# WATTS: what it draws above idle in this iteration, JOULES: that over time. FULL_SECONDS: iterations at the highest clock; COMPUTE_SECONDS: their part that
# the clock stretches. All only where POWERED.
# LOADS_AT: when the next load from a lower tier is done. AGE, BLOCK_COST, BLOCK_COST_SLOPE: of eviction by cost, see eviction.py.
# STALL: seconds by which its next iteration ends later. SWAP_RATE: seconds to copy a token's KV to the host's memory while everything waits.

# The clock: floats of the run.
NOW_CLOCK, BIN_SECONDS, BIN_START, CLOCK_FLOATS = range(4)

# Host columns that a route may be made of; the kernel reads them itself. A term is a column and its weight.
(
    COLUMN_DECISIONS,
    COLUMN_OUTSTANDING,
    COLUMN_QUEUED,
    COLUMN_RUNNING,
    COLUMN_WORK,
    COLUMN_TOKENS,
    COLUMN_PREFILL,
    COLUMN_ACTIVE,
    COLUMN_CACHED,
    COLUMN_MISSING,
    COLUMN_ID,
    COLUMN_ADAPTER,
    COLUMN_RESIDENT,
) = range(13)

# Quantities of the time series.
S_QUEUED, S_RUNNING, S_KV, S_BUSY, SERIES = range(5)

# What a question is about.
KIND_ORDER, KIND_VICTIM, KIND_HOLD = np.arange(3)  # not plain ints: numba would compile a version for each
# Why the kernel stops for the fleet: a prompt is done where it cannot decode; KV begins to move; a watched request is done; a host that was
# to be called (CALL_AT_END) has ended an iteration: then the number is the host's.

# Why the kernel stops for the fleet: a prompt is done where it cannot decode; KV begins to move; a watched request is done; one is at the gate; one
# waits for an adapter; a host with work is not loaded. STOP_STUCK, of runs with pools (POOLED): a host with nothing to run could begin nothing of what
# waits there.
(
    STOP_HANDOFF, STOP_MOVE, STOP_FINISH, STOP_GATE, STOP_LOAD, STOP_COLD, STOP_BOUNDARY, STOP_STUCK,
) = np.arange(8)  # fmt: skip

# Event kinds for hooks.
E_ARRIVAL, E_START, E_PREEMPT, E_FINISH, E_LEAVE = np.arange(5)

# Features of an iteration, the input of a timing model (the same slots as in timing/features.py).
(
    PREFILL_TOKENS, PREFILL_REQUESTS, PREFILL_CONTEXT, PREFILL_SQUARES, PREFILL_PAIRS, F_DECODES, F_DECODE_CONTEXT,
    F_DECODE_MAX, F_DECODE_MIN, F_SAMPLES, F_GANG_TOKENS, FEATURES,
) = range(12)  # fmt: skip

# Histogram of gaps between tokens: the top bits of a float64 (sign, exponent, ten bits of the mantissa).
HISTOGRAM_SHIFT = 42
HISTOGRAM_LOW = 0x3E1 << 10  # 2^-30 s, about a nanosecond
HISTOGRAM_ROOM = 48 << 10


@compiler.inner
def whole_state(address):
    """The int64 vector behind its address, for entries."""
    return carray(pointer(address), (SCALARS,), np.int64)


@compiler.inner
def uncounted(vector):
    """The int64 vector without its owner, for functions that Python calls.

    An array that Python owns is counted, with an atomic operation, wherever it is handed on: in a loop over hosts that was a third of the time.
    """
    return whole_state(vector[SELF])


@compiler.inner
def job_ints(state):
    return ints_at(state[A_JOB_INTS], JOB_INTS, state[JOBS])


@compiler.inner
def job_floats(state):
    return floats_at(state[A_JOB_FLOATS], JOB_FLOATS, state[JOBS])


@compiler.inner
def host_ints(state):
    return ints_at(state[A_HOST_INTS], state[HOSTS], HOST_INTS)


@compiler.inner
def host_floats(state):
    return floats_at(state[A_HOST_FLOATS], state[HOSTS], HOST_FLOATS)
