"""Past-Future admission: the peak of the memory that the batch will need, if answers are as long as past ones were.

See `rota.worlds.serving.policies.past_future`.
"""

import numpy as np

from rota.kernel.compile import ints_at
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.decoders import context, generated
from rota.worlds.serving.kernels.inside import (
    CAPACITY,
    ESTIMATE,
    HISTORY,
    HISTORY_COUNT,
    HISTORY_NEXT,
    KEY,
    LIMIT,
    MOVING_LENGTH,
    QUANTILE,
    SCRATCH,
    WINDOW,
    inside,
    inside_floats,
)
from rota.worlds.serving.kernels.layout import (
    A_RUNNING,
    DECODING,
    HOSTS,
    OUTPUT,
    PROMPT,
    RUNNING_COUNT,
    RUNNING_ROOM,
    STATE,
    TARGET,
    host_ints,
    job_ints,
    whole_state,
)
from rota.worlds.serving.kernels.luck import uniform

SAMPLED, QUANTILE_OF, RELEASED, MOST = range(4)  # how the length of an answer is estimated
DECAY = 0.9  # of the moving length
SHIFT = 31  # (tokens left, tokens now) in one integer


@compiler.inner
def longer(lengths, count, tokens):
    """How many of the sorted lengths are at most so many tokens."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if lengths[middle] <= tokens:
            low = middle + 1
        else:
            high = middle
    return low


@compiler.inner
def expected_length(state, r, j, out):
    """Tokens that the answer of a job is taken to have in all, when `out` of them are there. Always more than `out`."""
    own, floats = inside(state, r), inside_floats(state, r)
    if own[ESTIMATE] == MOST:
        return max(own[LIMIT], out + 1)
    if own[ESTIMATE] == RELEASED:
        return max(min(own[LIMIT], max(int(1.1 * out), int(floats[MOVING_LENGTH]))), out + 1)
    lengths, count = ints_at(own[HISTORY], 2, own[WINDOW])[1], own[HISTORY_COUNT]
    shorter = longer(lengths, count, out)
    left = count - shorter
    if left == 0:  # nothing is known of answers that are so long
        return max(own[LIMIT], out + 1)
    if own[ESTIMATE] == QUANTILE_OF:
        return lengths[shorter + max(int(np.ceil(floats[QUANTILE] * left)), 1) - 1]
    return lengths[shorter + int(uniform(own[KEY], j, out) * left)]


@compiler.inner
def sink(heap, count, parent):
    """Restore a heap whose largest is first, from a parent on."""
    item = heap[parent]
    while True:
        child = 2 * parent + 1
        if child >= count:
            break
        if child + 1 < count and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= item:
            break
        heap[parent] = heap[child]
        parent = child
    heap[parent] = item


@compiler.inner
def peak(rows, count):
    """The most tokens that requests will hold together. `rows`: tokens left << SHIFT | tokens now, reordered in place.

    All grow by a token an iteration, and one that has nothing left goes. The most is held when one of them ends; those that are then still
    there are the i with the most left: max over i of left_i * i + sum of now_k over k <= i, in the order of what is left, the most first.
    """
    for parent in range(count // 2 - 1, -1, -1):
        sink(rows, count, parent)
    most, together = 0, 0
    for i in range(1, count + 1):
        row = rows[0]
        rows[0] = rows[count - i]
        sink(rows, count - i, 0)
        together += row & ((1 << SHIFT) - 1)
        most = max(most, (row >> SHIFT) * i + together)
    return most


@compiler.inner
def now_and_left(state, r, j):
    """Tokens of a job in the cache, or that it must compute to begin, and those that come: the last token of an answer is never cached."""
    job, host = job_ints(state), host_ints(state)[r]
    out = generated(job, host, j)
    now = context(job, host, j) if job[STATE, j] == DECODING else job[TARGET, j]
    left = max(job[PROMPT, j] + expected_length(state, r, j, out) - 1 - now, 0)
    return (left << SHIFT) | now


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def gate_entry(address, r, j, _, __):
    """Whether the peak with job j is within the capacity. A host with nothing to do takes whoever comes first."""
    state = whole_state(address)
    own, host = inside(state, r), host_ints(state)[r]
    if host[RUNNING_COUNT] == 0:
        return 1
    running = ints_at(state[A_RUNNING], state[HOSTS], state[RUNNING_ROOM])[r]
    rows = ints_at(own[SCRATCH], 1, state[RUNNING_ROOM] + 1)[0]
    for position in range(host[RUNNING_COUNT]):
        rows[position] = now_and_left(state, r, running[position])
    rows[host[RUNNING_COUNT]] = now_and_left(state, r, j)
    return 1 if peak(rows, host[RUNNING_COUNT] + 1) <= own[CAPACITY] else 0


@compiler.entry("int64(int64, int64, int64, int64, int64)")
def observe_entry(address, r, j, _, __):
    """An answer is whole: its length goes into the window of the last ones, and the oldest goes out."""
    state = whole_state(address)
    own, floats, length = inside(state, r), inside_floats(state, r), job_ints(state)[OUTPUT, j]
    floats[MOVING_LENGTH] = (1.0 - DECAY) * length + DECAY * floats[MOVING_LENGTH]
    both = ints_at(own[HISTORY], 2, own[WINDOW])
    last, lengths, count, where = both[0], both[1], own[HISTORY_COUNT], own[HISTORY_NEXT]
    if count == own[WINDOW]:
        position = longer(lengths, count, last[where]) - 1
        for k in range(position, count - 1):
            lengths[k] = lengths[k + 1]
        count -= 1
    position = longer(lengths, count, length)
    for k in range(count, position, -1):
        lengths[k] = lengths[k - 1]
    lengths[position] = length
    last[where] = length
    own[HISTORY_COUNT], own[HISTORY_NEXT] = count + 1, (where + 1) % own[WINDOW]
    return 0
