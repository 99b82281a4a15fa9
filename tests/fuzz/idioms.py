"""A way of writing code, between two layers that share a width.

    x ── up ── gelu ── [ the idiom, on h with H channels ] ── down ── y

An idiom is a function ``(self, h) -> h`` that becomes the method of a module class of its own name; ``prepare(self, hidden)``
keeps what it needs. H is the axis ``self.axis`` (1 in maps, last in tokens and vectors).

Invariant: an idiom keeps the shape of h, so that it fits wherever it is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .joins import pointwise_layer
from .making import Fits, Maker, Shape, block

Between = Callable[[Any, Tensor], Tensor]
Prepare = Callable[[Any, int], None]
ANY = ("map", "tokens", "vector", "signal")
FLAT = ("tokens", "vector")


class Sandwich(nn.Module):
    """The two layers; subclasses say what is between."""

    def __init__(self, at: Shape, hidden: int, out: int) -> None:
        super().__init__()
        inner = Shape(at.stream, (*at.space, hidden) if at.axis == -1 else (hidden, *at.space))
        self.axis = at.axis
        self.up, self.down = pointwise_layer(at, hidden), pointwise_layer(inner, out)
        self.prepare(hidden)

    def prepare(self, hidden: int) -> None:
        """Keep what `between` needs."""

    def between(self, h: Tensor) -> Tensor:
        """The idiom."""
        return h

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.between(F.gelu(self.up(x))))


def idiom(
    *streams: str, prepare: Prepare | None = None, multiple: int = 1, when: Fits | None = None, weight: int = 2
) -> Callable[[Between], Between]:
    """Register a function as an idiom under its own name; ``multiple`` of it is the hidden width."""

    def register(between: Between) -> Between:
        members: dict[str, Any] = {"between": between, "__doc__": between.__doc__, "__module__": between.__module__}
        if prepare is not None:
            members["prepare"] = prepare
        kind = type(between.__name__.title().replace("_", ""), (Sandwich,), members)

        def build(make: Maker, at: Shape) -> nn.Module:
            return kind(at, make.width(at, multiple=multiple, high=24), make.width(at))

        build.__name__, build.__module__ = between.__name__, between.__module__
        block(*(streams or ANY), when=when, weight=weight)(build)
        return between

    return register


def along(values: Tensor, h: Tensor, axis: int) -> Tensor:
    """A vector of H numbers, shaped to meet h."""
    return values.to(h) if axis == -1 else values.to(h).view(-1, *[1] * (h.dim() - 2))


def first(h: Tensor, count: int, axis: int) -> Tensor:
    """The first channels of h."""
    return h[..., :count] if axis == -1 else h[:, :count]


def rest(h: Tensor, count: int, axis: int) -> Tensor:
    """The others."""
    return h[..., count:] if axis == -1 else h[:, count:]
