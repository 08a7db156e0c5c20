"""The router keeps to its own OpenAPI description: requests drawn from it are served, requests that break it are refused as it says."""

import asyncio
import json
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rota.route.openapi import description
from rota.route.server import Front
from tests.route.stub import Stub, routed

DOCUMENT = description()
POSTS = [path for path, item in DOCUMENT["paths"].items() if "post" in item]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def drawn(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a schema, as far as the description goes."""
    kinds = schema.get("type", [])
    found = []
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind == "integer":
            found.append(st.integers(schema["minimum"], schema["maximum"]))
        elif kind == "number":
            found.append(st.floats(0.001, 1e11))
        elif kind == "string":
            letters = string.ascii_letters + "-_/. "
            found.append(
                st.text(
                    letters if "pattern" in schema else st.characters(codec="utf-8"),
                    max_size=min(schema["maxLength"], 300),
                )
            )
        elif kind == "boolean":
            found.append(st.booleans())
        elif kind == "null":
            found.append(st.none())
        elif kind == "object":
            fields = {name: drawn(inner) for name, inner in schema["properties"].items()}
            found.append(st.fixed_dictionaries({}, optional={**fields, "other": ANYTHING}))
        else:
            raise ValueError(kind)
    return st.one_of(found) if found else ANYTHING


def conforms(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is of a schema of the few kinds that errors are made of."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if value is None or isinstance(value, str):
        return ("null" if value is None else "string") in kinds
    return (
        kinds == ["object"]
        and set(schema["required"]) <= set(value)
        and all(conforms(value[name], inner) for name, inner in schema["properties"].items())
    )


def headers_of(path: str) -> dict[str, st.SearchStrategy[str]]:
    parameters = DOCUMENT["paths"][path]["post"]["parameters"]
    ascii_only = [
        {**each, "schema": {**each["schema"], "pattern": "x"}} if each["schema"]["type"] == "string" else each
        for each in parameters
    ]
    return {each["name"]: drawn(each["schema"]).map(str) for each in ascii_only}


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes, dict[str, str]]:
    path = draw(st.sampled_from(POSTS))
    schema = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    body = json.dumps({**draw(drawn(schema)), "model": "m"}).encode()
    return path, body, draw(st.fixed_dictionaries({}, optional=headers_of(path)))


@st.composite
def broken(draw: st.DrawFn) -> tuple[str, bytes, dict[str, str]]:
    """One thing is wrong."""
    path, body, headers = draw(requests())
    document = json.loads(body)
    wrong = draw(st.sampled_from(["type", "cut", "header", "long", "array"]))
    if wrong == "type":
        name = draw(st.sampled_from(["model", "stream"]))
        document[name] = draw(
            st.lists(ANYTHING, max_size=2) | st.dictionaries(st.text(max_size=3), ANYTHING, max_size=2)
        )
    elif wrong == "long":
        document["model"] = "x" * draw(st.integers(257, 2000))
    elif wrong == "header":
        headers["x-slo-ttft-ms"] = draw(st.sampled_from(["", "0", "-1", "nan", "inf", "soon", "1e12", "1 2"]))
    whole = json.dumps(document).encode()
    if wrong == "array":
        whole = b"[" + whole + b"]"
    return path, whole[: draw(st.integers(1, len(whole) - 1))] if wrong == "cut" else whole, headers


def ends(cases: list[tuple[str, bytes, dict[str, str]]], folder: Path) -> list[tuple[int, Any]]:
    """Status and JSON of each."""

    async def run() -> list[tuple[int, Any]]:
        found = []
        async with routed(folder, [Stub(tokens=1), Stub(tokens=1)]) as setup:
            for path, body, headers in cases:
                kind = {"Content-Type": "application/json"}
                async with setup.client.post(setup.url + path, data=body, headers={**kind, **headers}) as answer:
                    whole = await answer.read()
                    found.append((answer.status, json.loads(whole) if answer.status != 200 else whole))
            assert not setup.log.of("internal error")
            assert setup.running.router.outstanding == 0
        return found

    return asyncio.run(run())


FUZZ = settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@FUZZ
@given(cases=st.lists(requests(), min_size=15, max_size=15))
def test_what_is_described_is_served(
    cases: list[tuple[str, bytes, dict[str, str]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    for (path, body, headers), (status, said) in zip(cases, ends(cases, tmp_path_factory.mktemp("good")), strict=True):
        assert status == 200, (path, body, headers, said)
        assert b"chat.completion" in said


@FUZZ
@given(cases=st.lists(broken(), min_size=15, max_size=15))
def test_what_breaks_the_description_is_refused_as_it_says(
    cases: list[tuple[str, bytes, dict[str, str]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    error = DOCUMENT["components"]["schemas"]["Error"]
    for (path, body, headers), (status, said) in zip(cases, ends(cases, tmp_path_factory.mktemp("bad")), strict=True):
        assert 400 <= status < 500, (path, body, headers)
        assert str(status) in DOCUMENT["paths"][path]["post"]["responses"]
        assert conforms(said, error), said


def test_every_page_is_described_and_every_description_is_a_page(tmp_path: Path) -> None:
    async def run() -> None:
        async with routed(tmp_path, [Stub(models=("org/m",))]) as setup:
            front = Front(setup.running.router)
            described = {path for path, item in DOCUMENT["paths"].items() if "get" in item}
            assert described == {*front._pages, "/v1/models/{model}"}
            for path in sorted(described - {"/events"}):
                async with setup.client.get(setup.url + path.replace("{model}", "org%2Fm")) as answer:
                    assert answer.status == 200
                    content = DOCUMENT["paths"][path]["get"]["responses"]["200"].get("content")
                    assert [answer.content_type] == list(content) if content else not await answer.read()
            async with setup.client.get(setup.url + "/openapi.json") as answer:
                assert await answer.json() == DOCUMENT
            for model, status in (("org/m", 200), ("org%2Fm", 200), ("m", 404), ("m%20m", 404)):
                async with setup.client.get(f"{setup.url}/v1/models/{model}") as answer:
                    assert answer.status == status
            async with setup.client.delete(f"{setup.url}/v1/models/org%2Fm") as answer:
                assert answer.status == 405
            assert setup.stubs[0].seen == []  # none of this is the engine's business

    asyncio.run(run())


def test_references_lead_somewhere() -> None:
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)):
        assert name in DOCUMENT["components"]["schemas"]
