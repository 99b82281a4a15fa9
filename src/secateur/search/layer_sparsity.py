"""From shares of layers to counts of widths.

    "conv1" loses 0.5, "conv2" loses 0.25, both give the residual stream   ->   the stream keeps 3/4 of its channels

Invariant: no width loses more than any layer that is listed lets it lose; what is shared counts once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secateur.core.graph import Graph, Width
from secateur.core.positions import finest, places
from secateur.errors import ConfigError, nearest
from secateur.search.allocate import Scores, check_scores
from secateur.search.matching import any_match, owner

MOST = 0.99  # of a layer that a total may take where no maximum is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A module with weights: what its output is made of, and how many weights each of these widths stands for."""

    name: str
    types: tuple[str, ...]
    weights: Mapping[str, float]
    frozen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """A share of the weights of several layers together, and the most that each of them may lose."""

    share: float
    most: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """How much goes: of layers one by one (0.0: it stays whole), of layers together, and which were named one by one."""

    per_layer: Mapping[str, float] = field(default_factory=dict)
    totals: tuple[Total, ...] = ()
    named: frozenset[str] = frozenset()

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of which something is to go."""
        together = [name for total in self.totals for name in total.most]
        return tuple(dict.fromkeys([*(name for name, share in self.per_layer.items() if share), *together]))


def layers_of(graph: Graph, output_axis: Callable[[str], int]) -> dict[str, Layer]:
    """The layers that produce units, by name, in the model's order; ``output_axis`` says along which axis of a weight."""
    outer = {w.name: w.outer for w in graph.widths if w.outer is not None}
    weights = {name: [] for name in graph.module_types}
    for tensor, layout in graph.layouts.items():
        if tensor in graph.parameters and len(layout) >= 2:
            weights[owner(graph, tensor)].append(tensor)
    return {name: _layer(graph, name, found, output_axis, outer) for name, found in weights.items() if found}


def _layer(
    graph: Graph, name: str, tensors: Sequence[str], output_axis: Callable[[str], int], outer: Mapping[str, str]
) -> Layer:
    weights: dict[str, float] = {}
    frozen = []
    for tensor in tensors:
        axis = output_axis(tensor)
        made_of = graph.layouts[tensor][axis]
        numel = math.prod(along.size for along in graph.layouts[tensor])
        for width, positions in places(made_of, outer):
            if width in finest(made_of):
                weights[width] = weights.get(width, 0.0) + numel * positions.size / made_of.size
        frozen += [w.frozen for w in graph.widths for u in w.uses if w.frozen and u.tensor == tensor and u.axis == axis]
    return Layer(
        name=name,
        types=graph.module_types[name],
        weights=weights,
        frozen=next(iter(frozen), "no width runs along it"),
    )


def read_removal(
    remove: Mapping[str, float], totals: Sequence[Mapping[str, Any]], layers: Mapping[str, Layer]
) -> Removal:
    """Shares by name, type or pattern, of which the last one that matches a layer counts.

    Raises ConfigError for a pattern that matches no layer, a share that is none, and a layer of which two things are said.
    """
    per_layer: dict[str, float] = {}
    for pattern, share in remove.items():
        per_layer.update(dict.fromkeys(_matching(pattern, layers, "remove"), read_share(share, f"remove: {pattern}")))
    together = tuple(_total(entry, layers, f"totals[{number}]") for number, entry in enumerate(totals))
    said = [name for total in together for name in total.most] + [name for name, share in per_layer.items() if share]
    twice = next((name for name in said if said.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"remove and totals say different things of {twice!r}: name it in one of them")
    most = tuple(Total(share=t.share, most={n: m for n, m in t.most.items() if n not in per_layer}) for t in together)
    return Removal(per_layer=per_layer, totals=most, named=frozenset(name for name in remove if name in layers))


def read_share(value: object, what: str) -> float:
    """A share of units or weights that goes, or ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ConfigError(f"{what} is a share of at least 0 and less than 1, not {value!r}")
    return float(value)


def _total(entry: object, layers: Mapping[str, Layer], where: str) -> Total:
    keys = ("share", "layers", "most")
    if not isinstance(entry, Mapping) or not {"share", "layers"} <= set(entry) <= set(keys):
        raise ConfigError(f'{where} is written as {{"share": 0.2, "layers": ["nn.Linear"], "most": 0.9}}')
    share, most = read_share(entry["share"], f"{where}: share"), read_share(entry.get("most", MOST), f"{where}: most")
    if most < share:
        raise ConfigError(f"{where}: most is below share = {share}, which cannot be reached so")
    names = [name for pattern in entry["layers"] for name in _matching(pattern, layers, where)]
    return Total(share=share, most=dict.fromkeys(names, most))


def _matching(pattern: str, layers: Mapping[str, Layer], where: str) -> list[str]:
    found = [name for name, layer in layers.items() if any_match(pattern, (name, *layer.types))]
    if not found:
        known = [*layers, *(word for layer in layers.values() for word in layer.types)]
        raise ConfigError(f"{where}: {pattern!r} matches no layer, by name or type.{nearest(pattern, known)}")
    return found


def counts_of(removal: Removal, layers: Mapping[str, Layer], search_space: Graph, scores: Scores) -> dict[str, int]:
    """How many units each width keeps."""
    most = {name: 1.0 for name in scores if search_space[name].frozen is None}
    for name, share in removal.per_layer.items():
        for width in layers[name].weights:
            if width in most:
                most[width] = min(most[width], share)
    removed = dict.fromkeys(most, 0)
    for name in removal.per_layer:
        for width in layers[name].weights:
            if width in most:
                removed[width] = _units(search_space[width], most[width])
    for total in removal.totals:
        for width, count in _together(total, layers, search_space, scores, most).items():
            removed[width] = min(count, removed[width] or count)
    return {name: _choice(search_space[name], count) for name, count in removed.items() if count}


def _together(
    total: Total, layers: Mapping[str, Layer], search_space: Graph, scores: Scores, most: Mapping[str, float]
) -> dict[str, int]:
    """The lowest units of these layers together, until their share of the layers' weights is gone."""
    weights: dict[str, float] = {}
    limit = dict(most)
    for name, share in total.most.items():
        for width, count in layers[name].weights.items():
            if width in most:
                weights[width] = weights.get(width, 0.0) + count
                limit[width] = min(limit[width], share)
    room = total.share * sum(sum(layers[name].weights.values()) for name in total.most) * (1 + 1e-9)
    removed = dict.fromkeys(weights, 0)
    for _, width in sorted(_lowest_first(weights, search_space, scores)):
        each = weights[width] / search_space[width].size
        if removed[width] < _units(search_space[width], limit[width]) and each <= room:
            removed[width] += 1
            room -= each
    return removed


def _lowest_first(widths: Mapping[str, float], search_space: Graph, scores: Scores) -> Iterator[tuple[float, str]]:
    for name in widths:
        levels = np.sort(check_scores(search_space, search_space[name], scores), axis=-1)
        yield from ((float(level), name) for level in (levels if levels.ndim == 1 else levels.mean(0)))


def _units(width: Width, share: float) -> int:
    return min(math.floor(width.size * share + 1e-9), width.size - 1)


def _choice(width: Width, removed: int) -> int:
    """The smallest count that may be and keeps at least what it should."""
    return min((count for count in width.choices if count >= width.size - removed), default=width.size)
