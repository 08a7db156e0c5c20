"""What an answer tells about itself while it passes: its events, and the tokens that the engine counted."""

from typing import Annotated

import msgspec

Count = Annotated[
    int, msgspec.Meta(ge=0, le=2**40)
]  # what is outside is no count of tokens, and the whole usage is not believed


class _Details(msgspec.Struct):
    cached_tokens: Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None


class _Inner(msgspec.Struct):
    usage: _Usage | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None
    response: _Inner | None = None  # where the Responses API puts it at the end of a stream


_DECODER = msgspec.json.Decoder(_Answer)


def usage(body: bytes) -> tuple[int | None, int | None, int | None] | None:
    """Prompt tokens, output tokens, cached tokens of a JSON answer or of the data of an event; None where it has no usage."""
    try:
        found = _DECODER.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return None
    said = found.usage or (found.response.usage if found.response is not None else None)
    if said is None:
        return None
    details = said.prompt_tokens_details or said.input_tokens_details
    prompt = said.prompt_tokens if said.prompt_tokens is not None else said.input_tokens
    output = said.completion_tokens if said.completion_tokens is not None else said.output_tokens
    return prompt, output, details.cached_tokens if details is not None else None


TAIL_MOST = 2**20  # bytes of one event that are held back; a larger one is passed on in pieces


class Events:
    """Cuts a stream after its last whole event, so that a break never leaves half an event at the client."""

    def __init__(self) -> None:
        self._tail = b""
        self._with_usage = b""
        self._begun = False
        self.count = 0  # of events, without the first one where it has no text

    def whole(self, piece: bytes) -> bytes:
        """The bytes that can go on now: all that came up to the end of the last whole event."""
        data = self._tail + piece if self._tail else piece
        if data.endswith(b"\n\n"):
            end = len(data)
        else:
            end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4)
            if end < 4 and len(data) <= TAIL_MOST and not data.startswith(b"\n\n"):
                self._tail = data
                return b""
            end = len(data) if len(data) - end > TAIL_MOST else end
        ready, self._tail = (data, b"") if end == len(data) else (data[:end], data[end:])
        events = ready.count(b"\n\n") + ready.count(b"\r\n\r\n")
        if events and not self._begun:  # engines begin a chat with an event that has a role and no text
            self._begun = True
            first = ready[: min(end for mark in (b"\n\n", b"\r\n\r\n") if (end := ready.find(mark)) >= 0)]
            events -= b'"content":""' in first or b'"content": ""' in first
        self.count += events
        if b'"usage"' in ready:
            self._with_usage = ready
        return ready

    def rest(self) -> bytes:
        """What is left at the end of a stream that did not end with an empty line."""
        rest, self._tail = self._tail, b""
        return rest

    def usage(self) -> tuple[int | None, int | None, int | None] | None:
        """The last usage of the stream."""
        for line in reversed(self._with_usage.split(b"\n")):
            if line.startswith(b"data:") and b'"usage"' in line and (found := usage(line[5:])) is not None:
                return found
        return None
