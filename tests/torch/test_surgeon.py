"""`brain_surgeon`: what a unit's going costs once its readers are fitted anew, one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.criteria import BrainSurgeon, Data, GateGradient, make
from secateur.torch.criteria import surgeon

ROWS = 2048


def two_layers(units: int = 6, inputs: int = 12) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, 3))


def twin(layer: nn.Linear | nn.Conv2d, one: int, other: int) -> None:
    with torch.no_grad():
        layer.weight[other], layer.bias[other] = layer.weight[one], layer.bias[one]  # type: ignore[index]


def scored(model: nn.Module, x: torch.Tensor, criterion: GateGradient, classes: int = 3) -> np.ndarray:
    torch.manual_seed(1)
    data = Data(loader=list(zip(x.split(512), torch.randint(0, classes, (len(x),)).split(512), strict=True)))
    return make(criterion, data)(sc.trace(model, x[:2]), model)["0.out_features"]


def test_of_twins_the_first_to_go_costs_little_and_the_second_what_both_are_worth() -> None:
    model, x = two_layers(), torch.randn(ROWS, 12)
    alone = scored(model, x, BrainSurgeon())[0]
    model = two_layers(7)
    with torch.no_grad():
        for mine, theirs in zip(model.parameters(), two_layers().parameters(), strict=True):
            mine.zero_()[tuple(slice(size) for size in theirs.shape)] = theirs
        model[2].weight[:, 6] = model[2].weight[:, 0] / 2
        model[2].weight[:, 0] /= 2
    twin(model[0], 0, 6)
    costs = scored(model, x, BrainSurgeon())
    assert min(costs[[0, 6]]) < 0.1 * alone
    assert max(costs[[0, 6]]) == pytest.approx(alone, rel=0.3)


def test_nothing_that_goes_later_costs_less() -> None:
    model, x = two_layers(24), torch.randn(ROWS, 12)
    plain, costs = scored(model, x, GateGradient()), scored(model, x, BrainSurgeon())
    assert costs.min() >= 0
    assert costs.sum() < plain.sum()  # others stand in for most of it


def test_costs_are_those_of_least_squares_where_the_loss_is_a_square() -> None:
    """Of a linear reader and independent rows the first cost is what a regression leaves, weighed by what comes back."""
    model, x = two_layers(), torch.randn(ROWS, 12)
    hidden = model[:2](x).detach().double()
    hidden = hidden - hidden.mean(0)
    torch.manual_seed(1)
    y = torch.randint(0, 3, (ROWS,))
    z = model(x)
    back = torch.autograd.grad(nn.functional.cross_entropy(z, y, reduction="sum"), z)[0] @ model[2].weight.detach()
    left = []
    for unit in range(6):
        others = np.delete(hidden.numpy(), unit, 1)
        told = others @ np.linalg.lstsq(others, hidden[:, unit].numpy(), rcond=None)[0]
        left.append((hidden[:, unit].numpy() - told).var() * float(back[:, unit].square().mean()))
    costs = scored(model, x, BrainSurgeon())
    first = int(np.argmin(left))
    assert int(costs.argmin()) == first
    plain = scored(model, x, GateGradient())
    raw = (model[:2](x).detach().double().square().mean(0) * back.double().square().mean(0)).sum()
    assert costs[first] == pytest.approx(left[first] * plain.sum() / float(raw), rel=0.1)


def test_of_grouped_convolutions_only_the_own_group_stands_in() -> None:
    def cheapest(one: int, other: int) -> float:
        torch.manual_seed(0)
        convolutions = nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Conv2d(8, 8, 1, groups=2)
        model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(128, 2))
        twin(convolutions[0], one, other)
        x, y = torch.randn(256, 3, 4, 4), torch.randint(0, 2, (256,))
        scores = make(BrainSurgeon(), Data(loader=[(x, y)]))(sc.trace(model, x[:2]), model)
        (own,) = (values for name, values in scores.items() if values.size == 8 and name.startswith("0."))
        return float(own.min())

    assert cheapest(1, 2) < 0.2 * cheapest(1, 6)


def test_several_pieces_are_held_against_themselves_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = two_layers(), torch.randn(ROWS, 12)
    twin(model[0], 0, 5)
    together = scored(model, x, BrainSurgeon())
    monkeypatch.setattr(surgeon, "_WIDEST", 3)
    monkeypatch.setattr(surgeon, "_FEWEST", 1)
    apart = scored(model, x, BrainSurgeon())
    assert together[[0, 5]].min() < 0.1 * apart[[0, 5]].min()


def test_memory_is_bounded_by_holding_fewer_against_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = two_layers(64), torch.randn(ROWS, 12)
    graph = sc.trace(model, x[:2])
    monkeypatch.setattr(surgeon, "_ROOM", 64 * 2 * 16)
    parts = surgeon._looked_at(BrainSurgeon(data_loader=[(x, torch.randint(0, 3, (ROWS,)))]), graph, model)
    held = sum(part.inputs_FF.numel() + part.back_FF.numel() for some in parts.values() for part in some)
    assert held <= 64 * 2 * 16


def test_what_no_contraction_reads_keeps_its_gate_gradient() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 5)
            self.head = nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            attention = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2), dim=-1)
            return self.head((attention @ self.value(x)).mean(1))

    torch.manual_seed(0)
    model, x = Attention(), torch.randn(64, 7, 6)
    graph, data = sc.trace(model, x[:2]), Data(loader=[(x, torch.randint(0, 3, (64,)))])
    plain, costs = make(GateGradient(), data)(graph, model), make(BrainSurgeon(), data)(graph, model)
    assert np.allclose(costs["query.out_features"], plain["query.out_features"])
    assert (costs["value.out_features"] != plain["value.out_features"]).all()
