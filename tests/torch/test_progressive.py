"""``mode="progressive"``, and ``steps`` and ``compensate`` of the other modes: several rounds, one plan, all or nothing."""

from __future__ import annotations

import copy
import gc
import json
import os
import random
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.interruptions.networks import SUBJECTS
from tests.zoo.shim import declare_torchvision_operators
from torch import multiprocessing, nn
from torch.nn import functional as F

import secateur as sc
from secateur.core.plan import Plan
from secateur.errors import ConfigError, Infeasible, SecateurError
from secateur.modes.progressive import Progressive
from secateur.modes.task import Task
from secateur.search.evidence import Found
from secateur.torch.compensation import Compensator
from secateur.torch.frontend import TorchFrontend, TorchWorking
from secateur.torch.running.batch_norm import reestimate_batch_norm
from secateur.torch.running.data import Data

declare_torchvision_operators()

GENERATOR = torch.Generator().manual_seed(7)
X = torch.randn(96, 3, 10, 10, generator=GENERATOR)
Y = torch.randint(0, 5, (96,), generator=GENERATOR)
BATCHES = [(X[i : i + 24], Y[i : i + 24]) for i in range(0, 96, 24)]


class Network(nn.Module):
    """Residual, grouped and depthwise convolutions, batch norms, dropout, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.enter = nn.Conv2d(24, 32, 1)
        self.inside = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.middle = nn.BatchNorm2d(32)
        self.outside = nn.Conv2d(32, 24, 1)
        self.depthwise = nn.Conv2d(24, 24, 3, stride=2, groups=24)
        self.widen = nn.Conv2d(24, 40, 1)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(40, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.outside(torch.relu(self.middle(self.inside(self.enter(x)))))
        x = torch.relu(self.widen(self.depthwise(x)))
        return self.head(self.dropout(x.mean((2, 3))))


def network() -> Network:
    torch.manual_seed(0)
    model = Network()
    reestimate_batch_norm(model, BATCHES)
    return model.eval()


class Attention(nn.Module):
    """Grouped queries: eight query heads read four key and value heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(32, 64), nn.Linear(32, 32), nn.Linear(32, 32)
        self.out = nn.Linear(64, 32)
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)
        self.head = nn.Linear(32, 5)
        self.groups, self.rank = 4, 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time, _ = x.shape
        q = self.q(x).view(batch, time, self.groups, -1, self.rank).flatten(2, 3).transpose(1, 2)
        k, v = (m(x).view(batch, time, self.groups, self.rank).transpose(1, 2) for m in (self.k, self.v))
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


TOKENS = [(torch.randn(12, 6, 32, generator=GENERATOR), torch.randint(0, 5, (12,), generator=GENERATOR)) for _ in "123"]


def attention() -> Attention:
    torch.manual_seed(0)
    return Attention().eval()


ROUNDS: list[tuple[Task, Plan]] = []


class Watched(Progressive):
    """The progressive mode, noting every round."""

    def search(self, task: Task) -> Found:
        if task.step == 0:
            ROUNDS.clear()
        found = super().search(task)
        ROUNDS.append((task, found.plan))
        return found


def pruned(model: nn.Module, share: str = "50%", metric: str = "macs", **config: Any) -> sc.PruneResult:
    return sc.prune(model, "progressive", {metric: share}, X[:1], {"data_loader": BATCHES, **config})[1]


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# -- budgets, seeds, rounds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraints", "steps", "least"),
    [
        ({"macs": "50%"}, 6, 0.97),  # a group of four channels is a lot here, and later rounds cannot give one back
        ({"params": "30%"}, 3, 0.99),
        ({"macs": "15%"}, 2, 0.96),
        ({"params": "60%", "macs": "45%"}, 6, 0.96),
    ],
)
def test_a_budget_is_met_and_nearly_used_up(constraints: dict[str, str], steps: int, least: float) -> None:
    model, result = sc.prune(network(), "progressive", constraints, X[:1], {"data_loader": BATCHES, "steps": steps})
    used = [result.after[name] / (result.before[name] * float(share[:-1]) / 100) for name, share in constraints.items()]
    assert max(used) <= 1
    assert max(used) >= least
    again = sc.trace(model, X[:1])
    assert (again.macs, again.params) == (result.macs, result.params)
    assert result.params == sum(p.numel() for p in model.parameters())
    assert result.plan.provenance["steps"] == steps
    assert result.verification.passed
    assert all(t.isfinite().all() for t in model.state_dict().values())


def test_the_same_seed_gives_the_same_plan_and_bit_equal_weights() -> None:
    results = []
    for noise in (1, 2):
        model = network()
        torch.manual_seed(noise)  # what the caller's generator does must not matter
        results.append((pruned(model).plan.kept, state(model)))
    assert results[0][0] == results[1][0]
    assert_same(results[0][1], results[1][1])


def test_a_search_that_stopped_midway_goes_on_with_its_scores(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    calls, allowed = [], 0

    def loss(output: torch.Tensor, batch: Any) -> torch.Tensor:
        calls.extend([1] * torch.is_grad_enabled())  # not where the result is scored
        if len(calls) > allowed:
            raise Stop
        return F.cross_entropy(output, batch[1])

    expected = network()
    plan = pruned(expected, steps=3).plan
    each = len(BATCHES)
    for allowed in (0, each // 2, 2 * each + 1, 3 * each):  # each goes on where the one before stopped
        calls.clear()
        model = network()
        if allowed < 3 * each:
            with pytest.raises(Stop):
                pruned(model, steps=3, loss_func=loss, checkpoint=tmp_path)
            continue
        assert pruned(model, steps=3, loss_func=loss, checkpoint=tmp_path).plan == plan
        assert len(calls) == each  # two of three rounds were on the disk
        assert_same(state(model), state(expected))
    assert len(list(tmp_path.iterdir())) == 3


def test_rounds_approach_the_budget_geometrically_and_kept_sets_nest() -> None:
    model = network()
    _, result = sc.prune(model, Watched(data_loader=BATCHES, steps=6), {"macs": "20%"}, X[:1])
    assert len(ROUNDS) == 6
    assert [task.step for task, _ in ROUNDS] == list(range(6))
    whole = result.before["macs"]
    costs = [task.graph.macs for task, _ in ROUNDS] + [result.macs]
    for number, cost in enumerate(costs):
        bound = whole * 0.2 ** (number / 6)
        assert 0.97 * bound <= cost <= bound
    left = {w.name: np.arange(w.size) for w in ROUNDS[0][0].graph.widths if w.outer is None}
    for task, found in ROUNDS:
        for name, kept in ((name, kept) for name, kept in found.arrays.items() if name in left):
            assert task.graph[name].size == len(left[name])
            left[name] = left[name][kept]
    final = result.plan.arrays
    for name, kept in left.items():
        assert np.array_equal(final.get(name, np.arange(result.plan.graph[name].size)), kept), name


@pytest.mark.parametrize(
    ("build", "data", "metric"), [(network, BATCHES, "macs"), (attention, TOKENS, "params")], ids=["grouped", "heads"]
)
@pytest.mark.parametrize("mode", ["progressive", "magnitude"])
def test_rounds_without_compensation_are_the_final_plan_applied_at_once(
    build: Any, data: Any, metric: str, mode: str
) -> None:
    """Also where every head or group keeps positions of its own: the weights are the original's, bit for bit."""
    model, original = build(), build()
    config = {"data_loader": data, "steps": 4, "compensate": "none"}
    example = data[0][0][:1]
    _, result = sc.prune(model, mode, {metric: "35%"}, example, config)
    at_once = sc.apply(original, reread(result.plan), verify=False)
    measured = ("running_mean", "running_var", "num_batches_tracked")
    weights = [{k: v for k, v in state(m).items() if not k.endswith(measured)} for m in (model, at_once)]
    assert_same(weights[0], weights[1])
    assert result.after[metric] <= 0.35 * result.before[metric]
    assert {w.kind for w in result.plan.graph.widths if w.name in result.plan.kept} & {"groups", "rank", "channels"}


@pytest.mark.parametrize(("build", "data"), [(network, BATCHES), (attention, TOKENS)], ids=["grouped", "heads"])
@pytest.mark.parametrize("compensate", ["bias", "least_squares"])
def test_weights_after_several_rounds_are_fitted_once_from_the_originals(
    build: Any, data: Any, compensate: Any
) -> None:
    """What a round gives back serves the next round's scores; held on to, fits would add up their errors."""
    model = build()
    config = {"data_loader": data, "steps": 3, "compensate": compensate}
    _, result = sc.prune(model, "progressive", {"params": "35%"}, data[0][0][:1], config)
    compensator = Compensator(build(), Data(loader=data), method=compensate)
    at_once = sc.apply(build(), reread(result.plan), verify=False)
    compensator.fit(at_once, result.plan)
    assert result.refitted
    assert_same(state(at_once), state(model))


def reread(plan: Plan) -> Plan:
    """A plan as from a file, for another instance of the model."""
    return sc.Plan.from_json(plan.to_json())


@pytest.mark.parametrize(
    ("build", "data", "options"),
    [
        (network, BATCHES, {"steps": 8, "allocation": "uniform"}),
        (attention, TOKENS, {"steps": 4, "allocation": "global"}),
    ],
    ids=["grouped", "heads"],
)
def test_kept_sets_of_each_group_of_its_own_compose(build: Any, data: Any, options: dict[str, Any]) -> None:
    mode = Watched(data_loader=data, **options)
    _, result = sc.prune(build(), mode, {"params": "25%"}, data[0][0][:1])
    ragged = [name for name, kept in result.plan.arrays.items() if kept.ndim == 2]
    rounds = [sum(found.arrays.get(name, np.zeros(1)).ndim == 2 for _, found in ROUNDS) for name in ragged]
    assert ragged
    assert max(rounds) > (build is network)  # query heads can go once only: there are two in each group
    assert result.params <= 0.25 * result.before["params"]
    assert result.verification.passed


@pytest.mark.parametrize("steps", [1, 3])
def test_multiples_are_multiples_of_the_original_widths(steps: int) -> None:
    _, result = sc.prune(
        network(), "progressive", {"macs": "50%"}, X[:1], {"data_loader": BATCHES, "steps": steps, "multiple_of": 4}
    )
    graph = result.plan.graph
    for width in graph.free:
        positions = result.plan.sizes[width.name] * width.multiplier * (graph[width.outer].size if width.outer else 1)
        assert positions % 4 == 0 or result.plan.sizes[width.name] == width.size, width.name
    assert result.plan.kept


@pytest.mark.parametrize("mode", ["progressive", "magnitude"])
def test_floors_and_kept_widths_are_those_of_the_original_in_all_rounds(mode: str) -> None:
    model = network()
    config = {"data_loader": BATCHES, "steps": 4, "floor": 0.7, "exclude": ["widen"]}
    _, result = sc.prune(model, mode, {"macs": "65%"}, X[:1], config)
    assert model.widen.out_channels == 40
    for name in result.plan.kept:
        assert result.plan.sizes[name] >= 0.7 * result.plan.graph[name].size, name


def test_a_ceiling_takes_its_share_once() -> None:
    model = network()
    result = pruned(model, "90%", steps=4, ceiling=0.9)
    for width in result.plan.graph.free:
        assert 0.65 * width.size <= result.plan.sizes[width.name] <= 0.9 * width.size, width.name


def test_a_floor_that_the_budget_cannot_meet_is_refused_whatever_the_number_of_rounds() -> None:
    for steps in (1, 4):
        with pytest.raises(Infeasible):
            pruned(network(), "20%", steps=steps, floor=0.7)


def test_a_budget_out_of_reach_is_refused_before_anything_is_looked_at() -> None:
    asked = []

    def loss(output: Any, batch: Any) -> torch.Tensor:
        asked.append(batch)
        return output.sum()

    model = network()
    before = state(model)
    with pytest.raises(Infeasible):
        pruned(model, "0.01%", loss_func=loss)
    assert asked == []
    assert_same(before, state(model))


# -- options of every mode ---------------------------------------------------------------------------------------------


def score(model: nn.Module) -> float:
    with torch.no_grad():
        return -float(F.cross_entropy(model(X[:24]), Y[:24]))


OTHERS = {
    "magnitude": {},
    "gradnas": {"num_batches": 2},
    "fastnas": {"score_func": score, "max_evaluations": 8},
}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("compensate", ["bias", "least_squares"])
@pytest.mark.parametrize("mode", OTHERS)
def test_other_modes_take_steps_and_compensate(mode: str, compensate: str, steps: int) -> None:
    model = network()
    wanted = model(X)
    config = {"data_loader": BATCHES, "compensate": compensate, "steps": steps, "verify": False, **OTHERS[mode]}
    _, result = sc.prune(model, mode, {"macs": "50%"}, X[:1], config)
    least = 0.97 if mode == "magnitude" else 0.6  # a threshold on scores takes steps
    assert least * 0.5 <= result.macs / result.before["macs"] <= 0.5
    assert result.refitted
    assert result.plan.provenance["compensate"] == compensate
    plain = sc.apply(network(), reread(result.plan), verify=False)
    assert F.mse_loss(model(X), wanted) < F.mse_loss(plain(X), wanted)


def test_the_activation_mode_compensates_and_refuses_steps() -> None:
    config = {"data_loader": BATCHES, "remove": {"nn.Conv2d": 0.3}}
    model = network()
    wanted = model(X)
    _, result = sc.prune(model, "activation", None, X[:1], {**config, "compensate": "least_squares"})
    assert result.refitted
    plain = sc.apply(network(), reread(result.plan), verify=False)
    assert F.mse_loss(model(X), wanted) < F.mse_loss(plain(X), wanted)
    with pytest.raises(ConfigError, match="steps"):
        sc.prune(network(), "activation", None, X[:1], {**config, "steps": 2})


@pytest.mark.parametrize("mode", ["magnitude", "progressive"])
def test_compensation_without_data_is_refused_by_name(mode: str) -> None:
    with pytest.raises(ConfigError, match="data_loader"):
        sc.prune(network(), mode, {"macs": "50%"}, X[:1], {"compensate": "least_squares"})


def test_steps_need_no_data_where_nothing_is_compensated() -> None:
    model = network()
    before = state(model)
    _, result = sc.prune(model, "magnitude", {"macs": "50%"}, X[:1], {"steps": 3})
    kept = result.plan.indices("widen.bias")[0]
    assert torch.equal(model.widen.bias, before["widen.bias"][torch.as_tensor(kept)])
    assert result.refitted == ()


# -- what the model is afterwards --------------------------------------------------------------------------------------


def test_batch_norm_is_measured_at_the_end_where_nothing_is_compensated() -> None:
    for mode in ("progressive", "magnitude"):
        model = network()
        config = {"data_loader": BATCHES, "steps": 2, "compensate": "none"}
        sc.prune(model, mode, {"macs": "50%"}, X[:1], config)
        after = state(model)
        reestimate_batch_norm(model, BATCHES)
        assert_same(after, state(model))


def test_a_saved_result_is_restored_bit_for_bit(tmp_path: Path) -> None:
    model = network()
    pruned(model, steps=3)
    sc.save(model, tmp_path / "small")
    restored = sc.restore(Network().eval(), tmp_path / "small")
    assert_same(state(model), state(restored))
    assert torch.equal(model(X), restored(X))
    assert len(sc.plans_of(model)) == 1


def test_training_flags_and_frozen_parameters_stay() -> None:
    model = network().train()
    model.middle.eval()
    model.inside.weight.requires_grad_(False)
    model.norm.requires_grad_(False)
    flags = {name: m.training for name, m in model.named_modules()}
    grads = {name: p.requires_grad for name, p in model.named_parameters()}
    pruned(model, steps=2)
    assert {name: m.training for name, m in model.named_modules()} == flags
    assert {name: p.requires_grad for name, p in model.named_parameters()} == grads
    assert all(p.is_leaf and p.grad is None for p in model.parameters())
    F.cross_entropy(model(X), Y).backward()  # it trains on
    assert model.head.weight.grad is not None


def test_channels_last_stays_channels_last() -> None:
    model = network().to(memory_format=torch.channels_last)
    batches = [(x.to(memory_format=torch.channels_last), y) for x, y in BATCHES]
    sc.prune(model, "progressive", {"macs": "50%"}, batches[0][0][:1], {"data_loader": batches, "steps": 2})
    assert model.inside.weight.is_contiguous(memory_format=torch.channels_last)
    other = network()
    pruned(other, steps=2)
    assert torch.allclose(model(X), other(X), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_stay_and_are_compensated(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    wanted = model(X.to(dtype))
    batches = [(x.to(dtype), y) for x, y in BATCHES]
    config = {"data_loader": batches, "steps": 2}
    _, result = sc.prune(model, "progressive", {"macs": "60%"}, batches[0][0][:1], config)
    assert result.refitted
    assert {p.dtype for p in model.parameters()} == {dtype}
    plain = sc.apply(network().to(dtype), reread(result.plan), verify=False)
    assert F.mse_loss(model(X.to(dtype)), wanted) < F.mse_loss(plain(X.to(dtype)), wanted)


def test_hooks_stay_and_the_optimizer_can_follow() -> None:
    model, calls = network(), []
    model.head.register_forward_hook(lambda *_: calls.append(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruned(model, steps=2)
    calls.clear()
    model(X)
    assert calls == [1]
    from secateur.torch.training.optimizer import remap_optimizer

    remap_optimizer(optimizer, model)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


# -- all or nothing ----------------------------------------------------------------------------------------------------


class Failing:
    """A loader that raises at the n-th batch it is asked for, over all its readings."""

    def __init__(self, at: int) -> None:
        self.at, self.asked = at, 0

    def __iter__(self) -> Iterator[Any]:
        for batch in BATCHES:
            self.asked += 1
            if self.asked == self.at:
                raise OSError("the disk is gone")
            yield batch


class FailingLoss:
    """Cross entropy until the n-th call."""

    def __init__(self, at: int, error: type[BaseException] = ValueError) -> None:
        self.at, self.asked, self.error = at, 0, error

    def __call__(self, output: Any, batch: Any) -> torch.Tensor:
        self.asked += 1
        if self.asked == self.at:
            raise self.error("no loss today")
        return F.cross_entropy(output, batch[1])


def with_nan(position: int) -> list[Any]:
    batches = copy.deepcopy(BATCHES)
    batches[position][0][3, 0, 0, 0] = float("nan")
    return batches


FAULTS: dict[str, tuple[type[BaseException], Any]] = {
    "the loss in the first round": (ValueError, lambda: {"loss_func": FailingLoss(2)}),
    "the loss in the third round": (ValueError, lambda: {"loss_func": FailingLoss(10)}),
    "an interrupt in the second round": (KeyboardInterrupt, lambda: {"loss_func": FailingLoss(6, KeyboardInterrupt)}),
    "the loader at its first batch": (OSError, lambda: {"data_loader": Failing(1)}),
    "the loader later on": (OSError, lambda: {"data_loader": Failing(7)}),
    "labels that are no classes": (Exception, lambda: {"data_loader": [(x, y + 50) for x, y in BATCHES]}),
    "inputs of another shape": (Exception, lambda: {"data_loader": [*BATCHES[:2], (X[:4, :2], Y[:4])]}),
    "not a number in the data": (SecateurError, lambda: {"data_loader": with_nan(2)}),
    "no batch at all": (SecateurError, lambda: {"data_loader": []}),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_fault_midway_leaves_no_mark(fault: str) -> None:
    error, config = FAULTS[fault]
    model = network().train()
    model.middle.eval()
    model.norm.weight.requires_grad_(False)
    hook = model.head.register_forward_hook(lambda *_: None)
    before, values = state(model), dict(model.named_parameters())
    flags = {name: m.training for name, m in model.named_modules()}
    grads = {name: p.requires_grad for name, p in model.named_parameters()}
    attributes = {name: dict(m.__dict__) for name, m in model.named_modules()}
    random_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    with pytest.raises(error):
        sc.prune(model, "progressive", {"macs": "40%"}, X[:1], {"data_loader": BATCHES, "steps": 4, **config()})
    assert_same(before, state(model))
    assert all(p is values[name] for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert {name: m.training for name, m in model.named_modules()} == flags
    assert {name: p.requires_grad for name, p in model.named_parameters()} == grads
    assert {name: m.__dict__.keys() for name, m in model.named_modules()} == {
        n: a.keys() for n, a in attributes.items()
    }
    assert model.inside.in_channels == 32
    assert list(model.head._forward_hooks) == [hook.id]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules() if m is not model.head)
    assert torch.equal(random_state, torch.get_rng_state())
    assert (np.random.get_state()[1] == numpy_state).all()
    assert random.getstate() == python_state
    assert torch.is_grad_enabled()


def test_random_numbers_of_the_caller_are_left_alone() -> None:
    model = network().train()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    pruned(model, steps=2)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_a_model_that_keeps_an_activation_from_training_is_pruned() -> None:
    model = network()
    model.head.register_forward_hook(lambda module, _, out: setattr(module, "last", out))
    F.cross_entropy(model(X), Y).backward()
    model.zero_grad()
    result = pruned(model, steps=2)
    assert result.refitted


# -- two processes -----------------------------------------------------------------------------------------------------

RANKS = 2


def simple() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    return model.eval()


def compensated(batches: list[Any], method: Any) -> nn.Module:
    """The plan is the same everywhere, and all positions are looked at: what differs is where the batches are."""
    model = simple()
    graph = sc.trace(model, X[:1])
    plan = sc.plan(graph, "l1", {"macs": "50%"})
    compensator = Compensator(model, Data(loader=batches), method=method)
    small = sc.apply(model, plan, verify=False)
    compensator.fit(small, plan)
    return small


SMALL = [(x[:, :, :7, :7], y) for x, y in BATCHES]  # of the layers that are fitted, every position is looked at


def one_rank(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=number, world_size=RANKS)
    mine = SMALL[number::RANKS]
    for method in ("bias", "least_squares"):
        torch.save(compensated(mine, method).state_dict(), f"{folder}/{method}{number}.pt")
    model = simple()
    config = {"data_loader": BATCHES[number::RANKS], "steps": 2}
    _, result = sc.prune(model, "progressive", {"macs": "50%"}, X[:1], config)
    torch.save(model.state_dict(), f"{folder}/progressive{number}.pt")
    Path(folder, f"plan{number}.json").write_text(json.dumps(result.plan.to_json()), "utf-8")
    journals = Path(folder, "journals")
    again = {**config, "checkpoint": journals}
    plans = [sc.prune(simple(), "progressive", {"macs": "50%"}, X[:1], again)[1].plan]
    dist.barrier()
    if number == 0:  # the kill came before this rank had written anything of the second round
        max(journals.glob("*.jsonl"), key=lambda path: ("rank" not in path.name, path.stat().st_mtime_ns)).unlink()
    dist.barrier()
    plans.append(sc.prune(simple(), "progressive", {"macs": "50%"}, X[:1], again)[1].plan)
    Path(folder, f"journalled{number}.json").write_text(json.dumps([plan == result.plan for plan in plans]), "utf-8")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    before = os.environ.get("GLOO_SOCKET_IFNAME")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # gloo's own links stay on this machine
    try:
        multiprocessing.spawn(one_rank, args=(str(folder),), nprocs=RANKS)
    finally:
        os.environ.pop("GLOO_SOCKET_IFNAME")
        if before is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = before
    return folder


@pytest.mark.parametrize("method", ["bias", "least_squares"])
def test_two_processes_fit_as_one_with_all_batches_does(ranks: Path, method: str) -> None:
    alone = compensated(SMALL, method).state_dict()
    first, second = (torch.load(ranks / f"{method}{number}.pt") for number in range(RANKS))
    assert_same(first, second)
    changed = 0
    for name, tensor in alone.items():
        assert torch.allclose(first[name], tensor, rtol=1e-4, atol=1e-5), name
        changed += tensor.dtype.is_floating_point and not torch.equal(tensor, compensated_start()[name])
    assert changed


def compensated_start() -> dict[str, torch.Tensor]:
    model = simple()
    return sc.apply(model, sc.plan(sc.trace(model, X[:1]), "l1", {"macs": "50%"}), verify=False).state_dict()


def test_two_processes_prune_progressively_to_the_same_model(ranks: Path) -> None:
    plans = [(ranks / f"plan{number}.json").read_text("utf-8") for number in range(RANKS)]
    assert plans[0] == plans[1]
    assert_same(*(torch.load(ranks / f"progressive{number}.pt") for number in range(RANKS)))


def test_ranks_of_which_one_has_lost_its_scores_score_together(ranks: Path) -> None:
    for number in range(RANKS):
        assert json.loads((ranks / f"journalled{number}.json").read_text("utf-8")) == [True, True]
    assert len(list((ranks / "journals").iterdir())) == 2 * RANKS


def _pruned_in_two_rounds(name: str) -> sc.PruneResult:
    subject = SUBJECTS[name]
    model, loader = subject.build(), [subject.inputs(4, seed) for seed in (1, 2)]
    graph = sc.trace(model, subject.inputs(2))
    smallest = graph.cost("params", {width.name: width.choices[0] for width in graph.free})
    config = {"data_loader": loader, "collect_func": lambda batch: batch, "loss_func": _square, "steps": 2}
    wanted = {"params": (graph.params + int(smallest)) // 2}
    return sc.prune(model, "progressive", wanted, subject.inputs(2), {**config, "scoring_samples": 4})[1]


def _square(output: Any, batch: Any) -> torch.Tensor:
    return (output if isinstance(output, torch.Tensor) else output.logits).float().square().mean()


def test_a_later_round_narrows_nothing_that_the_first_did_not_tie_together() -> None:
    """Which experts run depends on numbers that compensation changes: a later trace may couple others."""
    assert _pruned_in_two_rounds("experts").verification.passed


def test_random_numbers_that_the_models_code_draws_are_none_of_the_callers() -> None:
    def states() -> list[Any]:
        numpy: Any = np.random.get_state()
        return [random.getstate(), numpy[1].tolist(), torch.get_rng_state().tolist()]

    before = states()
    _pruned_in_two_rounds("keeper")
    assert states() == before


def test_with_nothing_said_the_way_that_answers_samples_left_out_nearer_is_taken() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, 6)).eval()
    x = torch.randn(256, 5) @ torch.randn(5, 12)
    loader = list(zip(x.split(32), net(x).argmax(1).split(32), strict=True))
    narrowed, result = sc.prune(copy.deepcopy(net), "progressive", {"params": "40%"}, x[:2], {"data_loader": loader})
    ways: dict[str, float] = result.plan.provenance["ways"]
    assert set(ways) == {"brain_surgeon, steps=1", "gate_gradient, steps=6"}
    criterion, steps = min(ways, key=lambda way: ways[way]).split(", steps=")
    said: dict[str, Any] = {"data_loader": loader, "criterion": criterion, "steps": int(steps)}
    alone, by_hand = sc.prune(copy.deepcopy(net), "progressive", {"params": "40%"}, x[:2], said)
    assert by_hand.plan.sizes == result.plan.sizes
    assert "ways" not in by_hand.plan.provenance
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(narrowed.parameters(), alone.parameters(), strict=True))


def test_where_few_of_the_classes_are_answered_nothing_is_scored_on_a_network_that_was_fitted() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, 40)).eval()
    x, y = torch.randn(2000, 12), torch.arange(64) % 40
    few = x[net(x).argmax(1) == net(x).argmax(1)[0]][:64]
    assert len(few) > 32
    loader = list(zip(few.split(32), y.split(32), strict=False))
    _, result = sc.prune(net, "progressive", {"params": "60%"}, x[:2], {"data_loader": loader})
    asked = result.plan.provenance
    assert (asked["criterion"]["name"], asked["steps"]) == ("brain_surgeon", 1)
    assert "ways" not in asked


def test_the_copy_that_a_way_was_tried_on_is_gone_when_the_next_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 6)).eval(), torch.randn(64, 12)
    copies, there, copied = list[weakref.ref[nn.Module]](), list[int](), TorchFrontend.copied

    def watched(self: TorchFrontend) -> TorchWorking:
        gc.collect()
        there.append(sum(ref() is not None for ref in copies))
        working = copied(self)
        copies.append(weakref.ref(working.model))
        return working

    monkeypatch.setattr(TorchFrontend, "copied", watched)
    sc.prune(net, "progressive", {"params": "60%"}, x[:2], {"data_loader": list(x.split(16)), "verify": False})
    assert there == [0, 1, 1]  # that of the rounds themselves stays
