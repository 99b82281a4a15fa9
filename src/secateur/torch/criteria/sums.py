"""Sums of |w|^p over all axes but one, reading each weight once.

    weight_OIhw  ──chunks of |w|^p──►  sums_O and sums_I

Legend: a chunk is a piece of the weight along the axis with the largest stride, small enough to stay in the cache.

Invariant: sums are in float32 (float64 for float64 weights) whatever the weight is stored in; no temporary is larger
than a chunk and the sums themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_CHUNK = {"cpu": 2**18}  # elements: 1 MiB in float32
_CHUNK_ELSEWHERE = 2**24


def power_sums(weight: torch.Tensor, axes: Sequence[int], power: float) -> list[torch.Tensor]:
    """For each of these axes the sums of |w|^power over all others, as vectors on the weight's device."""
    order = sorted(range(weight.dim()), key=weight.stride, reverse=True)
    found = _sums(weight.detach().permute(order), [order.index(axis) for axis in axes], power)
    return [found[order.index(axis)] for axis in axes]


def power_matrix(weight: torch.Tensor, rows: int, columns: int, power: float) -> torch.Tensor:
    """The sums of |w|^power over all axes but two, as a matrix."""
    moved = weight.detach().movedim((rows, columns), (0, 1))
    if moved.numel() > _chunk(moved):
        return torch.stack([power_sums(row, [0], power)[0] for row in moved])
    values = _power(moved, power)
    return values.flatten(2).sum(2) if values.dim() > 2 else values


def _sums(weight: torch.Tensor, axes: Sequence[int], power: float) -> dict[int, torch.Tensor]:
    """Chunks along axis 0; where a single index of it is larger than a chunk, one index at a time."""
    num_rows = _chunk(weight) * len(weight) // max(1, weight.numel())
    if num_rows == 0 and weight.dim() > 1:
        return _sums_by_index(weight, axes, power)
    heads: list[torch.Tensor] = []
    rest: torch.Tensor | None = None
    for piece in weight.split(max(num_rows, 1)) if num_rows < len(weight) else (weight,):
        values = _power(piece, power)
        if 0 in axes:
            heads.append(values.flatten(1).sum(1) if values.dim() > 1 else values)
        if any(axes):
            rest = values.sum(0) if rest is None else rest.add_(values.sum(0))
    found = {0: torch.cat(heads) if len(heads) > 1 else heads[0]} if heads else {}
    if rest is not None:
        found |= {axis: _all_but(rest, axis - 1) for axis in axes if axis > 0}
    return found


def _sums_by_index(weight: torch.Tensor, axes: Sequence[int], power: float) -> dict[int, torch.Tensor]:
    inner = [axis - 1 for axis in axes if axis > 0] or [0]
    each = [_sums(piece, inner, power) for piece in weight]
    found = {axis + 1: torch.stack([sums[axis] for sums in each]).sum(0) for axis in inner}
    return found | {0: torch.stack([sums[inner[0]].sum() for sums in each])}


def _all_but(values: torch.Tensor, axis: int) -> torch.Tensor:
    others = [dim for dim in range(values.dim()) if dim != axis]
    return values.sum(others) if others else values


def _power(piece: torch.Tensor, power: float) -> torch.Tensor:
    """|w|^power in the precision that sums are made in; always a new tensor."""
    wide = piece.to(torch.promote_types(piece.dtype, torch.float32))
    if power == 2 and not wide.is_complex():
        return wide.square() if wide is piece else wide.square_()
    values = wide.abs_() if wide is not piece and not wide.is_complex() else wide.abs()
    return values if power == 1 else values.pow_(power)


def _chunk(weight: torch.Tensor) -> int:
    return _CHUNK.get(weight.device.type, _CHUNK_ELSEWHERE)
