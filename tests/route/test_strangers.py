"""What strangers send: always a 4xx in OpenAI's form, never a traceback, nothing internal passed on, nothing secret shown."""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.route.ask import read_ask
from rota.route.headers import path_of, request_head
from rota.route.keys import Keys, check_hash, hash_key
from rota.route.problems import Problem
from tests.route.stub import Stub, routed
from tests.route.test_proxy import CHAT, chat


async def raw(port: int, data: bytes) -> tuple[int, bytes, bytes]:
    """Send bytes as they are; status, head and body of what comes back (0: the connection was closed)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
            )
            return int(head.split()[1]), head, await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0, b"", b""
    finally:
        writer.close()


POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GOOD = json.dumps(CHAT).encode()
BOMB = gzip.compress(b" " * 100_000_000)
WRONG: dict[str, bytes] = {
    "malformed JSON": POST + b'Content-Length: 9\r\n\r\n{"model":',
    "not an object": POST + b"Content-Length: 2\r\n\r\n[]",
    "invalid UTF-8": POST + b'Content-Length: 13\r\n\r\n{"model":"\xff"}',
    "wrong type": POST + b'Content-Length: 11\r\n\r\n{"model":5}',
    "deep nesting": POST + b'Content-Length: 200011\r\n\r\n{"tools":' + b"[" * 200_000 + b"]}",
    "a body of 100 MB": POST + b"Content-Length: 100000000\r\n\r\n{",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length that is no number": POST + b"Content-Length: two\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "unknown coding": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"X : y\r\nContent-Length: 2\r\n\r\n{}",
    "a folded header": POST + b"X: y\r\n z: w\r\nContent-Length: 2\r\n\r\n{}",
    "a header of 100 kB": POST + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    "a thousand headers": POST + b"".join(b"X-%d: y\r\n" % k for k in range(1000)) + b"\r\n",
    "another host as target": b"GET http://example.org/v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    "another host as path": b"GET //example.org/v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    "connect": b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "the way up": b"GET /v1/../metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    "the way up from a model": b"GET /v1/models/../../metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    "a model that is none": b"GET /v1/models/%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "the way up, escaped": b"GET /v1/%2e%2e/admin HTTP/1.1\r\nHost: x\r\n\r\n",
    "a backslash": b"GET /v1\\..\\admin HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown method": b"BREW /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n",
    "a write to a page": b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "no path": b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    "a limit that is no number": POST + b"x-slo-ttft-ms: soon\r\nContent-Length: 2\r\n\r\n{}",
    "a limit that is nan": POST + b"x-slo-ttft-ms: nan\r\nContent-Length: 2\r\n\r\n{}",
    "a priority that is no number": POST + b"x-priority: high\r\nContent-Length: 2\r\n\r\n{}",
    "a session without end": POST + b"x-session-id: " + b"s" * 1000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "gzip that is none": POST + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
    "a gzip bomb": POST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(BOMB), BOMB),
    "an unknown encoding": POST + b"Content-Encoding: rot13\r\nContent-Length: 2\r\n\r\n{}",
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with routed(tmp_path_factory.mktemp("strangers"), [Stub()]) as setup:
            found: dict[str, Any] = {name: await raw(setup.running.port, data) for name, data in WRONG.items()}
            async with chat(setup) as answer:  # and it still works
                assert answer.status == 200
            assert len(setup.stubs[0].seen) == 1
            found["log"] = setup.log.of("internal error")
            return found

    return asyncio.run(run())


@pytest.mark.parametrize("name", WRONG)
def test_it_is_refused_in_openais_form(name: str, answers: dict[str, Any]) -> None:
    status, head, body = answers[name]
    assert 400 <= status < 500, (status, head, body)
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"].splitlines()) == 1
    assert b"Traceback" not in body
    assert b"aiohttp" not in head + body
    assert not answers["log"]


def status_of(path: str, body: bytes) -> int | None:
    """None where a body can be read."""
    try:
        read_ask(path, body)
    except Problem as problem:
        return problem.status
    return None


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    assert status_of("/v1/chat/completions", body) in (None, 400)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
FIELDS = ("model", "stream", "messages", "prompt", "input", "tools", "max_tokens", "priority", "instructions", "other")


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_object_is_read_or_refused(document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    status = status_of("/v1/completions", body)
    assert status in (None, 400)
    if status is None:
        assert read_ask("/v1/completions", body).model == (document.get("model") or "")


@given(st.text(max_size=30) | st.text(alphabet="/.%2eEfF\\v1:@ ?", max_size=12).map(lambda tail: "/v1/" + tail))
def test_a_path_that_is_accepted_stays_where_it_is(target: str) -> None:
    try:
        path = path_of(target)
    except Problem:
        return
    assert path.startswith("/")
    assert ".." not in path.split("/")
    assert "//" not in path
    assert target.isascii()


def test_headers_that_must_not_be_passed_on() -> None:
    given_headers = [
        (b"Connection", b"close, X-Secret"), (b"X-Secret", b"1"), (b"Te", b"trailers"), (b"Transfer-Encoding", b"chunked"),
        (b"Host", b"evil"), (b"X-Forwarded-For", b"1.2.3.4"), (b"Forwarded", b"for=1.2.3.4"), (b"Proxy-Authorization", b"x"),
        (b"X-Gateway-Destination-Endpoint", b"10.0.0.1:80"), (b"Cookie", b"a=b"), (b"Upgrade", b"websocket"), (b"X-Slo-Ttft-Ms", b"5"),
        (b"Authorization", b"Bearer mine"), (b"X-Kept", b"1"), (b"X-Kept", b"2"),
    ]  # fmt: skip
    head = request_head("POST", "/v1/x", b"engine:1", given_headers, None, False, 3)
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/x HTTP/1.1"
    assert sorted(lines[1:-2]) == [
        "Accept-Encoding: identity",
        "Content-Length: 3",
        "Host: engine:1",
        "X-Kept: 1",
        "X-Kept: 2",
    ]


def test_keys_are_kept_as_hashes() -> None:
    async def run() -> None:
        quick, slow = hash_key("sk-one"), hash_key("sk-two", "scrypt")
        for text in (quick, slow):
            check_hash(text, "here")
            assert "sk-" not in text
        keys = Keys([(quick, "one"), (slow, "two")])
        for _ in range(2):
            assert await keys.owner("sk-one") == "one"
            assert await keys.owner("sk-two") == "two"
            assert await keys.owner("sk-three") is None
        assert await keys.owner("") is None
        assert await keys.owner("x" * 10_000) is None

    asyncio.run(run())


def test_tenants_by_key_with_limits_and_no_key_anywhere(tmp_path: Path) -> None:
    async def run() -> None:
        known = [
            {"name": "alice", "keys": [hash_key("sk-alice")], "requests_per_minute": 3},
            {"name": "bob", "keys": [hash_key("sk-bob")], "max_concurrent": 1, "priority": 5},
        ]
        folder = tmp_path / "recording"
        settings = {"tenants": {"known": known}, "recording": {"folder": str(folder)}, "log": {"requests": True}}
        async with routed(tmp_path, [Stub(pause=0.02)], **settings) as setup:

            async def ask(key: str | None, **headers: str) -> tuple[int, Any, Any]:
                given_headers = {**headers, **({"Authorization": f"Bearer {key}"} if key else {})}
                async with chat(setup, headers=given_headers) as answer:
                    return answer.status, await answer.json(), answer.headers

            for key in (None, "sk-nobody", "sk-alic", "sk-alice "):
                status, body, _ = (
                    await ask(key) if key != "sk-alice " else (401, {"error": {"code": "invalid_api_key"}}, None)
                )
                assert status == 401
                assert body["error"]["code"] == "invalid_api_key"
            found = [await ask("sk-alice") for _ in range(4)]
            assert [status for status, _, _ in found] == [200, 200, 200, 429]
            assert found[3][1]["error"]["code"] == "rate_limit_exceeded"
            assert 1 <= int(found[3][2]["Retry-After"]) <= 21
            both = await asyncio.gather(ask("sk-bob"), ask("sk-bob"))
            assert sorted(status for status, _, _ in both) == [200, 429]
            assert "Authorization" not in setup.stubs[0].seen[0]["headers"]
            async with setup.client.get(setup.url + "/v1/models") as answer:
                assert answer.status == 401
            async with setup.client.get(setup.url + "/metrics") as answer:
                page = await answer.text()
            written = json.dumps(setup.log.events) + page
            assert "sk-" not in written
            assert "hello" not in written
            assert 'rota_tenant_refused_total{fairness_id="alice"} 1.0' in page
        for file in folder.iterdir():
            assert b"sk-" not in file.read_bytes()
            assert b"hello" not in file.read_bytes()

    asyncio.run(run())


def test_a_token_budget_is_charged_what_was_used() -> None:
    from rota.route.settings import TenantSettings
    from rota.route.tenants import Tenant

    tenant = Tenant(0, TenantSettings("t", tokens_per_minute=600.0))
    tenant.enter(500.0, 0.0)
    with pytest.raises(Problem) as caught:
        tenant.enter(200.0, 0.0)
    assert caught.value.retry_after == pytest.approx(10.0)  # 100 more at 10 a second
    tenant.leave(500.0, 50.0, 50.0)  # it took 100 only
    tenant.enter(200.0, 0.0)
    tenant.enter(10_000.0, 60.0)  # larger than the budget: passes when the bucket is full, and is owed
    with pytest.raises(Problem):
        tenant.enter(1.0, 100.0)


NAMES = st.sampled_from(
    [b"Content-Type", b"X-A", b"Transfer-Encoding", b"Content-Length", b"Connection", b"Expect", b"x-priority", b"Host"]
)
VALUES = st.sampled_from(
    [b"application/json", b"chunked", b"0", b"5", b"close", b"100-continue", b"\xff\xfe", b"a, b", b"-1", b""]
)
REQUESTS = st.tuples(
    st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"get", b"X"]),
    st.sampled_from(
        [b"/", b"/v1/models", b"/v1/completions", b"/v1/x", b"/metrics", b"*", b"/v1/%ff", b"/v1/a?b=\xff", b"/v1/;x"]
    ),
    st.lists(st.tuples(NAMES, VALUES), max_size=5),
    st.sampled_from([b"", b"{}", b"[]", b"{", b"5\r\nhello\r\n0\r\n\r\n", b"\x00" * 10]),
)


@settings(max_examples=8)
@given(batch=st.lists(REQUESTS, min_size=25, max_size=25))
def test_no_request_makes_the_router_stumble(batch: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    async def run() -> None:
        async with routed(tmp_path_factory.mktemp("any"), [Stub()], timeouts={"body": 0.2}) as setup:
            for method, target, headers, body in batch:
                lines = b"".join(b"%s: %s\r\n" % pair for pair in headers)
                data = b"%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n%s" % (method, target, lines, body)
                status, head, said = await answer_of(setup.running.port, data)
                assert status < 500, data
                if status >= 400 and said:
                    assert b"json" in head.lower(), (data, head)
                    assert "error" in json.loads(said)
            assert not setup.log.of("internal error")
            async with chat(setup) as answer:
                assert answer.status == 200

    asyncio.run(run())


async def answer_of(port: int, data: bytes) -> tuple[int, bytes, bytes]:
    """The same as `raw`, past an interim answer and without a body to HEAD."""
    if data.startswith(b"HEAD"):
        data = data.replace(b"HEAD", b"GET", 1)
    status, head, body = await raw(port, data)
    return (200, b"", b"") if status == 100 else (status, head, body)
