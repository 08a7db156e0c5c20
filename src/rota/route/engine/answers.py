"""What clients read: answers whole and as server-sent events, in the shapes of OpenAI's interface as vLLM gives them."""

import time
from base64 import b64encode
from typing import Any, Protocol

import msgspec
import numpy as np

from rota.kernel.streams import normal
from rota.route.engine.requests import Job
from rota.route.engine.sequence import Sequence
from rota.route.engine.words import Prompt

encode = msgspec.json.encode
DONE = b"data: [DONE]\n\n"


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + encode(data) + b"\n\n"


def usage_of(prompt: int, completion: int, cached: int | None) -> dict[str, Any]:
    """Token counts. `cached`: of the prompt, found in the prefix cache; None where there is none."""
    details = None if cached is None else {"cached_tokens": cached}
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": details,
    }


class Form(Protocol):
    """How one endpoint says an answer."""

    def opening(self) -> bytes:
        """Events before the first token, sent with it."""

    def piece(self, token: str, last: bool) -> bytes:
        """The event of a token."""

    def closing(self, usage: dict[str, Any]) -> bytes:
        """Events after the last token."""

    def whole(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The answer at once."""


class _Chunks:
    """A stream whose events are alike but for the token: all but that is encoded once."""

    def __init__(self, identity: str, kind: str, model: str, job: Job) -> None:
        self.job = job
        self.base = {"id": identity, "object": kind, "created": int(time.time()), "model": model}

    def split(self, choice: dict[str, Any]) -> tuple[bytes, bytes]:
        """What stands before and after the token (written as a mark) in an event."""
        before, _, after = event({**self.base, "choices": [choice]}).partition(b'"\\u0000"')
        return before, after

    def closing(self, usage: dict[str, Any]) -> bytes:
        """The usage, where it was asked for, and the end."""
        if not self.job.include_usage:
            return DONE
        return event({**self.base, "choices": [], "usage": usage}) + DONE


MARK = "\x00"


class ChatForm(_Chunks):
    """/v1/chat/completions"""

    def __init__(self, number: str, model: str, job: Job) -> None:
        super().__init__(f"chatcmpl-{number}", "chat.completion.chunk", model, job)
        self.call_id = f"call_{number}"
        self.middle = self.split(self._choice(self._delta(MARK), None))
        self.end = self.split(self._choice(self._delta(MARK), job.ending))

    def _delta(self, token: str) -> dict[str, Any]:
        if self.job.call is None:
            return {"content": token}
        return {"tool_calls": [{"index": 0, "function": {"arguments": token}}]}

    def _choice(self, delta: dict[str, Any], ending: str | None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": ending}

    def opening(self) -> bytes:
        delta: dict[str, Any] = {"role": "assistant", "content": ""}
        if self.job.call is not None:
            function = {"name": self.job.call["name"], "arguments": ""}
            tool = {"index": 0, "id": self.call_id, "type": "function", "function": function}
            delta = {"role": "assistant", "content": None, "tool_calls": [tool]}
        return event({**self.base, "choices": [self._choice(delta, None)]})

    def piece(self, token: str, last: bool) -> bytes:
        before, after = self.end if last else self.middle
        return before + encode(token) + after

    def whole(self, usage: dict[str, Any]) -> dict[str, Any]:
        text = "".join(self.job.tokens)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self.job.call is not None:
            function = {"name": self.job.call["name"], "arguments": text}
            tool = {"id": self.call_id, "type": "function", "function": function}
            message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [tool]}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.job.ending}
        return {**self.base, "object": "chat.completion", "choices": [choice], "usage": usage}


class CompletionForm(_Chunks):
    """/v1/completions, of one prompt or several"""

    def __init__(self, number: str, model: str, jobs: list[Job]) -> None:
        super().__init__(f"cmpl-{number}", "text_completion", model, jobs[0])
        self.jobs = jobs
        self.middle = self.split(self._choice(0, MARK, None))
        self.end = self.split(self._choice(0, MARK, self.job.ending))

    def _choice(self, index: int, text: str, ending: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": ending}

    def opening(self) -> bytes:
        return b""

    def piece(self, token: str, last: bool) -> bytes:
        before, after = self.end if last else self.middle
        return before + encode(token) + after

    def whole(self, usage: dict[str, Any]) -> dict[str, Any]:
        choices = [self._choice(index, "".join(job.tokens), job.ending) for index, job in enumerate(self.jobs)]
        return {**self.base, "choices": choices, "usage": usage}


class ResponseForm:
    """/v1/responses: one message of text, with the events that name each of its stages"""

    def __init__(self, number: str, model: str, job: Job) -> None:
        self.job, self.model, self.created = job, model, int(time.time())
        self.identity, self.item_id, self.sequence = f"resp_{number}", f"msg_{number}", 0
        self.place = {"item_id": self.item_id, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **data: Any) -> bytes:
        self.sequence += 1
        return event({"type": kind, "sequence_number": self.sequence - 1, **data}, kind)

    def _item(self, status: str, text: str | None) -> dict[str, Any]:
        content = [] if text is None else [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
        return {"id": self.item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _response(self, status: str, output: list[Any], usage: dict[str, Any] | None) -> dict[str, Any]:
        cut = status == "incomplete"
        return {
            "id": self.identity,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.model,
            "output": output,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": None if usage is None else _responses_usage(usage),
        }

    def opening(self) -> bytes:
        waiting = self._response("in_progress", [], None)
        return (
            self._event("response.created", response=waiting)
            + self._event("response.in_progress", response=waiting)
            + self._event("response.output_item.added", output_index=0, item=self._item("in_progress", None))
            + self._event("response.content_part.added", part=_part(""), **self.place)
        )

    def piece(self, token: str, last: bool) -> bytes:
        return self._event("response.output_text.delta", delta=token, logprobs=[], **self.place)

    def closing(self, usage: dict[str, Any]) -> bytes:
        text, done = "".join(self.job.tokens), self.whole(usage)
        kind = "response.incomplete" if done["status"] == "incomplete" else "response.completed"
        return (
            self._event("response.output_text.done", text=text, logprobs=[], **self.place)
            + self._event("response.content_part.done", part=_part(text), **self.place)
            + self._event("response.output_item.done", output_index=0, item=done["output"][0])
            + self._event(kind, response=done)
        )

    def whole(self, usage: dict[str, Any]) -> dict[str, Any]:
        status = "incomplete" if self.job.ending == "length" else "completed"
        return self._response(status, [self._item(status, "".join(self.job.tokens))], usage)


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _responses_usage(usage: dict[str, Any]) -> dict[str, Any]:
    cached = (usage["prompt_tokens_details"] or {}).get("cached_tokens", 0)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }


def embeddings(seed: int, model: str, prompts: list[Prompt], width: int, base64: bool) -> dict[str, Any]:
    """Vectors of length 1, the same for the same seed and prompt; they have no meaning."""
    data: list[dict[str, Any]] = []
    for index, prompt in enumerate(prompts):
        vector = normal(seed, "embedding", prompt.digest, np.arange(width))
        vector = (vector / np.linalg.norm(vector)).astype("<f4")
        shown: Any = b64encode(vector.tobytes()).decode() if base64 else vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": shown})
    tokens = sum(map(len, prompts))
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def state(seq: Sequence) -> dict[str, Any]:
    """A request as `/rota/state` shows it."""
    names = ("number", "arrival", "prompt", "output", "computed", "generated", "preemptions")
    return {name: getattr(seq, name) for name in names}
