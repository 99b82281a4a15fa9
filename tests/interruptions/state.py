"""All that hangs on an object, at any depth, as one flat table that can be compared.

    model.layers[0].weight    a tensor: identity, memory, bits, flags      (then what hangs on it: .grad, hooks, attributes)
    model.history[2]          the third entry of a deque
    model.noise               a generator: where it stands

Two tables are compared *as the same objects* (before and after a call that must change nothing), or *as equal ones* (the
result of a call, made twice): then identities do not count, but which places hold one object does.

Invariant: the table holds every object it names, so that no identity is given out twice while it lives.
"""

from __future__ import annotations

import collections
import functools
import gc
import json
import random
import types
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (str, bytes, int, float, complex, bool, type(None), type(...), Enum, torch.dtype, torch.device, torch.Size)
BY_IDENTITY = (type, types.ModuleType, types.BuiltinFunctionType, types.CodeType)
TIMINGS = frozenset({"seconds"})  # never the same twice


class Document(dict[str, Any]):
    """What an object says, by place; made anew at each look, so only what it says counts."""

    @classmethod
    def of(cls, text: str) -> Document:
        """A JSON text, flat."""
        return cls(_flat("", json.loads(text)))


def _flat(place: str, data: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(data, (dict, list)):
        for key, inner in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _flat(f"{place}.{key}", inner)
    else:
        yield place, data


@dataclass(frozen=True, slots=True)
class Entry:
    """What is in one place: ``identity`` is left out where equal things will do."""

    identity: tuple[Any, ...]
    value: tuple[Any, ...]


@dataclass(slots=True)
class State:
    """The table; ``held`` keeps what it names alive."""

    entries: dict[str, Entry] = field(default_factory=dict)
    held: list[object] = field(default_factory=list)

    @classmethod
    def of(cls, roots: Mapping[str, object]) -> State:
        """Everything that can be reached from these, under their names."""
        reader = _Reader()
        for name, root in roots.items():
            reader.visit(name, root)
        return cls(reader.entries, reader.held)

    def changes(self, after: State) -> list[str]:
        """Where something is not the very same any more."""
        return list(_differences(self.entries, after.entries, lambda e: (e.identity, e.value)))

    def differences(self, other: State) -> list[str]:
        """Where something else is held than in another table of the same kind, identities aside."""
        return list(_differences(self.entries, other.entries, lambda e: e.value))


def _differences(a: Mapping[str, Entry], b: Mapping[str, Entry], key: Any) -> Iterator[str]:
    for place in a.keys() | b.keys():
        if place not in b:
            yield f"{place} is gone"
        elif place not in a:
            yield f"{place} is new: {_short(b[place].value)}"
        elif key(a[place]) != key(b[place]):
            same = a[place].value == b[place].value
            yield (
                f"{place}: another object" if same else f"{place}: {_short(a[place].value)} -> {_short(b[place].value)}"
            )


def _short(value: object) -> str:
    return f"{value}"[:90]


class _Reader:
    """One walk; state, because an object is described only where it is met first."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.held: list[object] = []
        self.places: dict[int, str] = {}

    def visit(self, place: str, it: Any) -> None:
        if isinstance(it, PLAIN) or (type(it) is tuple and all(isinstance(item, PLAIN) for item in it)):
            self.entries[place] = Entry((), (type(it).__name__, repr(it)))
        elif isinstance(it, BY_IDENTITY):
            self.entries[place] = Entry((), (id(it), getattr(it, "__name__", "")))
        elif id(it) in self.places:
            self.entries[place] = Entry((), ("the same as", self.places[id(it)]))
        else:
            self.places[id(it)] = place
            self.held.append(it)
            identity, value = () if isinstance(it, Document) else (id(it),), _described(it)
            if isinstance(it, Tensor):
                identity = (id(it), it.data_ptr() if it.layout is torch.strided and not it.is_meta else 0)
            self.entries[place] = Entry(identity, (type(it).__name__, *value))
            for step, inner in _inside(it):
                if step.lstrip(".") not in TIMINGS:
                    self.visit(place + step, inner)


def _described(it: Any) -> tuple[Any, ...]:
    """The value of an object as far as it is not that of what it holds."""
    if isinstance(it, Tensor):
        return _tensor(it)
    if isinstance(it, np.ndarray):
        return str(it.dtype), it.shape, zlib.crc32(np.ascontiguousarray(it).view(np.uint8)) if it.dtype != object else 0
    if isinstance(it, torch.Generator):
        return (_bits(it.get_state()),)
    if isinstance(it, (np.random.RandomState, random.Random)):
        state = it.get_state(legacy=False) if isinstance(it, np.random.RandomState) else it.getstate()
        return (zlib.crc32(repr(state).encode()),)
    if isinstance(it, np.random.Generator):
        return (repr(it.bit_generator.state),)
    if isinstance(it, Document):
        return (len(it),)
    if isinstance(it, Mapping):
        return len(it), tuple(key if isinstance(key, PLAIN) else type(key).__name__ for key in it)
    if isinstance(it, (set, frozenset)):
        return (tuple(sorted(repr(item) if isinstance(item, PLAIN) else type(item).__name__ for item in it)),)
    if isinstance(it, (list, tuple, collections.deque)):
        return (len(it),)
    if isinstance(it, functools._lru_cache_wrapper):
        return (it.cache_info().currsize,)
    if isinstance(it, np.generic):
        return (repr(it),)
    return ()


def _tensor(tensor: Tensor) -> tuple[Any, ...]:
    kind = (str(tensor.dtype), str(tensor.device), tuple(tensor.shape), tensor.requires_grad, tensor.is_leaf)
    if tensor.layout is not torch.strided or tensor.is_meta:
        return *kind, str(tensor.layout)
    return *kind, tensor.stride(), _bits(tensor)


def _bits(tensor: Tensor) -> int:
    data = tensor.detach().cpu().resolve_conj().contiguous()
    return zlib.crc32(data.reshape(-1).view(torch.uint8).numpy()) if data.numel() else 0


def _inside(it: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, with the step that leads to it."""
    if isinstance(it, Tensor):
        if it.is_leaf:
            yield ".grad", it.grad
        yield "._backward_hooks", it._backward_hooks
    elif isinstance(it, Mapping):
        yield from ((f"[{key!r}]" if isinstance(key, PLAIN) else f"[{i}]", it[key]) for i, key in enumerate(it))
    elif isinstance(it, (list, tuple, collections.deque)):
        yield from ((f"[{i}]", item) for i, item in enumerate(it))
    elif isinstance(it, functools.partial):
        yield from ((".func", it.func), (".args", it.args), (".keywords", it.keywords))
    elif isinstance(it, types.MethodType):
        yield from ((".__func__", it.__func__), (".__self__", it.__self__))
    elif isinstance(it, functools._lru_cache_wrapper):
        yield from ((f".cache[{i}]", held) for i, held in enumerate(_cached(it)))
    elif isinstance(it, weakref.ref):
        return  # it holds nothing, and whether what it names still lives is the collector's business
    elif isinstance(it, torch.jit.ScriptModule):
        yield from _scripted(it)
        return
    elif isinstance(it, types.FunctionType):
        yield from ((".__defaults__", it.__defaults__), (".__dict__", it.__dict__))
        yield from ((f".{name}", cell.cell_contents) for name, cell in _cells(it))
        return
    if not isinstance(it, (np.ndarray, torch.Generator, np.random.RandomState)):
        yield from ((f".{name}", held) for name, held in _attributes(it))


def _cached(function: functools._lru_cache_wrapper[Any]) -> list[Tensor]:
    """The tensors that a cache holds; what it is made of besides, Python does not show."""
    return [held for held in gc.get_referents(function) if isinstance(held, Tensor)]


def _scripted(module: torch.jit.ScriptModule) -> Iterator[tuple[str, Any]]:
    """The tensors are made anew at each look: only their bits say something."""
    yield ".training", module.training
    tensors: Iterable[tuple[str, Tensor]] = (*module.named_parameters(), *module.named_buffers())
    for name, tensor in tensors:
        yield f".{name}", repr(_tensor(tensor))


def _cells(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            _ = cell.cell_contents
        except ValueError:
            continue
        yield name, cell


def _attributes(it: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(it, "__dict__"):
        yield from list(vars(it).items())
    for kind in type(it).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__") and hasattr(it, slot) and not isinstance(it, nn.Module):
                yield slot, getattr(it, slot)
