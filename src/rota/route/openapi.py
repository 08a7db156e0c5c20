"""The router's own OpenAPI description, served at /openapi.json: what it reads of a request, and how it refuses one.

What an engine understands besides is the engine's business; bodies are passed on as they came, so unknown fields are welcome everywhere.
"""

from typing import Any

from rota.route.checks import NAME_MOST

_ERRORS = {
    "400": "the body, a header or the path cannot be read",
    "401": "no valid API key, where keys are configured",
    "404": "no backend has the model",
    "408": "the body did not come in time",
    "413": "the body is too large",
    "415": "the body's encoding is unknown",
    "429": "a limit of the tenant, or the waiting line is full; Retry-After says when to come again",
    "502": "the backend failed",
    "503": "no backend is up, or the router shuts down",
    "504": "the backend did not answer in time",
}
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {
                    "type": ["string", "integer", "null"],
                    "description": "an integer only where an engine says so",
                },
            },
        }
    },
}
_INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}
_NUMBER: dict[str, Any] = {"type": ["integer", "null"], **_INT64}
_READ: dict[str, Any] = {
    "model": {"type": ["string", "null"], "maxLength": NAME_MOST},
    "stream": {"type": ["boolean", "null"]},
    "priority": {**_NUMBER, "description": "smaller is more urgent; never more urgent than the tenant may be"},
}
_PROMPTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": {}, "tools": {}, "max_tokens": _NUMBER, "max_completion_tokens": _NUMBER},
    "/v1/completions": {"prompt": {}, "max_tokens": _NUMBER},
    "/v1/responses": {"input": {}, "instructions": {}, "tools": {}, "max_output_tokens": _NUMBER},
    "/v1/embeddings": {"input": {}},
}
_MILLISECONDS = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e12}
_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "x-slo-ttft-ms": ("limit of the first token", _MILLISECONDS),
    "x-slo-tpot-ms": ("limit of each further token", _MILLISECONDS),
    "x-slo-e2e-ms": ("limit of the whole answer", _MILLISECONDS),
    "x-session-id": ("conversation; kept as a salted number", {"type": "string", "maxLength": NAME_MOST}),
    "x-priority": ("smaller is more urgent", {"type": "integer", "minimum": -999_999_999, "maximum": 999_999_999}),
    "x-llm-d-inference-fairness-id": (
        "the tenant, where no keys are configured",
        {"type": "string", "maxLength": NAME_MOST, "pattern": "^[ -~]*$"},
    ),
}


def _refusal(text: str) -> dict[str, Any]:
    return {
        "description": text,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }


def _page(text: str, kind: str | None, **refusals: str) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": text, **({"content": {kind: {}}} if kind is not None else {})}}
    responses |= {status[1:]: _refusal(why) for status, why in refusals.items()}
    return {"get": {"summary": text, "responses": responses}}


def _served(path: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {**_READ, **_PROMPTS[path]}, "additionalProperties": True}
    answer = {
        "description": "the engine's answer, byte for byte",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
    return {
        "post": {
            "summary": "routed by model",
            "parameters": [
                {"name": name, "in": "header", "required": False, "description": text, "schema": kind}
                for name, (text, kind) in _HEADERS.items()
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "responses": {
                "200": answer,
                **{status: _refusal(text) for status, text in _ERRORS.items()},
                "default": {"description": "the engine's own error: its status, body and headers"},
            },
        }
    }


def description() -> dict[str, Any]:
    """OpenAPI 3.1."""
    who = {"_401": _ERRORS["401"]}
    model = _page("one model, where a backend that is up has it", "application/json", _404=_ERRORS["404"], **who)
    model["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rota route",
            "version": "1",
            "description": "An OpenAI-compatible router. Other paths under /v1/ are passed through to a backend that has the model they name.",
        },
        "paths": {
            **{path: _served(path) for path in _PROMPTS},
            "/v1/models": _page("all models of the backends that are up", "application/json", **who),
            "/v1/models/{model}": model,
            "/health": _page("the router lives", None),
            "/ready": _page("a backend is up", None, _503=_ERRORS["503"]),
            "/metrics": _page("figures in Prometheus' text format", "text/plain", _404="switched off"),
            "/": _page("the dashboard", "text/html", _404="switched off"),
            "/events": _page("what the dashboard shows, every second", "text/event-stream", _404="switched off"),
            "/openapi.json": _page("this description", "application/json"),
        },
        "components": {"schemas": {"Error": _ERROR}},
    }
