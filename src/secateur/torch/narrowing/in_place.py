"""Narrowing in place without holding the old and the new network side by side.

    for each tensor:  old ──► kept + removed     the old one is let go, the removed numbers are set aside
    on any error:     kept + removed ──► old     put together again, bit for bit

The peak is the network plus one tensor, where holding both would be the network plus all that is kept.

Invariant: if the block raises, every tensor is again what it was, and where it was.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateur.core.layout import Indices, Layout, kept_indices, touches
from secateur.core.plan import Plan
from secateur.torch.narrowing.slices import check_shape, crosses, narrow_tensor, renewed

Place = tuple[dict[str, Any], str]


SMALL_BYTES = 64 << 20  # below this, two networks side by side are nothing


SHARE = 0.3  # keeping less than this may be held beside the network


@dataclass(slots=True)
class _Cut:
    """One tensor that was cut: where it hangs, what is left, and what it takes to put it back."""

    places: list[Place]
    layout: Layout
    shape: torch.Size
    old: weakref.ref[torch.Tensor]
    new: torch.Tensor
    removed: torch.Tensor


def worthwhile(model: nn.Module, plan: Plan) -> bool:
    """Whether what a plan keeps is too much to be held beside the network."""
    whole = kept = 0
    for tensor in {id(t): t for t in (*model.parameters(), *model.buffers())}.values():
        whole += tensor.numel() * tensor.element_size()
    if whole < SMALL_BYTES:
        return False
    arrays = plan.arrays()
    for name, parameter in model.named_parameters():
        if any(touches(axis, arrays) for axis in plan.layouts.get(name, ())):
            size = parameter.element_size()
            for count in plan.shape(name):
                size *= count
            kept += size
    return kept > SHARE * whole


@contextmanager
def streamed(model: nn.Module, plan: Plan) -> Iterator[None]:
    """Narrow a model's tensors one by one; put all of them back if the block raises.

    Raises PlanError where the plan does not fit a tensor.
    """
    arrays = plan.arrays()
    cuts: list[_Cut] = []
    try:
        for places, name in _by_tensor(model):
            layout = plan.layouts.get(name, ())
            if any(touches(axis, arrays) for axis in layout):
                cuts.append(_cut(places, name, layout, arrays))
        yield
    except BaseException:
        while cuts:
            _put_back(cuts.pop(), arrays)
        raise


def _by_tensor(model: nn.Module) -> list[tuple[list[Place], str]]:
    """Every tensor once, with all the places that hold it; by place, so that no reference keeps a tensor alive."""
    found: dict[int, tuple[list[Place], str]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                if tensor is not None:
                    places, _ = found.setdefault(id(tensor), ([], f"{prefix}.{key}" if prefix else key))
                    if not any(known is table and word == key for known, word in places):
                        places.append((table, key))
    return list(found.values())


def _cut(places: list[Place], name: str, layout: Layout, arrays: Mapping[str, Indices]) -> _Cut:
    table, key = places[0]
    old = table[key]
    check_shape(name, old, layout)
    gone = ~_mask(old, layout, arrays)
    new = renewed(old, narrow_tensor(old.detach(), layout, arrays))
    made = _Cut(places, layout, old.shape, weakref.ref(old), new, old.detach()[gone])
    for table, key in places:
        table[key] = new
    return made


def _put_back(cut: _Cut, arrays: Mapping[str, Indices]) -> None:
    old = cut.old()
    if old is None:
        data = torch.empty(cut.shape, dtype=cut.new.dtype, device=cut.new.device)
        kept = _mask(data, cut.layout, arrays)
        data[kept] = cut.new.detach().reshape(-1)
        data[~kept] = cut.removed
        old = renewed(cut.new, data)
    for table, key in cut.places:
        table[key] = old


def _mask(tensor: torch.Tensor, layout: Layout, arrays: Mapping[str, Indices]) -> torch.Tensor:
    """Which numbers of a tensor are kept, as booleans of its shape."""
    if crosses(layout, arrays):
        places = torch.arange(tensor.numel(), device=tensor.device).view(tensor.shape)
        mask = torch.zeros(tensor.numel(), dtype=torch.bool, device=tensor.device)
        mask[narrow_tensor(places, layout, arrays).reshape(-1)] = True
        return mask.view(tensor.shape)
    mask = torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device)
    for dim, axis in enumerate(layout):
        if touches(axis, arrays):
            along = torch.zeros(axis.size, dtype=torch.bool)
            along[torch.from_numpy(kept_indices(axis, arrays))] = True
            mask &= along.to(tensor.device).view([-1 if i == dim else 1 for i in range(tensor.dim())])
    return mask
