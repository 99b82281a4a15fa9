"""Iterative pruning: measured once, resumable, any ratio, rounds of masks that nest, narrowed at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from judged_nets import INPUT, Counting, Encoder, Stopped, accuracy, digits, network, train, trained
from torch import nn

from secateur.core.plan import Plan
from secateur.errors import ArtifactError, ConfigError, Infeasible, InputError, PlanError
from secateur.search.limits import Limits
from secateur.search.ranked import gives_back
from secateur.search.schedules import schedule
from secateur.search.sensitivity import Sensitivity
from secateur.torch.narrowing.masks import masks_of
from secateur.torch.pruners.iterative import IterativePruner
from secateur.torch.running.data import Data
from secateur.torch.trace import trace

TRAIN, VALID = digits()
RATIOS = (0.25, 0.5, 0.75)


@cache
def analysis() -> Sensitivity:
    pruner = IterativePruner(trained(), INPUT)
    return pruner.analyze(on_valid, ratios=RATIOS, data_loader=Data(loader=TRAIN, num_batches=3))


def on_valid(model: nn.Module) -> float:
    return accuracy(model, VALID)


def analysed(**limits: Any) -> IterativePruner:
    pruner = IterativePruner(trained(), INPUT, limits=limits)
    pruner.sensitivity = analysis()
    return pruner


def macs_left(pruner: IterativePruner, model: nn.Module) -> float:
    return trace(model, INPUT, check=False).macs / pruner.graph.macs


def test_an_analysis_measures_each_width_alone_and_changes_nothing() -> None:
    model, judge = trained(), Counting(batches=VALID)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner = IterativePruner(model, INPUT)
    found = pruner.analyze(judge, ratios=RATIOS, data_loader=Data(loader=TRAIN, num_batches=3))
    assert judge.calls == 3 * len(found.scores) + 1 == 10
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert found.whole == pytest.approx(accuracy(model, VALID), abs=0.03)
    assert sorted(found.scores["0.out_channels"]) == [4, 8, 12]
    assert min(found.scores["3.out_channels"].values()) < found.whole
    assert "0.out_channels" in str(found)


def test_batch_norm_is_measured_again_for_each_network() -> None:
    fresh, stale = IterativePruner(trained(), INPUT), IterativePruner(trained(), INPUT)
    with_data = fresh.analyze(on_valid, ratios=(0.5,), data_loader=TRAIN)
    without = stale.analyze(on_valid, ratios=(0.5,))
    assert sum(s for w in with_data.scores.values() for s in w.values() if s) > sum(
        s for w in without.scores.values() for s in w.values() if s
    )


@pytest.mark.parametrize("share", ["80%", "50%", "20%"])
def test_any_size_comes_from_one_analysis(share: str) -> None:
    pruner = analysed()
    small, result = pruner.narrow({"macs": share})
    left = float(share[:-1]) / 100
    assert left - 0.02 <= macs_left(pruner, small) <= left
    assert result.macs == trace(small, INPUT, check=False).macs
    assert result.verification.passed
    assert result.evidence.sensitivity is pruner.sensitivity
    assert pruner.plan is None
    assert small(INPUT).shape == (2, 10)


def test_a_width_that_matters_little_is_pruned_most() -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    pruner = IterativePruner(model, torch.zeros(2, 8))

    def judge(narrowed: nn.Module) -> torch.Tensor:
        return torch.tensor(1.0 - 0.02 * (32 - narrowed[0].out_features) - 0.001 * (32 - narrowed[2].out_features))

    pruner.analyze(judge)
    small, _ = pruner.narrow({"macs": "50%"})
    assert small[2].out_features < 16 < small[0].out_features


def test_a_threshold_takes_what_loses_no_more() -> None:
    for limits, left in (({}, 20), ({"multiple_of": 8}, 24)):
        model = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 4))
        pruner = IterativePruner(model, torch.zeros(2, 8), limits=limits)
        pruner.analyze(lambda model: 10.0 - 0.1 * (40 - model[0].out_features))
        assert pruner.narrow(threshold=0.2)[0][0].out_features == left


def test_rounds_of_masks_nest_and_training_goes_on_with_the_same_parameters() -> None:
    pruner, model = analysed(), None
    parameters = {id(p) for p in pruner.model.parameters()}
    optimizer = torch.optim.Adam(pruner.model.parameters(), 1e-3)
    kept: list[Plan] = []
    for constraints in schedule("agp", 3, {"macs": "40%"}):
        model, result = pruner.mask(constraints)
        assert result.plan is pruner.plan
        assert not result.verification.passed
        assert pruner.plan is not None
        kept.append(pruner.plan)
        assert model is pruner.model
        assert {id(p) for p in model.parameters()} == parameters
        train(model, 1, optimizer)
    for earlier, later in pairwise(kept):
        assert all(set(later.kept[name]) <= set(earlier.kept[name]) for name in earlier.kept)
        assert pruner.graph.cost("macs", later.sizes) < pruner.graph.cost("macs", earlier.sizes)
    assert model is not None
    small, _ = pruner.narrow()
    assert 0.38 <= macs_left(pruner, small) <= 0.4
    x = VALID[0][0]
    torch.testing.assert_close(small.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-4)
    assert masks_of(model)
    assert not masks_of(small)
    assert accuracy(small, VALID) > 0.85


def test_training_under_masks_revives_no_unit() -> None:
    pruner = analysed()
    train(pruner.mask({"macs": "50%"})[0], 1)
    assert pruner.plan is not None
    weight = dict(pruner.narrow()[0].named_parameters())["0.weight"]
    dead = sorted(set(range(16)) - set(pruner.plan.kept["0.out_channels"]))
    assert weight.shape[0] == 16 - len(dead)
    assert len(pruner.model[0].weight[dead].nonzero()) == 0


def test_what_masks_hide_says_nothing_in_later_rounds() -> None:
    plans: list[Plan] = []
    for hidden in (0.0, 1000.0):
        pruner = analysed()
        model, _ = pruner.mask({"macs": "60%"})
        assert pruner.plan is not None
        for name, mask in masks_of(model).items():
            module, _, key = name.rpartition(".")
            original = model.get_submodule(module).parametrizations[key].original
            noise = torch.rand(original.shape, generator=torch.Generator().manual_seed(0))
            original.data = torch.where(mask, original, hidden * noise)
        pruner.mask({"macs": "30%"})
        plans.append(pruner.plan)
    assert plans[0] == plans[1]


def test_the_narrowed_state_dict_loads_into_the_narrowed_model() -> None:
    pruner = analysed()
    sparse, _ = pruner.mask({"macs": "60%"})
    small, _ = pruner.narrow()
    train(sparse, 1)
    assert masks_of(sparse)
    for tensor in pruner.narrowed_state_dict().values():
        tensor.zero_()  # copies
    small.load_state_dict(pruner.narrowed_state_dict())
    torch.testing.assert_close(small.eval()(INPUT), sparse.eval()(INPUT), rtol=1e-4, atol=1e-4)


def test_narrowing_a_masked_model_goes_on_from_its_masks() -> None:
    pruner = analysed()
    pruner.mask({"macs": "70%"})
    first = pruner.plan
    small, _ = pruner.narrow({"macs": "40%"})
    assert pruner.plan is first
    assert macs_left(pruner, small) <= 0.4
    assert masks_of(pruner.model)
    assert first is not None
    assert small[0].out_channels <= first.sizes["0.out_channels"]


def test_a_later_run_puts_its_masks_back_and_goes_on(tmp_path: Path) -> None:
    pruner = IterativePruner(trained(), INPUT)
    pruner.analyze(on_valid, checkpoint=tmp_path, ratios=RATIOS)
    train(pruner.mask({"macs": "70%"})[0], 1)
    assert pruner.plan is not None
    saved, weights = pruner.plan.to_json(), pruner.model.state_dict()

    judge, later = Counting(batches=VALID), IterativePruner(network(), INPUT)
    later.resume(Plan.from_json(saved)).load_state_dict(weights)
    judge.__qualname__ = "on_valid"
    later.analyze(judge, checkpoint=tmp_path, ratios=RATIOS)
    assert judge.calls == 0
    later.mask({"macs": "50%"})
    pruner.mask({"macs": "50%"})
    assert later.plan is not None
    assert dict(later.plan.kept) == dict(pruner.plan.kept)
    other = IterativePruner(nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 4)), torch.zeros(2, 8))
    with pytest.raises(PlanError, match="another architecture"):
        other.resume(Plan.from_json(saved))
    with pytest.raises(InputError, match="pruned here already"):
        later.resume(Plan.from_json(saved))


def test_an_interrupted_analysis_repeats_nothing_and_ends_the_same(tmp_path: Path) -> None:
    first, second, whole = (Counting(stop_at, batches=VALID) for stop_at in (6, None, None))
    with pytest.raises(Stopped):
        IterativePruner(trained(), INPUT).analyze(first, checkpoint=tmp_path / "a.jsonl", ratios=RATIOS)
    resumed, straight = IterativePruner(trained(), INPUT), IterativePruner(trained(), INPUT)
    resumed.analyze(second, checkpoint=tmp_path / "a.jsonl", ratios=RATIOS)
    straight.analyze(whole, ratios=RATIOS)
    assert first.calls + second.calls == whole.calls == 10
    assert resumed.sensitivity == straight.sensitivity
    resumed.mask({"macs": "50%"})
    straight.mask({"macs": "50%"})
    assert resumed.plan is not None
    assert resumed.plan == straight.plan


KILLED = """
import os, signal, sys
from judged_nets import *
from secateur.torch.pruners.iterative import IterativePruner
class Dying(Counting):
    def __call__(self, model):
        if self.calls == self.stop_at: os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(model)
judge = Dying(5, batches=digits()[1])
IterativePruner(network(), INPUT).analyze(judge, checkpoint=sys.argv[1], ratios=(0.25, 0.5, 0.75))
"""


def test_a_killed_analysis_goes_on_where_it_was(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    threads = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    killed = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    judge, resumed = Counting(batches=VALID), IterativePruner(network(), INPUT)
    straight = IterativePruner(network(), INPUT)
    resumed.analyze(judge, checkpoint=tmp_path, ratios=RATIOS)
    straight.analyze(Counting(batches=VALID), ratios=RATIOS)
    assert judge.calls == 5
    assert resumed.sensitivity == straight.sensitivity
    resumed.mask({"macs": "50%"})
    straight.mask({"macs": "50%"})
    assert resumed.plan == straight.plan


def test_an_unfinished_analysis_does_not_go_on_with_other_weights(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        IterativePruner(trained(), INPUT).analyze(Counting(4, batches=VALID), checkpoint=tmp_path)
    with pytest.raises(ArtifactError, match="other weights"):
        IterativePruner(network(), INPUT).analyze(Counting(batches=VALID), checkpoint=tmp_path)


def test_an_analysis_with_other_data_is_refused(tmp_path: Path) -> None:
    whole, part = (partial(accuracy, batches=batches) for batches in (VALID, VALID[:1]))
    IterativePruner(trained(), INPUT).analyze(whole, checkpoint=tmp_path, ratios=(0.5,))
    with pytest.raises(ArtifactError, match="data"):
        IterativePruner(trained(), INPUT).analyze(part, checkpoint=tmp_path, ratios=(0.5,))


def test_excluded_widths_stay_whole_and_pruned_ones_stay_as_they_are() -> None:
    assert analysed(exclude=["0"]).narrow({"macs": "70%"})[0][0].out_channels == 16
    pruner = analysed()
    pruner.mask({"macs": "60%"})
    assert pruner.plan is not None
    width, earlier = pruner.plan.sizes["3.out_channels"], pruner.plan.kept["3.out_channels"]
    pruner.limits = Limits(exclude=["3"])
    pruner.mask({"macs": "40%"})
    assert width < 24
    assert pruner.plan.kept["3.out_channels"] == earlier

    partly = IterativePruner(trained(), INPUT, limits={"exclude": ["0"]})
    assert "0.out_channels" not in partly.analyze(on_valid, ratios=(0.5,)).scores
    assert partly.narrow({"macs": "70%"})[0][0].out_channels == 16


def test_a_round_that_asks_for_no_more_than_before_says_so() -> None:
    pruner = analysed()
    pruner.mask({"macs": "50%"})
    first = pruner.plan
    with pytest.warns(UserWarning, match="nothing more was masked"):
        pruner.mask({"macs": "70%"})
    assert first is not None
    assert pruner.plan is not None
    assert dict(pruner.plan.kept) == dict(first.kept)


def test_multiples_hold_in_every_round() -> None:
    pruner = analysed(multiple_of=4)
    for share in ("80%", "60%", "40%"):
        plan = pruner.mask({"macs": share})[1].plan
        assert all(plan.sizes[name] * pruner.graph[name].multiplier % 4 == 0 for name in plan.kept)


def test_attention_and_linear_widths_are_analysed_and_nest() -> None:
    model = Encoder().eval()
    pruner = IterativePruner(model, torch.zeros(2, 1, 8, 8))
    inexact = [width.name for width in pruner.graph.free if not width.exact]
    assert len(pruner.analyze(on_valid, ratios=(0.5,)).scores) >= 3
    pruner.limits = Limits(exclude=inexact)
    pruner.mask({"macs": "90%"})
    x = VALID[0][0][:8]
    torch.testing.assert_close(pruner.narrow()[0](x), model(x), rtol=1e-4, atol=1e-4)
    earlier = pruner.plan
    pruner.limits = Limits()
    pruner.mask({"macs": "50%"})
    later = pruner.plan
    assert earlier is not None
    assert later is not None
    assert earlier.kept != later.kept
    assert not gives_back(later, earlier)
    assert pruner.narrow()[0](x).shape == (8, 10)


def test_scores_that_are_no_numbers_count_as_the_worst() -> None:
    pruner = IterativePruner(nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 4)), torch.zeros(2, 8))
    pruner.analyze(lambda model: float("nan") if model[0].out_features < 30 else -2.0)
    assert pruner.narrow(threshold=0.5)[0][0].out_features == 32


def test_a_failure_leaves_the_masks_as_they_were() -> None:
    pruner = analysed()
    pruner.mask({"macs": "70%"})
    before = {name: mask.clone() for name, mask in masks_of(pruner.model).items()}
    with pytest.raises(Infeasible):
        pruner.mask({"macs": "0.01%"})
    after = masks_of(pruner.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_cannot_be_used_is_refused() -> None:
    pruner = IterativePruner(trained(), INPUT)
    with pytest.raises(InputError, match="analyze"):
        pruner.mask({"macs": "50%"})
    with pytest.raises(InputError, match="nothing is pruned"):
        pruner.narrow()
    with pytest.raises(InputError, match="one number"):
        pruner.analyze(lambda model: (1.0, 2.0))
    with pytest.raises(InputError, match="between 0 and 1"):
        pruner.analyze(on_valid, ratios=(1.5,))
    with pytest.raises(InputError, match="finite"):
        pruner.analyze(lambda model: float("nan"))
    with pytest.raises(ConfigError, match="limits: unknown option 'multiple'"):
        IterativePruner(trained(), INPUT, limits={"multiple": 8})
    pruner.analyze(on_valid, ratios=(0.5,))
    with pytest.raises(InputError, match="one of them"):
        pruner.mask()
    with pytest.raises(ConfigError, match="macs"):
        pruner.mask({"macs": "150%"})
    with pytest.raises(InputError, match="objective"):
        pruner.mask({"macs": "50%"}, objective="mean")  # type: ignore[arg-type]
