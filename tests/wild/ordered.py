"""Code in which units are not alike: neighbours, ranks and places along a width carry meaning, so it may not be narrowed.

What is right here is mostly to freeze; some look ordered and are not.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Between, floats, wild

ROWS = lambda: (floats(4, 6),)
IMAGE = lambda: (floats(2, 3, 8, 8),)


def _op(name: str, function: object, *, in_order: bool = False) -> None:
    def make() -> nn.Module:
        return type(name, (Between,), {"between": lambda self, h: function(h)})()  # type: ignore[operator]

    make.__module__ = __name__
    wild(ROWS, name=name, in_order=in_order)(make)


_op("CumulativeSum", lambda h: h.cumsum(1), in_order=True)
_op("CumulativeProduct", lambda h: h.cumprod(-1), in_order=True)
_op("CumulativeMaximum", lambda h: h.cummax(1).values, in_order=True)
_op("LogCumulative", lambda h: h.logcumsumexp(1), in_order=True)
_op("Difference", lambda h: F.pad(h.diff(dim=1), (0, 1)))
_op("NeighbourDifference", lambda h: torch.cat([h[:, 1:] - h[:, :-1], h[:, :1]], 1))
_op("Flip", lambda h: h + h.flip(1))
_op("Roll", lambda h: h * h.roll(1, 1))
_op("RollHalf", lambda h: h * h.roll(h.shape[1] // 2, -1))
_op("Sorted", lambda h: h.sort(1).values)
_op("SortedAndBack", lambda h: h.sort(1).values.gather(1, h.argsort(1).argsort(1)))
_op("Ranks", lambda h: h.argsort(1).argsort(1).to(h))
_op("TopKValues", lambda h: F.pad(h.topk(5, 1).values, (0, h.shape[1] - 5)))
_op("TopKMask", lambda h: h * torch.zeros_like(h).scatter(1, h.topk(4, 1).indices, 1.0))
_op("KeepsAboveKth", lambda h: h * (h >= h.kthvalue(5, 1, keepdim=True).values))
_op("Median", lambda h: h - h.median(1, keepdim=True).values)
_op("Quantile", lambda h: h - h.quantile(0.25, dim=1, keepdim=True))
_op("ArgMaxAsNumber", lambda h: h + h.argmax(1, keepdim=True).to(h) / 12)
_op("ArgMaxHot", lambda h: h * F.one_hot(h.argmax(1), h.shape[1]).to(h))
_op("WinnerTakesAll", lambda h: h * (h == h.amax(1, keepdim=True)))
_op("SecondOfAll", lambda h: h + h[:, 1:2])
_op("LastOfAll", lambda h: h + h[:, -1, None])
_op("MiddleOfAll", lambda h: h + h[:, h.shape[1] // 2, None])
_op("EveryOther", lambda h: h * torch.cat([h[:, ::2], h[:, 1::2]], 1))
_op("Interleaved", lambda h: torch.stack([h[:, :6], h[:, 6:]], 2).flatten(1) + h)
_op("Halves", lambda h: torch.cat([h[:, :6] * h[:, 6:], h[:, :6] - h[:, 6:]], 1))
_op("HalvesSwapped", lambda h: torch.cat(h.chunk(2, 1)[::-1], 1))
_op("Thirds", lambda h: torch.cat([a * b for a, b in zip(h.split(4, 1), h.split(4, 1)[::-1])], 1))
_op("Blocks", lambda h: (h.view(-1, 3, 4) - h.view(-1, 3, 4).mean(2, keepdim=True)).flatten(1))
_op("BlocksTransposed", lambda h: h.view(-1, 3, 4).transpose(1, 2).reshape(-1, 12))
_op("MovingAverage", lambda h: F.avg_pool1d(h[:, None], 3, 1, 1)[:, 0])
_op("MaximumOverPairs", lambda h: F.max_pool1d(h[:, None], 2)[:, 0].repeat_interleave(2, 1))
_op("Upsampled", lambda h: F.interpolate(h[:, None], scale_factor=2, mode="linear")[:, 0, ::2])
_op("AdaptivePool", lambda h: F.adaptive_avg_pool1d(h[:, None], 4)[:, 0].repeat(1, 3))
_op("Unfolded", lambda h: F.pad(h, (1, 1)).unfold(1, 3, 1).amax(-1))
_op("ConvolvedAlong", lambda h: F.conv1d(h[:, None], torch.ones(1, 1, 3).to(h), padding=1)[:, 0])
_op("Fourier", lambda h: torch.fft.fft(h, dim=1).abs())
_op("RealFourier", lambda h: F.pad(torch.fft.rfft(h).abs(), (0, 5)))
_op("Ramp", lambda h: h * torch.linspace(0, 1, h.shape[1]).to(h))
_op("RampFromAnotherSize", lambda h: h * torch.arange(12).to(h))
_op("OnesLike", lambda h: h * torch.ones(h.shape[1]).to(h) + torch.full_like(h, 0.5))
_op("Triangle", lambda h: h @ torch.ones(12, 12).tril().to(h) / 12)
_op("Identity", lambda h: h @ torch.eye(h.shape[-1]).to(h))
_op("OuterThenDiagonal", lambda h: torch.einsum("bi,bj->bij", h, h).diagonal(dim1=1, dim2=2))
_op("UpperTriangle", lambda h: h * torch.einsum("bi,bj->bij", h, h).triu(1).sum((1, 2))[:, None])
_op("GramAlong", lambda h: (h.T @ h).softmax(-1) @ torch.ones(12).to(h) * h)
_op("Padded", lambda h: F.pad(h, (2, 2))[:, 2:-2] + F.pad(h[:, :-1], (1, 0)))
_op("Narrowed", lambda h: h + h.narrow(1, 3, 1))
_op("Selected", lambda h: h + h.select(1, 5)[:, None])
_op("Indexed", lambda h: h[:, [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]] * h)
_op("IndexSelected", lambda h: h + h.index_select(1, torch.tensor([3])))
_op("Taken", lambda h: h + h.take(torch.tensor([0])))
_op("MaskedFirst", lambda h: h.masked_fill(torch.arange(h.shape[1]) < 3, 0.0))
_op("Repeated", lambda h: h.repeat(1, 2)[:, 3:15])
_op("Tiled", lambda h: h * h[:, :4].tile(1, 3))
_op("Shuffled", lambda h: F.channel_shuffle(h[:, :, None, None], 3).flatten(1))
_op("PixelShuffled", lambda h: F.pixel_shuffle(h.view(-1, 12, 1, 1), 2).flatten(1))
_op("ReshapedAcross", lambda h: h.reshape(12, -1).t() + h)
_op("Strided", lambda h: h + h.as_strided((4, 12), (0, 1)))
_op("ViewedAsComplex", lambda h: torch.view_as_real(torch.view_as_complex(h.view(-1, 6, 2)) ** 2).flatten(1))
_op("ViewedAsBytes", lambda h: h * (1 + (h.contiguous().view(torch.uint8).float().mean() > 300)))
_op("Bucketised", lambda h: h * torch.bucketize(h.detach(), torch.linspace(-1, 1, 5).to(h)))
_op("HistogramOfUnits", lambda h: h * torch.histc(h.detach(), 4)[0])
_op("UniqueCount", lambda h: h * len(h.detach().round().unique()))
_op("Norms", lambda h: h / (h.norm(1, 1, keepdim=True) + h.norm(math.inf, 1, keepdim=True)))
_op("CrossProduct", lambda h: torch.cross(h.view(-1, 4, 3), h.view(-1, 4, 3).roll(1, 0), dim=-1).flatten(1))
_op("ByPrefix", lambda h: torch.stack([h[:, : i + 1].sum(1) for i in range(h.shape[1])], 1))
_op("Distances", lambda h: h * torch.cdist(h.T[None], h.T[None])[0].mean(0))
_op("Covariance", lambda h: h @ torch.cov(h.T))
_op("Determinant", lambda h: h * torch.linalg.det(h.T @ h + torch.eye(12).to(h)) ** 0.1)
_op("SingularValues", lambda h: h * torch.linalg.svdvals(h)[0])
_op("Inverse", lambda h: h @ torch.linalg.inv(h.T @ h + torch.eye(12).to(h)))


@wild(ROWS)
class FixedPermutation(Between):
    """A random permutation of features in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(12))

    def between(self, h: Tensor) -> Tensor:
        return h * h[:, self.order]


@wild(ROWS)
class Circulant(Between):
    """A circulant weight from one vector, by indices."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.randn(12) / 3)

    def between(self, h: Tensor) -> Tensor:
        n = torch.arange(12)
        return h @ self.row[(n[:, None] - n[None]) % 12]


@wild(lambda: (floats(4, 6),))
class Hadamard(nn.Module):
    """A fast Walsh-Hadamard transform: butterflies in a loop over powers of two."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.sign, self.fc2 = nn.Linear(6, 16), nn.Parameter(torch.randn(16)), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, size = self.fc1(x) * self.sign, 1
        while size < h.shape[1]:
            h = h.view(len(h), -1, 2, size)
            h = torch.stack([h[:, :, 0] + h[:, :, 1], h[:, :, 0] - h[:, :, 1]], 2).flatten(1)
            size *= 2
        return self.fc2(h / 4)


@wild(ROWS)
class Householder(Between):
    """Products of reflections."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(3, 12))

    def between(self, h: Tensor) -> Tensor:
        for v in self.v:
            h = h - 2 * (h @ v)[:, None] * v / v.dot(v)
        return h


@wild(ROWS)
class ChannelsAsSequence(nn.Module):
    """An LSTM that runs over features as if they were time."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lstm, self.fc2 = nn.Linear(6, 12), nn.LSTM(1, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.lstm(torch.tanh(self.fc1(x))[..., None])[0][:, -1])


@wild(IMAGE)
class ChannelsAsDepth(nn.Module):
    """A 3-D convolution over channels, rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv3d, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv3d(1, 2, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x))[:, None]
        return self.conv2(F.relu(self.conv3d(h)).flatten(1, 2))


@wild(IMAGE)
class ChannelsAsTokens(nn.Module):
    """Attention across channels, without places (XCA) and with learned places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.place, self.conv2 = nn.Conv2d(3, 8, 3), nn.Parameter(torch.randn(8, 36)), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x).flatten(2) + self.place
        k = F.normalize(h, dim=-1)
        return self.conv2(((k @ k.mT).softmax(-1) @ h).view(len(x), 8, 6, 6))


@wild(IMAGE)
class ChannelsIntoHeight(nn.Module):
    """Channels are moved into rows and convolved there."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x)).flatten(1, 2)[:, None]
        return self.fc(self.conv2(h).mean((2, 3)))


@wild(ROWS)
class WeightSlices(nn.Module):
    """The first units use another weight, by slices of weight and bias; the rest is scaled by their number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.extra = nn.Linear(6, 12), nn.Linear(12, 3), nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        w = torch.cat([self.fc1.weight[:4] + self.extra, self.fc1.weight[4:] * 2], 0)
        return self.fc2(torch.tanh(F.linear(x, w, self.fc1.bias)))


@wild(ROWS)
class SlimmableByHand(nn.Module):
    """Only the first half of the units is used when evaluating, all of them while training."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        n = 12 if self.training else 6
        h = torch.relu(F.linear(x, self.fc1.weight[:n], self.fc1.bias[:n]))
        return F.linear(h, self.fc2.weight[:, :n], self.fc2.bias)


@wild(ROWS)
class Matryoshka(nn.Module):
    """Prefixes of the embedding are outputs of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.fc2(torch.relu(self.fc1(x)))
        return [F.linear(h[:, :n], self.head.weight[:, :n]) for n in (2, 4, 8)]
