"""`rota route`: the live router."""

import asyncio
import getpass
import json
import sys
from pathlib import Path

from rota.kernel.errors import InputError
from rota.kernel.extras import need


def hash_key(kind: str) -> None:
    """Read an API key from the terminal or standard input, never from the command line, and print its hash."""
    from rota.route.keys import hash_key as hashed

    key = getpass.getpass("API key: ") if sys.stdin.isatty() else sys.stdin.readline()
    print(hashed(key.strip(), kind))


def run_route(config: Path, check: bool) -> None:
    """Serve a configuration, or only check it. Raises InputError, MissingExtraError."""
    need("route", "rota route", "aiohttp", "prometheus_client")
    from rota.route.run import serve
    from rota.route.settings import read

    settings = read(config)
    if check:
        print(f"{config}: {len(settings.backends)} backends, {len(settings.tenants)} tenants, nothing wrong")
        return
    asyncio.run(serve(settings))


def ask_router(socket: Path, what: str, place: str | None, hold: str | None) -> None:
    """Put a question to a running router and print its answer as JSON. Raises InputError."""
    import yaml

    from rota.route.admin import VERBS, ask

    if what not in VERBS:
        from rota.kernel.errors import nearest

        raise InputError(f"--ask: unknown verb '{what}'{nearest(what, VERBS)}")
    question: dict[str, object] = {"do": what}
    for name, value in (("place", place), ("hold", hold)):
        if value is not None:
            try:
                question[name] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise InputError(f"--{name}: '{value}' is not a YAML value") from None
    print(json.dumps(ask(socket, question)))
