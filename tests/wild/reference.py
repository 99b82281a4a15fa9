"""What a plan means for the tensors of a model, worked out by hand from its layouts.

    axis = (heads 2) x (dim 3)    positions 0…5 are the units  (h0,d0) (h0,d1) (h0,d2) (h1,d0) (h1,d1) (h1,d2)
    kept heads = [1]              keeps positions 3 4 5

`mask` zeroes what goes, `select` cuts it out, `permute` renames the units: a network is the same under other names of its
units, so permuting a width everywhere it is said to be must change no output, whatever statistic runs over it.

Invariant: nothing here calls the library; a layout is read by its fields alone.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Wrong(Exception):
    """The library broke its promise."""


Coordinates = list[tuple[tuple[str, int], ...]]  # for each position of an axis: the unit of each width, outermost first
Kept = Mapping[str, np.ndarray]
Outer = Mapping[str, str | None]


def coordinates(axis: Any) -> Coordinates:
    """For each position of an axis, which unit of which width it is."""
    if hasattr(axis, "width"):
        return [((axis.width, unit),) for unit in range(axis.size)]
    if hasattr(axis, "parts"):
        return [place for part in axis.parts for place in coordinates(part)]
    places: Coordinates = [()]
    if not hasattr(axis, "factors"):
        return places * axis.size
    for factor in axis.factors:
        places = [before + after for before in places for after in coordinates(factor)]
    return places


def mask(layout: tuple[Any, ...], kept: Kept, outer: Outer) -> Tensor:
    """True where an entry of a tensor survives."""
    axes = [coordinates(axis) for axis in layout]
    result = torch.ones([len(axis) for axis in axes], dtype=torch.bool)
    for i, axis in enumerate(axes):
        alive = torch.tensor([_survives(place, kept, outer) for place in axis], dtype=torch.bool)
        result = result & alive.view([-1 if j == i else 1 for j in range(len(axes))])
        for j, other in _crossing(i, axes, kept, outer):
            pairs = torch.tensor([[_survives_beside(p, q, kept, outer) for q in other] for p in axis])
            shape = [len(axes[k]) if k in (i, j) else 1 for k in range(len(axes))]
            result = result & (pairs if i < j else pairs.T).reshape(shape)
    return result


def _survives(place: tuple[tuple[str, int], ...], kept: Kept, outer: Outer) -> bool:
    for k, (width, unit) in enumerate(place):
        chosen = kept.get(width)
        if chosen is None:
            continue
        if chosen.ndim == 2:
            row = _row(place[:k], place, outer[width])
            if row is None:
                continue  # its row is given by another axis
            chosen = chosen[row]
        if unit not in chosen:
            return False
    return True


def _row(before: Any, whole: Any, outer: str | None) -> int | None:
    found = [unit for width, unit in before if width == outer] or [unit for width, unit in whole if width == outer]
    return found[-1] if found else None


def _crossing(i: int, axes: list[Coordinates], kept: Kept, outer: Outer) -> list[tuple[int, Coordinates]]:
    widths = [{width for place in axis for width, _ in place} for axis in axes]
    ragged = {w for w in widths[i] if w in kept and kept[w].ndim == 2 and outer[w] not in widths[i]}
    found = [(j, axes[j]) for j in range(len(axes)) if j != i and any(outer[w] in widths[j] for w in ragged)]
    missing = [w for w in ragged if not any(outer[w] in widths[j] for j in range(len(axes)))]
    if missing:
        raise Wrong(f"{missing[0]} keeps a set for each {outer[missing[0]]}, which this tensor does not have")
    return found


def _survives_beside(place: Any, other: Any, kept: Kept, outer: Outer) -> bool:
    for width, unit in place:
        chosen = kept.get(width)
        if chosen is not None and chosen.ndim == 2:
            row = _row(other, other, outer[width])
            if row is not None and unit not in chosen[row]:
                return False
    return True


def select(tensor: Tensor, alive: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The surviving entries, in order, as a tensor of this shape."""
    if int(alive.sum()) != int(np.prod(shape)):
        raise Wrong(f"{int(alive.sum())} entries survive, the plan says {list(shape)}")
    if _is_separable(alive):
        for dim in range(alive.dim()):
            rest = [d for d in range(alive.dim()) if d != dim]
            keep = alive.any(dim=rest) if rest else alive
            tensor = tensor.index_select(dim, keep.nonzero()[:, 0])
        return tensor.reshape(shape)
    for order in itertools.permutations(
        range(alive.dim())
    ):  # ragged: entries are in order once the outer axis stands before the inner one
        sizes = [shape[d] for d in order]
        turned, values = alive.permute(order), tensor.permute(order)
        if all(_has_full_rows(turned, sizes, d) for d in range(len(order))):
            back = [order.index(d) for d in range(len(order))]
            return values[turned].reshape(sizes).permute(back)
    raise Wrong("the surviving entries have no rectangular order")


def _is_separable(alive: Tensor) -> bool:
    product = torch.ones_like(alive)
    for dim in range(alive.dim()):
        rest = [d for d in range(alive.dim()) if d != dim]
        keep = alive.any(dim=rest) if rest else alive
        product = product & keep.view([-1 if d == dim else 1 for d in range(alive.dim())])
    return bool((product == alive).all())


def _has_full_rows(alive: Tensor, sizes: Sequence[int], dim: int) -> bool:
    """Whether, given what survives outside, each row along ``dim`` that has any survivor has ``sizes[dim]`` of them."""
    outside = alive.flatten(dim + 1).any(-1) if dim + 1 < alive.dim() else alive
    counts = outside.sum(dim)
    return bool(((counts == 0) | (counts == sizes[dim])).all())


def permuted(axis: Any, orders: Mapping[str, np.ndarray]) -> np.ndarray:
    """For each position of an axis, the position whose contents it takes when the units of these widths are renamed."""
    if hasattr(axis, "width"):
        return orders.get(axis.width, np.arange(axis.size))
    if hasattr(axis, "parts"):
        pieces, start = [], 0
        for part in axis.parts:
            pieces.append(permuted(part, orders) + start)
            start += part.size
        return np.concatenate(pieces)
    if not hasattr(axis, "factors"):
        return np.arange(axis.size)
    places = np.zeros(1, dtype=np.int64)
    for factor in axis.factors:
        places = (places[:, None] * factor.size + permuted(factor, orders)[None]).reshape(-1)
    return places


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under every name they have."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def zero(model: nn.Module, layouts: Mapping[str, Any], kept: Kept, outer: Outer) -> None:
    """Write zeros over everything that belongs to a removed unit."""

    def without(tensor: Tensor, layout: Any) -> Tensor:
        return torch.where(mask(layout, kept, outer), tensor, torch.zeros((), dtype=tensor.dtype))

    _overwrite(model, layouts, without, set(kept))


def rename(model: nn.Module, layouts: Mapping[str, Any], orders: Mapping[str, np.ndarray]) -> None:
    """Give the units of widths other places, in every tensor alike."""

    def turned(tensor: Tensor, layout: Any) -> Tensor:
        for dim, axis in enumerate(layout):
            tensor = tensor.index_select(dim, torch.from_numpy(permuted(axis, orders)))
        return tensor

    _overwrite(model, layouts, turned, set(orders), integers=True)


def _overwrite(
    model: nn.Module, layouts: Mapping[str, Any], make: Any, concerned: set[str], *, integers: bool = False
) -> None:
    """All new values are made before the first is written: tensors may share memory."""
    made: list[tuple[str, Tensor, Tensor]] = []
    for name, tensor in tensors_of(model).items():
        layout = layouts.get(name, ())
        if not (tensor.is_floating_point() or tensor.is_complex() or integers):
            continue
        if any(width in concerned for axis in layout for place in coordinates(axis) for width, _ in place):
            made.append((name, tensor, make(tensor.detach().clone(), layout)))
    with torch.no_grad():
        for _, tensor, new in made:
            if 0 in tensor.stride() and tensor.numel() > 1:
                tensor.data = new  # one number seen many times cannot be written to
            else:
                tensor.data.copy_(new)
    for name, tensor, new in made:
        if not torch.equal(tensor.detach(), new) and not bool(new.isnan().any()):
            raise Wrong(f"{name} shares memory with a tensor that is narrowed another way")


def renaming(axis: Any, old: str, new: str) -> Any:
    """The same axis, or axes, with a width under another name."""
    if isinstance(axis, tuple):
        return tuple(renaming(part, old, new) for part in axis)
    if hasattr(axis, "width"):
        return dataclasses.replace(axis, width=new) if axis.width == old else axis
    parts = "factors" if hasattr(axis, "factors") else "parts" if hasattr(axis, "parts") else None
    return dataclasses.replace(axis, **{parts: renaming(getattr(axis, parts), old, new)}) if parts else axis


def widths_of(axis: Any) -> set[str]:
    """The widths that an axis is made of."""
    return {width for place in coordinates(axis) for width, _ in place}


def arrays(plan: Any) -> dict[str, Any]:
    """The kept sets of a plan, by width."""
    return {name: np.asarray(kept) for name, kept in plan.kept.items()}


def ties(tensors: dict[str, Tensor]) -> set[frozenset[str]]:
    """The names of each tensor that has several."""
    groups: dict[int, set[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(id(tensor), set()).add(name)
    return {frozenset(names) for names in groups.values()}


def bitwise(a: Tensor, b: Tensor) -> bool:
    """Equal, bit for bit but for kinds of nothing."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
