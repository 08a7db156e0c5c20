"""AcceLLM: pairs of instances with the KV of all their requests on both, so that either can compute a prompt while the other goes on decoding.

Bournias, Cavigelli and Zacharopoulos, AcceLLM: Accelerating LLM Inference using Redundancy for Load Balancing and Data Locality, 2024 (arXiv 2411.05555),
from its abstract and memory: a new request goes to the pair with the fewest requests; one instance of the pair computes its prompt, the other decodes for
both meanwhile; where there is no prompt, both decode, half each. As KV is on both, changing sides costs no transfer. What is not in the paper's abstract and
chosen here: prompts go to the instance that has some already, up to a backlog, otherwise to the one with fewer decoders; pairs are neighbours, 0 and 1, 2 and
3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rota.kernel.errors import InputError
from rota.kernel.tables import Hosts, Jobs
from rota.worlds.serving.pool_rules import Pairs
from rota.worlds.serving.pools import Assignment, Pools


@dataclass
class AccellmPairs(Pools):
    """Redundant pairs.

    Attributes:
        refresh: Seconds between two updates of the copies.
        apart: Decoders by which two instances must differ for one to give some to the other.
        backlog: An instance that computes prompts gets the next ones until it has more than so many tokens to compute; then its partner helps.
    """

    refresh: float = 0.1
    apart: int = 4
    backlog: float = 4096.0

    reads = ("up", "prefill_tokens", "assigned", "decoding")

    def __post_init__(self) -> None:
        if not (self.refresh > 0 and self.apart >= 2 and self.backlog >= 0):
            raise InputError(
                f"accellm: needs refresh > 0, apart >= 2 and backlog >= 0; "
                f"found {self.refresh:g}, {self.apart} and {self.backlog:g}"
            )
        self.mirrored = self.refresh

    def rule(self) -> Pairs:
        return Pairs(self.apart, self.backlog)

    def assign(self, jobs: Jobs, hosts: Hosts, now: float) -> Assignment | None:
        pairs = [(a, min(a + 1, len(hosts) - 1)) for a in range(0, len(hosts), 2)]
        alive = [tuple(r for r in dict.fromkeys(pair) if hosts.up[r] > 0) for pair in pairs]
        alive = [pair for pair in alive if pair]
        if not alive:
            return None
        pair = min(alive, key=lambda each: (sum(hosts.assigned[r] for r in each) / len(each), each))
        if len(pair) == 1:
            return Assignment(pair[0], pair[0])
        queue = hosts.prefill_tokens
        room = [r for r in pair if 0 < queue[r] <= self.backlog]
        prompt = min(room or pair, key=lambda r: (queue[r], hosts.decoding[r], r))
        return Assignment(prompt, pair[0] + pair[1] - prompt)

    def moves(self, hosts: Hosts, now: float) -> Sequence[tuple[int, int, int]]:
        found = []
        for a in range(0, len(hosts) - 1, 2):
            b = a + 1
            if not (hosts.up[a] > 0 and hosts.up[b] > 0):
                continue
            busy = [hosts.prefill_tokens[r] > 0 for r in (a, b)]
            more, less = (a, b) if hosts.decoding[a] >= hosts.decoding[b] else (b, a)
            if busy[0] != busy[1]:
                source = a if busy[0] else b
                if hosts.decoding[source] > 0:
                    found.append((source, a + b - source, int(hosts.decoding[source])))
            elif not any(busy) and hosts.decoding[more] - hosts.decoding[less] >= self.apart:
                found.append((more, less, int(hosts.decoding[more] - hosts.decoding[less]) // 2))
        return found
