"""The two forms of a report, from templates.

    measurements ──► facts, figures ──► report.html (plotly inlined once)      report.md (tables alone)

Invariant: what is put into HTML is escaped by the template engine, what is put into Markdown by `escaped`; nothing is loaded
from anywhere when a report is opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from secateur.core.measurement import Measurement
from secateur.core.text import human, visible
from secateur.errors import InputError
from secateur.report.drawing import Figure
from secateur.report.facts import Facts
from secateur.report.figures import figures_of
from secateur.version import __version__

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|<>~&$])")


def write_report(measurements: Sequence[Measurement], path: Path, *, title: str, html: bool = True) -> list[Path]:
    """Write ``path`` with the suffixes .md and (with ``html``) .html; the files written.

    Raises InputError without measurements, where HTML is wanted and plotly is missing, and where no file can be written.
    """
    made = {".html": as_html(measurements, title=title)} if html else {}
    made[".md"] = as_markdown(measurements, title=title)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in made.items():
            path.with_name(path.name + suffix).write_text(text, encoding="utf-8", newline="\n")
    except OSError as problem:
        raise InputError(f"the report cannot be written to {visible(path)}: {visible(problem.strerror)}") from None
    return [path.with_name(path.name + suffix) for suffix in made]


def as_html(measurements: Sequence[Measurement], *, title: str) -> str:
    """One page, with everything that it needs inside."""
    facts = _facts(measurements)
    figures = figures_of(facts)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=visible(title),
            facts=facts,
            figures={figure.name: figure for figure in figures},
            figures_json=_as_json(figures),
            plotly=plotly_source(),
            version=__version__,
        )
    )


def as_markdown(measurements: Sequence[Measurement], *, title: str) -> str:
    """The same as tables."""
    facts = _facts(measurements)
    figures = {figure.name: figure for figure in figures_of(facts)}
    text = (
        _environment()
        .get_template("report.md.j2")
        .render(title=title, facts=facts, figures=figures, version=__version__)
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _as_json(figures: Sequence[Figure]) -> str:
    """What the page's own script draws; the characters that could end its element are spelt out."""
    data = {figure.name: {"traces": figure.traces, "layout": figure.layout} for figure in figures}
    text = json.dumps(data, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plotly_source() -> str:
    """The plotting library as JavaScript. Raises InputError where it is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError:
        raise InputError("an HTML report needs plotly; add it with: pip install 'secateur[report]'") from None
    # a script element ends at the first </script, even inside a string
    return re.sub(r"</(script)", r"<\\/\1", get_plotlyjs(), flags=re.IGNORECASE)


def escaped(value: object) -> str:
    """Text as Markdown shows it, whatever is in it, in a cell of a table as well."""
    return _SPECIAL.sub(r"\\\1", visible(value))


def _printed(value: object) -> object:
    """Whatever a template prints, line by line with its control characters spelt out; what is marked as safe is as it is."""
    return value if isinstance(value, Markup) else "\n".join(map(visible, str(value).split("\n")))


def _facts(measurements: Sequence[Measurement]) -> Facts:
    if not measurements:
        raise InputError("a report needs at least one measurement")
    return Facts(tuple(measurements))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("secateur.report", "templates"),
        autoescape=select_autoescape(enabled_extensions=("html", "html.j2"), default=False),
        undefined=StrictUndefined,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "human": human, "md": escaped}
    return environment
