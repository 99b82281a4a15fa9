"""Training that leaves layers out by lot: a shallower network draws otherwise, which is no disagreement."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.torch.apply import verification_of

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Adds(nn.Module):
    """A layer around a shortcut, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class LayerDrop(nn.Module):
    """In training later layers are left out more often. ``lies``: there it counts, too, where a layer stands."""

    def __init__(self, draw: Callable[[LayerDrop], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.layers = nn.ModuleList(Adds() for _ in range(4))
        self.draw, self.own, self.held = draw, np.random.default_rng(0), torch.Generator().manual_seed(0)
        self.lies = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for i, layer in enumerate(self.layers):
            if self.training and self.draw(self) < i / 4:
                continue
            x = layer(x * (1 + i) if self.lies and self.training else x)
        return self.last(x)


DRAWS: dict[str, Callable[[LayerDrop], Any]] = {
    "an item": lambda net: torch.rand(1).item(),
    "a tensor": lambda net: torch.rand(()),
    "a held generator": lambda net: torch.rand(1, generator=net.held),
    "a coin": lambda net: 1 - torch.bernoulli(torch.tensor(0.7)).item(),
    "whole numbers": lambda net: torch.randint(0, 100, ()).item() / 100,
    "random": lambda net: random.random(),
    "numpy": lambda net: np.random.rand(),
    "numpy's own": lambda net: net.own.random(),
}


def _never(net: LayerDrop) -> float:
    """Nothing is drawn, and no layer left out."""
    return 1.0


def _without(model: LayerDrop, block: str, *, lies: bool = False) -> sc.Verification:
    model.eval()
    plan = sc.trace(model, X, depth=True).plan({block: ()})
    model.lies = lies
    found = verification_of(sc.apply(model, plan))
    assert found is not None
    return found


@pytest.mark.parametrize("kind", DRAWS)
def test_layers_left_out_by_lot_are_no_disagreement_and_what_was_not_compared_is_said(kind: str) -> None:
    found = [_without(LayerDrop(DRAWS[kind]), f"layers.{i}") for i in range(4)]
    for one in found:
        compared = one.comparisons[-1].mode == "training"
        assert compared is not any(note.startswith("training: its code goes by random numbers") for note in one.notes)
        assert one.comparisons[-1].gradients  # in evaluation, where not in training
    assert any(one.comparisons[-1].mode == "evaluation" for one in found)


def test_dropout_alone_is_compared_in_training() -> None:
    assert _without(LayerDrop(_never), "layers.1").comparisons[-1].mode == "training"


@pytest.mark.parametrize("block", ["layers.0", "layers.2"])
def test_what_training_does_with_places_is_found_where_nothing_but_dropout_draws(block: str) -> None:
    with pytest.raises(sc.VerificationError, match="in training") as caught:
        _without(LayerDrop(_never), block, lies=True)
    assert caught.value.widths == (block,)


def test_units_that_go_are_compared_in_training_whatever_is_left_out_by_lot() -> None:
    model = LayerDrop(DRAWS["an item"]).eval()
    plan = sc.trace(model, X).plan({"layers.0.body.0.out_features": range(6)})
    found = verification_of(sc.apply(model, plan))
    assert found is not None
    assert found.comparisons[-1].mode == "training"
