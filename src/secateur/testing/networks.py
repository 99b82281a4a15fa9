"""A small network with a bit of everything, data for it, and the same network with its units in another order.

Invariant: the same network and the same data every time; no global random state is moved.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import kept_indices, touches

LabelledImages = tuple[torch.Tensor, torch.Tensor]  # images and labels


class SmallNetwork(nn.Module):
    """A stem, a residual block, a grouped convolution, a fused projection into heads, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.back = nn.Conv2d(12, 8, 1)
        self.grouped, self.grouped_norm = nn.Conv2d(8, 16, 3, groups=2), nn.BatchNorm2d(16)
        self.num_heads, self.qkv, self.out = 4, nn.Linear(16, 3 * 16), nn.Linear(16, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of four classes from images ``[B, 3, h, w]``."""
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.back(torch.relu(self.inner_norm(self.inner(x))))
        x = torch.relu(self.grouped_norm(self.grouped(x))).flatten(2).transpose(1, 2)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        x = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(torch.relu(self.out(x.mean(1))))


def small_network() -> SmallNetwork:
    """The network above with weights and scales that differ from unit to unit, the same ones every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SmallNetwork().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.rand_like(parameter) * 0.1)
    return model


def small_batches() -> list[LabelledImages]:
    """Three batches of different sizes for the network above: images ``[B, 3, 6, 6]`` and labels of 4 classes."""
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 3, 6, 6, generator=generator), torch.randint(4, (size,), generator=generator))
        for size in (2, 3, 5)
    ]


def permuted(graph: Graph, model: nn.Module, width: str, order: ArrayLike) -> nn.Module:
    """A copy of a model with the units of one width in another order in every tensor: the same function."""
    copied = copy.deepcopy(model)
    kept = {width: np.asarray(order)}
    with torch.no_grad():
        for name, tensor in [*copied.named_parameters(), *copied.named_buffers()]:
            for axis, made_of in enumerate(graph.layouts.get(name, ())):
                if touches(made_of, kept):
                    tensor.copy_(tensor.index_select(axis, torch.as_tensor(kept_indices(made_of, kept))))
    return copied
