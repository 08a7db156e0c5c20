"""Schedulers that only make sense among queues, one file each."""

from rota.kernel.decisions import Allot, Order, Place
from rota.worlds.queues.policies.predicted import (
    PreemptiveShortestPredicted,
    ShortestPredicted,
    ShortestPredictedRemaining,
)

QUEUE_ORDERS: dict[str, type[Order] | str] = {
    "spjf": ShortestPredicted,
    "pspjf": PreemptiveShortestPredicted,
    "sprpt": ShortestPredictedRemaining,
}
QUEUE_PLACES: dict[str, type[Place] | str] = {}
QUEUE_ALLOTS: dict[str, type[Allot] | str] = {}
