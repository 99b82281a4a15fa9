"""What a network keeps from one call to the next: tensors that its code puts somewhere in its modules, or writes to there.

    self.h = torch.tanh(self.cell(x, self.h)).detach()        a buffer, an attribute, an entry of a list: the next call reads it

    before = state_of(model) ── model(x) ──► left = state_of(model)          changed(before, left): a second call is another one

What batch norm counts while it trains is none: the answer of that mode does not depend on it.

Invariant: nothing is changed, and numbers are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from secateur.torch.running.holding import entries_of
from secateur.torch.running.walking import attributes_of, named_modules

DEPTH = 3  # of containers inside each other
_MOST = 1000  # entries: what has more is a vocabulary


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor that lies somewhere, and how often it had been written to."""

    tensor: torch.Tensor
    version: int


State = Mapping[str, Kept]  # by place: ``cell.h``, ``memory["last"]``, ``seen[2]``


def state_of(model: nn.Module) -> State:
    """The tensors that modules keep, by place, but for parameters."""
    return {
        place: Kept(tensor, 0 if tensor.is_inference() else tensor._version)
        for name, module in named_modules(model)
        if not isinstance(module, (_NormBase, torch.jit.ScriptModule))
        for place, tensor in _held(module, f"{name}." if name else "")
    }


def changed(before: State, after: State) -> bool:
    """Whether a call left other tensors than it found, or wrote to one."""
    if before.keys() != after.keys():
        return True
    return any(k.tensor is not after[p].tensor or k.version != after[p].version for p, k in before.items())


def _held(module: nn.Module, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in module._buffers.items():
        if value is not None:
            yield prefix + key, value
    for key, value in attributes_of(module):
        yield from _inside(value, prefix + key, DEPTH)


def _inside(value: object, place: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        if not isinstance(value, nn.Parameter):
            yield place, value
        return
    if not depth:
        return
    if isinstance(value, SimpleNamespace):
        value = vars(value)
    for key, item in entries_of(value, _MOST):
        yield from _inside(item, f"{place}[{key!r}]", depth - 1)
