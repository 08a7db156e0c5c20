"""From the body of a request to what the replica is asked: OpenAI's fields, checked, and vLLM's own beside them.

Fields that are not named here are ignored, as vLLM ignores them: sampling has no meaning where there is no model. A field that
would change what the client gets and is not built is refused.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from rota.route.engine.errors import ApiError
from rota.route.engine.settings import Plan
from rota.route.engine.tools import forced_call, whole_call
from rota.route.engine.words import Prompt, answer_length, answer_words, cut_at_stop, pieces

T = TypeVar("T")
COMPLETION_DEFAULT = 16  # max_tokens of /v1/completions, as OpenAI and vLLM have it
MAX_ID = 2**32 - 1
Texts = str | list[str | int | list[int]]  # one or several, as text or as ids


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    name: str | None = None


class Generation(msgspec.Struct, kw_only=True):
    """Fields that chats and completions share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    n: int | None = None
    best_of: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    ignore_eos: bool = False
    temperature: float | None = None
    top_p: float | None = None
    response_format: dict[str, Any] | None = None
    rota_output_tokens: int | None = None


class ChatBody(Generation, kw_only=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    logprobs: bool | None = None


class CompletionBody(Generation, kw_only=True):
    prompt: Texts
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None


class EmbeddingBody(msgspec.Struct):
    input: Texts
    model: str | None = None
    encoding_format: str | None = None
    dimensions: int | None = None


class ResponseBody(msgspec.Struct):
    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None
    rota_output_tokens: int | None = None


class TokenizeBody(msgspec.Struct):
    prompt: str | None = None
    messages: list[Message] | None = None
    model: str | None = None
    return_token_strs: bool | None = None


@dataclass(frozen=True)
class Job:
    """What the replica computes for a request, and what the client will read."""

    prompt: Prompt
    tokens: list[str]  # of the answer
    ending: str  # finish_reason
    max_tokens: int  # that the client asked for, or may have
    call: dict[str, Any] | None = None  # the forced tool call whose arguments the tokens are
    stream: bool = False
    include_usage: bool = False


def read_body(body: bytes, kind: type[T]) -> T:
    """Decode and check. Raises ApiError (400)."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").lstrip(".") or None
        raise ApiError(400, text.replace("`", "'") + (f" at '{param}'" if param else ""), param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None


def check_model(plan: Plan, name: str | None) -> None:
    """Raise ApiError (404) for a model that is not served here."""
    if name is not None and name != plan.name:
        raise ApiError(404, f"The model `{name}` does not exist.", "model", "NotFoundError")


def chat_job(plan: Plan, body: ChatBody) -> Job:
    """What a chat asks for. Raises ApiError."""
    _refuse(body.logprobs, "logprobs", "there are no probabilities here")
    call, ending = forced_call(plan.settings.seed, body.tools, body.tool_choice)
    prompt = chat_prompt(body.messages, body.tools)
    if body.max_completion_tokens is not None:
        body.max_tokens = body.max_completion_tokens
    return _job(plan, body, prompt, None, call, ending)


def completion_jobs(plan: Plan, body: CompletionBody) -> list[Job]:
    """What a completion asks for: a job a prompt. Raises ApiError."""
    _refuse(body.echo, "echo", "send the prompt yourself")
    _refuse(body.suffix, "suffix", "insertion is not built")
    if body.logprobs is not None:
        _refuse(True, "logprobs", "there are no probabilities here")
    prompts = prompts_of(body.prompt, "prompt")
    if body.stream and len(prompts) > 1:
        raise ApiError(400, "a stream takes one prompt here", "prompt")
    return [_job(plan, body, prompt, COMPLETION_DEFAULT) for prompt in prompts]


def response_job(plan: Plan, body: ResponseBody) -> Job:
    """What /v1/responses asks for. Raises ApiError."""
    messages = [Message("system", body.instructions)] if body.instructions else []
    if isinstance(body.input, str):
        messages.append(Message("user", body.input))
    else:
        for number, item in enumerate(body.input):
            if item.get("type", "message") != "message" or not isinstance(item.get("role"), str):
                raise ApiError(400, f"input[{number}]: only messages are understood here", "input")
            messages.append(Message(item["role"], item.get("content")))
    shared = Generation(
        model=body.model,
        max_tokens=body.max_output_tokens,
        stream=body.stream,
        rota_output_tokens=body.rota_output_tokens,
    )
    return _job(plan, shared, chat_prompt(messages, None), None)


def embedding_prompts(plan: Plan, body: EmbeddingBody) -> list[Prompt]:
    """What is to be embedded. Raises ApiError."""
    if body.encoding_format not in (None, "float", "base64"):
        raise ApiError(400, f"encoding_format: float or base64, found '{body.encoding_format}'", "encoding_format")
    if body.dimensions is not None and not 1 <= body.dimensions <= plan.hidden:
        raise ApiError(400, f"dimensions: from 1 to {plan.hidden}, found {body.dimensions}", "dimensions")
    prompts = prompts_of(body.input, "input")
    for prompt in prompts:
        _check_prompt(plan, prompt, 1)
    return prompts


def prompts_of(given: Texts, param: str) -> list[Prompt]:
    """Each prompt of a field that may hold one or many. Raises ApiError."""
    if isinstance(given, str):
        return [Prompt(pieces(given))]
    if not given:
        raise ApiError(400, f"{param}: is empty", param)
    if isinstance(given[0], int):
        return [Prompt(given=_ids(given, param))]
    if len({type(each) for each in given}) > 1:
        raise ApiError(400, f"{param}: give texts, or ids, or lists of ids, and not a mixture of them", param)
    return [Prompt(pieces(each)) if isinstance(each, str) else Prompt(given=_ids(each, param)) for each in given]


def chat_prompt(messages: Sequence[Message], tools: list[dict[str, Any]] | None) -> Prompt:
    """Messages as one row of tokens: a marker of the role (one token), the content, a marker of the end (one token).

    Tools stand before everything, as JSON; so do tool calls in their messages. Raises ApiError.
    """
    if not messages:
        raise ApiError(400, "messages: is empty", "messages")
    tokens: list[str] = []
    if tools:
        tokens += ["<|tools|>", *pieces(msgspec.json.encode(tools).decode()), "<|end|>"]
    for number, message in enumerate(messages):
        tokens += [f"<|{message.role}|>", *pieces(_content(message, number)), "<|end|>"]
    tokens.append("<|assistant|>")
    return Prompt(tokens)


def _content(message: Message, number: int) -> str:
    text = message.content if isinstance(message.content, str) else ""
    for part in message.content if isinstance(message.content, list) else ():
        if not isinstance(part.get("text"), str):
            raise ApiError(
                400, f"messages[{number}].content: only text is understood here, found '{part.get('type')}'", "messages"
            )
        text += part["text"]
    if message.tool_calls:
        text += msgspec.json.encode(message.tool_calls).decode()
    return text


def _ids(given: Any, param: str) -> "array[int]":
    if not given or any(
        isinstance(each, bool) or not isinstance(each, int) or not 0 <= each <= MAX_ID for each in given
    ):
        raise ApiError(400, f"{param}: ids must be numbers from 0 to {MAX_ID}", param)
    return array("I", given)


def _refuse(given: Any, name: str, reason: str) -> None:
    if given:
        raise ApiError(400, f"{name} is not supported by rota engine: {reason}", name)


def _job(
    plan: Plan,
    body: Generation,
    prompt: Prompt,
    default: int | None,
    call: dict[str, Any] | None = None,
    call_ending: str = "",
) -> Job:
    """How many tokens, which, and why no more."""
    _check_fields(body)
    room = plan.longest - _check_prompt(plan, prompt, 1)
    most = room if body.max_tokens is None and default is None else min(body.max_tokens or default or 1, plan.longest)
    if body.max_tokens is not None:
        if most > room:
            raise _too_long(plan, len(prompt), body.max_tokens)
    else:
        most = min(most, room)
    tokens, ending = _answer(plan, body, prompt, most) if call is None else whole_call(call, most, call_ending)
    usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    return Job(prompt, tokens, ending, most, call, bool(body.stream), usage)


def _check_fields(body: Generation) -> None:
    if body.n not in (None, 1):
        raise ApiError(400, f"n: rota engine gives one answer a request, found {body.n}", "n")
    _refuse((body.best_of or 1) > 1, "best_of", "one answer a request")
    _refuse(
        (body.response_format or {}).get("type", "text") != "text", "response_format", "answers are words, not JSON"
    )
    if body.max_tokens is not None and body.max_tokens < 1:
        raise ApiError(400, f"max_tokens must be at least 1, got {body.max_tokens}.", "max_tokens")
    if body.min_tokens < 0 or (body.max_tokens is not None and body.min_tokens > body.max_tokens):
        raise ApiError(400, f"min_tokens must be from 0 to max_tokens, got {body.min_tokens}.", "min_tokens")
    if body.rota_output_tokens is not None and body.rota_output_tokens < 1:
        raise ApiError(
            400, f"rota_output_tokens must be at least 1, got {body.rota_output_tokens}.", "rota_output_tokens"
        )
    if body.temperature is not None and body.temperature < 0:
        raise ApiError(400, f"temperature must be at least 0, got {body.temperature:g}.", "temperature")
    if body.top_p is not None and not 0 < body.top_p <= 1:
        raise ApiError(400, f"top_p must be in (0, 1], got {body.top_p:g}.", "top_p")


def _check_prompt(plan: Plan, prompt: Prompt, output: int) -> int:
    """The length of a prompt. Raises ApiError where it is empty or too long."""
    if len(prompt) == 0:
        raise ApiError(400, "the prompt has no tokens", "prompt")
    if len(prompt) > plan.longest_prompt:
        raise _too_long(plan, len(prompt), output)
    return len(prompt)


def _too_long(plan: Plan, prompt: int, output: int) -> ApiError:
    return ApiError(
        400,
        f"This model's maximum context length is {plan.longest} tokens. However, you requested {prompt + output} tokens "
        f"({prompt} in the messages, {output} in the completion). Please reduce the length of the messages or completion.",
        "messages",
    )


def _answer(plan: Plan, body: Generation, prompt: Prompt, most: int) -> tuple[list[str], str]:
    """The words, and why there are no more: the answer was done (stop), or it was cut (length)."""
    settings, variant = plan.settings, body.seed or 0
    length = settings.output_tokens
    drawn = body.rota_output_tokens or answer_length(settings.seed, prompt, variant, length.mean, length.sigma)
    wanted = most if body.ignore_eos else min(most, max(drawn, body.min_tokens))
    ending = "length" if body.ignore_eos or drawn > most else "stop"
    words = answer_words(settings.seed, prompt, variant, wanted)
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    stopped = cut_at_stop(words, stops)
    return (words, ending) if stopped is None else (stopped, "stop")
