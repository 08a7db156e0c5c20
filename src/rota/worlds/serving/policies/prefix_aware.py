"""production-stack's prefix-aware mode: the longest match in what the router itself has sent, whatever the load.

vLLM production-stack router: a trie over the prompts that were sent, never trimmed, and of several longest matches any. Use it with ``index: {kind: sent,
blocks: N}``, N large; the trie counts in characters, here in the replicas' blocks, and of several the one with the fewest decisions is taken.
"""

from rota.worlds.serving.policies.prefix_route import LongestMatch


class PrefixAware(LongestMatch):
    """Most tokens sent there before."""

    source = "vLLM production-stack router, its prefix-aware mode"
