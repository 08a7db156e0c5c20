"""Service classes and tenants of a scenario: limits, priorities and weights by name, put on the requests of a workload.

A request has the class that the trace names, otherwise that of its tenant, otherwise one drawn by `share`; the draw is keyed by the request, so that
every policy sees the same ones. A limit or a priority that the trace itself gives goes before that of the class.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from rota.kernel.config import decode
from rota.kernel.errors import InputError, nearest
from rota.kernel.streams import uniform
from rota.worlds.serving.labels import FloatColumn, IntColumn, Label
from rota.worlds.serving.model import Workload

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Above0 = Annotated[float, msgspec.Meta(gt=0)]
LIMITS = ("ttft", "tpot", "e2e")
T = TypeVar("T")


class SloClass(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a class of requests is promised. Limits in seconds, as in `Slo`."""

    ttft: Seconds | None = None
    tpot: Seconds | None = None
    e2e: Seconds | None = None
    priority: int | None = None  # smaller is more urgent; None: as the trace has it
    share: Above0 | None = (
        None  # of the requests that neither the trace nor their tenant gives a class, relative to the other shares
    )


class Tenant(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An owner of requests."""

    weight: Above0 = 1.0  # of two tenants that wait, one of weight 2 is due twice the service (policies that are fair)
    slo_class: str | None = msgspec.field(default=None, name="class")
    model: str | None = None  # that its requests ask for


Classes = Mapping[str, SloClass]
Tenants = Mapping[str, Tenant]


def load_classes(sections: Mapping[str, Any]) -> tuple[Classes, Tenants]:
    """The sections `classes` and `tenants`, checked.

    Raises:
        InputError: an unknown key, a limit that is not positive, a tenant of a class that is not defined.
    """
    classes = _by_name(SloClass, sections, "classes")
    tenants = _by_name(Tenant, sections, "tenants")
    for name, each in classes.items():
        for limit in (*LIMITS, "share"):
            value = getattr(each, limit)
            if value is not None and not np.isfinite(value):
                raise InputError(f"classes.{name}.{limit}: must be finite, found {value}; leave it out for no limit")
    for name, tenant in tenants.items():
        if not np.isfinite(tenant.weight):
            raise InputError(f"tenants.{name}.weight: must be finite, found {tenant.weight}")
        if tenant.slo_class is not None and tenant.slo_class not in classes:
            raise InputError(
                f"tenants.{name}.class: '{tenant.slo_class}' is not defined in classes{nearest(tenant.slo_class, classes)}"
            )
    return classes, tenants


def _by_name(kind: type[T], sections: Mapping[str, Any], section: str) -> dict[str, T]:
    """A section of settings by name; decoded one by one, so that a message names the entry."""
    written = decode(dict[str, Any], sections.get(section) or {}, section)
    return {name: decode(kind, {} if each is None else each, f"{section}.{name}") for name, each in written.items()}


def apply_classes(work: Workload, classes: Classes, tenants: Tenants, seed: int) -> Workload:
    """The workload with its classes, their limits and priorities, and its tenants' weights.

    Raises:
        InputError: the trace names a class that is not defined, or the scenario a tenant that the workload has not.
    """
    for name in tenants:
        if name not in work.tenants:
            raise InputError(f"tenants: the workload has no tenant '{name}'{nearest(name, work.tenants)}")
    labels = work.labels
    if tenants:
        weights = np.array([tenants[name].weight if name in tenants else 1.0 for name in work.tenants])
        labels = replace(labels, weight=weights[work.tenant])
    if not classes and labels.slo_class is None:
        return replace(work, labels=labels) if tenants else work
    index = _of_trace(labels.slo_class, classes, len(work), work.source)
    index = _of_tenants(index, work, classes, tenants)
    index = _drawn(index, classes, seed)
    return replace(
        work,
        ttft_limit=_limits(work, classes, index, "ttft"),
        tpot_limit=_limits(work, classes, index, "tpot"),
        e2e_limit=_limits(work, classes, index, "e2e"),
        priority=_priorities(work, classes, index),
        labels=replace(labels, slo_class=Label(index, tuple(classes))),
    )


def _of_trace(label: Label | None, classes: Classes, rows: int, source: str) -> IntColumn:
    """The classes that the trace names, by their number in the scenario."""
    if label is None:
        return np.full(rows, -1, np.int64)
    for name in label.names:
        if name not in classes:
            hint = nearest(name, classes) if classes else "; the scenario has no section classes"
            raise InputError(f"classes: {source or 'the trace'} names class '{name}', which is not defined{hint}")
    place = np.array([*(list(classes).index(name) for name in label.names), -1], np.int64)
    return np.asarray(place[label.index])


def _of_tenants(index: IntColumn, work: Workload, classes: Classes, tenants: Tenants) -> IntColumn:
    own = [tenants[name].slo_class if name in tenants else None for name in work.tenants]
    place = np.array([-1 if name is None else list(classes).index(name) for name in own], np.int64)
    return np.where(index < 0, place[work.tenant], index)


def _drawn(index: IntColumn, classes: Classes, seed: int) -> IntColumn:
    """Those without a class draw one, where classes have shares."""
    shares = np.array([each.share or 0.0 for each in classes.values()])
    if not shares.sum() > 0:
        return index
    edges = np.cumsum(shares) / shares.sum()
    drawn = np.searchsorted(edges, uniform(seed, "classes", np.arange(len(index))), side="right")
    last = int(np.flatnonzero(shares)[-1])
    return np.where(index < 0, np.minimum(drawn, last), index)


def _limits(work: Workload, classes: Classes, index: IntColumn, name: str) -> FloatColumn:
    own = getattr(work, f"{name}_limit")
    promised = [getattr(each, name) for each in classes.values()]
    by_class = np.array([*(np.inf if value is None else value for value in promised), np.inf])
    return np.where(np.isfinite(own), own, by_class[index])


def _priorities(work: Workload, classes: Classes, index: IntColumn) -> IntColumn:
    by_class = np.array([*(each.priority or 0 for each in classes.values()), 0], np.int64)
    return np.where(work.priority != 0, work.priority, by_class[index])


def due(work: Workload) -> FloatColumn:
    """Seconds after its arrival by which a request is due: its whole answer, or, where only the first token has a limit and there are classes, that."""
    if work.labels.slo_class is None:
        return work.e2e_limit
    return np.where(np.isfinite(work.e2e_limit), work.e2e_limit, work.ttft_limit)


def describe_class(each: SloClass) -> str:
    """A class in words, for the report."""
    said = [f"{name} {getattr(each, name):g} s" for name in LIMITS if getattr(each, name) is not None]
    said += [] if each.priority is None else [f"priority {each.priority}"]
    return ", ".join(said) or "no limits"
