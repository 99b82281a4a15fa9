"""Narrowing without a model, with gradients into the shared weights, and stopped at any moment."""

from __future__ import annotations

import copy
import re
import sys
from collections import OrderedDict
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from tests.fuzz.networks import TRAPS
from tests.fuzz.oracle import random_plan
from torch import nn

import secateur as sc
from secateur.errors import PlanError
from secateur.torch import apply as applying
from secateur.torch.narrowing import installing
from secateur.torch.narrowing.slices import narrowed

NETWORKS = ["conv_chain", "grouped_conv8", "fused_qkv", "grouped_query_attention", "lstm_linear", "tied_embedding"]


def planned(name: str, seed: int = 3) -> tuple[nn.Module, tuple[Any, ...], sc.Plan]:
    network = TRAPS[name]()
    return network.model, network.inputs, random_plan(sc.trace(network.model, network.inputs), seed)


def test_the_arrays_of_a_plan_are_made_once_and_cannot_be_written() -> None:
    _, _, plan = planned("conv_chain")
    assert plan.arrays is plan.arrays
    name = next(iter(plan.kept))
    assert plan.arrays[name].tolist() == list(plan.kept[name])
    with pytest.raises(ValueError, match="read-only"):
        plan.arrays[name][0] = 5
    with pytest.raises(TypeError):
        plan.arrays[name] = np.zeros(1, dtype=np.int64)  # type: ignore[index]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_knows_which_tensors_get_smaller(name: str) -> None:
    model, _, plan = planned(name)
    small = sc.apply(model, plan, verify=False).state_dict()
    smaller = {key for key, tensor in model.state_dict().items() if small[key].shape != tensor.shape}
    assert smaller <= set(plan.narrowed)
    assert all(plan.narrows(key) == (key in plan.narrowed) for key in small)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_dict_is_narrowed_without_a_model(name: str) -> None:
    model, _, plan = planned(name)
    state = model.state_dict()
    before = {key: tensor.clone() for key, tensor in state.items()}
    found = narrowed(state, plan)
    expected = sc.apply(model, plan, verify=False).state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert all(torch.equal(state[key], before[key]) for key in before)
    assert isinstance(found, OrderedDict)
    assert found._metadata == state._metadata  # type: ignore[attr-defined]


def test_tied_weights_of_a_state_dict_stay_tied() -> None:
    model, _, plan = planned("tied_embedding")
    found = narrowed(model.state_dict(), plan)
    tied = [[n for n, p in model.named_parameters(remove_duplicate=False) if p is q] for q in model.parameters()]
    assert any(len(names) > 1 for names in tied)
    for names in tied:
        assert len({id(found[name]) for name in names}) == 1


def test_a_shard_is_narrowed_and_strangers_are_refused() -> None:
    model, _, plan = planned("conv_chain")
    state = model.state_dict()
    one = plan.narrowed[0]
    assert narrowed({one: state[one]}, plan)[one].shape == plan.shape(one)
    with pytest.raises(PlanError, match="none of these tensors"):
        narrowed({f"module.{key}": tensor for key, tensor in state.items()}, plan)
    with pytest.raises(PlanError, match="expects"):
        narrowed({one: state[one][:1]}, plan)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_a_shared_subnet_reach_the_kept_slices_of_the_models_own_weights(name: str) -> None:
    model, inputs, plan = planned(name)
    small = sc.apply(model, plan, verify=False)
    small(*inputs).square().sum().backward()
    objects = [id(p) for p in model.parameters()]
    with sc.subnet(model, plan, shared=True):
        model(*inputs).square().sum().backward()
        model(*inputs).square().sum().backward()  # a slice serves more than one pass
    assert [id(p) for p in model.parameters()] == objects
    whole = dict(model.named_parameters())
    for key, p in small.named_parameters():
        grad = whole[key].grad
        if p.grad is None:
            assert grad is None
            continue
        assert grad is not None
        torch.testing.assert_close(narrowed({key: grad}, plan)[key] if plan.narrows(key) else grad, 2 * p.grad)
        assert grad.count_nonzero() == p.grad.count_nonzero()


def test_gradients_of_a_subnet_stay_in_it_by_default() -> None:
    model, inputs, plan = planned("conv_chain")
    with sc.subnet(model, plan):
        model(*inputs).sum().backward()
    assert all(p.grad is None for n, p in model.named_parameters() if plan.narrows(n))


def test_a_list_that_a_hook_fills_is_filled_by_the_copy_and_a_closure_over_the_model_is_the_copys() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
            self.call = lambda x: self.last(self.first(x).relu())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.call(x)

    model, seen = Net(), []
    model.first.register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(2, 6)
    plan = sc.trace(model, x).plan({"first.out_features": [1, 4, 6]})
    small = sc.apply(model, plan)
    seen.clear()
    assert torch.allclose(small(x), small.last(small.first(x).relu()))
    assert small.first.weight.shape == (3, 6)
    assert seen == [1, 1]


def state_of(model: nn.Module) -> list[Any]:
    """All that modules hold: names and values, tensors as bits, everything else by what it prints."""
    held: list[Any] = []
    for path, module in model.named_modules():
        for key, value in module.__dict__.items():
            entries = value.items() if isinstance(value, dict) else [("", value)]
            for inner, entry in entries:
                tensor = isinstance(entry, torch.Tensor)
                plain = re.sub("0x[0-9a-f]+|[0-9]+\\.[0-9]+", "", str(entry))
                shown = (entry.tolist(), type(entry).__name__, entry.requires_grad) if tensor else plain
                held.append((path, key, inner, shown))
    return held


class Interrupt:
    """Raises KeyboardInterrupt once, at the n-th line of the library that is run."""

    def __init__(self, at: int) -> None:
        self.left, self.fired = at, False

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if "secateur" not in frame.f_code.co_filename or "/tests/" in frame.f_code.co_filename:
            return None
        if event == "line" and not self.fired:
            self.left -= 1
            if self.left < 0:
                self.fired = True
                raise KeyboardInterrupt
        return self


def interrupted(model: nn.Module, plan: sc.Plan, at: int) -> bool:
    """Whether narrowing in place came to the n-th line and was stopped there."""
    before = sys.gettrace()
    interrupt = Interrupt(at)
    sys.settrace(interrupt)
    try:
        sc.apply(model, plan, in_place=True, verify=False)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return interrupt.fired


@pytest.mark.parametrize("name", ["conv_chain", "grouped_query_attention", "lstm_linear", "tied_embedding"])
@pytest.mark.parametrize("way", ["side by side", "tensor by tensor"])
def test_ctrl_c_at_any_line_leaves_the_whole_or_the_narrowed_network(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "tensor by tensor":
        monkeypatch.setattr(applying, "fits_beside", lambda model, plan: False)
    model, _, plan = planned(name)
    model, after = copy.deepcopy(model), copy.deepcopy(model)
    sc.apply(after, plan, in_place=True, verify=False)
    states = [state_of(model), state_of(after)]
    at, seen = 0, set()
    while True:
        trial = copy.deepcopy(model)
        if not interrupted(trial, plan, at):
            break
        now = state_of(trial)
        assert now in states, f"line {at}"
        seen.add(states.index(now))
        at += 1 + at // 40  # every line of the beginning, and a fair sample of the rest
    assert at > 100
    assert seen <= {0, 1}


@pytest.mark.parametrize("at", [0, 1])
def test_a_fault_with_fitted_weights_leaves_every_number_as_it_was(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, plan = planned("conv_chain")
    fitted = {name: torch.full_like(t, 0.5) for name, t in sc.apply(model, plan, verify=False).state_dict().items()}
    before = state_of(model)
    steps = ["relink", "_drop_caches"]

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(installing, steps[at], fail)
        with pytest.raises(KeyboardInterrupt):
            applying.apply_fitted(model, plan, fitted)
    assert state_of(model) == before
    stays = {name: p for name, p in model.named_parameters() if not plan.narrows(name)}
    applying.apply_fitted(model, plan, fitted)
    assert all(bool((t == 0.5).all()) for t in model.state_dict().values() if t.is_floating_point())
    assert all(model.get_parameter(name) is p for name, p in stays.items())
