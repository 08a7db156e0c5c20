"""Which model a request asks for: one by name, or any of several (``llama-3-8b|mistral-7b``); one that asks for none takes any replica.

A request has the model that the trace names, otherwise that of its tenant, otherwise one drawn by the shares of the section `models`, keyed by request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from rota.kernel.errors import InputError, nearest
from rota.kernel.streams import uniform
from rota.worlds.serving.labels import Label
from rota.worlds.serving.model import Workload

EITHER = "|"


class ModelSpec(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Drawn models: each name, or several with | between them, by its share of the requests that ask for none yet."""

    shares: dict[str, Annotated[float, msgspec.Meta(gt=0)]]


def apply_models(work: Workload, spec: ModelSpec | None, of_tenants: Mapping[str, str | None], seed: int) -> Workload:
    """The workload with the models that its requests ask for."""
    label = work.labels.model
    own = {name: model for name, model in of_tenants.items() if model is not None}
    if spec is None and not own:
        return work
    names = list(label.names) if label is not None else []
    index = label.index.copy() if label is not None else np.full(len(work), -1, np.int64)
    names += [name for name in dict.fromkeys([*own.values(), *(spec.shares if spec else ())]) if name not in names]
    place = np.array([names.index(own[name]) if name in own else -1 for name in work.tenants], np.int64)
    index = np.where(index < 0, place[work.tenant], index)
    if spec is not None:
        shares = np.array(list(spec.shares.values()))
        edges = np.cumsum(shares) / shares.sum()
        drawn = np.searchsorted(edges, uniform(seed, "models", np.arange(len(work))), side="right")
        numbers = np.array([names.index(name) for name in spec.shares], np.int64)
        index = np.where(index < 0, numbers[np.minimum(drawn, len(numbers) - 1)], index)
    return replace(work, labels=replace(work.labels, model=Label(index, tuple(names))))


def serves(label: Label, models: Sequence[str]) -> npt.NDArray[np.int64]:
    """Which replica may serve which name, shape (names + 1, replicas), 1: it may; the last row is of requests that ask for none.

    Raises:
        InputError: a name of which no replica has the model.
    """
    found = np.ones((len(label.names) + 1, len(models)), np.int64)
    for row, name in enumerate(label.names):
        wanted = [each.strip() for each in name.split(EITHER)]
        for each in wanted:
            if each not in models:
                raise InputError(
                    f"models: requests ask for '{each}', which no group of the fleet serves{nearest(each, dict.fromkeys(models))}"
                )
        found[row] = [model in wanted for model in models]
    return found
