"""What holds a tensor beside the tables of its module, once that is narrowed in place."""

from __future__ import annotations

import copy
import functools
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.torch.narrowing import installing
from secateur.torch.training.optimizer import remap_optimizer

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


class Slots:
    __slots__ = ("unset", "weight")

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight


class Holder(nn.Module):
    """Its answer is scaled by what it holds of its first weight."""

    def __init__(self, hold: Callable[[Tensor], Any], scale: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 16), nn.Linear(16, 3)
        self.held, self.scale = hold(self.a.weight), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()) / self.scale(self.held)


def with_default(weight: Tensor) -> Callable[[], Tensor]:
    def scale(weight: Tensor = weight, *, again: Tensor = weight) -> Tensor:
        return (weight + again).norm()

    return scale


def hidden(weight: Tensor) -> list[nn.Module]:
    beside = nn.Linear(5, 16)
    beside.weight = weight  # type: ignore[assignment]
    return [beside]


HELD: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "an attribute": (lambda w: w, lambda h: h.norm()),
    "a list": (lambda w: [0, [w]], lambda h: h[1][0].norm()),
    "a deque": (lambda w: deque([w]), lambda h: h[0].norm()),
    "a dict": (lambda w: {"w": OrderedDict(w=w)}, lambda h: h["w"]["w"].norm()),
    "a defaultdict": (lambda w: defaultdict(list, {0: [w]}), lambda h: h[0][0].norm()),
    "a key": (lambda w: {w: 1}, lambda h: next(iter(h)).norm()),
    "a set": (lambda w: {w}, lambda h: next(iter(h)).norm()),
    "a frozen set in a tuple": (lambda w: (0, frozenset([w])), lambda h: next(iter(h[1])).norm()),
    "an object": (lambda w: types.SimpleNamespace(w=(w,)), lambda h: h.w[0].norm()),
    "an object with slots": (Slots, lambda h: h.weight.norm()),
    "a closure": (lambda w: lambda: w.norm(), lambda h: h()),
    "a closure over a closure": (lambda w: (lambda f: lambda: f())(lambda: w.norm()), lambda h: h()),
    "a default": (with_default, lambda h: h()),
    "a partial": (lambda w: functools.partial(lambda ws: ws[0].norm(), [w]), lambda h: h()),
    "a partial's argument": (lambda w: functools.partial(torch.norm, w), lambda h: h()),
    "a method": (lambda w: Slots(w).__getattribute__, lambda h: h("weight").norm()),
    "a tensor's method": (lambda w: types.MethodType(lambda s: s[0].norm(), [w]), lambda h: h()),
    "a module beside": (hidden, lambda h: h[0].weight.norm()),
    "a cache": (lambda w: functools.lru_cache(lambda: w.detach().norm()), lambda h: h()),
}


def masked(model: nn.Module, plan: sc.Plan) -> nn.Module:
    made = copy.deepcopy(model)
    for name, tensor in made.named_parameters():
        for axis, kept in enumerate(plan.indices(name) or ()):
            if kept is not None:
                gone = torch.from_numpy(np.setdiff1d(np.arange(tensor.shape[axis]), list(kept)))
                tensor.data.index_fill_(axis, gone, 0.0)
    return made


def built(way: str) -> Holder:
    torch.manual_seed(0)
    return Holder(*HELD[way]).eval()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("way", HELD)
def test_what_holds_a_narrowed_tensor_follows(way: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(way)
    model(X)
    plan = sc.plan(sc.trace(model, X), "l2", {"params": "60%"})
    assert plan.narrows("a.weight")
    wanted = built(way)
    wanted.load_state_dict(masked(model, plan).state_dict())
    if large:
        monkeypatch.setattr("secateur.torch.narrowing.in_place.LARGE_BYTES", -1)
    sc.apply(model, plan, in_place=True)
    assert torch.allclose(model(X), wanted(X), atol=1e-6)


@pytest.mark.parametrize("way", HELD)
def test_what_is_stopped_leaves_it_whole(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(way)
    before = model(X)
    plan = sc.plan(sc.trace(model, X), "l2", {"params": "60%"})

    def stop(model: nn.Module) -> None:
        raise RuntimeError("stopped")

    monkeypatch.setattr(installing, "_drop_caches", stop)
    with pytest.raises(sc.SecateurError, match="stopped"):
        sc.apply(model, plan, in_place=True)
    assert torch.equal(model(X), before)
    assert torch.equal(model.scale(model.held), model.a.weight.norm()) or way == "a default"


def test_a_gate_of_a_hook_is_narrowed_with_its_parameter() -> None:
    model = built("an attribute")
    gate = nn.Parameter(torch.rand(16))
    model.gate = gate
    model.a.register_forward_hook(lambda module, args, out: out * gate)
    sc.prune(model, "magnitude", {"params": "60%"}, X)
    assert model.gate.shape == model.a.bias.shape
    model(X).sum().backward()
    assert model.gate.grad is not None


class Classful(nn.Module):
    kept: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()) / type(self).kept.norm()


ALIASES: dict[str, Callable[[Tensor], Any]] = {
    "a closure": lambda w: lambda: w.norm(),
    "an object": lambda w: types.SimpleNamespace(w=w).__getattribute__("w").norm,
    "a partial in a dict": lambda w: functools.partial({"w": w}["w"].norm),
}


@pytest.mark.parametrize("way", ALIASES)
def test_another_view_of_a_weight_keeps_it_whole_wherever_it_is_held(way: str) -> None:
    model = Holder(lambda w: ALIASES[way](w.detach()), lambda h: h()).eval()
    assert "shares memory" in (sc.trace(model, X)["a.out_features"].frozen or "")


def test_what_a_class_holds_keeps_it_whole() -> None:
    model = Classful().eval()
    Classful.kept = model.a.weight
    try:
        assert "which its class holds" in (sc.trace(model, X)["a.out_features"].frozen or "")
    finally:
        Classful.kept = None


RETURNED: dict[str, Callable[[Tensor], Any]] = {
    "a partial": lambda z: functools.partial(torch.matmul, z),
    "a function": lambda z: lambda w: z @ w,
    "a method": lambda z: types.MethodType(lambda z, w: z @ w, (z,)),
    "a key": lambda z: {z: 1},
}


@pytest.mark.parametrize("way", RETURNED)
def test_what_hangs_on_what_is_returned_is_returned(way: str) -> None:
    class Net(Holder):
        def forward(self, x: Tensor) -> Any:
            z = self.a(x).relu()
            return self.b(z), RETURNED[way](z)

    model = Net(lambda w: None, lambda h: h).eval()
    assert sc.trace(model, X)["a.out_features"].frozen == "the model's output"


def test_an_optimizer_that_the_model_keeps_is_told_of_before_anything_changes() -> None:
    class Learner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
            self.tools = {"optimizer": torch.optim.Adam(self.parameters())}

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    model, x = Learner(), torch.randn(4, 6)
    with pytest.warns(UserWarning, match="keeps an optimizer"):
        _, result = sc.prune(model, "magnitude", {"params": "60%"}, x)
    remap_optimizer(model.tools["optimizer"], result)
    before = model.net[0].weight.detach().clone()
    model(x).sum().backward()
    model.tools["optimizer"].step()
    assert not torch.equal(before, model.net[0].weight)
