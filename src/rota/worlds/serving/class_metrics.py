"""What each service class got: goodput, time to first token, and how even that is among the classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rota.kernel.metrics import jain
from rota.kernel.world import Measure
from rota.worlds.serving.labels import Label

MEASURES: Mapping[str, Measure] = {
    "goodput_share_least": Measure(
        "goodput_share_least",
        "share of requests within their limits, of the class where it is least",
        "",
        False,
        "",
        False,
    ),
    "class_fairness": Measure(
        "class_fairness", "Jain index of the classes' shares of requests within their limits", "", False, "", False
    ),
}


def describe_classes(
    metrics: dict[str, float], label: Label | None, rows: Mapping[str, npt.NDArray[Any]], span: float
) -> None:
    """Metrics by class, named ``goodput[interactive]``; over all requests of the class, its latencies over finished ones. `span`: seconds of the run."""
    if label is None:
        return
    shares = []
    done, made = rows["status"] == "finished", rows["status"] != "spared"
    for number, name in enumerate(label.names):
        mine = (label.index == number) & made
        good = float(rows["good"][mine].sum())
        metrics[f"requests[{name}]"] = float(mine.sum())
        metrics[f"goodput[{name}]"] = good / span
        metrics[f"goodput_share[{name}]"] = good / float(mine.sum()) if mine.any() else float("nan")
        waits = rows["ttft"][mine & done]
        for p in (50, 99):
            metrics[f"ttft_p{p}[{name}]"] = float(np.percentile(waits, p)) if len(waits) else float("nan")
        if mine.any():
            shares.append(metrics[f"goodput_share[{name}]"])
    metrics["goodput_share_least"] = min(shares, default=float("nan"))
    metrics["class_fairness"] = float(jain(np.array(shares)))
