"""The admin socket: a unix socket that only its owner can open. One JSON object a line in, one out.

``{"do": "status"}``, ``{"do": "policy", "place": ..., "hold": ..., "rates": {backend: [prefill, decode]}}``, ``{"do": "drain"}``, ``{"do": "reload"}``.
"""

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from rota.kernel.config import decode
from rota.kernel.errors import InputError, nearest
from rota.route.dashboard import picture

if TYPE_CHECKING:
    from rota.route.run import Running

VERBS = ("status", "policy", "drain", "reload")
LINE_MOST = 2**20
Rate = Annotated[float, msgspec.Meta(gt=0)]  # seconds a token
_POLICY = ("place", "hold", "seed", "rates")


class Admin:
    """Listens at a path; the file has mode 600 from its first moment."""

    def __init__(self, path: Path, running: "Running") -> None:
        self.path, self._running = path, running
        self._server: asyncio.Server | None = None
        self._draining: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises InputError where the path cannot be used."""
        try:
            if self.path.is_socket():
                if _answers(self.path):
                    raise InputError(f"admin: another router listens at {self.path}")
                self.path.unlink()  # left by a router that was killed
            before = os.umask(0o177)
            try:
                self._server = await asyncio.start_unix_server(self._serve, str(self.path), limit=LINE_MOST)
            finally:
                os.umask(before)
        except OSError as error:
            raise InputError(f"admin: {self.path} cannot be made ({(error.strerror or str(error)).lower()})") from None

    async def stop(self) -> None:
        """Close, and remove the file."""
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # gone, or a line without end
        finally:
            writer.close()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            if not isinstance(asked, dict):
                raise InputError('expected an object such as {"do": "status"}')
            return {"ok": True, **self._do(asked)}
        except InputError as error:
            return {"ok": False, "error": str(error)}
        except (ValueError, RecursionError):
            return {"ok": False, "error": "not JSON"}

    def _do(self, asked: dict[str, Any]) -> dict[str, Any]:
        verb, running = asked.get("do"), self._running
        if verb == "status":
            recorder = running.router.recorder
            recording = None if recorder is None else str(recorder.folder.resolve())
            return {"status": picture(running.router), "recording": recording}
        if verb == "drain":
            self._draining = asyncio.create_task(running.drain())
            return {}
        if verb == "reload":
            running.reload()
            return {}
        if verb == "policy":
            before = running.router.decisions.settings
            changes = {name: asked[name] for name in ("place", "hold", "seed") if name in asked}
            if unknown := set(asked) - {"do", *_POLICY}:
                name = min(unknown)
                raise InputError(f"policy: unknown key '{name}'{nearest(name, _POLICY)}")
            rates = decode(dict[str, tuple[Rate, Rate]], asked.get("rates", {}), "rates")
            running.swap(msgspec.structs.replace(before, **changes))
            for name, pair in rates.items():
                if name in running.router.fleet.backends:
                    running.router.fleet.backends[name].fitted = pair
            return {"place": running.router.decisions.name}
        raise InputError(f"do: unknown verb '{verb}'{nearest(str(verb), VERBS)}")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def ask(path: Path, question: dict[str, Any], seconds: float = 10.0) -> dict[str, Any]:
    """Put one question to a running router. Raises InputError where there is none, or where it refuses."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(seconds)
            line.connect(str(path))
            line.sendall(json.dumps(question).encode() + b"\n")
            said = b""
            while not said.endswith(b"\n") and (piece := line.recv(65536)):
                said += piece
    except OSError as error:
        raise InputError(f"{path}: no router answers there ({(error.strerror or str(error)).lower()})") from None
    try:
        answer = json.loads(said)
    except ValueError:
        raise InputError(f"{path}: what answers there is no router") from None
    if not answer.pop("ok", False):
        raise InputError(f"{path}: {answer.get('error', 'refused')}")
    return dict(answer)
