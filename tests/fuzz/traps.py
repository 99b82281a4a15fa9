"""Tiny networks, one for each way of pruning wrongly that is known from other tools: images.

    TRAPS["channel_flip"]() -> Network, the same each time

A trap is a module class without constructor arguments; its name in snake case is the trap's name. Sizes are literals on
purpose, as in the code that people bring. `settle()`, where a trap has it, runs after the weights were randomised.

B batch, C channels, H W space.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .making import Network, randomise

TRAPS: dict[str, Callable[[], Network]] = {}


def trap(*inputs: Callable[[], object]) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register a module class as a trap, with a maker for each of its inputs."""

    def register(cls: type[nn.Module]) -> type[nn.Module]:
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()
        if name in TRAPS:
            raise ValueError(f"trap {name!r} exists already")
        TRAPS[name] = lambda: _network(name, cls, inputs)
        return cls

    return register


def _network(name: str, cls: type[nn.Module], inputs: tuple[Callable[[], object], ...]) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = cls()
        randomise(model, {})
        if (settle := getattr(model, "settle", None)) is not None:
            settle()
        return Network(seed=0, model=model.eval(), inputs=tuple(new() for new in inputs), recipe=(name,))


def floats(*shape: int) -> Callable[[], Tensor]:
    """Random numbers of that shape, the batch included."""
    return lambda: torch.randn(shape)


def ids(*shape: int, below: int) -> Callable[[], Tensor]:
    """Random token numbers."""
    return lambda: torch.randint(0, below, shape)


IMAGE = floats(2, 3, 8, 8)


def chain(*widths: int) -> nn.Sequential:
    """3x3 convolutions with ReLU between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@trap(IMAGE)
class ConvBnReluConv(nn.Module):
    """Padding and bias everywhere: a channel that is masked at its weight is not yet zero after batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.bn1(self.conv1(x))))


@trap(IMAGE)
class PaddedBiasedConv(nn.Module):
    """relu(bias) of a dead channel cannot be folded into the next bias, because the border sees zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=2)
        self.conv2 = nn.Conv2d(6, 4, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.softplus(self.conv1(x)))


@trap(IMAGE)
class ConvChain(nn.Module):
    """16-32-64: ranks of one layer must not be used for another."""

    def __init__(self) -> None:
        super().__init__()
        self.net = chain(3, 16, 32, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x).mean((2, 3)))


@trap(IMAGE)
class Residual(nn.Module):
    """Stem, branch and head share one width; the branch has one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = chain(8, 6, 8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(x + self.body(x)))


@trap(IMAGE)
class ConcatAdd(nn.Module):
    """cat(a, b) + c: c is as wide as a and b together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 7, 1), nn.Conv2d(3, 12, 3, padding=1)
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(x), self.b(x)], dim=1) + self.c(x))


class _C2f(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c = 6
        self.cv1 = nn.Conv2d(3, 12, 1)
        self.m = nn.ModuleList([chain(6, 4, 6), chain(6, 8, 6)])
        self.cv2 = nn.Conv2d(24, 5, 1)

    def gather(self, y: list[Tensor]) -> Tensor:
        for m in self.m:
            y.append(y[-1] + m(y[-1]))
        return self.cv2(torch.cat(y, 1))


@trap(IMAGE)
class C2fChunk(_C2f):
    """YOLOv8's block, cut by chunk: both halves must stay equally wide."""

    def forward(self, x: Tensor) -> Tensor:
        return self.gather(list(self.cv1(x).chunk(2, 1)))


@trap(IMAGE)
class C2fSplit(_C2f):
    """The same, cut by split with a size kept as an attribute."""

    def forward(self, x: Tensor) -> Tensor:
        return self.gather(list(self.cv1(x).split((self.c, self.c), 1)))


@trap(IMAGE)
class Res2netSplit(nn.Module):
    """Four parts, each added to the next before it is convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 4
        self.conv1 = nn.Conv2d(3, 16, 1)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.conv3 = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        spx = torch.split(F.relu(self.conv1(x)), self.width, 1)
        sp, out = spx[0], []
        for i, conv in enumerate(self.convs):
            sp = F.relu(conv(sp if i == 0 else sp + spx[i]))
            out.append(sp)
        return self.conv3(torch.cat([*out, spx[3]], 1))


@trap(IMAGE)
class ChannelShuffle(nn.Module):
    """A permutation by view, transpose, view, between two grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 1)
        self.conv2 = nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.conv3 = nn.Conv2d(12, 8, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(F.relu(self.conv1(x)))
        b, c, h, w = x.size()
        x = x.view(b, 3, c // 3, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        return self.conv3(x)


@trap(IMAGE)
class ChannelFlip(nn.Module):
    """The channels in reverse order, and added to themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 7, 3, padding=1), nn.Conv2d(7, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv2(F.relu(x.flip(1)) + 0.5 * torch.flip(x, dims=(1,)))


@trap(IMAGE)
class SqueezeExcite(nn.Module):
    """Multiplied by the sigmoid of a 1x1 map, which broadcasts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.fc1, self.fc2 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x))
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(gate * x)


@trap(IMAGE)
class GroupedConv8(nn.Module):
    """Eight groups: as many channels must go from each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 1)
        self.conv2 = nn.Conv2d(32, 16, 3, padding=1, groups=8)
        self.conv3 = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


@trap(IMAGE)
class DepthwiseMultiplier(nn.Module):
    """Depthwise with two outputs a channel: they go together, and `groups` with them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 1)
        self.depthwise = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.conv3 = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.relu(self.depthwise(self.conv1(x))))


@trap(floats(2, 1, 8, 8))
class OneChannelConv(nn.Module):
    """in_channels == groups == 1: an ordinary convolution that a test for depthwise takes for one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1, groups=1)
        self.squeeze = nn.Conv2d(6, 1, 1)
        self.conv2 = nn.Conv2d(1, 5, 3, padding=1)
        self.head = nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv2(self.squeeze(F.relu(self.conv1(x))))))


@trap(IMAGE)
class FlattenLinear(nn.Module):
    """Each channel of the map owns sixteen columns of the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.fc = nn.Linear(5 * 4 * 4, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(F.relu(self.conv(x)), 1))


@trap(IMAGE)
class FlattenHardCoded(nn.Module):
    """The same, with a literal in view (LeNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.fc = nn.Linear(80, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).view(-1, 80))


@trap(IMAGE)
class HardCodedReshape(nn.Module):
    """Literals for groups and for channels in a reshape that no attribute explains."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).reshape(-1, 4, 3, 8, 8)
        x = x / (1 + x.abs().sum(2, keepdim=True))
        return self.conv2(x.reshape(-1, 12, 8, 8))


@trap(IMAGE)
class TransposedConv(nn.Module):
    """The weight is [in, out / groups, h, w], here also grouped."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.head = nn.ConvTranspose2d(6, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.up(F.relu(self.down(x)))))


@trap(IMAGE)
class GroupNorm(nn.Module):
    """Statistics over groups of channels: a group may lose channels only if all do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(3, 12, 3, padding=1), nn.GroupNorm(4, 12), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.silu(self.norm(self.conv1(x))))


@trap(IMAGE)
class PixelShuffle(nn.Module):
    """Four channels become one: they are one unit."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.up, self.conv2 = nn.Conv2d(3, 20, 1), nn.PixelShuffle(2), nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.up(self.conv1(x))))


@trap(IMAGE)
class InplaceRelu(nn.Module):
    """The in-place activation also changes what the residual adds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        out = self.conv2(self.relu(x))
        out += x
        return self.head(self.relu(out))


@trap(IMAGE)
class TwoCalls(nn.Module):
    """One module called twice: its input and its output are the same width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(self.body(F.relu(self.body(x)))))


@trap(IMAGE)
class SharedWeights(nn.Module):
    """Two modules own one weight and have a bias each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.a, self.b = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.b.weight = self.a.weight
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(self.a(x) * torch.sigmoid(self.b(x)))
