"""What is believed of a request before it has run: tokens of its prompt, length of its answer, what is cached where."""

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rota.route.settings import Lengths
from rota.worlds.serving.rounds import History

SMOOTHING = 0.05  # weight of the newest prompt in the mean bytes a token
QUIET = 600.0  # seconds without a request after which a session is taken to be over
MODELS = 1000  # models, and pairs of model and tenant, that are remembered


class LengthHistory:
    """Bytes a token of each model, and the mean of the last answers of each (model, tenant), from what engines counted."""

    def __init__(self, settings: Lengths) -> None:
        self.settings = settings
        self._bytes: OrderedDict[str, float] = OrderedDict()
        self._answers: OrderedDict[tuple[str, str], tuple[deque[int], list[int]]] = OrderedDict()

    def prompt_tokens(self, model: str, size: int) -> float:
        """Tokens of a prompt of `size` bytes."""
        return max(1.0, size / self._bytes.get(model, self.settings.bytes_per_token))

    def output_tokens(self, model: str, tenant: str, most: int | None) -> float:
        """Mean length of the last answers to this tenant, else to anyone, else as configured; at most what was asked for."""
        for key in ((model, tenant), (model, "")):
            if key in self._answers:
                last, total = self._answers[key]
                expected = total[0] / len(last)
                break
        else:
            expected = float(self.settings.output_tokens)
        return expected if most is None else min(expected, float(most))

    def counted(self, model: str, tenant: str, size: int, prompt: int | None, output: int | None) -> None:
        """An engine has counted."""
        if prompt and size:
            before = self._bytes.get(model)
            ratio = size / prompt
            self._bytes[model] = ratio if before is None else before + SMOOTHING * (ratio - before)
            _bound(self._bytes)
        if output:
            for key in {(model, tenant), (model, "")}:
                last, total = self._answers.setdefault(key, (deque(), [0]))
                last.append(output)
                total[0] += output
                if len(last) > self.settings.history:
                    total[0] -= last.popleft()
                self._answers.move_to_end(key)
            _bound(self._answers)


def _bound(table: "OrderedDict[str, float] | OrderedDict[tuple[str, str], tuple[deque[int], list[int]]]") -> None:
    while len(table) > MODELS:
        table.popitem(last=False)


class PrefixIndex:
    """Which blocks a backend probably has cached: those it was sent, the least recently used forgotten first.

    What the engine has evicted is not known here, hence approximate (as in SGLang's cache-aware router and production-stack's prefix-aware one).
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._blocks: dict[int, OrderedDict[int, None]] = {}

    def match(self, backend: int, blocks: Iterable[int]) -> int:
        """How many blocks from the start are believed to be there."""
        held = self._blocks.get(backend)
        count = 0
        if held:
            for block in blocks:
                if block not in held:
                    break
                count += 1
        return count

    def sent(self, backend: int, blocks: tuple[int, ...]) -> None:
        """A prompt went to a backend. The end of a prompt is forgotten before its beginning."""
        held = self._blocks.setdefault(backend, OrderedDict())
        for block in reversed(blocks):
            held[block] = None
            held.move_to_end(block)
        while len(held) > self.room:
            held.popitem(last=False)

    def forget(self, backend: int) -> None:
        """A backend went away or was restarted: its cache is gone."""
        self._blocks.pop(backend, None)


@dataclass(slots=True)
class Session:
    """What the requests of a session have in common, which makes it the program of the policies that know programs.

    Which request waited for which is not said on the wire: a request is believed to have waited for those of its session that had ended when it
    came, so that `path` is the longest chain of them.
    """

    release: float
    history: History
    backend: int | None = None
    attained: float = 0.0  # seconds of service of its ended requests
    path: float = 0.0
    tokens: float = 0.0  # of their answers
    calls: int = 0
    last: float = 0.0  # when its last request came

    def ended(self, before: float, seconds: float, tokens: float) -> None:
        """A request that came when the path was `before` has been served."""
        self.attained += seconds
        self.path = max(self.path, before + seconds)
        self.tokens += tokens
        self.calls += 1

    @property
    def left(self) -> float:
        """Tokens of answers still to come, expected from sessions that are over; 0 before any is."""
        return float(self.history.left(0, np.array([self.tokens]), np.array([self.calls]))[0])


class Sessions:
    """What is remembered of each session; the oldest sessions are forgotten.

    No request says that it is the last one: a session is taken to be over, and its length known, when nothing has come for ten minutes. If it goes on
    after all, it counts again when it is over again.
    """

    def __init__(self, room: int = 100_000) -> None:
        self.room = room
        self.history = History()
        self._known: OrderedDict[int, Session] = OrderedDict()
        self._under_way: OrderedDict[int, Session] = OrderedDict()  # the one that has been quiet for longest first

    def of(self, session: int, now: float) -> Session:
        """The session of a request that comes now; -1: one of its own, which nobody remembers."""
        if session < 0:
            return Session(now, self.history)
        known = self._known.get(session)
        if known is None:
            known = self._known[session] = Session(now, self.history)
        self._under_way[session] = known
        for each in (self._known, self._under_way):
            each.move_to_end(session)
        known.last = now
        self._close(now)
        if len(self._known) > self.room:
            self._under_way.pop(self._known.popitem(last=False)[0], None)
        return known

    def _close(self, now: float) -> None:
        while (quiet := next(iter(self._under_way.values()))).last < now - QUIET:
            self._under_way.popitem(last=False)
            if quiet.calls:
                self.history.observe(0, quiet.tokens)
