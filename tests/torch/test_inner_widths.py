"""A kept set for each index of an outer width is offered only where every operator keeps these indices apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur as sc
from secateur.testing import random_plan

MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda h_BTND: h_BTND.softmax(2),
    "log softmax": lambda h_BTND: h_BTND.log_softmax(2),
    "running sum": lambda h_BTND: h_BTND.cumsum(2),
    "running maximum": lambda h_BTND: h_BTND.cummax(2).values,
    "attention": lambda h_BTND: (h_BTND @ h_BTND.mT) @ h_BTND,
    "fused attention": lambda h_BTND: F.scaled_dot_product_attention(h_BTND, h_BTND, h_BTND),
    "einsum": lambda h_BTND: torch.einsum("btnd,btmd,btme->btne", h_BTND, h_BTND, h_BTND),
}
APART: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda h_BTND: h_BTND,
    "over the inner one": lambda h_BTND: F.normalize(h_BTND, dim=-1),
    "transposed": lambda h_BTND: h_BTND.transpose(1, 2).tanh().transpose(1, 2),
    "attention inside each": lambda h_BTND: F.scaled_dot_product_attention(*[h_BTND.transpose(1, 2)] * 3).transpose(
        1, 2
    ),
}


class Heads(nn.Module):
    """Features in N heads of D, on which some function works."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, 5
        self.up, self.down = nn.Linear(6, 20), nn.Linear(20, 3)
        self.between = between

    def forward(self, x_BTC: Tensor) -> Tensor:
        h_BTND = self.up(x_BTC).view(*x_BTC.shape[:2], self.num_heads, self.head_dim)
        return self.down(self.between(h_BTND).flatten(2))


class Swapped(nn.Module):
    """Tokens and channels are one width W, and a layer over tokens has its outputs inside the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.queries_WC = nn.Parameter(torch.randn(5, 6))
        self.to_width, self.over_tokens = nn.Linear(6, 5), nn.Linear(5, 9, bias=False)
        self.head = nn.Linear(45, 3)

    def forward(self, x_BTC: Tensor) -> Tensor:
        h_BWW = self.to_width(F.scaled_dot_product_attention(self.queries_WC.expand(len(x_BTC), -1, -1), x_BTC, x_BTC))
        return self.head(self.over_tokens(h_BWW + h_BWW.mT).flatten(1))


def inner_widths(model: nn.Module) -> list[str]:
    """Those that may keep another set under each outer index; whatever is drawn for them is verified."""
    x_BTC = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    graph = sc.trace(model.eval(), x_BTC)
    for seed in range(4):
        assert sc.verify(model, random_plan(graph, seed), graph).passed
    return [width.name for width in graph.free if width.outer]


@pytest.mark.parametrize("name", MIXING)
def test_an_operator_that_mixes_the_outer_indices_makes_the_inner_width_even(name: str) -> None:
    torch.manual_seed(0)
    assert not inner_widths(Heads(MIXING[name]))


@pytest.mark.parametrize("name", APART)
def test_operators_that_keep_the_outer_indices_apart_leave_the_inner_width_its_sets(name: str) -> None:
    torch.manual_seed(0)
    assert inner_widths(Heads(APART[name])) == ["head_dim"]


def test_a_width_that_is_two_dimensions_of_one_tensor_is_no_outer_width() -> None:
    torch.manual_seed(0)
    assert not inner_widths(Swapped())


class RepeatedKeys(nn.Module):
    """Two groups: of one, PyTorch need not copy the keys that are repeated, and leaves a step out."""

    def __init__(self) -> None:
        super().__init__()
        self.groups, self.repeats, self.size = 2, 4, 4
        self.q, self.k, self.v, self.o = nn.Linear(16, 32), nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(32, 16)

    def _repeated(self, x: Tensor) -> Tensor:
        b, g, t, d = x.shape
        return x[:, :, None].expand(b, g, self.repeats, t, d).reshape(b, g * self.repeats, t, d)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.size)
        q, k, v = (part(x).view(shape).transpose(1, 2) for part in (self.q, self.k, self.v))
        k, v = self._repeated(k), self._repeated(v)
        weights = torch.softmax(q @ k.transpose(2, 3) * 0.5, -1)
        return self.o((weights @ v).transpose(1, 2).reshape(*x.shape[:-1], -1).contiguous())


def test_two_groups_may_become_one() -> None:
    torch.manual_seed(0)
    model = RepeatedKeys().eval()
    graph = sc.trace(model, torch.randn(2, 9, 16))
    assert [width.size for width in graph.free] == [2, 4, 4]
    sc.apply(model, graph.plan({graph.free[0].name: [1]}))
