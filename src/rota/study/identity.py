"""What makes two studies the same: the resolved scenario, the content of every file that it names, and the code that runs it."""

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import rota

SIZE = 16  # bytes of a digest
CODE = (".py", ".toml", ".json")  # of the package: code, and the tables of catalogues and generators


def digest(data: bytes) -> str:
    """A short hash of some bytes, in hexadecimal."""
    return blake2b(data, digest_size=SIZE).hexdigest()


def files(document: Any, folder: Path) -> dict[str, str]:
    """Hashes of the files that a scenario names: traces, tables (a folder, a file, or a prefix of files), users' policies.

    A text of the scenario counts as a file where one lies there, relative to ``folder``; ``module:Class`` as ``module.py``.
    """
    found: dict[str, str] = {}
    for text in sorted(set(_texts(document))):
        for file in _meant(text, folder):
            name = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)
            if name not in found:
                found[name] = _hash(file)
    return dict(sorted(found.items()))


def identity(document: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    """The hash of a study's input: equal for equal input, whatever it is run on and by whichever code."""
    return digest(json.dumps([document, hashes], sort_keys=True, default=str).encode())


def source(package: Path = Path(rota.__file__).parent) -> str:
    """The hash of rota's own code and tables as they are installed: what may change results without the scenario or the version being another."""
    state = blake2b(digest_size=SIZE)
    for file in sorted(each for each in package.rglob("*") if each.suffix in CODE):
        content = file.read_bytes()
        state.update(f"{file.relative_to(package).as_posix()} {len(content)}\n".encode())
        state.update(content)
    return state.hexdigest()


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _texts(key)
            yield from _texts(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _texts(value)


def _meant(text: str, folder: Path) -> Iterator[Path]:
    if not text or "\0" in text or len(text) > 4096:
        return
    module, colon, _ = text.partition(":")
    place = folder / Path(*module.split(".")).with_suffix(".py") if colon and module.strip(".") else folder / text
    try:
        place = (place if colon else folder / Path(text).expanduser()).resolve()
        if place.is_file():
            yield place
        elif place.is_dir() and place != folder and "/" not in {text, str(place)}:
            yield from sorted(each for each in place.rglob("*") if each.is_file())
        elif "/" in text and place.parent.is_dir():
            yield from sorted(
                each for each in place.parent.iterdir() if each.name.startswith(place.name) and each.is_file()
            )
    except (OSError, RuntimeError, ValueError):
        return


def _hash(file: Path) -> str:
    state = blake2b(digest_size=SIZE)
    try:
        with file.open("rb") as stream:
            while piece := stream.read(1 << 20):
                state.update(piece)
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return state.hexdigest()
