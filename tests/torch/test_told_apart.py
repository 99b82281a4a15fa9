"""What a proof leaves open is told: arguments in structures, loops that went round once, values, setters, bound functions."""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Rounds(nn.Module):
    """A step that is taken as often as ``count`` makes of the second argument."""

    def __init__(self, count: Callable[[Any], int]) -> None:
        super().__init__()
        self.leaf, self.step, self.out = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.count = count

    def forward(self, x: Tensor, given: Any) -> Tensor:
        h = self.leaf(x)
        for _ in range(self.count(given)):
            h = self.step(h).tanh()
        return self.out(h)


@dataclasses.dataclass
class Options:
    rounds: int = 1


class Row(NamedTuple):
    rounds: int = 1


class Level(enum.IntEnum):
    LOW = 1


_GIVEN: dict[str, tuple[Callable[[Any], int], Any, str]] = {
    "entry": (lambda o: o["rounds"], {"rounds": 1}, "given['rounds']=1"),
    "deep": (lambda o: o["a"]["n"], {"a": {"n": 1}}, "given['a']['n']=1"),
    "dataclass": (lambda o: o.rounds, Options(), "given.rounds=1"),
    "namespace": (lambda o: o.rounds, SimpleNamespace(rounds=1), "given.rounds=1"),
    "row": (lambda o: o.rounds, Row(), "given=Row(rounds=1)"),
    "enum": (int, Level.LOW, "given=<Level.LOW: 1>"),
    "float": (int, 1.0, "given=1.0"),
    "numpy": (int, np.int64(1), "given="),
    "words": (len, ["a"], "given=['a']"),
    "range": (len, range(1), "given=range(0, 1)"),
    "function": (lambda o: o(), lambda: 1, "given=<function"),
}


def told(model: nn.Module, *given: Any) -> str:
    """What a proof of some plan leaves open."""
    graph = sc.trace(model, given)
    plan = graph.plan({width.name: range(width.size // 2) for width in graph.free})
    return " ".join(sc.verify(model, plan, graph).notes)


@pytest.mark.parametrize("how", _GIVEN)
def test_whatever_is_no_tensor_in_an_argument_is_named_with_its_value(how: str) -> None:
    count, given, words = _GIVEN[how]
    model = Rounds(count).eval()
    graph = sc.trace(model, (X, given, {}))
    if not graph.free:
        return
    plan = graph.plan({width.name: range(width.size // 2) for width in graph.free})
    notes = " ".join(sc.verify(model, plan, graph).notes)
    assert words in notes
    assert "loops that went round once: Rounds.forward" in notes


def test_tensors_inside_structures_are_not_named_as_values() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, batch: dict[str, Any]) -> Tensor:
            return self.last(self.first(batch["x"]).relu())

    assert "batch" not in told(Net().eval(), {"x": X}, {})


def test_a_loop_over_layers_or_one_that_goes_on_is_not_named() -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.out = nn.ModuleList([nn.Linear(6, 12)]), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            for _ in range(2):
                x = x.tanh()
            return self.out(x)

    assert "loops" not in told(Stack().eval(), X)


def test_values_that_the_code_goes_by_are_told() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.leaf, self.out = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            k = 12 - 6 * int(x.max() > 99)
            return nn.functional.linear(self.leaf(x)[:, :k], self.out.weight[:, :k], self.out.bias)

    graph = sc.trace(Cut(), X)
    assert not graph.free or "the code reads values" in told(Cut().eval(), X)


def test_a_method_that_sets_what_forward_reads_is_named() -> None:
    class Slim(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.leaf, self.out, self.scale, self.unread = nn.Linear(6, 12), nn.Linear(12, 3), 1.0, 0

        def rescale(self, scale: float) -> None:
            self.scale = scale

        def remember(self, number: int) -> None:
            self.unread = number

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.leaf(x) * self.scale)

    notes = told(Slim().eval(), X)
    assert "Slim.rescale" in notes
    assert "remember" not in notes


def _mirrored(self: Any, x: Tensor) -> Tensor:
    return self.out(self.leaf(x).flip(1))


class Sampler:
    """Holds the model, and uses parts of it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def sample(self, x: Tensor) -> Tensor:
        return self.model.out(self.model.leaf(x).flip(1))

    def name(self) -> str:
        return "sampler"


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda model: types.MethodType(_mirrored, model), "Plain.other"),
        (lambda model: functools.partial(_mirrored, model), "Plain.other"),
        (Sampler, "Sampler.sample"),
    ],
)
def test_functions_bound_to_the_model_and_objects_that_hold_it_are_named(made: Any, named: str) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.leaf, self.out = nn.Linear(6, 12), nn.Linear(12, 3)
            self.other = made(self)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.leaf(x).relu())

    notes = told(Plain().eval(), X)
    assert named in notes
    assert "Sampler.name" not in notes
