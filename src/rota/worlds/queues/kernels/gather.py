"""What a policy sees of the jobs it is asked about: dense copies of the columns that it declared."""

from rota.worlds.queues.kernels import compiler
from rota.worlds.queues.kernels.layout import (
    ARRIVAL,
    ATTAINED,
    CLASS,
    PREEMPTIONS,
    RATE,
    RUNNING,
    START,
    STATE,
)

# Columns that move. Fixed ones have codes from 0 up.
MOVING = {
    "attained": -1,
    "remaining": -2,
    "running": -3,
    "release": -4,
    "preemptions": -5,
    "rate": -6,
    "start": -7,
    "predicted_remaining": -8,
    "class_done": -9,
    "class_attained": -10,
}


@compiler.inner
def gather(jobs, seconds, counts, rows, visible, codes, fixed, count, out):
    """Fill `out`, a row a declared column, with the values of the jobs in `rows`."""
    for c in range(len(codes)):
        code = codes[c]
        for i in range(count):
            j = rows[i]
            if code >= 0:
                out[c, i] = fixed[code, j]
            elif code == -1:
                out[c, i] = seconds[ATTAINED, j]
            elif code == -2:
                out[c, i] = visible[0, j] - seconds[ATTAINED, j]
            elif code <= -9:
                out[c, i] = counts[-9 - code, jobs[CLASS, j]]
            elif code == -8:
                out[c, i] = visible[1, j] - seconds[ATTAINED, j]
            elif code == -3:
                out[c, i] = 1.0 if jobs[STATE, j] == RUNNING else 0.0
            elif code == -4:
                out[c, i] = seconds[ARRIVAL, j]
            elif code == -5:
                out[c, i] = jobs[PREEMPTIONS, j]
            elif code == -6:
                out[c, i] = seconds[RATE, j]
            else:
                out[c, i] = seconds[START, j]
