"""Weights folded for evaluation and kept: what training alone reads beside them is not narrowed without them."""

import copy
from functools import cached_property

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.core.graph import Graph, Width


class Folded(nn.Module):
    """Two layers that evaluation folds into one matrix, which it keeps as an attribute, in a dict or as a buffer."""

    folded: Tensor | None

    def __init__(self, where: str) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 24), nn.Linear(24, 4)
        self.down, self.up = nn.Linear(24, 16, bias=False), nn.Linear(16, 24, bias=False)
        self.where, self.table = where, dict[str, Tensor]()
        if where == "buffer":
            self.register_buffer("folded", None, persistent=False)
        else:
            self.folded = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        h = self.up(self.down(h)) if self.training else h @ self.product().t()
        return self.last(h.relu())

    def product(self) -> Tensor:
        if self.where == "table":
            if "product" not in self.table:
                self.table["product"] = self.up.weight @ self.down.weight
            return self.table["product"]
        if self.folded is None:
            self.folded = (self.up.weight @ self.down.weight).detach()
        return self.folded


def _width(graph: Graph, name: str) -> Width:
    return next(width for width in graph.widths if width.name == name)


@pytest.mark.parametrize("where", ["attribute", "table", "buffer"])
def test_a_product_that_evaluation_kept_leaves_whole_what_it_is_of(where: str) -> None:
    model, x = Folded(where).eval(), torch.randn(4, 8)
    model(x)  # as whoever looks at it before pruning does
    inner = _width(sc.trace(model, x), "down.out_features")
    kept = "table" if where == "table" else "folded"
    assert inner.frozen is not None
    assert kept in inner.frozen
    assert "clear it" in inner.frozen


@pytest.mark.parametrize("where", ["attribute", "table", "buffer"])
def test_without_it_the_width_is_free_and_both_modes_agree(where: str) -> None:
    model, x = Folded(where).eval(), torch.randn(4, 8)
    graph = sc.trace(model, x)
    assert _width(graph, "down.out_features").frozen is None
    small = sc.apply(model, graph.plan({"down.out_features": range(9)}), verify=False)
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(x), copy.deepcopy(small).train()(x))


def test_a_head_for_training_alone_stays_free_where_nothing_is_kept() -> None:
    class Helped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = nn.Linear(8, 12), nn.Linear(12, 4)
            self.helper = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4))
            self.register_buffer("scale", torch.ones(12))

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x).relu() * self.scale
            return self.last(h) + self.helper(h) if self.training else self.last(h)

    graph = sc.trace(Helped(), torch.randn(4, 8))
    assert _width(graph, "helper.0.out_features").frozen is None


def test_a_table_that_a_call_before_left_is_named_where_it_keeps_a_width_whole() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 12), nn.Linear(12, 4)

        @cached_property
        def scale(self) -> Tensor:
            return torch.linspace(0.5, 1.5, 10)[:, None].expand(10, self.first.out_features).contiguous()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) * self.scale[: x.shape[1]])

    model, x = Scaled().eval(), torch.randn(2, 5, 8)
    assert _width(sc.trace(model, x), "first.out_features").frozen is None
    model(x)
    reason = _width(sc.trace(model, x), "first.out_features").frozen  # which also says what would let it go
    assert str(reason).startswith("scale is a plain tensor")
    del model.scale
    assert _width(sc.trace(model, x), "first.out_features").frozen is None
