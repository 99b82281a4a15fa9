"""Code that reads values out of tensors is traced and rehearsed without data, given what it read on the example."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.testing import random_plan

X = torch.rand(4, 6)


class Net(nn.Module):
    """A width of 12 that is scaled by what the code reads, and what else it does."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h * 2 if float(x.mean()) > 0 else h
        return self.b(self.between(torch.relu(h)))


def by_mask(h: Tensor) -> Tensor:
    kept = h.mean(1) > 0.05
    out = torch.zeros_like(h)
    out[kept] = h[kept] * 2
    return out


def by_positions(h: Tensor) -> Tensor:
    rows = torch.zeros(4, dtype=torch.long)
    rows[1] = h.detach().mean(1).argmax()
    return h[rows]


def by_numpy(h: Tensor) -> Tensor:
    order = np.argsort(h.detach().mean(1).numpy())
    return h[torch.from_numpy(order)]


@pytest.mark.parametrize("between", [by_mask, by_positions, by_numpy, lambda h: h * h.mean().item()])
def test_a_width_beside_what_is_read_is_free(between: Any) -> None:
    model = Net(between)
    graph = sc.trace(model, X)
    assert graph["a.out_features"].frozen is None
    assert sc.verify(model, graph.plan({"a.out_features": [0, 3, 4, 9, 11]}), graph)


@pytest.mark.parametrize(
    "between",
    [
        lambda h: h / math.log(h.shape[1]),
        lambda h: sum((h * i for i in range(h.shape[1])), torch.zeros_like(h)),
        lambda h: h + torch.tensor(np.log2(int(h.shape[1]))),
    ],
)
def test_a_size_that_is_used_unseen_beside_them_is_told(between: Any) -> None:
    width = sc.trace(Net(between), X)["a.out_features"]
    assert width.frozen is not None or not width.exact


def test_a_slice_that_takes_all_of_what_is_left_is_seen() -> None:
    class Halves(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(torch.cat([h[:, :2].tanh(), h[:, 2:]], 1)[:, : self.b.in_features])

    model = Halves(torch.relu)
    model.a, model.b = nn.Linear(6, 4), nn.Linear(4, 3)
    graph = sc.trace(model, X)
    assert graph["a.out_features[0]"].frozen, "two are taken by a number"
    small = sc.apply(model, graph.plan({"a.out_features[1]": [1]}))
    assert small.b.in_features == 3
    assert small(X).shape == (len(X), 3)


class OnNumbersOnly(Net):
    """A packed sequence: PyTorch packs none that has no data."""

    def forward(self, x: Tensor) -> Tensor:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            x[:, None], torch.ones(len(x), dtype=torch.long), batch_first=True
        )
        return super().forward(packed.data)


@pytest.mark.parametrize(
    "between",
    [
        lambda h: h / math.log(h.shape[1]),
        lambda h: h * sum(0.1 for _ in range(h.shape[1])),
        lambda h: h * len(h[0]),
        lambda h: h / math.sqrt(h[0].numel()),
        lambda h: h / (h.nbytes / h[:, :1].nbytes),
    ],
)
def test_a_size_that_is_used_unseen_is_told_where_only_numbers_run(between: Any) -> None:
    model = OnNumbersOnly(between)
    assert "code uses its size" in str(sc.trace(model, X)["a.out_features"].frozen)


def routed(h: Tensor) -> Tensor:
    chosen = h[:, :3].argmax(1)
    out = torch.zeros_like(h)
    for expert in range(3):
        if (chosen == expert).any():
            out[chosen == expert] = h[chosen == expert] * (expert + 1) * h.mean().item()
    return out


@pytest.mark.parametrize("between", [by_mask, lambda h: h * h.mean().item(), routed])
def test_what_comes_of_numbers_keeps_no_width_whole_where_only_they_run(between: Any) -> None:
    model = OnNumbersOnly(between)
    graph = sc.trace(model, X)
    free = [w for w in graph.free if w.name.startswith("a.out")]
    assert free
    sc.verify(model, random_plan(graph, 0), graph)
