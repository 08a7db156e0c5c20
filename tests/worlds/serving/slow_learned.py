"""Learned lengths written again, without any memory: at each arrival all ended answers are looked up and counted anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.worlds.serving.slow import Request
from tests.worlds.serving.slow_fleet import SlowFleet, possible

Ended = tuple[float, int, int, int, float]  # when, at which replica, number, group, tokens


@dataclass(frozen=True)
class Teaching:
    """The settings of `information.output_tokens.history`, with a group a request."""

    group: Sequence[int]
    quantile: float = 0.5
    prior: float = 256.0
    window: int = 1000

    def prediction(self, group: int, ended: Sequence[Ended]) -> float:
        """The smallest length that so large a share of the last answers of the group does not exceed; of all answers where it has none."""
        ended = sorted(ended)
        alike = [tokens for *_, of, tokens in ended if of == group] or [tokens for *_, tokens in ended]
        last = alike[-self.window :]
        if not last:
            return self.prior
        return min(each for each in last if sum(other <= each for other in last) >= self.quantile * len(last))

    def predictions(self, rows: dict[str, npt.NDArray[Any]]) -> list[float]:
        """What every request of a run was told when it came, from the outcomes; the prior for those that never did, or were rejected."""
        done = np.flatnonzero(rows["status"] == "finished").tolist()
        all_ended = [
            (float(rows["finish"][j]), int(rows["replica"][j]), j, self.group[j], float(rows["output_tokens"][j]))
            for j in done
        ]
        told = []
        for j, arrival in enumerate(rows["arrival"].tolist()):
            came = rows["status"][j] not in ("rejected", "spared") and np.isfinite(arrival)
            told.append(
                self.prediction(self.group[j], [e for e in all_ended if e[0] <= arrival]) if came else self.prior
            )
        return told


class LearningFleet(SlowFleet):
    """A slow fleet that predicts each request when it comes; keys that never change are made then."""

    teaching: Teaching
    rankings: tuple[Any, Any, Any]  # of order, hold and victim

    def teach(self, teaching: Teaching, everyone: list[Request], *rankings: Any) -> None:
        self.teaching, self.everyone, self.rankings = teaching, everyone, rankings  # type: ignore[assignment]
        for each in everyone:
            each.size = teaching.prior

    def arrive(self, r: Request) -> None:
        if any(possible(engine.replica, r) for engine in self.engines):  # who is turned away at once is not predicted
            self.predict(r)
        super().arrive(r)

    def predict(self, r: Request) -> None:
        ended = [
            (each.token_times[-1], each.host or 0, each.number, self.teaching.group[each.number], float(each.output))
            for each in self.everyone
            if each.generated == each.output
        ]
        r.size = self.teaching.prediction(self.teaching.group[r.number], ended)
        for name, ranking in zip(("order_key", "hold_key", "victim_key"), self.rankings, strict=True):
            if ranking is not None and ranking.asked == "arrival":
                setattr(r, name, ranking.key(r, self.now))
