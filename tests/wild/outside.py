"""Code that keeps things outside its parameters: in the process, in its inputs, in odd attributes, in the weights' values."""

from __future__ import annotations

import collections
import functools
import itertools
import random
import types
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, ids, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
ROWS = lambda: (floats(4, 6),)
_POSITIONS: dict[Any, Tensor] = {}
_CALLS = {"number": 0}
_SEEN: list[int] = []
_MASKS: collections.defaultdict[int, list[Tensor]] = collections.defaultdict(list)


@functools.lru_cache(maxsize=8)
def _window(length: int) -> Tensor:
    return torch.hann_window(length, periodic=False)


@functools.cache
def _causal(length: int, like: torch.dtype) -> Tensor:
    return torch.full((length, length), float("-inf"), dtype=like).triu(1)


@functools.cache
def _gains(channels: int) -> Tensor:
    return torch.linspace(0.5, 1.5, channels)


@wild(lambda: (floats(2, 1, 32),), fresh=[lambda: (floats(3, 1, 24),)])
class CachedWindow(nn.Module):
    """A window made once for the process."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv(x)) * _window(x.shape[-1]).to(x)
        return self.head(h.mean(-1))


@wild(lambda: (floats(2, 6, 12),), fresh=[lambda: (floats(2, 5, 12),)])
class CachedMask(nn.Module):
    """A causal mask made once for each length and dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(12, 36), nn.Linear(12, 12), 3

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / 2 + _causal(n, x.dtype)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


@wild(IMAGE)
class CachedGains(nn.Module):
    """A cached vector as long as a width: what it holds depends on which unit stands where."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        return self.conv2(F.relu(h) * _gains(h.shape[1]).to(h)[:, None, None])


@wild(lambda: (ids(20, 2, 7),), fresh=[lambda: (ids(20, 3, 4),)])
class GlobalPositions(nn.Module):
    """Sinusoidal positions in a dict of the module's globals, by length and width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down, self.head = (
            nn.Embedding(20, 12),
            nn.Linear(12, 24),
            nn.Linear(24, 12),
            nn.Linear(12, 5),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        key = (x.shape[1], x.shape[2])
        if key not in _POSITIONS:
            angles = torch.arange(key[0])[:, None] / 100 ** (torch.arange(0, key[1], 2) / key[1])
            _POSITIONS[key] = torch.cat([angles.sin(), angles.cos()], -1)
        x = x + _POSITIONS[key].to(x)
        return self.head(x + self.down(F.gelu(self.up(x))))


@wild(IMAGE, leaves_marks=True)
class GlobalCounter(nn.Module):
    """Counts its calls in a global."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        _CALLS["number"] += 1
        return self.conv2(F.relu(self.conv1(x)))


@wild(IMAGE)
class GlobalShapes(nn.Module):
    """Logs the widths it meets into a global list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x))
        _SEEN.append(h.shape[1])
        return self.conv2(h)


@wild(IMAGE)
class ClassCache(nn.Module):
    """A cache on the class, shared by all instances."""

    grids: dict[Any, Tensor] = {}  # noqa: RUF012  as found in the wild

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        key = (*x.shape[2:], str(x.dtype))
        if key not in self.grids:
            rows, columns = torch.meshgrid(torch.linspace(-1, 1, key[0]), torch.linspace(-1, 1, key[1]), indexing="ij")
            type(self).grids[key] = torch.stack([rows, columns]).to(x.dtype)
        h = F.relu(self.conv1(x))
        return self.conv2(torch.cat([h, self.grids[key].expand(len(x), -1, -1, -1)], 1))


@wild(IMAGE)
class DefaultCache(nn.Module):
    """A mutable default argument as a cache of running means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor, _memory: dict[str, Tensor] = {}) -> Tensor:  # noqa: B006  as found in the wild
        h = F.relu(self.conv1(x))
        _memory.setdefault(str(h.dtype), torch.ones((), dtype=h.dtype))
        return self.conv2(h * _memory[str(h.dtype)])


def _closure() -> nn.Module:
    kept: dict[int, Tensor] = {}

    class Closure(nn.Module):
        """The cache is in a closure that only the hook sees."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
            self.conv1.register_forward_hook(remember)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv2(F.relu(self.conv1(x)))

    def remember(module: nn.Module, args: Any, out: Tensor) -> None:
        kept[len(kept)] = out

    return Closure()


wild(IMAGE, name="HookIntoClosure", leaves_marks=True)(_closure)


@wild(IMAGE)
class DequeMemory(nn.Module):
    """The last activations in a deque, nested in a plain object with slots."""

    class Box:
        """Holds a deque."""

        __slots__ = ("items", "marks")

        def __init__(self) -> None:
            self.items: collections.deque[Tensor] = collections.deque(maxlen=3)
            self.marks = {"seen": [0, {"deep": set()}]}

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.box = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), self.Box()
        self.note = types.SimpleNamespace(last=None, inner=[[1, 2]])

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x))
        self.box.items.append(h.detach().mean((0, 2, 3)))
        self.box.marks["seen"][0] += 1  # type: ignore[operator]
        self.box.marks["seen"][1]["deep"].add(len(self.box.items))  # type: ignore[index]
        self.note.last, self.note.inner[0][1] = h, 7
        return self.conv2(h)


@wild(IMAGE)
class Generators(nn.Module):
    """Draws noise from generators of its own: PyTorch's, NumPy's, Python's; and counts with an iterator."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.torch_noise = torch.Generator().manual_seed(1)
        self.numpy_noise, self.python_noise = np.random.default_rng(2), random.Random(3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x) + torch.randn((), generator=self.torch_noise).to(x) * 0
        h = h + float(self.numpy_noise.normal()) * 0 + self.python_noise.random() * 0
        return self.conv2(F.relu(h))


@wild(IMAGE)
class GlobalRandomness(nn.Module):
    """Draws from the process's generators in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = 1 + random.random() + np.random.rand() + torch.rand(()).to(x)
        return self.conv2(F.relu(self.conv1(x) * scale))


@wild(IMAGE)
class GeneratorAttribute(nn.Module):
    """A Python generator and an iterator as attributes: neither can be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.steps, self.ticks = (0.0 for _ in range(10**6)), itertools.count()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(x) + next(self.steps) + 0 * next(self.ticks)))
