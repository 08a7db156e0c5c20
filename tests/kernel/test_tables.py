"""Tables: read-only dense columns, and words for what is not there."""

import pickle
from copy import deepcopy

import numpy as np
import pytest

from rota.kernel.errors import NotRevealed
from rota.kernel.tables import JOB_COLUMNS, Column, Jobs

COLUMNS = (*JOB_COLUMNS.values(), Column("output_tokens", "tokens", quality="hidden"))


def table() -> Jobs:
    return Jobs({"id": np.arange(3), "release": np.array([0.0, 1.0, 2.0])}, COLUMNS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("size", "column size was not declared: add it to `reads`"),
        ("output_tokens", "column output_tokens is hidden in this scenario"),
        ("colour", "there is no column colour here"),
    ],
)
def test_what_is_not_revealed_is_said(name: str, message: str) -> None:
    with pytest.raises(NotRevealed, match=message):
        getattr(table(), name)


def test_columns_are_own_read_only_copies() -> None:
    source = np.array([3.0, 4.0])
    jobs = Jobs({"size": source})
    source[0] = 9.0
    assert jobs.size.tolist() == [3.0, 4.0]
    assert len(jobs) == 2
    assert jobs.names == ("size",)
    with pytest.raises(ValueError, match="read-only"):
        jobs.size[0] = 1.0
    with pytest.raises(ValueError, match="column b has 1 rows"):
        Jobs({"a": np.zeros(2), "b": np.zeros(1)})


def test_tables_can_be_copied_and_pickled() -> None:
    for again in (deepcopy(table()), pickle.loads(pickle.dumps(table()))):
        assert again.release.tolist() == [0.0, 1.0, 2.0]
        assert len(again) == 3
    assert not hasattr(table(), "__array__")


def test_a_column_says_how_far_it_can_be_trusted() -> None:
    assert str(Column("size", quality="estimated", by="mean")) == "size (estimated by mean)"
    assert str(Column("queued", quality="stale", as_of=30.0)) == "queued (stale, up to 30 s)"
    assert table().column("size").unit == "s"
    assert len(Jobs({}, rows=4)) == 4
