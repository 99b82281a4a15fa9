"""What several commands take: a model, what it is run on, bounds, and how what is wrong is told.

Exit codes: 0 fine, 2 the request is not usable, 3 no network meets the budget, 4 verification failed.

Invariant: what is printed is data; no name can colour, rewrite or reorder the terminal.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from secateur.core.json import Json
from secateur.core.json.strict import read_json
from secateur.core.show import lines_within
from secateur.core.text import visible
from secateur.errors import ConfigError, Infeasible, InputError, SecateurError, VerificationError
from secateur.progress import lines_every

AsJson = Annotated[bool, typer.Option("--json", help="print data instead of tables")]
Spec = Annotated[
    str, typer.Argument(help="timm:NAME, torchvision:NAME, hf:MODEL_TYPE, zoo:NAME; built, never downloaded")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="1x3x224x224, ids:1x16 for tokens, name=… for a keyword argument; repeatable"),
]
ModelOptions = Annotated[str, typer.Option("--options", help='the constructor\'s, as JSON: {"num_classes": 10}')]
Weights = Annotated[
    str, typer.Option("--weights", help="a file with its state dict (.safetensors, or what torch saved)")
]
Bounds = Annotated[
    list[str] | None, typer.Option("--constraint", "-c", help="macs=60%, params=3M, …: upper bounds; repeatable")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="criterion=l2, multiple_of=8, …: options of the mode; repeatable")
]
Code = Annotated[
    list[str] | None,
    typer.Option("--code", help="a Python file with models, data, criteria, … of your own; it is run; repeatable"),
]

_out, _err = Console(highlight=False, markup=False), Console(stderr=True, highlight=False, markup=False)


def show(text: str) -> None:
    """Print text that is laid out already; the terminal may scroll but must not rearrange."""
    try:
        _out.print(Text(text), soft_wrap=True)
        _out.file.flush()
    except BrokenPipeError:
        raise  # the reader has seen enough
    except OSError as problem:
        _give_up_output()
        raise InputError(f"the output cannot be written: {visible(problem.strerror)}") from None


def _give_up_output() -> None:
    """What could not be written is not tried once more when Python ends."""
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def show_json(data: Json) -> None:
    """Print data."""
    show(json.dumps(data, indent=2, allow_nan=False))


def tell(text: str) -> None:
    """Print a remark beside the result."""
    _err.print(Text(visible(text)), soft_wrap=True)


# What the library says for Python, and how the same is said on the command line: for every command, and for single steps.
WORDS = {"print(secateur.trace(model, dummy_input)) says why": "secateur inspect says why"}
STEP_WORDS = {
    **WORDS,
    'Give constraints such as {"macs": "60%"}, or sizes such as {"conv1.out_channels": 32}': "Say -c macs=60%",
    'constraints are needed, for example {"macs": "60%"} or {"params": 3e6}': "say how much stays: -c macs=60% or -c params=3M",
    'Give a data_loader and mode="progressive", or compensate="least_squares", or fine-tune': "Give --data, or fine-tune",
}


@contextmanager
def exit_codes(words: Mapping[str, str] = WORDS) -> Iterator[None]:
    """Errors of ours become one line on standard error and the exit code that names their kind.

    Tables fit the terminal; where the output goes elsewhere they are 120 characters wide. Warnings are one line each.
    """
    width = _out.width if _out.is_terminal else 120
    with lines_within(width), lines_every(10), warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: tell(f"note: {_as_typed(str(message), words)}")
        try:
            yield
        except SecateurError as error:
            tell(f"error: {_as_typed(str(error), words)}")
            code = 3 if isinstance(error, Infeasible) else 4 if isinstance(error, VerificationError) else 2
            raise typer.Exit(code) from None


def _as_typed(said: str, words: Mapping[str, str]) -> str:
    for python, here in words.items():
        said = said.replace(python, here)
    return said


def read_pairs(pairs: Sequence[str] | None, what: str) -> dict[str, Json]:
    """``["macs=60%", "steps=3"]`` as a mapping; a value that is JSON is read as such, another is text."""
    found: dict[str, Json] = {}
    for pair in pairs or ():
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise InputError(f"cannot read {what} {visible(pair)!r}; write name=value")
        if key in found:
            raise InputError(f"{what} {visible(key)!r} is given twice")
        found[key] = _value(value)
    return found


def _value(text: str) -> Json:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if found == found else text  # NaN, which Python's reader lets through, is text


def read_options(text: str) -> Mapping[str, object]:
    """JSON from the command line as a mapping."""
    found = read_json(text or "{}", "--options", ConfigError)
    if not isinstance(found, dict):
        raise ConfigError('--options is a JSON object, such as {"num_classes": 10}')
    return found


def run_code(files: Sequence[str] | None) -> str:
    """Run the files that the user named, and what they have in all, as a digest. Raises InputError for what is not there."""
    digest = sha256()
    for name in files or ():
        path = Path(name)
        if not path.is_file():
            raise InputError(f"--code: there is no file {visible(name)}")
        _run_file(path)
        digest.update(path.read_bytes())
    return digest.hexdigest() if files else ""


def _run_file(path: Path) -> None:
    try:
        runpy.run_path(str(path), run_name="secateur_code")
    except SecateurError as error:
        raise InputError(f"--code {visible(path)}: {_line_in(path, error)}{error}") from error
    except (Exception, SystemExit) as error:  # it is somebody else's, and may do anything
        raise InputError(
            f"--code {visible(path)}: {_line_in(path, error)}{type(error).__name__}: {visible(error)[:300]}"
        ) from error


def _line_in(path: Path, error: BaseException) -> str:
    """The last line of the file that an error went through."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"line {error.lineno}: "
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"line {lines[-1]}: " if lines else ""
