"""What people do beside computing: caches, notes, writes into weights, functions that hold modules, code for training only.

WINDOWS[length] ──┐
@lru_cache     ───┼── outlive every call, and every narrowing
self.last = h  ───┘

H the hidden axis.
"""

from __future__ import annotations

import random
import types
from collections import deque
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .idioms import FLAT, Sandwich, along, first, idiom
from .joins import pointwise_layer
from .making import Maker, Shape, block

ANY = ("map", "tokens", "vector", "signal")
WINDOWS: dict[tuple[int, torch.dtype], Tensor] = {}


@lru_cache(maxsize=64)
def ramp(length: int, dtype: torch.dtype) -> Tensor:
    """A table that everybody shares."""
    return torch.linspace(0.5, 1.5, length, dtype=dtype)


def _notes(self: Any, hidden: int) -> None:
    self.last, self.history, self.notes = None, deque(maxlen=2), {"calls": [0]}


def _random_sources(self: Any, hidden: int) -> None:
    self.hidden, self.noise, self.python = hidden, torch.Generator().manual_seed(1), random.Random(2)


def _hidden(self: Any, hidden: int) -> None:
    self.hidden = hidden


def _average(self: Any, hidden: int) -> None:
    self.register_buffer("average", torch.zeros(hidden))


def _closures(self: Any, hidden: int) -> None:
    self.scale = nn.Parameter(torch.empty(hidden))
    self.actions = [lambda h: h * along(self.scale, h, self.axis), partial(torch.clamp, min=-1.0)]


@idiom(weight=3)
def table_in_an_lru_cache(self: Sandwich, h: Tensor) -> Tensor:
    return h * along(ramp(h.shape[self.axis], h.dtype), h, self.axis)


@idiom(weight=3)
def window_in_a_global_dict(self: Sandwich, h: Tensor) -> Tensor:
    key = (h.shape[self.axis], h.dtype)
    if key not in WINDOWS:
        WINDOWS[key] = 0.2 + torch.hann_window(key[0], dtype=h.dtype)
    return h * along(WINDOWS[key], h, self.axis)


@idiom("map", "tokens")
def positions_in_a_global_dict(self: Sandwich, h: Tensor) -> Tensor:
    key = (-h.shape[2 if self.axis == 1 else 1], h.dtype)
    if key not in WINDOWS:
        WINDOWS[key] = torch.linspace(0, 1, -key[0], dtype=h.dtype)
    return h + (WINDOWS[key][:, None])


@idiom(prepare=_notes)
def notes_of_what_went_by(self: Any, h: Tensor) -> Tensor:
    self.last = h.detach()
    self.history.append(h.shape)
    self.notes["calls"][0] += 1
    return h


@idiom(prepare=_notes)
def window_cached_on_the_module(self: Any, h: Tensor) -> Tensor:
    if self.last is None or self.last.shape[0] != h.shape[self.axis]:
        self.last = torch.hann_window(h.shape[self.axis], dtype=h.dtype) + 0.1
    return h * along(self.last, h, self.axis)


@idiom(prepare=_average)
def running_average_in_training(self: Any, h: Tensor) -> Tensor:
    if self.training:
        now = torch.movedim(h.detach(), self.axis, -1).reshape(-1, h.shape[self.axis]).mean(0)
        self.average.mul_(0.9).add_(0.1 * now)
    return h - along(self.average, h, self.axis)


@idiom(prepare=_hidden)
def units_dropped_in_training(self: Any, h: Tensor) -> Tensor:
    if self.training:
        kept = torch.bernoulli(torch.full((self.hidden,), 0.9))
        h = h * along(kept, h, self.axis)
    return h


@idiom(prepare=_random_sources)
def noise_in_training(self: Any, h: Tensor) -> Tensor:
    if self.training and self.python.random() < 2:
        h = h + 0.01 * along(torch.randn(self.hidden, generator=self.noise), h, self.axis)
    return h


@idiom()
def dropped_path_in_training(self: Sandwich, h: Tensor) -> Tensor:
    keep = torch.rand(h.shape[0], *[1] * (h.dim() - 1), dtype=h.dtype, device=h.device).add_(0.9).floor_()
    return h * keep if self.training else h


@idiom()
def clamped_in_place(self: Sandwich, h: Tensor) -> Tensor:
    self.down.weight.data.clamp_(-1.5, 1.5)
    return h


@idiom()
def standardised_in_place(self: Sandwich, h: Tensor) -> Tensor:
    with torch.no_grad():
        self.down.weight.div_(1 + 1e-3 * self.down.weight.abs().amax())
    return h


@idiom()
def written_into_a_slice(self: Sandwich, h: Tensor) -> Tensor:
    h = h.clone()
    first(h, 2, self.axis).mul_(0.5)
    h += 0.1
    return h


@idiom(prepare=_closures)
def functions_that_hold_parameters(self: Any, h: Tensor) -> Tensor:
    for action in self.actions:
        h = action(h)
    return h


@idiom()
def method_of_a_layer(self: Sandwich, h: Tensor) -> Tensor:
    forward = self.down.forward
    return h + 0 * forward(h).sum()


class LambdaLayer(nn.Module):
    """A submodule is called by a function that closes over it, another one by a bound method that was kept."""

    def __init__(self, at: Shape, hidden: int, out: int) -> None:
        super().__init__()
        inner = Shape(at.stream, (*at.space, hidden) if at.axis == -1 else (hidden, *at.space))
        self.up, self.down = pointwise_layer(at, hidden), pointwise_layer(inner, out)
        self.encode = lambda x: F.relu(self.up(x))
        self.decode = self.down.forward

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


@block(*ANY, weight=3)
def layers_behind_functions(make: Maker, at: Shape) -> nn.Module:
    return LambdaLayer(at, make.width(at), make.width(at))


class Holder:
    """A plain object that owns a module, which is nobody's submodule."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer


class Unregistered(nn.Module):
    """A layer in a plain list, one in a plain object."""

    def __init__(self, at: Shape, hidden: int, out: int) -> None:
        super().__init__()
        inner = Shape(at.stream, (*at.space, hidden) if at.axis == -1 else (hidden, *at.space))
        self.first = pointwise_layer(at, hidden)
        self.others = [pointwise_layer(inner, hidden).requires_grad_(False)]
        self.holder = Holder(pointwise_layer(inner, out).requires_grad_(False))

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.first.weight.dtype
        for layer in (*self.others, self.holder.layer):
            layer.to(dtype)
        return self.holder.layer(self.others[0](F.relu(self.first(x))))


@block("vector")
def layers_that_are_not_registered(make: Maker, at: Shape) -> nn.Module:
    return Unregistered(at, make.width(at), make.width(at))


def _halve(module: nn.Module, args: Any, out: Tensor) -> Tensor:
    return 0.5 * out


class Hooked(nn.Module):
    """Hooks change what goes in and what comes out; forward is replaced on one instance."""

    def __init__(self, at: Shape, hidden: int, out: int) -> None:
        super().__init__()
        inner = Shape(at.stream, (*at.space, hidden) if at.axis == -1 else (hidden, *at.space))
        self.up, self.down = pointwise_layer(at, hidden), pointwise_layer(inner, out)
        self.gain = nn.Parameter(torch.empty(hidden))
        self.up.register_forward_hook(_halve)
        self.down.register_forward_pre_hook(lambda module, args: (args[0] * along(self.gain, args[0], at.axis),))
        self.up.forward = types.MethodType(lambda layer, x: F.relu(type(layer).forward(layer, x)), self.up)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x))


@block(*ANY, weight=3)
def layers_with_hooks(make: Maker, at: Shape) -> nn.Module:
    return Hooked(at, make.width(at), make.width(at))


class OneStorage(nn.Module):
    """Two parameters that are views of one tensor, as optimisers flatten them."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        flat = torch.randn(hidden * dim + out * hidden) * dim**-0.5
        self.first = nn.Parameter(flat[: hidden * dim].view(hidden, dim))
        self.second = nn.Parameter(flat[hidden * dim :].view(out, hidden))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, self.first)), self.second)


@block(*FLAT, weight=3)
def parameters_on_one_storage(make: Maker, at: Shape) -> nn.Module:
    return OneStorage(at.channels, make.width(at), make.width(at))


class SharedData(nn.Module):
    """Two layers whose parameters are two objects with the same numbers behind them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up, self.again, self.down = nn.Linear(dim, hidden), nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.again.weight.data = self.up.weight.data

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)) + torch.tanh(self.again(x)))


@block(*FLAT, weight=3)
def parameters_with_the_same_data(make: Maker, at: Shape) -> nn.Module:
    return SharedData(at.channels, make.width(at))


class Checkpointed(nn.Module):
    """The middle is recomputed in backward; autocast and a custom function are on the way."""

    def __init__(self, at: Shape, hidden: int, out: int, style: str) -> None:
        super().__init__()
        inner = Shape(at.stream, (*at.space, hidden) if at.axis == -1 else (hidden, *at.space))
        self.up, self.down, self.style = pointwise_layer(at, hidden), pointwise_layer(inner, out), style

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "checkpoint":
            return self.down(checkpoint(self.up, x, use_reentrant=False).relu())
        if self.style == "functional_call":
            return self.down(torch.func.functional_call(self.up, dict(self.up.named_parameters()), (x,)).relu())
        if self.style == "custom function":
            return self.down(_Swish.apply(self.up(x)))
        with torch.autocast("cpu", enabled=False) if self.style == "autocast" else nullcontext():
            return self.down(F.relu(self.up(x)))


class _Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return grad * (s + x * s * (1 - s))


@block(*ANY, weight=4)
def called_in_other_ways(make: Maker, at: Shape) -> nn.Module:
    styles = ("checkpoint", "functional_call", "custom function", "autocast")
    return Checkpointed(at, make.width(at), make.width(at), make.choose.pick(styles))


class Auxiliary(nn.Module):
    """A head that only training runs, on the trunk's own width; its loss is kept for whoever wants it."""

    def __init__(self, at: Shape, hidden: int, out: int) -> None:
        super().__init__()
        inner = Shape(at.stream, (*at.space, hidden) if at.axis == -1 else (hidden, *at.space))
        self.up, self.down, self.auxiliary = (
            pointwise_layer(at, hidden),
            pointwise_layer(inner, out),
            pointwise_layer(inner, 3),
        )
        self.loss: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.up(x))
        if self.training:
            self.loss = self.auxiliary(h).square().mean()
        return self.down(h)


@block(*ANY, weight=3)
def head_for_training_only(make: Maker, at: Shape) -> nn.Module:
    return Auxiliary(at, make.width(at), make.width(at))


class LimitedEmbedding(nn.Module):
    """An embedding that shortens its rows in place when they are read."""

    def __init__(self, vocabulary: int, dim: int, out: int) -> None:
        super().__init__()
        self.table, self.fc = nn.Embedding(vocabulary, dim, max_norm=1.0), nn.Linear(dim, out)

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.fc(self.table(ids_BT))


@block("ids", to="tokens", weight=2)
def embedding_of_limited_norm(make: Maker, at: Shape) -> nn.Module:
    return LimitedEmbedding(11, make.width(at), make.width(at))
