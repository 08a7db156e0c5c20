"""How long an iteration takes: one interface, several sources.

`build` turns the scenario's ``timing`` into a `Timing`:

==================================================  ===============================================================
``roofline`` (default)                              from the data sheets, see `roofline`
``{roofline: {...}}``                               the same with other efficiency factors, `overlap`, `experts`
``{tables: PATH, format: vidur}``                   Vidur predictor tables or raw profiles, see `vidur`
``{tables: PATH, format: llmservingsim}``           layer profiles of LLMServingSim 2, see `llmservingsim`
``{tables: PATH, format: aiconfigurator}``          operator tables of AIConfigurator, see `aiconfigurator`
``{tables: PATH, format: splitwise}``               splitwise-sim's ``perf_model.csv``, see `splitwise`
``{linear: {constant: ..., prefill_tokens: ...}}``  coefficients, see `linear` and `fit`
==================================================  ===============================================================

A format's own options stand beside ``tables`` and ``format``. Only the module that is needed is imported, so only it
is compiled.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from rota.kernel.errors import InputError, nearest
from rota.worlds.serving.catalogue import Gpu, Model, check_parallel
from rota.worlds.serving.timing.model import Timing

__all__ = ["Timing", "build"]

# Options of each table format: name -> type. A tuple means any of them.
_NUMBER = (int, float)
FORMATS: dict[str, dict[str, Any]] = {
    "vidur": {"attention": str, "all_reduce": str},
    "llmservingsim": {
        "overhead_seconds": _NUMBER,
        "graph_tokens": int,
        "expert_parallel": int,
        "skew": bool,
        "link_bandwidth": _NUMBER,
        "link_latency": _NUMBER,
    },
    "aiconfigurator": {"overhead_seconds": _NUMBER},
    "splitwise": {"mixed_factor": _NUMBER, "as_splitwise_sim": bool, "rows": Mapping},
}
KINDS = ("roofline", "tables", "linear")


def build(spec: str | Mapping[str, Any], model: Model, gpu: Gpu, tp: int, folder: Path) -> Timing:
    """The timing model of a replica.

    Args:
        spec: the scenario's ``timing``.
        model: what is served.
        gpu: on what.
        tp: tensor-parallel degree.
        folder: what relative paths are relative to.

    Raises:
        InputError: unknown kind, key or format (nearest names), bad value, missing or damaged table.
    """
    check_parallel(model, tp)
    if isinstance(spec, str):
        spec = {spec: {}} if spec == "roofline" else _unknown_kind(spec)
    if not isinstance(spec, Mapping):
        raise InputError(f"timing: must be a name or a mapping, found {spec!r}")
    kinds = [kind for kind in KINDS if kind in spec]
    if len(kinds) != 1:
        _unknown_kind(next(iter(map(str, spec)), "")) if not kinds else None
        raise InputError(f"timing: give one of {', '.join(KINDS)}, found {' and '.join(kinds)}")
    if kinds[0] == "tables":
        return _tables(spec, model, gpu, tp, folder)
    _check_keys(f"timing.{kinds[0]}", [key for key in spec if key != kinds[0]], ())
    options = spec[kinds[0]] or {}
    if not isinstance(options, Mapping):
        raise InputError(f"timing.{kinds[0]}: must be a mapping, found {options!r}")
    module = import_module(f"{__name__}.{kinds[0]}")
    timing: Timing = module.build(options) if kinds[0] == "linear" else module.build(model, gpu, tp, options, folder)
    return timing


def _tables(spec: Mapping[str, Any], model: Model, gpu: Gpu, tp: int, folder: Path) -> Timing:
    if not isinstance(spec["tables"], str | Path) or not str(spec["tables"]):
        raise InputError(f"timing.tables: must be a folder or a prefix of files, found {spec['tables']!r}")
    path = folder / Path(spec["tables"]).expanduser()
    name = spec.get("format") or guess_format(path)
    if name not in FORMATS:
        raise InputError(f"timing.format: unknown format '{name}'{nearest(str(name), FORMATS)}")
    options = {key: value for key, value in spec.items() if key not in ("tables", "format")}
    known = FORMATS[name]
    _check_keys("timing", options, ("tables", "format", *known))
    for key, value in options.items():
        if not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is not bool):
            wanted = {str: "text", bool: "true or false", Mapping: "a mapping"}.get(known[key], "a number")
            raise InputError(f"timing.{key}: must be {wanted}, found {value!r}")
        if known[key] is _NUMBER and not 0 <= value < float("inf"):
            raise InputError(f"timing.{key}: must be a finite number >= 0, found {value!r}")
    timing: Timing = import_module(f"{__name__}.{name}").build(path, model, gpu, tp, options)
    return timing


def guess_format(path: Path) -> str:
    """The format of tables from the names of the files.

    Raises:
        InputError: when nothing is there, or it could be several formats.
    """
    inside = [each.name for each in path.iterdir()] if path.is_dir() else []
    beside = [each.name for each in path.parent.glob(f"{path.name}*")] if path.parent.is_dir() else []
    names = inside or beside
    signs = {
        "llmservingsim": any(name.startswith(("tp", "per_sequence")) for name in inside),
        "splitwise": any("perf_model" in name for name in names),
        "aiconfigurator": any("_gemm_perf" in name or "gemm_perf" in name for name in names),
        "vidur": any("_per_token_ops" in name or "_mlp." in name for name in names),
    }
    fitting = [name for name, sign in signs.items() if sign]
    if len(fitting) == 1:
        return fitting[0]
    if not names:
        raise InputError(f"timing.tables: {path}: no such folder, and no files that start with it")
    found = " or ".join(fitting) if fitting else "none of the known formats"
    raise InputError(f"timing.tables: {path} looks like {found}; add format: one of {', '.join(FORMATS)}")


def _check_keys(where: str, keys: Any, known: tuple[str, ...]) -> None:
    for key in keys:
        if key not in known:
            raise InputError(
                f"{where}: unknown key '{key}'"
                + (nearest(str(key), known) if known else "; it takes nothing beside it")
            )


def _unknown_kind(name: str) -> Any:
    raise InputError(f"timing: unknown kind '{name}'{nearest(name, KINDS)}")
