"""A slow prefix cache: named blocks, and a line of blocks that nobody holds, the one freed longest ago first."""

from rota.worlds.serving.replica import Replica
from tests.worlds.serving.slow import Block, Pool, Request


class CachingPool(Pool):
    """Blocks keep their content until they are taken for something else. `trace_tokens`: size of the trace's blocks, 0: it has none."""

    def __init__(self, replica: Replica, trace_tokens: int = 0) -> None:
        super().__init__(replica)
        self.trace_tokens = trace_tokens
        self.named: dict[tuple[object, ...], Block] = {}

    def name(self, r: Request, k: int) -> tuple[object, ...]:
        """What is in the k-th block: the trace's name (and which part of it), or the request's own."""
        if self.trace_tokens and (k + 1) * self.size <= r.prompt:
            last_token = (k + 1) * self.size - 1
            if last_token // self.trace_tokens < len(r.names):
                part = last_token % self.trace_tokens // self.size if self.trace_tokens > self.size else 0
                return ("trace", r.names[last_token // self.trace_tokens], part)
        return ("own", r.number, k)

    def hits(self, r: Request) -> list[Block]:
        found: list[Block] = []
        while (len(found) + 1) * self.size < r.target and self.name(r, len(found)) in self.named:
            found.append(self.named[self.name(r, len(found))])
        return found

    def take(self, r: Request, hits: list[Block]) -> None:
        for block in hits:
            if block.holders == 0:
                self.free.remove(block)
            block.holders += 1
        r.blocks, r.registered = list(hits), len(hits)

    def extend(self, r: Request, tokens: int) -> None:
        while len(r.blocks) < self.need(tokens):
            block = self.free.pop(0)
            if block.name is not None:
                del self.named[block.name]
            block.name, block.holders = None, 1
            r.blocks.append(block)
        self.register(r, r.computed if r.decoding else tokens)

    def register(self, r: Request, tokens: int) -> None:
        """Full blocks can be found by others from now on; a second copy of a known one stays nameless."""
        for k in range(r.registered, tokens // self.size):
            if self.name(r, k) not in self.named:
                r.blocks[k].name = self.name(r, k)
                self.named[self.name(r, k)] = r.blocks[k]
        r.registered = max(r.registered, tokens // self.size)

    def release(self, r: Request) -> None:
        self.register(r, r.computed)
        for block in reversed(r.blocks):
            block.holders -= 1
            if block.holders == 0:
                self.free.append(block)
        r.blocks, r.registered = [], 0
