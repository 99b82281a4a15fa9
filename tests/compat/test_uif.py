"""Vitis AI's and UIF's words: removal ratios, functions with their arguments, runners."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, os.fspath(Path(__file__).parents[1] / "torch"))

from judged_nets import INPUT, accuracy, calibrate, digits, running_accuracy, trained

from secateur.compat.uif import IterativeRunner, OneStepRunner, constraints_of, get_pruning_runner, schedule
from secateur.core.budget import Budget
from secateur.errors import InputError
from secateur.torch.narrowing.masks import masks_of
from secateur.torch.trace import trace

TRAIN, VALID = digits()


def iterative() -> IterativeRunner:
    runner = get_pruning_runner(trained(), INPUT, "iterative")
    assert isinstance(runner, IterativeRunner)
    return runner


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.352, 1 / 3, 0.7, 0.999])
def test_a_removal_ratio_leaves_the_rest_of_the_macs(ratio: float) -> None:
    graph = trace(trained(), INPUT)
    left = Budget.of(constraints_of(ratio), graph).bounds["macs"]
    assert left <= graph.macs * (1 - ratio) + 1e-6 < left + 1 + 1e-6


@pytest.mark.parametrize("ratio", [0, 1, 50, -0.1, True, "0.5"])
def test_what_is_no_ratio_is_refused(ratio: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        constraints_of(ratio)


def test_a_schedule_gives_cumulative_removal_ratios() -> None:
    assert schedule("linear", 4, 0.8) == [0.2, 0.4, 0.6, 0.8]
    assert schedule("geometric", 2, 0.75) == [0.5, 0.75]
    assert schedule("agp", 1, 0.7) == [0.7]


def test_the_iterative_runner_analyses_masks_and_narrows(tmp_path: Path) -> None:
    runner = iterative()
    runner.ana(accuracy, args=(VALID,), ratios=(0.25, 0.5, 0.75), path=tmp_path)
    assert (tmp_path / "journal.jsonl").exists()
    sparse = runner.prune(removal_ratio=0.3)
    assert masks_of(sparse)
    small = runner.prune(removal_ratio=0.5, mode="slim", channel_divisible=4, excludes=["0"])
    assert small[0].out_channels <= 16
    assert trace(small, INPUT).macs <= 0.5 * runner.pruner.graph.macs
    assert set(runner.slim_state_dict()) == set(small.state_dict())
    with pytest.raises(InputError, match="sparse"):
        runner.prune(0.5, mode="dense")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="removal_ratio or a threshold"):
        runner.prune()


def test_the_loop_of_their_page_saves_the_narrowed_weights_too(tmp_path: Path) -> None:
    runner = iterative()
    runner.ana(accuracy, args=(VALID,), ratios=(0.5,))
    for ratio in (0.2, 0.4):
        model = runner.prune(removal_ratio=ratio)
        assert hasattr(model, "slim_state_dict")
        torch.save(model.slim_state_dict(), tmp_path / "slim.pth")  # type: ignore[operator]
    small = runner.prune(0.4, mode="slim")
    small.load_state_dict(torch.load(tmp_path / "slim.pth"))
    assert not hasattr(small, "slim_state_dict")
    with pytest.raises(InputError, match="a copy of the model"):
        copy.deepcopy(model).slim_state_dict()  # type: ignore[operator]


def test_modules_are_excluded_as_there_and_arguments_may_be_a_list() -> None:
    model = trained()
    runner = get_pruning_runner(model, [INPUT], "iterative")
    assert isinstance(runner, IterativeRunner)
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    runner.ana(accuracy, args=(VALID,), ratios=(0.5,), excludes=[first])
    small: Any = runner.prune(0.3, mode="slim", excludes=[first])
    assert small[0].out_channels == first.out_channels
    with pytest.raises(InputError, match="no module of this model"):
        runner.ana(accuracy, args=(VALID,), excludes=[nn.Linear(2, 2)])


def test_gpus_that_mean_nothing_here_are_said() -> None:
    runner = get_pruning_runner(trained(), INPUT, "one_step")
    assert isinstance(runner, OneStepRunner)
    with pytest.warns(UserWarning, match="gpus=.* has no effect"):
        runner.search(
            gpus=["0"],
            calibration_fn=calibrate,
            calib_args=(TRAIN[:1],),
            eval_fn=running_accuracy,
            eval_args=(VALID,),
            num_subnet=1,
            removal_ratio=0.5,
        )


def test_the_one_step_runner_calibrates_on_what_the_function_passes_and_leaves_the_model_alone() -> None:
    runner = get_pruning_runner(trained(), INPUT, "one_step")
    assert isinstance(runner, OneStepRunner)
    model = runner.pruner.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    results = runner.search(calibrate, (TRAIN[:3],), running_accuracy, (VALID,), num_subnet=3, removal_ratio=0.5)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert accuracy(runner.prune(0.5), VALID) == pytest.approx(results[0].score)
    assert isinstance(runner.prune(index=0), nn.Module)


def test_arguments_that_are_no_tuple_and_other_methods_are_refused() -> None:
    with pytest.raises(InputError, match="args is a tuple"):
        iterative().ana(accuracy, args=VALID[0][0])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="supernets"):
        get_pruning_runner(trained(), INPUT, "ofa")  # type: ignore[arg-type]
