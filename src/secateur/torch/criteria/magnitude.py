"""Scores from the weights alone: norms of what carries a unit, and batch-norm scales.

    score(unit) = (mean over tensors of Σ |w|^p over the unit's slice)^(1/p), then ÷ the mean over the width

The root is taken once, after the tensors are reduced: so a score is a norm in units of the weights, and widths compare.

Invariant: a unit's score does not depend on where in its width it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Unit
from secateur.core.matching import owner
from secateur.errors import InputError
from secateur.torch.criteria.fold import Outer, crossed, places
from secateur.torch.criteria.items import Item, items, outer_widths
from secateur.torch.criteria.protocol import CRITERIA, Values
from secateur.torch.criteria.reduction import check, normalise, reduce_group
from secateur.torch.criteria.sums import power_matrix, power_sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Magnitude:
    """The norm of each unit's slices.

    ``reduction`` joins the tensors of a width, ``normalizer`` makes widths comparable, ``bias`` counts biases too.
    """

    name = "magnitude"
    power = 1.0

    reduction: str = "mean"
    normalizer: str | None = "mean"
    bias: bool = False

    def __post_init__(self) -> None:
        check(self.reduction, self.normalizer)

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of every free width that lives in a parameter."""
        said = spoken_sums(items(graph, model, bias=self.bias), outer_widths(graph), self.power)
        return {
            name: normalise(reduce_group(values, self.reduction) ** (1 / self.power), self.normalizer)
            for name, values in in_order(graph, said).items()
        }


@CRITERIA.add("l1")
@dataclass(frozen=True, slots=True, kw_only=True)
class L1(Magnitude):
    """Sum of absolute weights."""

    name = "l1"
    power = 1.0


@CRITERIA.add("l2")
@dataclass(frozen=True, slots=True, kw_only=True)
class L2(Magnitude):
    """Euclidean norm."""

    name = "l2"
    power = 2.0


@CRITERIA.add("bn_scale")
@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNormScale:
    """The absolute scale that batch norm gives a unit (Liu et al., Network slimming, ICCV 2017).

    Widths without batch norm are left out. Raises InputError where no free width has any.
    """

    name = "bn_scale"

    reduction: str = "mean"
    normalizer: str | None = "mean"

    def __post_init__(self) -> None:
        check(self.reduction, self.normalizer)

    def __call__(self, graph: Graph, model: nn.Module) -> dict[str, Values]:
        """Scores of the free widths under a batch norm."""
        scales = [item for item in items(graph, model) if _is_scale(graph, item)]
        if not scales:
            raise InputError(
                "bn_scale: no free width passes a batch norm with a scale; use another criterion, such as l1"
            )
        said = in_order(graph, spoken_sums(scales, outer_widths(graph), 1))
        return {name: normalise(reduce_group(values, self.reduction), self.normalizer) for name, values in said.items()}


def spoken_sums(spoken: Iterable[Item], outer: Outer, power: float) -> dict[str, list[Values]]:
    """For each width what each axis of each tensor says: Σ |w|^power over every unit's slice."""
    asked = list(spoken)
    vectors = iter(_on_host([v for item in asked for v in power_sums(item.tensor, item.axes, power)]))
    said: dict[str, list[Values]] = {}
    for item in asked:
        for axis in item.axes:
            for name, values in _folded(item, axis, next(vectors), outer, power).items():
                said.setdefault(name, []).append(values)
    return said


def in_order(graph: Graph, said: dict[str, list[Values]]) -> dict[str, list[Values]]:
    """In the order of the graph's widths."""
    return {width.name: said[width.name] for width in graph.free if width.name in said}


def _folded(item: Item, axis: int, vector: Values, outer: Outer, power: float) -> dict[str, Values]:
    """The sums of each width on one axis, all its occurrences together."""
    made_of = item.layout[axis]
    if isinstance(made_of, Unit) and made_of.width not in outer:
        return {made_of.width: vector}
    across = {name: rows for name, rows, own in crossed(item.layout, outer) if own == axis} if outer else {}
    folded: dict[str, Values] = {}
    for name, positions in places(made_of, outer):
        if name in item.widths[axis] and name not in across:
            folded[name] = folded.get(name, 0) + vector[positions].sum(axis=-1)
    for name, rows in across.items():
        if name in item.widths[axis]:
            folded[name] = _folded_across(item, rows, axis, name, outer, power)
    return folded


def _folded_across(item: Item, rows: int, columns: int, name: str, outer: Outer, power: float) -> Values:
    """The sums of a ragged width, one row for each index of its outer width on another axis of the tensor."""
    matrix = power_matrix(item.tensor, rows, columns, power).cpu().double().numpy()
    by_group = sum(matrix[p].sum(axis=1) for other, p in places(item.layout[rows], {}) if other == outer[name])
    own = [p for width, p in places(item.layout[columns], {}) if width == name]
    return np.asarray(by_group)[:, np.concatenate(own, axis=1)].sum(axis=-1)


def _is_scale(graph: Graph, item: Item) -> bool:
    types = graph.module_types.get(owner(graph, item.name), ())
    return item.tensor.dim() == 1 and item.name.endswith("weight") and any("BatchNorm" in kind for kind in types)


def _on_host(vectors: list[torch.Tensor]) -> Iterator[Values]:
    """All vectors as float64 on the host, one copy for each device."""
    by_device: dict[torch.device, list[int]] = {}
    for i, vector in enumerate(vectors):
        by_device.setdefault(vector.device, []).append(i)
    found: dict[int, Values] = {}
    for numbers in by_device.values():
        whole = torch.cat([vectors[i] for i in numbers]).cpu().double().numpy()
        ends = np.cumsum([len(vectors[i]) for i in numbers])
        found.update(zip(numbers, np.split(whole, ends[:-1]), strict=True))
    return (found[i] for i in range(len(vectors)))
