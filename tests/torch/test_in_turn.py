"""Several modes in one call: as in turn, and as one step."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.compat import modelopt
from secateur.errors import ConfigError, Infeasible

torch.manual_seed(0)
X = torch.randn(4, 3, 8, 8)
LOADER = [(torch.randn(16, 3, 8, 8), torch.randint(0, 10, (16,))) for _ in range(3)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 16, 1))
            for _ in range(3)
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_two_modes_in_one_call_do_what_two_calls_do() -> None:
    data: dict[str, Any] = {"data_loader": LOADER}
    once, result = sc.prune(
        net(), [("magnitude", {"depth": "only"}), ("gradnas", data)], [{"macs": "70%"}, {"macs": "70%"}], X
    )
    first, one = sc.prune(net(), "magnitude", {"macs": "70%"}, X, {"depth": "only"})
    twice, two = sc.prune(first, "gradnas", {"macs": "70%"}, X, data)
    assert "blocks.0.0.weight" not in state(once), "a block went whole"
    assert (result.before["macs"], result.macs) == (one.before["macs"], two.macs)
    torch.testing.assert_close(state(once), state(twice))
    torch.testing.assert_close(once(X), twice(X))
    assert result.verification.passed
    assert len(result.evidence.rounds) == 2
    assert "round 2" in str(result.evidence)
    assert result.score == two.score


def test_what_came_of_several_modes_is_saved_and_restored(tmp_path: Path) -> None:
    small, result = sc.prune(net(), ["magnitude", "magnitude"], [{"macs": "80%"}, {"params": "80%"}], X)
    sc.save(small, tmp_path / "small")
    again = sc.restore(net(), tmp_path / "small")
    assert torch.equal(again(X), small(X))
    masked = sc.apply(net(), result.plan, dummy_input=X)
    assert torch.equal(masked(X), small(X))


def test_a_model_is_as_it_was_where_the_second_mode_fails() -> None:
    model = net()
    before, code = state(model), dict(model.__dict__)
    with pytest.raises(Infeasible):
        sc.prune(model, ["magnitude", "magnitude"], [{"macs": "60%"}, {"params": 10}], X)
    assert state(model).keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(model).items())
    assert model.__dict__.keys() == code.keys()


@pytest.mark.parametrize(
    ("constraints", "config", "said"),
    [
        ({"macs": "60%"}, None, "a list with an entry for each"),
        ([{"macs": "60%"}], None, "a list with an entry for each"),
        ([{"macs": "60%"}] * 3, None, "3 entries, mode names 2"),
        ([{"macs": "60%"}] * 2, {"criterion": "l2"}, "put options beside each"),
    ],
)
def test_what_is_not_said_for_each_mode_is_asked_for(constraints: Any, config: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sc.prune(net(), ["magnitude", "magnitude"], constraints, X, config)


def test_modelopts_users_list_several_modes_too() -> None:
    modes = [("magnitude", {"nn.Conv2d": {"*": {"channel_divisor": 8}}}), ("magnitude", {"criterion": "l2"})]
    model, result = modelopt.prune(net(), modes, [{"macs": "80%"}, {"params": "90%"}], X)
    other = copy.deepcopy(net())
    other, one = sc.prune(other, "magnitude", {"macs": "80%"}, X, {"rules": {"nn.Conv2d": {"*": {"multiple_of": 8}}}})
    other, two = sc.prune(other, "magnitude", {"params": "90%"}, X, {"criterion": "l2"})
    assert torch.equal(model(X), other(X))
    assert result.params == two.params < one.params
