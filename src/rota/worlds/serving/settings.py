"""The serving world's part of a scenario, as it is written and as it is understood."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from rota.kernel.config import decode
from rota.kernel.errors import InputError
from rota.worlds.serving import catalogue
from rota.worlds.serving.arrivals import Arrivals, parse_arrivals
from rota.worlds.serving.generate import GeneratorSpec, parse_generator
from rota.worlds.serving.predictors import Bucket, Noisy, Oracle, Predictor, Rank

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
    generate: Any = None
    arrivals: Any = "replay"


class Group(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Replicas that are alike: ``count`` engines of one model on ``tp`` GPUs each."""

    model: str
    gpu: str
    tp: Positive = 1
    count: Positive = 1
    kv_blocks: Positive | None = None  # None: from memory, weights and the activation reserve
    block_tokens: Positive = 16
    memory_utilisation: Share = 0.9
    max_running: Positive = 256
    max_batched_tokens: Positive = 8192
    max_outstanding: Positive | None = None  # requests that the router sends at once; None: unlimited
    context: Positive | None = None  # longest prompt and answer; None: the model's
    prefix_caching: bool = False
    timing: Any = "roofline"


class Predicted(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A prediction that is the truth times a lognormal factor: `Noisy` by its first name."""

    error: Annotated[float, msgspec.Meta(ge=0)] = 0.5  # sigma of the logarithm


class PredictedBox(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One predictor, by its name; see `predictors`."""

    predicted: Predicted | None = None
    noisy: Noisy | None = None
    bucket: Bucket | None = None
    rank: Rank | None = None
    history: Any = None  # no column: see `predictor`


class Information(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What policies may know before it is known."""

    output_tokens: Literal["hidden", "exact", "oracle"] | PredictedBox = "hidden"

    def predictor(self) -> Predictor | None:
        """Who predicts the lengths of answers; None where they are hidden or exact.

        Raises:
            InputError: not exactly one predictor, or one that cannot know anything beforehand.
        """
        setting, where = self.output_tokens, "information.output_tokens"
        if not isinstance(setting, PredictedBox):
            return Oracle() if setting == "oracle" else None
        if setting.history is not None:
            raise InputError(
                f"{where}: history learns while the run goes, so it is no column; let a policy learn: order: {{history_sjf: {{quantile: 0.5}}}}"
            )
        names = [name for name in PredictedBox.__struct_fields__ if getattr(setting, name) is not None]
        if len(names) != 1:
            raise InputError(
                f"{where}: needs exactly one of predicted, noisy, bucket and rank, found {' and '.join(names) or 'none'}"
            )
        if setting.predicted is not None:
            return Noisy(setting.predicted.error)
        return setting.noisy or setting.bucket or setting.rank


class Slo(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Limits that a request must keep to count as good, seconds; a trace's own limits go before these."""

    ttft: Seconds | None = None
    tpot: Seconds | None = None
    e2e: Seconds | None = None


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


def load(sections: Mapping[str, Any], folder: Path) -> Case:
    """Check the sections strictly.

    Raises:
        InputError: an unknown key, name or kind (nearest ones named), a value out of range, a model that does not fit.
    """
    for needed in ("workload", "fleet"):
        if needed not in sections:
            raise InputError(f"{needed}: missing; a serving scenario needs a workload and a fleet")
    workload = decode(WorkloadSection, sections["workload"], "workload")
    if (workload.trace is None) == (workload.generate is None):
        raise InputError("workload: give either trace: FILE or generate: {kind: chat, ...}, not both and not neither")
    fleet = decode(tuple[Group, ...], sections["fleet"], "fleet")
    if not fleet:
        raise InputError("fleet: is empty; give at least one group such as {model: llama-3-8b, gpu: a100-80g}")
    for number, group in enumerate(fleet):
        _check_group(group, f"fleet[{number}]")
    information = decode(Information, sections.get("information") or {}, "information")
    information.predictor()  # a wrong one is told before anything runs
    return Case(
        workload=workload,
        arrivals=parse_arrivals(workload.arrivals),
        generator=None if workload.generate is None else parse_generator(workload.generate),
        fleet=fleet,
        information=information,
        slo=decode(Slo, sections.get("slo") or {}, "slo"),
        folder=folder,
    )


def _check_group(group: Group, where: str) -> None:
    try:
        model, gpu = catalogue.model(group.model), catalogue.gpu(group.gpu)
        catalogue.check_parallel(model, group.tp)
        kv_blocks(group, model, gpu)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def kv_blocks(group: Group, model: catalogue.Model, gpu: catalogue.Gpu) -> int:
    """KV blocks of a replica: as given, otherwise what fits beside the weights."""
    if group.kv_blocks is not None:
        return group.kv_blocks
    return catalogue.kv_blocks(model, gpu, group.tp, group.block_tokens, group.memory_utilisation)
