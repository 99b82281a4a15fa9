"""Whether a text that code puts together is a message, which nothing is computed from.

    check(mask.sum() == n, f"{n} tokens, {len(rows)} rows")     given to what checks, warns or prints, and gives nothing
    raise ValueError(f"{channels} channels")                    given to what is raised
    getattr(self, f"layer{n}")                                  no message: the text says what is taken

Invariant: where the source cannot be read, a text is no message.
"""

from __future__ import annotations

import ast
import dis
import linecache
import re
from functools import cache
from types import CodeType, FrameType

_TELLS = re.compile(
    r"(^|_)(check|assert|warn|warning|print|debug|info|error|critical|exception)(_\w+)?$|(Error|Exception|Warning)$"
)
_USES_UP = frozenset({"POP_TOP", "RAISE_VARARGS"})
_Place = tuple[int, int]  # line and column


def is_message(frame: FrameType) -> bool:
    """Whether what a frame is making text of goes into a message."""
    return _is_message(frame.f_code, frame.f_lasti)


@cache
def _is_message(code: CodeType, offset: int) -> bool:
    steps = list(dis.get_instructions(code))
    place = next((number for number, step in enumerate(steps) if step.offset == offset), None)
    here = None if place is None else _span(steps[place])
    if place is None or here is None:
        return False
    for step, after in zip(steps[place + 1 :], steps[place + 2 :], strict=False):
        around = _span(step)
        if step.opname.startswith("CALL") and around is not None and around[0] < here[0] and here[1] <= around[1]:
            name = _called(code.co_filename, *around)
            return after.opname in _USES_UP and name is not None and _TELLS.search(name) is not None
    return False


def _span(step: dis.Instruction) -> tuple[_Place, _Place] | None:
    """Where the source of a step begins and ends."""
    at = step.positions
    if at is None or at.lineno is None or at.col_offset is None or at.end_lineno is None or at.end_col_offset is None:
        return None
    return (at.lineno, at.col_offset), (at.end_lineno, at.end_col_offset)


def _called(file: str, start: _Place, end: _Place) -> str | None:
    """The name of what a call calls: its last one, where there are several."""
    lines = [linecache.getline(file, number).encode() for number in range(start[0], end[0] + 1)]
    lines[-1] = lines[-1][: end[1]]
    lines[0] = lines[0][start[1] :]
    try:
        found = ast.parse(b"".join(lines).decode(), mode="eval").body
    except (SyntaxError, ValueError):
        return None
    made = found.func if isinstance(found, ast.Call) else None
    return made.attr if isinstance(made, ast.Attribute) else made.id if isinstance(made, ast.Name) else None
