"""Hooks and tensors that hang on a parameter: nothing that narrows it can know what they would do with fewer units."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
MODES: list[tuple[str, dict[str, Any]]] = [
    ("magnitude", {}),
    ("gradnas", {"data_loader": [X], "loss_func": lambda output, _: output.square().mean()}),
    ("progressive", {"data_loader": [X, X], "loss_func": lambda output, _: output.square().mean()}),
]


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.heard: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).relu()).relu())

    def hook(self) -> torch.utils.hooks.RemovableHandle:
        """The first layer does not learn, and its bias says when it has a gradient."""
        self.first.bias.register_post_accumulate_grad_hook(lambda _: self.heard.append("post"))
        return self.first.weight.register_hook(lambda gradient: gradient * 0)


@pytest.mark.parametrize(("mode", "config"), MODES)
def test_hooks_of_parameters_stay_and_what_they_sit_on_stays_whole(mode: str, config: dict[str, Any]) -> None:
    model = Hooked()
    handle = model.hook()
    graph = sc.trace(model, X)
    assert "register_hook" in (graph["first.out_features"].frozen or "")
    assert graph["second.out_features"].frozen is None
    sc.prune(model, mode, {"params": "80%"}, X, config)
    assert (model.first.out_features, model.heard) == (12, [])
    assert model.second.out_features < 12
    model(X).sum().backward()
    assert model.first.weight.grad is not None
    assert (float(model.first.weight.grad.abs().sum()), model.heard) == (0.0, ["post"])
    handle.remove()
    model(X).sum().backward()
    assert float(model.first.weight.grad.abs().sum()) > 0


def test_a_copy_has_the_hooks_too() -> None:
    model = Hooked()
    model.hook()
    graph = sc.trace(model, X)
    small = sc.apply(model, sc.plan(graph, "l1", {"params": "80%"}))
    small(X).sum().backward()
    assert small.first.weight is not model.first.weight
    assert float(small.first.weight.grad.abs().sum()) == 0
    assert model.heard == ["post"]


def test_a_tensor_that_hangs_on_a_parameter_keeps_it_whole() -> None:
    model = Hooked()
    bare = sc.trace(copy.deepcopy(model), X)
    model.first.weight.lr_scale = torch.ones(12, 6)
    model.second.weight.role = "second"
    graph = sc.trace(model, X)
    assert bare["first.out_features"].frozen is None
    assert "first.weight.lr_scale, a tensor of its shape" in (graph["first.out_features"].frozen or "")
    assert graph["second.out_features"].frozen is None
