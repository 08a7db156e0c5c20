"""The queues world's part of a scenario, as it is written and as it is understood."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from rota.kernel.config import decode
from rota.kernel.errors import InputError
from rota.worlds.queues.distributions import Distribution, Process, parse_distribution, parse_process
from rota.worlds.queues.model import Servers

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]


class JobClass(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A kind of job: what share of the arrivals it is and how it differs from the others."""

    name: str
    share: Positive = 1.0  # relative to the other classes
    service: Any = None  # None: the workload's
    weight: Positive = 1.0
    priority: int = 0
    tenant: str = ""
    due: Any = None  # seconds after arrival, a number or a distribution
    patience: Any = None


class WorkloadSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where jobs come from: a trace, or distributions of gaps and service times."""

    trace: str | None = None
    columns: dict[str, str] | None = None
    scale: Positive = 1.0  # a trace's arrivals at so many times their rate
    first: Count | None = None
    arrivals: Any = "exponential"
    service: Any = "exponential"
    load: Positive | None = None  # of all servers together; gives the rate
    rate: Positive | None = None  # jobs a second
    jobs: Count = 100_000
    classes: tuple[JobClass, ...] = ()
    due: Any = None  # seconds after arrival
    patience: Any = None  # seconds that a job waits for its service to begin
    operations: Count = (
        1  # a job is a chain of so many operations, each with a size of its own, seen when the one before is done
    )


class ServersSection(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Who serves."""

    count: Count = 1
    speed: Positive = 1.0
    speeds: tuple[Any, ...] | None = None  # one a server; or one list a server, with a number a class
    line: Literal["central", "each"] = "central"
    buffer: Annotated[int, msgspec.Meta(ge=0)] | None = None
    setup: Any = None  # seconds before a job of another class; a number, or a table {from: {to: seconds}}


class LognormalError(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The truth times a lognormal factor of median 1."""

    sigma: NotNegative = 0.5


class Prediction(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A prediction of the size, in one of these ways."""

    exponential: bool = False  # exponential with the true size as its mean
    lognormal: LognormalError | None = None
    factor: Any = None  # the true size times a random factor of any distribution
    quantile: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = (
        None  # of the class's distribution: the same for all its jobs
    )
    column: str | None = None  # of the trace: what a trained predictor said


def prediction_of(given: Prediction | str) -> Prediction:
    """A prediction as written, where a name stands for one without parameters."""
    return given if isinstance(given, Prediction) else Prediction(exponential=True)


class SizeInformation(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The size is not known but predicted."""

    predicted: Prediction | Literal["exponential"]

    @property
    def prediction(self) -> Prediction:
        return prediction_of(self.predicted)


class Bit(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One bit: is the job at most `threshold` seconds long? Wrong with a probability, or as an own prediction says."""

    threshold: Positive = 1.0
    wrong: Probability = 0.0
    predicted: Prediction | Literal["exact", "exponential"] = "exact"

    @property
    def prediction(self) -> Prediction | None:
        if self.predicted == "exact":
            return None
        return prediction_of(self.predicted)


class HostInformation(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How fresh the dispatcher's view of the servers is."""

    refresh: NotNegative = 0.0  # seconds between two looks
    every: Annotated[int, msgspec.Meta(ge=0)] = 0  # placements between two looks; with neither, the present is seen


class Information(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What policies may know before it is known."""

    size: Literal["exact", "hidden"] | SizeInformation = "exact"
    predicted_size: Prediction | Literal["exponential"] | None = (
        None  # a further column; without it, the size where that is predicted
    )
    short: Bit | None = None
    weight_behind: LognormalError = LognormalError(
        0.0
    )  # of the weight that depends on a job, where there is precedence
    hosts: HostInformation = HostInformation()


class WarmUp(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Jobs at the beginning that are simulated but not counted."""

    share: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    jobs: Annotated[int, msgspec.Meta(ge=0)] | None = None


@dataclass(frozen=True)
class ClassLaw:
    """A class with its distributions."""

    setting: JobClass
    service: Distribution
    due: Distribution | None
    patience: Distribution | None


@dataclass(frozen=True)
class Case:
    """A scenario of this world, checked. Plain data."""

    workload: WorkloadSection
    process: Process | None  # None: a trace
    laws: tuple[ClassLaw, ...]
    rate: float  # jobs a second, 0 for a trace
    servers: Servers
    information: Information
    size_factor: Distribution | None  # between a predicted and the true size
    predicted_factor: Distribution | None
    short_factor: Distribution | None
    warm_up: WarmUp
    budget: float  # seconds of service that `admit` may give away
    folder: Path

    @property
    def load(self) -> float:
        """Work that comes a second over work that is done a second; NaN for a trace."""
        if self.process is None:
            return float("nan")
        return self.rate * mean_work(self.laws, self.servers) * self.workload.operations


def load(sections: Mapping[str, Any], folder: Path) -> Case:
    """Check the sections strictly.

    Raises:
        InputError: an unknown key, name or kind (nearest ones named), a value out of range, an infinite mean where a load is asked for.
    """
    if "workload" not in sections:
        raise InputError(
            "workload: missing; give for example workload: {load: 0.8, service: exponential, jobs: 100000}"
        )
    workload = decode(WorkloadSection, sections["workload"], "workload")
    information = decode(Information, sections.get("information") or {}, "information")
    fleet = decode(ServersSection, sections.get("servers") or {}, "servers")
    warm_up = decode(WarmUp, sections.get("warm_up") or {"share": 0.0 if workload.trace else 0.1}, "warm_up")
    if warm_up.share is not None and warm_up.jobs is not None:
        raise InputError("warm_up: give either share or jobs, not both")
    laws = _laws(workload, folder)
    servers = _servers(fleet, tuple(law.setting.name for law in laws))
    process, rate = None, 0.0
    if workload.trace is None:
        process = parse_process(workload.arrivals, folder, "workload.arrivals")
        rate = _rate(workload, laws, servers, process)
        if warm_up.jobs is not None and warm_up.jobs >= workload.jobs:
            raise InputError(
                f"warm_up.jobs: {warm_up.jobs} of {workload.jobs} jobs leave nothing to measure; simulate more jobs"
            )
    elif workload.load is not None or workload.rate is not None:
        raise InputError("workload: a trace has its own arrivals; use scale: to make them faster, not load or rate")
    budget = decode(Positive, sections["budget"], "budget") if sections.get("budget") is not None else inf
    trace, size, short = workload.trace is not None, information.size, information.short
    size_factor = short_factor = predicted_factor = None
    if information.predicted_size is not None:
        predicted_factor = _factor(
            prediction_of(information.predicted_size), trace, folder, "information.predicted_size"
        )
    if isinstance(size, SizeInformation):
        size_factor = _factor(size.prediction, trace, folder, "information.size.predicted")
    if short is not None and short.predicted != "exact":
        short_factor = _factor(short.prediction, trace, folder, "information.short.predicted")
    return Case(
        workload,
        process,
        laws,
        rate,
        servers,
        information,
        size_factor,
        predicted_factor,
        short_factor,
        warm_up,
        budget,
        folder,
    )


def _laws(workload: WorkloadSection, folder: Path) -> tuple[ClassLaw, ...]:
    classes = workload.classes or (JobClass("all"),)
    names = [each.name for each in classes]
    if len(set(names)) < len(names):
        raise InputError(f"workload.classes: each name may appear once, found {', '.join(names)}")

    def law(spec: Any, where: str) -> Distribution | None:
        if isinstance(spec, int | float) and not isinstance(spec, bool):
            spec = {"deterministic": {"value": spec}}
        return None if spec is None else parse_distribution(spec, folder, where)

    found = []
    for number, each in enumerate(classes):
        where = f"workload.classes[{number}]" if workload.classes else "workload"
        service = law(each.service if each.service is not None else workload.service, f"{where}.service")
        if service is None:
            raise InputError(
                f"{where}.service: give a distribution such as exponential or {{exponential: {{mean: 1}}}}"
            )
        due = law(each.due if each.due is not None else workload.due, f"{where}.due")
        patience = law(each.patience if each.patience is not None else workload.patience, f"{where}.patience")
        found.append(ClassLaw(each, service, due, patience))
    return tuple(found)


def _servers(section: ServersSection, classes: tuple[str, ...]) -> Servers:
    speeds = np.full((section.count, 1), float(section.speed))
    if section.speeds is not None:
        if section.speed != 1.0 or section.count not in (1, len(section.speeds)):
            raise InputError("servers: speeds says how many servers there are and how fast; leave out speed and count")
        rows = [each if isinstance(each, list | tuple) else [each] for each in section.speeds]
        widths = {len(row) for row in rows}
        if not rows or len(widths) != 1 or not widths <= {1, len(classes)}:
            raise InputError(
                f"servers.speeds: give a number a server, or a list a server with a number for each of the {len(classes)} classes"
            )
        if not all(
            isinstance(speed, int | float) and not isinstance(speed, bool) and speed > 0 and isfinite(speed)
            for row in rows
            for speed in row
        ):
            raise InputError(f"servers.speeds: speeds must be positive numbers, found {list(section.speeds)}")
        speeds = np.array(rows, np.float64)
    buffer = -1 if section.buffer is None else section.buffer
    return Servers(speeds, section.line == "central", buffer, _setups(section.setup, classes))


def _setups(setup: Any, classes: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    if setup is None:
        return None
    count = len(classes)
    times = np.zeros((count + 1, count))
    if isinstance(setup, int | float) and not isinstance(setup, bool) and setup >= 0:
        times[1:] = setup
        times[1:][np.arange(count), np.arange(count)] = 0.0
        return times
    if not isinstance(setup, Mapping):
        raise InputError(f"servers.setup: expected seconds, or a table {{from: {{to: seconds}}}}, found {setup!r}")
    for source, row in setup.items():
        if source not in classes or not isinstance(row, Mapping):
            raise InputError(
                f"servers.setup: '{source}' is not a class with a table of seconds (classes: {', '.join(classes)})"
            )
        for target, seconds in row.items():
            if (
                target not in classes
                or not isinstance(seconds, int | float)
                or isinstance(seconds, bool)
                or not 0 <= seconds < np.inf
            ):
                raise InputError(
                    f"servers.setup.{source}.{target}: expected seconds for a class (classes: {', '.join(classes)}), found {seconds!r}"
                )
            times[classes.index(source) + 1, classes.index(target)] = seconds
    return times


def mean_work(laws: tuple[ClassLaw, ...], servers: Servers) -> float:
    """Mean service time of a job over the speed of all servers together."""
    shares = np.array([law.setting.share for law in laws])
    shares = shares / shares.sum()
    speeds = np.broadcast_to(servers.speeds, (len(servers), len(laws))).sum(axis=0)
    return float(sum(share * law.service.mean / speed for share, law, speed in zip(shares, laws, speeds, strict=True)))


def _rate(workload: WorkloadSection, laws: tuple[ClassLaw, ...], servers: Servers, process: Process) -> float:
    if workload.load is not None and workload.rate is not None:
        raise InputError("workload: give either load or rate, not both")
    if workload.load is None:
        return workload.rate if workload.rate is not None else process.rate
    work = mean_work(laws, servers)
    if not isfinite(work):
        raise InputError(
            "workload.load: the mean service time is infinite, so no rate gives this load; give rate instead, or bound the distribution"
        )
    if work <= 0:
        raise InputError("workload.load: the mean service time is 0, so no rate gives this load; give rate instead")
    return workload.load / (work * workload.operations)


def _check_prediction(prediction: Prediction, trace: bool, where: str) -> None:
    given = [
        name
        for name in ("exponential", "lognormal", "factor", "quantile", "column")
        if getattr(prediction, name) not in (None, False)
    ]
    if len(given) != 1:
        raise InputError(
            f"{where}: give one of exponential, lognormal, factor, quantile, column; found {', '.join(given) or 'none'}"
        )
    if trace and prediction.quantile is not None:
        raise InputError(f"{where}.quantile: a trace has no distribution; give lognormal, factor or column")
    if not trace and prediction.column is not None:
        raise InputError(f"{where}.column: drawn jobs have no columns; give exponential, lognormal, factor or quantile")


def _factor(prediction: Prediction | None, trace: bool, folder: Path, where: str) -> Distribution | None:
    """The random factor between a predicted and the true size, where the prediction has one."""
    if prediction is None:
        return None
    _check_prediction(prediction, trace, where)
    if prediction.exponential:
        return parse_distribution("exponential", folder, where)
    return None if prediction.factor is None else parse_distribution(prediction.factor, folder, f"{where}.factor")
