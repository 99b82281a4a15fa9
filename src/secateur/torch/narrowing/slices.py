"""Cutting tensors down to what a plan keeps, and telling the modules.

    narrowed_tensors(model, plan)     {name: smaller tensor}; changes nothing
    install(model, tensors, plan)     puts them in, rewrites attributes, refreshes torch.nn's own bookkeeping

Invariant: `install` keeps dtype, device, requires_grad, tying of weights and names; who calls it can undo it
(`secateur.torch.running.restoring`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.core.layout import Along, Axis, Indices, Layout, Product, Sum, kept_indices, touches, widths_of
from secateur.core.plan import Plan
from secateur.errors import PlanError
from secateur.torch.running.restoring import named_tensors


def narrowed_tensors(model: nn.Module, plan: Plan) -> dict[str, torch.Tensor]:
    """The narrowed version of every tensor the plan changes, by name; tied names share one tensor.

    Raises PlanError where the plan does not fit the model's tensors.
    """
    arrays = plan.arrays()
    live = named_tensors(model)
    made: dict[str, torch.Tensor] = {}
    by_identity: dict[int, torch.Tensor] = {}
    cache: dict[tuple[Axis, torch.device], torch.Tensor] = {}
    for name, layout in plan.layouts.items():
        if not any(touches(axis, arrays) for axis in layout):
            continue
        tensor = check_shape(name, live.get(name), layout)
        if id(tensor) not in by_identity:
            by_identity[id(tensor)] = renewed(tensor, narrow_tensor(tensor.detach(), layout, arrays, cache))
        made[name] = by_identity[id(tensor)]
    return made


def check_shape(name: str, tensor: torch.Tensor | None, layout: Layout) -> torch.Tensor:
    """The tensor, if it has the shape that its layout says. Raises PlanError if not."""
    expected = tuple(axis.size for axis in layout)
    if tensor is None or tuple(tensor.shape) != expected:
        found = "nothing" if tensor is None else f"a tensor of shape {tuple(tensor.shape)}"
        raise PlanError(f"the plan expects {name} with shape {expected}, the model has {found}")
    return tensor


def renewed(old: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """New data as what the old tensor was: a Parameter with its requires_grad and attributes, or a plain tensor."""
    if not isinstance(old, nn.Parameter):
        return data
    new = nn.Parameter(data, requires_grad=old.requires_grad)
    vars(new).update(vars(old))
    return new


def narrow_tensor(
    tensor: torch.Tensor,
    layout: Layout,
    arrays: Mapping[str, Indices],
    cache: dict[tuple[Axis, torch.device], torch.Tensor] | None = None,
) -> torch.Tensor:
    """The tensor with only the kept indices of every axis, in a storage of its own."""
    if crosses(layout, arrays):
        return _narrow_crossed(tensor, layout, arrays).contiguous(memory_format=_format(tensor))
    cache = {} if cache is None else cache
    format_ = _format(tensor)
    order = sorted(range(len(layout)), key=lambda i: _fraction(layout[i], arrays))
    for i in order:
        axis = layout[i]
        if touches(axis, arrays):
            key = (axis, tensor.device)
            if key not in cache:
                cache[key] = torch.from_numpy(kept_indices(axis, arrays)).to(tensor.device)
            tensor = _take(tensor, i, cache[key])
    return tensor.contiguous(memory_format=format_)


def _format(tensor: torch.Tensor) -> torch.memory_format:
    """The memory format to keep: channels last where it is that and nothing else."""
    if not tensor.is_contiguous():
        for dims, format_ in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if tensor.dim() == dims and tensor.is_contiguous(memory_format=format_):
                return format_
    return torch.contiguous_format


def _take(tensor: torch.Tensor, dim: int, indices: torch.Tensor) -> torch.Tensor:
    """``index_select``; along the last dimension as a gather, which walks memory in order and is several times faster."""
    if dim == 0 or dim < tensor.dim() - 1:
        return tensor.index_select(dim, indices)
    return tensor.gather(dim, indices.expand(*tensor.shape[:-1], -1))


def _fraction(axis: Axis, arrays: Mapping[str, Indices]) -> float:
    """The share an axis keeps: cut first where most goes."""
    return min((arrays[n].shape[-1] / max(axis.size, 1) for n in widths_of(axis) if n in arrays), default=1.0)


def crosses(layout: Layout, arrays: Mapping[str, Indices]) -> bool:
    """Whether a width here keeps another set under each index of a width on another axis."""
    return any(_starts_ragged(axis, arrays) for axis in layout)


def _starts_ragged(axis: Axis, arrays: Mapping[str, Indices]) -> bool:
    match axis:
        case Along():
            found = arrays.get(axis.width)
            return found is not None and found.ndim == 2
        case Product():
            return _starts_ragged(axis.factors[0], arrays)
        case Sum():
            return any(_starts_ragged(part, arrays) for part in axis.parts)
        case _:
            return False


def _narrow_crossed(tensor: torch.Tensor, layout: Layout, arrays: Mapping[str, Indices]) -> torch.Tensor:
    """One gather over all factors: a ragged width's index depends on the outer factor on the other axis."""
    factors = [f for axis in layout for f in (axis.factors if isinstance(axis, Product) else (axis,))]
    if any(isinstance(f, Sum) for f in factors):
        raise PlanError("a width that depends on another axis cannot be part of a concatenated axis")
    outer_place = _outer_places(layout, factors, arrays)
    plain = [kept_indices(f, arrays) if i not in outer_place else np.zeros(0) for i, f in enumerate(factors)]
    index: list[torch.Tensor] = []
    for i, factor in enumerate(factors):
        shape = [1] * len(factors)
        if i in outer_place:
            rows = plain[outer_place[i]]
            matrix = arrays[factor.width][rows]  # type: ignore[union-attr]
            shape[outer_place[i]], shape[i] = matrix.shape
            ordered = matrix if outer_place[i] < i else matrix.T
            index.append(torch.from_numpy(np.ascontiguousarray(ordered)).view(shape))
        else:
            shape[i] = len(plain[i])
            index.append(torch.from_numpy(plain[i]).view(shape))
    gathered = tensor.reshape([f.size for f in factors])[tuple(t.to(tensor.device) for t in index)]
    sizes = iter(gathered.shape)
    return gathered.reshape([_next_size(axis, sizes) for axis in layout]).contiguous()


def _next_size(axis: Axis, sizes: Any) -> int:
    size = 1
    for _ in range(len(axis.factors) if isinstance(axis, Product) else 1):
        size *= next(sizes)
    return size


def _outer_places(layout: Layout, factors: list[Axis], arrays: Mapping[str, Indices]) -> dict[int, int]:
    """Place of each ragged factor -> place of the factor its rows belong to."""
    starts = set()
    position = 0
    for axis in layout:
        starts.add(position)
        position += len(axis.factors) if isinstance(axis, Product) else 1
    found: dict[int, int] = {}
    for i, factor in enumerate(factors):
        matrix = arrays.get(factor.width) if isinstance(factor, Along) else None
        if matrix is None or matrix.ndim != 2:
            continue
        candidates = [i - 1] if i not in starts else [j for j in range(len(factors)) if j != i]
        matching = [j for j in candidates if factors[j].size == len(matrix)]
        if not matching:
            raise PlanError(f"no axis of {len(matrix)} beside {factor}")
        found[i] = matching[0]
    return found
