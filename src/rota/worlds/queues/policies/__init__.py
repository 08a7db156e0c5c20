"""Schedulers that only make sense among queues, one file each."""

from rota.kernel.decisions import Allot, Order, Place
from rota.rules.balance import LeastOutstanding
from rota.rules.dodoor import Dodoor
from rota.rules.sampling import PowerOfTwo
from rota.worlds.queues.policies.admission import LearningAugmented, Threshold, TimeFair, TimeFairSimple
from rota.worlds.queues.policies.explore import ExploreInTurn, ExploreUniform, OptimisticInTurn, OptimisticUniform
from rota.worlds.queues.policies.feedback import Gittins, MultiLevelFeedback, RoundRobin, ShortestExpectedRemaining
from rota.worlds.queues.policies.heterogeneous import GreatestDensity, InTurnOnFastest
from rota.worlds.queues.policies.place import JoinIdle, SizeInterval
from rota.worlds.queues.policies.precedence import WeightBehind
from rota.worlds.queues.policies.predicted import (
    PreemptiveShortestPredicted,
    ShortestPredicted,
    ShortestPredictedRemaining,
)
from rota.worlds.queues.policies.robust import ShortestRemainingBounce, SizeEstimateHedging
from rota.worlds.queues.policies.skip_predict import OneBit, PredictAll, SkipPredict
from rota.worlds.queues.policies.weighted import CMu, WeightedShortest

QUEUE_ORDERS: dict[str, type[Order]] = {
    "round_robin": RoundRobin,
    "mlfq": MultiLevelFeedback,
    "gittins": Gittins,
    "serpt": ShortestExpectedRemaining,
    "wspt": WeightedShortest,
    "c_mu": CMu,
    "spjf": ShortestPredicted,
    "pspjf": PreemptiveShortestPredicted,
    "sprpt": ShortestPredictedRemaining,
    "srpt_bounce": ShortestRemainingBounce,
    "seh": SizeEstimateHedging,
    "one_bit": OneBit,
    "skip_predict": SkipPredict,
    "predict_all": PredictAll,
    "etc_u": ExploreUniform,
    "etc_rr": ExploreInTurn,
    "ucb_u": OptimisticUniform,
    "ucb_rr": OptimisticInTurn,
}
QUEUE_PLACES: dict[str, type[Place]] = {
    "jsq": LeastOutstanding,  # the names of queueing theory for rules that all worlds share
    "jsq_d": PowerOfTwo,
    "jiq": JoinIdle,
    "sita": SizeInterval,
    "dodoor": Dodoor,
}
SHARES: dict[str, type[Allot]] = {
    "weight_behind": WeightBehind,
    "greatest_density": GreatestDensity,
    "in_turn_on_fastest": InTurnOnFastest,
}
ADMISSIONS: dict[str, type[Allot]] = {
    "knapsack": Threshold,
    "knapsack_time_fair": TimeFair,
    "knapsack_time_fair_simple": TimeFairSimple,
    "knapsack_predicted": LearningAugmented,
}
