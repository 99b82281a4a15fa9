"""Programs that are not one layer after another: reuse, shared weights, dead code, weights made from weights.

        x ── layer ── norm ── layer ── norm          one module, called twice
        x ── a ── relu ── b,  b.weight is a.weight   one parameter, owned by two modules
        x ── a ── b        └─ c, never read          parameters that nothing depends on

C channels, F hidden features, R rank.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .joins import branch, pointwise_layer
from .making import Maker, Shape, block

ANY = ("map", "tokens", "vector", "signal")
FLAT = ("tokens", "vector")


class CalledTwice(nn.Module):
    """The same block called twice, with an activation between."""

    def __init__(self, body: nn.Module, steps: int) -> None:
        super().__init__()
        self.body = body
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.steps):
            x = torch.tanh(self.body(x))
        return x


@block(*ANY, nested=True, weight=4)
def module_reuse(make: Maker, at: Shape) -> nn.Module:
    return CalledTwice(branch(make, at, at.channels)[0], make.choose.integer(2, 3))


class Siamese(nn.Module):
    """One body sees x and -x; the two results are compared."""

    def __init__(self, body: nn.Module, axis: int, join: str) -> None:
        super().__init__()
        self.body = body
        self.axis = axis
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.body(x), self.body(-x)
        return torch.cat([a, b], self.axis) if self.join == "cat" else (a - b).abs()


@block(*ANY, nested=True, when=lambda at: at.channels <= 16)
def siamese(make: Maker, at: Shape) -> nn.Module:
    return Siamese(branch(make, at)[0], at.axis, make.choose.pick(("cat", "difference")))


class SharedWeight(nn.Module):
    """Two layers of the same size own one weight, but each its own bias."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


@block(*ANY, weight=3)
def shared_weights(make: Maker, at: Shape) -> nn.Module:
    return SharedWeight(pointwise_layer(at, at.channels), pointwise_layer(at, at.channels))


class SharedAcross(nn.Module):
    """Two branches with different inner widths share the layer that ends them."""

    def __init__(self, a: nn.Module, b: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.head = a, b, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.a(x))) + self.head(F.relu(self.b(x)))


@block(*ANY, weight=3)
def shared_head(make: Maker, at: Shape) -> nn.Module:
    width = make.width(at)
    middle = Shape(at.stream, (*at.space, width) if at.axis == -1 else (width, *at.space))
    layers = pointwise_layer(at, width), pointwise_layer(at, width)
    return SharedAcross(*layers, pointwise_layer(middle, make.width(at)))


class TiedAutoencoder(nn.Module):
    """Down with W, up with its transpose."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden, dim))
        self.bias_down = nn.Parameter(torch.empty(hidden))
        self.bias_up = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(F.linear(x, self.weight, self.bias_down))
        return h @ self.weight + self.bias_up


@block(*FLAT, weight=3)
def tied_transpose(make: Maker, at: Shape) -> nn.Module:
    return TiedAutoencoder(at.channels, make.width(at))


class DeadBranch(nn.Module):
    """A branch is computed and thrown away; another exists and is never called."""

    def __init__(self, body: nn.Module, dead: nn.Module, never: nn.Module) -> None:
        super().__init__()
        self.body, self.dead, self.never = body, dead, never

    def forward(self, x: Tensor) -> Tensor:
        aux = self.dead(x).mean()
        out = self.body(x)
        if self.training:
            out = out + 0 * aux
        return out


@block(*ANY, nested=True, weight=3)
def dead_branch(make: Maker, at: Shape) -> nn.Module:
    return DeadBranch(branch(make, at)[0], pointwise_layer(at, make.width(at)), pointwise_layer(at, at.channels))


class UnusedParameter(nn.Module):
    """Parameters and buffers of the stream's width that forward never reads."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.unused = nn.Parameter(torch.empty(width))
        self.register_buffer("history", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@block(*ANY, weight=3)
def unused_parameter(make: Maker, at: Shape) -> nn.Module:
    width = make.width(at)
    return UnusedParameter(pointwise_layer(at, width), width)


class FrozenLayer(nn.Module):
    """A layer whose weight takes no gradient."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        for parameter in self.layer.parameters():
            parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@block(*ANY, weight=3)
def frozen_parameters(make: Maker, at: Shape) -> nn.Module:
    return FrozenLayer(pointwise_layer(at, make.width(at)))


class LoRA(nn.Module):
    """A frozen layer and a low-rank addition to it."""

    def __init__(self, dim: int, out: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(dim, out)
        self.base.weight.requires_grad_(False)
        self.A_RC = nn.Parameter(torch.empty(rank, dim))
        self.B_OR = nn.Parameter(torch.empty(out, rank))
        self.scaling = 1 / rank

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.base.weight + self.scaling * self.B_OR @ self.A_RC, self.base.bias)


@block(*FLAT, weight=3)
def low_rank_update(make: Maker, at: Shape) -> nn.Module:
    return LoRA(at.channels, make.width(at), make.choose.integer(2, 4))


@block(*FLAT, weight=3)
def weight_norm_linear(make: Maker, at: Shape) -> nn.Module:
    return weight_norm(nn.Linear(at.channels, make.width(at)), dim=make.choose.pick((0, 1)))


class MaskedLinear(nn.Module):
    """A weight times a mask buffer of its own size (unstructured pruning, MADE)."""

    mask: Tensor

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, out)
        self.register_buffer("mask", (torch.rand(out, dim) < 0.7).float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.fc.weight * self.mask, self.fc.bias)


@block(*FLAT, weight=3)
def masked_weight(make: Maker, at: Shape) -> nn.Module:
    return MaskedLinear(at.channels, make.width(at))


class FusedWeights(nn.Module):
    """Two weights concatenated into one call, whose output is cut again."""

    def __init__(self, dim: int, a: int, b: int) -> None:
        super().__init__()
        self.split_sizes = [a, b]
        self.first = nn.Linear(dim, a)
        self.second = nn.Linear(dim, b)
        self.out = nn.Linear(a, b)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([self.first.weight, self.second.weight])
        bias = torch.cat([self.first.bias, self.second.bias])
        a, b = F.linear(x, weight, bias).split(self.split_sizes, dim=-1)
        return self.out(F.relu(a)) * torch.tanh(b)


@block(*FLAT, weight=3)
def fused_weights(make: Maker, at: Shape) -> nn.Module:
    return FusedWeights(at.channels, make.width(at), make.width(at))


class SlicedWeight(nn.Module):
    """A supernet's layer: only the first rows and columns of a larger weight are used."""

    def __init__(self, dim: int, out: int, spare: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out + spare, dim + spare))
        self.bias = nn.Parameter(torch.empty(out + spare))
        self.active = out

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight[: self.active, : x.shape[-1]], self.bias[: self.active])


@block(*FLAT, weight=3)
def sliced_weight(make: Maker, at: Shape) -> nn.Module:
    return SlicedWeight(at.channels, make.width(at), make.choose.integer(1, 4))


class Centred(nn.Module):
    """A running mean is kept in a plain tensor attribute and in a buffer; both carry the channels."""

    running: Tensor

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, dim))
        self.register_buffer("running", torch.randn(dim))
        self.names = [f"feature {i}" for i in range(dim)]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x - self.running[None], self.weight)[..., : self.weight.shape[0]]


@block(*FLAT, weight=3)
def centred_linear(make: Maker, at: Shape) -> nn.Module:
    return Centred(at.channels, make.width(at))


class ByName(nn.Module):
    """Layers in a dict, reached by computed names."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> Tensor:
        for name in sorted(self.layers):
            x = getattr(self.layers, name)(x)
        return x


@block(*ANY, nested=True)
def module_dict(make: Maker, at: Shape) -> nn.Module:
    body, shape = make.body(at)
    return ByName({"a_body": body, "b_layer": pointwise_layer(shape, make.width(at))})
