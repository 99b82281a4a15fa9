"""The command line.

    secateur inspect timm:resnet18 --input 1x3x224x224    what can be narrowed, what cannot and why, what it costs
    secateur demo                                         train, prune, fine-tune, verify, save, export, compare
    secateur doctor                                       versions and devices

Exit codes: 0 fine, 2 the request is not usable, 3 no network meets the budget, 4 verification failed.

Invariant: what is printed is data; no name can colour, rewrite or reorder the terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from secateur.core.text import visible
from secateur.errors import Infeasible, SecateurError, VerificationError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_out, _err = Console(highlight=False, markup=False), Console(stderr=True, highlight=False, markup=False)


@app.callback()
def secateur() -> None:
    """Structured pruning: remove whole channels, heads and hidden units, under a budget, and prove the result."""


@app.command()
def inspect(
    spec: Annotated[str, typer.Argument(help="timm:NAME, torchvision:NAME or hf:MODEL_TYPE, built without weights")],
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="1x3x224x224, ids:1x16 for tokens, name=… for a keyword argument; repeatable"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print data instead of tables")] = False,
    everything: Annotated[bool, typer.Option("--all", help="every width on a line of its own")] = False,
) -> None:
    """Show what of an architecture can be narrowed, what is frozen and why, and what it costs."""
    with _exit_codes():
        from secateur.cli.inspecting import inspect_data, inspect_text, trace_spec

        graph = trace_spec(spec, inputs or [])
        _print(json.dumps(inspect_data(graph), indent=2) if as_json else inspect_text(graph, everything))


@app.command()
def demo(
    seeds: Annotated[int, typer.Option(min=1, max=100, help="how many times to repeat, each with another seed")] = 1,
    folder: Annotated[str, typer.Option("--out", help="where to leave the artefact and the ONNX file")] = "",
) -> None:
    """Train a small network on real digits, prune it to 40 % of its MACs, and compare before and after."""
    with _exit_codes():
        from secateur.cli.demo import run

        run(seeds=seeds, folder=folder or None)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="print data instead of a table")] = False) -> None:
    """Show versions, devices, and what is missing or known not to work."""
    with _exit_codes():
        from secateur.cli.doctor import examine, report

        surroundings = examine()
        _print(json.dumps(surroundings, indent=2) if as_json else report(surroundings))


def _print(text: str) -> None:
    # soft_wrap: tables are laid out already; the terminal may scroll but must not rearrange
    _out.print(Text(text), soft_wrap=True)


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Errors of ours become one line on standard error and the exit code that names their kind."""
    try:
        yield
    except SecateurError as error:
        _err.print(Text(f"error: {visible(error)}"), soft_wrap=True)
        code = 3 if isinstance(error, Infeasible) else 4 if isinstance(error, VerificationError) else 2
        raise typer.Exit(code) from None


def main() -> None:
    """The ``secateur`` command."""
    app()
