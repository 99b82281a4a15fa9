"""A twin is the network again, and holds nothing of the first one that a run could write to."""

from __future__ import annotations

import collections
import functools
import pickle
import random
import threading
import types
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import InputError
from secateur.torch.running.twin import copied, twin


def without_data(_: str, tensor: torch.Tensor) -> torch.Tensor:
    made = torch.empty_like(tensor, device="meta")
    return nn.Parameter(made, requires_grad=False) if isinstance(tensor, nn.Parameter) else made


def second(model: nn.Module) -> Any:
    return twin(model, without_data)


class Slotted:
    __slots__ = ("items", "lock")

    def __init__(self) -> None:
        self.items, self.lock = [1], threading.Lock()


class Holder(nn.Module):
    """A module that holds nearly everything that a module may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.head = lambda x: self.fc(x)
        self.nested = {"f": [lambda x: self.fc(x)]}
        self.cached = functools.lru_cache(maxsize=4)(self.pick)
        self.parent = weakref.ref(self.fc)
        self.queue = collections.deque([1, [2]], maxlen=3)
        self.counts = collections.defaultdict(list, {1: [2]})
        self.slotted = Slotted()
        self.lock = threading.RLock()
        self.frozen = types.MappingProxyType({"a": [1]})
        self.log: list[int] = []
        self.note = self.log.append
        self.draw = random.Random(3).random
        self.numpy = np.random.default_rng(3)
        self.generator = torch.Generator().manual_seed(3)
        self.bound = functools.partial(nn.functional.linear, weight=self.fc.weight)
        self.pool = nn.functional.max_pool2d
        self.static, self.shared = staticmethod(lambda: self.fc), staticmethod(nn.functional.max_pool2d)
        self.constant = torch.ones(2)

    def pick(self, _: int) -> nn.Module:
        return self.fc


def test_functions_caches_and_references_of_a_twin_lead_to_the_twin() -> None:
    model = Holder()
    made = second(model)
    assert made.head.__closure__[0].cell_contents is made
    assert made.nested["f"][0].__closure__[0].cell_contents is made
    assert made.cached(1) is made.fc
    assert made.static() is made.fc
    assert made.shared is model.shared
    assert made.cached.cache_parameters() == model.cached.cache_parameters()
    assert made.parent() is made.fc
    assert made.bound.keywords["weight"] is made.fc.weight


def test_a_module_with_a_copy_protocol_of_its_own_is_bound_to_itself_too() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.head = lambda x: self.fc(x)

        def __getstate__(self) -> dict[str, Any]:
            return dict(self.__dict__)

    made = second(Own())
    assert made.head.__closure__[0].cell_contents is made


class CopiedAnew(nn.Module):
    """A copy of it is built anew, as some do that drop what they computed."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def __deepcopy__(self, memo: object) -> CopiedAnew:
        made = CopiedAnew()
        made.load_state_dict(self.state_dict())
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.fc(x)))


def test_a_module_that_copies_itself_otherwise_is_copied_as_it_is() -> None:
    made = second(nn.Sequential(CopiedAnew()))
    assert made[0].fc.weight.is_meta
    assert {w.name for w in sc.trace(CopiedAnew(), torch.rand(2, 3)).free} == {"fc.out_features"}


def test_a_module_that_holds_what_only_it_can_copy_copies_itself() -> None:
    class Holds(CopiedAnew):
        def __init__(self) -> None:
            super().__init__()
            self.source = (n for n in range(3))

    assert isinstance(second(Holds()).fc, nn.Linear)


def test_containers_objects_and_generators_of_a_twin_are_its_own() -> None:
    model = Holder()
    made = second(model)
    made.note(1)
    made.queue[1].append(3)
    made.counts[1].append(3)
    made.slotted.items.append(2)
    made.frozen["a"].append(2)
    made.constant.zero_()
    made.draw(), made.numpy.random(), torch.rand(2, generator=made.generator)
    assert made.log == [1]
    assert made.queue.maxlen == 3
    assert model.log == []
    assert model.queue == collections.deque([1, [2]])
    assert model.counts == {1: [2]}
    assert model.slotted.items == [1]
    assert model.frozen["a"] == [1]
    assert model.constant.tolist() == [1, 1]
    assert model.draw() == random.Random(3).random()
    assert model.numpy.random() == np.random.default_rng(3).random()
    assert torch.equal(
        torch.rand(2, generator=model.generator), torch.rand(2, generator=torch.Generator().manual_seed(3))
    )


def test_code_and_locks_are_held_by_both() -> None:
    model = Holder()
    made = second(model)
    assert made.pool is model.pool
    assert made.lock is model.lock
    assert made.slotted.lock is model.slotted.lock


def test_a_hook_of_a_twin_writes_into_lists_of_its_own() -> None:
    seen: list[int] = []
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_forward_hook(lambda module, args, out: seen.append(1))
    made = twin(model, lambda _, tensor: nn.Parameter(tensor.detach().clone()))
    made(torch.rand(1, 2))
    assert seen == []


def test_one_tensor_under_two_names_stays_one() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    made = second(model)
    assert made[1].weight is made[0].weight


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_twin_runs_on_its_own_weights(kind: type[nn.RNNBase]) -> None:
    model = kind(3, 4, num_layers=2, bidirectional=True)
    made = twin(model, lambda _, t: nn.Parameter(torch.zeros_like(t)))
    assert not made(torch.rand(2, 1, 3))[0].any()
    assert model(torch.rand(2, 1, 3))[0].any()


def test_a_parametrised_module_is_copied_with_what_computes_its_weight() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    made = twin(model, lambda _, t: nn.Parameter(torch.ones_like(t)))
    assert torch.allclose(made.weight, torch.full((4, 3), 3**-0.5))


def test_what_hangs_on_a_parameter_hangs_on_its_stand_in() -> None:
    model = nn.Linear(2, 2)
    model.weight.role = "head"  # type: ignore[attr-defined]
    assert second(model).weight.role == "head"


def test_torchscript_keeps_its_weights_in_a_copy() -> None:
    inner = torch.jit.trace(nn.Linear(3, 3), torch.rand(1, 3))
    model = nn.Sequential(nn.Linear(3, 3), inner)
    made = second(model)
    assert made[0].weight.is_meta
    assert torch.equal(made[1].weight, inner.weight)
    assert made[1].weight is not inner.weight


@pytest.mark.parametrize(
    ("place", "path"), [("stream", "inner.0.stream"), ("nested", "inner.0.nested['k'][1]"), ("cell", "variable stream")]
)
def test_what_a_run_would_use_up_is_refused_with_its_place(place: str, path: str) -> None:
    stream = (i for i in range(3))
    module: Any = nn.Linear(2, 2)
    module.stream = stream if place == "stream" else None
    module.nested = {"k": [0, stream if place == "nested" else 1]}
    if place == "cell":
        module.take = lambda: next(stream)
    model = nn.Module()
    model.inner = nn.ModuleList([module])  # type: ignore[assignment]
    with pytest.raises(InputError, match="generator") as refusal:
        second(model)
    assert path in str(refusal.value)
    assert list(stream) == [0, 1, 2]


def test_an_object_that_fails_to_copy_is_refused_and_named() -> None:
    class Stubborn:
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError("no")

    model: Any = nn.Linear(2, 2)
    model.extra = Stubborn()
    with pytest.raises(InputError, match=r"extra is a Stubborn.*TypeError: no"):
        second(model)


@dataclass
class Batch:
    ids: torch.Tensor
    seen: list[torch.Tensor]


def test_arguments_are_copied_whatever_holds_them() -> None:
    x, weight = torch.ones(2), nn.Parameter(torch.ones(3))
    given = (Batch(x, [x]), {"w": weight})
    made, named = copied(given, lambda t: torch.zeros_like(t))
    assert made.ids is made.seen[0]
    assert not made.ids.any()
    assert not named["w"].any()
    made.seen.append(x)
    assert len(given[0].seen) == 1


def test_a_model_whose_containers_change_while_it_is_copied_is_copied_all_the_same() -> None:
    model: Any = nn.Linear(2, 2)
    model.cache = {}
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            model.cache[len(model.cache) % 50] = [0] * 3
            model.cache.pop(0, None)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        for _ in range(50):
            second(model)
    finally:
        stop.set()
        thread.join()


class KeptFromDisk:
    """What accelerate makes of a model's forward: a function in an object that nobody is to pickle."""

    def __init__(self, function: Any) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x).float()

    def __getstate__(self) -> object:
        raise pickle.PicklingError("unwrap the model first")


def test_a_hooks_handle_removes_the_hook_of_the_twin() -> None:
    model, elsewhere = nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 3)
    model.handles = [each.register_forward_hook(lambda *_: None) for each in (model[0], elsewhere)]  # type: ignore[assignment]
    made = second(model)
    assert len(made[0]._forward_hooks) == 1
    for handle in made.handles:
        handle.remove()
    assert [len(each._forward_hooks) for each in (made[0], model[0], elsewhere)] == [0, 1, 1]


def test_a_forward_in_a_wrapper_that_refuses_to_be_pickled_runs_the_twin() -> None:
    model: Any = nn.Linear(3, 3)
    wrapper = KeptFromDisk(type(model).forward)

    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return wrapper.function(self, x)

    forward.__wrapped__ = wrapper  # type: ignore[attr-defined]
    model.forward, model.bound = types.MethodType(forward, model), KeptFromDisk(model.forward)
    made = second(model)
    assert made(torch.empty(2, 3, device="meta")).is_meta
    assert made.bound(torch.empty(2, 3, device="meta")).is_meta
    assert made.forward.__wrapped__ is not wrapper


def test_what_holds_something_outside_and_refuses_to_be_pickled_is_refused() -> None:
    class Owner(KeptFromDisk):
        def __del__(self) -> None:
            """It would give back twice what it holds once."""

    model: Any = nn.Linear(3, 3)
    model.owner = Owner(abs)
    with pytest.raises(InputError, match=r"owner is a Owner, which cannot be copied \(PicklingError: unwrap"):
        second(model)


class Irrep(tuple[int, ...]):
    """As e3nn has it: a pair that refuses to be counted."""

    def __len__(self) -> int:
        raise NotImplementedError


class HoldsOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kinds = [Irrep((0, 1))]
        self.first, self.last = nn.Linear(6, 24), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu())


def test_a_container_that_answers_otherwise_than_its_base_stops_nothing() -> None:
    x, model = torch.randn(4, 6), HoldsOne().eval()
    data = {"data_loader": [torch.randn(16, 6) for _ in range(4)]}
    small, result = sc.prune(model, "progressive", {"params": "60%"}, x, data)
    assert result.verification.passed
    assert small.kinds == model.kinds
