"""Which width a disagreement comes from.

    conv1, conv2, heads, hidden   ──►  conv1, conv2: agree   heads, hidden: differ   ──►  heads: differs     heads it is

Invariant: narrowing what is named, alone or together, was seen to differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_MOST_TRIALS = 24  # leaving one out at a time, where only several widths together differ


def at_fault(widths: Sequence[str], differs: Callable[[Sequence[str]], bool]) -> tuple[str, ...]:
    """The width, among these whose narrowing differs, that does so alone; more than one where only several together do."""
    if len(widths) <= 1:
        return tuple(widths)
    middle = len(widths) // 2
    for half in (widths[:middle], widths[middle:]):
        if differs(half):
            return at_fault(half, differs)
    needed = list(widths)
    for width in list(widths)[:_MOST_TRIALS]:
        fewer = [name for name in needed if name != width]
        if fewer and differs(fewer):
            needed = fewer
    return tuple(needed)
