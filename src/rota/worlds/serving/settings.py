"""The serving world's part of a scenario, as it is written and as it is understood."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from rota.kernel.config import decode
from rota.kernel.errors import InputError
from rota.worlds.serving import catalogue
from rota.worlds.serving.adapters import AdapterSlots, AdapterSpec
from rota.worlds.serving.arrivals import Arrivals, Replay, parse_arrivals
from rota.worlds.serving.asked_models import ModelSpec
from rota.worlds.serving.classes import Classes, Tenants, load_classes
from rota.worlds.serving.generate import GeneratorSpec, parse_generator
from rota.worlds.serving.nodes import Nodes, check_nodes, load_nodes
from rota.worlds.serving.numbers import Duration, Few, Latency, Sigma, Uptime
from rota.worlds.serving.power_model import GpuPower
from rota.worlds.serving.predictors import Bucket, History, Noisy, Oracle, Predictor, Rank
from rota.worlds.serving.programs import ProgramSpec
from rota.worlds.serving.quality import Prices, QualitySpec, load_quality
from rota.worlds.serving.reasoning import ReasoningSpec, check_reasoning
from rota.worlds.serving.semantic import Categories, load_topics
from rota.worlds.serving.speculative import SpeculativeSection, blocks_beside
from rota.worlds.serving.speculative import check as check_speculative

Positive = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class WorkloadSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where requests come from: a trace or a generator, and when they arrive."""

    trace: str | None = None
    format: str | None = None
    columns: dict[str, str] | None = None
    arrival_unit: Literal["s", "ms", "us", "ns"] | None = None
    block_tokens: Positive | None = None
    on_zero: Literal["error", "drop", "one"] = "error"
    origin: Literal["auto", "keep", "first"] = "auto"
    first: Positive | None = None  # only so many requests
    under: str | None = None  # of a recording of rota route: only what came while this place policy decided
    follow: bool = False  # of a recording: requests of a session come so long after the answers that they waited for
    generate: Any = None
    programs: ProgramSpec | None = None  # drawn calls that wait for one another
    reasoning: tuple[ReasoningSpec, ...] | None = None  # drawn programs that reason in rounds
    arrivals: Any = "replay"

    @property
    def has_programs(self) -> bool:
        """Whether its requests are calls of programs."""
        return self.programs is not None or self.reasoning is not None or self.format == "programs"


class Swap(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Memory of the host that displaced requests' KV goes to."""

    blocks: Positive  # KV blocks
    bandwidth: Annotated[float, msgspec.Meta(gt=0)] = 25e9  # bytes a second, each way: PCIe 4.0 x16 in practice
    asynchronous: bool = False  # copies out do not hold up the next iteration
    per_copy: Latency = 0.0  # seconds for each copy, besides its bytes
    group_blocks: Positive = 1  # blocks that lie together and are one copy
    compress: Share = 1.0  # share of the bytes that is copied: 0.5 for 8-bit KV of a 16-bit model
    reuse: bool = False  # copies stay while a request runs again, and are not sent twice


class TierSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Memory below the prefix cache: the host's, a disk."""

    blocks: Positive  # KV blocks
    bandwidth: Annotated[float, msgspec.Meta(gt=0)] = 25e9  # bytes a second to the GPU: PCIe 4.0 x16 in practice
    latency: Latency = 0.0  # seconds before the first byte
    compress: Share = 1.0  # share of the bytes that is stored and copied: 0.5 for 8-bit KV of a 16-bit model


class PrefixCaching(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A prefix cache that is not the plain one."""

    eviction: Literal["lru", "fifo", "lfu", "two_class", "recompute"] = "lru"
    tiers: tuple[TierSection, ...] = ()  # the first is the one that evicted blocks go to


class IndexSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What the router knows of the prefix caches."""

    kind: Literal["true", "sent", "events"] = "true"
    delay: Latency = 0.0  # seconds from an event at a replica to the router
    blocks: Positive | None = None  # sent: what it remembers of each replica; None: as many as that has


class Group(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Replicas that are alike: ``count`` engines of one model on ``tp`` GPUs each."""

    model: str
    gpu: str
    tp: Positive = 1
    count: Few = 1
    kv_blocks: Positive | None = None  # None: from memory, weights and the activation reserve
    block_tokens: Positive = 16
    memory_utilisation: Share = 0.9
    max_running: Positive = 256
    max_batched_tokens: Positive = 8192
    max_outstanding: Positive | None = None  # requests that the router sends at once; None: unlimited
    context: Positive | None = None  # longest prompt and answer; None: the model's
    prefix_caching: bool | PrefixCaching = False
    price: Annotated[float, msgspec.Meta(ge=0)] | None = (
        None  # US dollars a GPU hour; None: the catalogue's, where it has one
    )
    swap: Swap | None = None  # None: a displaced request computes its KV again
    role: Literal["mixed", "prefill", "decode"] = (
        "mixed"  # prefill: prompts only, which then move to a host that decodes
    )
    priority: Literal["high", "low"] = (
        "high"  # low: its clock is lowered first where power is short; see route own_class
    )
    timing: Any = "roofline"
    speculative: SpeculativeSection | None = None  # None: a decode gets one token an iteration
    adapters: AdapterSlots | None = None  # room for LoRA adapters; None: none
    node: str | None = None  # the machines that it shares with other groups, one replica on each; None: its own
    base: str | None = None  # what its model is a fine-tune of: groups of one base share blocks of weights on a machine
    base_share: Share = 0.5  # of its weights that are the base's


class Predicted(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A prediction that is the truth times a lognormal factor: `Noisy` by its first name."""

    error: Sigma = 0.5  # sigma of the logarithm


class PredictedBox(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One predictor, by its name; see `predictors`."""

    predicted: Predicted | None = None
    noisy: Noisy | None = None
    bucket: Bucket | None = None
    rank: Rank | None = None
    history: History | None = None


class HostView(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How old the loads are that routes see: they are looked up again after so many requests. What depends on the request (cached prefixes) is always new."""

    every: Positive = 1


class Information(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What policies may know before it is known."""

    output_tokens: Literal["hidden", "exact", "oracle"] | PredictedBox = "hidden"
    hosts: HostView = HostView()

    def predictor(self) -> Predictor | None:
        """Who predicts the lengths of answers; None where they are hidden or exact.

        Raises:
            InputError: not exactly one predictor.
        """
        setting, where = self.output_tokens, "information.output_tokens"
        if not isinstance(setting, PredictedBox):
            return Oracle() if setting == "oracle" else None
        names = [name for name in PredictedBox.__struct_fields__ if getattr(setting, name) is not None]
        if len(names) != 1:
            raise InputError(
                f"{where}: needs exactly one of predicted, noisy, bucket, rank and history, found {' and '.join(names) or 'none'}"
            )
        if setting.predicted is not None:
            return Noisy(setting.predicted.error)
        return setting.noisy or setting.bucket or setting.rank or setting.history

    @property
    def learner(self) -> History | None:
        """The predictor that learns while a run goes; None: what is known is known beforehand."""
        return self.output_tokens.history if isinstance(self.output_tokens, PredictedBox) else None

    def without_groups(self) -> "Information":
        """The same for requests that carry no labels."""
        if self.learner is None:
            return self
        alike = msgspec.structs.replace(self.learner, group="none")
        return msgspec.structs.replace(self, output_tokens=PredictedBox(history=alike))


class Slo(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Limits that a request must keep to count as good, seconds; a trace's own limits go before these."""

    ttft: Seconds | None = None
    tpot: Seconds | None = None
    e2e: Seconds | None = None


class LinkSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The network between replicas, over which KV moves."""

    bandwidth: Annotated[float, msgspec.Meta(gt=0)] = 25e9  # bytes a second out of a replica, and into one: 200 Gb/s
    latency: Latency = 1e-4  # seconds
    overlap: Annotated[float, msgspec.Meta(ge=0, lt=1)] = (
        0.0  # share of a prompt's KV that goes layer by layer while it is computed
    )
    shared: bool = True  # transfers of a replica divide its bandwidth; false: each has all of it, as in splitwise-sim
    push: bool = (
        False  # KV leaves when its prompt is done, if there is room; false: decoders fetch it between iterations
    )


class OutageSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One replica goes down, or, with a factor, only becomes slower by it."""

    replica: Annotated[int, msgspec.Meta(ge=0)]
    start: Annotated[float, msgspec.Meta(ge=0)]  # seconds
    seconds: Seconds
    slower: Annotated[float, msgspec.Meta(ge=1)] | None = None


class FailureSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Replicas go down: at stated times, or at random, the same times for every policy."""

    mean_between: Uptime | None = None  # exponential time up of each replica; None: none at random
    mean_repair: Duration = 60.0  # exponential
    restart: Latency | None = None  # seconds besides: the process starts and loads its weights; None: 30, of outages 0
    outages: tuple[OutageSection, ...] = ()

    def end(self, outage: OutageSection) -> float:
        """When a listed outage is over, seconds; one that is only slower needs no restart."""
        restart = 0.0 if self.restart is None or outage.slower is not None else self.restart
        return outage.start + outage.seconds + restart


class ScalingSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What the `scale` role may do; the fleet's replicas are the most there can be."""

    least: Positive = 1
    most: Positive | None = None
    first: Positive | None = None  # on at the beginning
    start_seconds: Latency = 60.0


class PowerSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Power is accounted. Shares are of a board's limit (the catalogue's `tdp`); see `power_model`."""

    cap: Annotated[float, msgspec.Meta(gt=0)] | None = None  # watts of all replicas together, for the `power` role
    board_cap: Annotated[float, msgspec.Meta(gt=0)] | None = None  # watts of each GPU, which its own clock keeps
    clock: Annotated[float, msgspec.Meta(ge=0.1, le=1)] = (
        1.0  # share of the highest clock, until the `power` role says otherwise
    )
    telemetry: Duration = 1.0  # between two readings
    other: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # watts of the server for each GPU, always
    idle: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None  # None: as fitted
    busy: Annotated[float, msgspec.Meta(ge=0)] | None = None
    memory: Annotated[float, msgspec.Meta(ge=0)] | None = None
    compute: Annotated[float, msgspec.Meta(ge=0)] | None = None


@dataclass(frozen=True)
class Case:
    """A scenario of this world, checked. Plain data."""

    workload: WorkloadSection
    arrivals: Arrivals
    generator: GeneratorSpec | None
    fleet: tuple[Group, ...]
    information: Information
    slo: Slo
    folder: Path
    links: LinkSection
    failures: FailureSection | None
    scaling: ScalingSection
    classes: Classes = field(default_factory=dict)
    tenants: Tenants = field(default_factory=dict)
    adapters: AdapterSpec | None = None
    models: ModelSpec | None = None
    nodes: Nodes = field(default_factory=dict)
    quality: QualitySpec | None = None
    topics: Categories = field(default_factory=dict)
    prices: Prices = field(default_factory=dict)
    index: IndexSection = field(default_factory=IndexSection)
    power: PowerSection | None = None

    @property
    def replicas(self) -> int:
        """Replicas of all groups."""
        return sum(group.count for group in self.fleet)


def load(sections: Mapping[str, Any], folder: Path) -> Case:
    """Check the sections strictly.

    Raises:
        InputError: an unknown key, name or kind (nearest ones named), a value out of range, a model that does not fit.
    """
    for needed in ("workload", "fleet"):
        if needed not in sections:
            raise InputError(f"{needed}: missing; a serving scenario needs a workload and a fleet")
    workload, fleet = _workload(sections["workload"]), _fleet(sections["fleet"])
    failures = None
    if sections.get("failures") is not None:
        failures = decode(FailureSection, sections["failures"], "failures")
        _check_outages(failures, sum(group.count for group in fleet))
    information = decode(Information, sections.get("information") or {}, "information")
    information.predictor()  # a wrong one is told before anything runs
    classes, tenants = load_classes(sections)
    nodes = load_nodes(sections)
    quality, prices = load_quality(sections, list(dict.fromkeys(group.model for group in fleet)))
    check_nodes(nodes, fleet)
    if nodes and (sections.get("scaling") or failures is not None):
        raise InputError(
            "nodes: machines that models share can neither fail nor be scaled; leave failures and scaling out"
        )
    return Case(
        workload=workload,
        arrivals=parse_arrivals(workload.arrivals),
        generator=None if workload.generate is None else parse_generator(workload.generate),
        fleet=fleet,
        information=information,
        slo=decode(Slo, sections.get("slo") or {}, "slo"),
        folder=folder,
        links=decode(LinkSection, sections.get("links") or {}, "links"),
        failures=failures,
        scaling=_scaling(sections, sum(group.count for group in fleet)),
        classes=classes,
        tenants=tenants,
        models=decode(ModelSpec, sections["models"], "models") if sections.get("models") else None,
        nodes=nodes,
        quality=quality,
        topics=load_topics(sections),
        prices=prices,
        adapters=decode(AdapterSpec, sections["adapters"], "adapters") if sections.get("adapters") else None,
        index=_index(sections, fleet),
        power=_power(sections, fleet),
    )


def _workload(written: Any) -> WorkloadSection:
    workload = decode(WorkloadSection, written, "workload")
    kinds = (workload.trace, workload.generate, workload.programs, workload.reasoning)
    if sum(each is not None for each in kinds) != 1:
        raise InputError(
            "workload: give one of trace: FILE, generate: {kind: chat, ...}, programs: {kind: chain, ...} and reasoning: [{kind: samples, ...}]"
        )
    if workload.reasoning is not None:
        check_reasoning(workload.reasoning)
    own = workload.has_programs or workload.follow
    if own and not isinstance(parse_arrivals(workload.arrivals), Replay):
        raise InputError(
            "workload.arrivals: programs make their own arrivals; leave it out (drawn ones say rate, cv, variation or profile)"
        )
    if own and workload.first is not None:
        raise InputError("workload.first: would cut programs in the middle; leave it out")
    return workload


def _fleet(written: Any) -> tuple[Group, ...]:
    fleet = decode(tuple[Group, ...], written, "fleet")
    if not fleet:
        raise InputError("fleet: is empty; give at least one group such as {model: llama-3-8b, gpu: a100-80g}")
    for number, group in enumerate(fleet):
        _check_group(group, f"fleet[{number}]")
    _check_roles([group.role for group in fleet])
    return fleet


def _index(sections: Mapping[str, Any], fleet: tuple[Group, ...]) -> IndexSection:
    section = decode(IndexSection, sections.get("index") or {}, "index")
    if section.kind != "true" and not any(group.prefix_caching for group in fleet):
        raise InputError("index: no replica has a prefix cache; set prefix_caching in a group of the fleet")
    if section.delay and section.kind != "events":
        raise InputError(f"index.delay: belongs to kind events, found kind {section.kind}")
    if section.blocks and section.kind != "sent":
        raise InputError(f"index.blocks: belongs to kind sent, found kind {section.kind}")
    return section


def _power(sections: Mapping[str, Any], fleet: tuple[Group, ...]) -> PowerSection | None:
    if sections.get("power") is None:
        return None
    section = decode(PowerSection, sections["power"], "power")
    idle = GpuPower().idle if section.idle is None else section.idle
    for number, group in enumerate(fleet):
        tdp = catalogue.gpu(group.gpu).tdp
        if section.board_cap is not None and section.board_cap <= idle * tdp:
            raise InputError(
                f"power.board_cap: {section.board_cap:g} W is not above what fleet[{number}]'s {group.gpu} draws idle, {idle * tdp:.0f} W"
            )
    least = sum(group.count * group.tp * (idle * catalogue.gpu(group.gpu).tdp + section.other) for group in fleet)
    if section.cap is not None and section.cap <= least:
        raise InputError(f"power.cap: {section.cap:g} W is not above what the fleet draws idle, {least:.0f} W")
    return section


def _scaling(sections: Mapping[str, Any], replicas: int) -> ScalingSection:
    section = decode(ScalingSection, sections.get("scaling") or {}, "scaling")
    most = replicas if section.most is None else section.most
    first = section.least if section.first is None else section.first
    if not section.least <= first <= most <= replicas:
        raise InputError(
            f"scaling: needs least <= first <= most <= {replicas} replicas of the fleet; found {section.least}, {first} and {most}"
        )
    return section


def _check_roles(roles: list[str]) -> None:
    for role, other in (("prefill", "decode"), ("decode", "prefill")):
        if role in roles and other not in roles and "mixed" not in roles:
            raise InputError(
                f"fleet: there are {role} replicas and none that can {other}; add a group with role {other} or mixed"
            )


def _check_outages(failures: FailureSection, replicas: int) -> None:
    ends: dict[int, float] = {}
    for number, outage in enumerate(sorted(failures.outages, key=lambda each: each.start)):
        if outage.replica >= replicas:
            raise InputError(
                f"failures.outages: replica {outage.replica} does not exist (replicas are 0..{replicas - 1})"
            )
        if outage.start <= ends.get(outage.replica, -1.0):
            raise InputError(
                f"failures.outages[{number}]: replica {outage.replica} is still away from its outage before, until {ends[outage.replica]:g} s"
            )
        ends[outage.replica] = failures.end(outage)
    if failures.restart is not None and failures.outages and all(each.slower for each in failures.outages):
        raise InputError(
            "failures.restart: no outage takes a replica down, they only make it slower; leave restart out"
        )
    if failures.mean_between is not None and failures.outages:
        raise InputError("failures: give either mean_between or outages, not both")
    if failures.mean_between is None and not failures.outages:
        raise InputError("failures: give mean_between: SECONDS, or outages: [{replica: 0, start: 100, seconds: 30}]")


def _check_group(group: Group, where: str) -> None:
    try:
        model, gpu = catalogue.model(group.model), catalogue.gpu(group.gpu)
        catalogue.check_parallel(model, group.tp)
        if group.speculative is not None:
            check_speculative(group.speculative, bool(group.prefix_caching))
        kv_blocks(group, model, gpu)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def kv_blocks(group: Group, model: catalogue.Model, gpu: catalogue.Gpu) -> int:
    """KV blocks of a replica: as given, otherwise what fits beside the weights."""
    if group.kv_blocks is not None:
        return group.kv_blocks
    blocks = catalogue.kv_blocks(model, gpu, group.tp, group.block_tokens, group.memory_utilisation)
    if group.speculative is None:
        return blocks
    return blocks_beside(blocks, group.speculative, model, {"tp": group.tp, "block_tokens": group.block_tokens})
