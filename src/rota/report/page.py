"""The report of a study: one HTML file that needs nothing else, neither a network nor another file."""

import gzip
import json
import os
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from math import isfinite
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import plotly.graph_objects as go
import polars as pl
import yaml
from plotly.offline import get_plotlyjs

from rota.kernel.errors import InputError
from rota.report.figures import cdf, distributions, goodput, league_dots, over_time, profile, quantities
from rota.report.gantt import gantt, window
from rota.report.league import (
    answer,
    chance,
    explain,
    family,
    headline,
    in_order,
    lead,
    lines,
    method,
    title_of,
    troubles,
    unit_of,
)
from rota.report.style import DARK, Look, looks, quantity

if TYPE_CHECKING:
    from rota.study.statistics import LeagueRow
    from rota.study.store import Study


class Book:
    """The figures of a page, by id, as they are collected."""

    def __init__(self) -> None:
        """Start empty."""
        self.figures: dict[str, Any] = {}

    def keep(self, drawn: go.Figure) -> str:
        """Keep a figure; its id."""
        name = f"f{len(self.figures)}"
        self.figures[name] = json.loads(drawn.to_json())
        return name

    def place(self, drawn: go.Figure | None, title: str, caption: str = "", tall: int = 320) -> str:
        """The HTML at which the page draws a figure; empty when there is none."""
        if drawn is None:
            return ""
        name = self.keep(drawn)
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        over = f"<h3>{escape(title)}</h3>" if title else ""
        shown = f'id="p{name}" data-figure="{name}" style="--tall:{tall}px" role="img" aria-label="{escape(title or caption)}"'
        return f'<figure>{over}<div class="plot" {shown}></div>{below}</figure>'


def write_page(study: "Study", league: Sequence["LeagueRow"], path: Path) -> None:
    """Write the report as one self-contained HTML file, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    write_text(page(study, league), path)


def write_text(text: str, path: Path) -> None:
    """Write a file whole or not at all. Raises InputError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror or error}; choose another folder") from error


def page(study: "Study", league: Sequence["LeagueRow"]) -> str:
    """The text of the report."""
    look = looks(study.policies)
    order = [row.policy for row in league]
    book = Book()
    main = "\n".join(part for part in _sections(study, league, order, look, book) if part)
    return assemble(
        book,
        order,
        title=headline(study, league),
        kicker=f"{study.world} · {study.folder.name}",
        answer=answer(study, league),
        facts=_facts(study, league),
        alerts=_alerts(study, league),
        main=main,
        version=str(study.manifest.get("rota", "")),
    )


def assemble(
    book: Book,
    policies: Sequence[str],
    *,
    title: str,
    kicker: str,
    answer: str,
    facts: str,
    alerts: str,
    main: str,
    version: str,
) -> str:
    """The page around its parts. `title`, `kicker` and `answer` are plain text; `facts`, `alerts` and `main` are HTML."""
    data = {"figures": book.figures, "dark": DARK, "policies": list(policies)}
    return Template(_asset("page.html")).substitute(
        title=escape(f"{title} - rota"),
        style=_asset("page.css"),
        kicker=f"<b>rota</b> &middot; {escape(kicker)}",
        headline=escape(title),
        answer=escape(answer),
        facts=facts,
        alerts=alerts,
        main=main,
        footer=f"Made by rota {escape(version)}. This page is one file and needs no network.",
        figures=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        plotly=b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode() if book.figures else "",
        script=_asset("page.js"),
    )


def _asset(name: str) -> str:
    return (files("rota.report") / name).read_text(encoding="utf-8")


def _sections(
    study: "Study", league: Sequence["LeagueRow"], order: list[str], look: dict[str, Look], book: Book
) -> Iterator[str]:
    if league:
        yield _chips(order, look)
        yield _league(study, league, look, book)
        yield _distributions(study, order, look, book)
        yield _profile(study, order, look, book)
        yield _goodput(study, order, look, book)
        yield _over_time(study, order, look, book)
        yield _gantt(study, order, book)
    yield _setting(study)


def _facts(study: "Study", league: Sequence["LeagueRow"]) -> str:
    """Four numbers that most readers came for."""
    if not league:
        return ""
    ranked, unit = in_order(league), unit_of(study)
    best = (ranked or league)[0]
    shown = [
        (
            title_of(study),
            quantity(best.mean, unit),
            f"{quantity(best.low, unit)} to {quantity(best.high, unit)} (95 %)" if isfinite(best.low) else "",
        )
    ]
    if len(ranked) > 1:
        p = chance(ranked[1].p_value)
        shown.append(
            (
                "ahead of the runner-up",
                lead(best, ranked[1]),
                f"p {p}" if p.startswith("<") else f"p = {p}" if p else "",
            )
        )
    if isfinite(best.gap):
        shown.append(
            ("from the bound", f"{abs(100 * best.gap):.0f} %", f"bound {quantity(study.bounds[study.objective], unit)}")
        )
    jobs = f"{study.outcomes.height:,}".replace(",", "\u202f") + " jobs"
    shown.append(
        (
            "runs",
            str(study.summary.height),
            f"{len(league)} policies, {len(study.seeds)} {'seed' if len(study.seeds) == 1 else 'seeds'}, {jobs}",
        )
    )
    return facts(shown)


def facts(shown: Iterable[tuple[str, str, str]]) -> str:
    """Large figures side by side: name, value and a small addition of each."""
    cells = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>"
        for name, value, more in shown
    )
    return f'<dl class="facts">{"".join(cells)}</dl>'


def _alerts(study: "Study", league: Sequence["LeagueRow"]) -> str:
    """What went wrong or needs saying, before anything is believed."""
    said = troubles(study, league)
    return (
        f'<div class="alert" role="note"><ul>{"".join(f"<li>{escape(each)}</li>" for each in said)}</ul></div>'
        if said
        else ""
    )


def _dot(look: Look) -> str:
    """The mark of a policy; hollow where its colour is used a second time."""
    second = "" if look.dash == "solid" else " second"
    return f'<span class="dot{second}" style="--light:{look.colour};--dark:{DARK[look.colour]}"></span>'


def _chips(order: list[str], look: dict[str, Look]) -> str:
    if len(order) < 2:
        return ""
    chips = (
        '<button type="button" class="chip" aria-pressed="true" title="Show or hide; double-click for this one alone" '
        f'data-policy="{escape(name)}">{_dot(look[name])}<i>{escape(name)}</i></button>'
        for name in order
    )
    return f'<nav class="chips" aria-label="Policies to show"><span>Show</span>{"".join(chips)}</nav>'


def _league(study: "Study", league: Sequence["LeagueRow"], look: dict[str, Look], book: Book) -> str:
    rows, unit = lines(study, league)
    in_unit = f" ({unit})" if unit else ""
    quantiles = [name.rsplit("_", 1)[1] for name in family(study)]
    heads = [("", "rank"), ("policy", "policy"), (f"mean{in_unit}", "num"), ("95 % interval", "num")]
    heads += [(f"{name}{in_unit}", "num") for name in quantiles]
    heads += [("behind the best", "num"), ("p", "num"), ("gap to bound", "num"), ("knew", "knew")]
    body = []
    for row in rows:
        cells = [
            row.rank,
            "",
            row.mean,
            row.interval,
            *row.quantiles,
            row.behind + (" (tied)" if row.tied else ""),
            row.p,
            row.gap,
            row.knew,
        ]
        written = [
            f'<td class="{kind}{"" if cell or kind == "policy" else " empty"}" data-label="{escape(head)}">{escape(cell)}</td>'
            for (head, kind), cell in zip(heads, cells, strict=True)
        ]
        written[1] = f'<td class="policy" data-rank="{row.rank}.">{_dot(look[row.policy])}{escape(row.policy)}</td>'
        body.append(f"<tr{' class=best' if row.rank == '1' else ''}>{''.join(written)}</tr>")
    head = "".join(f'<th class="{kind}" scope="col">{escape(text)}</th>' for text, kind in heads)
    dots = book.place(
        league_dots(study, league, look), "", "Dot: mean. Bar: 95 % interval. Ticks: single seeds.", 84 + 36 * len(rows)
    )
    return (
        f'<section id="league"><h2>League</h2><p class="note">{escape(title_of(study))}, {escape(method(study, league))}</p>{dots}'
        f'<table class="league"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
        f"<details><summary>What the columns mean</summary>{_pairs(explain(quantiles))}</details></section>"
    )


def _distributions(study: "Study", order: list[str], look: dict[str, Look], book: Book) -> str:
    parts = [book.place(cdf(study, column, order, look), title) for column, title in distributions(study).items()]
    return _grid(
        "Distributions",
        "Share of jobs at or below a value, all seeds together. Further left is faster; a curve that ends below 100 % has jobs that never finished. "
        "The thick line is the best of the league.",
        parts,
    )


def _profile(study: "Study", order: list[str], look: dict[str, Look], book: Book) -> str:
    drawn = profile(study, order, look)
    note = "Share of instances on which a solver's value is within so much of the best value that any solver found; higher is better."
    return _grid("Performance profile", note, [book.place(drawn, "")])


def _goodput(study: "Study", order: list[str], look: dict[str, Look], book: Book) -> str:
    names = [name for name in study.summary.columns if name.startswith(("goodput", "slo_"))]
    parts = [book.place(goodput(study, name, order, look), "", tall=70 + 32 * len(order)) for name in names]
    return _grid(
        "Within the objective", "What was served within the limits that the scenario asks for; longer is better.", parts
    )


def _over_time(study: "Study", order: list[str], look: dict[str, Look], book: Book) -> str:
    found = quantities(study)
    if not found:
        return ""
    seed = int(study.series["seed"].min() or 0)  # type: ignore[arg-type]
    parts = [book.place(over_time(study, name, seed, order, look), title, tall=260) for name, title in found.items()]
    return _grid(
        "Over time",
        f"Seed {seed}. Counts are added up over all hosts, shares are averaged. Drag to zoom, double-click to go back.",
        parts,
    )


def _grid(title: str, note: str, parts: Sequence[str]) -> str:
    shown = [part for part in parts if part]
    if not shown:
        return ""
    kind = "grid three" if len(shown) % 3 == 0 else "grid"
    return f'<section><h2>{escape(title)}</h2><p class="note">{escape(note)}</p><div class="{kind}">{"".join(shown)}</div></section>'


def _gantt(study: "Study", order: list[str], book: Book) -> str:
    """A window of the schedule: the winner's at first, any other by choice."""
    if study.spans.is_empty():
        return ""
    seed = int(study.spans["seed"].min() or 0)  # type: ignore[arg-type]
    choices, first, cut = [], "", False
    for policy in order:
        rows = study.spans.filter((pl.col("policy") == policy) & (pl.col("seed") == seed))
        if rows.is_empty():
            continue
        shown = window({name: rows[name].to_numpy() for name in ("host", "lane", "label", "start", "end")})
        cut = cut or len(shown["start"]) < rows.height
        tall = 110 + min(1200, 34 * len(set(zip(shown["host"].tolist(), shown["lane"].tolist(), strict=True))))
        name = book.keep(gantt(shown))
        first = (
            first
            or f'<figure><div class="plot" id="gantt" data-figure="{name}" style="--tall:{tall}px"></div></figure>'
        )
        choices.append(f'<option value="{name}" data-tall="{tall}px">{escape(policy)}</option>')
    select = f'<select data-for="gantt" aria-label="Policy">{"".join(choices)}</select>' if len(choices) > 1 else ""
    note = f"What ran where, seed {seed}. Drag to zoom, double-click to go back." + (
        " Only the first spans of the window are drawn." if cut else ""
    )
    return (
        f'<section><div class="head"><h2>Schedule</h2>{select}</div><p class="note">{escape(note)}</p>{first}</section>'
        if first
        else ""
    )


def _setting(study: "Study") -> str:
    """The scenario, the machine and the files: folded, because few need them and those who do need them exactly."""
    scenario = yaml.safe_dump(study.scenario, sort_keys=False, allow_unicode=True, width=100)
    names = (
        sorted(each.name for each in study.folder.iterdir() if each.is_file() and not each.name.startswith("."))
        if study.folder.is_dir()
        else []
    )
    links = "".join(f'<li><a href="{quote(name)}">{escape(name)}</a></li>' for name in names if name != "report.html")
    manifest = _flat(study.manifest)
    parts = [
        f"<details open><summary>Setting</summary>{_pairs(study.describe)}</details>" if study.describe else "",
        f"<details><summary>Scenario</summary><pre>{escape(scenario)}</pre></details>",
        f"<details><summary>Environment</summary>{_pairs(manifest)}</details>" if manifest else "",
        f"<details><summary>Files</summary><ul>{links}</ul></details>" if links else "",
    ]
    return f"<section><h2>How it was run</h2>{''.join(parts)}</section>"


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return f'<dl class="pairs">{"".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(text))}</dd>" for name, text in pairs)}</dl>'


def _flat(tree: Mapping[str, Any], over: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (dotted name, text) pairs."""
    pairs: list[tuple[str, str]] = []
    for name, value in tree.items():
        pairs += _flat(value, f"{over}{name}.") if isinstance(value, Mapping) else [(f"{over}{name}", str(value))]
    return pairs
