"""Finding who holds a tensor that should be gone, and taking it out.

    tensor ◄── tuple ◄── lru_cache of windows()      ask the garbage collector, climb, empty the cache

Invariant: nobody's reference is dropped but to a tensor of the run.
"""

from __future__ import annotations

import collections
import functools
import gc
import types
import weakref
from collections.abc import Iterator
from typing import Any

import torch

from secateur.errors import TraceError

_HEIGHT = 5  # containers between a tensor and what can be emptied


def take_out(made: list[weakref.ref[torch.Tensor]]) -> None:
    """Let go of every tensor that is still alive. Raises TraceError where what held one cannot do without it."""
    stuck: list[str] = []
    for one in reversed(made):  # the last hold the others through autograd, and the collector is slow to ask
        if one() is not None:
            stuck += _release(one, [one()], 0)
    if stuck:
        raise TraceError(
            f"the model's code keeps a tensor of its run outside the model, in {stuck[0]}: a trace would leave one there "
            "that has no data. Keep it in the model (an attribute of a module), or in a functools.lru_cache."
        )


def _release(one: weakref.ref[torch.Tensor], held: list[Any], height: int) -> list[str]:
    """Remove ``held[0]`` from what refers to it; what could not be put as it was. ``held`` is a list to be recognised."""
    stuck: list[str] = []
    for holder in _holders(held):
        if one() is None:
            break
        if isinstance(holder, functools._lru_cache_wrapper):
            holder.cache_clear()
        elif isinstance(holder, (dict, list, set, collections.deque)):
            _remove(holder, held[0])
        elif isinstance(holder, (tuple, frozenset)) and height < _HEIGHT:
            stuck += _release(one, [holder], height + 1)
        elif isinstance(holder, types.CellType):
            holder.cell_contents = None
            stuck.append("a variable of an enclosing function")
        elif hasattr(holder, "__dict__") and not isinstance(holder, type):
            stuck += _forget(holder, held[0])
    return stuck


def _holders(held: list[Any]) -> Iterator[Any]:
    found = gc.get_referrers(held[0])
    while found:
        holder = found.pop()  # the list must not be taken for one more holder
        if holder is not held and not isinstance(holder, (types.FrameType, types.ModuleType, types.GeneratorType)):
            yield holder


def _remove(container: Any, value: object) -> None:
    if isinstance(container, dict):
        for key in [k for k, v in container.items() if v is value or k is value]:
            del container[key]
    elif isinstance(container, set):
        container.discard(value)
    else:
        for place in reversed([i for i, item in enumerate(container) if item is value]):
            del container[place]


def _forget(holder: object, value: object) -> list[str]:
    names = [name for name, held in vars(holder).items() if held is value]
    for name in names:
        vars(holder)[name] = None
    return [f"{type(holder).__qualname__}.{name}" for name in names]
