"""An optimizer after pruning: the surviving parameters, their rows of state, and nothing else."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

import secateur as sc
from secateur.errors import InputError
from secateur.torch.narrowing.history import history_of
from secateur.torch.narrowing.slices import narrow_tensor
from secateur.torch.prune import PruneResult
from secateur.torch.training.optimizer import remap_optimizer

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(16) % 5

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True, foreach=True),
    "adam fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
}


class Grouped(nn.Module):
    """Exact widths of every kind: plain, residual, grouped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.mid = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.last = nn.Conv2d(16, 12, 3, padding=1, bias=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem(x))
        x = x + functional.relu(self.mid(x))
        return self.head(functional.relu(self.last(x)).mean((2, 3)))


def trained(make: Callable[..., torch.optim.Optimizer]) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Grouped().double()
    optimizer = make(model.parameters())
    for _ in range(3):
        step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer, masks: dict[str, torch.Tensor] | None = None) -> None:
    optimizer.zero_grad()
    functional.cross_entropy(model(X.double()), Y).backward()
    for name, p in model.named_parameters():
        if masks and p.grad is not None:
            p.grad *= masks[name]
    optimizer.step()


def cut(plan: sc.Plan, name: str, tensor: torch.Tensor) -> torch.Tensor:
    return narrow_tensor(tensor, plan.layouts[name], plan.arrays) if name in plan.layouts else tensor


def masks_of(plan: sc.Plan, model: nn.Module) -> dict[str, torch.Tensor]:
    masks = {}
    for name, p in model.named_parameters():
        places = torch.arange(p.numel()).view(p.shape)
        mask = torch.zeros(p.numel(), dtype=p.dtype)
        mask[cut(plan, name, places).reshape(-1)] = 1
        masks[name] = mask.view(p.shape)
    return masks


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_on_is_what_masked_training_would_have_done(name: str) -> None:
    model, optimizer = trained(OPTIMIZERS[name])
    plan = sc.plan(sc.trace(model, X.double()), "l1", {"macs": "55%"})
    masked = copy.deepcopy(model)
    twin = OPTIMIZERS[name](masked.parameters())
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    masks = masks_of(plan, masked)
    assert any(float(mask.min()) == 0 for mask in masks.values())
    with torch.no_grad():
        for key, p in masked.named_parameters():
            p *= masks[key]

    sc.apply(model, plan, in_place=True)
    assert remap_optimizer(optimizer, model) is optimizer
    for _ in range(2):
        step(model, optimizer)
        step(masked, twin, masks)
        with torch.no_grad():  # momentum goes on moving what was removed; a mask holds it at zero
            for key, p in masked.named_parameters():
                p *= masks[key]
    for key, p in model.named_parameters():
        torch.testing.assert_close(p, cut(plan, key, dict(masked.named_parameters())[key].detach()), msg=key)
        for part, value in optimizer.state[p].items():
            if isinstance(value, torch.Tensor) and value.dim():
                assert value.shape == p.shape, (key, part)


@pytest.mark.parametrize("way", ["in place", "tensor by tensor", "a new model"])
def test_several_prunings_compose(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "tensor by tensor":
        monkeypatch.setattr("secateur.torch.narrowing.in_place.LARGE_BYTES", 0)
    model, optimizer = trained(OPTIMIZERS["adam"])
    expected = {name: optimizer.state[p]["exp_avg"].clone() for name, p in model.named_parameters()}
    for share in ("80%", "70%", "60%"):
        plan = sc.plan(sc.trace(model, X.double()), "l1", {"macs": share})
        expected = {name: cut(plan, name, value) for name, value in expected.items()}
        model = sc.apply(model, plan, in_place=way != "a new model")
    remap_optimizer(optimizer, model)
    assert [id(p) for g in optimizer.param_groups for p in g["params"]] == [id(p) for p in model.parameters()]
    for name, p in model.named_parameters():
        assert torch.equal(optimizer.state[p]["exp_avg"], expected[name])
        assert float(optimizer.state[p]["step"]) == 3
    assert len(optimizer.state) == len(expected)


def test_remapping_after_every_pruning_is_remapping_once() -> None:
    found = []
    for often in (True, False):
        model, optimizer = trained(OPTIMIZERS["adamw amsgrad"])
        for share in ("80%", "70%"):
            sc.apply(model, sc.plan(sc.trace(model, X.double()), "l1", {"macs": share}), in_place=True)
            if often:
                remap_optimizer(optimizer, model)
        remap_optimizer(optimizer, model)
        found.append([optimizer.state[p]["max_exp_avg_sq"] for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_groups_schedulers_and_named_parameters_stay() -> None:
    torch.manual_seed(0)
    model, other = Grouped(), nn.Linear(2, 2)
    groups = [
        {"params": list(model.stem.named_parameters()), "lr": 0.5, "weight_decay": 0.1},
        {"params": [*model.mid.named_parameters(), *model.last.named_parameters()]},
        {"params": list(other.named_parameters()), "lr": 0.25},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    functional.cross_entropy(model(X), Y).backward()
    optimizer.step()
    sc.prune(model, "magnitude", {"macs": "60%"}, X)
    remap_optimizer(optimizer, model)
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.25, 0.05, 0.125]
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert optimizer.param_groups[0]["params"][0] is model.stem.weight
    assert optimizer.param_groups[1]["param_names"] == ["weight", "bias", "weight"]
    assert optimizer.param_groups[2]["params"][0] is other.weight
    assert model.stem.weight.grad.shape == model.stem.weight.shape


def test_a_parameter_that_is_gone_leaves_its_group() -> None:
    model, optimizer = trained(OPTIMIZERS["adam"])
    sc.apply(model, sc.plan(sc.trace(model, X.double()), "l1", {"macs": "60%"}), in_place=True)
    del model.mid.bias
    model.mid.bias = None
    remap_optimizer(optimizer, model)
    assert [id(p) for g in optimizer.param_groups for p in g["params"]] == [id(p) for p in model.parameters()]
    assert {id(p) for p in optimizer.state} == {id(p) for p in model.parameters()}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 24)
        self.wide = nn.Linear(24, 32)
        self.back = nn.Linear(32, 24)
        self.head = nn.Linear(24, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.back(functional.relu(self.wide(self.embed(ids)))))


def test_tied_weights_stay_one_parameter_with_one_state() -> None:
    torch.manual_seed(0)
    model, ids = Tied(), torch.arange(11).view(1, 11)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model(ids).square().mean().backward()
    optimizer.step()
    whole = optimizer.state[model.embed.weight]["exp_avg"].clone()
    _, result = sc.prune(model, "magnitude", {"params": "50%"}, ids)
    remap_optimizer(optimizer, model)
    assert model.head.weight is model.embed.weight
    assert model.embed.weight.shape[1] < 24
    assert torch.equal(optimizer.state[model.embed.weight]["exp_avg"], cut(result.plan, "embed.weight", whole))
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))


def test_factored_state_is_cut_along_the_axes_it_has() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 4)), torch.randn(5, 6)
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.01)
    model(x).square().mean().backward()
    optimizer.step()
    before = {name: dict(optimizer.state[p]) for name, p in model.named_parameters()}
    plan = sc.plan(sc.trace(model, x), "l1", {"params": "50%"})
    kept = torch.tensor(plan.kept["0.out_features"])
    sc.apply(model, plan, in_place=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        remap_optimizer(optimizer, model)
    state = optimizer.state[model[0].weight]
    assert torch.equal(state["row_var"], before["0.weight"]["row_var"][kept])
    assert torch.equal(state["col_var"], before["0.weight"]["col_var"])
    model(x).square().mean().backward()
    optimizer.step()


def test_state_that_cannot_be_cut_is_dropped_and_named() -> None:
    model, x = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 4)), torch.randn(5, 6)
    optimizer = torch.optim.Adam(model.parameters())
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.state[model[0].weight]["blocks"] = torch.ones(7)
    optimizer.state[model[2].bias]["blocks"] = torch.ones(7)
    sc.prune(model, "magnitude", {"params": "50%"}, x)
    with pytest.warns(UserWarning, match=r"'blocks' of 0\.weight has shape \(7,\)"):
        remap_optimizer(optimizer, model)
    assert model[0].weight not in optimizer.state
    assert "blocks" in optimizer.state[model[2].bias]  # its parameter was not cut
    model(x).square().mean().backward()
    optimizer.step()


def test_an_optimizer_of_another_model_is_refused() -> None:
    model, _ = trained(OPTIMIZERS["adam"])
    stranger = torch.optim.Adam(nn.Linear(2, 2).parameters())
    sc.prune(model, "magnitude", {"macs": "60%"}, X.double())
    with pytest.raises(InputError, match="none of the optimizer's parameters"):
        remap_optimizer(stranger, model)
    with pytest.raises(InputError, match="narrowed model, not dict"):
        remap_optimizer(stranger, {})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="LBFGS"):
        remap_optimizer(torch.optim.LBFGS(model.parameters()), model)


def test_the_history_holds_no_tensor_and_can_be_pickled_and_copied() -> None:
    model, optimizer = trained(OPTIMIZERS["adam"])
    plan = sc.plan(sc.trace(model, X.double()), "l1", {"macs": "60%"})
    sc.apply(model, plan, in_place=True)
    old = history_of(model).narrowings[0].before["stem.weight"]
    assert old() is optimizer.param_groups[0]["params"][0]
    assert copy.deepcopy(model)(X.double()).equal(model(X.double()))
    assert len(history_of(pickle.loads(pickle.dumps(model))).narrowings) == 0
    remap_optimizer(optimizer, model)
    assert old() is None


def test_a_fault_leaves_no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = trained(OPTIMIZERS["adam"])
    plan = sc.plan(sc.trace(model, X.double()), "l1", {"macs": "60%"})

    def fault(*_: object) -> None:
        raise RuntimeError("pulled the plug")

    monkeypatch.setattr("secateur.torch.narrowing.installing._drop_caches", fault)
    with pytest.raises(sc.SecateurError):
        sc.apply(model, plan, in_place=True)
    assert not history_of(model).narrowings
    assert remap_optimizer(optimizer, model).param_groups[0]["params"][0] is model.stem.weight


@pytest.mark.skipif(
    "history" not in {f.name for f in dataclasses.fields(PruneResult)},
    reason="PruneResult.history is not there yet",
)
def test_the_result_of_prune_will_do() -> None:
    model, optimizer = trained(OPTIMIZERS["adam"])
    _, result = sc.prune(model, "magnitude", {"macs": "60%"}, X.double())
    remap_optimizer(optimizer, result)
    assert optimizer.param_groups[0]["params"][0] is model.stem.weight
