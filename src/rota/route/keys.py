"""API keys, kept as salted hashes: nobody who reads the configuration can use it to ask.

A key is long and random, so one round of SHA-256 with a salt is enough to store it; ``scrypt`` (RFC 7914, n = 2^14, r = 8, p = 1, 16 MiB) is for keys
that people chose. A key that was right is remembered by a keyed digest in memory, so that scrypt is paid once.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict
from typing import Any

from rota.kernel.errors import InputError, nearest

KINDS = ("sha256", "scrypt")
REMEMBERED = 4096  # keys in memory, right and wrong ones apart
LONGEST = 512  # bytes of a key: nobody may make us hash megabytes


def hash_key(key: str, kind: str = "sha256") -> str:
    """``kind$salt$digest`` in hexadecimal, with a fresh salt. Raises InputError for an unknown kind or an empty key."""
    if kind not in KINDS:
        raise InputError(f"hash: unknown kind '{kind}'{nearest(kind, KINDS)}")
    if not key or len(key.encode()) > LONGEST:
        raise InputError(f"key: must have 1 to {LONGEST} bytes, found {len(key.encode())}")
    salt = secrets.token_bytes(16)
    return f"{kind}${salt.hex()}${_digest(kind, salt, key.encode()).hex()}"


def check_hash(text: str, where: str) -> None:
    """Raises InputError where a text is not what `hash_key` gives; the text itself is not shown."""
    kind, _, rest = text.partition("$")
    salt, _, digest = rest.partition("$")
    if kind not in KINDS:
        raise InputError(f"{where}: is not a hash; run rota route --hash-key and paste what it prints")
    try:
        if len(bytes.fromhex(salt)) >= 8 and len(bytes.fromhex(digest)) == 32:
            return
    except ValueError:
        pass
    raise InputError(f"{where}: is a damaged {kind} hash; run rota route --hash-key again")


def _digest(kind: str, salt: bytes, key: bytes) -> bytes:
    if kind == "sha256":
        return hashlib.sha256(salt + key).digest()
    return hashlib.scrypt(key, salt=salt, n=2**14, r=8, p=1, dklen=32)


class Keys:
    """Whose key is this? Asked for every request."""

    def __init__(self, hashes: list[tuple[str, str]]) -> None:
        """`hashes`: (hash, owner) pairs, checked before."""
        self._known: list[tuple[str, bytes, bytes, str]] = []
        for text, owner in hashes:
            kind, salt, digest = text.split("$")
            self._known.append((kind, bytes.fromhex(salt), bytes.fromhex(digest), owner))
        self._slow = any(kind == "scrypt" for kind, *_ in self._known)
        self._pepper = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, str] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._one = asyncio.Lock()

    async def owner(self, key: str) -> str | None:
        """The owner of a key, None where nobody has it. One scrypt at a time, away from the event loop."""
        raw = key.encode("utf-8", "surrogateescape")
        if not raw or len(raw) > LONGEST:
            return None
        mark = hmac.digest(self._pepper, raw, "sha256")
        if mark in self._right:
            self._right.move_to_end(mark)
            return self._right[mark]
        if mark in self._wrong:
            return None
        if self._slow:
            async with self._one:
                found = await asyncio.to_thread(self._look, raw)
        else:
            found = self._look(raw)
        if found is None:
            _remember(self._wrong, mark, None)
        else:
            _remember(self._right, mark, found)
        return found

    def _look(self, raw: bytes) -> str | None:
        for kind, salt, digest, owner in self._known:
            if hmac.compare_digest(_digest(kind, salt, raw), digest):
                return owner
        return None


def _remember(cache: "OrderedDict[bytes, Any]", mark: bytes, value: Any) -> None:
    cache[mark] = value
    if len(cache) > REMEMBERED:
        cache.popitem(last=False)
