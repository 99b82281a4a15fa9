"""Code that computes with a size, branches on one, loops over one: a narrowed network must not take another path."""

from __future__ import annotations

import functools
import math
import operator
import statistics
import struct
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, ids, wild
from .readers import Between

IMAGE = lambda: (floats(2, 3, 8, 8),)
ROWS = lambda: (floats(4, 6),)
TOKENS = lambda: (floats(2, 5, 12),)


@wild(IMAGE)
class NumpySqrtOfSize(Between):
    """Divides by `np.sqrt` of the number of channels: the constant must not change, or the width freeze."""

    def between(self, h: Tensor) -> Tensor:
        return h / float(np.sqrt(h.shape[1]))


@wild(IMAGE)
class NumpyPowerOfAttribute(Between):
    """`np.power` of an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 8

    def between(self, h: Tensor) -> Tensor:
        return h * float(np.power(self.channels, -0.5)) + float(np.log2(self.channels))


@wild(TOKENS)
class MathOfHeadSize(nn.Module):
    """`math.sqrt`, `math.log`, `math.log2`, `math.pow` of sizes, as attributes and from shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 8
        self.q, self.k, self.v, self.o = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        scores = q @ k.mT / math.sqrt(q.size(-1)) + math.log2(k.shape[-1]) * 0.1
        v = v * math.log(self.dim) + math.pow(v.shape[2], 0.25)
        return self.o(scores.softmax(-1) @ v)


@wild(TOKENS)
class PowersOfHeadSize(nn.Module):
    """`dim ** -0.5`, `dim ** 0.25`, `1 / dim`, `divmod`, `round`, `hash` of a size."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 8
        self.q, self.k, self.v, self.o = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x) * self.dim**-0.5, self.k(x), self.v(x)
        v = v / v.shape[-1] + round(k.shape[-1] / 3) * 0.01 + divmod(self.dim, 3)[1]
        return self.o((q @ k.mT).softmax(-1) @ v)


@wild(IMAGE)
class FloatAndFormat(Between):
    """A size through `float`, `str`, `f"{}"`, `struct`, `statistics`, `operator.index`, `complex`."""

    def between(self, h: Tensor) -> Tensor:
        c = h.shape[1]
        shift = float(c) + int(str(c)) + int(f"{c:03d}") + struct.unpack("<i", struct.pack("<i", c))[0]
        return h + 0.01 * (shift + statistics.mean([c, 4]) + operator.index(c) + complex(c, 1).real + len(range(c)))


@wild(IMAGE)
class LoopOverChannels(Between):
    """`range(c)` over a size, each channel in its own way."""

    def between(self, h: Tensor) -> Tensor:
        return torch.stack([h[:, i] * (1 + i % 3) for i in range(h.shape[1])], 1)


@wild(IMAGE)
class LoopOverAttribute(Between):
    """`for i in range(self.channels)`."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 8

    def between(self, h: Tensor) -> Tensor:
        total = torch.zeros_like(h[:, :1])
        for i in range(self.channels):
            total = total + h[:, i : i + 1] * 0.5**i
        return h + total


@wild(IMAGE)
class IteratesOverTensor(Between):
    """`for channel in h.transpose(0, 1)`, `unbind`, `enumerate`, `zip`."""

    def between(self, h: Tensor) -> Tensor:
        channels = [c * (-1) ** i for i, c in enumerate(h.unbind(1))]
        return functools.reduce(torch.add, channels)[:, None] + h


@wild(IMAGE)
class ComparesWithNumber(Between):
    """`if c > 6`: another path for narrow networks."""

    def between(self, h: Tensor) -> Tensor:
        return h * 2 if h.shape[1] > 6 else h - 1


@wild(ROWS)
class ComparesAttribute(nn.Module):
    """A hidden size above a threshold picks another activation."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 24
        self.fc1, self.fc2 = nn.Linear(6, self.hidden), nn.Linear(self.hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(F.gelu(h) if self.hidden >= 20 else F.relu(h))


@wild(ROWS)
class MinOfSizes(nn.Module):
    """`min(c, 16)`, `max`, `sorted`, `in`: a size among numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        scale = min(h.shape[1], 16) + sorted([h.shape[1], 10])[0] + (h.shape[1] in (24, 32))
        return self.fc2(h / scale)


@wild(ROWS)
class TableBySize(nn.Module):
    """A dict of constants keyed by width."""

    GAINS = {24: 0.5, 12: 2.0}  # noqa: RUF012  as found in the wild

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(F.relu(h) * self.GAINS.get(h.shape[1], 1.0))


@wild(ROWS)
class MatchOnSize(nn.Module):
    """`match` on a shape; `isinstance(c, int)`; `c % 8 == 0`; `c & 1`; `bool(c // 16)`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        match tuple(h.shape):
            case (_, 16):
                h = h * 3
            case (_, c) if c & 1:
                h = h + 1
        if h.shape[1] % 8 == 0:
            h = torch.tanh(h)
        return self.fc2(h * (2 if bool(h.shape[1] // 16) else 1))


@wild(ROWS)
class NumelAndElementSize(nn.Module):
    """`numel()`, `len`, `nelement`, `stride`, `size(1)`, `element_size` in arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        per_row = h.numel() / len(h) + h.stride(0) + self.fc1.weight.nelement() / 6
        return self.fc2(h / per_row + len(self.fc1.weight) * 0.01 + h[0].size(0) * 0.01)


@wild(ROWS)
class SizeAsTensor(nn.Module):
    """A size turned into a tensor, its root taken there."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        root = torch.sqrt(torch.tensor(h.shape[-1], dtype=h.dtype))
        return self.fc2(h / root + torch.full((), h.shape[-1]).to(h).log())


@wild(ROWS)
class SumOverShapes(nn.Module):
    """A regulariser with `sum(p.numel() …)`; entropy over units divided by `log(n)`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.fc1(x)
        p = h.softmax(-1)
        entropy = -(p * p.clamp_min(1e-9).log()).sum(-1) / math.log(p.shape[-1])
        return self.fc2(torch.tanh(h)), entropy.mean() / sum(q.numel() for q in self.parameters())


@wild(ROWS)
class ArgumentToKernel(nn.Module):
    """A size as `k` of top-k, as dropout probability, as window, as repeats, as an exponent, as eps."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.softplus(self.fc1(x))
        best = h.topk(h.shape[1] // 4, dim=1).values.mean(1, keepdim=True)
        return self.fc2(h.pow(1 / h.shape[1]) + best + F.layer_norm(h, h.shape[1:], eps=1 / h.shape[1]))


@wild(lambda: (ids(9, 2, 5),))
class OneHotWidth(nn.Module):
    """`F.one_hot(ids, self.classes)`, `torch.eye(n)`, `torch.ones(n, n).tril()` next to a width of the same number."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = 9
        self.fc1, self.mix, self.fc2 = nn.Linear(9, 9), nn.Parameter(torch.randn(9, 9)), nn.Linear(9, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.fc1(F.one_hot(tokens, self.classes).to(self.mix))
        return self.fc2(torch.tanh(h @ (self.mix + torch.eye(self.classes).to(h)).tril()))


@wild(IMAGE)
class SizeInClosure(Between):
    """A size captured at construction in a lambda and in a default argument."""

    def __init__(self) -> None:
        super().__init__()
        channels = self.conv1.out_channels
        self.scale = lambda h: h / channels
        self.shape = functools.partial(torch.Tensor.view, size=(-1, channels, 36))

    def between(self, h: Tensor) -> Tensor:
        return self.scale(self.shape(h)).view(len(h), -1, 6, 6)


@wild(IMAGE)
class PicksByString(Between):
    """An activation looked up by a string that holds a size."""

    def between(self, h: Tensor) -> Tensor:
        name = {"c8": "relu", "c4": "tanh"}.get(f"c{h.shape[1]}", "sigmoid")
        return getattr(torch, name)(h)


class Plain(nn.Module):
    """Used below: a module that is a function of an attribute alone."""

    def __init__(self, size: Any) -> None:
        super().__init__()
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        return h / float(self.size) ** 0.5


@wild(IMAGE)
class NumpyIntegerAttribute(Between):
    """A NumPy integer as attribute, in a view and in a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.plain = np.int64(8), Plain(np.float32(8.0))

    def between(self, h: Tensor) -> Tensor:
        return self.plain(h.reshape(-1, self.channels, 2, 18).sum(2).view(len(h), int(self.channels), 3, 6))
