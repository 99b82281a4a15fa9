"""ModelOpt's words: modes as lists, search spaces by module type, their names of options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.compat import modelopt
from secateur.errors import ConfigError, InputError
from secateur.modes import MODES

INPUT = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()


def test_a_list_with_one_mode_is_the_same_as_its_name() -> None:
    other = sc.prune(network(), "magnitude", {"macs": "50%"}, INPUT, {"criterion": "l2"})[1]
    for mode in ([("magnitude", {"criterion": "l2"})], {"magnitude": {"criterion": "l2"}}):
        assert modelopt.prune(network(), mode, {"macs": "50%"}, INPUT)[1].plan == other.plan
    assert modelopt.read(["magnitude"]) == ("magnitude", {})


def test_options_beside_the_mode_in_a_list_and_those_of_config_go_together() -> None:
    listed: dict[str, Any] = {"nn.Conv2d": {"*": {"channel_divisor": 4}}, "multiple_of": 2}
    config = {"score_func": lambda model: 0.5, "max_evaluations": 1, "multiple_of": 2, "nn.Conv2d": {"*": {}}}
    with pytest.warns(UserWarning, match="no data"):
        result = modelopt.prune(network(), [("fastnas", listed)], {"macs": "60%"}, INPUT, config)[1]
    assert result.plan.kept
    assert all(len(kept) % 2 == 0 for kept in result.plan.kept.values())
    for other, said in (({"multiple_of": 4}, "multiple_of"), ({"nn.Conv2d": {"*": {"channel_divisor": 8}}}, "divisor")):
        with pytest.raises(ConfigError, match=said):
            modelopt.prune(network(), [("fastnas", listed)], {"macs": "60%"}, INPUT, other)
    with pytest.raises(ConfigError, match="dict"):
        modelopt.prune(network(), [("fastnas", listed)], {"macs": "60%"}, INPUT, MODES["magnitude"]())  # type: ignore[arg-type]


def test_two_modes_in_a_list_and_what_is_no_mode_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 modes"):
        modelopt.read([("magnitude", {}), ("fastnas", {})])
    with pytest.raises(ConfigError, match="a mode is a name"):
        modelopt.prune(network(), 7, {"macs": "50%"}, INPUT)  # type: ignore[arg-type]


def test_rules_and_batches_are_read_in_our_words() -> None:
    types = {"nn.Conv2d": {"*": {"channel_divisor": 4, "channels_ratio": (0.5, 1.0)}}, "nn.Linear": {"*": None}}
    config = {"max_iter_data_loader": 2, "num_epochs": 3, **types}
    rules = {"nn.Conv2d": {"*": {"multiple_of": 4, "ratios": (0.5, 1.0)}}, "nn.Linear": {"*": None}}
    assert modelopt.read("fastnas", config) == ("fastnas", {"num_epochs": 3, "rules": rules, "num_batches": 2})
    with pytest.raises(ConfigError, match="keep one"):
        modelopt.read("fastnas", {**config, "num_batches": 3})
    with pytest.raises(ConfigError, match="says again"):
        modelopt.read("fastnas", {"nn.Conv2d": {"*": {"multiple_of": 8, "channel_divisor": 8}}})


def test_a_type_that_is_misspelt_is_an_error_that_names_the_nearest() -> None:
    config: dict[str, Any] = {"score_func": lambda model: 0.5, "nn.Conv2D": {"*": None}}
    with pytest.raises(InputError, match="Conv2d"):
        modelopt.prune(network(), "fastnas", {"macs": "60%"}, INPUT, config)
