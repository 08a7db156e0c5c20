"""Streams are cut after whole events, whatever pieces they come in, and what they say of tokens is found."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.route.answers import TAIL_MOST, Events, usage


def chunk(**delta: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


STREAM = [chunk(role="assistant", content=""), chunk(content="a"), chunk(content="b"), chunk(content=""), b"data: [DONE]\n\n"]  # fmt: skip


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"], ids=["lf", "crlf"])
@given(places=st.lists(st.integers(0, 10_000), max_size=6))
def test_pieces_are_whole_events_and_nothing_is_lost(end: bytes, places: list[int]) -> None:
    data = b"".join(STREAM).replace(b"\n\n", end)
    events = Events()
    ready = [events.whole(piece) for piece in cut(data, places)]
    assert b"".join(ready) + events.rest() == data
    assert all(piece.endswith(end) for piece in ready if piece)
    assert events.count == len(STREAM) - 1  # the one that has a role and no text is no token


def test_completions_have_no_such_event() -> None:
    events = Events()
    for text in "abc":
        events.whole(b"data: " + json.dumps({"choices": [{"text": text}]}).encode() + b"\n\n")
    assert events.count == 3


def test_a_break_leaves_no_half_event() -> None:
    events = Events()
    assert events.whole(STREAM[1] + b"data: {half") == STREAM[1]
    assert events.rest() == b"data: {half"


def test_an_event_without_end_is_passed_on_in_pieces() -> None:
    events = Events()
    filling = b"data: " + b"x" * TAIL_MOST
    assert events.whole(filling[:-10]) == b""
    assert events.whole(b"y" * 20) == filling[:-10] + b"y" * 20


@pytest.mark.parametrize(
    "body, expected",
    [
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 3}}, (7, 3, None)),
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}}, (7, 3, 4)),
        ({"usage": {"input_tokens": 7, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 0}}}, (7, 3, 0)),
        ({"type": "response.completed", "response": {"usage": {"input_tokens": 1, "output_tokens": 2}}}, (1, 2, None)),
        ({"usage": {"prompt_tokens": -7, "completion_tokens": 3}}, None),
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 2**60}}, None),
        ({"usage": None}, None),
        ({"usage": {"prompt_tokens": "many"}}, None),
        ([], None),
    ],
)  # fmt: skip
def test_usage_of_every_interface(body: Any, expected: Any) -> None:
    assert usage(json.dumps(body).encode()) == expected


def test_the_last_usage_of_a_stream_counts() -> None:
    events = Events()
    for tokens in (1, 2):
        said = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": tokens}}
        events.whole(b"event: x\ndata: " + json.dumps(said).encode() + b"\n\n")
    events.whole(b"data: [DONE]\n\n")
    assert events.usage() == (5, 2, None)
