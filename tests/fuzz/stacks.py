"""Lists of blocks that may go whole, and the ways in which code goes through them: ``depth=True`` in `sweep`.

    for layer in self.layers     range(self.num_layers)     enumerate, with the number used     zip(self.layers, self.norms)
    skips.pop() on the way up    a tap behind one layer     a factor by the layer's number      Sequential     a tuple passed on

In most of them any block but one may go. In some the place of a block matters to the others; these must be kept whole, or
the others must get what they would have got.

Invariant: a block's `skipped` says what it gives where its branch is not there; without one, that is its first argument.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from .joins import branch, pointwise_layer
from .making import Maker, Shape, block

ANY = ("map", "tokens", "vector", "signal")


class Layer(nn.Module):
    """What it is given, plus a branch; the sum is written in one of the usual ways."""

    def __init__(self, body: nn.Module, style: str, number: int) -> None:
        super().__init__()
        self.body = body
        self.style = style
        self.layer_idx = number
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        if self.style == "in place":
            out += x
            return out
        if self.style == "into x":
            x += out
            return x
        if self.style == "minus":
            return x - out
        if self.style == "gain":
            return torch.addcmul(x, out, self.gain.expand_as(out))
        return x + out * self.gain if self.style == "scaled" else x + out


STYLES = ("plain", "in place", "into x", "minus", "gain", "scaled")


def layers(make: Maker, at: Shape, style: str | None = None) -> nn.ModuleList:
    """Two to four blocks on one stream."""
    style = style or make.choose.pick(STYLES)
    count = make.choose.integer(2, 4)
    return nn.ModuleList(Layer(branch(make, at, at.channels)[0], style, i) for i in range(count))


class Loop(nn.Module):
    """Goes through its layers."""

    def __init__(self, layers: nn.ModuleList, way: str) -> None:
        super().__init__()
        self.layers = layers
        self.num_layers = len(layers)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "range":
            for i in range(self.num_layers):
                x = self.layers[i](x)
        elif self.way == "slice":
            for layer in self.layers[:-1]:
                x = layer(x)
            x = self.layers[-1](x)
        elif self.way == "checked":
            for i, layer in enumerate(self.layers):
                assert cast(Layer, layer).layer_idx == i
                x = layer(x)
        else:
            for layer in self.layers:
                x = layer(x)
        return x


@block(*ANY, nested=True, weight=6)
def layer_loop(make: Maker, at: Shape) -> nn.Module:
    way = make.choose.pick(("for", "range", "slice", "checked"))
    return Loop(layers(make, at), way)


@block(*ANY, nested=True, weight=5)
def layer_sequence(make: Maker, at: Shape) -> nn.Module:
    return nn.Sequential(*layers(make, at))


class Between(nn.Module):
    """What stands between the layers goes by their numbers."""

    def __init__(self, layers: nn.ModuleList, beside: nn.ModuleList, way: str) -> None:
        super().__init__()
        self.layers = layers
        self.beside = beside
        self.way = way
        self.scales = nn.Parameter(torch.ones(len(layers)))
        self.rates = [1.0 + i / len(layers) for i in range(len(layers))]

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            if self.way == "numbered scale":
                x = x * self.scales[cast(Layer, layer).layer_idx]
            elif self.way == "rates":
                x = x * self.rates[i]
            elif self.way == "every second" and i % 2 == 1:
                x = torch.tanh(x)
            elif self.way == "tap" and i == 1:
                x = torch.sigmoid(x)
            elif self.way == "mean":
                x = x / len(self.layers)
            x = layer(x)
            if self.way == "beside":
                x = self.beside[i](x)
        return x


WAYS_BETWEEN = ("numbered scale", "rates", "every second", "tap", "mean", "beside")


@block(*ANY, nested=True, weight=5)
def layers_by_number(make: Maker, at: Shape) -> nn.Module:
    found = layers(make, at)
    beside = nn.ModuleList(pointwise_layer(at, at.channels) for _ in found)
    return Between(found, beside, make.choose.pick(WAYS_BETWEEN))


class Zipped(nn.Module):
    """Layers and norms in step."""

    def __init__(self, layers: nn.ModuleList, norms: nn.ModuleList) -> None:
        super().__init__()
        self.layers, self.norms = layers, norms

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = norm(layer(x))
        return x


@block(*ANY, nested=True, weight=3)
def layers_zipped(make: Maker, at: Shape) -> nn.Module:
    found = layers(make, at)
    return Zipped(found, nn.ModuleList(pointwise_layer(at, at.channels) for _ in found))


class DownAndUp(nn.Module):
    """Every layer on the way up takes what one on the way down left."""

    def __init__(self, down: nn.ModuleList, up: nn.ModuleList) -> None:
        super().__init__()
        self.down, self.up = down, up

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        for layer in self.up:
            x = layer(x) + torch.tanh(skips.pop())
        return x


@block(*ANY, nested=True, weight=4)
def layers_down_and_up(make: Maker, at: Shape) -> nn.Module:
    down = layers(make, at)
    fewer = make.choose.integer(1, len(down))
    return DownAndUp(down, nn.ModuleList(Layer(branch(make, at, at.channels)[0], "plain", i) for i in range(fewer)))


class Gathered(nn.Module):
    """All that the layers gave is looked at in the end: averaged, or weighed by a number of each."""

    def __init__(self, layers: nn.ModuleList, way: str) -> None:
        super().__init__()
        self.layers = layers
        self.way = way
        self.mix = nn.Parameter(torch.ones(len(layers)))

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        if self.way == "last two":
            return found[-1] + torch.tanh(found[-2])
        if self.way == "weighed":
            return sum((w * t for w, t in zip(self.mix, found, strict=False)), torch.zeros_like(x))
        return torch.stack(found).mean(0)


@block(*ANY, nested=True, weight=4)
def layers_gathered(make: Maker, at: Shape) -> nn.Module:
    return Gathered(layers(make, at), make.choose.pick(("mean", "last two", "weighed")))


class Carrying(nn.Module):
    """A layer that passes on a pair."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        out = self.body(x + torch.tanh(memory))
        return x + out, memory + out

    def skipped(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """What it would give without its branch."""
        return x, memory


class Carried(nn.Module):
    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        memory = torch.zeros_like(x)
        for layer in self.layers:
            x, memory = layer(x, memory)
        return x + memory


@block(*ANY, nested=True, weight=4)
def layers_with_memory(make: Maker, at: Shape) -> nn.Module:
    count = make.choose.integer(2, 3)
    return Carried(nn.ModuleList(Carrying(branch(make, at, at.channels)[0]) for _ in range(count)))


class Dilated(nn.Module):
    """A layer whose number is a number that it calculates with."""

    def __init__(self, body: nn.Module, steps: int) -> None:
        super().__init__()
        self.body = body
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(torch.roll(x, self.steps, 0) / self.steps)


@block(*ANY, nested=True, weight=3)
def layers_that_calculate(make: Maker, at: Shape) -> nn.Module:
    count = make.choose.integer(2, 4)
    return nn.Sequential(*(Dilated(branch(make, at, at.channels)[0], i + 1) for i in range(count)))


class Chosen(nn.Module):
    """Layers of two kinds in one list, one run twice."""

    def __init__(self, layers: nn.ModuleList, twice: int) -> None:
        super().__init__()
        self.layers = layers
        self.twice = twice

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.layers[self.twice](torch.tanh(x))


@block(*ANY, nested=True, weight=3)
def layer_again(make: Maker, at: Shape) -> nn.Module:
    found = layers(make, at)
    return Chosen(found, make.choose.pick((0, 1, -1)))
