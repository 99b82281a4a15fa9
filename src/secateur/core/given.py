"""An argument of a wrong type, told in one sentence: what was given, what is wanted, and what makes one.

Invariant: what is refused here has not been looked into.
"""

from __future__ import annotations

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.text import visible
from secateur.errors import InputError

_SEEDS = 1 << 62
_MAKERS: dict[type, str] = {
    bool: ", True or False",
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


def check_seed(verb: str, seed: object) -> None:
    """Raise InputError unless this can begin all generators: torch's, NumPy's and Python's."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _SEEDS:
        raise InputError(f"{verb}: seed is a whole number from 0, below 2**62, not {visible(repr(seed))[:60]}")


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | dict | list | tuple)
