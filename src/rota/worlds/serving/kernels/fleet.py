"""What the fleet does to hosts and requests when the simulation stops: hand over, restart, take a host away."""

from rota.kernel.compile import call_entry, floats_at, ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.account import emit, touch
from rota.worlds.serving.kernels.admit import fits
from rota.worlds.serving.kernels.advance import arrive, place
from rota.worlds.serving.kernels.candidates import cost, holds_whole, host_column, outstanding, possible
from rota.worlds.serving.kernels.decoders import drop, generated, stop_running
from rota.worlds.serving.kernels.holding import blocks_for, is_fresh, leave_prefills, release, reserve
from rota.worlds.serving.kernels.layout import (
    A_DECODE_TERMS,
    A_QUEUE,
    A_RUNNING,
    BASE,
    BEGUN,
    BLOCK_TOKENS,
    BUSY,
    BUSY_SECONDS,
    CHUNK,
    COMPUTED,
    COPIED,
    DECISIONS_HERE,
    DECODE_TERMS,
    DECODING,
    DECODING_NOW,
    DISPATCH,
    DOWN,
    E_PREEMPT,
    E_START,
    FREE,
    FULL,
    GATE,
    GENERATED,
    GOES_TO,
    HELD,
    HELD_BLOCKS,
    HERE,
    HOST,
    HOSTS,
    INBOX_COUNT,
    INBOX_HEAD,
    INBOX_TAIL,
    JOBS,
    KV_BLOCKS,
    LAGGING,
    LANDED,
    LANDINGS,
    LAST_DECODE,
    LAST_TOKEN,
    MAX_OUTSTANDING,
    MAX_RUNNING,
    MOVING,
    NEXT_IN_BOX,
    NOW,
    OPEN_ENTRY,
    PARKED,
    PAUSED,
    PREFILL_ROLE,
    PREFILLING,
    PREFIX,
    PROMPT,
    QUEUE_ROOM,
    QUEUED_COUNT,
    READY,
    RESERVE,
    RESERVE_FIXED,
    RESERVE_TOKENS,
    RESTARTS,
    ROLE,
    RUNNING_COUNT,
    RUNNING_ROOM,
    SELF,
    SHUT,
    SOURCE,
    SOURCE_HELD,
    STAGE,
    STALL,
    STATE,
    STOP_GATE,
    STOP_HANDOFF,
    STOP_MOVE,
    SWAP_ROOM,
    SWAPPED,
    TARGET,
    WAITING_ANSWER,
    WAITING_AT_ROUTER,
    WAITING_PROMPT,
    WATERMARK,
    WATTS,
    host_floats,
    host_ints,
    job_floats,
    job_ints,
    uncounted,
)
from rota.worlds.serving.kernels.moves import kick, note, release_source
from rota.worlds.serving.kernels.outstanding import lose, nothing_waits, uncount
from rota.worlds.serving.kernels.queue import push, set_count


@compiler.njit
def send(state, j, r, now):
    """A parked job queues at the host that will go on with it."""
    place(state, j, r, now)


@compiler.njit
def cheapest_decoder(state, j):
    """The host, besides the one that has its KV, that can decode a parked job for the least; fewest decisions, then the number, break ties. -1: none."""
    hosts, terms = host_ints(state), floats_at(state[A_DECODE_TERMS], state[DECODE_TERMS], 2)
    best, best_cost = -1, 0.0
    for r in range(state[HOSTS]):
        if hosts[r, ROLE] == PREFILL_ROLE or hosts[r, SHUT] or not holds_whole(state, r, j):
            continue
        if job_ints(state)[SOURCE, j] == r + 1:
            continue
        mine = cost(terms, j, r, state)
        fewer = best >= 0 and mine == best_cost and hosts[r, DECISIONS_HERE] < hosts[best, DECISIONS_HERE]
        if best < 0 or mine < best_cost or fewer:
            best, best_cost = r, mine
    return best


@compiler.njit
def send_to_cheapest(state, j, now):
    """A parked job queues there. False: there is none."""
    best = cheapest_decoder(state, j)
    if best >= 0:
        place(state, j, best, now)
    return best >= 0


@compiler.njit
def push_to(state, j, r, now):
    """A parked job's KV goes to a host at once, between two iterations or within one. False: there is no slot or not the blocks, or others wait for them."""
    job, host = job_ints(state), host_ints(state)[r]
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])[r]
    for position in range(host[QUEUED_COUNT]):
        if job[SOURCE, waiting[position]] > 0:
            return False
    full = host[RUNNING_COUNT] + host[LAGGING] >= host[MAX_RUNNING]
    if host[SHUT] or full or not fits(state, r, j, 0, 0, 0, 0):
        return False
    touch(state, r, now)
    job[HOST, j], job[STATE, j] = r, MOVING
    host[DECISIONS_HERE] += 1
    if host[PREFIX]:
        call_entry(state[OPEN_ENTRY], state[SELF], r, j, 0, 0)
    reserve(state, r, j, max(host[RESERVE_TOKENS] if host[RESERVE] == RESERVE_FIXED else 0, job[TARGET, j]))
    ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r, host[RUNNING_COUNT]] = j
    host[RUNNING_COUNT] += 1
    note(state, STOP_MOVE, j)
    emit(state, E_START, j, r, now)
    return True


@compiler.njit
def count_waiting(state, out):
    """For each host the prompts and answers that are there and not in its iteration; the answer of a prompt under way that stays there is one of them."""
    job, hosts = job_ints(state), host_ints(state)
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])
    for r in range(state[HOSTS]):
        out[r] = hosts[r, QUEUED_COUNT] + hosts[r, INBOX_COUNT]
        for position in range(hosts[r, RUNNING_COUNT]):
            j = running[r, position]
            what = job[STATE, j]
            if what in (PAUSED, LANDED) or (what == PREFILLING and job[GOES_TO, j] == HERE):
                out[r] += 1


@compiler.njit
def hold(state, r, blocks, now):
    """A host sets blocks aside for no job of its own; negative: gives them back."""
    touch(state, r, now)
    host_ints(state)[r, FREE] -= blocks
    if blocks < 0:
        kick(state, r, now)


@compiler.njit
def could_hold(state, r, j):
    """Whether prompt and answer of a job are within a host's limits."""
    return holds_whole(state, r, j)


@compiler.njit
def could_take(state, r, j):
    """Whether the router may send a job to a host now."""
    host = host_ints(state)[r]
    return not host[SHUT] and outstanding(host) < host[MAX_OUTSTANDING] and possible(state, r, j)


@compiler.njit
def open_for(vector, j, out):
    """Which hosts are open and could ever serve a job."""
    state = uncounted(vector)
    for r in range(state[HOSTS]):
        out[r] = not host_ints(state)[r, SHUT] and possible(state, r, j)


@compiler.njit
def able(state, prompts, answers):
    """For each job which hosts could ever serve it or compute its prompt, and which hold it to its end where that is decoded; whether open or not."""
    for j in range(state[JOBS]):
        for r in range(state[HOSTS]):
            prompts[j, r] = possible(state, r, j)
            answers[j, r] = host_ints(state)[r, ROLE] != PREFILL_ROLE and holds_whole(state, r, j)


@compiler.njit
def pair_column(vector, column, j, out):
    """A host column that depends on the job, a value a host."""
    state = uncounted(vector)
    for r in range(state[HOSTS]):
        out[r] = host_column(state, column, j, r)


@compiler.inner
def to_router(state, j):
    """A job waits at the router."""
    job_ints(state)[STATE, j] = HELD
    push(state, state[HOSTS], j)
    state[DISPATCH] = 1
    if state[WAITING_AT_ROUTER] + 2 >= state[QUEUE_ROOM]:
        state[FULL] = 1


@compiler.njit
def enter(state, j, now):
    """A job arrives that something else has let go."""
    if arrive(state, j, now):
        if state[GATE]:
            note(state, STOP_GATE, j)
        else:
            to_router(state, j)


@compiler.inner
def restart(state, j, r, now):
    """A job has lost its KV: prompt and what was generated must be computed again, wherever the router sends it."""
    job = job_ints(state)
    job[TARGET, j] = job[PROMPT, j] + job[GENERATED, j]
    lose(job, j)
    job[CHUNK, j] = job[SOURCE, j] = job[SOURCE_HELD, j] = job[HELD_BLOCKS, j] = 0
    if r >= 0:
        host_ints(state)[r, SWAP_ROOM] += job[SWAPPED, j] + job[COPIED, j]
    job[SWAPPED, j] = job[COPIED, j] = 0
    job[RESTARTS, j] += 1
    job[HOST, j] = -1
    to_router(state, j)
    emit(state, E_PREEMPT, j, r, now)


@compiler.njit
def restart_parked(state, j, now):
    """A parked job starts again: the host with its KV went down before another one took it, or no other one can."""
    r = job_ints(state)[SOURCE, j] - 1
    if not host_ints(state)[r, DOWN]:
        release_source(state, j, now)
    restart(state, j, r, now)


@compiler.inner
def leave(state, r, j):
    """A running job is on its host no more; its blocks there are given back."""
    job, seconds = job_ints(state), job_floats(state)
    decoding, prefilling, landed = job[STATE, j] == DECODING, job[STATE, j] == PREFILLING, job[STATE, j] == LANDED
    release(state, r, j)
    stop_running(state, r, j)
    if decoding:
        if not is_fresh(state, r, j):
            seconds[LAST_TOKEN, j] = host_floats(state)[r, LAST_DECODE]
        drop(state, r, j)
    elif prefilling:
        leave_prefills(state, r, j)
    elif landed:
        host_ints(state)[r, LANDINGS] -= 1


@compiler.njit
def switch(state, j, d, now):
    """A decoding job goes on at host d, whose KV it has been copied to but for the last tokens: it stops here and lands there. False: it cannot.

    It cannot where it decodes no more, where d has no slot or not the blocks, and where d does not decode or could not hold it to its end.
    """
    job, host = job_ints(state), host_ints(state)[d]
    r = job[HOST, j]
    tokens = job[PROMPT, j] + generated(job, host_ints(state)[r], j) - 1 if r >= 0 else 0
    held = max(tokens, host[RESERVE_TOKENS] if host[RESERVE] == RESERVE_FIXED else 0)
    wanted = blocks_for(held, host[BLOCK_TOKENS])
    full = host[RUNNING_COUNT] + host[LAGGING] >= host[MAX_RUNNING]
    if job[STATE, j] != DECODING or r == d or host[SHUT] or full or wanted + host[WATERMARK] > host[FREE]:
        return False
    if host[ROLE] == PREFILL_ROLE or not holds_whole(state, d, j):
        return False
    touch(state, r, now)
    touch(state, d, now)
    leave(state, r, j)
    host_ints(state)[r, SWAP_ROOM] += job[COPIED, j]
    job[COPIED, j] = 0
    kick(state, r, now)
    job[TARGET, j] = job[COMPUTED, j] = job[BASE, j] = job[PROMPT, j] + job[GENERATED, j] - 1
    job[CHUNK, j] = job[HELD_BLOCKS, j] = 0
    job[HOST, j], job[STATE, j] = d, MOVING
    if host[PREFIX]:
        call_entry(state[OPEN_ENTRY], state[SELF], d, j, 0, 0)
    reserve(state, d, j, held)
    ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[d, host[RUNNING_COUNT]] = j
    host[RUNNING_COUNT] += 1
    return True


@compiler.inner
def stray(state, j, r, now):
    """A job whose host went down: on to another host where its KV still lies elsewhere, otherwise from the start."""
    job = job_ints(state)
    if job[SOURCE, j] > 0 and job[SOURCE, j] != r + 1:
        job[STATE, j] = PARKED
        job[HELD_BLOCKS, j] = 0
        note(state, STOP_HANDOFF, j)
    else:
        restart(state, j, r, now)


@compiler.inner
def bears(state, waiting, d, r):
    """Whether host d has jobs whose KV is at host r."""
    job, host = job_ints(state), host_ints(state)[d]
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[d]
    for position in range(host[RUNNING_COUNT]):
        if job[SOURCE, running[position]] == r + 1:
            return True
    for position in range(host[QUEUED_COUNT]):
        if job[SOURCE, waiting[position]] == r + 1:
            return True
    j = host[INBOX_HEAD]
    for _ in range(host[INBOX_COUNT]):
        if job[SOURCE, j] == r + 1:
            return True
        j = job[NEXT_IN_BOX, j]
    return False


@compiler.njit
def crash(state, r, now):
    """A host goes down with all that it had; nothing of its iteration counts. The lines have room for everything that comes back."""
    job, host, clock = job_ints(state), host_ints(state)[r], host_floats(state)[r]
    touch(state, r, now)
    host[SHUT] = host[DOWN] = 1
    if host[BUSY]:
        clock[BUSY_SECONDS] += now - clock[BEGUN]
    clock[WATTS] = 0.0
    host[BUSY] = host[READY] = host[STAGE] = host[DECODING_NOW] = 0
    clock[NOW], clock[STALL] = now, 0.0  # those that go in step with it wait for it no more
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])
    while host[RUNNING_COUNT] > 0:
        j = running[r, 0]
        leave(state, r, j)
        stray(state, j, r, now)
    waiting = ints_at(state[A_QUEUE], state[HOSTS] + 1, state[QUEUE_ROOM])
    lines = host_ints(state)
    for d in range(state[HOSTS]):
        if d != r:
            if not bears(state, waiting[d], d, r):
                continue
            touch(state, d, now)
            for position in range(lines[d, RUNNING_COUNT] - 1, -1, -1):
                j = running[d, position]
                if job[STATE, j] == MOVING and job[SOURCE, j] == r + 1:
                    leave(state, d, j)
                    restart(state, j, r, now)
            sort_out_inbox(state, d, r, now)
            kick(state, d, now)
        sort_out(state, waiting[d], d, r, now)
        nothing_waits(state, d)
    while host[INBOX_COUNT] > 0:
        j = host[INBOX_HEAD]
        host[INBOX_HEAD] = job[NEXT_IN_BOX, j]
        host[INBOX_COUNT] -= 1
        stray(state, j, r, now)
    host[LAGGING] = host[LANDINGS] = 0
    clock[WAITING_PROMPT] = clock[WAITING_ANSWER] = 0.0
    host[FREE] = host[KV_BLOCKS]


@compiler.inner
def sort_out_inbox(state, d, r, now):
    """Those in the inbox of host d whose KV was at host r, which goes down, start again."""
    job, host = job_ints(state), host_ints(state)[d]
    j, count = host[INBOX_HEAD], host[INBOX_COUNT]
    host[INBOX_COUNT] = 0
    for _ in range(count):
        after = job[NEXT_IN_BOX, j]
        if job[SOURCE, j] == r + 1:
            uncount(state, d, j)
            restart(state, j, r, now)
        else:
            if host[INBOX_COUNT] == 0:
                host[INBOX_HEAD] = j
            else:
                job[NEXT_IN_BOX, host[INBOX_TAIL]] = j
            host[INBOX_TAIL] = j
            host[INBOX_COUNT] += 1
        j = after


@compiler.inner
def sort_out(state, waiting, d, r, now):
    """What waits at host d when host r goes down: d's own jobs leave it if it is r, and those whose KV was at r start again."""
    job = job_ints(state)
    before = waiting[: host_ints(state)[d, QUEUED_COUNT]].copy()
    set_count(state, d, 0)
    for position in range(len(before)):
        j = before[position]
        if d == r:
            stray(state, j, r, now)
        elif job[SOURCE, j] == r + 1:
            uncount(state, d, j)
            restart(state, j, r, now)
        else:
            push(state, d, j)
