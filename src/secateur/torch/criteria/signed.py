"""Signed sums over the slices of a width, for first-order scores of parameters.

    w · ∂L/∂w of conv1 (rows), bn1, conv2 (columns)   ──►   one number a unit and tensor: the change of the loss to first
                                                            order when the unit's slice of that tensor becomes zero

Invariant: the sums over all units of an axis are the sum over the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from secateur.torch.criteria.fold import Outer
from secateur.torch.criteria.items import Item
from secateur.torch.criteria.magnitude import spoken_sums
from secateur.torch.criteria.protocol import Values


def with_values(items: Iterable[Item], value: Callable[[Item], torch.Tensor]) -> list[Item]:
    """The same items, each with something else in place of its weights."""
    return [replace(item, tensor=value(item)) for item in items]


def signed_sums(items: list[Item], outer: Outer) -> dict[str, list[Values]]:
    """As `spoken_sums`, but what is negative counts as negative."""
    positive = spoken_sums(with_values(items, lambda item: item.tensor.clamp(min=0)), outer, 1)
    negative = spoken_sums(with_values(items, lambda item: item.tensor.clamp(max=0)), outer, 1)
    return {name: [p - n for p, n in zip(positive[name], negative[name], strict=True)] for name in positive}
