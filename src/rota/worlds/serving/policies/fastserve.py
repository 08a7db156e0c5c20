"""Skip-join multi-level feedback: join the level whose quantum the prompt would use up, and sink as the answer grows.

Wu, Zhong, Zhang, Liu, Liu, Sun, Huang, Liu and Jin, Fast Distributed Inference Serving for Large Language Models (FastServe), NSDI 2026
(arXiv 2305.05920). Quanta are counted in decoding iterations; the prompt's time is `tokens_per_iteration` prompt tokens to one. Chosen
here: within a level by arrival; a level's quantum begins anew when it is entered; who has not run for `starve` seconds goes to the top
level and begins there anew. FastServe swaps the cache of who is displaced to the host beforehand; here it is computed again, which the
paper does not have to pay.
"""

from dataclasses import dataclass, field

import numpy as np

from rota.kernel.decisions import Order
from rota.kernel.errors import InputError
from rota.kernel.tables import FloatColumn, IntColumn, Jobs


@dataclass
class SkipJoinFeedback(Order):
    """Skip-join MLFQ.

    Attributes:
        quantum: Iterations of the top level.
        ratio: Each level's quantum is so many times that of the one above.
        levels: How many levels; the last has no end.
        tokens_per_iteration: Prompt tokens that take as long as one decoding iteration; 0: every request joins the top level.
        starve: Seconds without running after which a request is promoted; inf: never.
    """

    quantum: float = 8.0
    ratio: float = 2.0
    levels: int = 8
    tokens_per_iteration: float = 128.0
    starve: float = 30.0
    preemptive = True
    reads = ("id", "prompt_tokens", "generated_tokens")
    _idle: FloatColumn = field(default_factory=lambda: np.zeros(0), init=False, repr=False)  # since; NaN: running
    _tokens: FloatColumn = field(default_factory=lambda: np.zeros(0), init=False, repr=False)
    _anew: FloatColumn = field(
        default_factory=lambda: np.zeros(0), init=False, repr=False
    )  # tokens at promotion, or NaN

    def __post_init__(self) -> None:
        if not (self.quantum > 0 and self.ratio >= 1 and self.levels >= 1):
            raise InputError(
                f"quantum must be above 0, ratio and levels at least 1, found {self.quantum:g}, {self.ratio:g}, {self.levels}"
            )
        if not (self.tokens_per_iteration >= 0 and self.starve > 0):
            raise InputError(
                f"tokens_per_iteration must be at least 0 and starve above 0 seconds, found {self.tokens_per_iteration:g}, {self.starve:g}"
            )

    def keys(self, jobs: Jobs, now: float) -> FloatColumn:
        anew = self._anew[jobs.id]
        promoted = ~np.isnan(anew)
        prompt = np.where(promoted, 0.0, jobs.prompt_tokens)
        level = self.level(prompt, np.where(promoted, jobs.generated_tokens - anew, jobs.generated_tokens))
        with np.errstate(invalid="ignore"):
            starving = now - self._idle[jobs.id] >= self.starve
        return np.where(starving, 0.0, level)

    def level(self, prompt: FloatColumn, generated: FloatColumn) -> FloatColumn:
        """The level of requests by their prompts and the tokens that are out, 0 the top."""
        quanta = self.quantum * self.ratio ** np.arange(self.levels)
        ends = np.cumsum(quanta)
        first = prompt / self.tokens_per_iteration if self.tokens_per_iteration else np.zeros(len(prompt))
        join = np.minimum(np.searchsorted(quanta, first, side="left"), self.levels - 1)
        before = np.concatenate([[0.0], ends])[join]
        reached = np.searchsorted(ends, before + first + generated, side="right")
        # A prompt that just fills its level's quantum still answers there: it sinks with its first token.
        return np.asarray(np.clip(reached, join, self.levels - 1), np.float64)

    def on_arrival(self, job: int, now: float) -> None:
        if job >= len(self._idle):
            more = max(1024, len(self._idle), job + 1 - len(self._idle))
            self._idle = np.concatenate([self._idle, np.zeros(more)])
            self._tokens = np.concatenate([self._tokens, np.zeros(more)])
            self._anew = np.concatenate([self._anew, np.full(more, np.nan)])
        self._idle[job] = now

    def on_start(self, job: int, host: int, now: float) -> None:
        if now - self._idle[job] >= self.starve:
            self._anew[job] = self._tokens[job]
        self._idle[job] = np.nan

    def on_progress(self, jobs: IntColumn, deltas: FloatColumn, now: float) -> None:
        self._tokens[jobs] += deltas

    def on_preempt(self, job: int, host: int, now: float) -> None:
        self._idle[job] = now
