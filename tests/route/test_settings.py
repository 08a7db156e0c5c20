"""A bad configuration is one line, and the router does not start with it."""

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from rota.kernel.config import decode
from rota.kernel.errors import InputError
from rota.route.admin import ask
from rota.route.run import Running
from rota.route.settings import Dns, Document, Recording, TenantSettings, read
from tests.route.stub import QUICK, Stub, routed
from tests.route.test_proxy import chat

GOOD: dict[str, Any] = {**QUICK, "backends": [{"url": "http://127.0.0.1:9"}]}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"backend": []}, "unknown key 'backend'; did you mean 'backends'"),
    "unknown inner key": (
        {"backends": [{"url": "http://h:1", "wieght": 2}]},
        "backends[0]: unknown key 'wieght'; did you mean 'weight'?",
    ),
    "no backends": ({"backends": []}, "backends: is empty"),
    "duplicate names": (
        {"backends": [{"url": "http://h:1"}, {"url": "http://h:1"}]},
        "backends[1]: the name 'h:1' is taken",
    ),
    "not a url": ({"backends": [{"url": "h:1"}]}, "expected http://host:port"),
    "user in url": ({"backends": [{"url": "http://u:p@h:1"}]}, "no user and password"),
    "missing file": ({"backends_file": "none.yaml"}, "none.yaml: no such file"),
    "bad key file": ({"backends": [{"url": "http://h:1", "api_key_file": "none"}]}, "api_key_file"),
    "bad tenants file": ({"tenants": {"file": "none.yaml"}}, "none.yaml: no such file"),
    "plain key": ({"tenants": {"known": [{"name": "t", "keys": ["sk-plain"]}]}}, "is not a hash"),
    "duplicate tenants": ({"tenants": {"known": [{"name": "t"}, {"name": "t"}]}}, "is taken"),
    "unknown place": ({"policy": {"place": "least_outstandin"}}, "did you mean 'least_outstanding'"),
    "unknown parameter": ({"policy": {"place": {"power_of_two": {"k": 3}}}}, "unknown parameter 'k'"),
    "unknown hold": ({"policy": {"hold": "fcsf"}}, "did you mean 'fcfs'"),
    "a place as an order": ({"policy": {"hold": "round_robin"}}, "unknown order 'round_robin'"),
    "missing module": ({"policy": {"place": "nowhere:Place"}}, "nowhere"),
    "tls file missing": (
        {"backends": [{"url": "https://h:1", "tls": {"ca": "none.pem"}}]},
        "backends[0].tls: no such file",
    ),
    "tls without https": ({"backends": [{"url": "http://h:1", "tls": {"verify": False}}]}, "but the url is http"),
    "own tls missing": ({"tls_cert": "none.pem", "tls_key": "none.key"}, "tls_cert: no such file"),
    "own tls half": ({"tls_cert": "none.pem"}, "go together"),
    "no port": ({"listen": "localhost"}, "expected host:port"),
    "negative time": ({"health": {"every": -1}}, "health.every"),
    "wrong type": ({"line": {"room": "many"}}, "line.room: expected 'int', found 'many'"),
    "salt file missing": ({"recording": {"folder": "r", "salt_file": "none"}}, "salt_file"),
    "a space in a url": ({"backends": [{"url": "http://h :1"}]}, "is not a url"),
    "a line break in a url": ({"backends": [{"url": "http://h:1/\r\nX: y"}]}, "is not a url"),
    "a line break in a name": (
        {"backends": [{"url": "http://h:1", "name": "a\nb"}]},
        "backends[0].name: must be printable",
    ),
    "a health path": ({"backends": [{"url": "http://h:1", "health": "health"}]}, "must be a path such as /health"),
    "an endless weight": (
        {"backends": [{"url": "http://h:1", "weight": float("inf")}]},
        "backends[0].weight: must be a finite number",
    ),
    "an endless time": ({"timeouts": {"idle": float("inf")}}, "timeouts.idle: must be a finite number"),
    "retry of what is right": ({"retry": {"statuses": [200]}}, "must be statuses of errors"),
    "hedge": ({"hedge": {"after": 0}}, "hedge.after"),
    "a header that is none": ({"tenants": {"header": "a b:"}}, "is not the name of a header"),
    "a long tenant": ({"tenants": {"known": [{"name": "x" * 300}]}}, "tenants[0].name: must be printable"),
    "one key for two": (
        {"tenants": {"known": [{"name": name, "keys": ["sha256$" + "ab" * 16 + "$" + "cd" * 32]} for name in "ab"]}},
        "is a key of 'a' already",
    ),
    "a url for all addresses": (
        {"backends_dns": {"name": "h", "port": 1, "backend": {"url": "http://h:1"}}},
        "must not hold 'url'",
    ),
    "log level": ({"log": {"level": "loud"}}, "log.level"),
}


def write(folder: Path, changes: dict[str, Any]) -> Path:
    path = folder / "route.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return path


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_line(name: str, tmp_path: Path) -> None:
    changes, said = BAD[name]
    with pytest.raises(InputError) as caught:
        read(write(tmp_path, changes))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert "sk-plain" not in str(caught.value)


def command(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    done = [sys.executable, "-m", "rota.cli.main", "route", *words]
    return subprocess.run(
        done, capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ), **options
    )


def test_the_command_ends_with_code_2(tmp_path: Path) -> None:
    done = command(str(write(tmp_path, {"policy": {"place": "nothing"}})))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: route.yaml: policy.place: unknown place 'nothing'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = command(str(write(tmp_path, {"listen": f"127.0.0.1:{taken.getsockname()[1]}"})))
    assert done.returncode == 2
    assert "cannot be listened on (address already in use)" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    done = command(str(write(tmp_path, {})), "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_key_is_hashed_without_being_an_argument() -> None:
    done = command("--hash-key", "sha256", input="sk-secret\n")
    assert done.returncode == 0
    assert done.stdout.startswith("sha256$")
    assert "secret" not in done.stdout


def test_an_unreachable_backend_is_marked_down_and_the_router_starts(tmp_path: Path) -> None:
    async def run() -> None:
        async with Running(read(write(tmp_path, {"log": {"level": "error"}}))) as running:
            [backend] = running.router.fleet.backends.values()
            assert not backend.up
            assert backend.down_because.startswith("not reached")

    asyncio.run(run())


def test_the_admin_socket_is_its_owners_and_swaps_the_policy(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub(), Stub()], admin="admin.sock") as setup:
            path = tmp_path / "admin.sock"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            async with chat(setup) as answer:
                assert answer.status == 200
            status = (await asyncio.to_thread(ask, path, {"do": "status"}))["status"]
            assert [each["state"] for each in status["backends"]] == ["up", "up"]
            assert status["recent"][0]["costs"] == {"a": 0.0, "b": 0.0}
            assert json.dumps(status)
            said = await asyncio.to_thread(ask, path, {"do": "policy", "place": {"power_of_two": {"d": 2}}})
            assert said["place"] == "power_of_two(d=2)"
            for wrong, text in (
                ({"do": "policy", "place": "nothing"}, "unknown place"),
                ({"do": "policy", "plaice": "random"}, "did you mean 'place'"),
                ({"do": "statsu"}, "did you mean 'status'"),
            ):
                with pytest.raises(InputError, match=text):
                    await asyncio.to_thread(ask, path, wrong)
            assert setup.running.router.decisions.name == "power_of_two(d=2)"
            with pytest.raises(InputError, match="another router"):
                async with Running(read(setup.config)):
                    pass
            await asyncio.to_thread(ask, path, {"do": "drain"})
            async with asyncio.timeout(5):
                await setup.running.over.wait()
        assert not path.exists()
        with pytest.raises(InputError, match="no router answers"):
            ask(path, {"do": "status"})

    asyncio.run(run())


def test_the_page_of_the_configuration_shows_every_key_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "route" / "configuration.md").read_text()
    shown = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    assert decode(Document, shown, "") == Document()
    assert set(shown) == set(Document.__struct_fields__)
    for name, value in msgspec.structs.asdict(Document()).items():
        if isinstance(value, msgspec.Struct):
            assert set(shown[name]) == set(value.__struct_fields__), name
    for other in (Dns, Recording, TenantSettings):
        assert all(f"{field}" in page for field in other.__struct_fields__), other
