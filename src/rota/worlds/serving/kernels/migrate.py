"""Live migration: room at the host that a decoding job goes to, stage by stage, and its departure with the last of its KV."""

from rota.kernel.compile import call_entry, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import touch
from rota.worlds.serving.kernels.candidates import holds_whole
from rota.worlds.serving.kernels.decoders import drop, generated, stop_running
from rota.worlds.serving.kernels.holding import blocks_for, held, is_fresh, reserve
from rota.worlds.serving.kernels.layout import (
    A_RUNNING,
    BASE,
    BLOCK_TOKENS,
    CHUNK,
    COMPUTED,
    COPIED,
    DECODING,
    EXTEND_ENTRY,
    FREE,
    HELD_BLOCKS,
    HOST,
    HOSTS,
    LAGGING,
    LAST_DECODE,
    LAST_TOKEN,
    MAX_RUNNING,
    MOVING,
    OPEN_ENTRY,
    PREFILL_ROLE,
    PREFIX,
    PROMPT,
    REGISTERED,
    RESERVE,
    RESERVE_FIXED,
    RESERVE_TOKENS,
    ROLE,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SELF,
    SHUT,
    SLOT,
    SOURCE,
    SOURCE_HELD,
    SOURCE_REGISTERED,
    SOURCE_SLOT,
    STATE,
    SWAP_ROOM,
    TARGET,
    WATERMARK,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
)
from rota.worlds.serving.kernels.moves import kick


@compiler.inner
def tokens_held(host, tokens):
    """Tokens that a host sets blocks aside for when it takes a job with so many in KV."""
    return max(tokens, host[RESERVE_TOKENS] if host[RESERVE] == RESERVE_FIXED else 0)


@compiler.inner
def room_for(state, j, d, tokens, reserved):
    """The blocks that host d needs for a job's first `tokens` tokens; -1: it cannot take it.

    It cannot where it is full or shut, where it does not decode or could not hold the job to its end, and where the blocks are not free beside the
    `reserved` ones that are set aside for this job already.
    """
    host = host_ints(state)[d]
    full = host[RUNNING_COUNT] + host[LAGGING] >= host[MAX_RUNNING]
    if host[SHUT] or full or host[ROLE] == PREFILL_ROLE or not holds_whole(state, d, j):
        return -1
    wanted = blocks_for(tokens_held(host, tokens), host[BLOCK_TOKENS])
    return wanted if wanted + host[WATERMARK] <= host[FREE] + reserved else -1


@compiler.njit
def reserve_room(state, j, d, tokens, reserved, now):
    """Host d sets blocks aside for a job's first `tokens` tokens. Returns how many there are now, with the `reserved` ones from before; -1: it refuses."""
    wanted = room_for(state, j, d, tokens, reserved)
    if wanted >= 0:
        touch(state, d, now)
        host_ints(state)[d, FREE] -= wanted - reserved
    return wanted


@compiler.njit
def depart(state, j, d, reserved, now):
    """A decoding job leaves its batch for host d. Its KV stays where it is until d has the last of it, as that of a prompt that is decoded elsewhere.

    The `reserved` blocks at d become its own. False: d cannot take it, and nothing has changed.
    """
    job, host = job_ints(state), host_ints(state)[d]
    r = job[HOST, j]
    tokens = job[PROMPT, j] + generated(job, host_ints(state)[r], j) - 1
    if job[STATE, j] != DECODING or room_for(state, j, d, tokens, reserved) < 0:
        return False
    touch(state, r, now)
    touch(state, d, now)
    leave_kv(state, r, j, tokens)
    job[TARGET, j] = job[COMPUTED, j] = job[BASE, j] = tokens
    job[CHUNK, j] = job[HELD_BLOCKS, j] = 0
    job[HOST, j], job[STATE, j] = d, MOVING
    host[FREE] += reserved
    if host[PREFIX]:
        call_entry(state[OPEN_ENTRY], state[SELF], d, j, 0, 0)
    reserve(state, d, j, tokens_held(host, tokens))
    ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[d, host[RUNNING_COUNT]] = j
    host[RUNNING_COUNT] += 1
    kick(state, r, now)
    return True


@compiler.inner
def leave_kv(state, r, j, tokens):
    """A decoding job stops at host r; its blocks, which hold so many tokens, stay there in its name."""
    job, host = job_ints(state), host_ints(state)[r]
    if host[PREFIX]:
        call_entry(state[EXTEND_ENTRY], state[SELF], r, j, job[HELD_BLOCKS, j], tokens)  # names the full ones
    job[SOURCE_HELD, j] = held(state, r, j)
    job[SOURCE, j] = r + 1
    job[SOURCE_SLOT, j], job[SOURCE_REGISTERED, j] = job[SLOT, j], job[REGISTERED, j]
    stop_running(state, r, j)
    if not is_fresh(state, r, j):
        job_floats(state)[LAST_TOKEN, j] = host_floats(state)[r, LAST_DECODE]
    drop(state, r, j)
    host[SWAP_ROOM] += job[COPIED, j]  # copies in the host's memory are of no use elsewhere
    job[COPIED, j] = 0
