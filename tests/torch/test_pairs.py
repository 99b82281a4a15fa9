"""Widths of two units: one may be left of them, where PyTorch takes other ways; where that does not run, the others stay free."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur as sc

X = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))


class Linear(nn.Module):
    """Linear attention."""

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def apart(self, x: Tensor) -> Tensor:
        return x.view(2, 6, self.heads, -1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.apart(f(x)) for f in (self.q, self.k, self.v))
        states = torch.cumsum(torch.einsum("blhd,blhe->blhde", k, v), 1)
        scale = 1 / (torch.einsum("blhd,blhd->blh", q, k.cumsum(1)).abs() + 9)
        return self.o(torch.einsum("blhd,blhde,blh->blhe", q, states, scale).flatten(2))


class RelativeShift(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.randn(2, 8))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.apart(f(x)) for f in (self.q, self.k, self.v))
        scores = torch.einsum("bihd,bjhd->bhij", q + self.u, k) * q.shape[-1] ** -0.5
        return self.o(torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).reshape(2, 6, -1))


class Written(Linear):
    def apart(self, x: Tensor) -> Tensor:
        return x.view(2, 6, 2, -1)


class Squeezed(Linear):
    """Runs with two heads and not with one."""

    def apart(self, x: Tensor) -> Tensor:
        return super().apart(x).squeeze(2)


class Scaled(Linear):
    """A number that only the number of heads says."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * float(f"{self.heads}"))


def heads_of(graph: sc.Graph) -> sc.Width:
    return next(width for width in graph.widths if width.size == 2 and "q.weight" in {use.tensor for use in width.uses})


@pytest.mark.parametrize("kind", [Linear, RelativeShift])
def test_one_head_of_two_may_be_left(kind: type[Linear]) -> None:
    model = kind()
    graph = sc.trace(model, X)
    heads = heads_of(graph)
    assert heads.choices == (1, 2), heads.frozen
    assert {8} <= {width.size for width in graph.free}
    plan = graph.plan({heads.name: [1], **{w.name: range(3) for w in graph.free if w.size == 8}})
    assert sc.verify(model, plan, graph).passed


@pytest.mark.parametrize(
    ("kind", "why"),
    [(Written, "a size written into the code"), (Squeezed, "with fewer than 2 units of it the code goes")],
)
def test_where_one_does_not_run_the_other_widths_stay_free(kind: type[Linear], why: str) -> None:
    graph = sc.trace(kind(), X)
    assert why in str(heads_of(graph).frozen)
    assert "Mismatch" not in str(graph)
    free = [width for width in graph.free if width.size == 8]
    assert len(free) == 2
    assert sc.verify(kind(), graph.plan({w.name: range(3) for w in free}), graph).passed


def test_a_number_that_says_how_many_there_are_keeps_them() -> None:
    assert heads_of(sc.trace(Scaled(), X)).frozen
