"""Semantic caches: one rule for everything, or one for each category; and thresholds that give way under load.

Wang et al., Category-Aware Semantic Caching for Heterogeneous LLM Workloads, 2025 (arXiv 2510.26835): thresholds, times to live and quotas by category, an
index in memory with the documents elsewhere (a miss costs 2 ms in place of 30), and looser rules while the models behind are loaded. Their figures of the
last are a projection; how thresholds follow the load is ours: down by `loosen` times the mean use of the slots, never below `floor`.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.errors import InputError
from rota.kernel.tables import Hosts
from rota.worlds.serving.semantic import Recall, Rule


@dataclass
class UniformCache(Recall):
    """One threshold, time to live and quota for all.

    Attributes:
        threshold: Least similarity.
        ttl: Seconds that an answer is kept.
        quota: Answers that are kept in all.
        lookup: Seconds of a look-up: of a remote vector database, as in the paper.
    """

    threshold: float = 0.85
    ttl: float = 3600.0
    quota: int = 2000
    lookup: float = 0.03
    common = True

    def __post_init__(self) -> None:
        _check(self.threshold, self.ttl, self.quota, self.lookup)

    def rule(self, category: str, hosts: Hosts, now: float) -> Rule:
        return Rule(self.threshold, self.ttl, self.quota)


@dataclass
class CategoryCache(Recall):
    """Rules by category; a category without one is not looked up.

    Attributes:
        threshold: Least similarity by category.
        ttl: Seconds by category, `usual_ttl` where none is given.
        quota: Answers by category, `usual_quota` where none is given.
        usual_ttl: Seconds.
        usual_quota: Answers.
        loosen: How far a threshold goes down while every slot of the fleet is taken.
        floor: Threshold below which it does not go.
        lookup: Seconds of a look-up: of an index in memory, as in the paper.
    """

    threshold: dict[str, float] = field(default_factory=dict)
    ttl: dict[str, float] = field(default_factory=dict)
    quota: dict[str, int] = field(default_factory=dict)
    usual_ttl: float = 3600.0
    usual_quota: int = 1000
    loosen: float = 0.0
    floor: float = 0.5
    lookup: float = 0.002

    reads = ("running", "max_running")

    def __post_init__(self) -> None:
        for name, threshold in self.threshold.items():
            _check(threshold, self.ttl.get(name, self.usual_ttl), self.quota.get(name, self.usual_quota), self.lookup)
        if not self.loosen >= 0:
            raise InputError(f"loosen must be at least 0, found {self.loosen:g}")

    def rule(self, category: str, hosts: Hosts, now: float) -> Rule:
        if category not in self.threshold:
            return Rule(1.0, 0.0, 0)
        threshold = self.threshold[category]
        if self.loosen:
            use = float(np.mean(hosts.running / np.maximum(hosts.max_running, 1)))
            threshold = min(threshold, max(self.floor, threshold - self.loosen * use))
        return Rule(threshold, self.ttl.get(category, self.usual_ttl), self.quota.get(category, self.usual_quota))


def _check(threshold: float, ttl: float, quota: int, lookup: float) -> None:
    if not (0 <= threshold <= 1 and ttl > 0 and quota >= 1 and lookup >= 0):
        raise InputError(
            f"needs threshold in [0, 1], ttl above 0 s, quota at least 1 and lookup at least 0 s; found {threshold:g}, {ttl:g}, {quota}, {lookup:g}"
        )
