"""A unit's position that becomes a number, in whatever way, freezes its width; what a statistic runs over has no order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur as sc
from secateur.errors import VerificationError

X = torch.rand(4, 6)
WIDTH = "a.out_features"
Between = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """A width of 12 that the code under test sees between two layers."""

    def __init__(self, between: Between) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(torch.relu(self.a(x))))


def seeded(h: Tensor) -> Tensor:
    torch.manual_seed(0)
    return h * torch.rand(h.shape[1])


def seeded_like(h: Tensor) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(torch.initial_seed())
        torch.manual_seed(3)
        return h + torch.randn_like(h)


def attends(h: Tensor, is_causal: bool = False) -> Tensor:
    units = h.unsqueeze(-1)
    return F.scaled_dot_product_attention(units, units, units, is_causal=is_causal).squeeze(-1)


NUMBERED: dict[str, Between] = {
    "cumsum of what is zero without a unit": lambda h: h.cumsum(1),
    "how many before it are positive": lambda h: h * (h > 0).cumsum(1),
    "cumsum of ones like it": lambda h: h * torch.ones_like(h).cumsum(1),
    "cumsum of ones": lambda h: h * torch.ones(h.shape[1]).cumsum(0),
    "cumsum in place": lambda h: h * torch.ones_like(h).cumsum_(1),
    "cumsum of a comparison": lambda h: h * (h >= 0).cumsum(1),
    "cumsum of what is not zero": lambda h: h * torch.softmax(h, 1).cumsum(1),
    "cumsum of all, flat": lambda h: h * torch.ones_like(h).flatten().cumsum(0).view_as(h),
    "cumprod": lambda h: h * torch.full_like(h, 0.9).cumprod(1),
    "logcumsumexp": lambda h: h * torch.zeros_like(h).logcumsumexp(1),
    "cummax": lambda h: h * torch.sigmoid(h).cummax(1)[0],
    "alternating signs": lambda h: torch.where(torch.ones_like(h).cumsum(1) % 2 == 0, h, -h),
    "distances": lambda h: h @ (torch.ones(h.shape[1]).cumsum(0)[:, None] - torch.ones(h.shape[1]).cumsum(0)).abs(),
    "multinomial": lambda h: h * torch.multinomial(torch.softmax(h, 1), 2).float().mean(1, keepdim=True),
    "numbers drawn after a seed": seeded,
    "numbers like it drawn after a seed": seeded_like,
    "causal attention between units": lambda h: attends(h, is_causal=True),
    "argsort of a constant": lambda h: h * torch.argsort(torch.ones_like(h), dim=1, stable=True),
    "nonzero": lambda h: h * torch.ones(h.shape[1]).nonzero()[:, 0],
    "a triangle of ones": lambda h: h @ torch.ones(h.shape[1], h.shape[1]).tril(),
    "one-hot positions": lambda h: h @ F.one_hot(torch.arange(h.shape[1])).float().cumsum(0),
    "a power of positions": lambda h: h * torch.vander(torch.full((1,), 0.9), h.shape[1])[0],
    "neighbours": lambda h: F.local_response_norm(h[:, :, None], 3)[:, :, 0],
    "the one before": lambda h: h + F.pad(h, (1, 0))[:, :-1],
    "an area under ones": lambda h: h * F.pad(torch.cumulative_trapezoid(torch.ones_like(h), dim=1), (1, 0)),
}
UNNUMBERED: dict[str, Between] = {
    "attention between units": attends,
    "rank by comparison": lambda h: h * (h[:, :, None] >= h[:, None, :]).sum(2),
    "numbers drawn without a seed": lambda h: h + torch.randn_like(h),
    "median": lambda h: h * h.median(1, keepdim=True)[0],
}


@pytest.mark.parametrize("way", NUMBERED)
def test_a_position_that_becomes_a_number_freezes_the_width(way: str) -> None:
    graph = sc.trace(Net(NUMBERED[way]), X)
    assert all(width.frozen for width in graph.widths if width.name.startswith(WIDTH))


@pytest.mark.parametrize("way", UNNUMBERED)
def test_what_asks_for_no_position_stays_free(way: str) -> None:
    model = Net(UNNUMBERED[way]).eval()
    graph = sc.trace(model, X)
    assert graph[WIDTH].frozen is None
    assert sc.verify(model, graph.plan({WIDTH: [1, 2, 5, 9]}), graph)


def test_verification_finds_positions_that_a_trace_did_not_see() -> None:
    model = Net(lambda h: h * torch.softmax(h, 1))
    graph = sc.trace(model, X)
    plan = graph.plan({WIDTH: [1, 2, 5, 9]})
    reordered = [one for one in sc.verify(model, plan, graph).comparisons if "another order" in one.inputs]
    assert len(reordered) == 1
    assert reordered[0].outputs == ("output",)
    model.between = NUMBERED["cumsum of a comparison"]
    with pytest.raises(VerificationError, match=r"the units of a\.out_features in another order change") as error:
        sc.verify(model, plan, graph)
    assert error.value.widths == (WIDTH,)
