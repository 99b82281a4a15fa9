"""torch.ao's classes, with the arguments that they have there."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.ao.pruning._experimental.pruner.base_structured_sparsifier import _get_default_structured_pruning_patterns

from secateur.compat.torch_ao import BaseStructuredSparsifier, FPGMPruner, LSTMSaliencyPruner, SaliencyPruner
from secateur.errors import InputError

X = torch.randn(3, 6)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))


CONFIG = [{"tensor_fqn": "0.weight"}, {"tensor_fqn": "2.weight", "sparsity_level": 0.25}]


class FirstRows(BaseStructuredSparsifier):
    def update_mask(self, module: nn.Module, tensor_name: str, **config: object) -> None:
        mask = getattr(module.parametrizations, tensor_name)[0].mask
        mask.data[: int(len(mask) * config["sparsity_level"])] = False  # type: ignore[operator]


def pruned(pruner: BaseStructuredSparsifier, model: nn.Module, config: object = CONFIG) -> nn.Module:
    pruner.prepare(model, config, dummy_input=X)  # type: ignore[arg-type]
    pruner.enable_mask_update = True
    pruner.step()
    return pruner.prune()


@pytest.mark.parametrize("kind", [FirstRows, SaliencyPruner])
def test_defaults_hold_where_an_entry_says_nothing_and_their_patterns_pass(
    kind: type[BaseStructuredSparsifier],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner = kind({"sparsity_level": 0.5}, patterns=_get_default_structured_pruning_patterns())
        model = pruned(pruner, network())
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [6, 6, 2]


def test_a_rule_of_the_users_own_goes_before_that_of_the_class_it_inherits() -> None:
    class Mine(SaliencyPruner):
        update_mask = FirstRows.update_mask

    before = network()
    model = pruned(Mine({"sparsity_level": 0.5}), network())
    assert torch.equal(model[0].weight, before[0].weight[6:])  # type: ignore[index]


def test_the_geometric_median_takes_its_level_and_distance_as_there() -> None:
    model = pruned(FPGMPruner(0.75, dist=lambda a, b: torch.cdist(a, b, p=1)), network(), [{"tensor_fqn": "0.weight"}])
    assert model[0].out_features == 3  # type: ignore[index]


def test_units_of_an_lstm_go_as_a_whole() -> None:
    model = nn.LSTM(6, 8)
    pruner = LSTMSaliencyPruner({"sparsity_level": 0.5})
    pruner.prepare(model, [{"tensor_fqn": "weight_ih_l0"}, {"tensor_fqn": "weight_hh_l0"}], dummy_input=X)
    pruner.step()
    assert pruner.prune().hidden_size == 4


def test_patterns_of_ones_own_are_said_to_decide_nothing() -> None:
    with pytest.warns(UserWarning, match="1 of your own have no effect"):
        SaliencyPruner(patterns={(nn.Linear, nn.ReLU, nn.Linear): lambda *modules: None})


def test_without_an_input_the_model_cannot_be_run() -> None:
    with pytest.raises(InputError, match="dummy_input=x"):
        SaliencyPruner().prepare(network(), CONFIG)
