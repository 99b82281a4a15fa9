"""Convolutions of every sort, as people write them.

    groups: 1, some, all (depthwise), all with a multiplier, and "one channel in", which only looks depthwise

B batch, C channels, O out, I in, H W space, L length, D depth.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .making import Maker, Shape, block, sizes_divide


def roomy(at: Shape) -> bool:
    """Large enough for a 3x3 window."""
    return min(at.space) >= 3


def groupable(at: Shape) -> bool:
    return sizes_divide(at.channels)


@block("map", weight=16)
def conv1x1(make: Maker, at: Shape) -> nn.Module:
    return nn.Conv2d(at.channels, make.width(at), 1)


@block("map", weight=16)
def conv3x3(make: Maker, at: Shape) -> nn.Module:
    padding = make.choose.pick((1, 0)) if roomy(at) else 1
    return nn.Conv2d(at.channels, make.width(at), 3, padding=padding, bias=not make.choose.chance(20))


@block("map", when=lambda at: min(at.space) >= 4, weight=5)
def conv_strided(make: Maker, at: Shape) -> nn.Module:
    return nn.Conv2d(at.channels, make.width(at), 3, stride=2, padding=1)


@block("map", when=roomy, weight=4)
def conv_dilated(make: Maker, at: Shape) -> nn.Module:
    return nn.Conv2d(at.channels, make.width(at), 3, padding=2, dilation=2)


@block("map", when=roomy)
def conv_padding_mode(make: Maker, at: Shape) -> nn.Module:
    mode = make.choose.pick(("reflect", "circular", "replicate"))
    return nn.Conv2d(at.channels, make.width(at), 3, padding=1, padding_mode=mode)


@block("map", weight=12)
def conv_bn_relu(make: Maker, at: Shape) -> nn.Module:
    width = make.width(at)
    conv = nn.Conv2d(at.channels, width, make.choose.pick((1, 3)), padding="same", bias=make.choose.chance(50))
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


@block("map", weight=5)
def depthwise_conv(make: Maker, at: Shape) -> nn.Module:
    return nn.Conv2d(at.channels, at.channels, 3, padding=1, groups=at.channels)


@block("map", when=lambda at: at.channels <= 16, weight=3)
def depthwise_multiplier(make: Maker, at: Shape) -> nn.Module:
    return nn.Conv2d(at.channels, at.channels * make.choose.pick((2, 3)), 3, padding=1, groups=at.channels)


class SeparableConv(nn.Module):
    """Depthwise, then pointwise."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.norm = nn.BatchNorm2d(dim)
        self.pointwise = nn.Conv2d(dim, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(F.silu(self.norm(self.depthwise(x)), inplace=True))


@block("map")
def separable_conv(make: Maker, at: Shape) -> nn.Module:
    return SeparableConv(at.channels, make.width(at))


@block("map", when=groupable, weight=7)
def grouped_conv(make: Maker, at: Shape) -> nn.Module:
    groups = make.divisor(at.channels, 2)
    return nn.Conv2d(at.channels, at.channels, 3, padding=1, groups=groups)


@block("map", when=groupable, weight=6)
def grouped_conv_uneven(make: Maker, at: Shape) -> nn.Module:
    groups = make.divisor(at.channels, 2)
    return nn.Conv2d(at.channels, make.width(at, multiple=groups), 1, groups=groups)


class OneChannel(nn.Module):
    """Squeezes to one channel and widens again: the second convolution has in_channels == groups == 1."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.to_one = nn.Conv2d(dim, 1, 1)
        self.from_one = nn.Conv2d(1, out, 3, padding=1, groups=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.from_one(self.to_one(x))


@block("map")
def one_channel_conv(make: Maker, at: Shape) -> nn.Module:
    return OneChannel(at.channels, make.width(at))


@block("map", when=lambda at: max(at.space) <= 6, weight=8)
def transposed_conv(make: Maker, at: Shape) -> nn.Module:
    kernel, padding = make.choose.pick(((2, 0), (3, 1), (4, 1)))
    return nn.ConvTranspose2d(at.channels, make.width(at), kernel, stride=2, padding=padding)


@block("map", when=lambda at: groupable(at) and max(at.space) <= 6, weight=12)
def grouped_transposed_conv(make: Maker, at: Shape) -> nn.Module:
    groups = make.divisor(at.channels, 2)
    return nn.ConvTranspose2d(at.channels, make.width(at, multiple=groups), 3, padding=1, groups=groups)


@block("map", weight=3)
def weight_norm_conv(make: Maker, at: Shape) -> nn.Module:
    return weight_norm(nn.Conv2d(at.channels, make.width(at), 3, padding=1), dim=make.choose.pick((0, 1)))


class StandardisedConv(nn.Conv2d):
    """Weight standardisation: statistics over each filter, so input channels are not independent of each other."""

    def forward(self, input: Tensor) -> Tensor:
        weight_OIhw = self.weight
        mean = weight_OIhw.mean(dim=(1, 2, 3), keepdim=True)
        var = weight_OIhw.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
        return F.conv2d(input, (weight_OIhw - mean) / torch.sqrt(var + 1e-5), self.bias, padding=self.padding)


@block("map")
def standardised_conv(make: Maker, at: Shape) -> nn.Module:
    return StandardisedConv(at.channels, make.width(at), 3, padding=1)


class FunctionalConv(nn.Module):
    """A convolution by hand, with its own parameters and a `groups` attribute that torch.nn does not know of."""

    def __init__(self, dim: int, out: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.kernel = nn.Parameter(torch.empty(out, dim // groups, 3, 3))
        self.bias = nn.Parameter(torch.empty(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, self.bias, padding=1, groups=self.groups)


@block("map", weight=4)
def functional_conv(make: Maker, at: Shape) -> nn.Module:
    groups = make.divisor(at.channels)
    return FunctionalConv(at.channels, make.width(at, multiple=groups), groups)


class ConvNeXtBlock(nn.Module):
    """Depthwise conv, channels last, norm, MLP, layer scale, channels first, residual."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.pwconv1 = nn.Linear(dim, hidden)
        self.pwconv2 = nn.Linear(hidden, dim)
        self.gamma = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        h = self.gamma * self.pwconv2(F.gelu(self.pwconv1(h)))
        return x + h.permute(0, 3, 1, 2)


@block("map", weight=3)
def convnext_block(make: Maker, at: Shape) -> nn.Module:
    return ConvNeXtBlock(at.channels, make.width(at))


class InvertedResidual(nn.Module):
    """MobileNet's block; `use_res` compares widths in __init__, as torchvision does."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.use_res = dim == out
        self.expand = nn.Sequential(nn.Conv2d(dim, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(True))
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden), nn.BatchNorm2d(hidden), nn.Hardswish(True)
        )
        self.project = nn.Sequential(nn.Conv2d(hidden, out, 1), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        h = self.project(self.depthwise(self.expand(x)))
        return x + h if self.use_res else h


@block("map", weight=3)
def inverted_residual(make: Maker, at: Shape) -> nn.Module:
    out = make.choose.pick((at.channels, make.width(at)))
    return InvertedResidual(at.channels, make.width(at), out)


class DynamicConv(nn.Module):
    """A kernel computed from the input and applied by a grouped convolution that has the batch in its channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.make_kernel = nn.Linear(dim, dim * 9)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        kernel = self.make_kernel(x.mean((2, 3))).view(b * self.dim, 1, 3, 3)
        out = F.conv2d(x.reshape(1, b * c, h, w), kernel.tanh(), padding=1, groups=b * c)
        return out.view(b, c, h, w)


@block("map", when=lambda at: at.channels <= 16, weight=3)
def dynamic_conv(make: Maker, at: Shape) -> nn.Module:
    return DynamicConv(at.channels)


class UnfoldConv(nn.Module):
    """im2col and a linear layer: channels and window positions share one axis."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim * 9, out)

    def forward(self, x: Tensor) -> Tensor:
        columns = F.unfold(x, 3, padding=1).transpose(1, 2)
        return self.fc(columns).transpose(1, 2).unflatten(2, x.shape[2:])


@block("map")
def unfold_conv(make: Maker, at: Shape) -> nn.Module:
    return UnfoldConv(at.channels, make.width(at))


@block("signal", weight=10)
def conv1d(make: Maker, at: Shape) -> nn.Module:
    return nn.Conv1d(at.channels, make.width(at), 3, padding=1)


@block("signal", when=groupable, weight=6)
def conv1d_grouped(make: Maker, at: Shape) -> nn.Module:
    groups = make.divisor(at.channels, 2)
    return nn.Conv1d(at.channels, make.width(at, multiple=groups), 3, padding=1, groups=groups)


@block("signal", when=lambda at: at.space[0] <= 7, weight=7)
def transposed_conv1d(make: Maker, at: Shape) -> nn.Module:
    return nn.ConvTranspose1d(at.channels, make.width(at), 4, stride=2, padding=1)


@block("signal", weight=4)
def batch_norm_signal(make: Maker, at: Shape) -> nn.Module:
    return nn.BatchNorm1d(at.channels)


class CausalConv(nn.Module):
    """WaveNet's gate: a padded causal convolution cut in two by chunk."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.pad = 2
        self.conv = nn.Conv1d(dim, 2 * hidden, 3)
        self.out = nn.Conv1d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv(F.pad(x, (self.pad, 0))).chunk(2, dim=1)
        return x + self.out(value.tanh() * gate.sigmoid())


@block("signal", weight=3)
def causal_conv(make: Maker, at: Shape) -> nn.Module:
    return CausalConv(at.channels, make.width(at, high=16))


@block("volume", weight=12)
def conv3d(make: Maker, at: Shape) -> nn.Module:
    return nn.Conv3d(at.channels, make.width(at, high=16), make.choose.pick((1, 3)), padding="same")


@block("volume", weight=6)
def conv3d_bn(make: Maker, at: Shape) -> nn.Module:
    width = make.width(at, high=16)
    return nn.Sequential(nn.Conv3d(at.channels, width, (1, 3, 3), padding="same"), nn.BatchNorm3d(width), nn.ReLU())


@block("volume", weight=6)
def conv3d_depthwise(make: Maker, at: Shape) -> nn.Module:
    return nn.Conv3d(at.channels, at.channels, 3, padding=1, groups=at.channels)
