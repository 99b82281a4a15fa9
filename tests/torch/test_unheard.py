"""Sizes that go through tensors, scripts and C: a trial shows whose size it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc

X = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(0))


@torch.jit.script
def gated(y: Tensor, counts: Tensor) -> Tensor:
    n = counts[0]
    return torch.tanh(y[:, :n]) * torch.sigmoid(y[:, n:])


def by_tensor(y: Tensor, n: int) -> Tensor:
    cut = torch.IntTensor([n])[0]
    return torch.tanh(y[:, :cut]) * torch.sigmoid(y[:, cut:])


def by_script(y: Tensor, n: int) -> Tensor:
    return gated(y, torch.IntTensor([n]))


def by_item(y: Tensor, n: int) -> Tensor:
    cut = torch.LongTensor([n]).item()
    return torch.tanh(y[:, :cut]) * torch.sigmoid(y[:, cut:])


def by_int(y: Tensor, n: int) -> Tensor:
    cut = int(torch.IntTensor([n])[0])
    return torch.tanh(y[:, :cut]) * torch.sigmoid(y[:, cut:])


def written(y: Tensor, n: int) -> Tensor:
    cut = torch.IntTensor([16])[0]
    return torch.tanh(y[:, :cut]) * torch.sigmoid(y[:, cut:])


class WaveNet(nn.Module):
    def __init__(self, gate: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.width, self.gate = 16, gate
        self.pre, self.post = nn.Conv1d(8, 16, 1), nn.Conv1d(16, 4, 1)
        self.inner = nn.ModuleList(nn.Conv1d(16, 32, 3, padding=1) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv1d(16, 32, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x, out = self.pre(x), torch.zeros(())
        for inner, outer in zip(self.inner, self.outer, strict=True):
            y = outer(self.gate(inner(x), self.width))
            x, out = x + y[:, : self.width], out + y[:, self.width :]
        return self.post(out)


@pytest.mark.parametrize("gate", [by_tensor, by_script, by_item, by_int])
def test_a_size_that_nobody_hears_is_that_of_the_width_that_it_follows(gate: Any) -> None:
    model = WaveNet(gate)
    graph = sc.trace(model, X)
    shared = next(width for width in graph.free if "pre.weight" in {use.tensor for use in width.uses})
    assert {"inner.0.weight", "inner.1.weight", "outer.1.weight"} <= {use.tensor for use in shared.uses}
    assert [width.size for width in graph.free] == [16, 16]
    narrowed, result = sc.prune(model, "magnitude", {"params": "60%"}, X)
    assert result.verification.passed
    assert isinstance(narrowed, WaveNet)
    assert narrowed.width < 16


def test_a_number_in_the_code_keeps_its_own_width_alone() -> None:
    graph = sc.trace(WaveNet(written), X)
    assert [width.size for width in graph.free] == [16, 16]
    kept = [w for w in graph.widths if w.frozen and "does not run when narrowed" in w.frozen]
    assert kept
    assert all("inner" in use.tensor or "outer" in use.tensor for w in kept for use in w.uses)
