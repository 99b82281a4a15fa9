"""The activation mode: shares of layers, by name, type or pattern, alone and together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.errors import ConfigError, Infeasible


class Net(nn.Module):
    """A stem and a block around one stream, then two Linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.b, self.hidden, self.head = nn.Conv2d(16, 8, 3, padding=1), nn.Linear(8, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.b(torch.relu(self.a(x))))
        return self.head(torch.relu(self.hidden(x.mean((2, 3)))))


def net() -> Net:
    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():  # units 0, 1, 2 of every layer are hardly ever active, the more the higher
        for layer in (model.stem, model.a, model.b, model.hidden):
            layer.bias[:3] = torch.tensor([-9.0, -9.0, -9.0])
    return model


LOADER = [(torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(i)),) for i in range(4)]
X = torch.zeros(1, 1, 6, 6)


def narrowed(constraints: Any = None, **options: Any) -> dict[str, int]:
    config = {"data_loader": LOADER, "verify": False, **options}
    plan = sc.prune(net(), "activation", constraints, X, config)[1].plan
    return {name: plan.sizes[name] for name in plan.kept}


def test_a_share_of_each_layer_goes_by_name_type_or_pattern_and_the_last_one_counts() -> None:
    quarter = {"stem.out_channels": 6, "a.out_channels": 12, "hidden.out_features": 15}
    assert narrowed(remove={"nn.Conv2d": 0.25, "Linear": 0.25}) == quarter
    assert narrowed(remove={"*": 0.25}) == quarter
    assert narrowed(remove={"nn.*": 0.25, "a": 0.5, "hid*": 0.0}) == {"stem.out_channels": 6, "a.out_channels": 8}


def test_without_shares_a_tenth_of_convolutions_and_linear_layers_goes() -> None:
    assert narrowed() == {"a.out_channels": 15, "hidden.out_features": 18}


def test_layers_that_share_a_width_give_up_the_smallest_share() -> None:
    assert narrowed(remove={"stem": 0.5, "b": 0.25}) == {"stem.out_channels": 6}
    assert narrowed(remove={"nn.Conv2d": 0.5, "b": 0.0}) == {"a.out_channels": 8}


def test_the_idle_units_go_whatever_criterion_says_so() -> None:
    for criterion in ("apoz", sc.criteria.MeanRank(activation="relu")):
        config = {"data_loader": LOADER, "remove": {"a": 0.25}, "criterion": criterion, "verify": False}
        plan = sc.prune(net(), "activation", None, X, config)[1].plan
        assert not {0, 1, 2} & set(plan.kept["a.out_channels"])
    by_weights = narrowed(remove={"a": 0.2}, criterion="l1", data_loader=None)
    assert by_weights == {"a.out_channels": 13}


def test_a_total_takes_the_lowest_units_of_several_layers_and_no_more_than_most_of_each() -> None:
    total = {"share": 0.4, "layers": ["nn.Conv2d"]}
    free, capped = narrowed(totals=[total]), narrowed(totals=[{**total, "most": 0.4}])
    assert free["a.out_channels"] < 12
    assert capped["a.out_channels"] >= 10
    assert "hidden.out_features" not in free
    both = narrowed(totals=[total], remove={"hidden": 0.5})
    assert both == {**free, "hidden.out_features": 10}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"remove": {"hiden": 0.5}}, "'hiden' matches no layer, by name or type. Did you mean 'hidden'"),
        ({"remove": {"a": 1.0}}, "at least 0 and less than 1"),
        ({"remove": {"a": "half"}}, "remove"),
        ({"remove": {"head": 0.5}}, "'head' cannot be pruned: the model's output"),
        ({"remove": {"hidden": 0.5}, "exclude": ["hidden"]}, r"'hidden' cannot be pruned: excluded \(hidden\)"),
        ({"totals": [{"share": 0.5}]}, r"totals\[0\] is written as"),
        ({"totals": [{"share": 0.5, "layers": ["nn.Conv2d"], "most": 0.4}]}, "cannot be reached"),
        ({"totals": [{"share": 0.5, "layers": ["nn.Conv2d"]}], "remove": {"a": 0.2}}, "different things of 'a'"),
        ({"steps": 3}, "steps"),
        ({"data_loader": None}, "data"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        narrowed(**options)


def test_a_type_that_cannot_be_pruned_everywhere_is_pruned_where_it_can_and_said() -> None:
    config = {"data_loader": LOADER, "remove": {"nn.Linear": 0.5}}
    plan = sc.prune(net(), "activation", None, X, config)[1].plan
    assert plan.sizes["hidden.out_features"] == 10
    assert plan.provenance["left_whole"] == {"head": "the model's output"}


def test_limits_and_a_budget_hold_beside_the_shares() -> None:
    assert narrowed(remove={"*": 0.25}, exclude=["hidden"], multiple_of=4) == {"a.out_channels": 12}
    assert narrowed({"macs": "80%"}, remove={"*": 0.25}) == narrowed(remove={"*": 0.25})
    with pytest.raises(Infeasible, match=r"remove leaves macs = .* more than the bound"):
        narrowed({"macs": "10%"}, remove={"*": 0.25})
