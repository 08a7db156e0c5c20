"""Published schedulers that only make sense in serving, by role and name."""

from rota.kernel.decisions import Order, Place
from rota.rules.dodoor import Dodoor
from rota.worlds.serving.batching import Batcher
from rota.worlds.serving.energy import Clocks
from rota.worlds.serving.fleet import Migrate, Scaler
from rota.worlds.serving.policies.accellm import AccellmPairs
from rota.worlds.serving.policies.alise import SpeculativeRemaining
from rota.worlds.serving.policies.autellix import LongestPathAttainedService, ProgramLeastAttainedService
from rota.worlds.serving.policies.cache_aware import CacheAware
from rota.worlds.serving.policies.fastserve import SkipJoinFeedback
from rota.worlds.serving.policies.greener import SlowestInTime
from rota.worlds.serving.policies.hexgen import HexgenDispatch
from rota.worlds.serving.policies.history import HistoryShortest
from rota.worlds.serving.policies.jitserve import JustInTime
from rota.worlds.serving.policies.kv_router import KvRouter
from rota.worlds.serving.policies.llumnix import Freest, PairsByFreeness
from rota.worlds.serving.policies.ltr import LearningToRank
from rota.worlds.serving.policies.mixed_pool import MixedPool
from rota.worlds.serving.policies.orca import Orca
from rota.worlds.serving.policies.own_class import OwnClass
from rota.worlds.serving.policies.polca import Polca
from rota.worlds.serving.policies.predictive import Predictive
from rota.worlds.serving.policies.prefix_route import LongestMatch
from rota.worlds.serving.policies.program_fcfs import ProgramFirstCome
from rota.worlds.serving.policies.program_las import ProgramLeastAttained
from rota.worlds.serving.policies.sarathi import Sarathi
from rota.worlds.serving.policies.scalers import FleetFreeness, Reactive, Utilisation
from rota.worlds.serving.policies.slo_slack import SloSlack
from rota.worlds.serving.policies.splitwise_batch import SplitwiseBatch
from rota.worlds.serving.policies.static import Static
from rota.worlds.serving.policies.text2sql import StageUrgency
from rota.worlds.serving.policies.together import Together
from rota.worlds.serving.policies.token_jsq import TokenQueue
from rota.worlds.serving.policies.vidur_lor import VidurLeastOutstanding
from rota.worlds.serving.policies.vllm_v0 import VllmV0
from rota.worlds.serving.policies.vllm_v1 import VllmV1
from rota.worlds.serving.policies.vtc import VirtualTokenCounter
from rota.worlds.serving.policies.work_route import ReuseAndWork
from rota.worlds.serving.pools import Pools

BATCHERS: dict[str, type[Batcher]] = {
    "vllm_v0": VllmV0,
    "vllm_v1": VllmV1,
    "sarathi": Sarathi,
    "orca": Orca,
    "static": Static,
    "splitwise": SplitwiseBatch,
}
ROUTES: dict[str, type[Place]] = {
    "kv_router": KvRouter,
    "cache_aware": CacheAware,
    "longest_match": LongestMatch,
    "reuse_and_work": ReuseAndWork,
    "freest": Freest,
    "vidur_lor": VidurLeastOutstanding,
    "token_jsq": TokenQueue,
    "hexgen": HexgenDispatch,
    "own_class": OwnClass,
    "dodoor": Dodoor,
}
SCALERS: dict[str, type[Scaler]] = {
    "reactive": Reactive,
    "utilisation": Utilisation,
    "freeness": FleetFreeness,
    "predictive": Predictive,
    "slo_slack": SloSlack,
}
MIGRATIONS: dict[str, type[Migrate]] = {"llumnix": PairsByFreeness}
POOLS: dict[str, type[Pools]] = {"mixed_pool": MixedPool, "together": Together, "accellm": AccellmPairs}
CLOCKS: dict[str, type[Clocks]] = {"polca": Polca, "greener": SlowestInTime}
SERVING_ORDERS: dict[str, type[Order]] = {
    "ltr": LearningToRank,
    "fastserve": SkipJoinFeedback,
    "alise": SpeculativeRemaining,
    "history_sjf": HistoryShortest,
    "vtc": VirtualTokenCounter,
    "program_las": ProgramLeastAttained,
    "jitserve": JustInTime,
    "text2sql_urgency": StageUrgency,
    "plas": ProgramLeastAttainedService,
    "atlas": LongestPathAttainedService,
    "program_fcfs": ProgramFirstCome,
}
POLICIES = {"allot": BATCHERS, "order": SERVING_ORDERS, "place": ROUTES}
