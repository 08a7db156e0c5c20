"""Shortest remaining processing time on one server: the least mean flow time of any schedule."""

import heapq

import numpy as np

from rota.worlds.serving.kernels import compiler


@compiler.njit
def srpt_flow_times(arrival, work, speed):
    """Flow time of each job under SRPT on one server that does `speed` seconds of work a second; arrivals are sorted."""
    count = len(arrival)
    flow = np.zeros(count)
    waiting = [(0.0, 0)]
    waiting.pop()
    now = 0.0
    following = 0
    while following < count or len(waiting) > 0:
        if len(waiting) == 0:
            now = max(now, arrival[following])
        while following < count and arrival[following] <= now:
            heapq.heappush(waiting, (work[following] / speed, following))
            following += 1
        left, job = heapq.heappop(waiting)
        end = now + left
        if following < count and arrival[following] < end:
            heapq.heappush(waiting, (end - arrival[following], job))
            now = arrival[following]
        else:
            flow[job] = end - arrival[job]
            now = end
    return flow
