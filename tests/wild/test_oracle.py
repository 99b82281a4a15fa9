"""The oracle sees what it is there to see: each test breaks the library in one way, and it must be found out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.core.verification import Comparison

from .entry import Entry, floats
from .oracle import judge
from .values import quiet


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.seen = nn.Linear(6, 12), nn.Linear(12, 3), [[1]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


class _Ordered(_Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.relu(self.fc1(x)).cumsum(1))


def _entry(make: Callable[[], nn.Module] = _Net) -> Entry:
    return Entry(name="here/net", make=make, example=lambda: (floats(4, 6),))


def _breaking(monkeypatch: pytest.MonkeyPatch, verb: str, break_it: Callable[..., Any]) -> str:
    """Why the oracle objects when a verb of the library is followed by ``break_it(result, *arguments)``."""
    true = getattr(sc, verb)

    def false(*args: Any, **kwargs: Any) -> Any:
        out = true(*args, **kwargs)
        changed = break_it(out, *args)
        return out if changed is None else changed

    monkeypatch.setattr(sc, verb, false, raising=False)
    verdict = judge(_entry(), draws=("half",))
    assert verdict.outcome == "WRONG", verdict
    return verdict.why


def test_a_sound_library_is_not_blamed() -> None:
    verdict = judge(_entry())
    assert verdict.outcome == "right", verdict.why
    assert verdict.free == 1


def test_a_weight_written_by_a_trace_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(graph: Any, model: nn.Module, *rest: Any) -> None:
        next(model.parameters()).data.view(-1)[0] += 1e-7

    assert "fc1'.@_parameters.'weight' changed" in _breaking(monkeypatch, "trace", write)


def test_a_weight_written_and_restored_is_found_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(graph: Any, model: nn.Module, *rest: Any) -> None:
        with torch.no_grad():
            next(model.parameters()).add_(0)

    assert "version counter" in _breaking(monkeypatch, "trace", write)


def test_a_deep_attribute_changed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "seen" in _breaking(monkeypatch, "trace", lambda graph, model, *rest: model.seen[0].append(2))


def test_a_random_state_moved_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "random state" in _breaking(monkeypatch, "trace", lambda *rest: torch.rand(()) and None)


def test_an_input_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(graph: Any, model: nn.Module, given: Any) -> None:
        given[0].mul_(2)

    assert "inputs" in _breaking(monkeypatch, "trace", write)


def test_a_wrong_slice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def flip(small: nn.Module, *rest: Any) -> None:
        with torch.no_grad():
            small.fc2.weight.copy_(small.fc2.weight.flip(1))  # type: ignore[union-attr, operator]

    assert "fc2.weight is not the slice" in _breaking(monkeypatch, "apply", flip)


def test_a_cost_misreported_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def cheapen(graph: Any, *rest: Any) -> Any:
        return dataclasses.replace(graph, costs={**graph.costs, "params": graph.costs["macs"]})

    assert "parameters, the plan said" in _breaking(monkeypatch, "trace", cheapen)


def test_a_width_freed_in_spite_of_its_order_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(graph: Any, *rest: Any) -> Any:
        return sc_trace(_Net(), floats(4, 6))

    sc_trace = sc.trace
    monkeypatch.setattr(sc, "trace", pretend, raising=False)
    verdict = judge(_entry(_Ordered), draws=("half",))
    assert verdict.outcome == "WRONG"
    assert "which unit stands where matters" in verdict.why


def test_a_rubber_stamp_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Comparison(
        inputs="any", mode="evaluation", dtype="float64", outputs=("output",), gradients=0, difference=0.0, bound=1.0
    )
    passed = sc.Verification(comparisons=(seen,))
    monkeypatch.setattr(sc, "verify", lambda *args, **kwargs: passed, raising=False)
    verdict = judge(_entry(), draws=("half",))
    assert "a wrong slice of fc2.weight is called" in verdict.why


def test_an_error_of_another_kind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise KeyError("inner")

    monkeypatch.setattr(sc, "trace", fail, raising=False)
    assert "none of Secateur's" in judge(_entry()).why


@pytest.mark.parametrize("draw", ["exponential_", "cauchy_", "log_normal_", "normal_", "uniform_", "bernoulli_"])
def test_what_is_drawn_for_each_unit_is_the_same_for_all(draw: str) -> None:
    with quiet():
        numbers = getattr(torch.empty(3, 12), draw)()
    assert (numbers == numbers[0, 0]).all()
