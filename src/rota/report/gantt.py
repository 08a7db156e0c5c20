"""A window of what ran where, when: one bar a span, one row a lane of a host."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from rota.report.style import PALETTE, PAPER, figure, plain

Array = npt.NDArray[Any]
COLUMNS = ("host", "lane", "label", "start", "end")


def window(spans: Mapping[str, Array], at_most: int = 1200) -> dict[str, Array]:
    """The earliest ``at_most`` spans, by start: a figure with more bars is slow on a phone and shows nothing more."""
    first = np.argsort(np.asarray(spans["start"], float), kind="stable")[:at_most]
    return {name: np.asarray(spans[name])[first] for name in COLUMNS}


def kinds(labels: list[str]) -> list[str]:
    """What a span is, as far as colours go: the first word of its label while at most eight words occur, else the label."""
    words = [found.group() if (found := re.match(r"[^\W\d_]+", label)) else label for label in labels]
    return words if 1 < len(set(words)) <= len(PALETTE) else labels


def gantt(spans: Mapping[str, Array]) -> go.Figure:
    """Draw spans, which have equal-length columns ``host``, ``lane``, ``label``, ``start`` and ``end`` (seconds).

    Rows are hosts and lanes in order of name, numbers by value. Colours tell kinds of work apart where labels begin with few
    different words (``prefill 512``, ``decode``), otherwise single labels, and then they repeat after eight.
    """
    start, end = np.asarray(spans["start"], float), np.asarray(spans["end"], float)
    places = list(zip(map(str, spans["host"]), map(str, spans["lane"]), strict=True))
    ordered = sorted(set(places), key=lambda place: [_natural(part) for part in place])
    row = {place: i for i, place in enumerate(ordered)}
    rows = np.array([row[place] for place in places], dtype=int)
    labels = [str(label) for label in spans["label"]]
    kind = np.array(kinds(labels), dtype=object)
    titles = [plain(_title(place, ordered)) for place in ordered]
    figured = figure("time (s)", showgrid=True)
    names = list(dict.fromkeys(kind.tolist()))
    for i, name in enumerate(names):
        of = np.flatnonzero(kind == name)
        figured.add_bar(
            orientation="h", base=start[of], x=(end - start)[of], y=rows[of], width=0.78, name=plain(name),
            marker={"color": PALETTE[i % len(PALETTE)], "line": {"width": 0.6, "color": PAPER}},
            customdata=[[plain(labels[j]), titles[rows[j]], f"{start[j]:.6g}", f"{end[j]:.6g}"] for j in of],
            hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>%{customdata[2]} to %{customdata[3]} s<extra></extra>",
        )  # fmt: skip
    figured.update_layout(barmode="overlay", showlegend=1 < len(names) <= len(PALETTE))
    figured.update_layout(legend={"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0, "font": {"size": 12}})
    step = max(1, -(-len(ordered) // 40))  # names of at most forty rows
    figured.update_yaxes(
        autorange="reversed", showgrid=False, tickvals=list(range(0, len(ordered), step)), ticktext=titles[::step]
    )
    if len(start):
        figured.update_xaxes(range=[float(start.min()), float(end.max())])
    return figured


def _natural(text: str) -> list[tuple[int, int, str]]:
    """A key by which host 10 comes after host 9."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


def _title(place: tuple[str, str], places: list[tuple[str, str]]) -> str:
    """The host alone where it has a single lane, else host and lane."""
    host, lane = place
    return host if sum(other == host for other, _ in places) == 1 or not lane else f"{host} \N{MIDDLE DOT} {lane}"
