"""Spans: validation, overlaps, windows, and files that read back."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.kernel.errors import InputError
from rota.kernel.timeline import COLUMNS, Spans

LABELS, KINDS = st.text("abc,\"' é", max_size=4), st.sampled_from(["", "prefill"])
ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), LABELS, st.floats(0, 1e5), st.floats(0, 100), KINDS), max_size=15
)


def spans(*rows: tuple[object, ...]) -> Spans:
    return Spans(*(np.array([row[place] for row in rows]) for place in range(6)))


def made(rows: list[tuple[int, int, str, float, float, str]]) -> Spans:
    return spans(*((host, lane, label, start, start + length, kind) for host, lane, label, start, length, kind in rows))


THREE = spans((0, 0, "a", 0.0, 1.0, "prefill"), (0, 0, "b", 1.0, 3.0, "decode"), (1, 0, "c", 0.5, 0.5, ""))


def same(one: Spans, other: Spans) -> bool:
    return all(getattr(one, name).tolist() == getattr(other, name).tolist() for name in COLUMNS)


@given(ROWS)
def test_csv_reads_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, str, float, float, str]]
) -> None:
    path = tmp_path_factory.mktemp("spans") / "spans.csv"
    made(rows).to_csv(path)
    assert same(Spans.from_csv(path), made(rows))


@given(ROWS)
def test_trace_reads_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, str, float, float, str]]
) -> None:
    path = tmp_path_factory.mktemp("spans") / "trace.json"
    made(rows).to_trace(path)
    again = Spans.from_trace(path)
    for name in ("host", "lane", "label", "kind"):
        assert getattr(again, name).tolist() == getattr(made(rows), name).tolist()
    np.testing.assert_allclose(again.start, made(rows).start, rtol=1e-12)
    np.testing.assert_allclose(again.end, made(rows).end, rtol=1e-12)


def test_trace_is_what_viewers_expect(tmp_path: Path) -> None:
    THREE.to_trace(tmp_path / "trace.json", {1: "decode replica"})
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {0: "host 0", 1: "decode replica"}
    assert {"ph": "X", "name": "b", "cat": "decode", "pid": 0, "tid": 0, "ts": 1e6, "dur": 2e6} in events


def test_columns_read_back_and_kind_may_be_absent() -> None:
    assert same(Spans.from_columns(THREE.columns()), THREE)
    columns = {name: column for name, column in THREE.columns().items() if name != "kind"}
    assert Spans.from_columns(columns).kind.tolist() == ["", "", ""]
    with pytest.raises(InputError, match="column label is missing"):
        Spans.from_columns({"host": [], "lane": []})
    with pytest.raises(ValueError, match="read-only"):
        THREE.start[0] = 5.0


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (2.0, 1.0, r"row 1: a span must not end before it starts, found \[2.0, 1.0\)"),
        (np.nan, 1.0, "row 1: start"),
        (0.0, np.inf, "row 1: end"),
    ],
)
def test_spans_refuse(start: float, end: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        spans((0, 0, "a", 0.0, 1.0, ""), (0, 0, "b", start, end, ""))


def test_spans_refuse_unequal_columns() -> None:
    with pytest.raises(InputError, match="column lane has shape"):
        Spans.from_columns({"host": [0], "lane": [0, 1], "label": ["a"], "start": [0.0], "end": [1.0]})


def test_a_window_keeps_or_cuts() -> None:
    assert THREE.window(0.5, 2.0).label.tolist() == ["a", "b", "c"]
    assert THREE.window(1.0, 2.0).label.tolist() == ["b"]
    cut = THREE.window(0.5, 2.0, cut=True)
    assert cut.start.tolist() == [0.5, 1.0, 0.5]
    assert cut.end.tolist() == [1.0, 2.0, 0.5]
    assert THREE.window(0.6, 0.9).label.tolist() == ["a"]
    assert len(THREE.window(5.0, 6.0)) == 0


def test_overlaps_are_named() -> None:
    THREE.check()
    crossing = spans(
        (0, 0, "a", 0.0, 2.0, ""), (0, 1, "b", 1.0, 3.0, ""), (0, 0, "c", 1.5, 1.75, ""), (0, 0, "d", 1.6, 1.6, "")
    )
    assert crossing.overlaps().tolist() == [[0, 2]]
    with pytest.raises(InputError, match=r"rows 0 and 2: a lane holds one span at a time, found \[0.0, 2.0\)"):
        crossing.check()


@given(ROWS)
def test_an_overlap_is_found_where_there_is_one(rows: list[tuple[int, int, str, float, float, str]]) -> None:
    drawn = made(rows)
    number = range(len(drawn))
    crossing = any(
        drawn.host[a] == drawn.host[b] and drawn.lane[a] == drawn.lane[b]
        and max(drawn.start[a], drawn.start[b]) < min(drawn.end[a], drawn.end[b])
        for a in number for b in number if a < b
    )  # fmt: skip
    assert bool(len(drawn.overlaps())) == crossing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the header"),
        ("host,lane\n", "line 1: expected the header"),
        (",".join(COLUMNS) + "\n0,0,a,0,1,\n0,0,a,x,1,\n", "line 3: not a span"),
        (",".join(COLUMNS) + "\n0,0,a\n", "line 2: not a span"),
    ],
)
def test_csv_refuses(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "spans.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        Spans.from_csv(tmp_path / "spans.csv")


@pytest.mark.parametrize("text", ["", "[]", '{"traceEvents": [{"ph": "X"}]}', '{"traceEvents": [3]}'])
def test_trace_refuses(tmp_path: Path, text: str) -> None:
    (tmp_path / "trace.json").write_text(text)
    with pytest.raises(InputError, match="not a Chrome trace"):
        Spans.from_trace(tmp_path / "trace.json")
    with pytest.raises(InputError, match="cannot be read"):
        Spans.from_csv(tmp_path / "absent.csv")
