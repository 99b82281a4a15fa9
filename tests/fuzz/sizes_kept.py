"""Where code keeps the sizes that it views with: every place but a plain integer attribute.

    h.view(…, self.cfg["heads"], -1)     a dict, slots, a class attribute, a NumPy integer, a string, another module

N heads, D numbers each, H = N·D the hidden axis.
"""

from __future__ import annotations

import enum
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .idioms import FLAT, idiom
from .making import Maker, Shape, block

Settings = namedtuple("Settings", ["heads", "dim"])
REGISTRY: dict[int, tuple[int, int]] = {}


class Slots:
    """No dict."""

    __slots__ = ("dim", "heads")

    def __init__(self, heads: int, dim: int) -> None:
        self.heads, self.dim = heads, dim


@dataclass(frozen=True)
class Frozen:
    """A frozen dataclass."""

    heads: int
    dim: int


class Option:
    """A plain object that computes what it is asked for."""

    def __init__(self, heads: int, dim: int) -> None:
        self._sizes = {"heads": heads, "dim": dim}

    @property
    def heads(self) -> int:
        return self._sizes["heads"]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._sizes[name]


def per_head(h: Tensor, heads: int, dim: int) -> Tensor:
    """Each head on its own scale, as attention would have it."""
    parts = h.view(*h.shape[:-1], heads, dim)
    parts = parts / (1 + parts.abs().sum(-1, keepdim=True))
    return parts.flatten(-2) if dim == -1 else parts.reshape(*h.shape[:-1], heads * dim)


Keep = Callable[[nn.Module, int, int], None]
Read = Callable[[Any], tuple[int, int]]


def kept(keep: Keep, read: Read) -> None:
    """A block that keeps N and D by one function and reads them by the other; named after the first."""
    name = keep.__name__.strip("_")

    def prepare(self: Any, hidden: int) -> None:
        heads = next(n for n in (4, 3, 2) if hidden % n == 0)
        keep(self, heads, hidden // heads)

    def between(self: Any, h: Tensor) -> Tensor:
        return per_head(h, *read(self))

    between.__name__ = f"sizes_in_{name}"
    idiom(*FLAT, prepare=prepare, multiple=12)(between)


def _a_dict(self: Any, heads: int, dim: int) -> None:
    self.cfg = {"heads": heads, "dim": dim}


def _a_nested_dict(self: Any, heads: int, dim: int) -> None:
    self.cfg = {"model": {"sizes": [heads, dim]}}


def _slots(self: Any, heads: int, dim: int) -> None:
    self.slots = Slots(heads, dim)


def _a_frozen_dataclass(self: Any, heads: int, dim: int) -> None:
    self.settings = Frozen(heads, dim)


def _a_named_tuple(self: Any, heads: int, dim: int) -> None:
    self.settings = Settings(heads, dim)


def _numpy_integers(self: Any, heads: int, dim: int) -> None:
    self.heads, self.dim = np.int64(heads), np.int32(dim)


def _a_numpy_array(self: Any, heads: int, dim: int) -> None:
    self.sizes = np.array([heads, dim])


def _a_string(self: Any, heads: int, dim: int) -> None:
    self.spec = f"heads={heads},dim={dim}"


def _strings(self: Any, heads: int, dim: int) -> None:
    self.heads, self.dim = str(heads), str(dim)


def _floats(self: Any, heads: int, dim: int) -> None:
    self.heads, self.dim = float(heads), float(dim)


def _a_torch_size(self: Any, heads: int, dim: int) -> None:
    self.shape = torch.Size([heads, dim])


def _a_buffer(self: Any, heads: int, dim: int) -> None:
    self.register_buffer("sizes", torch.tensor([heads, dim]))


def _a_proxy(self: Any, heads: int, dim: int) -> None:
    self.sizes = MappingProxyType({"heads": heads, "dim": dim})


def _a_partial(self: Any, heads: int, dim: int) -> None:
    self.sizes = partial(tuple, (heads, dim))


def _a_closure(self: Any, heads: int, dim: int) -> None:
    self.sizes = lambda: (heads, dim)


def _a_default_argument(self: Any, heads: int, dim: int) -> None:
    def sizes(heads: int = heads, dim: int = dim) -> tuple[int, int]:
        return heads, dim

    self.sizes = sizes


def _properties(self: Any, heads: int, dim: int) -> None:
    self.option = Option(heads, dim)


def _an_enum(self: Any, heads: int, dim: int) -> None:
    self.sizes = enum.Enum("Sizes", {"HEADS": heads, "DIM": dim + 1000})


def _a_class_attribute(self: Any, heads: int, dim: int) -> None:
    self.__class__ = type("WithSizes", (type(self),), {"heads": heads, "dim": dim})


def _a_global(self: Any, heads: int, dim: int) -> None:
    REGISTRY[heads * dim] = (heads, dim)


def _a_private_attribute(self: Any, heads: int, dim: int) -> None:
    self._heads, self._dim = heads, dim


def _a_tuple_in_a_namespace(self: Any, heads: int, dim: int) -> None:
    self.space = SimpleNamespace(sizes=((heads, dim), 1))


def _a_set_of_one(self: Any, heads: int, dim: int) -> None:
    self.heads, self.dims = heads, {dim}


def _a_boolean_list(self: Any, heads: int, dim: int) -> None:
    self.each = [[True] * dim for _ in range(heads)]


kept(_a_dict, lambda self: (self.cfg["heads"], self.cfg["dim"]))
kept(_a_nested_dict, lambda self: tuple(self.cfg["model"]["sizes"]))
kept(_slots, lambda self: (self.slots.heads, self.slots.dim))
kept(_a_frozen_dataclass, lambda self: (self.settings.heads, self.settings.dim))
kept(_a_named_tuple, lambda self: self.settings)
kept(_numpy_integers, lambda self: (self.heads, self.dim))
kept(_a_numpy_array, lambda self: self.sizes)
kept(_a_string, lambda self: tuple(int(part.split("=")[1]) for part in self.spec.split(",")))
kept(_strings, lambda self: (int(self.heads), int(self.dim)))
kept(_floats, lambda self: (int(self.heads), int(self.dim)))
kept(_a_torch_size, lambda self: self.shape)
kept(_a_buffer, lambda self: self.sizes.tolist())
kept(_a_proxy, lambda self: (self.sizes["heads"], self.sizes["dim"]))
kept(_a_partial, lambda self: self.sizes())
kept(_a_closure, lambda self: self.sizes())
kept(_a_default_argument, lambda self: self.sizes())
kept(_properties, lambda self: (self.option.heads, self.option.dim))
kept(_an_enum, lambda self: (self.sizes.HEADS.value, self.sizes.DIM.value - 1000))
kept(_a_class_attribute, lambda self: (self.heads, self.dim))
kept(_a_global, lambda self: REGISTRY[self.up.out_features])
kept(_a_private_attribute, lambda self: (self._heads, self._dim))
kept(_a_tuple_in_a_namespace, lambda self: self.space.sizes[0])
kept(_a_set_of_one, lambda self: (self.heads, next(iter(self.dims))))
kept(_a_boolean_list, lambda self: (len(self.each), len(self.each[0])))


def _heads_only(self: Any, heads: int, dim: int) -> None:
    self.heads = heads


def _the_layer_above(self: Any, heads: int, dim: int) -> None:
    self.heads = heads


def _the_layer_below(self: Any, heads: int, dim: int) -> None:
    self.heads = heads


def _the_shape_of_a_weight(self: Any, heads: int, dim: int) -> None:
    self.heads = heads


kept(_heads_only, lambda self: (self.heads, -1))
kept(_the_layer_above, lambda self: (self.heads, self.up.out_features // self.heads))
kept(_the_layer_below, lambda self: (self.heads, self.down.in_features // self.heads))
kept(_the_shape_of_a_weight, lambda self: (self.heads, self.up.weight.shape[0] // self.heads))


class EmbeddedSize(nn.Module):
    """Views by the embedding's and the norm's own sizes."""

    def __init__(self, dim: int, out: int, heads: int) -> None:
        super().__init__()
        self.up, self.norm = nn.Linear(dim, heads * 3), nn.LayerNorm(heads * 3)
        self.table, self.down, self.heads = nn.Embedding(5, heads * 3), nn.Linear(heads * 3, out), heads

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.up(x)) + self.table.weight[1]
        h = h.reshape(*h.shape[:-1], self.heads, self.table.embedding_dim // self.heads).tanh()
        return self.down(h.reshape(*h.shape[:-2], self.norm.normalized_shape[0]))


@block(*FLAT)
def sizes_of_embedding_and_norm(make: Maker, at: Shape) -> nn.Module:
    return EmbeddedSize(at.channels, make.width(at), make.choose.integer(2, 4))


class NormSize(nn.Module):
    """A map viewed by the number of features of its norm."""

    def __init__(self, dim: int, hidden: int, out: int, instance: bool) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, out, 1)
        self.norm = (nn.InstanceNorm2d if instance else nn.BatchNorm2d)(hidden, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.up(x))
        return self.down(h.flatten(2).softmax(-1).view(h.shape[0], self.norm.num_features, *h.shape[2:]))


@block("map", when=lambda at: min(at.space) > 1)
def sizes_of_a_norm(make: Maker, at: Shape) -> nn.Module:
    return NormSize(at.channels, make.width(at), make.width(at), make.choose.chance(60))


class KeptForLater(nn.Module):
    """One method notes a size, another one uses it."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(dim, hidden), nn.Linear(hidden, out)
        self.latent = 0

    def encode(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        self.latent = h.shape[-1]
        return h

    def sample(self, like: Tensor) -> Tensor:
        return torch.full((self.latent,), 0.25, dtype=like.dtype, device=like.device)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encode(x)
        return self.decoder(torch.tanh(h) + self.sample(h))


@block(*FLAT, weight=3)
def size_kept_for_a_later_method(make: Maker, at: Shape) -> nn.Module:
    return KeptForLater(at.channels, make.width(at), make.width(at))


class CellSize(nn.Module):
    """The state of a cell is made from the cell's own hidden_size."""

    def __init__(self, cell: nn.Module, out: int) -> None:
        super().__init__()
        self.cell: Any = cell
        self.head = nn.Linear(self.cell.hidden_size, out)

    def forward(self, x_BTC: Tensor) -> Tensor:
        h = x_BTC.new_zeros(x_BTC.shape[0], self.cell.hidden_size)
        c = torch.zeros_like(h)
        for step in x_BTC.unbind(1):
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(step, (h, c))
            else:
                h = self.cell(step, h)
        return self.head(F.dropout(h, 0.1, self.training))


@block("tokens", to="vector", when=lambda at: at.sizes[0] <= 8, weight=3)
def state_from_hidden_size(make: Maker, at: Shape) -> nn.Module:
    cell = make.choose.pick((nn.GRUCell, nn.LSTMCell, nn.RNNCell))
    return CellSize(cell(at.channels, make.width(at, high=12)), make.width(at))
