"""What is believed of a request before it has run: tokens of its prompt, length of its answer, what is cached where."""

from collections import OrderedDict, deque
from collections.abc import Iterable

from rota.route.settings import Lengths

SMOOTHING = 0.05  # weight of the newest prompt in the mean bytes a token
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


class Sessions:
    """Where the last request of a session went; the oldest sessions are forgotten."""

    def __init__(self, room: int = 100_000) -> None:
        self.room = room
        self._last: OrderedDict[int, int] = OrderedDict()

    def last(self, session: int) -> int | None:
        """The id of the backend."""
        return self._last.get(session)

    def went(self, session: int, backend: int) -> None:
        """A request of a session was sent."""
        if session >= 0:
            self._last[session] = backend
            self._last.move_to_end(session)
            if len(self._last) > self.room:
                self._last.popitem(last=False)
