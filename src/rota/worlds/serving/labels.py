"""What requests carry besides their lengths: a service class, an adapter, a model, a category, the weight of their tenant."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError

IntColumn = npt.NDArray[np.int64]
FloatColumn = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Label:
    """A name a request, from a list of names; -1: none."""

    index: IntColumn  # (requests,)
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.index) and not -1 <= self.index.min() <= self.index.max() < len(self.names):
            raise InputError(f"workload: labels must be -1 (none) or 0..{len(self.names) - 1}, the names there are")
        self.index.flags.writeable = False

    def head(self, count: int) -> "Label":
        """Of the first requests."""
        return replace(self, index=self.index[:count])

    @classmethod
    def of(cls, index: IntColumn, names: tuple[str, ...]) -> "Label":
        """From names of which the empty one means none."""
        kept = [k for k, name in enumerate(names) if name]
        place = np.full(len(names), -1, np.int64)
        place[kept] = np.arange(len(kept))
        return cls(place[index] if len(names) else index.copy(), tuple(names[k] for k in kept))


@dataclass(frozen=True)
class Labels:
    """The labels of a workload; None: the workload has no such thing."""

    slo_class: Label | None = None
    adapter: Label | None = None
    model: Label | None = None
    category: Label | None = None
    topic: Label | None = None  # what is asked: equal topics have equal answers
    weight: FloatColumn | None = None  # importance of the tenant

    def head(self, count: int) -> "Labels":
        """Of the first requests."""
        cut: dict[str, Label | FloatColumn | None] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            cut[each.name] = value.head(count) if isinstance(value, Label) else None if value is None else value[:count]
        return Labels(**cut)  # type: ignore[arg-type]

    def check(self, rows: int) -> None:
        """Raises InputError where a column is not one value a request."""
        for each in fields(self):
            value = getattr(self, each.name)
            column = value.index if isinstance(value, Label) else value
            if column is not None and column.shape != (rows,):
                raise InputError(
                    f"workload: label {each.name} has shape {column.shape}, expected ({rows},): one a request"
                )


ROLES: Mapping[str, str] = {
    "class": "slo_class",
    "adapter": "adapter",
    "model": "model",
    "category": "category",
    "topic": "topic",
}
