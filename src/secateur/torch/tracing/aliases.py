"""Tensors that look at one memory without being one tensor: what narrows one would silently let go of the other.

    w1 = Parameter(data), w2 = Parameter(data.t())           a step that moves one moves both
    self.window = self.conv.weight.detach().numpy()          an attribute that follows a parameter, or what it holds

Invariant: of such tensors no dimension is narrowed. One tensor under several names is none, nor are neighbours in one buffer.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from secateur.core.space import freeze
from secateur.torch.narrowing.bookkeeping import recomputed
from secateur.torch.running.holding import ATOMS, everything_in
from secateur.torch.running.users import is_users_class
from secateur.torch.running.walking import attributes_of
from secateur.torch.tracing.observe import Observation

_MOST = 200_000  # things that are looked into
Span = tuple[int, int, str]  # the first byte, the byte after the last, whose it is


def freeze_aliases(seen: Observation) -> None:
    """Freeze what tensors are made of whose memory overlaps another's, or that of an attribute."""
    owned = {id(tensor): name for name, tensor in reversed(list(seen.tensors.items()))}
    spans = [*_named(seen.tensors, owned), *_attributes(seen.modules, owned)]
    for one, other in _overlapping(sorted(spans)):
        for name, beside in ((one, other), (other, one)):
            for space in seen.spaces.get(name, ()):
                freeze(space, f"{name} shares memory with {beside}")


def _overlapping(spans: list[Span]) -> Iterator[tuple[str, str]]:
    """Pairs that overlap, each span with the one before it that reaches furthest."""
    furthest = spans[0] if spans else None
    for _, span in pairwise(spans):
        assert furthest is not None
        if span[0] < furthest[1]:
            yield furthest[2], span[2]
        if span[1] > furthest[1]:
            furthest = span


def _named(tensors: Mapping[str, torch.Tensor], owned: dict[int, str]) -> Iterator[Span]:
    for name, tensor in tensors.items():
        if owned[id(tensor)] == name:
            yield from _span(tensor, name)


def _attributes(modules: Mapping[str, nn.Module], owned: dict[int, str]) -> Iterator[Span]:
    """Arrays and tensors that modules hold beside their parameters and buffers, at any depth, and go on to hold when they are
    called."""
    seen = {id(module) for module in modules.values()}
    for prefix, module in modules.items():
        passing = recomputed(module)
        hooks = [(table, vars(module).get(table)) for table in ("_forward_hooks", "_forward_pre_hooks")]
        for key, value in (*attributes_of(module), *hooks):
            if key in passing or type(value) in ATOMS or id(value) in seen:
                continue
            where = f"the attribute {prefix}.{key}" if prefix else f"the attribute {key}"
            for item in everything_in(value, seen, _MOST):
                if isinstance(item, (torch.Tensor, np.ndarray)) and id(item) not in owned:
                    yield from _span(item, where)
    # what a class holds stays when an instance is copied or narrowed, be it the parameter itself
    for kind in {kind for module in modules.values() for kind in type(module).__mro__ if is_users_class(kind)}:
        for key, value in vars(kind).items():
            if not isinstance(value, (types.FunctionType, property)):
                for item in everything_in(value, seen, _MOST):
                    if isinstance(item, (torch.Tensor, np.ndarray)):
                        yield from _span(item, f"{kind.__name__}.{key}, which its class holds")


def _span(value: torch.Tensor | np.ndarray, name: str) -> Iterator[Span]:
    if isinstance(value, np.ndarray):
        steps, first, width = value.strides, value.ctypes.data, value.itemsize
    elif value.is_meta or value.layout is not torch.strided or type(value) not in (torch.Tensor, nn.Parameter):
        return
    else:
        width, first = value.element_size(), value.data_ptr()
        steps = tuple(step * width for step in value.stride())
    if first and 0 not in value.shape:
        if isinstance(value, torch.Tensor) and value.is_contiguous():
            yield first, first + value.nbytes, name
            return
        reaches = [(n - 1) * step for n, step in zip(value.shape, steps, strict=True)]
        yield first + sum(r for r in reaches if r < 0), first + sum(r for r in reaches if r > 0) + width, name
