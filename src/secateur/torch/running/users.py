"""Whose code it is: the user's own, or that of an installed package."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType

_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_OURS = str(Path(__file__).parents[2])


@cache
def is_users(code: CodeType) -> bool:
    """Whether code is neither installed, nor ours, nor made by a program, nor what a file does when it is loaded."""
    name = code.co_filename
    installed = name.startswith(_INSTALLED) or not {"site-packages", "dist-packages"}.isdisjoint(Path(name).parts)
    return not (installed or name.startswith(("<", _OURS)) or code.co_name == "<module>")


def is_users_class(kind: type) -> bool:
    """Whether the methods of a class are the user's own code."""
    return any(is_users(method.__code__) for method in vars(kind).values() if isinstance(method, FunctionType))
