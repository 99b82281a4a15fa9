"""Every cost is paid for by the modules that cause it, before a plan and after."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.testing import small_network

INPUT = torch.zeros(1, 3, 6, 6)


def test_multiplications_are_paid_for_by_the_module_they_run_in() -> None:
    macs = sc.trace(small_network(), INPUT).cost_by_module("macs")
    assert macs["stem"] == 8 * 3 * 9 * 36
    assert macs["grouped"] == 16 * 4 * 9 * 16
    assert macs["head"] == 6 * 4
    assert macs[""] == 2 * 4 * 16 * 16 * 4  # the attention that the model itself calls: scores and their use


def test_tensors_are_paid_for_by_the_module_that_holds_them() -> None:
    graph = sc.trace(small_network(), INPUT)
    held = {name: sum(p.numel() for p in m.parameters(recurse=False)) for name, m in small_network().named_modules()}
    assert graph.cost_by_module("params") == {name: number for name, number in held.items() if number}


def test_a_module_called_twice_pays_twice_and_shared_weights_are_paid_for_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(self.first(x)))

    graph = sc.trace(Twice(), torch.zeros(1, 8))
    assert graph.cost_by_module("macs") == {"first": 2 * 64, "second": 64}
    assert graph.cost_by_module("params") == {"first": 64 + 8, "second": 8}


@pytest.mark.parametrize(
    "metric", ["macs", "params", "params_without_batchnorm", "weight_bytes", "peak_activation_bytes"]
)
def test_what_a_table_foretells_is_what_a_trace_of_the_narrowed_model_counts(metric: str) -> None:
    model = small_network()
    graph = sc.trace(model, INPUT)
    plan = sc.plan(graph, sc.criteria.L1(), {"macs": "50%"})
    again = sc.trace(sc.apply(model, plan), INPUT)
    assert graph.cost_by_module(metric, plan.sizes) == again.cost_by_module(metric)
    assert sum(again.cost_by_module(metric).values()) == graph.cost(metric, plan.sizes)
