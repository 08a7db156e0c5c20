"""Where everything lies: the named slots of the simulator's arrays.

The Python side owns the arrays. A kernel gets one int64 vector: the addresses of the arrays, then scalars. Handing over many arrays
one by one would cost more than the work between two questions.
"""

# Codes that a loop returns.
DONE, ORDER, SHARE, PLACE, ADMIT, EVENTS, UNTIL, NOT_A_NUMBER = range(8)

# The int64 vector: addresses of arrays ...
(
    A_JOB_INTS, A_JOB_FLOATS, A_SERVER_INTS, A_SERVER_FLOATS, A_RANK_UNTIL, A_RANK_LEVEL, A_RANK_START, A_RANK_SLOPE,
    A_SPEEDS, A_SETUPS, A_QUEUES, A_TREE, A_EXPIRY, A_SAMPLES, A_PRESENT, A_ROWS, A_ANSWER, A_SHARES, A_EVENTS,
    A_CHILD_OFFSETS, A_CHILDREN, A_CLOCK, A_VISIBLE, A_READY, A_CODES, A_FIXED,
    A_OUT, A_CLASS_COUNTS, ARRAYS,
) = range(29)  # fmt: skip
# ... then scalars.
(
    JOBS, SERVERS, QUEUES, CLASSES, PIECES, RANK_ROWS, PREEMPTIVE, SHARED_TIES, HAS_SETUP, BUFFER, NEXT_ARRIVAL,
    ROUTE_COLUMN, SAMPLE_WIDTH, EXPIRIES, HAS_PATIENCE, ASKED, ROUTE_ASKED, ADMIT_ASKED, HOOKS, EVENT_COUNT, EVENT_ROOM,
    ASK_QUEUE, ASK_ROWS, ASK_JOB, ANSWER_WIDTH, ANSWERED, PLACED, PICK, READY_COUNT, HELD_COUNT, EVEN_SPEEDS,
    CODES, FIXED, MEETS, SCALARS,
) = range(ARRAYS, ARRAYS + 35)  # fmt: skip
ASKED_NOTHING, ASKED_ORDER, ASKED_SHARE = range(3)

# A job's integers.
STATE, SERVER, PIECE, CHILD, NEXT, PREV, PREEMPTIONS, CLASS, PARENTS_LEFT, JOB_INTS = range(10)

# A job's floats, seconds. LEVEL and KEY are the key of a waiting job; RATE is what it is served at.
ARRIVAL, SIZE, ATTAINED, START, FINISH, LEVEL, KEY, PATIENCE, WEIGHT, RATE, JOB_FLOATS = range(11)

# A job's states.
FUTURE, WAITING, RUNNING, FINISHED_STATE, BLOCKED, ABANDONED, REFUSED, HELD = range(
    8
)  # HELD: for parents, or for a server

# A server's integers. COUNT: jobs present in the server's queue (waiting and running).
JOB, DECISIONS, OUTSTANDING, LAST_CLASS, PRESENT, SERVER_INTS = range(6)

# A server's floats, seconds.
(
    SPEED, SINCE, NEXT_EVENT, BUSY_SECONDS, KNOWN_WORK, KNOWN_ATTAINED, SETUP_LEFT, REVIEW_AT, VIRTUAL, WEIGHT_SUM,
    SERVER_FLOATS,
) = range(11)  # fmt: skip

# A queue's integers: the root of its heap, how many wait there, how many wait or run there, whether a decision is due.
ROOT, WAITING_COUNT, PRESENT_COUNT, DIRTY, QUEUE_INTS = range(5)

# Columns of hosts that a place may name as its cost.
COLUMN_NONE, COLUMN_DECISIONS, COLUMN_OUTSTANDING, COLUMN_QUEUED, COLUMN_RUNNING, COLUMN_WORK, COLUMN_ASKED = range(7)

# Kinds of events for hooks.
E_ARRIVAL, E_START, E_PREEMPT, E_FINISH, E_LEAVE = range(5)

# The clock of a run: seconds, the integral of the number of jobs present over time, and that number.
NOW, AREA, INSIDE, CLOCK_FLOATS = range(4)

# What a class has had so far: jobs done, seconds of service.
CLASS_DONE, CLASS_ATTAINED, CLASS_COUNTS = range(3)
