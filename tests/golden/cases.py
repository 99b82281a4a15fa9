"""What a case is: a name and a function that leaves a record. Names begin with the part they belong to."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable

from .digests import Record

Case = Callable[[], Record]
Cases = dict[str, Case]

PARTS = ("zoo", "modes")


def all_cases(part: str | None = None, only: str = "*") -> Cases:
    """The cases of a part, or of both, whose names match a glob."""
    from . import after, modes, pruners, zoo

    found: Cases = {}
    for module in (zoo, modes, pruners, after):
        for name, case in module.cases().items():
            assert name not in found, f"two cases are called {name}"
            found[name] = case
    return {
        name: case
        for name, case in found.items()
        if part in (None, name.partition("/")[0]) and fnmatch.fnmatch(name, only)
    }
