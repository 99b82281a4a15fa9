"""One wild model: how to build it, what to call it with, and what else its users do with it.

    @wild(lambda: (floats(2, 3, 8, 8),), also=[…], uses=[lambda m: m.sample(2)])
    class LatentCode(nn.Module): …                       -> ENTRIES["<file>/LatentCode"]

Invariant: `Entry.build` and the inputs depend on the seed alone, so that a second copy is bit for bit the first.
"""

from __future__ import annotations

import contextlib
import importlib.util
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

import secateur as sc


class Between(nn.Module):
    """fc 12, something, fc: ``between`` is what a model of its kind does otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def between(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.between(torch.tanh(self.fc1(x))))


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one call of a model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def on(self, model: nn.Module) -> Any:
        """The model's output."""
        return model(*self.args, **self.kwargs)

    def as_dummy_input(self) -> tuple[Any, ...]:
        """As `trace` takes it: positional arguments, then a dict of the named ones."""
        return (*self.args, self.kwargs)


Inputs = Callable[[], Any]  # a tuple of positional arguments, or a Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """``also``: calls into branches that the example does not take, which the trace is ``told`` or not; ``uses``: what else
    is called on the model; ``fresh``: inputs of the same form with other sizes; ``result``: the part of the output that is
    its interface; ``leaves_marks``: to use it changes what is outside; ``in_order``: a unit counts for those after it, which
    a kept set in order leaves true; ``packages``: where code and globals live that a trace must leave alone.
    """

    name: str
    make: Callable[[], nn.Module]
    example: Inputs
    fresh: tuple[Inputs, ...] = ()
    also: tuple[Inputs, ...] = ()
    uses: tuple[Callable[[nn.Module], Any], ...] = ()
    result: Callable[[Any], Any] = lambda output: output
    packages: tuple[str, ...] = ()
    heavy: bool = False
    training: bool = False
    told: bool = False
    leaves_marks: bool = False
    in_order: bool = False
    why: str = ""

    def build(self) -> nn.Module:
        """The model, always the same; in evaluation mode unless ``training``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(self.name.encode()))
            model = self.make()
            set_mode(model, self.training)
            stir(model)
        return model

    def call(self, inputs: Inputs, seed: int = 0) -> Call:
        """One call of these inputs, always the same for a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = inputs()
        return made if isinstance(made, Call) else Call(made if isinstance(made, tuple) else (made,))

    def dummy_input(self, call: Call) -> Any:
        """What the library is told of the model's inputs: this call, and others."""
        first = call.as_dummy_input()
        also = [self.call(inputs, 4).as_dummy_input() for inputs in self.also] if self.told else []
        return sc.Examples(first, also) if also else first


ENTRIES: dict[str, Entry] = {}


def wild(example: Inputs, *, needs: Sequence[str] = (), name: str = "", **fields: Any) -> Callable[[Any], Any]:
    """Register a class, or a function that returns a model; left out where a package it needs is missing."""

    def register(make: Any) -> Any:
        family = make.__module__.rpartition(".")[2]
        full = f"{family}/{name or make.__name__}"
        assert full not in ENTRIES, full
        if all(importlib.util.find_spec(package) for package in needs):
            fields.update({key: tuple(value) for key, value in fields.items() if isinstance(value, list)})
            ENTRIES[full] = Entry(name=full, make=make, example=example, **fields)
        return make

    return register


def set_mode(model: nn.Module, training: bool) -> None:
    """Training or evaluation mode, where the model knows them."""
    with contextlib.suppress(NotImplementedError):
        model.train(training)


def stir(model: nn.Module) -> None:
    """Constant parameters and fresh running statistics hide mistakes: give them values as training would."""
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if not torch.nn.parameter.is_lazy(p)):
            if (
                parameter.is_floating_point()
                and parameter.numel() > 1
                and bool((parameter == parameter.flatten()[0]).all())
            ):
                parameter += 0.1 * torch.randn(parameter.shape).to(parameter)
        for module in model.modules():
            if isinstance(module, _NormBase) and isinstance(module.running_mean, Tensor):
                module.running_mean += 0.3 * torch.randn(module.running_mean.shape).to(module.running_mean)
                assert module.running_var is not None
                module.running_var *= 0.5 + torch.rand(module.running_var.shape).to(module.running_var)


def floats(*shape: int) -> Tensor:
    """Normally distributed numbers."""
    return torch.randn(*shape)


def ids(high: int, *shape: int) -> Tensor:
    """Random integers below ``high``."""
    return torch.randint(0, high, shape)
