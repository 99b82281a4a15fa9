"""What all figures are made of: data for plotly, with the table behind each.

    Figure(name="pareto", title=…, traces=[…], layout={…}, columns=(…), rows=[…])

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; symbols, dashes and patterns differ as well.

Invariant: plotly reads a little HTML in labels, so every name passes through `safe`; no template is made from a name.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from secateur.core.json import Json
from secateur.core.text import visible

Trace: TypeAlias = dict[str, Json]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "x", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot")
MOST_BARS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure; ``columns`` and ``rows`` are the same as a table."""

    name: str
    title: str
    caption: str
    traces: list[Trace]
    layout: Trace = field(default_factory=dict)
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def safe(name: object) -> str:
    """A name as plotly shows it: text, whatever is in it."""
    return html.escape(visible(name), quote=False).replace("$", "&#36;")  # two dollars would ask for MathJax


def marker(number: int) -> Trace:
    """A colour and a symbol that go together."""
    return {"color": PALETTE[number % len(PALETTE)], "symbol": SYMBOLS[number % len(SYMBOLS)]}


def axes(x: str, y: str, **more: Json) -> Trace:
    """A layout with these two axes."""
    return {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, **more}


def bar(title: str, names: Sequence[str], values: Sequence[float], number: int) -> Trace:
    """Horizontal bars."""
    pattern: Trace = {"shape": ("", "/", ".", "")[number % 4], "solidity": 0.3, "fillmode": "overlay"}
    return {
        "type": "bar",
        "orientation": "h",
        "name": safe(title),
        "y": [safe(name) for name in names],
        "x": list(values),
        "marker": {"color": PALETTE[number % len(PALETTE)], "pattern": pattern},
    }


def bars(number: int, unit: str) -> Trace:
    """The layout of so many horizontal bars."""
    return {
        "barmode": "group",
        "height": 160 + 26 * number,
        "xaxis": {"title": {"text": unit}},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
    }
