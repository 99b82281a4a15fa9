"""Which parameters carry which widths.

    layer1.0.conv1.out_channels  ←  conv1.weight rows, bn1.weight, conv2.weight columns

A tensor under two names counts once. Biases are left out unless asked for, except where a width has nothing else.

Invariant: what counts is decided by the graph and by names, never by layer classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from secateur.core.graph import Graph, Width
from secateur.core.layout import Layout, widths_of
from secateur.errors import InputError
from secateur.torch.running.walking import named_parameters


@dataclass(frozen=True, slots=True)
class Carrier:
    """One tensor, and the widths whose units it is asked about, axis by axis."""

    name: str
    tensor: torch.Tensor
    layout: Layout
    widths: tuple[frozenset[str], ...]

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes on which any width is asked about."""
        return tuple(axis for axis, widths in enumerate(self.widths) if widths)


def carriers(graph: Graph, model: nn.Module, *, bias: bool = False) -> list[Carrier]:
    """The parameters that carry free widths, each tensor once.

    Raises InputError if the model is not the one the graph was made from, or its weights are not there.
    """
    tensors = _distinct(dict(named_parameters(model)))
    known = {name for name in graph.parameters if name in graph.layouts}
    missing = sorted(name for name in known if name not in tensors)
    if missing:
        raise InputError(f"the model has no parameter {missing[0]!r}; trace this model anew")
    by_tensor: dict[str, list[str]] = {}
    for width in graph.free:
        for name in _tensors_of(width, known, tensors, bias):
            by_tensor.setdefault(name, []).append(width.name)
    return [_carrier(name, tensors[name], graph.layouts[name], widths) for name, widths in by_tensor.items()]


def outer_widths(graph: Graph) -> dict[str, str]:
    """The width just outside each ragged one."""
    return {width.name: width.outer for width in graph.free if width.outer is not None}


def _tensors_of(width: Width, known: set[str], tensors: Mapping[str, torch.Tensor], bias: bool) -> list[str]:
    first_names: dict[int, str] = {}
    for use in width.uses:
        if use.tensor in known:
            first_names.setdefault(id(tensors[use.tensor]), use.tensor)
    weights = [name for name in first_names.values() if not _is_bias(name, tensors[name])]
    return weights if weights and not bias else list(first_names.values())


def _is_bias(name: str, tensor: torch.Tensor) -> bool:
    return tensor.dim() == 1 and "bias" in name.rpartition(".")[2]


def _distinct(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One object for each piece of memory, under all of its names."""
    seen: dict[tuple[object, ...], torch.Tensor] = {}
    for name, tensor in named.items():
        place = (tensor.data_ptr() or id(tensor), tensor.shape, tensor.stride(), tensor.dtype)
        named[name] = seen.setdefault(place, tensor.detach())
    return named


def _carrier(name: str, tensor: torch.Tensor, layout: Layout, widths: Iterable[str]) -> Carrier:
    if tensor.is_meta:
        raise InputError(f"{name} is on the meta device: there are no weights to judge; load them first")
    if len(layout) != tensor.dim() or any(axis.size != n for axis, n in zip(layout, tensor.shape, strict=True)):
        raise InputError(
            f"{name} has the shape {tuple(tensor.shape)}, not the one that was traced; trace this model anew"
        )
    asked = frozenset(widths)
    return Carrier(name, tensor, layout, tuple(asked & frozenset(widths_of(axis)) for axis in layout))
