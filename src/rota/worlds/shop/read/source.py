"""The text of an instance file with its line numbers, and how its errors are told."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from rota.kernel.errors import InputError


@dataclass(frozen=True)
class Source:
    """A file that is being read."""

    name: str  # as the user wrote it, for messages
    text: str

    @classmethod
    def open(cls, path: Path) -> "Source":
        """The text of a file, also gzipped. Raises InputError."""
        try:
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
        except FileNotFoundError:
            raise InputError(f"{path}: the file does not exist") from None
        except (OSError, EOFError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from None
        except UnicodeDecodeError:
            raise InputError(f"{path}: is not a text file") from None
        if not text.strip():
            raise InputError(f"{path}: the file is empty")
        made = cls(str(path), text)
        if not made.rows and not text.lstrip().startswith(("{", "[")):
            raise InputError(f"{path}: the file has nothing but comments")
        return made

    @property
    def stem(self) -> str:
        """The file's name without folder and endings: the name of the instance."""
        return Path(self.name).name.split(".")[0]

    @cached_property
    def rows(self) -> list[tuple[int, list[str]]]:
        """(line number, words) of every line that is neither empty nor a comment (#)."""
        found = []
        for number, line in enumerate(self.text.splitlines(), 1):
            words = line.split("#")[0].split()
            if words:
                found.append((number, words))
        return found

    @property
    def last_line(self) -> int:
        """The number of the last line with content."""
        return self.rows[-1][0] if self.rows else 1

    def fail(self, line: int | None, message: str) -> NoReturn:
        """Raise the error of a line."""
        raise InputError(f"{self.name}{'' if line is None else f', line {line}'}: {message}")

    def integer(self, word: str, line: int, what: str) -> int:
        """A word as an integer."""
        try:
            return int(word)
        except ValueError:
            self.fail(line, f"{what} must be an integer, found '{word}'")

    def integers(self, row: tuple[int, list[str]], what: str) -> list[int]:
        """All words of a row as integers."""
        return [self.integer(word, row[0], what) for word in row[1]]

    def words(self) -> Iterator[tuple[int, str]]:
        """(line number, word) one after the other: for formats where line ends mean nothing."""
        for number, words in self.rows:
            for word in words:
                yield number, word
