"""Sums of |w|^p over all axes but one, reading each weight once.

    weight_OIhw  ──chunks of |w|^p──►  sums_O and sums_I

Legend: a chunk is a piece of the weight along the axis with the largest stride, small enough to stay in the cache.

Invariant: sums are in float32 (float64 for float64 weights) whatever the weight is stored in; no temporary is larger
than a chunk and the sums themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from secateur.core.graph import Graph
from secateur.core.layout import Along, Values
from secateur.core.positions import Outer, crossed, places
from secateur.torch.measuring.weights import Carrier

_CHUNK = {"cpu": 2**18}  # elements: 1 MiB in float32


_CHUNK_ELSEWHERE = 2**24


def power_sums(weight: torch.Tensor, axes: Sequence[int], power: float) -> list[torch.Tensor]:
    """For each of these axes the sums of |w|^power over all others, as vectors on the weight's device."""
    order = sorted(range(weight.dim()), key=weight.stride, reverse=True)
    by_axis = _sums(weight.detach().permute(order), [order.index(axis) for axis in axes], power)
    return [by_axis[order.index(axis)] for axis in axes]


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
    by_axis = {0: torch.cat(heads) if len(heads) > 1 else heads[0]} if heads else {}
    if rest is not None:
        by_axis |= {axis: _all_but(rest, axis - 1) for axis in axes if axis > 0}
    return by_axis


def _sums_by_index(weight: torch.Tensor, axes: Sequence[int], power: float) -> dict[int, torch.Tensor]:
    inner = [axis - 1 for axis in axes if axis > 0] or [0]
    each = [_sums(piece, inner, power) for piece in weight]
    by_axis = {axis + 1: torch.stack([sums[axis] for sums in each]).sum(0) for axis in inner}
    return by_axis | {0: torch.stack([sums[inner[0]].sum() for sums in each])}


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


def unit_sums(given: Iterable[Carrier], outer: Outer, power: float) -> dict[str, list[Values]]:
    """For each width what each axis of each tensor says: Σ |w|^power over every unit's slice."""
    asked = list(given)
    vectors = iter(_on_host([v for carrier in asked for v in power_sums(carrier.tensor, carrier.axes, power)]))
    parts: dict[str, list[Values]] = {}
    for carrier in asked:
        for axis in carrier.axes:
            for name, values in _folded(carrier, axis, next(vectors), outer, power).items():
                parts.setdefault(name, []).append(values)
    return parts


def in_order(graph: Graph, parts: dict[str, list[Values]]) -> dict[str, list[Values]]:
    """In the order of the graph's widths."""
    return {width.name: parts[width.name] for width in graph.free if width.name in parts}


def _folded(carrier: Carrier, axis: int, vector: Values, outer: Outer, power: float) -> dict[str, Values]:
    """The sums of each width on one axis, all its occurrences together."""
    made_of = carrier.layout[axis]
    if isinstance(made_of, Along) and made_of.width not in outer:
        return {made_of.width: vector}
    across = {name: rows for name, rows, own in crossed(carrier.layout, outer) if own == axis} if outer else {}
    folded: dict[str, Values] = {}
    for name, positions in places(made_of, outer):
        if name in carrier.widths[axis] and name not in across:
            folded[name] = folded.get(name, 0) + vector[positions].sum(axis=-1)
    for name, rows in across.items():
        if name in carrier.widths[axis]:
            folded[name] = _folded_across(carrier, rows, axis, name, outer, power)
    return folded


def _folded_across(carrier: Carrier, rows: int, columns: int, name: str, outer: Outer, power: float) -> Values:
    """The sums of a ragged width, one row for each index of its outer width on another axis of the tensor."""
    matrix = power_matrix(carrier.tensor, rows, columns, power).cpu().double().numpy()
    by_group = sum(matrix[p].sum(axis=1) for other, p in places(carrier.layout[rows], {}) if other == outer[name])
    own = [p for width, p in places(carrier.layout[columns], {}) if width == name]
    return np.asarray(by_group)[:, np.concatenate(own, axis=1)].sum(axis=-1)


def _on_host(vectors: list[torch.Tensor]) -> Iterator[Values]:
    """All vectors as float64 on the host, one copy for each device."""
    by_device: dict[torch.device, list[int]] = {}
    for i, vector in enumerate(vectors):
        by_device.setdefault(vector.device, []).append(i)
    hosted: dict[int, Values] = {}
    for numbers in by_device.values():
        whole = torch.cat([vectors[i] for i in numbers]).cpu().double().numpy()
        ends = np.cumsum([len(vectors[i]) for i in numbers])
        hosted.update(zip(numbers, np.split(whole, ends[:-1]), strict=True))
    return (hosted[i] for i in range(len(vectors)))


def with_values(held: Iterable[Carrier], value: Callable[[Carrier], torch.Tensor]) -> list[Carrier]:
    """The same held, each with something else in place of its weights."""
    return [replace(carrier, tensor=value(carrier)) for carrier in held]


def signed_unit_sums(held: list[Carrier], outer: Outer) -> dict[str, list[Values]]:
    """As `unit_sums`, but what is negative counts as negative."""
    positive = unit_sums(with_values(held, lambda carrier: carrier.tensor.clamp(min=0)), outer, 1)
    negative = unit_sums(with_values(held, lambda carrier: carrier.tensor.clamp(max=0)), outer, 1)
    return {name: [p - n for p, n in zip(positive[name], negative[name], strict=True)] for name in positive}
