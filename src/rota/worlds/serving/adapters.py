"""LoRA adapters: which request names which, and which a replica has loaded.

Hu et al., LoRA, ICLR 2022. A replica holds at most so many at once (vLLM: ``max_loras``); loading one takes its bytes over a bandwidth, from the host's
memory, and holds up the requests that wait for it, not the others. What adapters cost in each iteration is not modelled. KV of different adapters is
different, so that prompts share cached blocks only under the same one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError
from rota.kernel.streams import uniform
from rota.worlds.serving.kernels import layout as at
from rota.worlds.serving.labels import IntColumn, Label
from rota.worlds.serving.model import PrefixBlocks, Workload

if TYPE_CHECKING:
    from rota.worlds.serving.replica import Replica
    from rota.worlds.serving.simulate import Simulation

Above0 = Annotated[float, msgspec.Meta(gt=0)]


class AdapterSlots(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Room for adapters on a replica, and what loading one costs."""

    slots: Annotated[int, msgspec.Meta(ge=1)]
    bytes: Above0 = 84e6  # rank 16 on every linear layer of Llama-3-8B: 41.9 M parameters of two bytes
    bandwidth: Above0 = 25e9  # bytes a second from the host's memory: PCIe 4.0 x16 in practice
    latency: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # seconds besides: reading a file, making it ready

    @property
    def seconds(self) -> float:
        """Seconds of a load."""
        return self.latency + self.bytes / self.bandwidth


class AdapterSpec(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Drawn adapters: the k-th most popular of `count` with probability proportional to k to the power -`zipf`."""

    count: Annotated[int, msgspec.Meta(ge=1)]
    zipf: Annotated[float, msgspec.Meta(ge=0)] = 1.0  # 0: all alike
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0  # of the requests; the others use the bare model


def apply_adapters(work: Workload, spec: AdapterSpec | None, seed: int) -> Workload:
    """The workload with its adapters: those of the trace, or drawn ones, keyed by request.

    Raises:
        InputError: the trace names adapters, and the scenario draws them.
    """
    label = work.labels.adapter
    if spec is not None and label is not None:
        raise InputError("adapters: the trace names them itself; leave the section or the trace's column out")
    if spec is not None:
        label = _draw(spec, len(work), seed)
    if label is None:
        return work
    labels = replace(work.labels, adapter=label)
    return replace(work, labels=labels, prefix=None if work.prefix is None else _apart(work.prefix, label.index))


def check_rooms(work: Workload, rooms: Mapping[int, bool]) -> None:
    """Raises InputError where requests name adapters, and a group of the fleet has no room for any.

    Args:
        work: The workload, its adapters applied.
        rooms: Of each group whether it has room.
    """
    without = [group for group, room in rooms.items() if not room]
    if work.labels.adapter is not None and without:
        raise InputError(
            f"fleet[{without[0]}]: requests name adapters, and it has no room for any; give it adapters: {{slots: 8}}, "
            "or leave the trace's column or the section adapters out"
        )


def _draw(spec: AdapterSpec, rows: int, seed: int) -> Label:
    weights = np.arange(1, spec.count + 1, dtype=np.float64) ** -spec.zipf
    edges = np.cumsum(weights) / weights.sum()
    number = np.minimum(
        np.searchsorted(edges, uniform(seed, "adapters", np.arange(rows)), side="right"), spec.count - 1
    )
    with_one = uniform(seed, "adapters/share", np.arange(rows)) < spec.share
    return Label(np.where(with_one, number, -1), tuple(f"adapter-{k}" for k in range(spec.count)))


def _apart(prefix: PrefixBlocks, adapter: IntColumn) -> PrefixBlocks:
    """Blocks of different adapters are different blocks."""
    owner = np.repeat(adapter + 1, np.diff(prefix.offsets))
    _, ids = np.unique(owner * (int(prefix.ids.max(initial=0)) + 1) + prefix.ids, return_inverse=True)
    return replace(prefix, ids=ids.astype(np.int64))


@dataclass(frozen=True)
class AdapterRoom:
    """An adapter's place on a replica, for the simulation."""

    slots: int
    seconds: float


class AdapterTable:
    """The adapters of a run's replicas, as the kernel sees them."""

    def __init__(self, run: "Simulation", replicas: Sequence["Replica"], label: Label) -> None:
        from rota.worlds.serving.kernels import adapters as kernel

        for number, replica in enumerate(replicas):
            if replica.adapters is None:
                raise InputError(
                    f"fleet: requests name adapters, and replica {number} ({replica.label}) has no room for any; "
                    f"give its group adapters: {{slots: 8}}"
                )
        rooms = [replica.adapters for replica in replicas if replica.adapters is not None]
        self.kernel, self.run = kernel, run
        most = max(room.slots for room in rooms)
        self.names = np.full((len(rooms), most), -1, np.int64)
        self.times = np.zeros((len(rooms), 2, most + 1))
        self.jobs = np.ascontiguousarray(label.index)
        self.counts = np.zeros((len(rooms), kernel.H_FIELDS), np.int64)
        for row, room in enumerate(rooms):
            self.counts[row, kernel.H_PLACES] = room.slots
            self.times[row, 0, most] = room.seconds
        self.vector = np.zeros(kernel.AD_FIELDS, np.int64)
        for place, array in (
            (kernel.AD_NAMES, self.names),
            (kernel.AD_TIMES, self.times),
            (kernel.AD_JOBS, self.jobs),
            (kernel.AD_HOSTS, self.counts),
        ):
            self.vector[place] = array.ctypes.data
        self.vector[[kernel.AD_ROOM, kernel.AD_COUNT]] = most, max(len(label.names), 1)
        self.lines()
        run.state[at.A_ADAPTERS] = self.vector.ctypes.data
        run.state[at.ADAPTER_ENTRY] = kernel.adapter_entry.address

    def lines(self) -> None:
        """Room for those that are set aside; again when the lines have grown."""
        self.aside = np.zeros((len(self.names), int(self.run.state[at.QUEUE_ROOM])), np.int64)
        self.vector[self.kernel.AD_ASIDE] = self.aside.ctypes.data

    def loaded_at(self, host: int, job: int) -> float:
        """When the adapter of a request is loaded at a host."""
        return float(self.kernel.loaded_at(self.run.state, host, job))

    def loaded(self, host: int, job: int, now: float) -> None:
        """The adapter that a request waited for is there."""
        self.kernel.loaded(self.run.state, host, job, now)

    def crash(self, host: int) -> None:
        """A host has lost its adapters."""
        self.names[host] = -1

    def column(self, name: str, job: int) -> npt.NDArray[Any]:
        """A column of hosts about adapters."""
        if name == "adapter_slots":
            return self.counts[:, self.kernel.H_PLACES].astype(np.float64)
        out = np.zeros((len(COLUMNS) - 1, len(self.names)))
        self.kernel.affinity(self.run.state, job, out)
        found: npt.NDArray[Any] = out[COLUMNS.index(name)]
        return found

    @property
    def loads(self) -> int:
        """Adapters that were loaded."""
        return int(self.counts[:, self.kernel.H_LOADS].sum())

    @property
    def hits(self) -> int:
        """Requests that found their adapter loaded, or being loaded, when they began."""
        return int(self.counts[:, self.kernel.H_HITS].sum())


COLUMNS = ("adapter_active", "adapter_waiting", "adapters_active", "adapters_waiting", "adapter_slots")
