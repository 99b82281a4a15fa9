"""Sizes that a model keeps elsewhere than in attributes: they are followed, rewritten, saved and restored."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.errors import PlanError
from secateur.testing import random_plan

X = torch.randn(2, 5, 24)
Pair = namedtuple("Pair", ["heads", "dim"])


class Slots:
    __slots__ = ("dim", "heads")

    def __init__(self) -> None:
        self.heads, self.dim = 4, 8


@dataclass(frozen=True, slots=True)
class FrozenSlots:
    heads: int = 4
    dim: int = 8


class Plain:
    def __init__(self) -> None:
        self.heads, self.dim, self.name = 4, 8, "plain"


class Net(nn.Module):
    """Attention of four heads of eight, whose sizes ``read`` finds in ``settings``."""

    def __init__(self, settings: Any, read: Callable[[Any], tuple[int, int]]) -> None:
        super().__init__()
        self.settings, self.read = settings, read
        self.q, self.k, self.v, self.out = (nn.Linear(24, 32), nn.Linear(24, 32), nn.Linear(24, 32), nn.Linear(32, 6))

    def forward(self, x: Tensor) -> Tensor:
        heads, dim = self.read(self.settings)
        q, k, v = (
            layer(x).view(x.shape[0], x.shape[1], heads, dim).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], heads * dim))


def by_name(settings: Any) -> tuple[int, int]:
    return settings.heads, settings.dim


def by_key(settings: Any) -> tuple[int, int]:
    return settings["heads"], settings["dim"]


KEPT: dict[str, tuple[Callable[[], Any], Callable[[Any], tuple[int, int]]]] = {
    "a dict": (lambda: {"heads": 4, "dim": 8, "act": "relu"}, by_key),
    "an ordered dict": (lambda: OrderedDict(heads=4, dim=8), by_key),
    "a dict in a dict": (lambda: {"attention": {"sizes": [4, 8]}}, lambda s: tuple(s["attention"]["sizes"])),
    "slots": (Slots, by_name),
    "frozen slots": (FrozenSlots, by_name),
    "a plain object": (Plain, by_name),
    "a namespace": (lambda: SimpleNamespace(heads=4, dim=8), by_name),
    "a named tuple": (lambda: Pair(4, 8), tuple),
    "integers of NumPy": (lambda: SimpleNamespace(heads=np.int64(4), dim=np.int32(8)), by_name),
    "a dict of NumPy's": (lambda: {"heads": np.int64(4), "dim": np.int64(8)}, by_key),
}


@pytest.mark.parametrize("kind", KEPT)
def test_sizes_kept_elsewhere_are_followed_and_rewritten(kind: str) -> None:
    make, read = KEPT[kind]
    model = Net(make(), read).eval()
    graph = sc.trace(model, X)
    assert sorted(w.size for w in graph.free) == [4, 8]
    for seed in range(3):
        small: Any = sc.apply(model, random_plan(graph, seed))
        assert read(small.settings)[0] * read(small.settings)[1] == small.out.in_features
        assert type(small.settings) is type(model.settings)
    assert read(model.settings) == (4, 8)


def test_sizes_that_a_class_says_are_said_by_the_narrowed_module_itself() -> None:
    class Attention(nn.Module):
        heads, dim = 4, 8

        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(24, 96), nn.Linear(32, 6)

        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4)
            mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
            return self.out(mixed.transpose(1, 2).reshape(b, n, self.heads * self.dim))

    model = Attention().eval()
    graph = sc.trace(model, X)
    assert sorted(w.size for w in graph.free) == [4, 8]
    small = sc.apply(model, graph.plan({w.name: range(2) for w in graph.free}))
    assert (small.heads, small.dim, Attention.heads, model.heads) == (2, 2, 4, 4)
    assert small(X).shape == (2, 5, 6)


@pytest.mark.parametrize("kind", ["a dict", "a dict in a dict", "frozen slots", "a named tuple"])
def test_what_was_rewritten_is_saved_and_restored(kind: str, tmp_path: Path) -> None:
    make, read = KEPT[kind]
    model = Net(make(), read).eval()
    graph = sc.trace(model, X)
    small = sc.apply(model, graph.plan({w.name: range(1, 3) for w in graph.free}))
    sc.save(small, tmp_path / "small")
    again = sc.restore(Net(make(), read).eval(), tmp_path / "small")
    assert read(again.settings) == (2, 2)
    assert torch.equal(small(X), again(X))
    assert sc.Plan.from_json(graph.plan({}).to_json()) == graph.plan({})


def test_sizes_that_a_class_says_are_restored(tmp_path: Path) -> None:
    class Halves(nn.Module):
        hidden = 12

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(24, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.up(x).reshape(-1, self.hidden).relu())

    model = Halves().eval()
    graph = sc.trace(model, X)
    small = sc.apply(model, graph.plan({"up.out_features": range(5)}))
    assert small.hidden == 5
    sc.save(small, tmp_path / "small")
    assert torch.equal(sc.restore(Halves().eval(), tmp_path / "small")(X), small(X))


def test_a_dict_that_holds_tensors_is_shared_as_it_was() -> None:
    class Writer(nn.Module):
        def __init__(self, cache: dict[str, Any]) -> None:
            super().__init__()
            self.cache, self.up = cache, nn.Linear(24, 12)

        def forward(self, x: Tensor) -> Tensor:
            self.cache["h"] = self.up(x)
            return x

    class Reader(nn.Module):
        def __init__(self, cache: dict[str, Any]) -> None:
            super().__init__()
            self.cache, self.down = cache, nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.cache["h"].relu())

    cache: dict[str, Any] = {"h": torch.zeros(1), "size": 12}
    model = nn.Sequential(Writer(cache), Reader(cache)).eval()
    graph = sc.trace(model, X)
    assert [w.size for w in graph.free] == [12]
    assert sc.verify(model, random_plan(graph, 0), graph).passed


@pytest.mark.parametrize("settings", [{"dim": 8}, {"heads": 5, "dim": 8}, "words"])
def test_a_plan_for_other_settings_is_refused(settings: Any) -> None:
    make, read = KEPT["a dict"]
    graph = sc.trace(Net(make(), read).eval(), X)
    other = Net(settings, lambda _: (4, 8)).eval()
    with pytest.raises(sc.SecateurError) as refused:
        sc.apply(other, graph.plan({w.name: range(2) for w in graph.free}), verify=False)
    assert isinstance(refused.value.__cause__ or refused.value, PlanError)
