"""A request inside the replica: what it asks for, how far it is, and when its tokens came out."""

from array import array
from dataclasses import dataclass, field
from hashlib import blake2b


@dataclass(eq=False, slots=True)
class Sequence:
    """One prompt and its answer. Times are engine seconds, lengths are tokens."""

    number: int  # ties are broken by it: the order of arrival
    prompt: int
    output: int  # tokens that will be generated
    ids: "array[int] | None" = None  # of the prompt and then of the answer; needed only by a prefix cache
    pooled: bool = False  # an embedding: done with its prompt, and its one "token" is no output
    arrival: float = 0.0
    scheduled: float | None = None  # first put into a batch
    token_times: list[float] = field(default_factory=list)
    computed: int = 0  # tokens in the KV cache
    generated: int = 0
    target: int = 0  # tokens to prefill: the prompt, after a preemption also what had been generated
    chunk: int = 0  # tokens of the prompt in this iteration
    decoding: bool = False
    aside: bool = False  # prompts took its place in the iteration
    held: int = 0  # KV blocks
    blocks: list[int] = field(default_factory=list)  # which ones, where there is a prefix cache
    named: int = 0  # how many of them were offered to the cache
    cached: int | None = None  # tokens found in the cache when it was first put into a batch
    preemptions: int = 0
    left: bool = False  # its client has gone; it goes when its iteration ends
    names: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.target = self.prompt

    @property
    def tie(self) -> tuple[float, int]:
        """First come, first served; the smaller number where two came at the same time."""
        return (self.arrival, self.number)

    @property
    def finished(self) -> bool:
        """All tokens are out."""
        return self.generated == self.output

    def block_name(self, k: int, size: int) -> bytes:
        """What is in the k-th block of `size` tokens, and before it: a chain of hashes, as vLLM's."""
        if self.ids is None:
            raise ValueError("a prefix cache needs the ids of the tokens")
        while len(self.names) <= k:
            begin = len(self.names) * size
            before = self.names[-1] if self.names else b""
            self.names.append(blake2b(before + self.ids[begin : begin + size].tobytes(), digest_size=16).digest())
        return self.names[k]
