"""Published schedulers that only make sense in serving, by role and name."""

from rota.worlds.serving.batching import Batcher
from rota.worlds.serving.policies.orca import Orca
from rota.worlds.serving.policies.sarathi import Sarathi
from rota.worlds.serving.policies.static import Static
from rota.worlds.serving.policies.vllm_v0 import VllmV0
from rota.worlds.serving.policies.vllm_v1 import VllmV1

BATCHERS: dict[str, type[Batcher]] = {
    "vllm_v0": VllmV0,
    "vllm_v1": VllmV1,
    "sarathi": Sarathi,
    "orca": Orca,
    "static": Static,
}
POLICIES = {"allot": BATCHERS}
