"""Time as a budget: is it predicted, is it worth it, and does it arrive?

    python -m benchmarks.latency predicted --work WORK [--target eager] [--networks resnet18 …] [--plans 40]
    python -m benchmarks.latency worth     --work WORK [--networks resnet20 mobilenetv2]
    python -m benchmarks.latency arrives   --work WORK [--networks resnet18 …]

`predicted` fits the model of time as `secateur.prune` does, and measures random plans that it was not fitted to; each is
measured twice, so that the machine's own spread stands beside the error of the prediction. `worth` prunes trained networks
by time and by MACs down to the same measured time, and compares accuracies. `arrives` prunes to 60 % of the time under
ONNX Runtime, in steps that are fast there, and divides the speed-up by the reduction of the MACs.

Rows are kept in WORK/results.jsonl, the last of a network counts, and all that are there are written into docs/benchmarks.md.
Run on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.zoo.shim import declare_torchvision_operators
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from benchmarks.accuracy.networks import build
from benchmarks.few_evaluations import accuracy, images, trained
from benchmarks.page import machine, write_section
from benchmarks.results import Results
from secateur.core.latency import FS_PER_MS, METRIC
from secateur.search.limits import NO_LIMITS
from secateur.torch.evaluating.stopwatch import Stopwatch
from secateur.torch.latency import TimeBound, random_plans
from secateur.torch.running.example import Example

SEED, SHARES = 1, ("60%", "40%")


def _torchvision(name: str, size: int) -> tuple[nn.Module, Tensor]:
    declare_torchvision_operators()
    import torchvision

    return torchvision.models.get_model(name), torch.randn(1, 3, size, size)


def _timm(name: str, size: int) -> tuple[nn.Module, Tensor]:
    declare_torchvision_operators()
    import timm

    sized = {"img_size": size} if "vit" in name else {}
    return timm.create_model(name, **sized), torch.randn(1, 3, size, size)


NETWORKS: dict[str, tuple[Callable[[str, int], tuple[nn.Module, Tensor]], int]] = {
    "resnet18": (_torchvision, 112),
    "mobilenet_v2": (_torchvision, 112),
    "densenet121": (_torchvision, 64),
    "vit_tiny_patch16_224": (_timm, 96),
    "convnext_atto": (_timm, 96),
}
LARGE = 224  # where calls cost little beside what they compute
TRAINED = ("resnet20", "mobilenetv2")


def _network(name: str, size: int | None = None) -> tuple[nn.Module, Tensor]:
    make, usual = NETWORKS[name]
    return make(name, size or usual)


def predicted(name: str, target: str, plans: int) -> list[str]:
    """The share of random plans whose time is predicted within 10 %, beside the share that repeats itself so well."""
    torch.manual_seed(0)
    model, x = _network(name)
    graph = sc.trace(model.eval(), x)
    stopwatch = Stopwatch(model, Example.of(model, x), target)
    bound = TimeBound.of(0.6 * stopwatch.whole_ms, graph, NO_LIMITS, stopwatch, lambda share, word: None)
    timed = bound.model(graph)
    errors, spreads = [], []
    for plan in random_plans(graph, plans, SEED):
        first, second = stopwatch(plan), stopwatch(plan)
        errors.append(abs(float(timed.cost(METRIC, plan.sizes)) / FS_PER_MS / ((first + second) / 2) - 1))
        spreads.append(abs(first / second - 1))
    found = [_within(errors), f"{np.median(errors):.1%}", f"{max(errors):.1%}", _within(spreads)]
    return [name, target, f"{stopwatch.whole_ms:.2f}", *found]


def _within(errors: list[float]) -> str:
    return f"{np.mean(np.array(errors) <= 0.10):.0%}"


def worth(name: str) -> list[str]:
    """Accuracies at equal measured time: by time, by MACs."""
    x, y = images(small=True)
    x = F.interpolate(x, scale_factor=2)  # smaller, and calls cost more than what they compute
    loader = list(zip(x[:400].split(100), y[:400].split(100), strict=True))
    whole = trained(lambda: build(name), x[:800], y[:800])
    example = x[:64]
    cells = []
    for share in SHARES:
        config = {"data_loader": loader}
        try:
            by_time, result = sc.prune(copy.deepcopy(whole), "progressive", {"latency_ms": share}, example, config)
        except sc.Infeasible as refused:
            cells.append(f"out of reach, at least {refused.reachable:.2f} ms")
            continue
        assert result.latency is not None
        score = accuracy(by_time, x[1300:], y[1300:])
        found = _down_to(result.latency.after_ms, whole, example, config)
        told = "none so fast" if found is None else f"{accuracy(found[0], x[1300:], y[1300:]):.1f} ({found[1]:.2f})"
        cells.append(f"{score:.1f} by time ({result.latency.after_ms:.2f} ms), by MACs {told}")
    return [name, f"{accuracy(whole, x[1300:], y[1300:]):.1f}", *cells]


def _down_to(
    most_ms: float, whole: nn.Module, example: Tensor, config: dict[str, object]
) -> tuple[nn.Module, float] | None:
    """The network that the largest budget of MACs gives within this time, and its time, by bisection above 5 %."""
    stopwatch = Stopwatch(whole, Example.of(whole, example))
    low, high, found = 0.05, 1.0, None
    for _ in range(5):
        share = (low + high) / 2
        model, result = sc.prune(copy.deepcopy(whole), "progressive", {"macs": f"{100 * share}%"}, example, config)
        taken = stopwatch(result.plan)
        low, high = (share, high) if taken <= most_ms else (low, share)
        if taken <= most_ms:
            found = model, taken
    return found


def arrives(name: str) -> list[str]:
    """Speed-up under ONNX Runtime, over the reduction of the MACs."""
    torch.manual_seed(0)
    model, x = _network(name, LARGE)
    # its kernels take channels in blocks: other counts go the slow way
    config = {"target": "onnxruntime", "verify": False, "allocation": "per_cost", "multiple_of": "fastest"}
    _, result = sc.prune(model.eval(), "magnitude", {"latency_ms": "60%"}, x, config)
    assert result.latency is not None
    speed_up = result.latency.before_ms / result.latency.after_ms
    fewer = result.before["macs"] / result.macs
    times = [f"{result.latency.before_ms:.2f}", f"{result.latency.after_ms:.2f}"]
    return [name, *times, f"{speed_up:.2f} ×", f"{fewer:.2f} ×", f"{speed_up / fewer:.2f}"]


HEADS = {
    "predicted": ("network", "target", "ms", "within 10 %", "median error", "largest", "measured twice within 10 %"),
    "worth": ("network", "whole", *SHARES),
    "arrives": ("network", "ms", "ms after", "speed-up", "fewer MACs", "speed-up ÷ MACs"),
}
_ABOUT = {
    "predicted": "**Predicted.** Random plans that the model of time was not fitted to, from a seventh of all widths to "
    "nearly whole: the share of them whose time is predicted within 10 %, beside the share whose time repeats itself so well.",
    "worth": "**Worth it.** Trained on digits enlarged to 32 × 32, 64 at a time, then `progressive` down to a share of the "
    "time, and by MACs to what takes as long (bisected down to 5 % of them): accuracy in percent, nothing trained afterwards.",
    "arrives": "**Arrives.** `magnitude` at 60 % of the time under ONNX Runtime, at 224 × 224, weights random, "
    '`allocation="per_cost"`, `multiple_of="fastest"`: the speed-up as measured, over the reduction of the MACs.',
}


def write(rows: Sequence[dict[str, Any]]) -> None:
    """The section in docs/benchmarks.md."""
    parts = ["`python -m benchmarks.latency predicted`, `worth` and `arrives`.", f"{machine(torch.get_num_threads())}."]
    for what, head in HEADS.items():
        cells = [row["cells"] for row in rows if row["what"] == what]
        if cells:
            lines = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells)]
            parts.append(f"{_ABOUT[what]}\n\n" + "\n".join(lines))
    write_section("Time as a budget", "\n\n".join(parts))


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    reader.add_argument("what", choices=list(HEADS))
    reader.add_argument("--work", type=Path, required=True, help="folder of results")
    reader.add_argument("--networks", nargs="*")
    reader.add_argument("--target", default="eager")
    reader.add_argument("--plans", type=int, default=40)
    asked = reader.parse_args()
    measure: dict[str, Callable[[str], list[str]]] = {
        "predicted": lambda name: predicted(name, asked.target, asked.plans),
        "worth": worth,
        "arrives": arrives,
    }
    target = asked.target if asked.what == "predicted" else ""
    results = Results(asked.work / "results.jsonl", ("what", "network", "target"))
    asked.work.mkdir(parents=True, exist_ok=True)
    for name in asked.networks or (TRAINED if asked.what == "worth" else NETWORKS):
        cells = measure[asked.what](name)
        print(f"| {' | '.join(cells)} |", flush=True)
        results.add({"what": asked.what, "network": name, "target": target, "cells": cells})
    write(results.read())


if __name__ == "__main__":
    main()
