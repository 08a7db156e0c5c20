"""The KV blocks of a replica: counted, or each with a name where prefixes are cached.

The cache is vLLM's: a block that nobody holds keeps its content until it is taken for something else; the one freed longest ago
goes first, and of one request the last block first. At least one token of a prompt is always computed.
"""

from collections import OrderedDict

from rota.route.engine.sequence import Sequence


class Blocks:
    """Blocks without a cache: only their number matters."""

    def __init__(self, total: int, size: int) -> None:
        self.total = total
        self.size = size  # tokens of a block
        self._free = total
        self.looked_tokens = 0  # asked of the cache
        self.hit_tokens = 0  # found in it

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return self._free

    def need(self, tokens: int) -> int:
        """Blocks for so many tokens."""
        return -(-tokens // self.size)

    def find(self, seq: Sequence) -> tuple[int, int]:
        """How many leading blocks of a sequence are in the cache, and how many of those nobody holds."""
        return 0, 0

    def take(self, seq: Sequence, hits: int) -> None:
        """Hold the leading blocks that were found."""

    def extend(self, seq: Sequence, tokens: int) -> None:
        """Hold enough blocks for the first `tokens` tokens."""
        wanted = -(-tokens // self.size)
        if wanted > seq.held:
            self._free -= wanted - seq.held
            seq.held = wanted

    def give_back(self, seq: Sequence, tokens: int) -> None:
        """Give back what is more than `tokens` tokens need; a block with a name is kept until all are released."""
        if not seq.blocks and seq.held > self.need(tokens):
            self._free += seq.held - self.need(tokens)
            seq.held = self.need(tokens)

    def release(self, seq: Sequence) -> None:
        """Give all blocks back."""
        self._free += seq.held
        seq.held = 0


class CachedBlocks(Blocks):
    """Blocks whose content can be found again."""

    def __init__(self, total: int, size: int) -> None:
        super().__init__(total, size)
        self._idle = OrderedDict[int, None]((block, None) for block in range(total))  # freed longest ago first
        self._holders = [0] * total
        self._content: list[bytes | None] = [None] * total
        self._where: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        """Blocks that nobody holds; most still have a content."""
        return len(self._idle)

    def find(self, seq: Sequence) -> tuple[int, int]:
        """How many leading blocks of a sequence are in the cache, and how many of those nobody holds."""
        hits, idle = 0, 0
        while (hits + 1) * self.size < seq.target:
            block = self._where.get(seq.block_name(hits, self.size))
            if block is None:
                break
            hits, idle = hits + 1, idle + (self._holders[block] == 0)
        return hits, idle

    def take(self, seq: Sequence, hits: int) -> None:
        """Hold the leading blocks that were found."""
        self.looked_tokens += seq.target
        self.hit_tokens += hits * self.size
        seq.blocks = [self._where[seq.block_name(k, self.size)] for k in range(hits)]
        for block in seq.blocks:
            if self._holders[block] == 0:
                del self._idle[block]
            self._holders[block] += 1
        seq.held = seq.named = hits

    def extend(self, seq: Sequence, tokens: int) -> None:
        """Hold enough blocks for the first `tokens` tokens; full ones can be found by others from now on."""
        while seq.held < self.need(tokens):
            block, _ = self._idle.popitem(last=False)
            content = self._content[block]
            if content is not None:
                del self._where[content]
            self._content[block], self._holders[block] = None, 1
            seq.blocks.append(block)
            seq.held += 1
        self._name(seq, seq.computed if seq.decoding else tokens)

    def release(self, seq: Sequence) -> None:
        """Give all blocks back, the last one first; their content stays."""
        self._name(seq, seq.computed)
        for block in reversed(seq.blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._idle[block] = None
        seq.blocks, seq.held, seq.named = [], 0, 0

    def _name(self, seq: Sequence, tokens: int) -> None:
        full = tokens // self.size
        for k in range(seq.named, full):
            name = seq.block_name(k, self.size)
            if name not in self._where:  # a second copy of a known block stays nameless
                self._where[name] = seq.blocks[k]
                self._content[seq.blocks[k]] = name
        seq.named = max(seq.named, full)
