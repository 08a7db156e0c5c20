"""A request on its way through the router: what is known of it, and when it got where. Times are seconds on the router's clock."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rota.route.beliefs import Session
from rota.worlds.serving.rounds import History

if TYPE_CHECKING:
    from rota.route.backend import Backend
    from rota.route.tenants import Tenant

NAN = float("nan")
NEVER = float("inf")


@dataclass(slots=True, eq=False)
class Job:
    """One request. Everything before `dispatched` is fixed when it arrives."""

    id: int
    release: float
    wall: float  # seconds since 1970, for the recording
    tenant: "Tenant"
    model: str
    path: str
    stream: bool
    generates: bool
    session: int = -1
    program: Session = field(default_factory=lambda: Session(0.0, History()))
    path_attained: float = 0.0  # seconds of service along the chain of its session that it waited for
    priority: int = 0
    ttft_limit: float = float("inf")
    tpot_limit: float = float("inf")
    e2e_limit: float = float("inf")
    prompt_bytes: int = 0
    prompt_tokens: float = 0.0  # as believed, later as counted by the engine
    output_tokens: float = 0.0  # as predicted
    blocks: tuple[int, ...] = ()
    # what happens to it
    backend: "Backend | None" = None
    dispatched: float = NAN
    first_byte: float = NAN
    last_byte: float = NAN
    generated: int = 0  # events of the answer so far, which are tokens as a rule
    told: int = 0  # of these, what policies have been told
    counted_prompt: int | None = None  # from usage
    counted_output: int | None = None
    cached_tokens: int | None = None
    attempts: int = 0
    status: int = 0
    outcome: str = ""
    costs: dict[str, float] = field(default_factory=dict)
    decided_by: str = ""
    transport: asyncio.BaseTransport | None = None  # to its client, while an answer is streamed there
    writing: float = NEVER  # since when a piece of the answer has been on its way to the client
    tried: set[int] = field(default_factory=set)  # ids of backends that failed it

    @property
    def due(self) -> float:
        """When it should be done: the limit of the whole answer, else that of the first token; inf: no limit."""
        limit = self.e2e_limit if self.e2e_limit != float("inf") else self.ttft_limit
        return self.release + limit

    @property
    def tokens_left(self) -> float:
        """Prompt tokens not yet seen to be processed, and predicted tokens of the answer not yet out."""
        prompt = self.prompt_tokens if self.first_byte != self.first_byte else 0.0
        return prompt + max(self.output_tokens - self.generated, 0.0)
