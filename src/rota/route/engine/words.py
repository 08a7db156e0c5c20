"""Text without a model: how tokens are counted, and which words an answer has.

No tokenizer is shipped, so the rule is a simple one: a token is a run of at most four characters of a word, with the space before it.
English of real tokenizers has about 1.3 tokens a word, this rule about 1.5. Every word of `WORDS` is one token, so an answer of n
tokens has n words, and counts the same when it is sent back in the next turn of a conversation.
"""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from zlib import crc32

import numpy as np

from rota.kernel.streams import normal, uniform

_PIECE = re.compile(r"\s*\S{1,4}|\s+\Z")

# fmt: off
WORDS = (
    "a", "able", "air", "all", "also", "and", "any", "area", "as", "ask", "at", "back", "base", "be", "best", "big", "blue", "book",
    "both", "box", "but", "by", "call", "can", "case", "city", "cold", "come", "cost", "cut", "data", "day", "deep", "do", "door",
    "down", "draw", "each", "east", "easy", "edge", "end", "even", "ever", "fact", "fall", "far", "fast", "feel", "few", "find",
    "fire", "five", "flow", "for", "form", "four", "free", "from", "full", "game", "gave", "give", "go", "gold", "good", "hand",
    "hard", "have", "head", "hear", "help", "here", "high", "hold", "home", "hour", "how", "idea", "if", "in", "into", "iron",
    "is", "it", "item", "join", "just", "keep", "kind", "king", "know", "lake", "land", "last", "late", "lead", "left", "less",
    "life", "like", "line", "list", "live", "long", "look", "lot", "low", "made", "main", "make", "many", "map", "mark", "mean",
    "mind", "more", "most", "move", "much", "name", "near", "new", "next", "no", "node", "note", "now", "of", "off", "old", "on",
    "once", "one", "only", "open", "or", "our", "out", "over", "own", "page", "part", "pass", "path", "plan", "play", "rain",
    "read", "real", "rest", "road", "rule", "run", "same", "say", "sea", "see", "set", "ship", "show", "side", "six", "slow",
    "snow", "so", "some", "song", "soon", "star", "step", "stop", "such", "sun", "sure", "take", "talk", "tell", "ten", "test",
    "than", "that", "the", "them", "then", "they", "this", "time", "to", "too", "top", "town", "tree", "true", "try", "turn",
    "two", "unit", "up", "upon", "use", "very", "view", "wait", "walk", "warm", "was", "way", "we", "well", "went", "were",
    "west", "what", "when", "who", "why", "wide", "wind", "with", "wood", "word", "work", "year", "yes", "you",
)
# fmt: on
_FOLLOWING = tuple(f" {word}" for word in WORDS)


def pieces(text: str) -> list[str]:
    """The tokens of a text; joined they are the text again."""
    return _PIECE.findall(text)


def token_ids(tokens: Sequence[str]) -> "array[int]":
    """A number below 2**32 for each token: equal tokens, equal numbers."""
    return array("I", [crc32(token.encode("utf-8", "surrogatepass")) for token in tokens])


@dataclass(frozen=True)
class Prompt:
    """What a request begins with: tokens as text, or as the ids that a client has sent."""

    tokens: Sequence[str] | None = None
    given: "array[int] | None" = None

    def __len__(self) -> int:
        return len(self.given if self.given is not None else self.tokens or ())

    @cached_property
    def ids(self) -> "array[int]":
        """The ids of the tokens."""
        return self.given if self.given is not None else token_ids(self.tokens or ())

    @cached_property
    def digest(self) -> int:
        """63 bits that stand for the prompt: what is drawn for it is keyed by them."""
        text = "\x00".join(self.tokens or ()).encode("utf-8", "surrogatepass")
        content = text if self.given is None else b"ids" + self.given.tobytes()
        return int.from_bytes(blake2b(content, digest_size=8).digest(), "little") >> 1


def answer_words(seed: int, prompt: Prompt, variant: int, count: int) -> list[str]:
    """The tokens of an answer: `count` words, the same for the same seed, prompt and variant (the request's own `seed`)."""
    draws = uniform(seed, f"words/{variant}", prompt.digest, np.arange(count))
    chosen = (draws * len(WORDS)).astype(np.int64).tolist()
    return [WORDS[chosen[0]], *(_FOLLOWING[index] for index in chosen[1:])]


def answer_length(seed: int, prompt: Prompt, variant: int, mean: float, sigma: float) -> int:
    """Tokens that an answer would have if nothing limited it: lognormal, at least 1."""
    score = float(normal(seed, f"output_tokens/{variant}", prompt.digest))
    return max(1, round(mean * float(np.exp(sigma * score - sigma**2 / 2))))


def cut_at_stop(tokens: list[str], stops: Sequence[str]) -> list[str] | None:
    """The tokens up to the first of the stop strings, which is left out as vLLM does; None where there is none.

    The tokens that make up the stop string are computed but show nothing: they are empty.
    """
    text = "".join(tokens)
    found = [(text.index(stop), len(stop)) for stop in stops if stop and stop in text]
    if not found:
        return None
    begin, end = min((at + length, at) for at, length in found)[::-1]
    kept, at = list[str](), 0
    for token in tokens:
        kept.append(token[: max(0, begin - at)])
        at += len(token)
        if at >= end:
            break
    return kept
