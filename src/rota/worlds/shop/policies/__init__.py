"""Dispatching rules: who of the operations that wait at a machine is next. Names are the field's; those in `rota.rules` are the same objects as everywhere."""

from collections.abc import Mapping

from rota.kernel.decisions import Order
from rota.rules import ORDERS
from rota.worlds.shop.policies.due import AtRisk, CriticalRatio, ModifiedDue, Slack, SlackPerWork
from rota.worlds.shop.policies.work import (
    FlowDuePerWork,
    LeastWorkRemaining,
    LongestFirst,
    MostOperationsRemaining,
    MostWorkRemaining,
    WeightedShortest,
)

RULES: Mapping[str, type[Order]] = {
    "fcfs": ORDERS["fcfs"],
    "lcfs": ORDERS["lcfs"],
    "spt": ORDERS["sjf"],
    "edd": ORDERS["edf"],
    "priority": ORDERS["priority"],
    "random": ORDERS["random"],
    "lpt": LongestFirst,
    "wspt": WeightedShortest,
    "mwkr": MostWorkRemaining,
    "lwkr": LeastWorkRemaining,
    "mopnr": MostOperationsRemaining,
    "fdd_mwkr": FlowDuePerWork,
    "mdd": ModifiedDue,
    "atc": AtRisk,
    "cr": CriticalRatio,
    "slack": Slack,
    "slack_work": SlackPerWork,
}
