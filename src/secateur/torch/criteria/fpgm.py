"""Filter pruning via the geometric median: a unit that others could stand in for may go.

    score(unit) = Σ over the other units of ‖slice(unit) − slice(other)‖₂

The slices are of the weights themselves, sign included (He et al., Filter pruning via geometric median, CVPR 2019).
Tensors of one axis (norm scales, biases) say nothing about redundancy and count only where a width has nothing else.

Invariant: shifting all slices of a width by one and the same slice changes no score.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.core.positions import Outer, crossed, places
from secateur.torch.criteria.protocol import CRITERIA
from secateur.torch.criteria.reduction import check, normalise, reduce_group
from secateur.torch.measuring.norms import in_order
from secateur.torch.measuring.weights import Carrier, carriers, outer_widths

_CHUNK = 2**20  # distances held at once


@CRITERIA.add("fpgm")
@dataclass(frozen=True, slots=True, kw_only=True)
class FPGM:
    """Sum of distances to all other units of the width."""

    name = "fpgm"

    reduction: str = "mean"
    normalizer: str | None = "mean"

    def __post_init__(self) -> None:
        check(self.reduction, self.normalizer)

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of every free width that lives in a parameter."""
        asked, outer = carriers(graph, model), outer_widths(graph)
        weighty = {name for carrier in asked if carrier.tensor.dim() > 1 for names in carrier.widths for name in names}
        parts: dict[str, list[torch.Tensor]] = {}
        for carrier in asked:
            for axis in carrier.axes:
                for name in carrier.widths[axis]:
                    if carrier.tensor.dim() > 1 or name not in weighty:
                        parts.setdefault(name, []).append(sum_of_distances(slices(carrier, axis, name, outer)))
        on_host = {name: [values.cpu().double().numpy() for values in each] for name, each in parts.items()}
        return {
            name: normalise(reduce_group(values, self.reduction), self.normalizer)
            for name, values in in_order(graph, on_host).items()
        }


def slices(carrier: Carrier, axis: int, name: str, outer: Outer) -> torch.Tensor:
    """The slice of each unit of a width as a row: ``[size, m]``, or ``[outer, size, m]``."""
    for width, rows, own in crossed(carrier.layout, outer):
        if width == name and own == axis:
            return _slices_across(carrier, rows, axis, name, outer)
    weight = carrier.tensor.movedim(axis, 0).flatten(1) if carrier.tensor.dim() > 1 else carrier.tensor.unsqueeze(1)
    pieces = [_taken(weight, p).flatten(-2) for width, p in places(carrier.layout[axis], outer) if width == name]
    return torch.cat(list(_level(pieces)), dim=-1)


def sum_of_distances(rows: torch.Tensor) -> torch.Tensor:
    """For each row the sum of its distances to all rows, ``[…, n, m]`` to ``[…, n]``; in chunks."""
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    wide = wide - wide.mean(dim=-2, keepdim=True)  # distances stay, rounding shrinks
    squares = wide.square().sum(-1)
    num_rows = max(1, _CHUNK // max(1, squares.numel()))
    pieces = []
    for part, own in zip(wide.split(num_rows, -2), squares.split(num_rows, -1), strict=True):
        gaps = own.unsqueeze(-1) + squares.unsqueeze(-2) - 2 * part @ wide.transpose(-1, -2)
        pieces.append(gaps.clamp_(min=0).sqrt_().sum(-1))
    return torch.cat(pieces, dim=-1)


def _slices_across(carrier: Carrier, rows: int, columns: int, name: str, outer: Outer) -> torch.Tensor:
    weight = (
        carrier.tensor.movedim((rows, columns), (0, 1)).flatten(2) if carrier.tensor.dim() > 2 else _pair(carrier, rows)
    )
    groups = torch.cat([_taken(weight, p) for w, p in places(carrier.layout[rows], {}) if w == outer[name]], dim=1)
    pieces = []
    for width, positions in places(carrier.layout[columns], {}):
        if width == name:
            picked = groups[:, :, torch.as_tensor(positions.copy(), device=groups.device)]  # [group, m, size, k, rest]
            pieces.append(picked.movedim(2, 1).flatten(2))
    return torch.cat(pieces, dim=-1)


def _pair(carrier: Carrier, rows: int) -> torch.Tensor:
    return (carrier.tensor if rows == 0 else carrier.tensor.t()).unsqueeze(2)


def _taken(weight: torch.Tensor, positions: object) -> torch.Tensor:
    return weight[torch.as_tensor(positions, device=weight.device)]


def _level(pieces: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Where some occurrences have the outer axis and some not, those without hold for every outer index."""
    largest = max(pieces, key=torch.Tensor.dim)
    for rows in pieces:
        yield rows if rows.dim() == largest.dim() else rows.expand(len(largest), *rows.shape)
