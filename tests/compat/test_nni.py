"""NNI's words: its config list, its options, its two metrics, and what cannot be meant."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.compat import nni as words
from secateur.compat.nni import activation
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


def plan_for(config_list: Any, *, budget: Any = None, model: nn.Module | None = None, **options: Any) -> sc.Plan:
    model = copy.deepcopy(model or net())
    mode = activation(model, {"data_loader": LOADER, "config_list": config_list, "verify": False, **options})
    return sc.prune(model, mode, budget, X)[1].plan


def narrowed(plan: sc.Plan) -> dict[str, int]:
    return {name: plan.sizes[name] for name in plan.kept}


ALL = [{"sparsity_per_layer": 0.25, "op_types": ["Conv2d", "Linear"]}]


@pytest.mark.parametrize("pruner_type", ["apoz", "mean_rank"])
@pytest.mark.parametrize("mode", ["normal", "dependency_aware"])
@pytest.mark.parametrize("activation", [None, "relu", "relu6", "gelu"])
def test_the_share_of_every_layer_goes_and_the_idle_units_first(pruner_type: str, mode: str, activation: Any) -> None:
    model = net()
    plan = plan_for(ALL, model=model, pruner_type=pruner_type, mode=mode, activation=activation)
    assert narrowed(plan) == {"stem.out_channels": 6, "a.out_channels": 12, "hidden.out_features": 15}
    lost = {name: set(range(kept[-1] + 1)) - set(kept) for name, kept in plan.kept.items()}
    assert all(idle < 3 for idle in lost["stem.out_channels"])
    assert {0, 1, 2} <= lost["a.out_channels"] or (pruner_type, activation) == ("mean_rank", "gelu")
    small = sc.apply(model, plan)
    assert small(X).shape == (1, 5)


def test_training_steps_is_the_number_of_batches() -> None:
    seen: set[float] = set()  # batches, which scoring the result reads again

    def collect(batch: Any) -> Tensor:
        seen.add(float(batch[0].sum()))
        return batch[0]

    plan_for(ALL, training_steps=2, collect_func=collect)
    first = len(seen)
    seen.clear()
    plan_for(ALL, training_steps=4, collect_func=collect)
    assert len(seen) == first + 2


def test_sparsity_is_another_word_and_a_json_text_another_form() -> None:
    other = [{"sparsity": 0.25, "op_types": ["Conv2d", "Linear"]}]
    assert narrowed(plan_for(other)) == narrowed(plan_for(json.dumps(ALL))) == narrowed(plan_for(ALL))


def test_without_a_list_a_tenth_goes() -> None:
    assert narrowed(plan_for(None)) == {"a.out_channels": 15, "hidden.out_features": 18}


def test_names_partial_names_and_types_select_and_exclude_takes_out() -> None:
    assert narrowed(plan_for([{"sparsity": 0.5, "op_names": ["a"]}])) == {"a.out_channels": 8}
    assert narrowed(plan_for([{"sparsity": 0.5, "op_partial_names": ["idd"]}])) == {"hidden.out_features": 10}
    assert narrowed(plan_for([{"sparsity": 0.5, "op_types": ["Linear"]}])) == {"hidden.out_features": 10}
    both = [{"sparsity": 0.5, "op_types": ["Conv2d"]}, {"exclude": True, "op_names": ["a"]}]
    assert narrowed(plan_for(both)) == {"stem.out_channels": 4}
    exception = [*both, {"sparsity": 0.25, "op_names": ["a"]}]
    assert narrowed(plan_for(exception)) == {"stem.out_channels": 4, "a.out_channels": 12}


@pytest.mark.parametrize(("one", "other"), [("stem", "b"), ("b", "stem")])
def test_layers_that_share_a_width_take_the_smallest_sparsity(one: str, other: str) -> None:
    two = [{"sparsity": 0.5, "op_names": [one]}, {"sparsity": 0.25, "op_names": [other]}]
    assert narrowed(plan_for(two, mode="dependency_aware")) == {"stem.out_channels": 6}
    whole = [{"sparsity": 0.5, "op_types": ["Conv2d"]}, {"exclude": True, "op_names": [one]}]
    assert narrowed(plan_for(whole)) == {"a.out_channels": 8}


def test_a_total_sparsity_is_met_within_a_unit_and_never_exceeded() -> None:
    model = net()
    layers = {"stem.out_channels": (model.stem, model.b), "a.out_channels": (model.a,)}
    for share in (0.05, 0.15, 0.5):
        plan = plan_for([{"total_sparsity": share, "op_types": ["Conv2d"]}], model=model)
        gone = sum(
            m.weight.numel() * (1 - plan.sizes[name] / m.out_channels) for name, found in layers.items() for m in found
        )
        total = sum(m.weight.numel() for found in layers.values() for m in found)
        largest = sum(m.weight[0].numel() for m in layers["stem.out_channels"])
        assert share * total - largest < gone <= share * total + 1e-6


def test_a_maximum_per_layer_holds_under_a_total_sparsity() -> None:
    entry = {"total_sparsity": 0.5, "op_types": ["Conv2d"]}
    free = plan_for([entry | {"max_sparsity_per_layer": 0.75}])
    capped = plan_for([entry | {"max_sparsity_per_layer": {"a": 0.25}}])
    assert min(free.sizes["a.out_channels"], free.sizes["stem.out_channels"]) >= 2
    assert capped.sizes["a.out_channels"] >= 12
    assert free.sizes["a.out_channels"] < 12


def test_the_last_layer_stays_whole_unless_it_is_said_otherwise() -> None:
    class Features(nn.Sequential):
        pass

    model = Features(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Conv1d(8, 2, 1))
    model[5] = nn.Sequential(nn.Unflatten(1, (8, 1)), nn.Conv1d(8, 2, 1))
    every = [{"sparsity": 0.5, "op_types": ["Linear"]}]
    assert narrowed(plan_for(every, model=model)) == {"1.out_features": 4}
    both = narrowed(plan_for(every, model=model, exclude_last_layer=False))
    assert both == {"1.out_features": 4, "3.out_features": 4}


def test_limits_hold_beside_the_list() -> None:
    assert narrowed(plan_for(ALL, exclude=["hidden"], multiple_of=4)) == {"a.out_channels": 12}


def test_a_budget_holds_beside_the_list_or_an_error_says_why() -> None:
    assert narrowed(plan_for(ALL, budget={"macs": "80%"})) == narrowed(plan_for(ALL))
    with pytest.raises(Infeasible, match=r"remove leaves macs = .* more than the bound"):
        plan_for(ALL, budget={"macs": "10%"})


def test_the_plan_says_what_it_was_made_with() -> None:
    record = plan_for(ALL, pruner_type="mean_rank", activation="relu").provenance
    assert record["criterion"]["name"] == "mean_rank"
    assert record["criterion"]["activation"] == "relu"
    assert record["remove"] == dict.fromkeys(("stem", "a", "b", "hidden"), 0.25) | {"head": 0.0}
    assert plan_for(ALL, exclude_last_layer=False).provenance["left_whole"] == {"head": "the model's output"}
    json.dumps(dict(record))


@pytest.mark.parametrize(
    ("config_list", "says"),
    [
        (
            [{"sparsity_per_layr": 0.5, "op_types": ["Conv2d"]}],
            "unknown key 'sparsity_per_layr'. Did you mean 'sparsity",
        ),
        ([{"sparsity": 0.5, "op_types": ["Conv2D"]}], "no layer is a 'Conv2D'. Did you mean 'Conv2d'"),
        ([{"sparsity": 0.5, "op_names": ["hiden"]}], "no layer is called 'hiden'. Did you mean 'hidden'"),
        ([{"sparsity": 0.5, "op_partial_names": ["layer4"]}], "'layer4' is part of no layer's name"),
        ([{"sparsity": 0.5, "op_names": ["a"], "op_types": ["Linear"]}], "no layer matches all of op_types, op_names"),
        ([{"sparsity": 0.5, "total_sparsity": 0.5, "op_types": ["Conv2d"]}], "sparsity and total_sparsity contradict"),
        ([{"sparsity_per_layer": 0.5, "sparsity": 0.5, "op_types": ["Conv2d"]}], "contradict each other"),
        ([{"exclude": True, "sparsity": 0.5, "op_types": ["Conv2d"]}], "sparsity and exclude contradict"),
        ([{"op_types": ["Conv2d"]}], "says no sparsity"),
        ([{"sparsity": 0.5}], "names no layers"),
        ([{"sparsity": 1.0, "op_types": ["Conv2d"]}], "at least 0 and less than 1"),
        ([{"sparsity": "half", "op_types": ["Conv2d"]}], "not 'half'"),
        ([{"sparsity": 0.5, "op_types": "Conv2d"}], "op_types is a list of names"),
        (
            [{"sparsity": 0.5, "op_types": ["Conv2d"], "max_sparsity_per_layer": 0.6}],
            "no effect without total_sparsity",
        ),
        ([{"total_sparsity": 0.5, "op_types": ["Conv2d"], "max_sparsity_per_layer": 0.4}], "cannot be reached"),
        (
            [{"total_sparsity": 0.5, "op_types": ["Conv2d"], "max_sparsity_per_layer": {"hidden": 0.6}}],
            "'hidden' is no layer of this entry",
        ),
        (
            [{"sparsity": 0.5, "op_types": ["Conv2d"]}, {"sparsity": 0.25, "op_names": ["a"]}],
            r"config_list\[1\] and config_list\[0\] say different things for 'a'",
        ),
        (
            [{"sparsity": 0.5, "op_types": ["Conv2d"]}, {"total_sparsity": 0.5, "op_names": ["a"]}],
            "say different things for 'a'",
        ),
        ([{"sparsity": 0.5, "op_names": ["head"]}], "names 'head', which exclude_last_layer=True leaves whole"),
        ("[{", "config_list is no JSON"),
        ({"sparsity": 0.5}, "config_list is a list of dicts"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(config_list: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        plan_for(config_list)


def test_a_layer_that_cannot_be_pruned_is_an_error_where_it_is_named() -> None:
    with pytest.raises(ConfigError, match="'head' cannot be pruned: the model's output"):
        plan_for([{"sparsity": 0.5, "op_names": ["head"]}], exclude_last_layer=False)
    with pytest.raises(ConfigError, match=r"'hidden' cannot be pruned: excluded \(hidden\)"):
        plan_for([{"sparsity": 0.5, "op_names": ["hidden"]}], exclude=["hidden"])


def test_options_that_cannot_be_meant_are_refused() -> None:
    for options, says in (
        ({"config_list": ALL}, "looks at data"),
        ({"data_loader": LOADER, "training_steps": 3, "num_batches": 3}, "one of them"),
        ({"data_loader": LOADER, "pruner_type": "l1"}, "pruner_type"),
        ({"data_loader": LOADER, "steps": 3}, "steps"),
        ({"data_loader": LOADER, "pruner": "apoz"}, "unknown option 'pruner'"),
    ):
        with pytest.raises(ConfigError, match=says):
            activation(net(), options)


# NNI 3's keys


def test_a_sparse_ratio_is_a_share_of_each_layer() -> None:
    three = [
        {"sparse_ratio": 0.5, "op_names_re": ["^[02]$"], "exclude_op_names": ["2"], "target_names": ["weight", "bias"]}
    ]
    two = [{"sparsity_per_layer": 0.5, "op_names": ["0"]}]
    found, wanted = (
        words.read_config_list(_three_layers(), words.ActivationOptions(config_list=c)) for c in (three, two)
    )
    assert found.per_layer == {**wanted.per_layer, "4": 0.0}


def test_a_global_group_shares_its_ratio() -> None:
    entry = {"sparse_ratio": 0.25, "global_group_id": "all", "max_sparse_ratio": 0.5, "op_types": ["Linear"]}
    found = words.read_config_list(_three_layers(), words.ActivationOptions(config_list=[entry]))
    (total,) = found.totals
    assert total.share == 0.25
    assert total.most == {"0": 0.5, "2": 0.5}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"sparse_ratio": 0.5, "op_types": ["Linear"], "min_sparse_ratio": 0.1}, "min_sparse_ratio has no counterpart"),
        ({"sparse_ratio": 0.5, "sparsity": 0.5, "op_types": ["Linear"]}, "contradict each other"),
        ({"sparse_ratio": 0.5, "op_types": ["Linear"], "granularity": [4, 4]}, "whole output units"),
        ({"sparse_ratio": 0.5, "op_types": ["Linear"], "target_names": ["_output_"]}, "weight and bias together"),
        ({"sparse_ratio": 0.5, "op_names_re": ["("]}, "no regular expression"),
        ({"sparse_ratio": 0.5, "op_names_re": ["conv"]}, "matches no layer"),
        ({"sparse_ratio": 0.5, "op_types": ["Linear"], "exclude_op_types": ["Linaer"]}, "Did you mean 'Linear'?"),
        ({"op_types": ["Linear"], "sparsity": 0.5, "global_group_id": "a"}, "has no effect without sparse_ratio"),
    ],
)
def test_what_nni_3_says_and_cannot_be_meant_is_told(entry: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        words.read_config_list(_three_layers(), words.ActivationOptions(config_list=[entry]))
    assert said in str(refused.value)


def _three_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
