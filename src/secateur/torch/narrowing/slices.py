"""Cutting tensors down to what a plan keeps.

    narrowed(model.state_dict(), plan)     what the plan narrows is smaller, the rest is as given
    kept_mask(tensor, layout, arrays)      True where an entry stays

Invariant: nothing given is changed; dtype, device, memory format, requires_grad and tying stay.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from secateur.core.given import check_given
from secateur.core.layout import Along, Axis, Indices, Layout, Product, Sum, kept_indices, touches, widths_of
from secateur.core.plan import Plan
from secateur.errors import PlanError
from secateur.torch.running.parameter_hooks import carry_hooks

Cache = dict[tuple[Axis, torch.device], torch.Tensor]


def narrowed(tensors: Mapping[str, torch.Tensor], plan: Plan) -> dict[str, torch.Tensor]:
    """A state dict as a plan leaves it: every name, tied names sharing one tensor still; no live model is needed. Without the
    blocks that go, what stays has its new name.

    The mapping may lack tensors (a shard). Raises PlanError where a tensor has not the shape that the plan expects, where most
    names are none of the plan's, and where it narrows nothing that is there.
    """
    check_given("narrowed", "tensors", tensors, Mapping)
    check_given("narrowed", "plan", plan, Plan)
    made = copy.copy(tensors) if isinstance(tensors, dict) else dict(tensors)
    smaller = slices_of({name: tensors[name] for name in plan.narrowed if name in tensors}, plan)
    if plan.narrowed and not smaller:
        raise PlanError(f"none of these tensors is one that the plan narrows; the first of those is {plan.narrowed[0]}")
    sized = [name for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor) and tensor.dim()]
    unknown = [name for name in sized if name not in plan.layouts]
    if 2 * len(unknown) > len(sized):
        raise PlanError(
            f"these tensors are another network's: the plan knows {len(sized) - len(unknown)} of {len(sized)} names, and not "
            f"{unknown[0]}. Give a state dict of the network that the plan was made for"
        )
    made.update(smaller)
    if plan.drops:
        left = {new: tensor for name, tensor in made.items() if (new := plan.renamed(name)) is not None}
        made.clear()
        made.update(left)
    return made


def slices_of(tensors: Mapping[str, torch.Tensor | None], plan: Plan) -> dict[str, torch.Tensor]:
    """What the plan leaves of each of these tensors, all of which it narrows, in storages of their own."""
    made: dict[str, torch.Tensor] = {}
    known: dict[tuple[object, Layout], torch.Tensor] = {}
    cache: Cache = {}
    for name, tensor in tensors.items():
        layout = plan.layouts[name]
        tensor = check_shape(name, tensor, layout)
        key = (id(tensor) if isinstance(tensor, nn.Parameter) else identity(tensor), layout)
        if key not in known:
            known[key] = renewed(tensor, narrow_tensor(tensor.detach(), layout, plan.arrays, cache))
        made[name] = known[key]
    return made


def identity(tensor: torch.Tensor) -> object:
    """Equal for two names of the same numbers in memory; a state dict gives every name a tensor object of its own."""
    if tensor.numel() == 0 or tensor.is_meta:
        return id(tensor)
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device


def check_shape(name: str, tensor: torch.Tensor | None, layout: Layout) -> torch.Tensor:
    """The tensor, if it has the shape that its layout says. Raises PlanError if not."""
    expected = tuple(axis.size for axis in layout)
    if tensor is None or tuple(tensor.shape) != expected:
        found = "nothing" if tensor is None else f"a tensor of shape {tuple(tensor.shape)}"
        raise PlanError(f"the plan expects {name} with shape {expected}, the model has {found}")
    return tensor


def renewed(old: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """As `remade`, for keeps: with the old tensor's hooks too."""
    new = remade(old, data)
    carry_hooks(old, new)
    return new


def remade(old: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """New data as what the old tensor was: a Parameter with its requires_grad and attributes, or a plain tensor."""
    if not isinstance(old, nn.Parameter):
        return data
    wanted = old.requires_grad and (data.is_floating_point() or data.is_complex())
    if type(old) is nn.Parameter or not issubclass(type(old), nn.Parameter):
        new = nn.Parameter(data, requires_grad=wanted)
    else:  # a subclass may ask for other arguments than these
        new = torch.Tensor._make_subclass(type(old), data, wanted)
    vars(new).update(vars(old))
    return new


def narrow_tensor(
    tensor: torch.Tensor,
    layout: Layout,
    arrays: Mapping[str, Indices],
    cache: Cache | None = None,
) -> torch.Tensor:
    """The tensor with only the kept indices of every axis, in a storage of its own."""
    if crosses(layout, arrays):
        return _narrow_crossed(tensor, layout, arrays).contiguous(memory_format=memory_format(tensor))
    cache = {} if cache is None else cache
    format_ = memory_format(tensor)
    # where most goes comes first, so that the later cuts have less to copy
    order = sorted(range(len(layout)), key=lambda i: _fraction(layout[i], arrays))
    for i in order:
        axis = layout[i]
        if touches(axis, arrays):
            key = (axis, tensor.device)
            if key not in cache:
                cache[key] = positions(axis, arrays, tensor.device)
            tensor = taken(tensor, i, cache[key])
    return tensor.contiguous(memory_format=format_)


def positions(axis: Axis, arrays: Mapping[str, Indices], device: torch.device) -> torch.Tensor:
    """The kept indices of an axis, ready to index with."""
    return torch.tensor(kept_indices(axis, arrays), dtype=torch.int64, device=device)  # a copy: plans cannot be written


def kept_mask(tensor: torch.Tensor, layout: Layout, arrays: Mapping[str, Indices]) -> torch.Tensor:
    """True where these kept sets keep an entry of the tensor; a shape that broadcasts to the tensor's."""
    if crosses(layout, arrays):
        entries = torch.arange(tensor.numel()).view(tensor.shape)
        full = torch.zeros(tensor.numel(), dtype=torch.bool)
        full[narrow_tensor(entries, layout, arrays).reshape(-1)] = True
        return full.view(tensor.shape).to(tensor.device)
    mask = torch.ones([1] * tensor.dim(), dtype=torch.bool)
    for i, axis in enumerate(layout):
        if touches(axis, arrays):
            line = torch.zeros(axis.size, dtype=torch.bool)
            line[positions(axis, arrays, line.device)] = True
            mask = mask & line.view([-1 if j == i else 1 for j in range(tensor.dim())])
    return mask.to(tensor.device)


def widened(small: torch.Tensor, layout: Layout, arrays: Mapping[str, Indices]) -> torch.Tensor:
    """The way back from `narrow_tensor`: a tensor of the whole shape, zero where nothing was kept."""
    if crosses(layout, arrays):
        shape = [axis.size for axis in layout]
        entries = torch.arange(math.prod(shape), device=small.device).view(shape)
        where = _narrow_crossed(entries, layout, arrays).reshape(-1)
        return small.new_zeros(math.prod(shape)).index_copy(0, where, small.reshape(-1)).view(shape)
    for i, axis in enumerate(layout):
        if touches(axis, arrays):
            shape = [axis.size if j == i else n for j, n in enumerate(small.shape)]
            small = small.new_zeros(shape).index_copy(i, positions(axis, arrays, small.device), small)
    return small


def memory_format(tensor: torch.Tensor) -> torch.memory_format:
    """The memory format to keep: channels last where it is that and nothing else."""
    if not tensor.is_contiguous():
        for dims, format_ in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if tensor.dim() == dims and tensor.is_contiguous(memory_format=format_):
                return format_
    return torch.contiguous_format


def taken(tensor: torch.Tensor, dim: int, indices: torch.Tensor) -> torch.Tensor:
    """``index_select``; along the last dimension as a gather, which walks memory in order and is several times faster."""
    if dim == 0 or dim < tensor.dim() - 1:
        return tensor.index_select(dim, indices)
    indices = indices.expand(*tensor.shape[:-1], -1)
    if tensor.dtype in (torch.bfloat16, torch.float16) and tensor.device.type == "cpu" and not tensor.requires_grad:
        # PyTorch gathers halves twenty times slower than integers of their size; a gradient wants them as they are
        return tensor.view(torch.int16).gather(dim, indices).view(tensor.dtype)
    return tensor.gather(dim, indices)


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
    # a ragged width has no indices of its own: they are a matrix over it and its outer factor
    plain = [kept_indices(f, arrays) if i not in outer_place else np.zeros(0) for i, f in enumerate(factors)]
    index: list[torch.Tensor] = []
    for i, factor in enumerate(factors):
        shape = [1] * len(factors)
        if i in outer_place:
            rows = plain[outer_place[i]]
            matrix = arrays[factor.width][rows]  # type: ignore[union-attr]
            shape[outer_place[i]], shape[i] = matrix.shape
            ordered = matrix if outer_place[i] < i else matrix.T
            index.append(torch.tensor(ordered).view(shape))
        else:
            shape[i] = len(plain[i])
            index.append(torch.tensor(plain[i]).view(shape))
    gathered = tensor.reshape([f.size for f in factors])[tuple(t.to(tensor.device) for t in index)]
    sizes = iter(gathered.shape)
    return gathered.reshape([_next_size(axis, sizes) for axis in layout]).contiguous()


def _next_size(axis: Axis, sizes: Iterator[int]) -> int:
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
