"""Where streams split and meet: residuals, concatenations, chunks, gates.

            ┌── body ──┐                 ┌── body a ──┐
        x ──┤          (+)           x ──┼── body b ──┼ cat          x ── split ── a, b ── body(b) ── cat
            └──────────┘                 └── body c ──┘

Bodies are drawn at random; a residual needs its body to come back to the width it started from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .making import Maker, Shape, block, sizes_divide

ANY = ("map", "tokens", "vector", "signal")


def pointwise_layer(at: Shape, out: int) -> nn.Module:
    """The layer that changes only the width: a 1x1 convolution or a linear layer."""
    layers = {"map": nn.Conv2d, "signal": nn.Conv1d, "volume": nn.Conv3d}
    if at.stream in layers:
        return layers[at.stream](at.channels, out, 1)
    return nn.Linear(at.channels, out)


def branch(make: Maker, at: Shape, out: int | None = None) -> tuple[nn.Module, int]:
    """A random body that ends `out` channels wide (any width, where None), and its width."""
    body, shape = make.body(at)
    if out is None or shape.channels == out:
        return body, shape.channels
    return nn.Sequential(body, pointwise_layer(shape, out)), out


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


@block(*ANY, nested=True, weight=4)
def residual(make: Maker, at: Shape) -> nn.Module:
    return Residual(branch(make, at, at.channels)[0])


class Projected(nn.Module):
    """A residual whose shortcut has its own layer, as in the first block of a ResNet stage."""

    def __init__(self, body: nn.Module, downsample: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = self.downsample(x)
        out = self.body(x)
        out += identity
        return F.relu(out)


@block(*ANY, nested=True)
def projected_residual(make: Maker, at: Shape) -> nn.Module:
    body, width = branch(make, at)
    return Projected(
        nn.Sequential(body, pointwise_layer(Shape.of(at.stream, _like(at, width)), width)), pointwise_layer(at, width)
    )


def _like(at: Shape, channels: int) -> Tensor:
    sizes = (*at.space, channels) if at.axis == -1 else (channels, *at.space)
    return torch.empty(1, *sizes)


class Concat(nn.Module):
    """Branches side by side on the channel axis; `with_input` adds x itself, as DenseNet does."""

    def __init__(self, branches: list[nn.Module], axis: int, with_input: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.axis = axis
        self.with_input = with_input

    def forward(self, x: Tensor) -> Tensor:
        outs = [b(x) for b in self.branches]
        return torch.cat([x, *outs] if self.with_input else outs, dim=self.axis)


@block(*ANY, nested=True, weight=4)
def concat(make: Maker, at: Shape) -> nn.Module:
    branches = [branch(make, at)[0] for _ in range(make.choose.integer(2, 3))]
    return Concat(branches, at.axis, with_input=False)


@block(*ANY, nested=True, weight=3)
def dense_block(make: Maker, at: Shape) -> nn.Module:
    return Concat([branch(make, at, make.width(at, high=8))[0]], at.axis, with_input=True)


class ConcatTwice(nn.Module):
    """The same tensor twice, with a plain and a negated copy (CReLU)."""

    def __init__(self, axis: int, negate: bool) -> None:
        super().__init__()
        self.axis = axis
        self.negate = negate

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(torch.cat((x, -x if self.negate else x), self.axis))


@block(*ANY, when=lambda at: at.channels <= 24, weight=3)
def concat_twice(make: Maker, at: Shape) -> nn.Module:
    return ConcatTwice(at.axis, make.choose.chance(50))


class ConcatAdd(nn.Module):
    """cat(a(x), b(x)) + c(x): two widths whose sum is a third."""

    def __init__(self, a: nn.Module, b: nn.Module, c: nn.Module, axis: int) -> None:
        super().__init__()
        self.a, self.b, self.c = a, b, c
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x)], self.axis) + self.c(x)


@block(*ANY, nested=True, weight=3)
def concat_add(make: Maker, at: Shape) -> nn.Module:
    a, width_a = branch(make, at)
    b, width_b = branch(make, at)
    return ConcatAdd(a, b, branch(make, at, width_a + width_b)[0], at.axis)


@block(*ANY, nested=True, weight=3)
def concat_add_input(make: Maker, at: Shape) -> nn.Module:
    part = make.choose.integer(1, at.channels - 1)
    a, b = branch(make, at, part)[0], branch(make, at, at.channels - part)[0]
    return Residual(Concat([a, b], at.axis, with_input=False))


class C2f(nn.Module):
    """YOLOv8's block: cut in two, chain bodies on the last part, concatenate all the stages."""

    def __init__(
        self, before: nn.Module, bodies: list[nn.Module], after: nn.Module, c: int, axis: int, style: str
    ) -> None:
        super().__init__()
        self.cv1 = before
        self.m = nn.ModuleList(bodies)
        self.cv2 = after
        self.c = c
        self.axis = axis
        self.style = style

    def forward(self, x: Tensor) -> Tensor:
        h = self.cv1(x)
        if self.style == "chunk":
            y = list(h.chunk(2, self.axis))
        elif self.style == "split":
            y = list(h.split((self.c, self.c), self.axis))
        else:
            y = [h.narrow(self.axis, 0, self.c), h.narrow(self.axis, self.c, self.c)]
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, self.axis))


def _c2f(make: Maker, at: Shape, style: str) -> nn.Module:
    c = make.width(at, high=8)
    part = Shape.of(at.stream, _like(at, c))
    bodies = [branch(make, part, c)[0] for _ in range(make.choose.integer(1, 2))]
    whole = Shape.of(at.stream, _like(at, (2 + len(bodies)) * c))
    return C2f(pointwise_layer(at, 2 * c), bodies, pointwise_layer(whole, make.width(at)), c, at.axis, style)


@block(*ANY, nested=True, weight=3)
def c2f_chunk(make: Maker, at: Shape) -> nn.Module:
    return _c2f(make, at, "chunk")


@block(*ANY, nested=True)
def c2f_split(make: Maker, at: Shape) -> nn.Module:
    return _c2f(make, at, "split")


@block(*ANY, nested=True)
def c2f_narrow(make: Maker, at: Shape) -> nn.Module:
    return _c2f(make, at, "narrow")


class ChunkSwap(nn.Module):
    """Uneven parts, exchanged: cat(b, a)."""

    def __init__(self, sizes: tuple[int, int], axis: int) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(x, self.sizes, dim=self.axis)
        return torch.cat([b.tanh(), a], dim=self.axis)


@block(*ANY)
def split_swap(make: Maker, at: Shape) -> nn.Module:
    part = make.choose.integer(1, at.channels - 1)
    return ChunkSwap((part, at.channels - part), at.axis)


class Res2Net(nn.Module):
    """Parts chained: each is transformed after the one before was added to it."""

    def __init__(self, bodies: list[nn.Module], width: int, axis: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(bodies)
        self.width = width
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.width, self.axis)
        out, previous = [parts[0]], parts[0]
        for conv, part in zip(self.convs, parts[1:], strict=True):
            previous = conv(part + previous)
            out.append(previous)
        return torch.cat(out, self.axis)


@block(*ANY, nested=True, when=lambda at: sizes_divide(at.channels), weight=3)
def res2net(make: Maker, at: Shape) -> nn.Module:
    parts = make.choose.pick([d for d in (2, 3, 4) if at.channels % d == 0 and at.channels > d])
    width = at.channels // parts
    shape = Shape.of(at.stream, _like(at, width))
    if width == 1:
        return Res2Net([pointwise_layer(shape, width) for _ in range(parts - 1)], width, at.axis)
    return Res2Net([branch(make, shape, width)[0] for _ in range(parts - 1)], width, at.axis)


class PartialBody(nn.Module):
    """FasterNet: a body on the first channels only, the others pass."""

    def __init__(self, body: nn.Module, part: int, axis: int) -> None:
        super().__init__()
        self.body = body
        self.part = part
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        if self.axis == 1:
            return torch.cat([self.body(x[:, : self.part]), x[:, self.part :]], 1)
        return torch.cat([self.body(x[..., : self.part]), x[..., self.part :]], -1)


@block(*ANY, nested=True, when=lambda at: at.channels >= 4)
def partial_body(make: Maker, at: Shape) -> nn.Module:
    part = make.choose.integer(2, at.channels - 1)
    return PartialBody(branch(make, Shape.of(at.stream, _like(at, part)), part)[0], part, at.axis)


class StackSum(nn.Module):
    """Branches stacked on a new axis, weighted by a softmax over it, summed (selective kernels)."""

    def __init__(self, branches: list[nn.Module], weighted: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.mix = nn.Parameter(torch.empty(len(branches)))
        self.weighted = weighted

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch.stack([b(x) for b in self.branches], dim=1)
        if self.weighted:
            return torch.einsum("bn...,n->b...", stacked, self.mix.softmax(0))
        first, second = stacked.unbind(1)
        return first + stacked.sum(dim=1) * second.sigmoid()


@block(*ANY, nested=True, weight=3)
def stack_sum(make: Maker, at: Shape) -> nn.Module:
    width = make.width(at)
    return StackSum([branch(make, at, width)[0] for _ in range(2)], make.choose.chance(50))


class Product(nn.Module):
    """Two branches multiplied, one of them a gate."""

    def __init__(self, body: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.body, self.gate = body, gate

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * torch.sigmoid(self.gate(x))


@block(*ANY, nested=True)
def gated_branches(make: Maker, at: Shape) -> nn.Module:
    width = make.width(at)
    return Product(branch(make, at, width)[0], branch(make, at, width)[0])
