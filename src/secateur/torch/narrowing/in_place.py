"""Narrowing in place without holding the old and the new network side by side.

    for each tensor:  old ──► kept + removed     the old one is let go, the removed numbers are set aside
    on any error:     kept + removed ──► old     put together again, bit for bit

The peak is the network plus one tensor, where holding both would be the network plus all that is kept.

Invariant: if narrowing is stopped, by an error or a signal, every tensor is again what it was, and where it was.
"""

from __future__ import annotations

import math
import operator
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import nn

from secateur.core.layout import Axis, Indices, Layout, touches
from secateur.core.plan import Plan
from secateur.torch.narrowing.following import Pair
from secateur.torch.narrowing.slices import (
    check_shape,
    crosses,
    kept_mask,
    memory_format,
    narrow_tensor,
    positions,
    renewed,
    taken,
)
from secateur.torch.running.constants import constants_of, narrowable_tensors, table_of
from secateur.torch.running.memory import free_bytes
from secateur.torch.running.walking import named_modules

Holder = tuple[dict[str, Any], str]  # a module's table, and the key a tensor has there

LARGE_BYTES = 1 << 28  # what is kept of a network may be this much and still be held beside it

SHARE = 0.25  # of the free memory that what is kept may take


@dataclass(slots=True)
class _Cut:
    """One tensor that was cut: where it hangs, what is left, and what it takes to put it back."""

    holders: list[Holder]
    layout: Layout
    format: torch.memory_format
    old: weakref.ref[torch.Tensor]
    new: torch.Tensor
    removed: list[torch.Tensor]


def fits_beside(model: nn.Module, plan: Plan) -> bool:
    """Whether what a plan keeps can be held beside the network until all of it is put in at once."""
    tensors = {id(t): (name, t) for name, t in narrowable_tensors(model).items() if plan.narrows(name)}.values()
    kept = sum(math.prod(plan.shape(name)) * t.element_size() for name, t in tensors if not t.is_meta)
    return kept <= min(LARGE_BYTES, SHARE * free_bytes(next((t.device for _, t in tensors), torch.device("cpu"))))


def stream(model: nn.Module, plan: Plan, finish: Callable[[list[Pair]], None], finished: Callable[[], bool]) -> None:
    """Narrow a model's tensors one by one, then ``finish`` with those that somebody holds still; put all of them back if
    anything is in the way.

    ``finished``: whether ``finish`` came to its end, since an interrupt may come between that and its return. Raises PlanError
    where the plan does not fit a tensor.
    """
    cuts: list[_Cut] = []
    try:
        for holders, name in _by_tensor(model):
            if plan.narrows(name):
                # on the list before it is done: an interruption in between finds it there, and nothing to put back
                cuts.append(_cut(holders, name, plan.layouts[name], plan.arrays))
                _hang(holders, cuts[-1].new)
        finish([(old, cut.new) for cut in cuts if (old := cut.old()) is not None])
    except BaseException:
        if not finished():
            _put_all_back(cuts, plan.arrays)
        raise


def _by_tensor(model: nn.Module) -> list[tuple[list[Holder], str]]:
    """Every tensor once, with all that holds it; by name, so that no reference here keeps a tensor alive."""
    found: dict[int, tuple[list[Holder], str]] = {}
    for prefix, module in named_modules(model, once=False):
        for members in (module._parameters, module._buffers, constants_of(module)):
            for key, tensor in members.items():
                if tensor is not None:
                    table = table_of(module, key)
                    holders, _ = found.setdefault(id(tensor), ([], f"{prefix}.{key}" if prefix else key))
                    if not any(known is table and word == key for known, word in holders):
                        holders.append((table, key))
    return list(found.values())


def _hang(holders: list[Holder], tensor: torch.Tensor) -> None:
    """Put a tensor in all its places in one step, which no signal divides (`undo_of` says why)."""
    tables, keys = zip(*holders, strict=True)
    deque(map(operator.setitem, tables, keys, repeat(tensor)), 0)


def _cut(holders: list[Holder], name: str, layout: Layout, arrays: Mapping[str, Indices]) -> _Cut:
    table, key = holders[0]
    old = check_shape(name, table[key], layout)
    data, removed = _parted(old.detach(), layout, arrays)
    format_ = memory_format(old)
    new = renewed(old, data.contiguous(memory_format=format_))
    return _Cut(holders, layout, format_, weakref.ref(old), new, removed)


def _parted(
    data: torch.Tensor, layout: Layout, arrays: Mapping[str, Indices]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What is kept of a tensor, and what went, axis by axis: both are copied once, in long runs."""
    if crosses(layout, arrays):
        return narrow_tensor(data, layout, arrays), [data[~kept_mask(data, layout, arrays)]]
    removed: list[torch.Tensor] = []
    for dim, axis in enumerate(layout):
        if touches(axis, arrays):
            stays, goes = _both(axis, arrays, data.device)
            removed.append(taken(data, dim, goes))
            data = taken(data, dim, stays)
    return data, removed


def _joined(cut: _Cut, arrays: Mapping[str, Indices]) -> torch.Tensor:
    """The way back from `_parted`."""
    data, removed = cut.new.detach(), list(cut.removed)
    if crosses(cut.layout, arrays):
        whole = data.new_empty([axis.size for axis in cut.layout])
        mask = kept_mask(whole, cut.layout, arrays)
        whole[mask] = data.reshape(-1)
        whole[~mask] = removed[0]
        return whole.contiguous(memory_format=cut.format)
    for dim in reversed(range(len(cut.layout))):
        if touches(cut.layout[dim], arrays):
            stays, goes = _both(cut.layout[dim], arrays, data.device)
            whole = data.new_empty([len(stays) + len(goes) if i == dim else n for i, n in enumerate(data.shape)])
            data = whole.index_copy_(dim, stays, data).index_copy_(dim, goes, removed.pop())
    return data.contiguous(memory_format=cut.format)


def _both(axis: Axis, arrays: Mapping[str, Indices], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The indices of an axis that stay, and those that go."""
    stays = positions(axis, arrays, device)
    goes = torch.ones(axis.size, dtype=torch.bool, device=device).index_fill_(0, stays, False)
    return stays, goes.nonzero().view(-1)


def _put_all_back(cuts: list[_Cut], arrays: Mapping[str, Indices]) -> None:
    while cuts:
        try:
            cut = cuts[-1]
            table, key = cut.holders[0]
            if table[key] is cut.new:
                old = cut.old()
                _hang(cut.holders, renewed(cut.new, _joined(cut, arrays)) if old is None else old)
            cuts.pop()
        except KeyboardInterrupt:  # somebody is impatient: half a network is no answer to that
            continue
