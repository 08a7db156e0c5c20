"""Published schedulers that only make sense in serving, by role and name."""

from rota.kernel.decisions import Order, Place
from rota.rules.dodoor import Dodoor
from rota.worlds.serving.admission import Admit
from rota.worlds.serving.batching import Batcher
from rota.worlds.serving.energy import Clocks
from rota.worlds.serving.fleet import Migrate, Scaler
from rota.worlds.serving.policies.accellm import AccellmPairs
from rota.worlds.serving.policies.alise import SpeculativeRemaining
from rota.worlds.serving.policies.autellix import LongestPathAttainedService, ProgramLeastAttainedService
from rota.worlds.serving.policies.bca import BatchSizeAdvisor
from rota.worlds.serving.policies.cache_aware import CacheAware
from rota.worlds.serving.policies.carrot import BestModel, Carrot
from rota.worlds.serving.policies.continuum import Continuum, FixedTime
from rota.worlds.serving.policies.dagor import Dagor
from rota.worlds.serving.policies.deficit_match import DeficitMatch, DoubleDeficitMatch
from rota.worlds.serving.policies.dynasor import Certaindex, FixedRounds, ProgramShortest
from rota.worlds.serving.policies.early_rejection import EarlyRejection
from rota.worlds.serving.policies.fastserve import SkipJoinFeedback
from rota.worlds.serving.policies.fastswitch import ChangingPriorities
from rota.worlds.serving.policies.greener import SlowestInTime
from rota.worlds.serving.policies.hexgen import HexgenDispatch
from rota.worlds.serving.policies.history import HistoryShortest
from rota.worlds.serving.policies.jitserve import JustInTime
from rota.worlds.serving.policies.kv_router import KvRouter
from rota.worlds.serving.policies.layered_prefill import LayeredPrefill
from rota.worlds.serving.policies.llumnix import Freest, PairsByFreeness
from rota.worlds.serving.policies.lora_affinity import AdapterFirst, LoraAffinity
from rota.worlds.serving.policies.ltr import LearningToRank
from rota.worlds.serving.policies.mixed_pool import MixedPool
from rota.worlds.serving.policies.mode_switch import ModeSwitch
from rota.worlds.serving.policies.orca import Orca
from rota.worlds.serving.policies.own_class import OwnClass
from rota.worlds.serving.policies.past_future import PastFuture
from rota.worlds.serving.policies.polca import Polca
from rota.worlds.serving.policies.predictive import Predictive
from rota.worlds.serving.policies.prefix_aware import PrefixAware
from rota.worlds.serving.policies.prefix_groups import PrefixGroups
from rota.worlds.serving.policies.prefix_route import LongestMatch
from rota.worlds.serving.policies.program_fcfs import ProgramFirstCome
from rota.worlds.serving.policies.program_las import ProgramLeastAttained
from rota.worlds.serving.policies.qllm import Qllm
from rota.worlds.serving.policies.queue_limit import LowestFirst, QueueLimit
from rota.worlds.serving.policies.resident_first import ResidentFirst
from rota.worlds.serving.policies.s3 import S3
from rota.worlds.serving.policies.sarathi import Sarathi
from rota.worlds.serving.policies.scalers import FleetFreeness, Reactive, Utilisation
from rota.worlds.serving.policies.semantic_cache import CategoryCache, UniformCache
from rota.worlds.serving.policies.semi_pd import SemiPD
from rota.worlds.serving.policies.session_hash import SessionHash
from rota.worlds.serving.policies.slo_slack import SloSlack
from rota.worlds.serving.policies.splitwise_batch import SplitwiseBatch
from rota.worlds.serving.policies.static import Static
from rota.worlds.serving.policies.text2sql import StageUrgency
from rota.worlds.serving.policies.together import Together
from rota.worlds.serving.policies.token_bucket import TokenBucket
from rota.worlds.serving.policies.token_jsq import TokenQueue
from rota.worlds.serving.policies.vidur_lor import VidurLeastOutstanding
from rota.worlds.serving.policies.vllm_v0 import VllmV0
from rota.worlds.serving.policies.vllm_v1 import VllmV1
from rota.worlds.serving.policies.vtc import VirtualTokenCounter
from rota.worlds.serving.policies.weighted_scorers import WeightedScorers
from rota.worlds.serving.policies.work_route import ReuseAndWork
from rota.worlds.serving.pools import Pools
from rota.worlds.serving.retain import Retain
from rota.worlds.serving.rounds import Stop
from rota.worlds.serving.semantic import Recall

BATCHERS: dict[str, type[Batcher]] = {
    "vllm_v0": VllmV0,
    "vllm_v1": VllmV1,
    "sarathi": Sarathi,
    "orca": Orca,
    "static": Static,
    "splitwise": SplitwiseBatch,
    "past_future": PastFuture,
    "s3": S3,
    "layered_prefill": LayeredPrefill,
    "semi_pd": SemiPD,
    "bca": BatchSizeAdvisor,
    "qllm": Qllm,
}
ROUTES: dict[str, type[Place]] = {
    "kv_router": KvRouter,
    "cache_aware": CacheAware,
    "longest_match": LongestMatch,
    "reuse_and_work": ReuseAndWork,
    "freest": Freest,
    "vidur_lor": VidurLeastOutstanding,
    "token_jsq": TokenQueue,
    "session_hash": SessionHash,
    "lora_affinity": LoraAffinity,
    "adapter_first": AdapterFirst,
    "resident_first": ResidentFirst,
    "carrot": Carrot,
    "best_model": BestModel,
    "mode_switch": ModeSwitch,
    "hexgen": HexgenDispatch,
    "dodoor": Dodoor,
    "weighted_scorers": WeightedScorers,
    "prefix_aware": PrefixAware,
    "d2lpm": DoubleDeficitMatch,
    "own_class": OwnClass,
}
SCALERS: dict[str, type[Scaler]] = {
    "reactive": Reactive,
    "utilisation": Utilisation,
    "freeness": FleetFreeness,
    "predictive": Predictive,
    "slo_slack": SloSlack,
}
ADMITS: dict[str, type[Admit]] = {
    "queue_limit": QueueLimit,
    "lowest_first": LowestFirst,
    "token_bucket": TokenBucket,
    "early_rejection": EarlyRejection,
    "dagor": Dagor,
}
MIGRATIONS: dict[str, type[Migrate]] = {
    "llumnix": PairsByFreeness,
}
POOLS: dict[str, type[Pools]] = {
    "mixed_pool": MixedPool,
    "together": Together,
    "accellm": AccellmPairs,
}
RETAINERS: dict[str, type[Retain]] = {
    "continuum": Continuum,
    "fixed_ttl": FixedTime,
}
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
    "dlpm": DeficitMatch,
    "prefix_groups": PrefixGroups,
    "changing_priorities": ChangingPriorities,
    "dynasor": ProgramShortest,
}
CLOCKS: dict[str, type[Clocks]] = {
    "polca": Polca,
    "greener": SlowestInTime,
}
RECALLS: dict[str, type[Recall]] = {
    "uniform_cache": UniformCache,
    "category_cache": CategoryCache,
}
STOPPERS: dict[str, type[Stop]] = {
    "certaindex": Certaindex,
    "fixed_rounds": FixedRounds,
}
POLICIES = {
    "allot": BATCHERS,
    "order": SERVING_ORDERS,
    "place": ROUTES,
}
