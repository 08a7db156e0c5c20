"""Published schedulers that only make sense in serving, by role and name."""

from rota.kernel.decisions import Order
from rota.worlds.serving.batching import Batcher
from rota.worlds.serving.policies.alise import SpeculativeRemaining
from rota.worlds.serving.policies.fastserve import SkipJoinFeedback
from rota.worlds.serving.policies.history import HistoryShortest
from rota.worlds.serving.policies.jitserve import JustInTime
from rota.worlds.serving.policies.ltr import LearningToRank
from rota.worlds.serving.policies.orca import Orca
from rota.worlds.serving.policies.program_las import ProgramLeastAttained
from rota.worlds.serving.policies.sarathi import Sarathi
from rota.worlds.serving.policies.static import Static
from rota.worlds.serving.policies.text2sql import StageUrgency
from rota.worlds.serving.policies.vllm_v0 import VllmV0
from rota.worlds.serving.policies.vllm_v1 import VllmV1
from rota.worlds.serving.policies.vtc import VirtualTokenCounter

BATCHERS: dict[str, type[Batcher]] = {
    "vllm_v0": VllmV0,
    "vllm_v1": VllmV1,
    "sarathi": Sarathi,
    "orca": Orca,
    "static": Static,
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
}
POLICIES = {"allot": BATCHERS, "order": SERVING_ORDERS}
