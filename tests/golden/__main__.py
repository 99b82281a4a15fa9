"""Record what the library computes, or check that it still computes it; see the package's docstring.

    python -m tests.golden record FILE.json [--part zoo|modes] [--only GLOB]     with a filter: into the file that is there
    python -m tests.golden check FILE.json [--part zoo|modes] [--only GLOB]

To measure another checkout with this package:  PYTHONPATH=/other/checkout/src python -m tests.golden …
"""

from __future__ import annotations

from . import settings

settings.prepare()  # before anything imports torch

import fnmatch  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from enum import Enum  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated, Any  # noqa: E402

import typer  # noqa: E402

from . import calls  # noqa: E402
from .cases import Cases, all_cases  # noqa: E402
from .compare import differences  # noqa: E402
from .digests import Record  # noqa: E402


class Part(Enum):
    """A part of the proof."""

    zoo = "zoo"
    modes = "modes"


File = Annotated[Path, typer.Argument(help="where the digests are")]
Only = Annotated[str, typer.Option(help="a glob on names, such as '*/progressive*'")]
OfPart = Annotated[Part | None, typer.Option(help="zoo or modes; both if left out")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def record(file: File, part: OfPart = None, only: Only = "*") -> None:
    """Run the cases and write their digests."""
    cases = _asked(part, only)
    kept = json.loads(file.read_text("utf-8"))["cases"] if _is_filtered(part, only) and file.exists() else {}
    failed = 0
    for label, name, found, seconds in _run(cases):
        failed += found is None
        print(f"{label} {name} {'FAILED' if found is None else 'recorded'} {seconds:.1f} s", flush=True)
        if found is not None:
            kept[name] = found
    _write(file, {"surroundings": settings.surroundings(), "cases": kept})
    print(f"{len(cases) - failed} recorded, {failed} failed")
    raise typer.Exit(1 if failed else 0)


@app.command()
def check(file: File, part: OfPart = None, only: Only = "*") -> None:
    """Run the cases again and say what differs."""
    cases = _asked(part, only)
    recorded = json.loads(file.read_text("utf-8"))
    _warn_of_surroundings(recorded["surroundings"])
    expected: dict[str, Record] = {name: r for name, r in recorded["cases"].items() if _is_asked(name, part, only)}
    wrong = [f"{name}: recorded, but there is no such case" for name in expected if name not in cases]
    for label, name, found, seconds in _run(cases):
        lines = differences(expected.get(name), found)
        wrong += [name] if lines else []
        print(f"{label} {name} {'DIFFERS' if lines else 'same'} {seconds:.1f} s", *lines, sep="\n    ", flush=True)
    print("\n".join([*wrong, f"{len(cases)} checked, {len(wrong)} differ"]))
    raise typer.Exit(1 if wrong else 0)


def _asked(part: Part | None, only: str) -> Cases:
    cases = all_cases(part.value if part else None, only)
    if not cases:
        raise typer.BadParameter(f"no case matches {only!r}")
    print(f"{len(cases)} cases of {calls.where()}", flush=True)
    return cases


def _is_asked(name: str, part: Part | None, only: str) -> bool:
    return (part is None or name.startswith(f"{part.value}/")) and fnmatch.fnmatch(name, only)


def _is_filtered(part: Part | None, only: str) -> bool:
    return part is not None or only != "*"


def _run(cases: Cases) -> Iterator[tuple[str, str, Record | None, float]]:
    """Each case with its place in the queue and its seconds; None where it raised, with the traceback on the terminal."""
    for number, (name, case) in enumerate(cases.items(), 1):
        settings.fresh()
        started = time.perf_counter()
        try:
            found: Record | None = case()
        except Exception:
            traceback.print_exc()
            found = None
        yield f"{number:4d}/{len(cases)}", name, found, time.perf_counter() - started


def _warn_of_surroundings(recorded: dict[str, str]) -> None:
    for name, value in settings.surroundings().items():
        if recorded.get(name) != value:
            print(f"note: recorded with {name} {recorded.get(name)}, this is {value}: bits may differ for that alone")


def _write(file: Path, data: dict[str, Any]) -> None:
    temporary = file.with_name(file.name + ".new")
    temporary.write_text(json.dumps(data, indent=0, ensure_ascii=False) + "\n", "utf-8")
    os.replace(temporary, file)


if __name__ == "__main__":
    app()
