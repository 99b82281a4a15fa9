"""Activations, gates, masks, and normalisations: one channel at a time, or a statistic over the channels.

exact:    relu, batch norm, layer scale, per-channel masks      (a removed channel changes nothing else)
inexact:  layer norm, group norm, RMS norm, softmax             (a removed channel changes the statistic)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .making import Maker, Shape, block, sizes_divide

ANY = ("map", "tokens", "vector", "signal", "volume")


def register_activation(name: str, make_module: Callable[[], nn.Module]) -> None:
    """One block kind per activation function."""

    def build(make: Maker, at: Shape) -> nn.Module:
        return make_module()

    build.__name__ = name
    block(*ANY, weight=1)(build)


for _name, _make in {
    "relu": nn.ReLU,
    "gelu": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hardswish": nn.Hardswish,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "mish": nn.Mish,
    "dropout": lambda: nn.Dropout(0.5),
}.items():
    register_activation(_name, _make)


class Affine(nn.Module):
    """x * weight + bias over the channel axis, written by broadcasting; the base of several blocks here."""

    def __init__(self, at: Shape) -> None:
        super().__init__()
        self.trailing = len(at.space) if at.axis == 1 else 0
        self.weight = nn.Parameter(torch.empty(at.channels))
        self.bias = nn.Parameter(torch.empty(at.channels))

    def spread(self, vector: Tensor) -> Tensor:
        return vector.view(-1, *[1] * self.trailing)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.spread(self.weight) + self.spread(self.bias)


@block(*ANY)
def layer_scale(make: Maker, at: Shape) -> nn.Module:
    return Affine(at)


class InplaceReLU(Affine):
    """Adds a bias, then changes the fresh tensor in place."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.spread(self.bias)
        return F.relu(x, inplace=True)


@block(*ANY)
def relu_inplace(make: Maker, at: Shape) -> nn.Module:
    return InplaceReLU(at)


class LearnedGate(Affine):
    """A parameter per channel opens or shuts it (what pruning gates look like)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.spread(self.weight)) * x


@block(*ANY)
def learned_gate(make: Maker, at: Shape) -> nn.Module:
    return LearnedGate(at)


class ChannelBuffer(nn.Module):
    """Mean and standard deviation as buffers, as image pre-processing keeps them."""

    mean: Tensor
    std: Tensor

    def __init__(self, at: Shape) -> None:
        super().__init__()
        ones = (1,) * (len(at.space) if at.axis == 1 else 0)
        self.register_buffer("mean", torch.randn(at.channels, *ones))
        self.register_buffer("std", torch.rand(at.channels, *ones) + 0.5, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


@block(*ANY)
def channel_buffer(make: Maker, at: Shape) -> nn.Module:
    return ChannelBuffer(at)


class ChannelMask(nn.Module):
    """A boolean buffer chooses between x and a constant, per channel."""

    mask: Tensor

    def __init__(self, at: Shape, fill: bool) -> None:
        super().__init__()
        ones = (1,) * (len(at.space) if at.axis == 1 else 0)
        self.fill = fill
        mask = torch.arange(at.channels) % 3 == 1
        self.register_buffer("mask", mask.view(-1, *ones))

    def forward(self, x: Tensor) -> Tensor:
        if self.fill:
            return x.masked_fill(self.mask, 0.5)
        return torch.where(self.mask, -x, x)


@block(*ANY)
def masked_fill(make: Maker, at: Shape) -> nn.Module:
    return ChannelMask(at, fill=True)


@block(*ANY)
def where(make: Maker, at: Shape) -> nn.Module:
    return ChannelMask(at, fill=False)


@block(*ANY)
def prelu(make: Maker, at: Shape) -> nn.Module:
    return nn.PReLU(at.channels if at.stream != "tokens" and make.choose.chance(80) else 1)


class Threshold(nn.Module):
    """where() on the data, with a comparison between activations."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x * 0.5, torch.zeros_like(x) - 0.25 * x.abs().clamp(max=1.0))


@block(*ANY)
def threshold(make: Maker, at: Shape) -> nn.Module:
    return Threshold()


class DropPath(nn.Module):
    """Stochastic depth around an inner body; in eval mode a plain residual."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.drop_prob = 0.2

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        if not self.training:
            return x + h
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) > self.drop_prob
        return x + h * keep / (1 - self.drop_prob)


@block(*ANY)
def stochastic_depth(make: Maker, at: Shape) -> nn.Module:
    return DropPath(Affine(at))


@block("map", weight=6)
def batch_norm2d(make: Maker, at: Shape) -> nn.Module:
    return nn.BatchNorm2d(at.channels)


@block("vector", weight=4)
def batch_norm1d(make: Maker, at: Shape) -> nn.Module:
    return nn.BatchNorm1d(at.channels)


class TokenBatchNorm(nn.Module):
    """Batch norm of [B T C], which wants the channels in the middle."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.norm(x_BTC.transpose(1, 2)).transpose(1, 2)


@block("tokens", weight=4)
def batch_norm_tokens(make: Maker, at: Shape) -> nn.Module:
    return TokenBatchNorm(at.channels)


@block("tokens", "vector", weight=3)
def layer_norm(make: Maker, at: Shape) -> nn.Module:
    return nn.LayerNorm(at.channels)


@block("map", "tokens")
def layer_norm_all(make: Maker, at: Shape) -> nn.Module:
    return nn.LayerNorm(list(at.sizes))


class ChannelLayerNorm(nn.Module):
    """ConvNeXt's channels-first layer norm, by hand."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        var = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(var + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


@block("map")
def layer_norm_by_hand(make: Maker, at: Shape) -> nn.Module:
    return ChannelLayerNorm(at.channels)


@block("map", "signal", when=lambda at: sizes_divide(at.channels) and at.space != (1, 1), weight=3)
def group_norm(make: Maker, at: Shape) -> nn.Module:
    return nn.GroupNorm(make.divisor(at.channels), at.channels)


@block("map", when=lambda at: min(at.space) >= 2, weight=4)
def instance_norm(make: Maker, at: Shape) -> nn.Module:
    return nn.InstanceNorm2d(at.channels, affine=True, track_running_stats=make.choose.chance(30))


@block("tokens", "vector", weight=3)
def rms_norm(make: Maker, at: Shape) -> nn.Module:
    return nn.RMSNorm(at.channels)


class HandRMSNorm(nn.Module):
    """Llama's norm; the second form divides by a size kept as an attribute."""

    def __init__(self, dim: int, by_attribute: bool) -> None:
        super().__init__()
        self.dim = dim
        self.by_attribute = by_attribute
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        if self.by_attribute:
            return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-3) * self.dim**0.5 * self.weight
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


@block("tokens", "vector", weight=3)
def rms_norm_by_hand(make: Maker, at: Shape) -> nn.Module:
    return HandRMSNorm(at.channels, make.choose.chance(50))
