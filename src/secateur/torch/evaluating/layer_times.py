"""How long each layer takes, heard from inside one forward pass.

    layer_times(example)  ->  {"conv1": 0.41, "layer1.0.conv1": 0.22, …}      median milliseconds over some runs

Layers are modules without modules inside them; what is computed between them is not heard. Listening costs some microseconds a
layer, so the sum is a little more than a run takes.

Invariant: no hook is left on the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from secateur.torch.running.example import Example
from secateur.torch.running.walking import named_modules, parameters_of

NUM_RUNS = 10


def layer_times(example: Example, num_runs: int = NUM_RUNS) -> dict[str, float]:
    """Median milliseconds of each layer, in the order in which they are first called."""
    runs: dict[str, list[float]] = {}
    now = _clock(example.model)
    spent: dict[str, float] = {}
    handles = [handle for name, module in _layers(example.model) for handle in _listen(name, module, spent, now)]
    try:
        for number in range(num_runs + 1):
            spent.clear()
            example.model(*example.args, **example.kwargs)
            if number:  # the first run warms up
                for name, seconds in spent.items():
                    runs.setdefault(name, []).append(1000 * seconds)
    finally:
        for handle in handles:
            handle.remove()
    return {name: median(taken) for name, taken in runs.items()}


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in named_modules(model) if name and not any(module.children())]


def _listen(
    name: str, module: nn.Module, spent: dict[str, float], now: Callable[[], float]
) -> tuple[RemovableHandle, RemovableHandle]:
    begun: list[float] = []

    def before(*_: object) -> None:
        begun.append(now())

    def after(*_: object) -> None:
        spent[name] = spent.get(name, 0.0) + now() - begun.pop()

    return module.register_forward_pre_hook(before), module.register_forward_hook(after)


def _clock(model: nn.Module) -> Callable[[], float]:
    """Seconds, when all that was asked of the device is done."""
    device = next((p.device for p in parameters_of(model)), torch.device("cpu"))
    if device.type != "cuda":
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised
