"""Which branches of the user's own code the comparisons took, and which they did not: of what stands there nothing is proved.

    with Branches() as branches: …          every run of the model's code in here
    branches.not_taken()                    "Net.forward (net.py): 9, 12"      the lines where each begins
    branches.not_called(model)              "Net.encode, Net.sample"           methods that read what the model is made of
    of_one_value(model, examples)           "k=0, mode='sum'"                  arguments that say what else could be asked for

A branch is either side of a condition, and the body of a loop. A table of functions or a slice up to an argument has none: hence
the arguments. Code of installed packages is not looked at: of its many branches each model takes a few. Nor are branches
that only raise.

Invariant: nothing is heard where something else traces this thread (a debugger, a measure of coverage), and none is disturbed.
"""

from __future__ import annotations

import dis
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from inspect import signature
from pathlib import Path
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

from torch import nn

from secateur.core.text import visible
from secateur.torch.running.example import Example
from secateur.torch.running.walking import modules_of

_MOST = 4  # functions that are named
_ATTEMPTS = 1000  # a millisecond each
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_OURS = str(Path(__file__).parents[2])
_PLAIN = (bool, int, float, str, type(None))
_LOOPS = "FOR_ITER"
_PARTS = ("POP_JUMP", "JUMP_IF", _LOOPS)
_ENDS = ("RETURN", "JUMP", "POP_JUMP", "RAISE", "RERAISE")


class Branches:
    """The instructions that run inside a ``with`` block, by function. State, because they come one by one."""

    def __init__(self) -> None:
        self._ran: dict[CodeType, set[int]] = {}
        self._listens = False

    def __enter__(self) -> Branches:
        self._listens = sys.gettrace() is None
        if self._listens:
            _listen(self._enters)
        return self

    def __exit__(self, *_: object) -> None:
        if self._listens:
            _listen(None)

    def not_taken(self) -> str | None:
        """Where the branches begin that no run took, of functions that ran, in words; None where there are none."""
        named: list[str] = []
        for code, ran in self._ran.items():
            parted = (sides for at, sides in _branches(code) if at in ran)
            lines = sorted({line for sides in parted for line, starts in sides if ran.isdisjoint(starts)})
            if lines:
                named.append(f"{code.co_qualname} ({Path(code.co_filename).name}): {', '.join(map(str, lines))}")
        more = f"; and in {len(named) - _MOST} more functions" if len(named) > _MOST else ""
        return "; ".join(named[:_MOST]) + more or None

    def not_called(self, model: nn.Module) -> str | None:
        """The methods of the model's own classes that no run came to, and that read its modules or tensors."""
        named: dict[str, None] = {}
        for module in modules_of(model) if self._listens else ():
            tables = (module._modules, module._parameters, module._buffers)
            held = {name for table in tables for name in table.keys()}  # noqa: SIM118 - of TorchScript they are no dicts
            for name, method in _methods(type(module)).items():
                if method.__code__ not in self._ran and not held.isdisjoint(_names_in(method.__code__)):
                    named.setdefault(f"{type(module).__name__}.{name}")
        more = f" and {len(named) - _MOST} more" if len(named) > _MOST else ""
        return ", ".join(list(named)[:_MOST]) + more or None

    def _enters(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        if not _is_users(frame.f_code):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._ran.setdefault(frame.f_code, set())
        return self._goes_on

    def _goes_on(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        if event == "opcode":
            self._ran[frame.f_code].add(frame.f_lasti)
        return self._goes_on


def _methods(kind: type) -> dict[str, FunctionType]:
    """What a class of the user's own defines, but for what makes and describes an object."""
    defined = {name: each for base in reversed(kind.__mro__) for name, each in vars(base).items()}
    methods = {
        name: each for name, each in defined.items() if isinstance(each, FunctionType) and _is_users(each.__code__)
    }
    making = {name for each in methods.values() if each.__name__ == "__init__" for name in _names_in(each.__code__)}
    return {name: each for name, each in methods.items() if not name.startswith("__") and name not in making}


def _names_in(code: CodeType) -> set[str]:
    """What code reads by name, of an object or of its module; functions inside included."""
    inner = (_names_in(each) for each in code.co_consts if isinstance(each, CodeType))
    return {*code.co_names}.union(*inner)


def of_one_value(model: nn.Module, examples: Iterable[Example]) -> str | None:
    """The arguments of a model of the user's own that are plain values, the same in all examples; None where there are none."""
    values: dict[str, set[str]] = {}
    try:
        given = [argument for example in examples for argument in _arguments(model, example)]
    except TypeError:  # a hook makes other arguments of them
        return None
    for name, value in given:
        values.setdefault(name, set()).add(repr(value) if type(value) in _PLAIN else "")
    said = [
        f"{name}={visible(next(iter(told)))[:40]}" for name, told in values.items() if len(told) == 1 and "" not in told
    ]
    return ", ".join(said) or None


def _arguments(model: nn.Module, example: Example) -> Iterable[tuple[str, object]]:
    """What a method of the user's own is given, defaults included, by name."""
    code = example.code
    is_called = not isinstance(example.called(model), nn.Module) or type(model).__call__ is nn.Module.__call__
    if not is_called or not isinstance(code, MethodType) or not _is_users(code.__func__.__code__):
        return []
    call = signature(code).bind(*example.args, **example.kwargs)
    call.apply_defaults()
    of = "" if example.method == "forward" else f"{example.method}'s "
    return [(f"{of}{name}", value) for name, value in call.arguments.items()]


def _listen(function: Callable[..., Any] | None) -> None:
    """``sys.settrace``, which fails at the moment that another thread is in it; what fails for a second has another cause."""
    for _ in range(_ATTEMPTS):
        try:
            return sys.settrace(function)
        except RuntimeError:
            time.sleep(0.001)
    sys.settrace(function)


@cache
def _is_users(code: CodeType) -> bool:
    name = code.co_filename
    installed = name.startswith(_INSTALLED) or not {"site-packages", "dist-packages"}.isdisjoint(Path(name).parts)
    return not (installed or name.startswith(("<", _OURS)) or code.co_name == "<module>")


@cache
def _branches(code: CodeType) -> Sequence[tuple[int, Sequence[tuple[int, frozenset[int]]]]]:
    """The instructions at which the course divides, and its sides: the line that each begins on, and its first instructions."""
    steps = list(dis.get_instructions(code))
    place = {step.offset: number for number, step in enumerate(steps)}
    line = _lines(steps)
    found = []
    for number, step in enumerate(steps):
        if step.opname.startswith(_PARTS) and step.argval in place:
            ends = () if step.opname == _LOOPS else (place[step.argval],)  # that a loop ends is no branch of its own
            sides = [at for at in (number + 1, *ends) if at < len(steps) and not _only_raises(steps, at)]
            found.append((step.offset, [(line[at], frozenset(_starts(steps, at))) for at in sides]))
    return found


def _lines(steps: Sequence[dis.Instruction]) -> list[int]:
    """The line of each instruction, or that of the one before."""
    lines: list[int] = []
    for step in steps:
        known = step.positions.lineno if step.positions is not None else None
        lines.append(known or (lines[-1] if lines else 0))
    return lines


def _starts(steps: Sequence[dis.Instruction], at: int) -> Iterator[int]:
    """The first instruction of a side, and what only goes before it."""
    for step in steps[at:]:
        yield step.offset
        if step.opname not in ("EXTENDED_ARG", "NOP", "NOT_TAKEN", "CACHE"):
            return


def _only_raises(steps: Sequence[dis.Instruction], at: int) -> bool:
    end = next((step for step in steps[at:] if step.opname.startswith(_ENDS)), None)
    return end is not None and end.opname == "RAISE_VARARGS"
