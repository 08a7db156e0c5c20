"""Strict conversion of what a person wrote (YAML, JSON, keyword arguments) into typed settings."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from rota.kernel.errors import InputError, nearest

T = TypeVar("T")

_FIELDS = inspect.StructType | inspect.DataclassType | inspect.TypedDictType  # the types that have named fields
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def decode(type: type[T], data: Any, where: str) -> T:
    """Convert plain data to `type` (a msgspec Struct, a dataclass or any annotation), strictly.

    Unknown keys are errors at every depth, also where the type itself would ignore them.

    Args:
        type: what to build.
        data: mappings, sequences, strings and numbers, as YAML or JSON gives them.
        where: what the message starts with, for example ``"scenario.yaml: workload"``.

    Raises:
        InputError: one line with the path, the rule, the value found and the nearest valid keys.
    """
    for path, key, known in _unknown_keys(inspect.type_info(type), data, ""):
        raise InputError(f"{_place(where, path)}: unknown key '{key}'{nearest(key, known)}")
    try:
        return msgspec.convert(data, type, strict=True)
    except msgspec.ValidationError as error:
        raise InputError(_explain(str(error), data, where)) from None


def _place(where: str, path: str) -> str:
    """Join the caller's prefix and a path inside the data: ``fleet`` and ``[0].tp`` give ``fleet[0].tp``."""
    if not where:
        return path.lstrip(".") or "settings"
    if not where.endswith(":"):
        return where + path
    return f"{where} {path.lstrip('.')}" if path else where.rstrip(":")


def _unknown_keys(info: inspect.Type, data: Any, path: str) -> Iterator[tuple[str, str, list[str]]]:
    """Walk type and data side by side; yield (path, key, valid keys) for each key that no field answers to."""
    if isinstance(info, inspect.UnionType):
        chosen = _member(info, data)
        if chosen is not None:
            yield from _unknown_keys(chosen, data, path)
    elif isinstance(info, _FIELDS):
        if isinstance(data, Mapping):
            yield from _unknown_fields(info, data, path)
    elif isinstance(info, inspect.DictType):
        if isinstance(data, Mapping):
            for key, value in data.items():
                yield from _unknown_keys(info.value_type, value, f"{path}.{key}")
    elif isinstance(info, inspect.ListType | inspect.VarTupleType) and isinstance(data, list | tuple):
        for index, value in enumerate(data):
            yield from _unknown_keys(info.item_type, value, f"{path}[{index}]")


def _unknown_fields(info: _FIELDS, data: Mapping[Any, Any], path: str) -> Iterator[tuple[str, str, list[str]]]:
    fields = {field.encode_name: field.type for field in info.fields}
    tag_field = getattr(info, "tag_field", None)
    known = [*fields, *([tag_field] if tag_field else [])]
    for key, value in data.items():
        if key in fields:
            yield from _unknown_keys(fields[key], value, f"{path}.{key}")
        elif key != tag_field:
            yield path, str(key), known


def _member(info: inspect.UnionType, data: Any) -> inspect.Type | None:
    """The member of a union that this data is meant for, where that can be told."""
    if isinstance(data, Mapping):
        for member in info.types:
            if isinstance(member, inspect.StructType) and member.tag_field is not None:
                if data.get(member.tag_field) == member.tag:
                    return member
            elif isinstance(member, _FIELDS | inspect.DictType):
                return member
    if isinstance(data, list | tuple):
        return next((each for each in info.types if isinstance(each, inspect.ListType | inspect.VarTupleType)), None)
    return None


def _explain(message: str, data: Any, where: str) -> str:
    """Turn msgspec's message into ours: where, rule, found."""
    text, _, path = message.partition(" - at `$")
    path = path.rstrip("`")
    text = text.replace("`", "'").replace("Object missing required field", "missing the key").replace("null", "none")
    text = text[:1].lower() + text[1:]
    known, value = _value_at(data, path)
    if known and text.startswith("expected") and not isinstance(value, Mapping | list):
        text = text.partition(", got")[0] + f", found {value!r}"
    return f"{_place(where, path)}: {text}"


def _value_at(data: Any, path: str) -> tuple[bool, Any]:
    """The value that a msgspec path points to; (False, None) where the path is not exact (``[...]``)."""
    if _STEP.sub("", path):
        return False, None
    for name, index in _STEP.findall(path):
        try:
            data = data[name] if name else data[int(index)]
        except (KeyError, IndexError, TypeError):
            return False, None
    return True, data
