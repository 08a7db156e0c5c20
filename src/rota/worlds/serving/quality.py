"""How good the answers of each model are, and what they cost in dollars a token: what a choice among models needs.

Quality is a number from 0 to 1 for each request and model. It comes from a table of measured scores, a row a query and a column a model, of which each
request gets a row; or it is drawn: right (1) with the model's mean probability, and models agree on what is hard as far as `agreement` says. What policies
see of it is a prediction: the model's mean, moved by `skill` towards the truth, with normal noise of `sigma`, cut to 0..1. All draws are keyed by request.

An answer has the same length whichever model gives it: nobody has measured the other lengths. Dollars are token prices times tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from rota.kernel.config import decode
from rota.kernel.errors import InputError, nearest
from rota.kernel.streams import normal, uniform

FloatColumn = npt.NDArray[np.float64]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
COLUMNS = ("quality", "dollars")


class QualitySpec(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where qualities come from, and how well they are predicted."""

    models: dict[str, Share] | None = None  # mean quality by model, either this
    table: str | None = None  # or this: CSV, columns named after models
    columns: dict[str, str] = {}  # model of the fleet -> column of the table, where they differ
    agreement: Share = 0.7  # drawn: probability that a model finds hard what is hard for all
    skill: Share = 1.0  # of the prediction
    sigma: NotNegative = 0.0


class TokenPrice(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """US dollars a million tokens."""

    input: NotNegative
    output: NotNegative


@dataclass(frozen=True)
class Quality:
    """Of a workload: shape (models, requests)."""

    models: tuple[str, ...]
    true: FloatColumn
    predicted: FloatColumn


Prices = Mapping[str, TokenPrice]


def load_quality(sections: Mapping[str, Any], models: Sequence[str]) -> tuple[QualitySpec | None, Prices]:
    """The sections `quality` and `token_prices`. Raises InputError: neither or both sources, a model of the fleet without a quality or a price."""
    spec = decode(QualitySpec, sections["quality"], "quality") if sections.get("quality") else None
    written = decode(dict[str, Any], sections.get("token_prices") or {}, "token_prices")
    prices = {name: decode(TokenPrice, each, f"token_prices.{name}") for name, each in written.items()}
    if spec is not None and (spec.models is None) == (spec.table is None):
        raise InputError("quality: give one of models: {NAME: MEAN} and table: FILE")
    for what, known in (("quality.models", spec.models if spec else None), ("token_prices", prices)):
        for name in models if known else ():
            if known is not None and name not in known:
                raise InputError(f"{what}: model '{name}' of the fleet has none{nearest(name, known)}")
    return spec, prices


def draw_quality(spec: QualitySpec, models: Sequence[str], rows: int, folder: Path, seed: int) -> Quality:
    """Qualities of so many requests under each model of the fleet.

    Raises:
        InputError: the table cannot be read, lacks a model, or has numbers outside 0..1.
    """
    names = tuple(dict.fromkeys(models))
    requests = np.arange(rows)
    if spec.table is not None:
        scores = _table(folder / Path(spec.table).expanduser(), [spec.columns.get(name, name) for name in names])
        row = np.minimum(
            (uniform(seed, "quality/row", requests) * scores.shape[1]).astype(np.int64), scores.shape[1] - 1
        )
        true, means = scores[:, row], scores.mean(axis=1)
    else:
        means = np.array([(spec.models or {})[name] for name in names])
        true = _drawn(spec, means, requests, seed)
    noise = [spec.sigma * normal(seed, f"quality/noise/{name}", requests) for name in names]
    predicted = np.clip(means[:, None] + spec.skill * (true - means[:, None]) + np.array(noise), 0.0, 1.0)
    return Quality(names, true, predicted)


def _drawn(spec: QualitySpec, means: FloatColumn, requests: npt.NDArray[np.int64], seed: int) -> FloatColumn:
    """Right where a uniform number is below the mean: the same number for all models where they agree, else each its own."""
    hard = uniform(seed, "quality/hard", requests)
    found = []
    for number, mean in enumerate(means.tolist()):
        own = uniform(seed, "quality/own", requests, number)
        agree = uniform(seed, "quality/agree", requests, number) < spec.agreement
        found.append((np.where(agree, hard, own) < mean).astype(np.float64))
    return np.array(found)


def _table(path: Path, columns: Sequence[str]) -> FloatColumn:
    from rota.kernel.reading.columns import complain, numbers
    from rota.kernel.reading.tables import open_table

    table = open_table(path)
    found = []
    for name in columns:
        if name not in table.frame.columns:
            raise InputError(f"{path}: has no column '{name}'{nearest(name, table.frame.columns)}")
        scores = numbers(table, name)
        complain(table, ~((scores >= 0) & (scores <= 1)), name, "must be from 0 to 1")
        found.append(scores)
    return np.array(found)


class Choice:
    """What policies see of quality and dollars in one run, and what came of it.

    Args:
        quality: Of the workload's requests, where it is known.
        prices: By model; empty: not known.
        models: Of the replicas.
        prompt, answer: Tokens of each request; answers as policies see them, NaN or None where they do not.
        expected: Tokens that an answer is taken to have where its length is hidden.
    """

    def __init__(
        self,
        quality: Quality | None,
        prices: Prices,
        models: Sequence[str],
        prompt: npt.NDArray[np.int64],
        answer: FloatColumn | None,
        expected: float = 256.0,
    ) -> None:
        self.quality, self.prices = quality, prices
        self._row = np.array([quality.models.index(name) for name in models]) if quality else None
        self._input = np.array([prices[name].input for name in models]) * 1e-6 if prices else None
        self._output = np.array([prices[name].output for name in models]) * 1e-6 if prices else None
        self._prompt = prompt
        self._answer = np.full(len(prompt), expected) if answer is None else np.nan_to_num(answer, nan=expected)

    def column(self, name: str, job: int) -> FloatColumn:
        """A column of hosts for a request."""
        if name == "quality" and self.quality is not None and self._row is not None:
            return np.asarray(self.quality.predicted[self._row, job])
        if name == "dollars" and self._input is not None and self._output is not None:
            return np.asarray(self._input * self._prompt[job] + self._output * self._answer[job])
        raise InputError(
            f"{name}: the scenario has no section {'quality' if name == 'quality' else 'token_prices'}, which says it"
        )

    def expect(self, job: int, tokens: float) -> None:
        """A request's answer is predicted anew."""
        self._answer[job] = tokens

    def of_answers(self, host: npt.NDArray[np.int64], done: npt.NDArray[np.bool_]) -> FloatColumn:
        """The true quality of each answer, NaN where there is none."""
        rows = np.arange(len(host))
        if self.quality is None or self._row is None:
            return np.full(len(host), np.nan)
        return np.where(done, self.quality.true[self._row[np.maximum(host, 0)], rows], np.nan)

    def paid(
        self, host: npt.NDArray[np.int64], done: npt.NDArray[np.bool_], output: npt.NDArray[np.int64]
    ) -> FloatColumn | None:
        """Dollars of each answer at token prices, NaN where there is none; None: prices are not known."""
        if self._input is None or self._output is None:
            return None
        at = np.maximum(host, 0)
        return np.where(done, self._input[at] * self._prompt + self._output[at] * output, np.nan)
