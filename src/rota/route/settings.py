"""The router's configuration, as it is written and as it is understood. Seconds, tokens, bytes."""

import re
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec

from rota.kernel.config import decode
from rota.kernel.errors import InputError
from rota.route.checks import finite, host_port, name, path_of, secret
from rota.study.scenario import read_document

Positive = Annotated[int, msgspec.Meta(ge=1)]
Whole = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Above = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2


class Tls(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How a backend's https is checked, and what we show it. Files are relative to the configuration."""

    ca: str | None = None  # PEM of the authorities to trust, instead of the system's
    cert: str | None = None  # our own certificate, with `key`
    key: str | None = None
    verify: bool = True
    server_name: str | None = None  # whose certificate it must show; None: the host of the url, or the DNS name


class BackendSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One engine."""

    url: str  # http://host:port, with a prefix path if the engine has one
    name: str = ""  # host:port when empty
    models: tuple[str, ...] = ()  # empty: what its /v1/models says
    weight: Above = 1.0  # turns under round_robin; `speed` for policies that read it
    api_key: str | None = None
    api_key_file: str | None = None
    max_outstanding: Positive | None = None  # requests sent at once; None: no limit, and then no waiting line
    health: str | None = "/health"  # None: there is none, it is up until requests fail
    metrics: str | None = "/metrics"  # None: not scraped
    tls: Tls = Tls()
    prefill_seconds: Above | None = None  # of work a prompt token, for `size` and `work`; None: learned
    decode_seconds: Above | None = None  # of work an output token
    max_running: Positive = 256  # slots of the batch, for policies that read it
    kv_blocks: Positive | None = None  # None: as its metrics say


class Dns(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A name whose every address is a backend, such as a headless service."""

    name: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    scheme: str = "http"
    every_seconds: Seconds = 10.0
    backend: dict[str, Any] = {}  # what every backend of this name has besides its url


class Policy(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The decisions: the names, parameters and module:Class of a scenario."""

    place: Any = "least_outstanding"
    hold: Any = "fcfs"
    seed: Whole = 0


class Line(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The waiting line, when every backend is at its limit; beyond it requests are shed with 429."""

    room: Whole = 1000
    seconds: Seconds = 60.0  # longest wait


class Timeouts(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    connect: Seconds = 2.0
    first_byte: Seconds = 600.0  # a long prefill behind a long queue is no failure
    idle: Seconds = 120.0  # between two pieces of an answer
    client: Seconds = 120.0  # a client that does not read
    body: Seconds = 60.0  # a client that does not send: the head of its first request, or a body


class Retry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Another try, on another backend where there is one; only before the first byte has gone out."""

    attempts: Positive = 3  # tries in all
    statuses: tuple[int, ...] = (502, 503, 504)
    budget: Share = 0.2  # retries as a share of requests
    reserve: Whole = 10  # retries that are always there after a quiet time


class Hedge(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A second try beside one that says nothing. Off unless `after` is given: engines are slow when they are full, and it fills them further."""

    after: Seconds | None = None  # silence until another backend is asked as well; None: never
    budget: Share = 0.05  # second tries as a share of requests


class Health(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    every: Seconds = 2.0
    timeout: Seconds = 2.0
    fall: Positive = 2  # refusals or errors in a row until a backend is down
    rise: Positive = 1
    silent: Seconds = 60.0  # no answer is no failure so long as a byte of any request came within this time


class Breaker(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    failures: Positive = 5  # in a row, of requests
    open: Seconds = 5.0  # doubled after each failed trial
    open_most: Seconds = 60.0


class Scrape(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    every: Seconds = 1.0
    timeout: Seconds = 2.0
    stale: Seconds = 5.0  # older figures are not used


class Bodies(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    request_bytes: Positive = 32 * 2**20
    hold_bytes: Positive = (
        8 * 2**20
    )  # answers up to this size are held until whole, so that a cut one can be tried again


class Lengths(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What is believed of a prompt and an answer before the engine counts them."""

    bytes_per_token: Above = 4.0  # until usage has been seen
    output_tokens: Positive = 256  # until an answer of that model has been seen
    history: Positive = 256  # answers remembered a model and tenant


class Prefix(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The approximate index of what each backend has cached."""

    block_tokens: Positive = 64
    blocks: Positive = 65536  # remembered a backend; the least recently used go first


class TenantSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    name: str
    keys: tuple[str, ...] = ()  # hashes, as `rota route --hash-key` prints them
    weight: Above = 1.0
    priority: int = 0  # smaller is more urgent; a request may ask to be less urgent, never more
    requests_per_minute: Above | None = None
    tokens_per_minute: Above | None = None
    max_concurrent: Positive | None = None


class Tenants(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Who asks. With keys, who has none is refused; otherwise a header names the tenant."""

    file: str | None = None  # YAML with a list `tenants`
    known: tuple[TenantSettings, ...] = ()
    header: str | None = "x-llm-d-inference-fairness-id"
    other: TenantSettings = TenantSettings("")  # the limits of a tenant that only a header names


class Recording(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    folder: str
    flush_seconds: Seconds = 5.0  # what a kill -9 can lose
    rotate_seconds: Seconds = 3600.0  # the parts of this time become one file
    keep_files: Positive = 1000  # rotated files; the oldest go
    salt_file: str | None = None  # None: a new salt each start, so blocks of two runs have nothing in common


class Log(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    level: str = "info"
    requests: bool = True  # a line a request


class Pages(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    dashboard: bool = True
    metrics: bool = True


class Document(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The file as written."""

    listen: str = "127.0.0.1:8080"
    backends: tuple[BackendSettings, ...] = ()
    backends_file: str | None = None  # YAML with a list `backends`, watched
    backends_dns: Dns | None = None
    policy: Policy = Policy()
    line: Line = Line()
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    hedge: Hedge = Hedge()
    health: Health = Health()
    breaker: Breaker = Breaker()
    slow_start_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    scrape: Scrape = Scrape()
    bodies: Bodies = Bodies()
    lengths: Lengths = Lengths()
    prefix: Prefix = Prefix()
    tenants: Tenants = Tenants()
    recording: Recording | None = None
    admin: str | None = None  # path of the unix socket
    drain_seconds: Seconds = 30.0
    count_others: bool = False  # add what engines report beyond our own requests: they have other clients
    tls_cert: str | None = None  # of the router itself
    tls_key: str | None = None
    log: Log = Log()
    pages: Pages = Pages()


class Settings(msgspec.Struct, frozen=True):
    """A configuration that has been checked, with what its files say."""

    written: Document
    path: Path
    host: str
    port: int
    backends: tuple[BackendSettings, ...]
    tenants: tuple[TenantSettings, ...]

    @property
    def folder(self) -> Path:
        return self.path.parent


def read(path: Path) -> Settings:
    """Read a configuration file with all files it names.

    Raises:
        InputError: one line: file, key, rule, what was found, the nearest valid name.
    """
    document = read_document(path, "router configuration")
    try:
        finite(document, "")
        written = decode(Document, document, "")
        host, port = _address(written.listen)
        settings = Settings(
            written, path, host, port, _static(written, path.parent), _tenants(written.tenants, path.parent)
        )
        _check(settings)
        return settings
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise InputError(f"listen: expected host:port such as 127.0.0.1:8080, found '{listen}'")
    return host.strip("[]") or "0.0.0.0", int(port)


def _static(written: Document, folder: Path) -> tuple[BackendSettings, ...]:
    listed = written.backends
    if written.backends_file is not None:
        listed += read_backends(folder / written.backends_file)
    if not listed and written.backends_file is None and written.backends_dns is None:
        raise InputError("backends: is empty; give at least one such as {url: http://127.0.0.1:8000}")
    return named(listed, "backends", folder)


class _BackendsFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    backends: tuple[BackendSettings, ...]


class _TenantsFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    tenants: tuple[TenantSettings, ...]


def read_backends(path: Path) -> tuple[BackendSettings, ...]:
    """The list of a watched file. Raises InputError."""
    return decode(_BackendsFile, read_document(path, "list of backends"), path.name).backends


def named(listed: Iterable[BackendSettings], where: str, folder: Path) -> tuple[BackendSettings, ...]:
    """Backends with their names filled in, checked one by one and against each other. Raises InputError."""
    found: dict[str, int] = {}
    done = []
    for number, each in enumerate(listed):
        place = f"{where}[{number}]"
        parts = host_port(each.url, f"{place}.url")
        each = msgspec.structs.replace(each, name=each.name or parts, url=each.url.rstrip("/"))
        name(each.name, f"{place}.name")
        path_of(each.health, f"{place}.health")
        path_of(each.metrics, f"{place}.metrics")
        if each.name in found:
            raise InputError(f"{place}: the name '{each.name}' is taken by {where}[{found[each.name]}]")
        if each.api_key is not None and each.api_key_file is not None:
            raise InputError(f"{place}: give api_key or api_key_file, not both")
        if each.api_key_file is not None:
            key = secret(folder / each.api_key_file, f"{place}.api_key_file")
            each = msgspec.structs.replace(each, api_key=key, api_key_file=None)
        if each.api_key is not None and not (each.api_key.isascii() and each.api_key.isprintable()):
            raise InputError(f"{place}.api_key: must be printable ASCII in one line")
        client_context(each, folder, place)
        found[each.name] = number
        done.append(each)
    return tuple(done)


def client_context(backend: BackendSettings, folder: Path, where: str) -> ssl.SSLContext | None:
    """The TLS context of an https backend, None for http. Raises InputError where a file is missing or wrong."""
    tls = backend.tls
    if backend.url.startswith("http://"):
        if tls != Tls():
            raise InputError(f"{where}.tls: is given, but the url is http")
        return None
    if (tls.cert is None) != (tls.key is None):
        raise InputError(f"{where}.tls: cert and key go together")
    try:
        context = ssl.create_default_context(cafile=None if tls.ca is None else str(folder / tls.ca))
        if tls.cert is not None and tls.key is not None:
            context.load_cert_chain(folder / tls.cert, folder / tls.key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{where}.tls: {_said(error)}; check {', '.join(_files(tls))}") from None
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """The router's own TLS, None for plain http. Raises InputError."""
    cert, key = settings.written.tls_cert, settings.written.tls_key
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise InputError("tls_cert: tls_cert and tls_key go together")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.folder / cert, settings.folder / key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"tls_cert: {_said(error)}; check {cert} and {key}") from None
    return context


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()


def _files(tls: Tls) -> list[str]:
    return [each for each in (tls.ca, tls.cert, tls.key) if each is not None]


def _tenants(section: Tenants, folder: Path) -> tuple[TenantSettings, ...]:
    listed = section.known
    if section.file is not None:
        path = folder / section.file
        listed += decode(_TenantsFile, read_document(path, "list of tenants"), path.name).tenants
    from rota.route.keys import check_hash

    names: set[str] = set()
    hashes: dict[str, str] = {}
    if section.header is not None and not TOKEN.fullmatch(section.header):
        raise InputError(f"tenants.header: {section.header[:40]!r} is not the name of a header")
    for number, tenant in enumerate(listed):
        if not tenant.name or tenant.name in names:
            raise InputError(f"tenants[{number}]: the name '{tenant.name}' is {'taken' if tenant.name else 'empty'}")
        names.add(tenant.name)
        name(tenant.name, f"tenants[{number}].name")
        for position, text in enumerate(tenant.keys):
            check_hash(text, f"tenants[{number}].keys[{position}]")
            if (owner := hashes.setdefault(text, tenant.name)) != tenant.name:
                raise InputError(f"tenants[{number}].keys[{position}]: is a key of '{owner}' already")
    return listed


def _check(settings: Settings) -> None:
    """What must fit together. Raises InputError."""
    from rota.route.decide import build

    written = settings.written
    server_context(settings)
    build(written.policy, settings.folder)
    if written.log.level not in ("debug", "info", "warning", "error"):
        raise InputError(f"log.level: expected debug, info, warning or error, found '{written.log.level}'")
    for status in written.retry.statuses:
        if not 400 <= status <= 599:
            raise InputError(f"retry.statuses: must be statuses of errors, 400 to 599, found {status}")
    if written.backends_dns is not None:
        for key in ("url", "name"):
            if key in written.backends_dns.backend:
                raise InputError(f"backends_dns.backend: must not hold '{key}': every address has its own")
        if written.backends_dns.scheme not in ("http", "https"):
            raise InputError(f"backends_dns.scheme: expected http or https, found '{written.backends_dns.scheme}'")
        address(written.backends_dns, "127.0.0.1")
    if written.recording is not None and written.recording.salt_file is not None:
        secret(settings.folder / written.recording.salt_file, "recording.salt_file")


def address(dns: Dns, host: str) -> BackendSettings:
    """The backend at one address of a DNS name. Raises InputError where the common part is wrong."""
    url = f"{dns.scheme}://{f'[{host}]' if ':' in host else host}:{dns.port}"
    found = decode(BackendSettings, {**dns.backend, "url": url}, "backends_dns.backend")
    if dns.scheme == "https" and found.tls.server_name is None:  # its certificate is for the name, not for an address
        found = msgspec.structs.replace(found, tls=msgspec.structs.replace(found.tls, server_name=dns.name))
    return found
