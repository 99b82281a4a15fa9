"""Further examples: traced together with the first, and every plan is verified on each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.errors import InputError, TraceError

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Branches(nn.Module):
    """A scale and shift by a condition, or none; and the hidden rows beside the result when asked for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(6, 12), nn.Linear(12, 10), nn.Linear(10, 3)
        self.condition = nn.Linear(5, 24)

    def forward(self, x: Tensor, c: Tensor | None = None, *, features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        h = torch.relu(self.first(x))
        if c is not None:
            scale, shift = self.condition(c).chunk(2, -1)
            h = h * (1 + scale) + shift
        h = torch.relu(self.second(h))
        return (self.last(h), h.mean(1, keepdim=True) * h) if features else self.last(h)


CONDITION, FEATURES = (X, torch.randn(4, 5)), (X, {"features": True})


def free(**options: object) -> list[str]:
    return [w.name for w in sc.trace(Branches(), X, **options).free]  # type: ignore[arg-type]


def test_an_example_that_reaches_a_part_frees_the_width_it_shares() -> None:
    assert free() == ["second.out_features"]
    assert free(also=[CONDITION]) == ["first.out_features", "second.out_features"]


def test_what_a_further_example_returns_is_interface_too() -> None:
    assert free(also=[CONDITION, FEATURES]) == ["first.out_features"]
    assert "second.out_features" in free(also=[CONDITION, FEATURES], interface=False)


def test_a_plan_is_verified_on_every_example() -> None:
    model = Branches().eval()
    graph = sc.trace(model, X, also=[CONDITION, FEATURES])
    found = sc.verify(model, graph.plan({"first.out_features": range(5)}), graph)
    assert {"the example", "also[0]", "also[1]"} <= {c.inputs for c in found.comparisons}
    assert {c.mode for c in found.comparisons if c.inputs == "also[0]"} == {"evaluation", "training"}


class Lies(Branches):
    """``lies`` is turned on once the trace is over: with a condition, the place of a unit counts."""

    lies = False

    def forward(self, x: Tensor, c: Tensor | None = None, *, features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        if c is None or not self.lies:
            return super().forward(x, c, features=features)
        return self.last(torch.relu(self.second(self.first(x).flip(1))))


def test_what_only_a_further_example_shows_is_found() -> None:
    model = Lies().eval()
    graph = sc.trace(model, X, also=[CONDITION])
    plan = graph.plan({"first.out_features": [0, 2, 3, 7]})
    model.lies = True
    with pytest.raises(sc.VerificationError, match=r"also\[0\]") as caught:
        sc.apply(model, plan)
    assert caught.value.widths == ("first.out_features",)


def test_every_verb_takes_examples_as_its_dummy_input() -> None:
    small, result = sc.prune(Branches().eval(), "magnitude", {"params": "70%"}, sc.Examples(X, also=[CONDITION]))
    assert small(*CONDITION).shape == (4, 3)
    assert "also[0]" in {c.inputs for c in result.verification.comparisons}
    pruner = sc.pruners.IterativePruner(Branches().eval(), sc.Examples(X, also=[CONDITION]))
    assert "first.out_features" in {w.name for w in pruner.graph.free}


def test_further_examples_survive_the_rounds_of_a_mode() -> None:
    data = [(X, torch.tensor([0, 1, 2, 0]))] * 3
    config = {"data_loader": data, "loss_func": lambda y, batch: nn.functional.cross_entropy(y, batch[1]), "steps": 2}
    examples = sc.Examples(X, also=[CONDITION])
    small, _ = sc.prune(Branches().eval(), "progressive", {"params": "60%"}, examples, config)
    assert small(*CONDITION).shape == (4, 3)


def test_one_example_in_place_of_a_list_is_said() -> None:
    with pytest.raises(InputError, match=r"also=\[example\]"):
        sc.trace(Branches(), X, also=X)  # type: ignore[arg-type]


def test_an_example_that_does_not_run_is_named() -> None:
    with pytest.raises(TraceError, match=r"also\[1\]: Branches does not run"):
        sc.trace(Branches(), X, also=[CONDITION, (X, torch.randn(4, 7))])


class ActorCritic(nn.Module):
    """``forward`` runs the policy alone, ``value`` what is beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.pi, self.v = (nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, n)) for n in (2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.pi(x)

    def value(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.v(x) * scale


VALUE = sc.Call("value", (X, {"scale": 2.0}))


def test_a_call_of_another_method_is_traced_and_verified_like_an_example() -> None:
    model = ActorCritic().eval()
    assert not sc.trace(model, X).free
    graph = sc.trace(model, X, also=[VALUE])
    plan = graph.plan({"pi.0.out_features": range(5), "v.0.out_features": range(4)})
    found = sc.verify(model, plan, graph)
    assert {c.mode for c in found.comparisons if c.inputs == "also[0]"} == {"evaluation", "training"}
    small = sc.apply(model, plan)
    assert isinstance(small, ActorCritic)
    assert (small(X).shape, small.value(X).shape) == ((4, 2), (4, 1))
    assert "methods that no run called" not in str(found)
    assert "value's scale=2.0" in str(found)


def test_calls_survive_the_rounds_of_a_mode() -> None:
    config = {"data_loader": [(X, torch.tensor([0, 1, 1, 0]))] * 3, "steps": 2}
    small, result = sc.prune(
        ActorCritic().eval(), "progressive", {"params": "70%"}, sc.Examples(X, also=[VALUE]), config
    )
    assert isinstance(small, ActorCritic)
    assert small.value(X).shape == (4, 1)
    assert "also[0]" in {c.inputs for c in result.verification.comparisons}


def test_what_freezes_for_want_of_a_call_says_how_to_give_one() -> None:
    assert 'Call("method", …)' in str(sc.trace(ActorCritic(), X)["pi.0.out_features"].frozen)


def test_a_call_that_cannot_be_made_is_told_what_to_do() -> None:
    model = ActorCritic()
    with pytest.raises(InputError, match="no method 'val'"):
        sc.trace(model, X, also=[sc.Call("val", X)])
    with pytest.raises(TraceError, match=r"also\[0\]: ActorCritic\.value does not run"):
        sc.trace(model, X, also=[sc.Call("value", torch.randn(4, 7))])
    with pytest.raises(InputError, match="beside an example of forward"):
        sc.trace(model, VALUE)
    with pytest.raises(InputError, match="beside each other"):
        sc.Call("value", sc.Examples(X))
