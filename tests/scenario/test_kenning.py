"""Kenning's scenarios: the tutorial's two, with only types and paths changed, and what cannot be meant."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.errors import ConfigError
from secateur.scenario import read_file, run
from secateur.scenario.models import build
from secateur.scenario.schema import Finetune, Prune
from tests.scenario.small import written

torch.set_num_threads(1)

TUTORIAL: dict[str, Any] = {
    "model_wrapper": {"type": "zoo:pets", "parameters": {"model_name": "nni-pruning-0_05"}},
    "dataset": {
        "type": "digits_in_colour",
        "parameters": {"dataset_root": "./build/PetDataset", "image_memory_layout": "NCHW"},
    },
    "optimizers": [
        {
            "type": "nni",
            "parameters": {
                "pruner_type": "mean_rank",
                "config_list": [{"total_sparsity": 0.05, "op_types": ["Conv2d", "Linear"]}],
                "training_steps": 16,
                "activation": "relu",
                "compiled_model_path": "build/nni-pruning-0_05.pth",
                "mode": "dependency_aware",
                "finetuning_epochs": 3,
                "finetuning_batch_size": 64,
                "confidence": 8,
                "criterion": "torch.nn.CrossEntropyLoss",
                "optimizer": "torch.optim.Adam",
                "pruning_on_cuda": True,
                "finetuning_learning_rate": 5e-05,
                "exclude_last_layer": True,
            },
        }
    ],
    "runtime": {"type": "pytorch", "parameters": {"save_model_path": "./build/nni-pruning-0_05.pth"}},
}


def changed(**parameters: Any) -> dict[str, Any]:
    data = copy.deepcopy(TUTORIAL)
    data["optimizers"][0]["parameters"] |= parameters
    return data


def test_the_network_of_the_tutorial_has_its_number_of_parameters() -> None:
    assert sum(p.numel() for p in build("zoo:pets").parameters()) == 4_130_853


@pytest.mark.filterwarnings("ignore:.*confidence has no effect")
@pytest.mark.parametrize(("sparsity", "steps", "most"), [(0.05, 16, 0.94), (0.15, 92, 0.80)])
def test_the_tutorial_runs(sparsity: float, steps: int, most: float, tmp_path: Path) -> None:
    data = changed(config_list=[{"total_sparsity": sparsity, "op_types": ["Conv2d", "Linear"]}], training_steps=steps)
    data["dataset"]["parameters"]["limit"] = 64  # the test's own: fewer images
    data["optimizers"][0]["parameters"]["finetuning_epochs"] = 1
    scenario = read_file(written(tmp_path, data))
    prune, finetune = scenario.stages[0], scenario.stages[1]
    assert isinstance(prune, Prune)
    assert isinstance(finetune, Finetune)
    assert (finetune.optimizer, finetune.lr, finetune.batch_size, finetune.loss) == ("adam", 5e-5, 64, "cross_entropy")
    (found,) = run(scenario, tmp_path, tmp_path / "out")
    assert 0 < found.costs["params"] <= most * 4_130_853
    assert found.name == "nni-pruning-0_05"
    assert (tmp_path / "out" / "nni-pruning-0_05" / "plan.json").is_file()


def test_the_whole_network_is_a_scenario_too(tmp_path: Path) -> None:
    scenario = read_file(written(tmp_path, {**TUTORIAL, "optimizers": []}))
    assert [stage.do for stage in scenario.stages] == ["measure"]


def test_what_has_no_effect_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="confidence has no effect"):
        read_file(written(tmp_path, TUTORIAL))


def _broken(part: str, **changes: Any) -> dict[str, Any]:
    data = copy.deepcopy(TUTORIAL)
    data[part]["parameters"] |= changes
    return data


@pytest.mark.filterwarnings("ignore:.*confidence has no effect")
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (changed(pruner="x"), "Did you mean 'pruner_type'?"),
        (changed(optimizer="torch.optim.Adagrad"), "is not known"),
        (changed(optimizer="os.system"), "is not known"),
        (changed(criterion="mine.Loss"), "is not known"),
        (changed(location="target"), "location"),
        (_broken("dataset", image_memory_layout="NHWC"), "NCHW in PyTorch"),
        (_broken("runtime", gpu=True), "has no counterpart"),
        ({**TUTORIAL, "optimisers": []}, "Did you mean 'optimizers'?"),
        ({**TUTORIAL, "optimizers": [{"type": "tflite"}]}, "the one optimizer that is read is nni"),
        ({**TUTORIAL, "dataset": "digits"}, "dataset is written"),
    ],
)
def test_what_cannot_be_meant_is_refused(data: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read_file(written(tmp_path, data))
    assert said in str(refused.value)


def test_pruning_off_the_gpu_is_meant(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="confidence"):
        scenario = read_file(written(tmp_path, changed(pruning_on_cuda=False)))
    assert isinstance(scenario.stages[0], Prune)
    assert scenario.stages[0].device == "cpu"
