"""Where each free width is read: by the contractions that sum over it.

    conv1 ── bn ── relu ──┬── conv2.x        both read conv1's channels, after everything that came between
                          └── depthwise ── conv3.x    a depthwise convolution hands channels on: it reads none

A width that no contraction reads (what a query and a key are multiplied over) is seen where it is produced; one that is
not seen there either is left to its parameters.

Invariant: each free width is in ``inputs``, in ``outputs`` or in ``unseen``, and in one of them only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from secateur.core.graph import Graph
from secateur.core.layout import Axis, Product, Whole, widths_of
from secateur.core.positions import Outer, flat, places
from secateur.torch.measuring.weights import outer_widths
from secateur.torch.running.contractions import Site


@dataclass(frozen=True, slots=True)
class Read:
    """A width on the feature axis of an activation: the positions of each unit, ``[size, m]`` or ``[outer, size, m]``."""

    width: str
    positions: torch.Tensor

    def fold(self, values: torch.Tensor) -> torch.Tensor:
        """Sum ``[batch, features]`` over each unit's positions: ``[batch, size]`` or ``[batch, outer, size]``."""
        return values[:, self.positions.to(values.device)].sum(-1)


@dataclass(frozen=True, slots=True)
class Readers:
    """By the name of a weight: what is read of its contraction's input, and what is seen in its output."""

    inputs: Mapping[str, tuple[Read, ...]]
    outputs: Mapping[str, tuple[Read, ...]]
    unseen: tuple[str, ...]
    axes: Mapping[str, int]  # the axis of each weight that is contracted

    def into(self, site: Site) -> tuple[Read, ...]:
        """What is read of a contraction's input: nothing where a tied decoder uses the weight the other way round."""
        return self.inputs.get(site.name, ()) if self.axes.get(site.name) == site.inputs else ()

    def out_of(self, site: Site) -> tuple[Read, ...]:
        """What is seen in its output."""
        return self.outputs.get(site.name, ()) if self.axes.get(site.name) == site.inputs else ()


def readers_of(graph: Graph, sites: Mapping[str, Site], *, produced: bool = False) -> Readers:
    """Where the free widths are seen in a model that runs these contractions; ``produced`` wants outputs only."""
    free, outer = {w.name for w in graph.free}, outer_widths(graph)
    known = {name: site for name, site in sites.items() if len(graph.layouts.get(name, ())) == site.weight.dim()}
    inputs: dict[str, tuple[Read, ...]] = {}
    outputs: dict[str, tuple[Read, ...]] = {}
    for name, site in known.items() if not produced else ():
        inputs[name] = tuple(_reads(_input_axis(site, graph), free & _contracted(site, graph), outer))
    rest = free - _named(inputs)
    for name, site in known.items():
        outputs[name] = tuple(_reads(_output_axis(site, graph), rest, outer))
    rest -= _named(outputs)
    unseen = tuple(w.name for w in graph.free if w.name in rest)
    axes = {name: site.inputs for name, site in known.items()}
    return Readers(_only_some(inputs), _only_some(outputs), unseen, axes)


def _reads(axis: Axis, asked: set[str], outer: Outer) -> Iterator[Read]:
    by_width: dict[str, list[np.ndarray]] = {}
    for width, positions in places(axis, outer):
        if width in asked:
            by_width.setdefault(width, []).append(positions)
    for width, pieces in by_width.items():
        deepest = max(pieces, key=np.ndim)
        same = [p if p.ndim == deepest.ndim else np.broadcast_to(p, (len(deepest), *p.shape)) for p in pieces]
        yield Read(width, torch.as_tensor(np.concatenate(same, axis=-1)))


def _contracted(site: Site, graph: Graph) -> set[str]:
    """The widths that are summed over; what counts groups is handed on instead."""
    layout = graph.layouts[site.name]
    handed_on = set(widths_of(_groups(layout[0], site.groups))) if site.groups > 1 else set()
    return set(widths_of(layout[site.inputs])) - handed_on


def _input_axis(site: Site, graph: Graph) -> Axis:
    layout = graph.layouts[site.name]
    within = layout[site.inputs]
    grouped = site.groups > 1 and site.kind == "conv"
    return Product((_groups(layout[0], site.groups), within)) if grouped else within


def _output_axis(site: Site, graph: Graph) -> Axis:
    layout = graph.layouts[site.name]
    within = layout[site.outputs]
    grouped = site.groups > 1 and site.kind == "transposed"
    return Product((_groups(layout[0], site.groups), within)) if grouped else within


def _groups(axis: Axis, num_groups: int) -> Axis:
    """The outermost part of an axis that counts groups."""
    if axis.size == num_groups:
        return axis
    factors, size = flat(axis), 1
    for end, factor in enumerate(factors, start=1):
        size *= factor.size
        if size == num_groups:
            return Product(factors[:end]) if end > 1 else factors[0]
    return Whole(num_groups)


def _named(reads: Mapping[str, tuple[Read, ...]]) -> set[str]:
    return {read.width for some in reads.values() for read in some}


def _only_some(reads: Mapping[str, tuple[Read, ...]]) -> dict[str, tuple[Read, ...]]:
    return {name: some for name, some in reads.items() if some}
