"""Times that were taken before: looked up for a fit, measured anew for a result, and worth nothing when damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.core.plan import Plan
from secateur.torch import prune as pruning
from secateur.torch.evaluating.known_times import FOLDER_VARIABLE, KnownTimes, cache_folder, times_path
from secateur.torch.running.example import Example

X = torch.randn(2, 8)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


@dataclass
class Clock:
    """Milliseconds that are not the same twice."""

    target: str = "eager"
    whole_ms: float = 10.0
    asked: list[Plan] = field(default_factory=list)

    def __call__(self, plan: Plan) -> float:
        self.asked.append(plan)
        return 5.0 + 0.001 * len(self.asked)


def plans() -> list[Plan]:
    graph = sc.trace(net(), X)
    return [graph.plan({"0.out_features": range(count)}) for count in (4, 8, 4)]


def test_each_time_is_taken_once_and_given_out_in_the_order_in_which_it_was_taken(tmp_path: Path) -> None:
    path = tmp_path / "new" / "times.jsonl"
    first, second = Clock(), Clock(whole_ms=20.0)
    times = KnownTimes(first, path)
    taken = [times(plan) for plan in plans()]
    assert len(set(taken)) == 3, "a network that is timed twice in one call has two times"
    again = KnownTimes(second, path)
    assert [again(plan) for plan in plans()] == [pytest.approx(2 * each) for each in taken], "as shares of the whole"
    assert not second.asked
    again(plans()[0])
    assert len(second.asked) == 1


@pytest.mark.parametrize(
    "text", ["", "{", '{"counts": "a"}\n[]\n{"counts": "a", "ratio": NaN}', "\x00" * 99, "[" * 99999]
)
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "times.jsonl"
    path.write_text(text)
    clock = Clock()
    assert KnownTimes(clock, path)(plans()[0]) == pytest.approx(5.001)
    assert len(clock.asked) == 1


def test_a_folder_that_is_none_and_a_pipe_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "file" / "times.jsonl", tmp_path / "pipe", Path("/proc/nothing/times.jsonl")):
        assert KnownTimes(Clock(), path)(plans()[0]) == pytest.approx(5.001)


def test_another_network_example_target_or_number_of_threads_has_other_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    model, threads = net(), torch.get_num_threads()

    def path(fingerprint: str = "a", x: torch.Tensor = X, target: str = "eager", of: nn.Module = model) -> Path | None:
        return times_path(fingerprint, Example(of, (x,)), target)

    paths = [path(), path("b"), path(x=X[:1]), path(x=X.double()), path(target="compiled"), path(of=net().double())]
    torch.set_num_threads(threads + 1)
    try:
        paths.append(path())
    finally:
        torch.set_num_threads(threads)
    assert len(set(paths)) == len(paths)
    assert path() == paths[0]


def test_the_folder_can_be_named_and_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    assert times_path("a", Example(net(), (X,)), "eager") is None
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "secateur"


def counted(monkeypatch: pytest.MonkeyPatch, asked: list[Plan]) -> None:
    class Counting(Clock):
        def __init__(self, model: nn.Module, example: object, target: str) -> None:
            super().__init__(asked=asked)

        def __call__(self, plan: Plan) -> float:
            self.asked.append(plan)
            assert plan.graph is not None
            return 1 + 9 * int(plan.graph.cost("macs", plan.sizes)) / plan.graph.macs

    monkeypatch.setattr(pruning, "Stopwatch", Counting)


def prune_in_time() -> sc.PruneResult:
    return sc.prune(net(), "magnitude", {"latency_ms": "85%"}, X)[1]


def test_a_second_call_measures_what_it_returns_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    asked: list[Plan] = []
    counted(monkeypatch, asked)
    first = prune_in_time()
    before = len(asked)
    assert first.latency is not None
    assert before > 20
    asked.clear()
    second = prune_in_time()
    assert second.latency == first.latency
    assert len(asked) == first.latency.attempts
    assert asked[-1] == second.plan


def test_a_search_that_is_made_again_because_of_a_width_keeps_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Plan] = []
    counted(monkeypatch, asked)
    whole = prune_in_time()
    assert whole.latency is not None
    fitted = len(asked) - whole.latency.attempts
    asked.clear()
    _fail_once(monkeypatch, at="0.out_features")
    config = {"on_mismatch": "freeze"}
    result = sc.prune(net(), "magnitude", {"latency_ms": "85%"}, X, config)[1]
    assert result.latency is not None
    assert "0.out_features" in result.frozen
    assert len(asked) <= fitted + whole.latency.attempts + result.latency.attempts


def _fail_once(monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    apply_fitted: Callable[..., None] = pruning.apply_fitted

    def failing(model: nn.Module, plan: Plan, *given: object, **options: object) -> None:
        if at in plan.kept:
            raise sc.VerificationError("made up", widths=(at,))
        apply_fitted(model, plan, *given, **options)

    monkeypatch.setattr(pruning, "apply_fitted", failing)
