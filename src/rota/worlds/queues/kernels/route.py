"""Which server an arriving job joins, where the cost is a plain column: the smallest, then the fewest decisions, then the id."""

from rota.worlds.queues.kernels import compiler
from rota.worlds.queues.kernels.layout import (
    COLUMN_DECISIONS,
    COLUMN_NONE,
    COLUMN_OUTSTANDING,
    COLUMN_QUEUED,
    COLUMN_RUNNING,
    DECISIONS,
    JOB,
    KNOWN_ATTAINED,
    KNOWN_WORK,
    OUTSTANDING,
    SETUP_LEFT,
    SINCE,
    SPEED,
)


@compiler.inner
def work_at(server, server_seconds, s, now):
    """Seconds of visible service outstanding at a server, what runs there accounted for up to now."""
    left = server_seconds[KNOWN_WORK, s] - server_seconds[KNOWN_ATTAINED, s]
    if server[JOB, s] != -1 and server_seconds[SETUP_LEFT, s] == 0.0:
        left -= server_seconds[SPEED, s] * (now - server_seconds[SINCE, s])
    return max(0.0, left)


@compiler.inner
def cost(column, server, server_seconds, s, now):
    """The cost column of one server. Sharing servers keep JOB at -2 - jobs: all that is there runs."""
    if column == COLUMN_OUTSTANDING:
        return float(server[OUTSTANDING, s])
    if column == COLUMN_DECISIONS:
        return float(server[DECISIONS, s])
    if column == COLUMN_NONE:
        return 0.0
    if column in (COLUMN_QUEUED, COLUMN_RUNNING):
        running = 1 if server[JOB, s] >= 0 else 0
        if server[JOB, s] < -1:
            running = server[OUTSTANDING, s]
        return float(server[OUTSTANDING, s] - running if column == COLUMN_QUEUED else running)
    return work_at(server, server_seconds, s, now)


@compiler.inner
def choose(column, server, server_seconds, servers, samples, sampled, job, now):
    """The server of a job; `samples` names its candidates when `sampled` > 0."""
    found = -1
    least = 0.0
    for i in range(sampled if sampled > 0 else servers):
        s = samples[job, i] if sampled > 0 else i
        price = cost(column, server, server_seconds, s, now)
        better = found < 0 or price < least
        if not better and price == least:
            fewer = server[DECISIONS, s] - server[DECISIONS, found]
            better = fewer < 0 or (fewer == 0 and s < found)
        if better:
            found, least = s, price
    return found
