"""What of a message's head is passed on: end-to-end headers, nothing between neighbours, nothing internal (RFC 9110, section 7.6.1)."""

from collections.abc import Iterable

from rota.route.problems import Problem

HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-authentication-info proxy-connection te trailer"
    b" transfer-encoding upgrade".split()
)
# Ours to write, meant for us, or a claim about the way here that an engine must not believe.
_OURS = frozenset(
    b"host content-length content-encoding expect accept-encoding cookie forwarded via x-real-ip x-original-url x-rewrite-url"
    b" x-gateway-destination-endpoint x-gateway-destination-endpoint-subset x-slo-ttft-ms x-slo-tpot-ms x-slo-e2e-ms x-priority"
    b" x-session-token x-http-method-override".split()
)
_NOT_SENT = HOP | _OURS
_NOT_BACK = frozenset(name.decode() for name in HOP)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def request_head(
    method: str,
    target: str,
    authority: bytes,
    raw: Iterable[tuple[bytes, bytes]],
    key: str | None,
    keep_key: bool,
    size: int,
) -> bytes:
    """The head of the request to a backend.

    Args:
        raw: The client's headers.
        key: The backend's API key, sent instead of the client's.
        keep_key: Whether the client's own key is meant for the backend: only where the router itself wants none.
        size: Bytes of the body.
    """
    named: set[bytes] = set()
    for name, value in raw:
        if name.lower() == b"connection":
            named.update(option.strip().lower() for option in value.split(b","))
    parts = [f"{method} {target} HTTP/1.1\r\nHost: ".encode("ascii"), authority, b"\r\nAccept-Encoding: identity\r\n"]
    for name, value in raw:
        lower = name.lower()
        if lower in _NOT_SENT or lower in named or lower.startswith(b"x-forwarded-"):
            continue
        if lower == b"authorization" and (key is not None or not keep_key):
            continue
        parts += (name, b": ", value, b"\r\n")
    if key is not None:
        parts.append(f"Authorization: Bearer {key}\r\n".encode("ascii"))
    if size or method in ("POST", "PUT", "PATCH"):
        parts.append(b"Content-Length: %d\r\n" % size)
    parts.append(b"\r\n")
    return b"".join(parts)


def response_headers(headers: Iterable[tuple[str, str]], framed: bool) -> list[tuple[str, str]]:
    """The headers of an answer to its client. `framed`: our own server writes the length."""
    named: set[str] = set()
    for name, value in headers:
        if name.lower() == "connection":
            named.update(option.strip().lower() for option in value.split(","))
    kept = [
        (name, value)
        for name, value in headers
        if (lower := name.lower()) not in _NOT_BACK
        and lower not in named
        and not (framed and lower == "content-length")
    ]
    if not any(name.lower() == "server" for name, _ in kept):
        kept.append(("Server", "rota"))  # or the library would say its name and version
    return kept


def path_of(target: str) -> str:
    """The path of a request target. Raises Problem (400) for anything but a plain absolute path: no other host, no way up."""
    path = target.partition("?")[0]
    lower = path.lower()
    if not target.startswith("/") or not target.isascii() or not target.isprintable() or " " in target:
        raise Problem(400, "the request target must be a path such as /v1/chat/completions", "invalid_request_error")
    escaped = any(code in lower for code in ("%2e", "%2f", "%5c", "%00", "%0a", "%0d"))
    if escaped or "//" in path or "\\" in path or any(part in (".", "..") for part in path.split("/")):
        raise Problem(400, "the path must not contain empty, relative or escaped parts", "invalid_request_error")
    return path
