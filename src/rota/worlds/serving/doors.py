"""What may be done to the hosts and requests of a run from outside its kernels, and what may be seen of them: the doors that the fleet goes through."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rota.worlds.serving.arrays import empty_cache, lay_out_lines
from rota.worlds.serving.kernels import layout as at

if TYPE_CHECKING:
    from rota.worlds.serving.simulate import Simulation

FloatColumn = npt.NDArray[np.float64]
IntColumn = npt.NDArray[np.int64]


def can_decode(run: "Simulation", job: int) -> npt.NDArray[np.bool_]:
    """Which hosts are up and could hold a request whose prompt was computed elsewhere."""
    tokens = run.jobs[at.PROMPT, job] + run.jobs[at.OUTPUT, job]
    whole = -(-(tokens - 1) // run.hosts[:, at.BLOCK_TOKENS]) + run.hosts[:, at.WATERMARK]
    fits = (whole <= run.hosts[:, at.KV_BLOCKS]) & (tokens <= run.hosts[:, at.CONTEXT_LIMIT])
    fits &= (run.hosts[:, at.RESERVE] != at.RESERVE_FIXED) | (tokens - 1 <= run.hosts[:, at.RESERVE_TOKENS])
    return np.asarray(fits & (run.hosts[:, at.ROLE] != at.PREFILL_ROLE) & ~run.hosts[:, at.SHUT].astype(bool))


def could_hold(run: "Simulation", job: int, host: int) -> bool:
    """Whether a host could hold prompt and answer of a request, whatever its role."""
    from rota.worlds.serving.kernels import fleet

    return bool(fleet.could_hold(run.state, host, job))


def open_for(run: "Simulation", job: int) -> npt.NDArray[np.bool_]:
    """Which hosts are open and could ever serve a request."""
    from rota.worlds.serving.kernels import fleet

    out = np.zeros(len(run.replicas), np.bool_)
    fleet.open_for(run.state, job, out)
    return out


def able(run: "Simulation") -> npt.NDArray[np.bool_]:
    """Which hosts could serve requests, without regard to whether they are on: the different rows that there are, (rows, hosts).

    Of a request that is decoded where its prompt is not there are two: for the one and for the other.
    """
    from rota.worlds.serving.kernels import fleet

    prompts, answers = np.zeros((2, len(run.workload), len(run.replicas)), np.bool_)
    fleet.able(run.state, prompts, answers)
    found = np.unique(np.concatenate([prompts, answers[prompts.any(axis=1)]]), axis=0)
    return found[found.any(axis=1)]


def unlike(run: "Simulation") -> tuple[int, int] | None:
    """The first request that some hosts could hold to its end and others could not, and one that could not; None: there is none."""
    tokens = run.workload.prompt_tokens + run.workload.output_tokens
    hosts = run.hosts
    blocks = -(-(tokens[:, None] - 1) // hosts[:, at.BLOCK_TOKENS]) + hosts[:, at.WATERMARK]
    fits = (blocks <= hosts[:, at.KV_BLOCKS]) & (tokens[:, None] <= hosts[:, at.CONTEXT_LIMIT])
    rows = np.flatnonzero(fits.any(axis=1) & ~fits.all(axis=1))
    return (int(rows[0]), int(np.argmin(fits[rows[0]]))) if len(rows) else None


def could_take(run: "Simulation", job: int, host: int) -> bool:
    """Whether the router may send a request to a host now."""
    from rota.worlds.serving.kernels import fleet

    return bool(fleet.could_take(run.state, host, job))


def at_host(run: "Simulation", host: int) -> IntColumn:
    """Requests that run or wait at a host."""
    counts = run.hosts[host, [at.RUNNING_COUNT, at.QUEUED_COUNT]]
    slots = (at.A_RUNNING, at.A_QUEUE)
    return np.concatenate([run.arrays[a][host, :count] for a, count in zip(slots, counts, strict=True)])


def present(run: "Simulation", host: int) -> bool:
    """Whether a host has a request whose KV is there, or is to be computed there."""
    rows = at_host(run, host)
    coming = (run.jobs[at.STATE, rows] == at.MOVING) | (run.jobs[at.SOURCE, rows] > 0)
    return bool(run.hosts[host, at.INBOX_COUNT] > 0 or not coming.all())


def waiting(run: "Simulation") -> FloatColumn:
    """For each host the prompts and answers that are there and not in the iteration under way."""
    from rota.worlds.serving.kernels import fleet

    out = np.zeros(len(run.replicas))
    fleet.count_waiting(run.state, out)
    return out


def held(run: "Simulation") -> IntColumn:
    """Requests that wait at the router."""
    return run.arrays[at.A_QUEUE][-1, : run.state[at.WAITING_AT_ROUTER]].copy()


def decoding(run: "Simulation", host: int) -> IntColumn:
    """Requests that decode at a host, the one with the least KV first."""
    rows = run.arrays[at.A_RUNNING][host, : run.hosts[host, at.RUNNING_COUNT]]
    rows = rows[run.jobs[at.STATE, rows] == at.DECODING]
    context = run.jobs[at.BASE, rows] - run.jobs[at.JOINED, rows]
    return np.asarray(rows[np.lexsort((rows, context))])


def kv_tokens(run: "Simulation", job: int) -> int:
    """Tokens that a decoding request has in the KV cache."""
    return int(run.jobs[at.BASE, job] + run.hosts[run.jobs[at.HOST, job], at.STEP] - run.jobs[at.JOINED, job])


def visible_tokens(run: "Simulation", job: int) -> float:
    """KV of a request at its end, as far as its answer is visible."""
    return float(run.workload.prompt_tokens[job] + run.seconds[at.SIZE, job])


def served(run: "Simulation", job: int) -> float:
    """Seconds of work that an ended request was."""
    clock = run.clocks[run.jobs[at.HOST, job]]
    return float(clock[at.PREFILL_RATE] * run.jobs[at.PROMPT, job] + clock[at.DECODE_RATE] * run.jobs[at.OUTPUT, job])


def let_in(run: "Simulation", job: int) -> None:
    """A request that stood at the gate waits at the router."""
    from rota.worlds.serving.kernels import gate

    run.room_for_one_more()
    gate.let_in(run.state, job)


def recall(run: "Simulation", job: int, now: float) -> None:
    """A request is answered from what was stored."""
    from rota.worlds.serving.kernels import gate

    gate.recall(run.state, job, now)


def enter(run: "Simulation", job: int, now: float) -> None:
    """A request arrives that others had held back."""
    from rota.worlds.serving.kernels import fleet

    run.seconds[at.ARRIVAL, job] = now
    run.room_for_one_more()
    fleet.enter(run.state, job, now)


def send(run: "Simulation", job: int, host: int, now: float) -> None:
    """A parked request goes to a host: its KV at once where links push and there is room, otherwise it queues."""
    from rota.worlds.serving.kernels import fleet

    if run.plan is not None and run.plan.link.push and fleet.push_to(run.state, job, host, now):
        return
    run.room_for_one_more()
    fleet.send(run.state, job, host, now)


def send_to_cheapest(run: "Simulation", job: int, now: float) -> bool:
    """A parked request queues at the host that can decode it for the least. False: there is none."""
    from rota.worlds.serving.kernels import fleet

    if run.plan is not None and run.plan.link.push:
        host = fleet.cheapest_decoder(run.state, job)
        if host >= 0:
            send(run, job, host, now)
        return bool(host >= 0)
    run.room_for_one_more()
    return bool(fleet.send_to_cheapest(run.state, job, now))


def land(run: "Simulation", job: int, now: float) -> None:
    """The KV of a request has come to its host."""
    from rota.worlds.serving.kernels import moves

    moves.land(run.state, job, int(run.jobs[at.HOST, job]), now)


def is_stuck(run: "Simulation", host: int) -> bool:
    """Whether a host has requests that wait, runs none, and will not look at them again unless something comes from outside."""
    from rota.worlds.serving.kernels import knots

    return bool(knots.is_stuck(run.state, host))


def who_stays(run: "Simulation") -> int:
    """The request that shall decode where its KV lies, because hosts wait for one another. -1: they do not."""
    from rota.worlds.serving.kernels import knots

    return int(knots.who_stays(run.state))


def stay(run: "Simulation", job: int, now: float) -> None:
    """A request that waits elsewhere decodes where its KV lies."""
    from rota.worlds.serving.kernels import knots

    knots.stay(run.state, job, now)


def switch(run: "Simulation", job: int, host: int, now: float) -> bool:
    """A decoding request stops where it is and goes on at another host. False: it decodes no more, or there is no room."""
    from rota.worlds.serving.kernels import fleet

    return bool(fleet.switch(run.state, job, host, now))


def reserve_room(run: "Simulation", job: int, host: int, tokens: int, reserved: int, now: float) -> int:
    """A host sets KV blocks aside for a decoding request's first tokens. Returns how many, with those from before; -1: it refuses."""
    from rota.worlds.serving.kernels import migrate

    return int(migrate.reserve_room(run.state, job, host, tokens, reserved, now))


def depart(run: "Simulation", job: int, host: int, reserved: int, now: float) -> bool:
    """A decoding request leaves its batch for another host, whose reserved blocks become its own; its KV stays until it lands. False: it cannot."""
    from rota.worlds.serving.kernels import migrate

    done = bool(migrate.depart(run.state, job, host, reserved, now))
    if run.caching:
        run.table_for_each()
    return done


def restart(run: "Simulation", job: int, now: float) -> None:
    """A parked request starts again."""
    from rota.worlds.serving.kernels import fleet

    fleet.restart_parked(run.state, job, now)


def hold_blocks(run: "Simulation", host: int, blocks: int, now: float) -> None:
    """A host sets KV blocks aside for a copy; negative: gives them back."""
    from rota.worlds.serving.kernels import fleet

    fleet.hold(run.state, host, blocks, now)


def crash(run: "Simulation", host: int, now: float) -> None:
    """A host goes down; what it had waits at the router again, or for another decoder."""
    from rota.worlds.serving.kernels import fleet

    while run.state[at.WAITING_AT_ROUTER] + len(run.arrays[at.A_STOPS]) + 2 >= run.state[at.QUEUE_ROOM]:
        lay_out_lines(run, 2 * int(run.state[at.QUEUE_ROOM]))
    fleet.crash(run.state, host, now)
    if run.replicas[host].prefix_caching:
        empty_cache(run, host)
    if run.adapters is not None:
        run.adapters.crash(host)


def open_host(run: "Simulation", host: int, now: float) -> None:
    """A host takes requests again."""
    run.hosts[host, [at.SHUT, at.DOWN]] = 0
    run.state[at.DISPATCH] = 1


def lose_cache(run: "Simulation", host: int) -> None:
    """A replica's model has gone, and what it had in its prefix cache."""
    from rota.worlds.serving.kernels import nodes

    nodes.let_go(run.state, host)
    if run.replicas[host].prefix_caching:
        empty_cache(run, host)


def wake(run: "Simulation", host: int, now: float) -> None:
    """A replica's model has come."""
    from rota.worlds.serving.kernels import nodes

    nodes.wake(run.state, host, now)


def take_turns(run: "Simulation") -> None:
    """Tell the kernel what requests were promised, for machines whose replicas take turns."""
    from rota.worlds.serving.kernels import nodes

    work = run.workload
    run.own(at.A_PROMISES, np.stack([work.ttft_limit, np.where(np.isinf(work.tpot_limit), 0.0, work.tpot_limit)]))
    run.state[at.TURN_ENTRY] = nodes.turn_entry.address


def set_power(run: "Simulation", rows: FloatColumn) -> FloatColumn:
    """Account for power from now on. Returns the table that the kernel looks at, a row a host: a clock that is written there counts at once."""
    from rota.worlds.serving.kernels import power

    run.hosts[:, at.POWERED] = 1
    run.state[at.POWER_ENTRY] = power.power_entry.address
    return run.own(at.A_POWER, np.array(rows, np.float64, order="C"))


def joules(run: "Simulation", now: float) -> FloatColumn:
    """What each host has drawn above idle until now."""
    from rota.worlds.serving.kernels import power

    out = np.zeros(len(run.replicas))
    power.read_joules(run.state, now, out)
    return out
