"""Counts that are written into the code, where the size they belong to may change.

group_norm(h, 4)    h.split(3, dim)    h[:, ::2]    h.view(b, 4, -1)    h[:, 1:3]

H the hidden axis, a multiple of 12 where literals must divide it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .idioms import FLAT, Sandwich, first, idiom, rest
from .making import Maker, Shape, block

MAPS = ("map", "signal")


@idiom(*MAPS, multiple=4)
def functional_group_norm(self: Sandwich, h: Tensor) -> Tensor:
    return F.group_norm(h, 4)


@idiom("vector", multiple=4)
def functional_group_norm_of_vectors(self: Sandwich, h: Tensor) -> Tensor:
    return F.group_norm(h, 2)


@idiom(multiple=3)
def split_in_threes(self: Sandwich, h: Tensor) -> Tensor:
    return torch.cat([part.softmax(self.axis) for part in h.split(3, self.axis)], self.axis)


@idiom(multiple=2)
def chunk_in_two(self: Sandwich, h: Tensor) -> Tensor:
    a, b = h.chunk(2, self.axis)
    return torch.cat([a * b.sigmoid(), b], self.axis)


@idiom(multiple=4)
def chunk_in_four(self: Sandwich, h: Tensor) -> Tensor:
    a, b, c, d = h.chunk(4, dim=self.axis)
    return torch.cat([a, b + a, c + b, d], self.axis)


@idiom()
def tensor_split_in_three(self: Sandwich, h: Tensor) -> Tensor:
    a, b, c = torch.tensor_split(h, 3, dim=self.axis)
    return torch.cat([a.tanh(), b, c.relu()], self.axis)


@idiom()
def literal_slice(self: Sandwich, h: Tensor) -> Tensor:
    return torch.cat([first(h, 2, self.axis).tanh(), rest(h, 2, self.axis)], self.axis)


@idiom()
def slice_from_the_end(self: Sandwich, h: Tensor) -> Tensor:
    return torch.cat([first(h, -1, self.axis).tanh(), rest(h, -1, self.axis)], self.axis)


@idiom(multiple=2)
def every_second_channel(self: Sandwich, h: Tensor) -> Tensor:
    h = torch.movedim(h, self.axis, 0)
    return torch.movedim(torch.cat([h[::2] * 2, h[1::2]]), 0, self.axis)


@idiom()
def one_literal_channel(self: Sandwich, h: Tensor) -> Tensor:
    return h - h.select(self.axis, 0).unsqueeze(self.axis)


@idiom()
def listed_channels(self: Sandwich, h: Tensor) -> Tensor:
    h = torch.movedim(h, self.axis, 0)
    return torch.movedim(h + h[[0, 1]].mean(0), 0, self.axis)


@idiom(*FLAT, multiple=4)
def literal_view(self: Sandwich, h: Tensor) -> Tensor:
    return h.reshape(*h.shape[:-1], 4, -1).cumsum(-2).flatten(-2)


@idiom(*FLAT, multiple=3)
def pairs_inside(self: Sandwich, h: Tensor) -> Tensor:
    return h.reshape(*h.shape[:-1], -1, 3).softmax(-1).reshape(h.shape)


@idiom(*MAPS, multiple=4)
def literal_shuffle(self: Sandwich, h: Tensor) -> Tensor:
    b, c = h.shape[:2]
    return h.reshape(b, 2, c // 2, *h.shape[2:]).transpose(1, 2).reshape(h.shape)


@idiom(multiple=4)
def unflatten_literal(self: Sandwich, h: Tensor) -> Tensor:
    return (
        h.unflatten(self.axis, (2, -1))
        .flip(1 if self.axis == 1 else -2)
        .flatten(*((1, 2) if self.axis == 1 else (-2, -1)))
    )


@idiom(multiple=2)
def glu_doubled(self: Sandwich, h: Tensor) -> Tensor:
    g = F.glu(h, self.axis)
    return torch.cat([g, -g], self.axis)


@idiom()
def rolled_channels(self: Sandwich, h: Tensor) -> Tensor:
    return h + torch.roll(h, 1, self.axis)


@idiom()
def padded_to_a_literal(self: Sandwich, h: Tensor) -> Tensor:
    h = torch.movedim(h, self.axis, -1)
    return torch.movedim(F.pad(h, (0, 32 - h.shape[-1]))[..., : h.shape[-1]], -1, self.axis)


@idiom()
def narrow_and_write(self: Sandwich, h: Tensor) -> Tensor:
    h = h.clone()
    h.narrow(self.axis, 0, 2).mul_(0.5)
    return h


@idiom(multiple=4)
def maximum_of_pairs(self: Sandwich, h: Tensor) -> Tensor:
    h = torch.movedim(h, self.axis, -1)
    best = h.unflatten(-1, (-1, 2)).amax(-1)
    return torch.movedim(torch.cat([best, -best], -1), -1, self.axis)


class GroupedLiteral(nn.Module):
    """A convolution whose number of groups stands in forward."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.up = nn.Conv2d(dim, hidden, 1)
        self.weight, self.bias = nn.Parameter(torch.empty(hidden, hidden // 4, 3, 3)), nn.Parameter(torch.empty(hidden))
        self.down = nn.Conv2d(hidden, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(F.conv2d(self.up(x), self.weight, self.bias, padding=1, groups=4)))


@block("map", weight=3)
def literal_groups(make: Maker, at: Shape) -> nn.Module:
    return GroupedLiteral(at.channels, make.width(at, multiple=4, high=16), make.width(at))


class NormalisedLiteral(nn.Module):
    """Layer norm over a shape that stands in forward."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(dim, 12), nn.Linear(12, out)
        self.scale = nn.Parameter(torch.empty(12))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.layer_norm(self.up(x), (12,), self.scale))


@block(*FLAT)
def literal_layer_norm(make: Maker, at: Shape) -> nn.Module:
    return NormalisedLiteral(at.channels, make.width(at))
