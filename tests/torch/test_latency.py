"""A bound on time: fitted, searched under, measured, corrected. Times are made up, but in the last test, which wants some."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import secateur as sc
from secateur.core.latency import FS_PER_MS, METRIC, features_of, fitted, nonnegative
from secateur.core.plan import Plan
from secateur.errors import ConfigError, Infeasible
from secateur.torch import prune as pruning
from secateur.torch.evaluating.stopwatch import Stopwatch
from secateur.torch.evaluating.targets import TARGETS
from secateur.torch.running.example import Example

torch.manual_seed(0)
X = torch.randn(2, 1, 8, 8)
LOADER = [(torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,))) for _ in range(2)]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


@given(st.integers(0, 10_000))
def test_the_fit_finds_rates_that_are_not_negative(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    matrix, true = drawn.uniform(0, 1, (30, 4)), drawn.uniform(0, 1, 4) * (drawn.uniform(size=4) > 0.4)
    found = nonnegative(matrix, matrix @ true)
    assert (found >= 0).all()
    assert np.abs(found - true).max() < 1e-3
    noisy = nonnegative(matrix, matrix @ true + drawn.normal(0, 0.1, 30))
    assert (noisy >= 0).all()


def test_a_time_that_is_a_sum_of_the_terms_is_predicted() -> None:
    graph = sc.trace(net(), X)
    features = features_of(graph)
    kinds = {f"macs of {kind} in {widths} widths" for kind in ("Conv2d", "Linear") for widths in (1, 2)}
    assert {"constant", *kinds, "bytes written", "bytes of weights"} == set(features)
    drawn = np.random.default_rng(0)
    counts = [{w.name: int(drawn.integers(1, w.size + 1)) for w in graph.configurable} for _ in range(40)]

    def time(c: dict[str, int]) -> float:
        return (
            0.5
            + 2e-6 * float(features["macs of Conv2d in 2 widths"].value(c))
            + 1e-5 * float(features["bytes written"].value(c))
        )

    model = fitted(graph, counts[:30], [time(c) for c in counts[:30]])
    timed = model(graph)
    assert timed.costs[METRIC].monotone
    for c in counts[30:]:
        assert float(timed.cost(METRIC, c)) / FS_PER_MS == pytest.approx(time(c), rel=0.02)
    shares = timed.cost_by_module(METRIC)
    assert sum(shares.values()) == timed.cost(METRIC)


def test_what_was_about_to_be_returned_corrects_the_fit() -> None:
    graph = sc.trace(net(), X)
    drawn = np.random.default_rng(0)
    counts = [{w.name: int(drawn.integers(1, w.size + 1)) for w in graph.configurable} for _ in range(30)]
    times = [1 + 9 * float(graph.cost("macs", c)) / graph.macs for c in counts]
    narrow = {w.name: 1 if w.name == "0.out_channels" else w.size for w in graph.configurable}
    found = [fitted(graph, [*counts, narrow], [*times, 12.0], sure=sure) for sure in (0, 1)]
    first, corrected = (float(model(graph).cost(METRIC, narrow)) / FS_PER_MS for model in found)
    assert abs(corrected - 12) < abs(first - 12)


class Clock:
    """A stopwatch whose times are a function of the plan."""

    time: Callable[[Plan], float]

    def __init__(self, model: nn.Module, example: Any, target: str) -> None:
        self.target = target
        self.whole_ms = 10.0
        self.measured: list[float] = []

    def __call__(self, plan: Plan) -> float:
        self.measured.append(type(self).time(plan))
        return self.measured[-1]


def share(plan: Plan) -> float:
    graph = plan.graph
    assert graph is not None
    return int(graph.cost("macs", plan.sizes)) / graph.macs


def clock(monkeypatch: pytest.MonkeyPatch, time: Callable[[Plan], float]) -> None:
    monkeypatch.setattr(pruning, "Stopwatch", type("Fake", (Clock,), {"time": staticmethod(time)}))


TIMES: dict[str, Callable[[Plan], float]] = {
    "as the MACs": lambda plan: 1 + 9 * share(plan),
    "in steps of eight": lambda plan: 1 + 9 * np.ceil(8 * share(plan)) / 8,
    "less than the MACs promise": lambda plan: 10 * share(plan) ** 0.3,
}


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize(("mode", "config"), [("magnitude", {}), ("progressive", {"data_loader": LOADER, "steps": 3})])
def test_the_result_meets_the_bound_as_measured(
    name: str, mode: str, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, TIMES[name])
    model, result = sc.prune(net(), mode, {"latency_ms": "70%", "params": "90%"}, X, config=config or None)
    assert result.latency is not None
    assert result.latency.met
    assert result.latency.after_ms == TIMES[name](result.plan) <= 7.0
    assert result.params <= 0.9 * result.before["params"]
    assert METRIC not in result.before
    assert "within the bound of 7 ms" in str(result)
    assert json.loads(result.to_json())["latency"]["most_ms"] == 7.0
    assert model(X).shape == (2, 10)


def test_a_bound_that_measuring_shows_to_be_missed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, lambda plan: 8 + 2 * share(plan))

    def hopeful(graph: sc.Graph, counts: Any, times: Any) -> Any:
        return fitted(graph, counts, [time / 10 for time in times])

    monkeypatch.setattr("secateur.torch.latency.fitted", hopeful)
    with pytest.warns(UserWarning, match=r"latency_ms ≤ 5 is missed by \d+"):
        _, result = sc.prune(net(), "magnitude", {"latency_ms": 5.0}, X)
    assert result.latency is not None
    assert not result.latency.met
    assert "MISSES" in str(result)


def test_a_bound_that_no_network_is_predicted_to_meet_is_infeasible(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, lambda plan: 9 + share(plan))
    model = net()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(Infeasible, match="cannot reach latency_ms ≤ 2") as refused:
        sc.prune(model, "magnitude", {"latency_ms": 2}, X)
    assert refused.value.metric == "latency_ms"
    assert refused.value.reachable > 2
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("given", ["fast", "0%", "130%", 0, -1.0, True, float("nan"), {"ms": 3}])
def test_what_is_no_bound_on_time_is_told(given: object, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, TIMES["as the MACs"])
    with pytest.raises(ConfigError, match="latency_ms"):
        sc.prune(net(), "magnitude", {"latency_ms": given}, X)


def test_real_times_are_taken_and_the_network_is_as_it_was() -> None:
    model = net().train()
    _, result = sc.prune(model, "magnitude", {"latency_ms": "99%"}, X)
    assert result.latency is not None
    assert min(result.latency.before_ms, result.latency.after_ms) > 0
    assert model.training
    assert all(len(m._forward_hooks) == 0 for m in model.modules())


@pytest.mark.parametrize("target", ["eager", "onnxruntime", "compiled"])
def test_a_target_computes_what_the_model_computes(target: str) -> None:
    if target == "compiled" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a compiler")
    model = net().eval()
    example = Example(model, (X,))
    given = TARGETS[target](model, example)()
    given = torch.as_tensor(given[0] if isinstance(given, list) else given)
    assert torch.allclose(given, model(X), atol=1e-4)


def test_an_exported_network_is_timed_beside_the_whole_one() -> None:
    model = net().train()
    before = copy.deepcopy(model.state_dict())
    stopwatch = Stopwatch(model, Example(model, (X,)), "onnxruntime")
    taken = stopwatch(sc.plan(sc.trace(model, X), "l1", {"macs": "30%"}))
    assert 0 < taken < 100 * stopwatch.whole_ms
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_the_target_was_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, TIMES["as the MACs"])
    _, result = sc.prune(net(), "magnitude", {"latency_ms": "70%"}, X, {"target": "onnxruntime"})
    assert "latency (onnxruntime): 10 -> " in str(result)
    with pytest.warns(UserWarning, match="target had no effect"):
        sc.prune(net(), "magnitude", {"macs": "70%"}, X, {"target": "onnxruntime"})


def test_a_target_that_nobody_knows_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"onnx.*onnxruntime"):
        sc.prune(net(), "magnitude", {"latency_ms": "70%"}, X, {"target": "onnx"})


def test_a_time_taken_while_something_else_ran_does_not_spoil_the_fit() -> None:
    graph = sc.trace(net(), X)
    drawn = np.random.default_rng(0)
    counts = [{w.name: int(drawn.integers(1, w.size + 1)) for w in graph.configurable} for _ in range(40)]
    times = [1 + 4e-6 * int(graph.cost("macs", c)) for c in counts]
    disturbed = [time * (2.0 if number % 8 == 0 else 1.0) for number, time in enumerate(times)]
    timed = fitted(graph, counts, disturbed)(graph)
    for c, time in zip(counts, times, strict=True):
        assert float(timed.cost(METRIC, c)) / FS_PER_MS == pytest.approx(time, rel=0.05)


@pytest.mark.parametrize(("step", "found"), [(1, 1), (8, 8), (4, 4)])
def test_the_fastest_multiple_is_found_from_measurements(
    step: int, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that pays for whole blocks of so many channels, and dearly for those that are not full."""

    def blocks(plan: Plan) -> float:
        graph = plan.graph
        assert graph is not None
        cut = all(size % step == 0 for size in plan.sizes.values() if size > 1 and size != 10)
        return 10 * share(plan) * (1.0 if cut else 1.5)

    clock(monkeypatch, blocks)
    _, result = sc.prune(net(), "magnitude", {"macs": "60%"}, X, {"multiple_of": "fastest"})
    narrowed = [result.plan.sizes[name] for name in result.plan.kept]
    assert all(count % found == 0 for count in narrowed)
    assert found > 1 or any(count % 4 for count in narrowed)


@pytest.mark.parametrize(("config", "multiple"), [({}, 8), ({"multiple_of": 1}, 1)])
def test_time_is_bounded_in_the_steps_that_are_fast(
    config: dict[str, Any], multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole blocks of eight units are paid for: what is narrowed between them is given up for nothing."""

    def padded(plan: Plan) -> float:
        names = ("0.out_channels", "2.out_channels", "5.out_features")
        first, second, third = (-(-plan.sizes[name] // 8) * 8 for name in names)
        return 2 + 8 * (first + first * second / 8 + second * third / 8) / (16 + 32 + 64)

    clock(monkeypatch, padded)
    _, result = sc.prune(net(), "magnitude", {"latency_ms": "70%"}, X, config)
    assert result.latency is not None
    assert result.latency.met
    assert result.latency.multiple_of == multiple
    assert ("in multiples of 8" in str(result)) == (multiple == 8)
    assert (multiple == 8) == all(result.plan.sizes[name] % 8 == 0 for name in result.plan.kept)


def test_with_data_steps_and_single_units_are_both_tried_and_the_better_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def padded(plan: Plan) -> float:
        first, second, third = (
            -(-plan.sizes[n] // 8) * 8 for n in ("0.out_channels", "2.out_channels", "5.out_features")
        )
        return 2 + 8 * (first + first * second / 8 + second * third / 8) / (16 + 32 + 64)

    clock(monkeypatch, padded)
    data = {"data_loader": LOADER, "steps": 2}
    worth: dict[object, float] = {}
    for steps in ({}, {"multiple_of": 1}, {"multiple_of": 8}):
        _, result = sc.prune(net(), "progressive", {"latency_ms": "70%"}, X, {**data, **steps})
        assert result.latency is not None
        assert result.latency.met
        assert result.score is not None
        worth[steps.get("multiple_of")] = result.score
    assert worth[None] == pytest.approx(max(worth[1], worth[8]))
    assert worth[1] != worth[8]


def test_single_units_reach_what_steps_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full blocks are fast, but one of sixteen is what is left of a width at least."""

    def blocks(plan: Plan) -> float:
        full = all(plan.sizes[name] % 16 == 0 for name in plan.kept)
        return 1 + 9 * share(plan) * (1.0 if full else 1.2)

    clock(monkeypatch, blocks)
    _, result = sc.prune(net(), "magnitude", {"latency_ms": "15%"}, X)
    assert result.latency is not None
    assert result.latency.met
    assert result.latency.multiple_of == 1


def test_the_fastest_multiple_needs_something_to_measure() -> None:
    with pytest.raises(sc.InputError, match=r"which secateur\.prune does"):
        sc.plan(sc.trace(net(), X), "l1", {"macs": "60%"}, limits={"multiple_of": "fastest"})
    with pytest.raises(ConfigError, match="multiple_of"):
        sc.prune(net(), "magnitude", {"macs": "60%"}, X, {"multiple_of": "quick"})
