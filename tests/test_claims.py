"""Benches of published claims write their own pages: each table has its mark there and its columns, and nothing else on the page is touched."""

from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from bench import (
    claims_classes,
    claims_fleets,
    claims_inside,
    claims_mechanisms,
    claims_prefix,
    claims_priorities,
    claims_programs,
)
from bench.claims import Table, command, factor, line, once, percent, put

DOCS = Path(__file__).parents[1] / "docs"
PAGE = """# A page

Words | that are no table.

<!-- table: one -->

| load | policy | times |
|---|---|---|
| old | a | 1 |
| old | b | 2 |

<!-- table: two wide -->

| load | times |
|---|---|
| kept | 3 |

The end.
"""


def tables_of(name: str) -> list[Table]:
    """All tables of a bench; no row is made."""
    given = Namespace(data=Path("data"), seeds=1, loads=Path("loads.csv"), pairs=None)
    benches = {
        "inside": claims_inside.tables,
        "classes": claims_classes.tables,
        "fleets": claims_fleets.tables,
        "mechanisms": lambda given: [*claims_mechanisms.tables(given), *claims_priorities.tables(given)],
        "programs": claims_programs.tables,
        "prefix": lambda given: claims_prefix.tables(given, Path()),
    }
    return list(benches[name](given))


@pytest.mark.parametrize("name", ["inside", "classes", "fleets", "mechanisms", "programs", "prefix"])
def test_every_table_has_its_place_and_every_place_its_table(name: str) -> None:
    pages = [DOCS / f"what-holds-up/{name}.md", *([DOCS / "worlds/serving-prefix.md"] if name == "prefix" else [])]
    found: dict[str, int] = {}
    for page in pages:
        for piece in page.read_text().split("<!-- table: ")[1:]:
            mark, rest = piece.split(" -->\n", 1)
            assert mark not in found
            header = next(row for row in rest.splitlines() if row)
            assert header.startswith("|"), f"{mark}: a mark is followed by a table"
            found[mark] = header.count("|") - 1
    assert {table.name: len(table.titles) for table in tables_of(name)} == found


def test_a_table_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    put(page, "one", [line("new", "a", "9")])
    assert page.read_text() == PAGE.replace("| old | a | 1 |\n| old | b | 2 |\n", "| new | a | 9 |\n")
    with pytest.raises(ValueError, match="no line <!-- table: three -->"):
        put(page, "three", [])
    before = page.read_text()
    with pytest.raises(ValueError, match=r"table one has other columns than this row: \| new \| 9 \|"):
        put(page, "one", [line("new", "9")])
    assert page.read_text() == before


def made(rows: Iterable[str], log: list[str]) -> Iterator[str]:
    for row in rows:
        log.append(row)
        yield row


def test_the_command_line_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, log = tmp_path / "page.md", list[str]()
    page.write_text(PAGE)

    def tables(given: Namespace) -> Iterator[Table]:
        assert given.seeds == 3
        assert given.extra is None
        yield Table("one", ("load", "policy", "times"), made([line("x", "a", "1"), line("", "b", "2")], log))
        yield Table("two wide", ("load", "times"), made([line("y", "4")], log))

    def called(*words: str) -> None:
        monkeypatch.setattr("sys.argv", ["bench", "--data", ".", "--seeds", "3", *words])
        command("What it does.", ("one", "two"), tables, "extra")

    called("--only", "two")
    assert page.read_text() == PAGE
    assert capsys.readouterr().out == "\ntwo wide\n\n| load | times |\n|---|---|\n| y | 4 |\n"
    called("--write", str(page))
    assert page.read_text() == PAGE.replace(
        "| old | a | 1 |\n| old | b | 2 |\n", "| x | a | 1 |\n| | b | 2 |\n"
    ).replace("| kept | 3 |", "| y | 4 |")
    other = tmp_path / "other.md"
    other.write_text("nothing\n")
    log.clear()
    with pytest.raises(SystemExit, match=r"no line <!-- table: one --> in .*other\.md; choose other tables"):
        called("--write", str(other))
    assert not log  # before anything is run
    with pytest.raises(SystemExit):
        called("--only", "three")


def test_how_numbers_are_written() -> None:
    assert factor(1.234, 1.0, 12.345) == "1.23 (1.00 - 12.35)"
    assert factor(0.00034, 0.0, 0.5) == "0.0003 (0.00 - 0.50)"
    assert factor(1234.5, 0.0123, 2.0, ".3g") == "1.23e+03 (0.0123 - 2)"
    assert [percent(share) for share in (0.9996, 0.9962, 0.994, 0.5, 0.064, 0.0, 1.0)] == [
        "99.9",
        "99.6",
        "99",
        "50",
        "6",
        "0",
        "100",
    ]
    assert [percent(share, 1) for share in (0.4087, 0.0)] == ["40.9", "0.0"]
    rows = [line("a", "1"), line("a", "2"), line("b", "3"), line("a", "4")]
    assert list(once(rows)) == ["| a | 1 |", "| | 2 |", "| b | 3 |", "| a | 4 |"]
