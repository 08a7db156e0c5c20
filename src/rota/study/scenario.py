"""A scenario: one YAML file, read strictly, with overrides from the command line."""

import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rota.kernel.errors import InputError, nearest
from rota.kernel.world import World
from rota.study.identity import files, identity
from rota.worlds import WORLDS, world

COMMON = ("world", "name", "policies", "objective", "seeds")


class _Loader(yaml.SafeLoader):
    """YAML as people write it: no key twice, 1e6 is a number (YAML 1.1 wants 1.0e+6), 12:30 and dates are text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise InputError(f"line {line}: a key must be text or a number")
            if key in seen:
                raise InputError(f"line {line}: the key '{key}' is already on line {seen[key]}; keep one of them")
            seen[key] = line
        return super().construct_mapping(node, deep)


_OLD = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))  # 010 is 8 there, and 1:30 is 90
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OLD]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_OLD[0], re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _OLD[1],
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class Scenario:
    """A scenario that has been checked as far as it can be without running it."""

    world_name: str
    name: str
    sections: Mapping[str, Any]  # the world's own keys, as written
    policies: tuple[Mapping[str, Any], ...]
    objective: str
    seeds: tuple[int, ...]
    folder: Path  # what relative paths are relative to
    world: World = field(repr=False, compare=False)
    case: Any = field(repr=False, compare=False)

    def resolved(self) -> dict[str, Any]:
        """Everything that decides the result, as plain data that `parse` reads again."""
        return {
            "world": self.world_name,
            "name": self.name,
            **self.sections,
            "policies": [dict(policy) for policy in self.policies],
            "objective": self.objective,
            "seeds": list(self.seeds),
        }

    def digest(self) -> str:
        """The hash of the resolved scenario and of the content of every file that it names."""
        return identity(self.resolved(), self.files())

    def files(self) -> dict[str, str]:
        """Hashes of the files that the scenario names: traces, tables, users' policies."""
        return files(self.resolved(), self.folder.resolve())


def read_document(path: Path, what: str = "scenario") -> dict[str, Any]:
    """Read a YAML mapping as people write it: no key twice, 1e6 is a number. Raises InputError with file, line and rule."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not a text file; a {what} is YAML") from None
    except FileNotFoundError:
        near = [each.name for each in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise InputError(f"{path}: no such file{nearest(path.name, near)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        document = yaml.load(text, _Loader)
    except InputError as error:
        raise InputError(f"{path.name}, {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path.name}{_where(error)}: is not YAML: {_problem(error)}") from None
    except RecursionError:
        raise InputError(f"{path.name}: is not YAML that can be read: nested too deeply") from None
    if not isinstance(document, dict):
        raise InputError(f"{path.name}: a {what} is a mapping of keys, found {type(document).__name__}")
    return document


def read(path: Path, overrides: Iterable[str] = (), seeds: int | None = None) -> Scenario:
    """Read a scenario file.

    Args:
        path: The YAML file.
        overrides: ``a.b=c`` each: a dotted path (list items by number) and a YAML value.
        seeds: How many seeds, instead of what the file says.

    Raises:
        InputError: one line: file, line or key, rule, what was found, the nearest valid name.
    """
    document = read_document(path)
    for override in overrides:
        _set(document, override)
    if seeds is not None:
        document["seeds"] = seeds
    document.setdefault("name", path.stem)
    try:
        return parse(document, path.parent)
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None


def parse(document: Mapping[str, Any], folder: Path) -> Scenario:
    """Check a scenario given as plain data. Raises InputError."""
    if "world" not in document:
        raise InputError(f"world: missing; give one of {', '.join(WORLDS)}")
    if not isinstance(document["world"], str):
        raise InputError(f"world: expected a name, found {document['world']!r}")
    found = world(document["world"])
    for key in document:
        if key not in (*COMMON, *found.sections):
            raise InputError(f"unknown key '{key}'{nearest(str(key), (*COMMON, *found.sections))}")
    sections = {key: document[key] for key in found.sections if key in document}
    case = found.load(sections, folder)
    objective = document.get("objective", found.objective)
    if not isinstance(objective, str) or objective not in found.measures:
        raise InputError(f"objective: '{objective}' is not a metric{nearest(str(objective), found.measures)}")
    check_objective = getattr(found, "check_objective", None)  # a world's own: what an objective needs of a scenario
    if check_objective is not None:
        check_objective(case, objective)
    return Scenario(
        world_name=str(document["world"]),
        name=str(document.get("name", "study")),
        sections=sections,
        policies=_policies(document.get("policies"), found),
        objective=objective,
        seeds=_seeds(document.get("seeds", 1)),
        folder=folder,
        world=found,
        case=case,
    )


def _policies(given: Any, found: World) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(given, list) or not given:
        raise InputError("policies: give a list of at least one, such as - {name: mine, order: fcfs}")
    names: list[str] = []
    policies = []
    for number, policy in enumerate(given):
        if not isinstance(policy, Mapping):
            raise InputError(
                f"policies[{number}]: expected a mapping such as {{name: mine, order: fcfs}}, found {policy!r}"
            )
        for key in policy:
            if key not in ("name", *found.roles):
                raise InputError(f"policies[{number}]: unknown key '{key}'{nearest(str(key), ('name', *found.roles))}")
        name = str(policy.get("name", "")).strip() if policy.get("name") is not None else ""
        if not name:
            raise InputError(f"policies[{number}]: has no name; give each policy one, such as name: mine")
        if name in names:
            raise InputError(f"policies[{number}]: the name '{name}' is taken by policies[{names.index(name)}]")
        names.append(name)
        policies.append({**policy, "name": name})
    return tuple(policies)


def _seeds(given: Any) -> tuple[int, ...]:
    if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
        return tuple(range(given))
    if isinstance(given, list) and given and all(type(seed) is int and seed >= 0 for seed in given):
        if len(set(given)) < len(given):
            raise InputError(f"seeds: each seed may appear once, found {given}")
        return tuple(given)
    raise InputError(f"seeds: expected a number of seeds (at least 1) or a list of different numbers, found {given!r}")


def _set(document: dict[str, Any], override: str) -> None:
    """Apply one ``a.b=c``."""
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise InputError(f"--set {override}: expected key=value, such as fleet.0.count=8")
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, InputError):
        raise InputError(f"--set {override}: '{text}' is not a YAML value") from None
    *parents, last = path.split(".")
    place: Any = document
    for number, key in enumerate(parents):
        so_far = ".".join(parents[: number + 1])
        if isinstance(place, dict):
            inside = _key(place, key)
            if place.get(inside) is None:  # absent, or a key with nothing behind it
                place[inside] = {}
            place = place[inside]
        else:
            place = place[_index(place, key, override, so_far)]
        if isinstance(place, str) and number + 1 < len(path.split(".")):
            raise InputError(f"--set {override}: {so_far} is '{place}' and has no keys inside")
    if isinstance(place, dict):
        place[_key(place, last)] = value
    elif isinstance(place, list):
        place[_index(place, last, override, path)] = value
    else:
        raise InputError(f"--set {override}: {'.'.join(parents)} is {place!r} and has no keys inside")


def _key(place: Mapping[Any, Any], key: str) -> Any:
    """The key as the mapping has it: a number may be one."""
    return next((each for each in place if str(each) == key), key)


def _index(place: Any, key: str, override: str, so_far: str) -> int:
    if not isinstance(place, list):
        raise InputError(f"--set {override}: nothing is inside {so_far.rpartition('.')[0]}")
    if not (key.isascii() and key.isdigit()) or int(key) >= len(place):
        raise InputError(f"--set {override}: {so_far} does not exist (items are 0..{len(place) - 1})")
    return int(key)


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark is not None else ""


def _problem(error: Exception) -> str:
    return str(getattr(error, "problem", None) or str(error).splitlines()[0])
