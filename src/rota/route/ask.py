"""What a request asks for: read once from its body and headers, never stored as text."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from rota.route.checks import NAME_MOST
from rota.route.problems import Problem

GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
JSON_PATHS = (*GENERATING, "/v1/embeddings")


class _Body(msgspec.Struct):
    """The fields that matter for a decision; everything else is the engine's business and passed on unread."""

    model: str | None = None
    stream: bool | None = None
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    instructions: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    priority: int | None = None


_DECODER = msgspec.json.Decoder(_Body)


@dataclass(frozen=True)
class Ask:
    """A request as the router understands it.

    `text` is what the prompt's blocks are made of: its own JSON, whose beginning is the same for requests that share a beginning.
    """

    model: str
    stream: bool
    text: bytes
    token_ids: int  # length of a prompt that is given in tokens, 0 otherwise
    most_tokens: int | None
    priority: int | None
    generates: bool


def read_ask(path: str, body: bytes) -> Ask:
    """Raises Problem (400) where the body of a known endpoint is not a JSON object with fields of the right types."""
    try:
        body.decode("utf-8")
        found = _DECODER.decode(body)
    except UnicodeDecodeError as error:
        raise Problem(400, f"the body is not UTF-8: byte {error.start} is invalid", "invalid_request_error") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error).replace("`", "'")
        raise Problem(400, f"the body is not a valid request: {said}", "invalid_request_error") from None
    if found.model is not None and len(found.model) > NAME_MOST:
        raise Problem(400, f"model: must have at most {NAME_MOST} characters", "invalid_request_error", "model")
    prompt = bytes(found.prompt)
    text = b"".join(
        bytes(part).rstrip(b"]} \n\r\t")
        for part in (found.tools, found.instructions, found.messages, found.input, prompt)
    )
    limits = (found.max_completion_tokens, found.max_tokens, found.max_output_tokens)
    most = next((limit for limit in limits if limit is not None and limit > 0), None)
    priority = found.priority if found.priority is not None and abs(found.priority) < 2**31 else None
    return Ask(found.model or "", bool(found.stream), text, _token_ids(prompt), most, priority, path in GENERATING)


class _Named(msgspec.Struct):
    """What decides where a request of an unknown kind goes."""

    model: str | None = None
    stream: bool | None = None


_NAMED = msgspec.json.Decoder(_Named)
NOTHING_ASKED = Ask("", False, b"", 0, None, None, False)


def read_any(content_type: str, body: bytes) -> Ask:
    """What a request that is passed through asks for: the model, where its body is a JSON object that names one; never refused."""
    if content_type != "application/json" or not body:
        return NOTHING_ASKED
    try:
        found = _NAMED.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return NOTHING_ASKED
    model = found.model or ""
    return Ask(model if len(model) <= NAME_MOST else "", bool(found.stream), b"", 0, None, None, False)


def _token_ids(prompt: bytes) -> int:
    inside = prompt[1:].lstrip()
    return prompt.count(b",") + 1 if prompt[:1] == b"[" and inside[:1].isdigit() else 0


@dataclass(frozen=True)
class Limits:
    """What the headers of a request say: limits in seconds (inf: none), the session, the priority."""

    ttft: float
    tpot: float
    e2e: float
    session: str
    priority: int | None


def read_limits(headers: Mapping[str, str]) -> Limits:
    """Raises Problem (400) for a header that is no number."""
    ttft, tpot, e2e = (_milliseconds(headers, f"x-slo-{name}-ms") for name in ("ttft", "tpot", "e2e"))
    priority = headers.get("x-priority")
    if priority is not None and not (priority.lstrip("-").isdigit() and len(priority) <= 10):
        raise Problem(400, "x-priority: must be a whole number, smaller is more urgent", "invalid_request_error")
    session = headers.get("x-session-id", "")
    if len(session) > NAME_MOST:
        raise Problem(400, f"x-session-id: must have at most {NAME_MOST} characters", "invalid_request_error")
    return Limits(ttft, tpot, e2e, session, None if priority is None else int(priority))


def _milliseconds(headers: Mapping[str, str], name: str) -> float:
    text = headers.get(name)
    if text is None:
        return float("inf")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1e12:
        raise Problem(400, f"{name}: must be a number of milliseconds above 0", "invalid_request_error")
    return value / 1000


def block_hashes(ask: Ask, salt: bytes, block_bytes: int, most: int = 8192) -> tuple[int, ...]:
    """A number for each whole block of the prompt; equal numbers mean equal blocks and equal everything before, of one model.

    Keyed BLAKE2b, 63 bits: who has no salt cannot test a guessed prompt.
    """
    chain = blake2b(ask.model.encode(), digest_size=8, key=salt).digest()
    found = []
    text = ask.text
    for start in range(0, min(len(text) - block_bytes + 1, most * block_bytes), block_bytes):
        chain = blake2b(chain + text[start : start + block_bytes], digest_size=8, key=salt).digest()
        found.append(int.from_bytes(chain, "little") >> 1)
    return tuple(found)
