"""What is measured while time passes: gaps between tokens, time series, events for hooks."""

import numpy as np
from numba import carray

from rota.kernel.compile import bits_of, floats_at, pointer
from rota.worlds.serving.kernels import compiler
from rota.worlds.serving.kernels.layout import (
    A_CLOCK,
    A_EVENTS,
    A_HISTOGRAM,
    A_SERIES,
    BIN_SECONDS,
    BIN_START,
    BINS,
    BUSY,
    CLOCK_FLOATS,
    EVENT_COUNT,
    EVENT_ROOM,
    FREE,
    HISTOGRAM_LOW,
    HISTOGRAM_ROOM,
    HISTOGRAM_SHIFT,
    HOOKS,
    HOSTS,
    INBOX_COUNT,
    JOULES,
    KV_BLOCKS,
    POWERED,
    QUEUED_COUNT,
    RUNNING_COUNT,
    S_BUSY,
    S_KV,
    S_QUEUED,
    S_RUNNING,
    SERIES,
    TOUCHED,
    WATTS,
    host_floats,
    host_ints,
)


@compiler.inner
def gap(state, seconds, weight):
    """Count `weight` tokens that came `seconds` after the one before them.

    The bin is made of the leading bits of the number: 1,024 bins an octave, so a percentile is within 0.1 %.
    """
    if weight == 0:
        return
    position = (bits_of(seconds) >> HISTOGRAM_SHIFT) - HISTOGRAM_LOW
    histogram = floats_at(state[A_HISTOGRAM], 2, HISTOGRAM_ROOM)
    position = min(max(position, 0), HISTOGRAM_ROOM - 1)
    histogram[0, position] += weight
    histogram[1, position] += weight * seconds


@compiler.inner
def touch(state, r, now):
    """Add the time since the last touch to the series of a host, at the quantities that held since then."""
    host, clock = host_ints(state)[r], host_floats(state)[r]
    start = clock[TOUCHED]
    if now <= start:
        return
    clock[TOUCHED] = now
    if host[POWERED]:
        clock[JOULES] += (now - start) * clock[WATTS]
    width = carray(pointer(state[A_CLOCK]), (CLOCK_FLOATS,), np.float64)
    start, now = start - width[BIN_START], now - width[BIN_START]
    while now >= state[BINS] * width[BIN_SECONDS]:
        fold(state, width)
    series = floats_at(state[A_SERIES], state[HOSTS] * state[BINS], SERIES)
    position = int(start / width[BIN_SECONDS])
    while start < now:
        end = min(now, (position + 1) * width[BIN_SECONDS])
        if end > start:
            row = series[r * state[BINS] + position]
            row[S_QUEUED] += (end - start) * (host[QUEUED_COUNT] + host[INBOX_COUNT])
            row[S_RUNNING] += (end - start) * host[RUNNING_COUNT]
            row[S_KV] += (end - start) * (host[KV_BLOCKS] - host[FREE])
            row[S_BUSY] += (end - start) * host[BUSY]
            start = end
        position += 1


@compiler.inner
def fold(state, width):
    """Twice the width of the bins, half their number: the memory of a series does not grow with time."""
    bins = state[BINS]
    series = floats_at(state[A_SERIES], state[HOSTS] * bins, SERIES)
    for r in range(state[HOSTS]):
        for k in range(bins):
            for q in range(SERIES):
                if 2 * k + 1 < bins:
                    series[r * bins + k, q] = series[r * bins + 2 * k, q] + series[r * bins + 2 * k + 1, q]
                else:
                    series[r * bins + k, q] = 0.0
    width[BIN_SECONDS] *= 2.0


@compiler.inner
def emit(state, kind, j, r, now):
    """Note an event for the policies' hooks. The caller of `advance` has made sure that there is room."""
    if not state[HOOKS]:
        return
    events = floats_at(state[A_EVENTS], state[EVENT_ROOM], 4)
    row = events[state[EVENT_COUNT]]
    row[0], row[1], row[2], row[3] = kind, j, r, now
    state[EVENT_COUNT] += 1
