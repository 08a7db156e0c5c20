"""A tool call where the client forces one: arguments that fit the tool's schema, the same every time."""

from typing import Any

import msgspec
import numpy as np

from rota.kernel.streams import stream_key, uniform
from rota.route.engine.errors import ApiError
from rota.route.engine.words import WORDS, pieces

DEPTH = 8  # of nested objects; deeper ones are empty


def forced_call(
    seed: int, tools: list[dict[str, Any]] | None, choice: str | dict[str, Any] | None
) -> tuple[dict[str, Any] | None, str]:
    """The call that `tool_choice` forces as (name and arguments, finish_reason); None where the answer is text.

    ``required`` takes the first tool and ends with "tool_calls"; a named one ends with "stop", as OpenAI has it. Raises ApiError.
    """
    if choice in (None, "none", "auto"):
        return None, ""
    functions: dict[str, dict[str, Any]] = {}
    for tool in tools or []:
        function = tool.get("function")
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            functions[function["name"]] = function
    if not functions:
        raise ApiError(400, "tool_choice: there are no tools to choose from", "tool_choice")
    if choice == "required":
        name, ending = next(iter(functions)), "tool_calls"
    else:
        named = choice.get("function") if isinstance(choice, dict) else None
        name, ending = str(named.get("name")) if isinstance(named, dict) else str(choice), "stop"
        if name not in functions:
            raise ApiError(400, f"tool_choice: '{name}' is not among the tools ({', '.join(functions)})", "tool_choice")
    arguments = example(functions[name].get("parameters") or {}, stream_key(seed, f"tool/{name}") >> 1, 0)
    return {"name": name, "arguments": arguments if isinstance(arguments, dict) else {}}, ending


def whole_call(call: dict[str, Any], most: int, ending: str) -> tuple[list[str], str]:
    """The tokens of a call's arguments, cut where there is no room for more."""
    tokens = pieces(msgspec.json.encode(call["arguments"]).decode())
    return (tokens, ending) if len(tokens) <= most else (tokens[:most], "length")


def example(schema: Any, key: int, depth: int) -> Any:
    """A value of a JSON schema: required properties only, the first of several possibilities."""
    if not isinstance(schema, dict) or depth > DEPTH:
        return None
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][int(_draw(key) * len(schema["enum"]))]
    kinds = schema.get("type")
    kind = str(kinds[0]) if isinstance(kinds, list) and kinds else kinds
    if kind == "object" or (kind is None and "properties" in schema):
        properties = schema.get("properties") or {}
        names = schema.get("required", list(properties))
        return {name: example(properties.get(name), key + 1 + at, depth + 1) for at, name in enumerate(names)}
    if kind == "null":
        return None
    simple: dict[Any, Any] = {"integer": int(_draw(key) * 100), "number": round(_draw(key) * 100, 2), "array": []}
    simple["boolean"] = _draw(key) < 0.5
    return simple.get(kind, WORDS[int(_draw(key) * len(WORDS))])


def _draw(key: int) -> float:
    return float(uniform(0, "tool arguments", np.int64(key % 2**62)))
