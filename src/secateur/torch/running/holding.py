"""What hangs on a function or an object: variables of a closure, defaults, the object a method is bound to.

    def make(scale):
        return lambda x: scale(x)           a hook that holds ``scale``: a copy of the model must hold the copy's

Invariant: nothing is called, nothing is changed.
"""

from __future__ import annotations

import collections
import functools
import gc
import io
import threading
import types
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.library import CustomOpDef

from secateur.torch.running.walking import attributes_of

Held = Any  # whatever a model or a batch holds

ATOMS: frozenset[type] = frozenset(
    {type(None), type(...), type(NotImplemented), bool, int, float, complex, str, bytes, type, range}
    | {types.ModuleType, types.CodeType, property, np.dtype}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size}
)
# What synchronises, logs or speaks to the outside. None of it is part of what a network computes.
SHARED = (
    *(
        type(threading.Lock()),
        type(threading.RLock()),
        threading.Thread,
        io.IOBase,
        torch.Stream,
        torch.Event,
        CustomOpDef,
    ),
    *((dist.ProcessGroup, dist.Store) if dist.is_available() else ()),
)

_MOST = 100_000  # entries that are looked through
_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)
_NOBODYS = (*_FUNCTIONS, *SHARED, type, torch.Tensor, nn.Module)


def reaches(function: Held, wanted: Collection[int]) -> bool:
    """Whether anything that a function holds (its variables, defaults, the object it is bound to) is one of these."""
    held = _variables_of(function) if isinstance(function, types.FunctionType) else [function.__self__]
    return any(id(item) in wanted for item in everything_in(held))


def held_by(module: nn.Module) -> Iterator[Held]:
    """The objects and containers that are a module's own, containers in containers too; not functions, of which many are."""
    seen: set[int] = set()
    waiting = [value for _, value in attributes_of(module)]
    while waiting:
        value = waiting.pop()
        if type(value) in ATOMS or id(value) in seen or isinstance(value, _NOBODYS):
            continue
        seen.add(id(value))
        yield value
        waiting += (item for _, item in entries_of(value, _MOST))


def entries_of(value: Any, most: int) -> Iterator[tuple[Held, Held]]:
    """What a container holds by key or place, asked as its built-in base would answer: a class of the user's own may count
    otherwise, or raise. Nothing of what is no container, or holds more than there may be at ``most``."""
    kind = _container(value)
    if kind is not None and kind.__len__(value) <= most:
        yield from kind.items(value) if kind is dict else enumerate(kind.__iter__(value))


def is_container(value: Any, most: int) -> bool:
    """Whether `entries_of` opens it."""
    kind = _container(value)
    return kind is not None and kind.__len__(value) <= most


def _container(value: object) -> Any:
    return next((kind for kind in (dict, list, tuple, collections.deque) if isinstance(value, kind)), None)


def everything_in(value: object, seen: set[int] | None = None, most: int = 10_000) -> Iterator[Held]:
    """A value and what hangs on it, as far as the garbage collector knows; code and files are not looked into, nor is what was
    ``seen``, which this adds to, nor more than there may be at ``most``.
    """
    seen = set() if seen is None else seen
    waiting = [value]
    while waiting and len(seen) < most:
        held = waiting.pop()
        if id(held) in seen or isinstance(held, (type, types.ModuleType)):
            continue
        seen.add(id(held))
        yield held
        if isinstance(held, types.FunctionType):
            waiting += [*(held.__closure__ or ()), *(held.__defaults__ or ()), held.__kwdefaults__]
        elif not isinstance(held, (*SHARED, torch.Tensor)):
            waiting += gc.get_referents(held)


def is_bound(function: types.FunctionType, seen: set[int]) -> bool:
    """Whether a function holds anything but constants, code and other such functions."""
    seen.add(id(function))
    return any(not _is_constant(item, seen) for item in _variables_of(function))


def _variables_of(function: types.FunctionType) -> list[Held]:
    """What it closes over, and its defaults."""
    return [*closed_over(function), *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _is_constant(value: object, seen: set[int]) -> bool:
    if isinstance(value, types.FunctionType):
        return id(value) in seen or not is_bound(value, seen)
    if isinstance(value, (tuple, frozenset)):
        return all(_is_constant(item, seen) for item in value)
    return type(value) in ATOMS or isinstance(value, type)


def closed_over(function: types.FunctionType) -> list[Held]:
    """What the variables of a function's closure are bound to."""
    return [content for cell in function.__closure__ or () for content in content_of(cell)]


def content_of(cell: types.CellType) -> list[Held]:
    """What a variable of a closure is bound to, if it is."""
    try:
        return [cell.cell_contents]
    except ValueError:  # a variable that was never bound
        return []
