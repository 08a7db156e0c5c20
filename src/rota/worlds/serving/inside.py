"""What goes on inside a replica beyond the plain batcher, set up: the arrays of such mechanisms, and who acts in which host."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.kernel.streams import stream_key
from rota.worlds.serving.batching import ESTIMATES, FutureMemory, Parking, Reservation, Streams
from rota.worlds.serving.clashes import clash
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.speculative import Speculative

if TYPE_CHECKING:
    from rota.worlds.serving.simulate import Simulation

IntRow = npt.NDArray[np.int64]
STREAM = "past_future"  # of the draws of past lengths
ACCEPTANCE = "acceptance"  # of draft tokens


def equip(run: "Simulation") -> None:
    """Give every host the numbers of its mechanisms; hosts without any get nothing, and nothing is compiled for them.

    Raises:
        InputError: a batcher sets memory aside for predicted answers, and nothing predicts them; mechanisms that do not go together (`clashes`).
    """
    if all(replica.rules.plain and replica.speculative is None for replica in run.replicas):
        run.own(at.A_INSIDE, np.zeros((1, 1), np.int64))
        run.own(at.A_INSIDE_FLOATS, np.zeros((1, 1)))
        return
    power = run.plan is not None and run.plan.energy is not None
    reason = clash(run.replicas, run.roles, run.workload.labels.adapter is not None, power)
    if reason is not None:
        raise InputError(reason)
    from rota.worlds.serving.kernels import inside

    ints = run.own(at.A_INSIDE, np.zeros((len(run.replicas), inside.INSIDE_INTS), np.int64))
    floats = run.own(at.A_INSIDE_FLOATS, np.zeros((len(run.replicas), inside.INSIDE_FLOATS)))
    kept: list[Any] = []  # arrays whose addresses the kernels have
    for number, replica in enumerate(run.replicas):
        rules, row, flags = replica.rules, ints[number], 0
        if rules.future is not None:
            flags |= _future(run, rules.future, row, floats[number], replica.kv_blocks * replica.block_tokens, kept)
        if rules.reservation is not None:
            flags |= _reservation(run, rules.reservation, row, replica.kv_blocks, kept)
        if rules.layer_tokens:
            flags |= _layers(row, rules.layer_tokens, rules.layers)
        if rules.streams is not None:
            flags |= _streams(rules.streams, row, floats[number])
        if replica.speculative is not None:
            flags |= _speculative(run, replica.speculative, row, floats[number])
        if rules.parking is not None:
            flags |= _parking(run, rules.parking, row, floats[number], rules.layers, kept)
        run.hosts[number, at.INSIDE] = flags
    run.kept = kept


def iteration_entries(run: "Simulation") -> tuple[int, int]:
    """Addresses of what begins and what ends an iteration of a host. Where some have streams each host has its own."""
    from rota.worlds.serving.kernels import batch, complete

    plain = batch.begin_entry.address, complete.complete_entry.address
    if any(replica.rules.prompts_first for replica in run.replicas):
        from rota.worlds.serving.kernels import prompts_first

        plain = prompts_first.begin_entry.address, plain[1]
    if all(replica.rules.streams is None and replica.rules.parking is None for replica in run.replicas):
        return plain
    from rota.worlds.serving.kernels import inside, streams

    for number, replica in enumerate(run.replicas):
        if replica.rules.streams is None and replica.rules.parking is None:
            run.arrays[at.A_INSIDE][number, [inside.HOST_BEGIN, inside.HOST_COMPLETE]] = plain
    return streams.any_begin_entry.address, streams.any_complete_entry.address


def _future(
    run: "Simulation", rules: FutureMemory, row: IntRow, floats: npt.NDArray[np.float64], tokens: int, kept: list[Any]
) -> int:
    from rota.worlds.serving.kernels import future, inside

    history = np.zeros((2, rules.window), np.int64)
    scratch = np.zeros(int(run.state[at.RUNNING_ROOM]) + 1, np.int64)
    kept += [history, scratch]
    row[inside.GATE_ENTRY] = future.gate_entry.address
    row[[inside.HISTORY, inside.SCRATCH]] = history.ctypes.data, scratch.ctypes.data
    row[[inside.ESTIMATE, inside.WINDOW, inside.LIMIT]] = ESTIMATES[rules.estimate], rules.window, rules.limit
    row[inside.CAPACITY] = int((1.0 - rules.reserved) * tokens)
    row[inside.KEY] = np.uint64(stream_key(run.seed, STREAM)).astype(np.int64)
    floats[[inside.QUANTILE, inside.MOVING_LENGTH]] = rules.quantile, rules.limit
    if rules.estimate == "limit":
        return inside.GATED
    row[inside.OBSERVE_ENTRY] = future.observe_entry.address
    return inside.GATED | inside.OBSERVED


def _reservation(run: "Simulation", rules: Reservation, row: IntRow, blocks: int, kept: list[Any]) -> int:
    from rota.worlds.serving.kernels import inside, pack

    if run.visible_output is None:
        raise InputError(
            "s3: sets memory aside for the predicted answer, and answers are hidden: set information.output_tokens, "
            "for example to {bucket: {k: 10, accuracy: 0.8}}"
        )
    answers = set_aside(np.nan_to_num(run.visible_output), rules.bucket_tokens)
    reserved = np.ascontiguousarray(run.workload.prompt_tokens + answers, np.int64)
    kept.append(reserved)
    run.reserved.append((reserved, rules.bucket_tokens))
    row[[inside.PICK_ENTRY, inside.CHECK_ENTRY]] = pack.pick_entry.address, pack.check_entry.address
    row[[inside.RESERVED, inside.CAPACITY]] = reserved.ctypes.data, blocks
    return inside.PACKED | inside.CHECKED


def set_aside(answers: npt.NDArray[np.float64], bucket: int) -> npt.NDArray[np.int64]:
    """Tokens for predicted answers, in whole buckets, at least one."""
    return (np.ceil(np.maximum(answers, 1.0) / bucket) * bucket).astype(np.int64)


def expect(run: "Simulation", job: int, tokens: float) -> None:
    """An answer is predicted while the run goes, before any replica has the request: what would be set aside for it follows."""
    for reserved, bucket in run.reserved:
        reserved[job] = run.workload.prompt_tokens[job] + set_aside(np.array([tokens]), bucket)[0]


def _layers(row: IntRow, tokens: int, layers: int) -> int:
    from rota.worlds.serving.kernels import inside
    from rota.worlds.serving.kernels import layers as kernel

    row[[inside.TIME_ENTRY, inside.LAYER_ENTRY]] = kernel.time_entry.address, kernel.layer_entry.address
    row[[inside.LAYER_TOKENS, inside.LAYERS]] = tokens, layers
    return inside.TIMED | inside.LAYERED


def _streams(rules: Streams, row: IntRow, floats: npt.NDArray[np.float64]) -> int:
    from rota.worlds.serving.kernels import inside, streams

    row[[inside.HOST_BEGIN, inside.HOST_COMPLETE]] = streams.begin_entry.address, streams.complete_entry.address
    floats[[inside.SHARE, inside.PROMPT_SCALE, inside.DECODE_SCALE, inside.CONTENTION]] = (
        rules.share,
        rules.prompt_scale,
        rules.decode_scale,
        rules.contention,
    )
    floats[[inside.CONTROL_SECONDS, inside.TTFT_LIMIT, inside.TPOT_LIMIT, inside.LEAST_SHARE]] = (
        rules.control_seconds,
        rules.ttft,
        rules.tpot,
        rules.least,
    )
    return inside.STREAMED


def _speculative(run: "Simulation", rules: Speculative, row: IntRow, floats: npt.NDArray[np.float64]) -> int:
    from rota.worlds.serving.kernels import inside, speculate

    row[[inside.TIME_ENTRY, inside.ACCEPT_ENTRY]] = speculate.time_entry.address, speculate.accept_entry.address
    row[[inside.DRAFT_TOKENS, inside.OFF_ABOVE]] = rules.tokens, rules.off_above
    row[inside.SPECULATIVE_KEY] = np.uint64(stream_key(run.seed, ACCEPTANCE)).astype(np.int64)
    if rules.draft is not None:
        row[inside.DRAFT_ENTRY] = rules.draft.entry.address
        row[inside.DRAFT_PARAMETERS] = rules.draft.parameters.ctypes.data
    floats[[inside.ACCEPTANCE, inside.DRAFT_COST, inside.EXPECTED_TOKENS]] = (
        rules.acceptance,
        rules.cost,
        rules.expected,
    )
    return inside.TIMED | inside.SPECULATIVE


def _parking(
    run: "Simulation", rules: Parking, row: IntRow, floats: npt.NDArray[np.float64], layers: int, kept: list[Any]
) -> int:
    from rota.worlds.serving.kernels import inside, parking

    marks = np.where(run.workload.priority <= rules.urgent, parking.URGENT, 0).astype(np.int64)
    kept.append(marks)
    row[[inside.HOST_BEGIN, inside.HOST_COMPLETE]] = parking.begin_entry.address, parking.complete_entry.address
    row[[inside.PICK_ENTRY, inside.COME_ENTRY]] = parking.pick_entry.address, parking.come_entry.address
    row[[inside.MARKS, inside.TOGETHER, inside.LAYERS]] = marks.ctypes.data, rules.together, layers
    floats[[inside.SWITCH_SECONDS, inside.LAYER_SECONDS]] = rules.switch, 1.0
    return inside.PACKED | inside.PARKS


def parked_iterations(run: "Simulation") -> float:
    """How often an iteration was parked."""
    if all(replica.rules.parking is None for replica in run.replicas):
        return 0.0
    from rota.worlds.serving.kernels import inside

    return float(run.arrays[at.A_INSIDE][:, inside.PARKS_COUNT].sum())
