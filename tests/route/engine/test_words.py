"""Tokens and words: what is counted, what is drawn."""

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.route.engine.tools import example
from rota.route.engine.words import WORDS, Prompt, answer_length, answer_words, cut_at_stop, pieces


@given(st.text())
def test_tokens_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert all(len(token.strip()) <= 4 for token in pieces(text))


def test_every_word_is_one_token() -> None:
    assert len(set(WORDS)) == len(WORDS)
    words = answer_words(0, Prompt(pieces("a prompt")), 0, 500)
    assert pieces("".join(words)) == words


def test_prompts_differ_where_their_tokens_do() -> None:
    digests = {
        Prompt(pieces("one two")).digest,
        Prompt(pieces("one  two")).digest,
        Prompt(given=array("I", [1, 2])).digest,
        Prompt(given=array("I", [1, 2, 3])).digest,
    }
    assert len(digests) == 4


def test_lengths_are_lognormal() -> None:
    drawn = np.array([answer_length(5, Prompt([str(number)]), 0, 211.0, 1.0) for number in range(4000)])
    logs = np.log(drawn)
    # Standard errors: 1 / sqrt(4000) of the mean, 1 / sqrt(8000) of the deviation; four of them are allowed.
    assert abs(np.median(logs) - (np.log(211.0) - 0.5)) < 4 * 1.2533 / 4000**0.5 + 0.005
    assert abs(np.std(logs) - 1.0) < 4 / 8000**0.5 + 0.01


@pytest.mark.parametrize(
    "stops, kept",
    [
        (["zzz"], None),
        ([""], None),
        (["two"], ["one", " ", ""]),  # rounded to what the answer shows
        (["e two th"], ["on", "", ""]),
        (["three", "one"], [""]),
    ],
)
def test_stop_strings(stops: list[str], kept: list[str] | None) -> None:
    found = cut_at_stop(["one", " two", " three", " four"], stops)
    if kept is None:
        assert found is None
    else:
        assert found is not None
        assert "".join(found) == "".join(kept)


def test_arguments_fit_their_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "number"},
            "b": {"type": "object", "properties": {"c": {"const": 3}}, "required": ["c"]},
            "d": {"type": "array", "items": {}},
            "e": {"type": ["boolean", "null"]},
            "f": {"type": "string"},
        },
        "required": ["a", "b", "d", "e"],
    }
    found = example(schema, 7, 0)
    assert list(found) == ["a", "b", "d", "e"]
    assert isinstance(found["a"], float)
    assert found["b"] == {"c": 3}
    assert found["d"] == []
    assert isinstance(found["e"], bool)
    assert example(schema, 7, 0) == found
