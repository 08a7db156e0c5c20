"""From what a scenario says (a name, a name with parameters, ``module:Class``) to a policy.

A name is looked up in the rooms that the caller gives, then among the installed third parties (entry-point group
`rota.policies`). A name with a colon is imported: from a file beside the scenario, else from what is installed. Nothing
else is ever executed. Workers call `find` again with the same words, so a policy need not travel between processes.
"""

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any, get_type_hints

from rota.kernel.config import decode
from rota.kernel.decisions import Allot, Order, Place, Plan, Policy
from rota.kernel.errors import InputError, RotaError, nearest

SHAPES: dict[str, type[Policy]] = {"order": Order, "place": Place, "allot": Allot, "plan": Plan}
ENTRY_POINTS = "rota.policies"

Room = Mapping[str, type[Any] | str]


def find(
    shape: str | type[Policy], spec: Any, rooms: Sequence[Room], folder: Path | None = None, where: str = ""
) -> Policy:
    """Build a policy from ``"name"`` or ``{"name": {parameter: value}}``; the name may be ``"module:Class"``.

    Args:
        shape: ``order``, ``place``, ``allot`` or ``plan``, or a world's own class of policies.
        spec: What the scenario says.
        rooms: Dictionaries of names, looked through in turn; values are classes or ``"module:Class"``.
        folder: Where the user's own modules lie: the folder of the scenario.
        where: What messages start with, such as ``"policies[2].order"``.

    Raises:
        InputError: unknown name or parameter (with the nearest ones), wrong type of a parameter, a class of another
        shape, a module that cannot be imported.
    """
    where = where or _called(shape)
    name, parameters = _split(spec, where)
    found = locate(shape, name, rooms, folder, where)
    return _build(found, parameters, f"{where}: {name}")


def locate(
    shape: str | type[Policy], name: str, rooms: Sequence[Room], folder: Path | None = None, where: str = ""
) -> type[Policy]:
    """The class that a name means, without building it. Arguments and errors as in `find`."""
    where = where or _called(shape)
    base = SHAPES[shape] if isinstance(shape, str) else shape
    target = next((room[name] for room in rooms if name in room), name if ":" in name else None)
    if target is None:
        target = _installed(name, rooms, _called(shape), where)
    if isinstance(target, str):
        target = _imported(target, folder if target == name else None, base, where)
    return _of_shape(target, base, f"{where}: {name}")


def _split(spec: Any, where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str) and spec:
        return spec, {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        [(name, parameters)] = spec.items()
        if isinstance(name, str) and (parameters is None or isinstance(parameters, Mapping)):
            return name, dict(parameters or {})
    raise InputError(f"{where}: expected a name or {{name: {{parameter: value}}}}, found {spec!r}")


def _called(shape: str | type[Policy]) -> str:
    return shape if isinstance(shape, str) else shape.__name__.lower()


def _of_shape(target: Any, base: type[Policy], where: str) -> type[Policy]:
    if isinstance(target, type) and issubclass(target, base):
        return target
    others = [other for other, each in SHAPES.items() if isinstance(target, type) and issubclass(target, each)]
    found = f"it has the shape {others[0]}" if others else f"found {target!r}"
    raise InputError(f"{where} must be a class that derives from {base.__name__}; {found}")


def _installed(name: str, rooms: Sequence[Room], shape: str, where: str) -> Any:
    points: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in points:
        with _blaming(where, f"entry point {name} ({points[name].value})", None):
            return points[name].load()
    known = {*points, *(each for room in rooms for each in room)}
    raise InputError(f"{where}: unknown {shape} '{name}'{nearest(name, known)}")


def _imported(target: str, folder: Path | None, base: type[Policy], where: str) -> Any:
    name, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in [*name.split("."), attribute]):
        raise InputError(f"{where}: expected module:Class, found '{target}'")
    file = folder / Path(*name.split(".")).with_suffix(".py") if folder is not None else None
    module = _from_file(name, file, where) if file is not None and file.is_file() else _from_path(name, folder, where)
    if hasattr(module, attribute):
        return getattr(module, attribute)
    own = [key for key, value in vars(module).items() if _defined_in(value, module) and issubclass(value, base)]
    raise InputError(f"{where}: module {name} has no {attribute}{nearest(attribute, own)}")


def _defined_in(value: Any, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


def _from_file(name: str, file: Path, where: str) -> ModuleType:
    """Run a file beside the scenario once: an edited file is a new module, and so is its namesake elsewhere."""
    with _blaming(where, file.name, file):
        source = file.read_bytes()
        digest = blake2b(source + str(file.resolve()).encode(), digest_size=8).hexdigest()
        unique = f"rota_scenario_{digest}_{name.replace('.', '_')}"
        if unique in sys.modules:
            return sys.modules[unique]
        module = ModuleType(unique)
        module.__file__ = str(file)
        sys.modules[unique] = module  # dataclasses and pickle look the module up by name
        try:
            with _beside(file.parent):
                exec(compile(source, str(file), "exec"), module.__dict__)
        except BaseException:
            del sys.modules[unique]
            raise
        return module


def _from_path(name: str, folder: Path | None, where: str) -> ModuleType:
    try:
        with _blaming(where, f"module {name}", None):
            return import_module(name)
    except InputError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and cause.name and f"{name}.".startswith(f"{cause.name}."):
            beside = [each.stem for each in folder.glob("*.py")] if folder is not None and folder.is_dir() else []
            place = f"no file {name.replace('.', '/')}.py in {folder} and " if folder is not None else ""
            raise InputError(f"{where}: {place}no installed module {name}{nearest(name, beside)}") from None
        raise


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """While a user's file is run, it can import its neighbours."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


@contextmanager
def _blaming(where: str, what: str, file: Path | None) -> Iterator[None]:
    """Turn whatever foreign code raises into one line with the line of its own file."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{where}: {what}{_line(error, file)}: {type(error).__name__}: {_first(str(error))}"
        ) from error


def _line(error: BaseException, file: Path | None) -> str:
    if isinstance(error, SyntaxError) and file is not None and error.filename == str(file):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if file and frame.filename == str(file)]
    return f", line {lines[-1]}" if lines else ""


def _first(text: str) -> str:
    return next(iter(text.splitlines()), "")


def _build(found: type[Policy], parameters: Mapping[str, Any], where: str) -> Policy:
    known = _parameters(found)
    for key in parameters:
        if key not in known:
            hint = nearest(str(key), known) or " (it has none)"
            raise InputError(f"{where}: unknown parameter '{key}'{hint}")
    for key, parameter in known.items():
        if key not in parameters and parameter.default is parameter.empty:
            raise InputError(f"{where}: parameter {key} is missing")
    hints = _hints(found)
    values = {key: _typed(hints.get(key), value, f"{where}: {key}") for key, value in parameters.items()}
    try:
        return found(**values)
    except RotaError as error:
        said = str(error).removeprefix(f"{where.rpartition(': ')[2]}: ")  # most say their own name
        raise InputError(f"{where}: {said}") from error
    except Exception as error:
        raise InputError(f"{where}: cannot be built: {type(error).__name__}: {_first(str(error))}") from error


def _parameters(found: type[Policy]) -> dict[str, inspect.Parameter]:
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    signature: Iterable[inspect.Parameter] = inspect.signature(found).parameters.values()
    return {parameter.name: parameter for parameter in signature if parameter.kind not in variable}


def _hints(found: type[Policy]) -> dict[str, Any]:
    try:
        return get_type_hints(found.__init__)
    except (NameError, TypeError):  # annotations that are not there at run time say nothing to check
        return {}


def _typed(annotation: Any, value: Any, where: str) -> Any:
    """A parameter as its annotation wants it; unchecked where the annotation is no plain type."""
    if annotation is None:
        return value
    try:
        return decode(annotation, value, where)
    except TypeError:
        return value
