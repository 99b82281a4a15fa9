"""What a call leaves for the next: read and written are one width, and the proof calls twice."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.errors import VerificationError
from secateur.torch.running.state import changed, state_of
from secateur.torch.tracing import observe

Hook = Callable[[nn.Module, object, Tensor], None]
X = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))


class Keeps(nn.Module):
    """A state that a linear layer makes of the input and of itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.out = nn.Linear(25, 20), nn.Linear(20, 2)
        self.start()

    def start(self) -> None:
        self.register_buffer("h", torch.zeros(2, 20))

    def read(self) -> Any:
        return self.h

    def write(self, h: Tensor) -> None:
        self.h = h.detach()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.mix(torch.cat([x, self.read()], 1)))
        self.write(h)
        return self.out(h)


class InPlace(Keeps):
    def write(self, h: Tensor) -> None:
        self.h.copy_(h.detach())


class InList(Keeps):
    def start(self) -> None:
        self.h, self.seen = torch.zeros(2, 20), []

    def read(self) -> Any:
        return self.mix.bias.expand(2, 20) if not self.seen else self.seen[-1]

    def write(self, h: Tensor) -> None:
        self.seen.append(h.detach())


class InDict(Keeps):
    def start(self) -> None:
        self.memory: dict[str, deque[Tensor]] = {"last": deque(maxlen=2)}

    def read(self) -> Any:
        return self.memory["last"][-1] if self.memory["last"] else self.mix.bias.expand(2, 20)

    def write(self, h: Tensor) -> None:
        self.memory["last"].append(h.detach())


def _narrow(graph: sc.Graph) -> sc.Plan:
    return graph.plan({width.name: range(3, 3 + width.size // 2) for width in graph.free})


@pytest.mark.parametrize("kind", [Keeps, InPlace, InList, InDict])
@pytest.mark.parametrize("used", [False, True])
def test_state_that_is_read_is_the_state_that_is_written(kind: type[Keeps], used: bool) -> None:
    model = kind().eval()
    if used:
        model(X)
    graph = sc.trace(model, X)
    small, masked = sc.apply(model, _narrow(graph)), copy.deepcopy(model)
    with torch.no_grad():
        for width in graph.free:
            gone = [unit for unit in range(20) if not 3 <= unit < 13]
            assert width.name == "mix.out_features"
            masked.mix.weight[gone] = masked.mix.bias[gone] = 0
            masked.mix.weight[:, [5 + unit for unit in gone]] = 0
        for _ in range(3):
            assert torch.allclose(small(X), masked(X), atol=1e-6)


def test_a_buffer_that_is_left_with_another_shape_stays_whole() -> None:
    class Grows(Keeps):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.mix(torch.cat([x, self.h[:, -20:]], 1)))
            self.h = torch.cat([h, h], 1).detach()
            return self.out(h)

    graph = sc.trace(Grows().eval(), X)
    assert "another shape" in str(graph["mix.out_features"].frozen)


def test_the_proof_sees_what_only_a_second_call_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "tie_kept", lambda *seen: None)
    monkeypatch.setattr(observe.Observation, "keeping", [], raising=False)
    monkeypatch.setattr(observe, "changed", lambda before, after: False)
    model = Keeps().eval()
    graph = sc.trace(model, X)
    mixed = graph.plan({"mix.out_features": range(12), "mix.in_features[1]": range(3, 15)})
    with pytest.raises(VerificationError, match="second call"):
        sc.verify(model, mixed, graph)
    uneven = graph.plan({"mix.out_features": range(12), "mix.in_features[1]": range(14)})
    with pytest.raises(VerificationError, match="does not run in the narrowed network"):
        sc.verify(model, uneven, graph)


def test_a_proof_says_that_it_called_twice() -> None:
    model = Keeps().eval()
    graph = sc.trace(model, X)
    assert "the second call's output" in str(sc.verify(model, _narrow(graph), graph))


class Once(Keeps):
    """Good for one call, then it wants to be reset; or only where it is this wide."""

    def __init__(self, wide: int = 20) -> None:
        super().__init__()
        self.wide, self.used = str(wide), []

    def forward(self, x: Tensor) -> Tensor:
        h = torch.softmax(self.mix(torch.cat([x, self.h], 1)), 1)
        if self.used and str(self.used[-1].shape[1]) == self.wide:
            raise RuntimeError("call reset() first")
        self.used.append(h.detach())
        return self.out(h)


def test_a_proof_says_where_a_second_call_raises_that_it_was_not_compared() -> None:
    model = Once().eval()
    graph = sc.trace(model, X, check=False)
    said = sc.verify(model, graph.plan({"mix.in_features[1]": range(12)}), graph)
    assert said.passed
    assert "second call's output" not in str(said)
    assert "not compared: a second call in a row" in str(said)
    assert "RuntimeError: call reset() first (in evaluation)" in str(said)


def test_a_second_call_that_fails_only_when_narrowed_is_no_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe.Observation, "keeping", [], raising=False)
    monkeypatch.setattr(observe, "changed", lambda before, after: False)
    model = Once(wide=12).eval()
    graph = sc.trace(model, X)
    assert not graph["mix.out_features"].exact
    with pytest.raises(VerificationError, match=r"second call in a row.*call reset"):
        sc.verify(model, graph.plan({"mix.out_features": range(12)}), graph)


def test_who_keeps_nothing_is_called_once() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[int] = []
            self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    model = Counts().train()
    before = state_of(model)
    model(X)
    assert not changed(before, state_of(model))
    graph = sc.trace(model.eval(), X)
    assert "second call" not in str(sc.verify(model, _narrow(graph), graph))


class Aliased(nn.Module):
    """A buffer that a list, a dict and an attribute hold as well."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(5, 20), nn.Linear(20, 2)
        self.register_buffer("h", torch.randn(20))
        self.seen, self.memory, self.last = [torch.zeros(3), self.h], {"deep": [self.h]}, self.h
        self.pair, self.weights = (self.h, 1), [self.fc.weight]

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.linear(x, self.weights[0], self.fc.bias) + self.h
        return self.out(h + self.seen[1] + self.memory["deep"][0] + self.last + self.pair[0])


@pytest.mark.parametrize("streamed", [False, True])
def test_in_place_all_that_hold_a_tensor_get_the_narrowed_one(streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if streamed:
        monkeypatch.setattr("secateur.torch.apply.fits_beside", lambda model, plan: False)
    model = Aliased().eval()
    plan, seen = _narrow(sc.trace(model, X)), model.seen
    beside = sc.apply(model, plan)
    assert sc.apply(model, plan, in_place=True) is model
    assert torch.equal(model(X), beside(X))
    assert model.seen is seen
    assert model.h is seen[1] is model.memory["deep"][0] is model.last is model.pair[0]
    assert model.weights[0] is model.fc.weight


def test_an_apply_that_stops_leaves_the_others_their_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Aliased().eval()
    plan, whole = _narrow(sc.trace(model, X)), model.h

    def fail(model: nn.Module) -> None:
        raise RuntimeError("stop")

    monkeypatch.setattr("secateur.torch.narrowing.installing._drop_caches", fail)
    with pytest.raises(sc.SecateurError, match="undone"):
        sc.apply(model, plan, in_place=True, verify=False)
    assert model.h is whole is model.seen[1] is model.memory["deep"][0] is model.last is model.pair[0]


class Saves:
    """A hook that keeps what its module gave in a dict of somebody else's."""

    def __init__(self, store: dict[str, Tensor], name: str) -> None:
        self.store, self.name = store, name

    def __call__(self, module: nn.Module, args: object, out: Tensor) -> None:
        self.store[self.name] = out


def closing_over(store: dict[str, Tensor], name: str) -> Hook:
    def save(module: nn.Module, args: object, out: Tensor) -> None:
        store[name] = out

    return save


def partly(store: dict[str, Tensor], name: str) -> Hook:
    def save(held: dict[str, Tensor], key: str, module: nn.Module, args: object, out: Tensor) -> None:
        held[key] = out

    return partial(save, store, name)


class Hooked(nn.Module):
    """``forward`` reads what hooks of the model's own left in a dict, which is empty until then."""

    def __init__(self, hook: Callable[[dict[str, Tensor], str], Hook]) -> None:
        super().__init__()
        self.store: dict[str, Tensor] = {}
        self.a, self.b, self.o = nn.Linear(6, 12), nn.Linear(12, 10), nn.Linear(22, 3)
        for name in "ab":
            self.get_submodule(name).register_forward_hook(hook(self.store, name))

    def forward(self, x: Tensor) -> Tensor:
        self.b(torch.relu(self.a(x)))
        return self.o(torch.cat([self.store[name] for name in "ab"], 1))


@pytest.mark.parametrize("hook", [Saves, closing_over, partly])
def test_hooks_fill_the_dict_that_the_model_reads(hook: Callable[[dict[str, Tensor], str], Hook]) -> None:
    model, x = Hooked(hook).eval(), torch.randn(4, 6)
    graph = sc.trace(model, x)
    assert {w.name for w in graph.free} == {"a.out_features", "b.out_features"}
    assert model.store == {}
    small = sc.apply(model, graph.plan({"a.out_features": range(5), "b.out_features": range(4)}))
    assert small(x).shape == (4, 3)


class Config:
    """Settings that every module has a hand on, as in transformers."""

    def __init__(self) -> None:
        self.heads, self.head_dim, self.problem_type = 4, 6, ""


class Attends(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.v, self.o = nn.Linear(5, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.v(x).view(len(x), self.config.heads, self.config.head_dim)
        return self.o(heads.softmax(0).flatten(1))


class Classifies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        self.inner, self.last = Attends(self.config), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.config.problem_type = "single_label_classification"
        return self.last(self.inner(x))


def test_settings_that_running_code_writes_a_word_into_are_followed_still() -> None:
    model = Classifies().eval()
    graph = sc.trace(model, X)
    heads = next(w for w in graph.free if w.size == 4)
    small = sc.apply(model, graph.plan({heads.name: [0, 2]}))
    assert small.inner.config.heads == 2
    assert small(X).shape == (2, 3)
