"""What a run is made of, resolved: the engines of the fleet, and the policies that decide for them."""

from dataclasses import dataclass

from rota.kernel.decisions import Order, Place, Policy
from rota.worlds.serving.adapters import AdapterRoom
from rota.worlds.serving.admission import Admit
from rota.worlds.serving.batching import UNLIMITED, BatchRules
from rota.worlds.serving.caching import LRU, Tier
from rota.worlds.serving.energy import Clocks
from rota.worlds.serving.fleet import MIXED, Migrate, Scaler
from rota.worlds.serving.nodes import Seat
from rota.worlds.serving.pools import Pools
from rota.worlds.serving.retain import Retain
from rota.worlds.serving.rounds import Stop
from rota.worlds.serving.semantic import Recall
from rota.worlds.serving.speculative import Speculative
from rota.worlds.serving.timing.model import Timing


@dataclass(frozen=True)
class Replica:
    """One engine of the fleet, resolved: sizes, rules and timing."""

    label: str
    kv_blocks: int
    block_tokens: int
    max_running: int
    context_limit: int
    rules: BatchRules
    timing: Timing
    prefix_caching: bool = False
    eviction: str = LRU  # of the prefix cache
    tiers: tuple[Tier, ...] = ()  # below it
    max_outstanding: int = UNLIMITED
    prefill_rate: float = 0.0  # seconds of work a prompt token, for `size` and `work`
    decode_rate: float = 0.0  # seconds of work an output token
    role: str = MIXED  # or prefill, decode
    kv_bytes: float = 0.0  # of a token, on all its GPUs
    swap_blocks: int = 0  # KV blocks in the host's memory; 0: a displaced request computes again
    swap_bandwidth: float = 0.0  # bytes a second to and from it
    swap_blocking: bool = True  # everything waits while KV goes out
    swap_per_copy: float = 0.0  # seconds for each copy, besides its bytes
    swap_group: int = 1  # contiguous blocks that are one copy
    swap_compress: float = 1.0  # share of the bytes that is copied
    swap_reuse: bool = False  # copies stay while a request runs again, and are not sent twice
    gpus: int = 1
    gang: int = 1  # so many neighbours in the fleet, from a multiple of it on, go in step: they share experts
    urgent: bool = True  # of high priority
    price: float | None = None  # US dollars a GPU hour; None: not known
    speculative: Speculative | None = None  # None: a decode gets one token an iteration
    adapters: AdapterRoom | None = None  # None: no room for any
    model: str = ""  # what it serves
    seat: Seat | None = None  # its place on a machine that it shares with others


@dataclass(frozen=True)
class Roles:
    """The decisions of a run. None: the world's default (first come first served; the end of the order)."""

    order: Order
    route: Place
    hold: Order
    victim: Order | None = None
    decode: Place | None = None  # where a prompt goes on that was computed on a prefill host
    migrate: Migrate | None = None  # which hosts give a decoding request to which others
    scale: Scaler | None = None  # how many hosts are on
    admit: Admit | None = None  # who comes in
    pool: Pools | None = None  # where a prompt is computed and decoded, instead of route
    retain: Retain | None = None  # how long the KV of ended requests is kept
    clocks: Clocks | None = None  # which clock each host has
    recall: Recall | None = None  # for whom an earlier answer will do
    stop: Stop | None = None  # which programs have reasoned enough

    def policies(self) -> list[Policy]:
        """Each distinct policy once."""
        found: list[Policy] = []
        first = self.route, self.hold, self.order, self.victim, self.decode, self.migrate, self.scale
        for policy in (*first, self.admit, self.pool, self.retain, self.clocks, self.recall, self.stop):
            if policy is not None and all(policy is not other for other in found):
                found.append(policy)
        return found
