"""The slow twin: the queues world in plain Python and exact fractions, written for reading.

It shares no code with `rota.worlds.queues`. At every event it looks at everything there is. Because times are fractions there is no rounding, so on
inputs that are multiples of a power of two the compiled loops must agree to the bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction as F
from math import inf


@dataclass
class Job:
    id: int
    release: F
    size: F
    weight: F = F(1)
    priority: int = 0
    due: F | float = inf
    kind: int = 0
    patience: F | float = inf
    attained: F = F(0)
    start: F | None = None
    finish: F | None = None
    server: int | None = None
    rate: F = F(0)
    preemptions: int = 0
    status: str = "future"


Key = Callable[[Job], tuple[F | float | int, ...]]


@dataclass
class Line:
    servers: list[int]
    jobs: list[Job] = field(default_factory=list)
    last_kind: dict[int, int] = field(default_factory=dict)
    setup_until: dict[int, F] = field(default_factory=dict)


def simulate(
    jobs: Sequence[Job],
    speeds: Sequence[F],
    key: Key,
    *,
    central: bool = True,
    preemptive: bool = False,
    share: str = "",  # "": one job a server; "ties": equal keys share; "weights": everybody by weight
    steps: Sequence[F] = (),  # attained service at which a key may change by itself
    buffer: int | None = None,
    setup: Callable[[int | None, int], F] | None = None,
    route: Callable[[Job, list[Line], list[int], F], int] | None = None,
) -> None:
    """Run to the end; results are left in the jobs."""
    lines = [Line(list(range(len(speeds))))] if central else [Line([s]) for s in range(len(speeds))]
    decisions = [0] * len(lines)
    waiting = sorted(jobs, key=lambda job: (job.release, job.id))
    now = F(0)
    while True:
        moments = [now + span for line in lines for span in spans(line, now, steps, share, speeds)]
        moments += [waiting[0].release] if waiting else []
        moments += [
            job.release + job.patience
            for line in lines
            for job in line.jobs
            if job.start is None and job.patience != inf
        ]
        if not moments:
            return
        moment = min(moments)
        for line in lines:
            for job in line.jobs:
                job.attained += job.rate * (moment - now)
        now = moment
        touched = []
        for line in lines:
            ended = [job for job in line.jobs if job.attained == job.size and job.rate > 0]
            for job in ended:
                job.finish, job.status, job.rate, job.server = now, "finished", F(0), None
                line.jobs.remove(job)
            ready = [s for s, until in line.setup_until.items() if until == now]
            for s in ready:
                del line.setup_until[s]
                for job in line.jobs:
                    if job.server == s:
                        job.rate = speeds[s]
            touched.append(line)
        while waiting and waiting[0].release == now:
            job = waiting.pop(0)
            where = 0 if central or route is None else route(job, lines, decisions, now)
            line = lines[where]
            if buffer is not None and len(line.jobs) >= len(line.servers) + buffer:
                job.status = "blocked"
                continue
            decisions[where] += 1
            job.status = "waiting"
            line.jobs.append(job)
        for line in lines:
            decide(line, speeds, key, preemptive, share, setup, now)
        for line in lines:
            for job in [job for job in line.jobs if job.start is None and job.release + job.patience == now]:
                job.status = "abandoned"
                line.jobs.remove(job)


def spans(line: Line, now: F, steps: Sequence[F], share: str, speeds: Sequence[F]) -> list[F]:
    """How long until something happens in a line by itself."""
    found = [(job.size - job.attained) / job.rate for job in line.jobs if job.rate > 0]
    found += [
        (step - job.attained) / job.rate for job in line.jobs if job.rate > 0 for step in steps if step > job.attained
    ]
    found += [until - now for until in line.setup_until.values()]
    if share == "ties":  # two jobs with different attained service meet
        for a in line.jobs:
            for b in line.jobs:
                if a.attained < b.attained and a.rate > b.rate:
                    found.append((b.attained - a.attained) / (a.rate - b.rate))
    return found


def decide(
    line: Line,
    speeds: Sequence[F],
    key: Key,
    preemptive: bool,
    share: str,
    setup: Callable[[int | None, int], F] | None,
    now: F,
) -> None:
    order = sorted(line.jobs, key=lambda job: (key(job), job.release, job.id))
    if share == "weights":
        total, left = F(len(line.servers)), list(line.jobs)
        rates: dict[int, F] = {}
        while left:
            weight = sum(job.weight for job in left)
            full = [job for job in left if total * job.weight / weight >= 1]
            if not full:
                rates |= {job.id: total * job.weight / weight for job in left}
                break
            rates |= {job.id: F(1) for job in full}
            total -= len(full)
            left = [job for job in left if job not in full]
        for job in line.jobs:
            job.rate = rates[job.id] * speeds[line.servers[0]]
            job.start = now if job.start is None else job.start
        return
    if share == "ties":
        free = F(len(line.servers))
        for job in line.jobs:
            job.rate = F(0)
        while order and free > 0:
            group = [job for job in order if key(job) == key(order[0])]
            each = min(F(1), free / len(group))
            for job in group:
                job.rate = each * speeds[line.servers[0]]
                job.start = now if job.start is None else job.start
            free -= each * len(group)
            order = [job for job in order if job not in group]
        return
    fixed = [job for job in line.jobs if job.server in line.setup_until]
    if preemptive:
        room = len(line.servers) - len(fixed)
        chosen = [job for job in order if job not in fixed][:room]
        for job in line.jobs:
            if job.server is not None and job not in chosen and job not in fixed:
                job.server, job.rate, job.preemptions = None, F(0), job.preemptions + 1
    else:
        busy = [job for job in line.jobs if job.server is not None]
        chosen = [job for job in order if job.server is None][: len(line.servers) - len(busy)]
    for job in chosen:
        if job.server is not None:
            continue
        taken = {other.server for other in line.jobs}
        server = max((s for s in line.servers if s not in taken), key=lambda s: (speeds[s], -s))
        job.server, job.start = server, now if job.start is None else job.start
        needed = (
            setup(line.last_kind.get(server), job.kind)
            if setup is not None and line.last_kind.get(server) != job.kind
            else F(0)
        )
        line.last_kind[server] = job.kind
        job.rate = speeds[server] if needed == 0 else F(0)
        if needed > 0:
            line.setup_until[server] = now + needed
