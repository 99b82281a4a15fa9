"""`running.constants`: plain tensors that a constructor makes, which are narrowed as buffers are."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.torch.running.constants import constants_of

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
TABLE = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))


class Positions(nn.Module):
    """As SimpleViT has them: a table that is added, and moved with what it is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 24), nn.LayerNorm(24), nn.Linear(24, 3)
        self.table, self.kept, self.places = TABLE.clone(), torch.zeros(5, 7), torch.arange(5)
        self.scale, self.late = torch.tensor(2.0), torch.ones(9)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x) * self.scale + self.table.to(x)[self.places]))

    def reset(self) -> None:
        setattr(self, "late", torch.zeros(9))  # noqa: B010 - a name as text

    @functools.cache  # noqa: B019 - the class lives as long as the tests do
    def again(self) -> None:
        self.kept = torch.ones(5, 7)


def test_what_only_the_constructor_sets_is_one() -> None:
    assert constants_of(Positions()).keys() == {"table"}


def test_it_is_narrowed_with_what_it_is_added_to(tmp_path: Path) -> None:
    model = Positions().eval()
    table = model.table
    graph = sc.trace(model, X)
    assert [width.name for width in graph.free] == ["first.out_features"]
    kept = [1, 5, 6, 20]
    plan = graph.plan({"first.out_features": kept})
    with sc.subnet(model, plan) as inside:
        assert torch.equal(inside.table, table[:, kept])
    assert model.table is table
    small = sc.apply(model, plan)
    assert torch.equal(small.table, table[:, kept])
    assert model.table is table
    sc.save(small, tmp_path / "small")
    back = sc.restore(Positions().eval(), tmp_path / "small")
    assert torch.equal(back(X), small(X))


@pytest.mark.parametrize("mode", ["magnitude", "progressive"])
def test_in_place_and_in_rounds(mode: str) -> None:
    model = Positions().eval()
    config: dict[str, Any] = {"data_loader": [torch.randn(16, 5, 6) for _ in range(4)]}
    small, result = sc.prune(model, mode, {"params": "60%"}, X, config)
    assert small is model
    assert result.verification.passed
    assert small.table.shape[1] == small.first.out_features < 24


def test_masks_hide_it_and_show_it_again() -> None:
    model = Positions().eval()
    table = model.table.clone()
    plan = sc.trace(model, X).plan({"first.out_features": range(10)})
    sc.pruners.mask_plan(model, plan)
    assert not model.table[:, 10:].any()
    sc.pruners.remove_masks(model, leave_zeros=False)
    assert torch.equal(model.table, table)


def test_a_copy_has_one_of_its_own() -> None:
    model = Positions().eval()
    small = sc.apply(copy.deepcopy(model), sc.trace(model, X).plan({"first.out_features": range(10)}))
    small.table.zero_()
    assert torch.equal(model.table, TABLE)
