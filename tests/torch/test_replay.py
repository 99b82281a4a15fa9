"""Replay: what is computed once is what would have been computed, whoever writes, traces or counts in between."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import secateur as sc
from secateur.torch.evaluating.evaluator import Evaluator
from secateur.torch.running.data import Data
from secateur.torch.running.reuse import Replay

GENERATOR = torch.Generator().manual_seed(5)
X = torch.randn(24, 3, 8, 8, generator=GENERATOR)
LOADER = [X[:8], X[8:16], X[16:]]


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, inplace: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)
        self.down = nn.Conv2d(inputs, outputs, 1)
        self.relu = nn.ReLU(inplace)
        self.inplace = inplace

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.inplace:
            y += self.down(x)
        else:
            y = y + self.down(x)
        return self.relu(y)


def network(*, inplace: bool = False) -> nn.Module:
    torch.manual_seed(0)
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(Block(3, 8, inplace), Block(8, 12, inplace), *pool, nn.Linear(12, 6)).eval()


def scores(model: nn.Module, score: Callable[[Any], Any], *, reuse: bool) -> list[float | None]:
    """The whole network's score, then one of every width."""
    graph = sc.trace(model, X[:1])
    evaluator = Evaluator(model=model, score_func=score, data=Data(loader=LOADER), reuse=reuse)
    narrowed = [{width.name: range(1, width.size)} for width in graph.free]
    return [evaluator(graph.plan(kept)).value for kept in ({}, *narrowed, {})]


def mean(model: nn.Module) -> float:
    return float(sum(model(x).square().sum() for x in LOADER))


def in_inference_mode(model: nn.Module) -> float:
    with torch.inference_mode():
        return mean(model)


def in_bfloat16(model: nn.Module) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        first = mean(model)
    return first + mean(model)


def writing_into_the_input(model: nn.Module) -> float:
    x = X.numpy().copy()
    total = 0.0
    for _ in range(3):
        total += float(model(torch.from_numpy(x)).square().sum())
        x *= 1.5
    return total


def writing_into_results(model: Any) -> float:
    y = model[0](X)
    before = float(model[1](y).sum())
    y.mul_(2)
    return before + float(model[1](y).sum())


def of_a_changed_copy(model: nn.Module) -> float:
    other = copy.deepcopy(model)
    for p in other.parameters():
        p.data = p.data * 0.5
    return mean(other) + mean(model)


def of_a_trace(model: nn.Module) -> float:
    traced: Any = torch.jit.trace(model, X[:2])
    return float(traced(X[2:4]).square().sum()) + mean(model)


def with_gradients(model: nn.Module) -> float:
    x = X.clone().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(model(x).square().sum(), x)
    return float(grad.abs().sum())


def with_a_random_input(model: nn.Module) -> float:
    return float(model(torch.randn(4, 3, 8, 8)).sum())


def counting(model: nn.Module) -> float:
    with FlopCounterMode(display=False) as counter:
        model(X)
    return float(counter.get_total_flops())


def hearing_hooks(model: Any) -> float:
    heard: list[float] = []
    handle = model[0].conv1.register_forward_hook(lambda m, args, out: heard.append(float(out.sum())))
    mean(model)
    handle.remove()
    assert len(heard) == len(LOADER)
    return sum(heard)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    "score",
    [
        mean,
        in_inference_mode,
        in_bfloat16,
        writing_into_the_input,
        writing_into_results,
        of_a_changed_copy,
        with_gradients,
        with_a_random_input,
        counting,
        hearing_hooks,
        pytest.param(of_a_trace, marks=pytest.mark.filterwarnings("ignore::DeprecationWarning")),
    ],
)
def test_scores_are_bit_for_bit_those_without_replay(score: Callable[[Any], Any], inplace: bool) -> None:
    assert scores(network(inplace=inplace), score, reuse=True) == scores(network(inplace=inplace), score, reuse=False)


@pytest.mark.parametrize("inference", [False, True])
def test_the_second_pass_replays_what_is_the_same_and_what_follows_a_change_is_computed(inference: bool) -> None:
    model, replay = network(), Replay()

    def hits() -> int:
        before = replay.hits
        with torch.inference_mode(inference), torch.no_grad(), replay.phase("score"):
            for x in LOADER:
                model(x)
        return replay.hits - before

    assert hits() == 0
    every = hits()
    assert every == 3 * 18
    with torch.no_grad():
        model[4].bias.add_(1)  # type: ignore[union-attr,operator]
    assert hits() == every - 3
    with torch.no_grad():
        model[1].conv1.bias.add_(1)  # type: ignore[union-attr]
    assert 3 * 9 <= hits() < every - 3 * 6


def test_batch_norm_statistics_are_those_of_a_measurement() -> None:
    model = network().train()
    plain = copy.deepcopy(model)
    replay = Replay()
    start = copy.deepcopy(model.state_dict())
    for _ in range(2):
        model.load_state_dict(start)
        with torch.no_grad(), replay.phase("batch norm"):
            mean(model)
    with torch.no_grad():
        mean(plain)
    assert replay.hits
    for name, tensor in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_random_functions_and_functions_that_write_are_not_replayed() -> None:
    replay = Replay()
    torch.manual_seed(0)
    found = []
    for _ in range(2):
        with torch.no_grad(), replay.phase("score"):
            x = X.clone()
            found.append(F.dropout(x, 0.5, training=True).sum())
            assert F.relu(x, inplace=True) is x
    assert replay.hits == 0
    assert found[0] != found[1]


def test_memory_is_bounded() -> None:
    model = network()
    results = []
    for most in (2**30, X.nbytes, 0):
        replay = Replay(most)
        for _ in range(2):
            with torch.no_grad(), replay.phase("score"):
                results.append(mean(model))
        results.append(replay.hits)
    assert results[0::3] == results[1::3] == [results[0]] * 3
    assert results[2] > results[5] > results[8] == 0
