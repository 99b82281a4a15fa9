"""Time as a budget: is it predicted, is it worth it, and does it arrive?

    python -m benchmarks.latency predicted [--target eager] [--networks resnet18 …] [--plans 40]
    python -m benchmarks.latency worth     [--networks resnet20 mobilenetv2]
    python -m benchmarks.latency arrives   [--networks resnet18 …]

`predicted` fits the model of time as `secateur.prune` does, and measures random plans that it was not fitted to; each is
measured twice, so that the machine's own spread stands beside the error of the prediction. `worth` prunes trained networks
by time and by MACs down to the same measured time, and compares accuracies. `arrives` prunes to 60 % of the time under
ONNX Runtime, in steps that are fast there, and divides the speed-up by the reduction of the MACs.

Run on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import numpy as np
import torch
from tests.zoo.shim import declare_torchvision_operators
from torch import Tensor, nn

import secateur as sc
from benchmarks.accuracy.networks import build
from benchmarks.few_evaluations import accuracy, images, trained
from secateur.core.latency import FS_PER_MS, METRIC
from secateur.search.limits import NO_LIMITS
from secateur.torch.evaluating.stopwatch import Stopwatch
from secateur.torch.latency import TimeBound, random_plans
from secateur.torch.running.example import Example

SEED, SHARES = 1, ("70%", "50%", "35%")


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


def predicted(name: str, target: str, plans: int) -> str:
    """The share of random plans whose time is predicted within 10 %, beside the share that repeats itself so well."""
    torch.manual_seed(0)
    model, x = _network(name)
    graph = sc.trace(model.eval(), x)
    stopwatch = Stopwatch(model, Example.of(model, x), target)
    bound = TimeBound.of("60%", graph, NO_LIMITS, stopwatch, lambda share, word: None)
    timed = bound.model(graph)
    errors, spreads = [], []
    for plan in random_plans(graph, plans, SEED):
        first, second = stopwatch(plan), stopwatch(plan)
        errors.append(abs(float(timed.cost(METRIC, plan.sizes)) / FS_PER_MS / ((first + second) / 2) - 1))
        spreads.append(abs(first / second - 1))
    return (
        f"| {name} | {target} | {stopwatch.whole_ms:.2f} | {_within(errors)} | {np.median(errors):.1%} | {max(errors):.1%} "
        f"| {_within(spreads)} |"
    )


def _within(errors: list[float]) -> str:
    return f"{np.mean(np.array(errors) <= 0.10):.0%}"


def worth(name: str) -> str:
    """Accuracies at equal measured time: by time, by MACs."""
    x, y = images(small=True)
    loader = list(zip(x[:800].split(100), y[:800].split(100), strict=True))
    whole = trained(lambda: build(name), x[:800], y[:800])
    example = x[:64]  # on a few, calls cost more than what they compute
    cells = []
    for share in SHARES:
        config = {"data_loader": loader}
        try:
            by_time, result = sc.prune(copy.deepcopy(whole), "progressive", {"latency_ms": share}, example, config)
        except sc.Infeasible as refused:
            cells.append(f"{share}: out of reach, at least {refused.reachable:.2f} ms")
            continue
        assert result.latency is not None
        by_macs, reached = _down_to(result.latency.after_ms, whole, example, config)
        scores = [accuracy(model, x[1300:], y[1300:]) for model in (by_time, by_macs)]
        cells.append(
            f"{share}: {scores[0]:.1f} by time ({result.latency.after_ms:.2f} ms), {scores[1]:.1f} by MACs ({reached:.2f})"
        )
    return f"| {name} | {accuracy(whole, x[1300:], y[1300:]):.1f} | {' | '.join(cells)} |"


def _down_to(most_ms: float, whole: nn.Module, example: Tensor, config: dict[str, object]) -> tuple[nn.Module, float]:
    """The network that the largest budget of MACs gives within this time, by bisection."""
    stopwatch = Stopwatch(whole, Example.of(whole, example))
    low, high = 0.05, 1.0
    best, reached = whole, stopwatch.whole_ms
    for _ in range(6):
        share = (low + high) / 2
        model, result = sc.prune(copy.deepcopy(whole), "progressive", {"macs": f"{100 * share}%"}, example, config)
        taken = stopwatch(result.plan)
        low, high = (share, high) if taken <= most_ms else (low, share)
        if taken <= most_ms:
            best, reached = model, taken
    return best, reached


def arrives(name: str) -> str:
    """Speed-up under ONNX Runtime, over the reduction of the MACs."""
    torch.manual_seed(0)
    model, x = _network(name, LARGE)
    # its kernels take channels in blocks: other counts go the slow way
    config = {"target": "onnxruntime", "verify": False, "allocation": "per_cost", "multiple_of": "fastest"}
    _, result = sc.prune(model.eval(), "magnitude", {"latency_ms": "60%"}, x, config)
    assert result.latency is not None
    speed_up = result.latency.before_ms / result.latency.after_ms
    fewer = result.before["macs"] / result.macs
    times = f"{result.latency.before_ms:.2f} | {result.latency.after_ms:.2f}"
    return f"| {name} | {times} | {speed_up:.2f} × | {fewer:.2f} × | {speed_up / fewer:.2f} |"


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    reader.add_argument("what", choices=["predicted", "worth", "arrives"])
    reader.add_argument("--networks", nargs="*")
    reader.add_argument("--target", default="eager")
    reader.add_argument("--plans", type=int, default=40)
    asked = reader.parse_args()
    heads = {
        "predicted": "network | target | ms | predicted within 10 % | median error | largest | measured twice within 10 %",
        "worth": f"network | whole | {' | '.join(SHARES)}",
        "arrives": "network | ms | ms after | speed-up | fewer MACs | speed-up ÷ MACs",
    }[asked.what]
    print(f"| {heads} |\n|{'---|' * (heads.count('|') + 1)}")
    for name in asked.networks or (TRAINED if asked.what == "worth" else NETWORKS):
        calls = {"predicted": lambda n=name: predicted(n, asked.target, asked.plans), "worth": lambda n=name: worth(n)}
        print(calls.get(asked.what, lambda n=name: arrives(n))(), flush=True)


if __name__ == "__main__":
    main()
