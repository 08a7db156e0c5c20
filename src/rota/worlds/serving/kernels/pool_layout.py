"""Where the accounts of pools lie: a vector of their own, as `layout` has for the run; only a run with pools has it."""

import numpy as np
from numba import carray

from rota.kernel.compile import floats_at, ints_at, pointer
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import A_CLOCK, CLOCK_FLOATS, HOSTS, JOBS

# Addresses of arrays ...
(
    A_OF_JOBS, A_OF_HOSTS, A_SUMS, A_NUMBERS, A_TIMES, A_ACTIONS, A_TRANSFERS, A_AMOUNTS, A_TAKEN, A_MOVES, A_WHOLE,
    A_LINE, A_PROMPT_TERMS, A_ANSWER_TERMS, ADDRESSES,
) = range(15)  # fmt: skip
# ... then lengths and scalars.
(
    ACTIONS, ACTION_ROOM, PENDING, NUMBER, TRANSFERS, TRANSFER_ROOM, TAKEN, TAKEN_ROOM, TAKEN_AT, MOVES, MOVE_ROOM,
    PROMPT_TERMS, ANSWER_TERMS, ASSIGNS, WISHES, ASKED_FOR, MIRRORED, REVIEWING, LENT_COUNT, LENDS, DROPPED, MOVED,
    MIGRATED, FIRST_COPY, LAST_COPY, PUSH, SHARED, CACHING, APART, SWAPS, STAYS, POOL_SCALARS,
) = range(ADDRESSES, ADDRESSES + 32)  # fmt: skip
# NUMBER: of the next action, of the kernel or of Python. TAKEN_AT: position in the stops that were taken: what is before it is done.
# ASSIGNS: who chooses the hosts of a request, WISHES: who says what moves between copies. ASKED_FOR: the host that is between two iterations, or ANY_HOST.

# A job's integers: hosts are -1 where there is none. COPY_*: a list of all copies, in the order in which they were made.
(
    PROMPT_AT, DECODE_AT, FLIGHT, FLIGHT_FROM, FLIGHT_TO, COPY_HOST, COPY_BLOCKS, COPY_NEXT, COPY_BEFORE, LAST_MOVE,
    OF_JOB,
) = range(11)  # fmt: skip
# A host's integers. OUT, INTO: transfers that leave it and come in.
HOME, RANK, LENT, OUT, INTO, OF_HOST = range(6)
# A host's floats: requests that were promised to it, their KV, bytes of a token's KV.
# BACK_TOKEN: seconds to have a token's KV back from the host's memory, BACK_COPY: for each copy besides.
ASSIGNED, PROMISED, KV_BYTES, BACK_TOKEN, BACK_COPY, SUMS = range(6)
# Floats of the run: time of the transfers' account, when the next one is through, link, seconds between two updates, bytes moved, parameters of rules.
(
    TRANSFERS_NOW, TRANSFERS_NEXT, BANDWIDTH, LATENCY, OVERLAP, EVERY, MOVED_BYTES, LIMIT, BACKLOG, NUMBERS,
) = range(10)  # fmt: skip

ASKED, BY_HALVES, BY_PAIRS, NEVER = range(4)  # who decides
LAND, REVIEW, GO_ON, UPDATE = np.arange(4)  # actions
BOTH, PROMPTS, ANSWERS = np.arange(3)  # roles of hosts, as in layout
ANY_HOST = NOTHING = np.int64(-1)  # not plain ints: numba would compile a version for each

# Codes that `advance_pools` returns besides those of `advance`.
WISH, FIND_DECODER, ROOM, TABLES = range(100, 104)


@compiler.inner
def of_jobs(state, pool):
    return ints_at(pool[A_OF_JOBS], OF_JOB, state[JOBS])


@compiler.inner
def of_hosts(state, pool):
    return ints_at(pool[A_OF_HOSTS], state[HOSTS], OF_HOST)


@compiler.inner
def sums(state, pool):
    return floats_at(pool[A_SUMS], state[HOSTS], SUMS)


@compiler.inner
def numbers(pool):
    return floats_at(pool[A_NUMBERS], 1, NUMBERS)[0]


@compiler.inner
def run_clock(state):
    return carray(pointer(state[A_CLOCK]), (CLOCK_FLOATS,), np.float64)
