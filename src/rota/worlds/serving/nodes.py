"""Nodes: machines that several models share. Some are loaded, the others wait their turn; loading takes the bytes of the weights over a bandwidth.

Each group of the fleet that names a node has one replica on each machine of that kind. At most `resident` of a machine's replicas are loaded at a time.
A request may be sent to one that is not: it waits there, and its model is loaded as soon as there is room, which an idle model makes at once, the least
recently used first (as ServerlessLLM's keep-alive does; Fu et al., OSDI 2024). Where none is idle, a model that has waited `patience` seconds makes the one
that was loaded longest ago stop beginning requests, finish what runs, and go; what waits there waits for its next turn.

Loaded models share the machine's compute. `even`: an iteration takes as many times as long as there are replicas of the machine that are busy when it
begins. `headroom`: they take turns of one iteration, the one with the least headroom first, which is the time until the next token that was promised to
one of its requests (arrival, the limit of the first token, and that of a token for each that is out); Xu et al., LLM-Mesh, 2025 (arXiv 2507.00507).
Memory that follows the need, preemption and bin packing of LLM-Mesh are not here, nor its CPUs. Nothing overlaps: systems that place kernels side by side
can do better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from rota.kernel.config import decode
from rota.kernel.errors import InputError, nearest
from rota.worlds.serving import catalogue, doors
from rota.worlds.serving.kernels import layout as at

if TYPE_CHECKING:
    from rota.worlds.serving.fleet import Fleet
    from rota.worlds.serving.replica import Replica
    from rota.worlds.serving.settings import Group

LOADED, COLD, LOADING = range(3)


class NodeSpec(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Machines of a kind that several groups share."""

    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    resident: Annotated[int, msgspec.Meta(ge=1)] = 1  # models that are loaded at a time
    bandwidth: Annotated[float, msgspec.Meta(gt=0)] = 10e9  # bytes a second and GPU, from the host's memory or disk
    latency: Annotated[float, msgspec.Meta(ge=0)] = 1.0  # seconds besides: a process starts, memory is set aside
    sharing: Literal["even", "headroom"] = "even"  # how loaded models share the GPU; see above
    patience: Annotated[float, msgspec.Meta(gt=0)] = (
        10.0  # seconds that a model waits for busy ones, and that it stays at least
    )


@dataclass(frozen=True)
class Seat:
    """A replica's place on a machine."""

    machine: int
    spec: NodeSpec
    weights: float  # bytes on each GPU
    base: str = ""  # what it is a fine-tune of, where it shares blocks with it
    shared: float = 0.0  # share of its weights that are those of the base


Nodes = Mapping[str, NodeSpec]


def load_nodes(sections: Mapping[str, Any]) -> Nodes:
    """The section `nodes`. Raises InputError."""
    written = decode(dict[str, Any], sections.get("nodes") or {}, "nodes")
    return {name: decode(NodeSpec, {} if each is None else each, f"nodes.{name}") for name, each in written.items()}


def check_nodes(nodes: Nodes, fleet: Sequence["Group"]) -> None:
    """Groups and nodes fit together. Raises InputError: a node that is not defined or not used, counts that differ, weights and KV beyond the memory."""
    for number, group in enumerate(fleet):
        if group.node is not None and group.node not in nodes:
            raise InputError(
                f"fleet[{number}].node: '{group.node}' is not defined in nodes{nearest(group.node, nodes)}"
            )
        if group.base is not None and group.node is None:
            raise InputError(f"fleet[{number}].base: is about models that share a node; give the group node: NAME")
        if group.node is not None and group.count != nodes[group.node].count:
            raise InputError(
                f"fleet[{number}].count: {group.count} replicas, and there are {nodes[group.node].count} of node {group.node}: "
                f"one on each; make them equal"
            )
    for name, spec in nodes.items():
        here = [group for group in fleet if group.node == name]
        if not here:
            raise InputError(f"nodes.{name}: no group of the fleet has node: {name}")
        if spec.resident > len(here):
            raise InputError(f"nodes.{name}.resident: {spec.resident} of {len(here)} models; give at most {len(here)}")
        if len({(group.gpu, group.tp) for group in here}) > 1:
            raise InputError(
                f"nodes.{name}: its groups must have the same gpu and tp, because they are the same machine"
            )
        _check_memory(name, spec, here)


def _check_memory(name: str, spec: NodeSpec, here: Sequence["Group"]) -> None:
    gpu = catalogue.gpu(here[0].gpu)
    needs = sorted((_bytes(group) for group in here), reverse=True)
    most = sum(needs[: spec.resident])
    if most > gpu.memory:
        raise InputError(
            f"nodes.{name}: its {spec.resident} largest models need {most / catalogue.GIB:.1f} GiB of weights and KV on each GPU, and "
            f"{gpu.name} has {gpu.memory / catalogue.GIB:.1f} GiB; lower resident, memory_utilisation or kv_blocks of its groups"
        )


def _bytes(group: "Group") -> float:
    from rota.worlds.serving.settings import kv_blocks

    model, gpu = catalogue.model(group.model), catalogue.gpu(group.gpu)
    kv = kv_blocks(group, model, gpu) * group.block_tokens * catalogue.kv_bytes_per_token(model, group.tp)
    return catalogue.weight_bytes(model, group.tp) + kv


def seats(nodes: Nodes, fleet: Sequence["Group"]) -> list[list[Seat | None]]:
    """For each group the seats of its replicas, in order."""
    first: dict[str, int] = {}
    for name in nodes:
        first[name] = sum(nodes[other].count for other in first)
    found: list[list[Seat | None]] = []
    for group in fleet:
        if group.node is None:
            found.append([None] * group.count)
            continue
        weights = catalogue.weight_bytes(catalogue.model(group.model), group.tp)
        spec = nodes[group.node]
        shared = group.base_share if group.base is not None else 0.0
        made = (Seat(first[group.node] + k, spec, weights, group.base or "", shared) for k in range(group.count))
        found.append(list(made))
    return found


@dataclass
class _Machine:
    spec: NodeSpec
    hosts: list[int] = field(default_factory=list)
    line: list[tuple[float, int]] = field(default_factory=list)  # (since, host) of those that want to be loaded
    loaded_at: dict[int, float] = field(default_factory=dict)  # of those that are loaded or being loaded
    draining: int | None = None


class Machines:
    """What is loaded where, in one run."""

    def __init__(self, fleet: "Fleet", replicas: Sequence["Replica"]) -> None:
        self.fleet, self.run = fleet, fleet.run
        self.machines: dict[int, _Machine] = {}
        self.loads = 0
        self.load_seconds = 0.0
        self._slots: dict[int, int] = {}  # of those that drain
        for host, replica in enumerate(replicas):
            if replica.seat is not None:
                machine = self.machines.setdefault(replica.seat.machine, _Machine(replica.seat.spec))
                machine.hosts.append(host)
                self.run.hosts[host, at.NODE] = replica.seat.machine + 1
                self.run.hosts[host, at.TURNS] = replica.seat.spec.sharing == "headroom"
        for number, machine in self.machines.items():
            count = len(machine.hosts)
            first = {machine.hosts[(number + k) % count] for k in range(machine.spec.resident)}
            for host in machine.hosts:
                if host in first:
                    machine.loaded_at[host] = -np.inf
                else:
                    self.run.hosts[host, at.COLD] = COLD
        if self.machines:
            self.run.jobs[at.WATCHED] = 1
            doors.take_turns(self.run)

    def _of(self, host: int) -> "_Machine | None":
        seat = self.run.replicas[host].seat
        return None if seat is None else self.machines[seat.machine]

    def wanted(self, host: int, now: float) -> None:
        """A request waits at a replica that is not loaded."""
        machine = self._of(host)
        if machine is None or self.run.hosts[host, at.COLD] != COLD or not self._waits(host):
            return
        if all(host != other for _, other in machine.line):
            machine.line.append((now, host))
            self.fleet.later(now + machine.spec.patience, partial(self._serve, machine))
        self._serve(machine, now)

    def ended(self, host: int, now: float) -> None:
        """A request has ended at a replica, which may have nothing to do now."""
        machine = self._of(host)
        if machine is not None and machine.line:
            self._serve(machine, now)

    def _serve(self, machine: _Machine, now: float) -> None:
        """Load what waits, as far as there is room or room can be made."""
        while machine.line:
            if len(machine.loaded_at) >= machine.spec.resident:
                leaving = self._leaving(machine)
                if leaving is None:
                    self._drain(machine, now)
                    return
                self._unload(machine, leaving, now)
            self._load(machine, machine.line.pop(0)[1], now)

    def _leaving(self, machine: _Machine) -> int | None:
        """Who goes: the one that has drained, else the least recently used of those with nothing to do."""
        host = machine.draining
        if host is not None and not self._runs(host):
            return host
        idle = [each for each in machine.loaded_at if self._idle(each)]
        return min(idle, key=lambda each: (self.run.clocks[each, at.TOUCHED], each), default=None)

    def _idle(self, host: int) -> bool:
        return self.run.hosts[host, at.COLD] == LOADED and not self._runs(host) and not self._waits(host)

    def _runs(self, host: int) -> bool:
        return bool(self.run.hosts[host, [at.RUNNING_COUNT, at.BUSY]].any())

    def _waits(self, host: int) -> bool:
        return bool(self.run.hosts[host, [at.QUEUED_COUNT, at.INBOX_COUNT]].any())

    def _drain(self, machine: _Machine, now: float) -> None:
        """The one that was loaded longest ago begins no request any more, where somebody has waited long enough for it."""
        able = [each for each in machine.loaded_at if self.run.hosts[each, at.COLD] == LOADED]
        if machine.draining is not None or not able:
            return
        host = min(able, key=lambda each: (machine.loaded_at[each], each))
        if now >= max(machine.line[0][0], machine.loaded_at[host]) + machine.spec.patience:
            machine.draining = host
            self._slots[host] = int(self.run.hosts[host, at.MAX_RUNNING])
            self.run.hosts[host, at.MAX_RUNNING] = 0

    def _unload(self, machine: _Machine, host: int, now: float) -> None:
        del machine.loaded_at[host]
        self.run.hosts[host, at.COLD] = COLD
        if host in self._slots:
            self.run.hosts[host, at.MAX_RUNNING] = self._slots.pop(host)
        if machine.draining == host:
            machine.draining = None
        doors.lose_cache(self.run, host)
        if self._waits(host):
            machine.line.append((now, host))
            self.fleet.later(now + machine.spec.patience, partial(self._serve, machine))

    def _load(self, machine: _Machine, host: int, now: float) -> None:
        seat = self.run.replicas[host].seat
        if seat is None:
            return
        others = [self.run.replicas[each].seat for each in machine.loaded_at]
        known = bool(seat.base) and any(other is not None and other.base == seat.base for other in others)
        took = machine.spec.latency + seat.weights * (1.0 - seat.shared * known) / machine.spec.bandwidth
        self.run.hosts[host, at.COLD] = LOADING
        machine.loaded_at[host] = now + took
        self.loads += 1
        self.load_seconds += took
        self.fleet.later(now + took, partial(self._loaded, machine, host))

    def _loaded(self, machine: _Machine, host: int, now: float) -> None:
        self.run.hosts[host, at.COLD] = LOADED
        doors.wake(self.run, host, now)
        self.fleet.later(now + machine.spec.patience, partial(self._serve, machine))
        self._serve(machine, now)


def gpu_shares(replicas: Sequence["Replica"]) -> npt.NDArray[np.float64]:
    """GPUs of each replica; those that share a machine have equal parts of it."""
    seated = [None if replica.seat is None else replica.seat.machine for replica in replicas]
    return np.array(
        [
            replica.gpus / (1 if machine is None else seated.count(machine))
            for replica, machine in zip(replicas, seated, strict=True)
        ]
    )
