"""An argument of a wrong type, told in one sentence: what was given, what is wanted, and what makes one.

Invariant: what is refused here has not been looked into.
"""

from __future__ import annotations

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.text import visible
from secateur.errors import InputError

_MAKERS: dict[type, str] = {
    Plan: ", as secateur.plan or a graph's plan(…) gives it",
    Graph: ", as secateur.trace gives it",
}


def check_given(verb: str, name: str, value: object, kind: type) -> None:
    """Raise InputError unless the argument ``name`` of ``verb`` is of this kind."""
    if not isinstance(value, kind):
        shown = (
            f"the {type(value).__name__} {visible(repr(value))[:60]}"
            if _is_plain(value)
            else f"a {type(value).__name__}"
        )
        raise InputError(f"{verb}: {name} is a {kind.__name__}{_MAKERS.get(kind, '')}, not {shown}")


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | dict | list | tuple)
