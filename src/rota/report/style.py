"""How the figures look: one colour a policy, in a light and a dark version, and how numbers are written.

The eight colours were searched for so that every pair stays apart for people with protanopia, deuteranopia and
tritanopia too (Machado, Oliveira and Fernandes, A physiologically-based model for simulation of color vision
deficiency, 2009): the closest pair is 0.09 apart in OKLab. A ninth policy starts the colours again with a dashed line.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10
from typing import Any

import plotly.graph_objects as go

INK, MUTED, GRID, PAPER, ACCENT = "#1d1c1a", "#6a675f", "#e7e3da", "#fbfaf7", "#b8410e"
PALETTE = ("#3b6ce3", "#cf9022", "#046971", "#810103", "#2ead98", "#660580", "#975e0e", "#a78df2")
DARK = {  # what each light colour becomes on a dark page
    INK: "#ece9e3", MUTED: "#a19d94", GRID: "#2d2e34", PAPER: "#15161a", ACCENT: "#ff9a6b",
    "#3b6ce3": "#5972ef", "#cf9022": "#df9211", "#046971": "#92e8fd", "#810103": "#d24010",
    "#2ead98": "#67af9a", "#660580": "#ac559e", "#975e0e": "#fdd788", "#a78df2": "#cc94fd",
}  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "diamond", "square", "triangle-up")
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"


@dataclass(frozen=True)
class Look:
    """How one policy is drawn, in every figure."""

    colour: str
    dash: str
    symbol: str


def looks(policies: Sequence[str]) -> dict[str, Look]:
    """One look a policy, in the order of the scenario, so that it does not change with the ranking."""
    size = len(PALETTE)
    return {
        name: Look(PALETTE[i % size], DASHES[i // size % len(DASHES)], SYMBOLS[i // size % len(SYMBOLS)])
        for i, name in enumerate(policies)
    }


def plain(value: object) -> str:
    """Text that plotly shows as it is: neither its HTML subset nor a ``%{...}`` of a hover template is interpreted."""
    return escape(str(value)).replace("%{", "%&#123;")


def short(value: str, length: int = 26) -> str:
    """Cut a long name in the middle, because both its ends tell it from its neighbours."""
    if len(value) <= length:
        return value
    head = (length - 1) * 2 // 3
    return f"{value[:head]}\N{HORIZONTAL ELLIPSIS}{value[head + 1 - length :]}"


def scale_of(values: Iterable[float], unit: str) -> tuple[float, str]:
    """The factor and unit in which seconds are best read; any other unit is left as it is."""
    known = [abs(value) for value in values if isfinite(value) and value != 0]
    return (1000.0, "ms") if unit == "s" and known and min(known) < 0.5 and max(known) < 100 else (1.0, unit)


def decimals(values: Iterable[float]) -> int:
    """Decimals that give the smallest of ``values`` three significant digits, at most six."""
    known = [abs(value) for value in values if isfinite(value) and value != 0]
    return min(6, max(0, 2 - floor(log10(min(known))))) if known else 0


def number(value: float, digits: int) -> str:
    """A number with ``digits`` decimals and narrow spaces between thousands; a dash when it is not known."""
    return f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}") if isfinite(value) else "\N{EN DASH}"


def quantity(value: float, unit: str) -> str:
    """One number with its unit, three significant digits: ``132 ms``, ``4.21 s``."""
    factor, unit = scale_of([value], unit)
    return f"{number(value * factor, decimals([value * factor]))} {unit}".rstrip()


def log_axis(low: float, high: float, unit: str) -> dict[str, Any]:
    """Properties of a logarithmic axis from ``low`` to ``high``, with ticks that people read: 20 ms, 0.5 s, 10 s."""
    steps = [(m, m * 10.0**e) for e in range(-12, 13) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    ticks = [t for _, t in steps] if len(steps) <= 6 else [t for m, t in steps if m == 1]
    if len(ticks) < 3:
        size = 10.0 ** floor(log10(max(high - low, 1e-12)))
        ticks = [t for i in range(int(low / size), int(high / size) + 2) if low <= (t := i * size) <= high]
        ticks = ticks[:: max(1, len(ticks) // 5)]
    names = [f"{t * 1000:g} ms" if unit == "s" and t < 0.1 else f"{t:g} {plain(unit)}".rstrip() for t in ticks]
    return {"type": "log", "range": [log10(low), log10(high)], "tickvals": ticks, "ticktext": names}


def figure(x: str, y: str = "", **axes: Any) -> go.Figure:
    """An empty figure in the style of the page; ``axes`` are further properties of the x axis."""
    axis = {
        "gridcolor": GRID,
        "linecolor": MUTED,
        "zeroline": False,
        "ticks": "",
        "automargin": True,
        "tickcolor": MUTED,
    }
    return go.Figure(
        layout={
            "template": {},
            "font": {"family": FONT, "size": 13, "color": INK},
            "paper_bgcolor": PAPER,
            "plot_bgcolor": PAPER,
            "margin": {"l": 8, "r": 14, "t": 10, "b": 8},
            "showlegend": False,
            "hovermode": "closest",
            "hoverlabel": {"bgcolor": PAPER, "bordercolor": MUTED, "font": {"color": INK, "family": FONT}},
            "xaxis": {**axis, "title": {"text": plain(x), "font": {"color": MUTED, "size": 12}}, **axes},
            "yaxis": {**axis, "title": {"text": plain(y), "font": {"color": MUTED, "size": 12}}},
        }
    )
