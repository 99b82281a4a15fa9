"""After a subnet nothing of it is left: not in parameters that stay whole, nor in caches of functions."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import secateur as sc

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, ones: Callable[[nn.Linear], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.ones, self.first, self.last = ones, nn.Linear(4, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu() * self.ones(self.first))


@functools.lru_cache(None)
def cached(layer: nn.Linear) -> Tensor:
    return torch.ones(layer.out_features)


def test_what_a_function_kept_of_a_subnet_is_gone_after_it() -> None:
    model = Net(cached).eval()
    plan = sc.plan(sc.trace(model, X), "l1", {"params": "60%"})
    with sc.subnet(model, plan) as small:
        assert small(X).shape == (5, 2)
        assert small.first.out_features < 12
    assert model(X).shape == (5, 2)


def test_what_a_function_kept_of_the_whole_is_no_answer_inside() -> None:
    model = Net(cached).eval()
    plan = sc.plan(sc.trace(model, X), "l1", {"params": "60%"})
    whole = model(X)
    with sc.subnet(model, plan):
        assert model(X).shape == (5, 2)
    assert torch.equal(model(X), whole)


@pytest.mark.parametrize("shared", [False, True])
def test_a_step_inside_reaches_the_models_own_parameters_only_where_they_are_shared(shared: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = sc.plan(sc.trace(model, X), "l1", {"params": "60%"})
    with sc.subnet(model, plan, shared=shared):
        model(X).sum().backward()
        if not shared:
            torch.optim.SGD(model.parameters(), 0.1).step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert any(p.grad is not None for p in model.parameters()) == shared
