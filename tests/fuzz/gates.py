"""Gates computed from the activation itself: squeeze-excite and its relatives, and other map-to-map blocks.

x ── pool over space ── 1x1 ── relu ── 1x1 ── sigmoid ──(×)── x        one number a channel
x ── mean, max over channels ── cat ── conv ── sigmoid ──(×)── x       one number a pixel
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .making import Maker, Shape, block


class SqueezeExcite(nn.Module):
    """Global pool, two 1x1 convolutions, sigmoid, multiply."""

    def __init__(self, dim: int, hidden: int, hard: bool) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(dim, hidden, 1)
        self.expand = nn.Conv2d(hidden, dim, 1)
        self.hard = hard

    def forward(self, x: Tensor) -> Tensor:
        s = self.expand(F.relu(self.reduce(self.pool(x)), inplace=True))
        return x * (F.hardsigmoid(s) if self.hard else s.sigmoid())


@block("map", weight=4)
def squeeze_excite(make: Maker, at: Shape) -> nn.Module:
    return SqueezeExcite(at.channels, make.width(at), make.choose.chance(30))


class LinearSqueezeExcite(nn.Module):
    """The same with linear layers and views."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


@block("map", weight=4)
def squeeze_excite_linear(make: Maker, at: Shape) -> nn.Module:
    return LinearSqueezeExcite(at.channels, make.width(at))


class EfficientChannelAttention(nn.Module):
    """A 1-D convolution that slides along the channels: each channel's neighbours matter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((2, 3)).unsqueeze(1)
        return x * self.conv(y).sigmoid().squeeze(1)[:, :, None, None]


@block("map", weight=4)
def channel_conv_gate(make: Maker, at: Shape) -> nn.Module:
    return EfficientChannelAttention()


class SpatialAttention(nn.Module):
    """CBAM: statistics over the channels become a two-channel image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        stats = torch.cat([torch.mean(x, 1, keepdim=True), torch.max(x, 1, keepdim=True)[0]], dim=1)
        return x * self.conv(stats).sigmoid()


@block("map", weight=4)
def spatial_attention(make: Maker, at: Shape) -> nn.Module:
    return SpatialAttention()


class GlobalContext(nn.Module):
    """GCNet: a softmax over pixels weighs a sum over pixels, which is added to each."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.key = nn.Conv2d(dim, 1, 1)
        self.down = nn.Conv2d(dim, hidden, 1)
        self.norm = nn.LayerNorm([hidden, 1, 1])
        self.up = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        weight = self.key(x).reshape(b, 1, h * w, 1).softmax(dim=2)
        context = torch.matmul(x.reshape(b, 1, c, h * w), weight).view(b, c, 1, 1)
        return x + self.up(F.relu(self.norm(self.down(context))))


@block("map", weight=4)
def global_context(make: Maker, at: Shape) -> nn.Module:
    return GlobalContext(at.channels, make.width(at))


class SplitAttention(nn.Module):
    """ResNeSt: radix groups pooled together, softmax over the radix, a weighted sum."""

    def __init__(self, dim: int, out: int, radix: int) -> None:
        super().__init__()
        self.radix = radix
        self.out = out
        self.conv = nn.Conv2d(dim, out * radix, 3, padding=1)
        self.fc = nn.Conv2d(out, out * radix, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        x = self.conv(x).reshape(b, self.radix, self.out, h, w)
        gap = x.sum(dim=1).mean((2, 3), keepdim=True)
        attention = self.fc(gap).view(b, self.radix, self.out, 1, 1).softmax(dim=1)
        return (x * attention).sum(dim=1)


@block("map", weight=3)
def split_attention(make: Maker, at: Shape) -> nn.Module:
    return SplitAttention(at.channels, make.width(at, high=12), make.choose.integer(2, 3))


class Ghost(nn.Module):
    """A few real channels, the others from a cheap depthwise convolution; cut to the wanted width."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.out = out
        real = (out + 1) // 2
        self.primary = nn.Conv2d(dim, real, 1)
        self.cheap = nn.Conv2d(real, real, 3, padding=1, groups=real)

    def forward(self, x: Tensor) -> Tensor:
        a = self.primary(x)
        return torch.cat([a, self.cheap(a)], dim=1)[:, : self.out, :, :]


@block("map", weight=3)
def ghost_module(make: Maker, at: Shape) -> nn.Module:
    return Ghost(at.channels, make.width(at))


class MutatedInput(nn.Module):
    """An in-place relu that also changes what the residual adds."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, out, 1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return x + self.conv2(self.relu(x))


@block("map", weight=3)
def aliased_relu(make: Maker, at: Shape) -> nn.Module:
    return MutatedInput(at.channels, make.width(at))


class CoordConv(nn.Module):
    """Two coordinate channels are made in forward and concatenated."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim + 2, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        ys = torch.linspace(-1, 1, h, device=x.device, dtype=x.dtype).view(1, 1, h, 1).expand(b, 1, h, w)
        xs = torch.linspace(-1, 1, w, device=x.device, dtype=x.dtype).view(1, 1, 1, w).expand(b, 1, h, w)
        return self.conv(torch.cat([ys, x, xs], 1))


@block("map", weight=3)
def coordinate_channels(make: Maker, at: Shape) -> nn.Module:
    return CoordConv(at.channels, make.width(at))


class UNetStep(nn.Module):
    """Down, up, and a skip between them by concatenation."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(dim, hidden, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(hidden, hidden, 2, stride=2)
        self.fuse = nn.Conv2d(dim + hidden, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(F.silu(self.down(x)))
        h = F.interpolate(h, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.fuse(torch.cat([x, h], dim=1))


@block("map", when=lambda at: min(at.space) >= 4, weight=4)
def unet_step(make: Maker, at: Shape) -> nn.Module:
    return UNetStep(at.channels, make.width(at), make.width(at))
