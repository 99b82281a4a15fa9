"""What a model returns: every tensor, NumPy array and floating number in it, by its place.

    {"logits": t, "aux": [u, Boxes(v)]}     ──►  logits, aux[0], aux[1].boxes

Outputs come as nested containers, dataclasses with and without slots, read-only views of dicts, generators, lists of floats,
functions with what hangs on them.

Invariant: the order depends on the kinds and names of things only, so that two runs of one network give the same places.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from secateur.errors import InputError
from secateur.torch.running.holding import content_of

MOST_ITEMS = 10_000  # of an iterator, which may never end

Number = torch.Tensor | np.ndarray | float | complex


def numbers_in(output: object) -> list[tuple[str, Number]]:
    """Everything in an output that can be compared, with its place. Iterators are used up.

    Raises InputError for an iterator that does not end.
    """
    return [(place or "output", value) for place, value in _walk(output, "", set())]


def used_up(output: Any) -> Any:
    """The same output with lists for iterators, whose code runs now: while whoever listens to the model still does.

    Raises InputError for an iterator that does not end.
    """
    if isinstance(output, Iterator):
        return [used_up(item) for item in _all_of(output)]
    if type(output) in (list, tuple):
        return type(output)(used_up(item) for item in output)
    if type(output) is dict:
        return {key: used_up(item) for key, item in output.items()}
    return output


def output_tensors(output: object) -> list[torch.Tensor]:
    """The tensors alone."""
    return [value for _, value in numbers_in(output) if isinstance(value, torch.Tensor)]


def as_tensor(value: Number) -> torch.Tensor:
    """What is no tensor yet as one."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, complex):
        return torch.tensor(value, dtype=torch.complex128)
    return torch.from_numpy(np.array(value))


def _walk(value: Any, place: str, seen: set[int]) -> Iterator[tuple[str, Number]]:
    if isinstance(value, (torch.Tensor, float, complex)):
        yield place, value
    elif isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind in "fciub":
            yield place, np.asarray(value)
    elif is_holder(value) and id(value) not in seen:
        seen.add(id(value))
        for key, item in items_of(value):
            yield from _walk(item, f"{place}{key}" if place else key.removeprefix("."), seen)


def is_holder(value: object) -> bool:
    """Whether a value that is no number may hold some."""
    numbers = (torch.Tensor, np.ndarray, np.generic, float, complex)
    return not isinstance(value, (*numbers, str, bytes, int, type, nn.Module, type(None)))


def items_of(value: Any) -> Iterable[tuple[str, Any]]:
    """What a holder holds, each with the step that leads to it: ``.name`` or ``[0]``. Iterators are used up."""
    if isinstance(value, Mapping):
        named = [(f".{key}" if str(key).isidentifier() else f"[{key!r}]", item) for key, item in _told(value).items()]
        return [
            *named,
            *_numbered(part for key, item in value.items() if isinstance(key, torch.Tensor) for part in (key, item)),
        ]
    if isinstance(value, AbstractSet):
        return _numbered(sorted(value) if all(isinstance(item, float) for item in value) else value)
    if isinstance(value, (list, tuple)):
        names = getattr(value, "_fields", None)
        return _numbered(value) if names is None else [(f".{n}", v) for n, v in zip(names, value, strict=True)]
    if isinstance(value, Iterator):
        return _numbered(_all_of(value))
    attributes = [*_hung_on(value), *_attributes(value)]
    if attributes:
        return attributes
    # what PyTorch was told how to take apart, and other sequences
    leaves = tree_leaves(value)
    if len(leaves) == 1 and leaves[0] is value:
        return _numbered(value) if hasattr(value, "__len__") and hasattr(value, "__iter__") else ()
    return _numbered(leaves)


def _told(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """The entries whose key says where they are, as a tensor does not."""
    return {key: item for key, item in value.items() if not isinstance(key, torch.Tensor)}


def _hung_on(value: object) -> list[tuple[str, Any]]:
    """What whoever gets a function, or what is still to come, gets with it."""
    match value:
        case functools.partial():
            return [(".func", value.func), (".args", value.args), (".keywords", value.keywords)]
        case types.MethodType():
            return [(".func", value.__func__), (".self", value.__self__)]
        case types.FunctionType():
            variables = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
            found = [(f".{name}", content) for name, cell in variables for content in content_of(cell)]
            return [*found, (".defaults", value.__defaults__), (".kwdefaults", value.__kwdefaults__)]
        case torch.futures.Future() if value.done():
            return [(".value", value.value())]
    return []


def _all_of(iterator: Iterator[Any]) -> list[Any]:
    items = list(islice(iterator, MOST_ITEMS + 1))
    if len(items) > MOST_ITEMS:
        raise InputError(f"the model returns a {type(iterator).__name__} that yields more than {MOST_ITEMS:,} items")
    return items


def _numbered(values: Iterable[Any]) -> list[tuple[str, Any]]:
    return [(f"[{i}]", item) for i, item in enumerate(values)]


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    for name, item in getattr(value, "__dict__", {}).items():
        yield f".{name}", item
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield f".{name}", getattr(value, name)
