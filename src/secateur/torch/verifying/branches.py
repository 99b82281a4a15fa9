"""Which branches of the user's own code the comparisons took, and which they did not: of what stands there nothing is proved.

    with Branches() as branches: …          every run of the model's code in here
    branches.not_taken()                    "Net.forward (net.py): 9, 12"      the lines where each begins
    branches.not_repeated()                 "Net.forward (net.py): 7"          loops that went round once, where twice may differ
    branches.not_called(model)              "Net.encode, Net.sample"           methods and functions that were there to be called
    of_one_value(model, examples)           "k=0, mode='sum'"                  arguments that say what else could be asked for

A branch is either side of a condition, the body of a loop or of an ``except``, and a function made on the spot. A slice up to an
argument has none: hence the arguments. Code of installed packages is not looked at: of its many branches each model takes a
few. Nor are branches that only raise.

Invariant: nothing is heard where something else traces this thread (a debugger, a measure of coverage), and none is disturbed.
"""

from __future__ import annotations

import dis
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from inspect import Parameter, signature
from pathlib import Path
from types import CodeType, FrameType, MethodType, SimpleNamespace
from typing import Any

from torch import Tensor, nn

from secateur.core.text import visible
from secateur.torch.running.example import Example
from secateur.torch.running.users import is_users, is_users_class
from secateur.torch.verifying.uncalled import uncalled

_MOST = 8  # functions that are named
_ATTEMPTS = 1000  # a millisecond each
_NOTHING = " (nothing)"
_STARS = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
_PLAIN = (bool, int, float, str, type(None))
_DEPTH = 3  # of structures in structures
_LOOPS = "FOR_ITER"
_PARTS = ("POP_JUMP", "JUMP_IF", _LOOPS)
_ENDS = ("RETURN", "JUMP", "POP_JUMP", "RAISE", "RERAISE")


class Branches:
    """The instructions that run inside a ``with`` block, by function. State, because they come one by one."""

    def __init__(self) -> None:
        self._ran: dict[CodeType, set[int]] = {}
        self._again: dict[CodeType, set[int]] = {}  # of these, what ran again in one call
        self._reads: dict[CodeType, dict[str, Any]] = {}  # the names that code reads of its file
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
            parted = (sides for at, sides in _branches(code) if not ran.isdisjoint(at))
            lines = {line for sides in parted for line, starts in sides if ran.isdisjoint(starts)}
            lines |= {made.co_firstlineno for at, made in _made(code) if at in ran and made not in self._ran}
            named += _in_words(code, lines)
        return _some_of(named)

    def not_repeated(self) -> str | None:
        """The loops that went round no more than once in any call, of those whose rounds are counted by a number or by what was
        given."""
        named: list[str] = []
        for code, ran in self._ran.items():
            again = self._again[code]
            lines = {line for line, body in _loops(code) if not ran.isdisjoint(body) and again.isdisjoint(body)}
            named += _in_words(code, lines)
        return _some_of(named)

    def not_called(self, model: nn.Module) -> str | None:
        """The methods of the model's own classes, and the functions of tables, that no run came to."""
        named = uncalled(model, self._reads) if self._listens else []
        more = f" and {len(named) - _MOST} more" if len(named) > _MOST else ""
        return ", ".join(named[:_MOST]) + more or None

    def _enters(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        if not is_users(frame.f_code):
            return None
        if isinstance(frame.f_trace, _OneCall):  # of a generator, which goes on
            return frame.f_trace
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._reads[frame.f_code] = frame.f_globals
        return _OneCall(self._ran.setdefault(frame.f_code, set()), self._again.setdefault(frame.f_code, set()))


class _OneCall:
    """One call of a function: what of it runs, and what again. State, because instructions come one by one."""

    __slots__ = ("_again", "_here", "_ran")

    def __init__(self, ran: set[int], again: set[int]) -> None:
        self._ran, self._again, self._here = ran, again, set[int]()

    def __call__(self, frame: FrameType, event: str, argument: object) -> _OneCall:
        if event == "opcode":
            (self._again if frame.f_lasti in self._here else self._here).add(frame.f_lasti)
            self._ran.add(frame.f_lasti)
        return self


def _in_words(code: CodeType, lines: Collection[int]) -> list[str]:
    said = ", ".join(map(str, sorted(lines)))
    return [f"{code.co_qualname} ({Path(code.co_filename).name}): {said}"] if lines else []


def _some_of(named: Sequence[str]) -> str | None:
    more = f"; and in {len(named) - _MOST} more functions" if len(named) > _MOST else ""
    return "; ".join(named[:_MOST]) + more or None


def of_one_value(model: nn.Module, examples: Iterable[Example]) -> str | None:
    """The arguments of a model of the user's own that are plain values, the same in all examples, or that none gives (``*args``,
    ``**kwargs``); None where there are none."""
    values: dict[str, set[str]] = {}
    try:
        given = [argument for example in examples for argument in _arguments(model, example)]
    except TypeError:  # a hook makes other arguments of them
        return None
    for name, told in given:
        values.setdefault(name, set()).add(told)
    said = [f"{name}{next(iter(told))}" for name, told in values.items() if len(told) == 1 and "" not in told]
    return ", ".join(said) or None


def _arguments(model: nn.Module, example: Example) -> Iterator[tuple[str, str]]:
    """The names of what a method of the user's own may be given, and what it is: a plain value, nothing, or else: no text."""
    function = _users_own(model, example)
    if function is None:
        return
    code, told = function.__func__.__code__, signature(function)
    call = told.bind(*example.args, **example.kwargs)
    call.apply_defaults()
    of = "" if example.method == "forward" else f"{example.method}'s "
    read = _locals_read(code)
    for name, value in call.arguments.items():
        star = _STARS.get(told.parameters[name].kind, "")
        if not star:
            yield from _plain_in(f"{of}{name}", value)
        elif name in read:
            yield f"{of}{star}{name}", "" if value else _NOTHING
    for name, key in _asked_with_default(code):
        table = call.arguments.get(name)
        if isinstance(table, Mapping) and table:
            yield f"{of}{name}[{key!r}]", "" if key in table else _NOTHING


def _plain_in(name: str, value: object, depth: int = _DEPTH) -> Iterator[tuple[str, str]]:
    """What of an argument is no tensor, by where it is; of what holds tensors, what is beside them."""
    if isinstance(value, Tensor | nn.Module):
        return
    parts: Iterable[tuple[str, object]] = ()
    if isinstance(value, Mapping):
        parts = [(f"{name}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, list | tuple | deque) and _holds_more(value):
        parts = [(f"{name}[{place}]", item) for place, item in enumerate(value)]
    elif is_users_class(type(value)) or is_dataclass(value) or isinstance(value, SimpleNamespace):
        parts = [(f"{name}.{key}", item) for key, item in getattr(value, "__dict__", {}).items()]
    if not parts:
        yield name, f"={visible(repr(value))[:40]}"
    for where, item in parts if depth else ():
        yield from _plain_in(where, item, depth - 1)


def _holds_more(row: Collection[object]) -> bool:
    """Whether there is anything in it but plain values."""
    return any(type(item) not in _PLAIN for item in row)


def _users_own(model: nn.Module, example: Example) -> MethodType | None:
    """What an example calls, if it is a method of the user's own that nothing stands before."""
    code = example.code
    is_called = not isinstance(example.called(model), nn.Module) or type(model).__call__ is nn.Module.__call__
    is_own = is_called and isinstance(code, MethodType) and is_users(code.__func__.__code__)
    return code if is_own and isinstance(code, MethodType) else None


def _asked_with_default(code: CodeType) -> Iterator[tuple[str, str]]:
    """What code asks of its variables by name, though it may not be there: ``batch.get("mask")``."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("CACHE", "PUSH_NULL")]
    for variable, method, key in zip(steps, steps[1:], steps[2:], strict=False):
        if method.argval in ("get", "pop") and method.opname.startswith("LOAD_") and isinstance(key.argval, str):
            yield str(variable.argval), key.argval


def _locals_read(code: CodeType) -> set[str]:
    return {step.argval for step in dis.get_instructions(code) if step.opname.startswith("LOAD_")} | {*code.co_cellvars}


def _listen(function: Callable[..., Any] | None) -> None:
    """``sys.settrace``, which fails at the moment that another thread is in it; what fails for a second has another cause."""
    for _ in range(_ATTEMPTS):
        try:
            return sys.settrace(function)
        except RuntimeError:
            time.sleep(0.001)
    sys.settrace(function)


Branch = tuple[frozenset[int], Sequence[tuple[int, frozenset[int]]]]


@cache
def _branches(code: CodeType) -> Sequence[Branch]:
    """The instructions at which the course divides, and its sides: the line that each begins on, and its first instructions."""
    steps = list(dis.get_instructions(code))
    place = {step.offset: number for number, step in enumerate(steps)}
    line = _lines(steps)
    found = []
    for number, step in enumerate(steps):
        if step.opname.startswith(_PARTS) and step.argval in place:
            ends = () if step.opname == _LOOPS else (place[step.argval],)  # that a loop ends is no branch of its own
            found.append((frozenset({step.offset}), (number + 1, *ends)))
    for entry in getattr(dis.Bytecode(code), "exception_entries", ()):  # documented nowhere, there since 3.11
        guarded = frozenset(step.offset for step in steps if entry.start <= step.offset < entry.end)
        found.append((guarded, _handler(steps, place[entry.target])))
    return [
        (at, [(line[side], frozenset(_starts(steps, side))) for side in sides if _goes_somewhere(steps, side)])
        for at, sides in found
    ]


def _handler(steps: Sequence[dis.Instruction], at: int) -> Sequence[int]:
    """Where the body of an ``except`` begins; of what only cleans up (``with``, ``finally``) there is none."""
    if steps[at].opname != "PUSH_EXC_INFO":
        return ()
    following = steps[at + 1 :]
    if following[0].opname == "POP_TOP":  # a bare except
        return (at + 2,)
    until = (number for number, step in enumerate(following) if step.opname == "CHECK_EXC_MATCH")
    ends = (number for number, step in enumerate(following) if step.opname in ("RERAISE", "WITH_EXCEPT_START"))
    matches = next(until, len(following))
    return (at + 1 + matches + 2,) if matches < next(ends, len(following)) else ()  # behind the match and its jump


@cache
def _loops(code: CodeType) -> Sequence[tuple[int, frozenset[int]]]:
    """The loops of code that a call, a variable or a condition counts, no attribute such as a list of layers: the line of each,
    and the first instructions of its body."""
    if code.co_name.startswith("<"):  # what a comprehension goes over stands elsewhere
        return ()
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("CACHE", "EXTENDED_ARG")]
    place, line = {step.offset: number for number, step in enumerate(steps)}, _lines(steps)
    found: list[tuple[int, frozenset[int]]] = []
    for number, step in enumerate(steps):
        if step.opname == _LOOPS and not steps[max(number - 2, 0)].opname.startswith("LOAD_ATTR"):
            found.append((line[number], frozenset(_starts(steps, number + 1))))
        elif step.opname.startswith("POP_JUMP") and step.argval in place and step.argval < step.offset:
            found.append((line[place[step.argval]], frozenset(_starts(steps, place[step.argval]))))
    return found


@cache
def _made(code: CodeType) -> Sequence[tuple[int, CodeType]]:
    """The functions that code makes, and the instruction that does."""
    steps = dis.get_instructions(code)
    return [(step.offset, step.argval) for step in steps if isinstance(step.argval, CodeType)]


def _goes_somewhere(steps: Sequence[dis.Instruction], at: int) -> bool:
    return at < len(steps) and not _only_raises(steps, at)


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
