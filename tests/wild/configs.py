"""Where people keep their sizes: dicts, slots, classes, NumPy, text, buffers, closures, layers, parents."""

from __future__ import annotations

import argparse
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
ROWS = lambda: (floats(4, 6),)
TOKENS = lambda: (floats(2, 5, 12),)


class _Attention(nn.Module):
    """One attention and a head; where the sizes come from is what differs."""

    def __init__(self, dim: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), nn.Linear(dim, 4)

    def sizes(self) -> tuple[Any, Any]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        heads, size = self.sizes()
        q, k, v = self.qkv(x).view(x.shape[0], x.shape[1], 3, heads, size).permute(2, 0, 3, 1, 4)
        return self.head(self.out((q @ k.mT).softmax(-1).matmul(v).transpose(1, 2).reshape(*x.shape[:2], heads * size)))


@wild(TOKENS)
class ConfigDict(_Attention):
    """`self.cfg["heads"]`."""

    def __init__(self) -> None:
        super().__init__()
        self.cfg = {"heads": 3, "dim": 12, "nested": {"size": 4}}

    def sizes(self) -> tuple[Any, Any]:
        return self.cfg["heads"], self.cfg["nested"]["size"]  # type: ignore[index]


class SlotsConfig:
    """No `__dict__`."""

    __slots__ = ("heads", "size")

    def __init__(self) -> None:
        self.heads, self.size = 3, 4


@wild(TOKENS)
class ConfigSlots(_Attention):
    """`self.c.heads` of an object with slots."""

    def __init__(self) -> None:
        super().__init__()
        self.c = SlotsConfig()

    def sizes(self) -> tuple[Any, Any]:
        return self.c.heads, self.c.size


@wild(TOKENS)
class ConfigClassAttribute(_Attention):
    """Sizes as class attributes."""

    heads = 3
    size = 4

    def sizes(self) -> tuple[Any, Any]:
        return self.heads, self.size


@wild(TOKENS)
class ConfigClass(_Attention):
    """A class used as a namespace."""

    class hparams:
        """Constants."""

        heads, size = 3, 4

    def sizes(self) -> tuple[Any, Any]:
        return self.hparams.heads, self.hparams.size


@dataclass(frozen=True)
class FrozenConfig:
    """Nobody may set it."""

    heads: int = 3
    widths: tuple[int, ...] = (12, 4)
    inner: dict[str, int] = field(default_factory=lambda: {"size": 4})

    @property
    def size(self) -> int:
        """Derived."""
        return self.widths[0] // self.heads


@wild(TOKENS)
class ConfigFrozen(_Attention):
    """A frozen dataclass with a derived property."""

    def __init__(self) -> None:
        super().__init__()
        self.config = FrozenConfig()

    def sizes(self) -> tuple[Any, Any]:
        return self.config.heads, self.config.size


@wild(TOKENS)
class ConfigNumpy(_Attention):
    """NumPy integers and an array of them."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.all = np.int64(3), np.array([12, 4])

    def sizes(self) -> tuple[Any, Any]:
        return int(self.heads), self.all[1]


@wild(TOKENS)
class ConfigStrings(_Attention):
    """Sizes as text, as an argparse namespace would have them."""

    def __init__(self) -> None:
        super().__init__()
        self.args = argparse.Namespace(heads="3", dims="12,4")

    def sizes(self) -> tuple[Any, Any]:
        return int(self.args.heads), int(self.args.dims.split(",")[1])


@wild(TOKENS)
class ConfigBuffer(_Attention):
    """Sizes in an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shape", torch.tensor([3, 4]))

    def sizes(self) -> tuple[Any, Any]:
        return int(self.shape[0]), self.shape[1].item()


@wild(TOKENS)
class ConfigProxy(_Attention):
    """A read-only mapping, and a subclass of dict with attributes."""

    class Attributes(dict[str, Any]):
        """Dot access."""

        __getattr__ = dict.__getitem__  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.config: Mapping[str, int] = types.MappingProxyType({"heads": 3})
        self.more = self.Attributes(size=4)

    def sizes(self) -> tuple[Any, Any]:
        return self.config["heads"], self.more.size


@wild(TOKENS)
class ConfigClosure(_Attention):
    """Sizes known to a function only."""

    def __init__(self) -> None:
        super().__init__()
        heads = 3
        self.get: Callable[[], tuple[int, int]] = lambda: (heads, 12 // heads)

    def sizes(self) -> tuple[Any, Any]:
        return self.get()


@wild(TOKENS)
class ConfigFromLayers(_Attention):
    """`self.out.in_features // 3`, `self.qkv.weight.shape[0]`."""

    def sizes(self) -> tuple[Any, Any]:
        return 3, self.out.in_features // 3


@wild(TOKENS)
class ConfigFromWeight(_Attention):
    """Sizes read from a weight."""

    def sizes(self) -> tuple[Any, Any]:
        return 3, self.qkv.weight.shape[0] // 9


@wild(TOKENS)
class ConfigParent(nn.Module):
    """A child asks its parent through a list (no cycle in the module tree)."""

    class Child(nn.Module):
        """Knows its parent."""

        def __init__(self, parent: nn.Module) -> None:
            super().__init__()
            self.parent = [parent]
            self.fc1, self.fc2 = nn.Linear(12, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.fc1(x).view(*x.shape[:2], self.parent[0].groups, -1)
            return self.fc2(F.normalize(h, dim=-1).flatten(2))

    def __init__(self) -> None:
        super().__init__()
        self.groups = 3
        self.child = self.Child(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x)
