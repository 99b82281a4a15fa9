"""From shares of layers to counts of widths.

    "conv1" loses 0.5, "conv2" loses 0.25, both give the residual stream   ->   the stream keeps 3/4 of its channels

Invariant: no width loses more than any layer that is listed (or excluded) lets it lose; what is shared counts once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from secateur.compat.nni import Sparsities, Total
from secateur.core.graph import Graph, Width
from secateur.core.layout import Values
from secateur.core.positions import finest, places
from secateur.search.allocate import check_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A module with weights: what its output is made of, and how many weights each of these widths stands for."""

    name: str
    types: tuple[str, ...]
    weights: Mapping[str, float]
    frozen: str


def layers_of(graph: Graph, model: nn.Module) -> dict[str, Layer]:
    """The layers that produce units, by name, in the model's order."""
    outer = {w.name: w.outer for w in graph.widths if w.outer is not None}
    found: dict[str, Layer] = {}
    for name, module in model.named_modules():
        weights: dict[str, float] = {}
        frozen = []
        for key, tensor in module.named_parameters(recurse=False):
            fqn = f"{name}.{key}" if name else key
            if tensor.dim() < 2 or fqn not in graph.layouts:
                continue
            axis = 1 if isinstance(module, _ConvTransposeNd | nn.Embedding) else 0
            made_of = graph.layouts[fqn][axis]
            for width, positions in places(made_of, outer):
                if width in finest(made_of):
                    weights[width] = weights.get(width, 0.0) + tensor.numel() * positions.size / made_of.size
            frozen += [
                w.frozen for w in graph.widths for u in w.uses if w.frozen and u.tensor == fqn and u.axis == axis
            ]
            found[name] = Layer(
                name=name,
                types=(*graph.module_types.get(name, ()), type(module).__name__),
                weights=weights,
                frozen=next(iter(frozen), "no width runs along it"),
            )
    return found


def counts_of(
    said: Sparsities, layers: Mapping[str, Layer], space: Graph, scores: Mapping[str, Values]
) -> dict[str, int]:
    """How many units each width keeps."""
    most = {name: 1.0 for name in scores if space[name].frozen is None}
    for name, layer in layers.items():
        share = 0.0 if name in said.excluded else said.per_layer.get(name)
        for width in layer.weights:
            if share is not None and width in most:
                most[width] = min(most[width], share)
    removed = dict.fromkeys(most, 0)
    for name in said.per_layer:
        for width in layers[name].weights:
            if width in most:
                removed[width] = _units(space[width], most[width])
    for total in said.totals:
        for width, count in _together(total, layers, space, scores, most).items():
            removed[width] = min(count, removed[width] or count)
    return {name: _choice(space[name], count) for name, count in removed.items() if count}


def _together(
    total: Total,
    layers: Mapping[str, Layer],
    space: Graph,
    scores: Mapping[str, Values],
    most: Mapping[str, float],
) -> dict[str, int]:
    """The lowest units of these layers together, until their share of the layers' weights is gone."""
    weights: dict[str, float] = {}
    limit = dict(most)
    for name, share in total.most.items():
        for width, count in layers[name].weights.items():
            if width in most:
                weights[width] = weights.get(width, 0.0) + count
                limit[width] = min(limit[width], share)
    room = total.sparsity * sum(sum(layers[name].weights.values()) for name in total.most) * (1 + 1e-9)
    removed = dict.fromkeys(weights, 0)
    for _, width in sorted(_lowest_first(weights, space, scores)):
        each = weights[width] / space[width].size
        if removed[width] < _units(space[width], limit[width]) and each <= room:
            removed[width] += 1
            room -= each
    return removed


def _lowest_first(
    widths: Mapping[str, float], space: Graph, scores: Mapping[str, Values]
) -> Iterator[tuple[float, str]]:
    for name in widths:
        levels = np.sort(check_scores(space, space[name], scores), axis=-1)
        yield from ((float(level), name) for level in (levels if levels.ndim == 1 else levels.mean(0)))


def _units(width: Width, share: float) -> int:
    return min(math.floor(width.size * share + 1e-9), width.size - 1)


def _choice(width: Width, removed: int) -> int:
    """The smallest count that may be and keeps at least what it should."""
    return min((count for count in width.choices if count >= width.size - removed), default=width.size)
