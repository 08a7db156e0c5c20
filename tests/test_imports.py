"""The house rule: imports point one way, and a command line that only prints its help loads nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "rota"

# Each room may import the rooms before it, and itself.
ROOMS = ("kernel", "rules", "worlds", "predict", "learn", "discover", "study", "report", "route", "cli")
SIDE = "testing"  # may use kernel, rules and worlds; only tests use it
HEAVY = ("numpy", "numba", "scipy", "polars", "plotly")


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_one_way(file: Path) -> None:
    parts = file.relative_to(SOURCE).parts
    room = parts[0]
    if room == "__init__.py":
        return
    for name in imported(file):
        if not name.startswith("rota."):
            continue
        other = name.split(".")[1]
        if room == SIDE:
            assert other in ("kernel", "rules", "worlds", SIDE), f"{file}: {SIDE} imports {name}"
        elif other in ROOMS:
            assert ROOMS.index(other) <= ROOMS.index(room), f"{file}: {room} imports {name}"
            if room == other == "worlds" and len(parts) > 2 and len(name.split(".")) > 2:
                assert name.split(".")[2] == parts[1], f"{file}: one world imports another, {name}"
        else:
            assert other != SIDE, f"{file}: only tests use {SIDE}, found {name}"
            assert other == "__version__", f"{file}: imports {name}"


@pytest.mark.parametrize("module", ["rota", "rota.cli.main"])
def test_the_front_door_is_light(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
