"""Masks: the network a plan will give, before it is narrowed, and the way back."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.fuzz.networks import random_network
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import secateur as sc
from secateur.errors import InputError, PlanError
from secateur.testing import random_plan
from secateur.torch.narrowing.masks import add_mask, mask_plan, masks_of, remove_masks
from secateur.torch.running.outputs import output_tensors


def conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.BatchNorm2d(12, affine=False),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, 8, 8) * 2 + 1)
    return model.eval()


def half(graph: sc.Graph) -> sc.Plan:
    return graph.plan({w.name: range(0, w.size, 2) for w in graph.free})


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_the_masked_network_computes_what_the_narrowed_one_does() -> None:
    model, x = conv_net().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    plan = half(sc.trace(model, x))
    narrowed = sc.apply(model, plan)
    before = model(x)
    mask_plan(model, plan)
    assert close(model(x), narrowed(x))
    assert not close(model(x), before)


@pytest.mark.parametrize("seed", range(20))
def test_random_networks_masked_and_narrowed_agree_and_masks_leave_no_trace(seed: int) -> None:
    network = random_network(seed)
    model = network.model.double().eval()
    inputs = tree_map(lambda x: x.double() if x.is_floating_point() else x, network.inputs)
    graph = sc.trace(model, (*inputs, {}) if isinstance(inputs[-1], dict) else inputs)
    exact = {name: kept for name, kept in random_plan(graph, seed).arrays.items() if graph[name].exact}
    try:
        plan = graph.plan(exact)
        narrowed = sc.apply(model, plan)
    except PlanError:
        pytest.skip("this plan is refused")
    names = [name for name, _ in model.named_parameters()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objects = {name: id(p) for name, p in model.named_parameters()}
    mask_plan(model, plan)
    with torch.no_grad():
        masked = output_tensors(model(*inputs))
        small = output_tensors(narrowed(*inputs))
    for a, b in zip(masked, small, strict=True):
        assert a.shape == b.shape
        if a.is_floating_point() and a.numel():
            scale = max(float(b.abs().nan_to_num(0, 0, 0).max()), 1e-30)
            assert bool(((a - b).abs().nan_to_num(0) / scale < 1e-8).all())
    remove_masks(model, leave_zeros=False)
    assert [name for name, _ in model.named_parameters()] == names
    assert {name: id(p) for name, p in model.named_parameters()} == objects
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items() if "num_b" not in name)


def test_statistics_of_a_norm_without_scale_are_masked_too_and_come_back() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)).sum(1)

    model, x = Net().double().eval(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    model.norm.running_mean.normal_()
    statistics, plan = model.norm.running_mean.clone(), half(sc.trace(model, x))
    expected = sc.apply(model, plan)(x)
    mask_plan(model, plan)
    assert plan.sizes["conv.out_channels"] == 4
    assert close(model(x), expected)
    remove_masks(model, leave_zeros=False)
    assert torch.equal(model.norm.running_mean, statistics)


def test_only_kept_entries_learn_and_zeros_can_be_left_behind() -> None:
    model, x = conv_net(), torch.randn(4, 3, 8, 8)
    plan = half(sc.trace(model, x))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model[0].weight.detach().clone()
    mask_plan(model.train(), plan)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    masked = masks_of(model)
    expected = model.eval()(x)
    remove_masks(model, leave_zeros=True)
    assert model[0].weight[1::2].abs().max() == 0
    assert not torch.equal(model[0].weight[::2], before[::2])
    assert torch.allclose(model(x), expected)
    assert all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in masked.items())
    assert torch.allclose(sc.apply(model, plan)(x), expected, atol=1e-5)


def test_hidden_weights_come_back_as_they_were() -> None:
    model = conv_net()
    before = copy.deepcopy(model.state_dict())
    mask_plan(model, half(sc.trace(model, torch.randn(1, 3, 8, 8))))
    assert set(masks_of(model)) == {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias", "8.weight"}
    assert not any("mask" in name for name in model.state_dict())
    remove_masks(model, leave_zeros=False)
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.inner, self.out = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.inner(self.embed(ids)).relu() + self.embed(ids))

    model, ids = Tied().double(), torch.tensor([[1, 4, 9]])
    plan = half(sc.trace(model, ids))
    expected = sc.apply(model, plan)(ids)
    mask_plan(model, plan)
    assert close(model(ids), expected)
    assert len(list(model.parameters())) == 3
    remove_masks(model, leave_zeros=True)
    assert model.out.weight is model.embed.weight
    assert close(model(ids), expected)


def test_a_recurrent_layer_is_masked_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.fc = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.lstm(x)[0])

    model, x = Net().double(), torch.randn(2, 5, 6, dtype=torch.float64)
    plan = half(sc.trace(model, x))
    expected = sc.apply(model, plan)(x)
    whole = model(x)
    mask_plan(model, plan)
    assert close(model(x), expected)
    remove_masks(model, leave_zeros=False)
    assert close(model(x), whole)
    copy.deepcopy(model)


def test_a_plan_for_another_model_changes_nothing() -> None:
    plan = half(sc.trace(conv_net(), torch.randn(1, 3, 8, 8)))
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    with pytest.raises(PlanError, match="expects 3"):
        mask_plan(other, plan)
    assert not masks_of(other)


def test_masks_that_do_not_fit_are_refused() -> None:
    layer = nn.Linear(4, 6)
    with pytest.raises(InputError, match="Did you mean 'weight'"):
        add_mask(layer, "weigth", torch.ones(6, 4))
    with pytest.raises(InputError, match="does not fit"):
        add_mask(layer, "weight", torch.ones(6))
    with pytest.raises(InputError, match="True and False"):
        add_mask(layer, "weight", torch.full((6, 4), 0.5))
    nn.utils.parametrizations.weight_norm(layer)
    with pytest.raises(InputError, match="parametrisation"):
        add_mask(layer, "weight", torch.ones(6, 4))


def test_two_masks_on_one_tensor_hold_together() -> None:
    layer = nn.Linear(4, 6)
    add_mask(layer, "weight", torch.tensor([1, 1, 1, 1, 1, 0]), axis=0)
    add_mask(layer, "weight", torch.tensor([1, 0, 1, 1]))
    assert masks_of(layer)["weight"].sum() == 5 * 3
    assert not layer.weight[5].any()
    assert not layer.weight[:, 1].any()


def test_a_copy_of_a_masked_model_lives_on_by_itself() -> None:
    model, x = conv_net(), torch.randn(2, 3, 8, 8)
    mask_plan(model, half(sc.trace(model, x)))
    expected, twin = model(x), copy.deepcopy(model)
    remove_masks(model, leave_zeros=False)
    assert torch.equal(twin(x), expected)
    remove_masks(twin, leave_zeros=True)
    assert torch.equal(twin(x), expected)
