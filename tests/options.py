"""The page of all options, written from the options themselves.

python -m tests.options     writes docs/options.md
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import get_type_hints

import secateur as sc
from secateur.core.options import Option, Options, described_options, shown_value, type_name

PAGE = Path(__file__).parent.parent / "docs" / "options.md"

MODES = ("Progressive", "FastNAS", "GradNAS", "Magnitude", "Activation", "Minitron")
PRUNERS = ("IterativePruner", "OneStepPruner", "Sparsifier")

_HEAD = """# All options

Written from the options themselves: `python -m tests.options`. `print(sc.modes.FastNAS())` shows the same
table. A mode's options are the `config` of `secateur.prune`; a key that nobody knows is an error that names the nearest one.
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [_HEAD]
    for name in MODES:
        mode = getattr(sc.modes, name)
        parts += [
            f'## `mode="{mode_name(mode)}"`\n',
            first_line(mode),
            table(own(mode, sc.modes.Mode)),
        ]
    parts += ["## Every mode\n", first_line(sc.modes.Mode), table(own(sc.modes.Mode, sc.Limits))]
    parts += [
        "## `limits`\n",
        first_line(sc.Limits) + "Every mode has them among its options.\n",
        table(own(sc.Limits, Options)),
    ]
    parts += [
        "## `finetune`\n",
        "The `config` of `secateur.training.finetune`.\n",
        table(own(sc.training.FinetuneConfig, Options)),
    ]
    for name in PRUNERS:
        parts += [f"## `pruners.{name}`\n", *tables_of_calls(getattr(sc.pruners, name))]
    return "\n".join(parts)


def mode_name(mode: type) -> str:
    """The name that a mode is asked for by."""
    return next(name for name in sc.modes.MODES if name == mode.__name__.lower())


def own(kind: type[Options], base: type[Options]) -> list[Option]:
    """The options that a kind declares beyond, or otherwise than, its base."""
    known = described_options(base) if base.model_fields else []
    return [option for option in described_options(kind) if option not in known]


def arguments(call: Callable[..., object], explained: str) -> Iterator[Option]:
    """The arguments of a call; what they mean is the sentence of the docstring that names them."""
    hints = get_type_hints(call)
    for name, parameter in inspect.signature(call).parameters.items():
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD:
            default = "needed" if parameter.default is parameter.empty else shown_value(parameter.default)
            yield Option(name=name, meaning=sentence(name, explained), type=said(hints[name]), default=default)


def sentence(name: str, text: str) -> str:
    """The first sentence of a docstring that names an argument; empty where none does."""
    sentences = re.split(r"(?<=[.:])\s+(?=[A-Z`])|(?<=;)\s+|\n\n", text)
    naming = [" ".join(s.split()) for s in sentences if re.search(rf"``{name}\b", s)]
    found = min(naming, key=lambda s: s.index(f"``{name}"), default="")
    return found.replace("``", "`").rstrip(";.:")


def said(hint: object) -> str:
    """A type as the tables of options say it."""
    return type_name(hint)


def first_line(kind: type) -> str:
    """The docstring, as Markdown."""
    return inspect.cleandoc(kind.__doc__ or "").replace("``", "`") + "\n"


def tables_of_calls(kind: type) -> Iterator[str]:
    """A table for the constructor and each method that takes arguments."""
    calls = {"": kind.__init__} | {name: call for name, call in vars(kind).items() if inspect.isfunction(call)}
    for name, call in calls.items():
        rows = [] if name.startswith("_") else list(arguments(call, (kind if name == "" else call).__doc__ or ""))
        if rows:
            yield f"`{kind.__name__}(…)`\n" if name == "" else f"`.{name}(…)`\n"
            yield table(rows)


def table(options: Iterable[Option]) -> str:
    """Options as a Markdown table. (A bar in a cell is read in other ways by other readers: alternatives are joined by "or".)"""
    rows = [(f"`{o.name}`", o.meaning, f"`{o.type}`", f"`{o.default}`") for o in options]
    lines = [("option", "meaning", "type", "default"), ("---",) * 4, *rows]
    return "".join(f"| {' | '.join(cell.replace(' | ', ' or ') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
