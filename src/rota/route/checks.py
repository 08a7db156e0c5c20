"""What a value of the configuration must be, whatever key it is under. All raise InputError with one line."""

from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rota.kernel.errors import InputError

NAME_MOST = 256  # characters of a model, session, tenant or backend


def finite(value: Any, where: str) -> None:
    """No number may be endless: `.inf` is YAML, and no time that a clock can wait. Raises InputError."""
    if isinstance(value, dict):
        for key, inner in value.items():
            finite(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            finite(inner, f"{where}[{number}]")
    elif isinstance(value, float) and not isfinite(value):
        raise InputError(f"{where}: must be a finite number, found {value}; leave the key out for no limit")


def name(text: str, where: str) -> None:
    """A name that can stand in logs and labels. Raises InputError."""
    if len(text) > NAME_MOST or not text.isprintable():
        raise InputError(f"{where}: must be printable, at most {NAME_MOST} characters, found {text[:40]!r}")


def path_of(text: str | None, where: str) -> None:
    """A path that can stand in a request line. Raises InputError."""
    if text is not None and not (text.startswith("/") and text.isascii() and text.isprintable() and " " not in text):
        raise InputError(f"{where}: must be a path such as /health, found {text[:40]!r}")


def host_port(url: str, where: str) -> str:
    """The host and port of a backend's url. Raises InputError."""
    try:
        if not url.isprintable() or " " in url:
            raise ValueError
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")
        parts.path.encode("ascii")
    except ValueError:
        raise InputError(f"{where}: {url!r} is not a url") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InputError(f"{where}: expected http://host:port or https://host, found '{url}'")
    if parts.username or parts.password:
        raise InputError(f"{where}: must hold no user and password; give api_key")
    return f"{parts.hostname}:{port or (443 if parts.scheme == 'https' else 80)}"


def secret(path: Path, where: str) -> str:
    """The one line of a key file. Raises InputError, which never shows the content."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "not ASCII text"
        raise InputError(f"{where}: {path} cannot be read ({said})") from None
    if not text or not text.isprintable():
        raise InputError(f"{where}: {path} must hold one key in one line")
    return text
