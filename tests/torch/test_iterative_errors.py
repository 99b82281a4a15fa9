"""What goes wrong between two rounds of iterative pruning leaves the masked model as it was, and is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.errors import Infeasible, InputError, PlanError
from secateur.torch.narrowing.masks import masks_of
from secateur.torch.prune import prune
from secateur.torch.pruners.iterative import IterativePruner

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 4)).eval()


def score(model: nn.Module) -> float:
    return float(model(X).std())


def masked() -> tuple[IterativePruner, nn.Module]:
    pruner = IterativePruner(network(), X[:2])
    pruner.analyze(score, ratios=(0.5, 0.9))
    return pruner, pruner.mask({"params": "60%"})[0]


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    now = model.state_dict()
    return list(now) == list(before) and all(torch.equal(before[name], tensor) for name, tensor in now.items())


@pytest.mark.parametrize(
    "fails", [{"constraints": {"params": 2}}, {"threshold": -1}, {"constraints": {"parms": "50%"}}]
)
def test_what_cannot_be_masked_leaves_the_masked_model_as_it_was(fails: dict[str, Any]) -> None:
    pruner, model = masked()
    before = state(model)
    with pytest.raises((InputError, Infeasible)):
        pruner.mask(**fails)
    assert same(model, before)
    pruner.narrow()
    pruner.narrowed_state_dict()
    assert same(model, before)


def test_a_masked_model_that_somebody_narrowed_keeps_its_masks() -> None:
    pruner, model = masked()
    prune(model, "magnitude", {"params": "50%"}, X[:2])
    before, names = state(model), set(masks_of(model))
    with pytest.raises(PlanError):
        pruner.narrow()
    assert same(model, before)
    assert set(masks_of(model)) == names


def test_an_analysis_of_other_weights_is_taken_with_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for _ in range(2):
        IterativePruner(network(), X[:2]).analyze(score, ratios=(0.5,), checkpoint=tmp_path)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="made with other weights"):
        IterativePruner(network(1), X[:2]).analyze(score, ratios=(0.5,), checkpoint=tmp_path)
