"""FastNAS with few evaluations on trained networks: never below magnitude pruning, and at 20 evaluations near all of them.

    python -m benchmarks.few_evaluations [--networks resnet18 resnet20] [--share 60%]

Networks are trained for a few epochs on 800 of scikit-learn's digits, enlarged to 16 × 16 (64 × 64 for the GhostNet);
searches score on 500 that no training saw, accuracy is told on 497 others. Magnitude pruning has its batch norm measured
again on the same data.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from tests.zoo.shim import declare_torchvision_operators
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from benchmarks.accuracy.networks import build

EVALUATIONS: tuple[int | None, ...] = (12, 20, 40, None)
EPOCHS = 12


def three_channels(make: Callable[[], nn.Module]) -> nn.Module:
    """A network for coloured pictures, given grey ones."""
    return nn.Sequential(nn.Conv2d(1, 3, 1), make())


def _torchvision(name: str) -> nn.Module:
    declare_torchvision_operators()
    import torchvision

    return three_channels(lambda: torchvision.models.get_model(name, num_classes=10))


def _timm(name: str) -> nn.Module:
    declare_torchvision_operators()
    import timm

    return three_channels(lambda: timm.create_model(name, num_classes=10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: _torchvision("resnet18"),
    "mobilenet_v2": lambda: _torchvision("mobilenet_v2"),
    "ghostnetv2_100": lambda: _timm("ghostnetv2_100"),
    "resnet20": lambda: build("resnet20"),
}


def images(small: bool) -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    pictures = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    return F.interpolate(pictures, scale_factor=2 if small else 8)[order], torch.tensor(y)[order]


def trained(make: Callable[[], nn.Module], x: Tensor, y: Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=EPOCHS * -(-len(x) // 60))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(60):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return 100 * float((model.eval()(x).argmax(1) == y).float().mean())


def row(name: str, share: str) -> dict[str, float]:
    """Accuracy on the last part, by what was done."""
    x, y = images(name != "ghostnetv2_100")
    train, valid, test = (x[:800], y[:800]), (x[800:1300], y[800:1300]), (x[1300:], y[1300:])
    loader = list(zip(train[0].split(100), train[1].split(100), strict=True))
    whole = trained(NETWORKS[name], *train)
    found = {"whole": accuracy(whole, *test)}
    model, _ = sc.prune(copy.deepcopy(whole), "magnitude", {"flops": share}, x[:1], {"data_loader": loader})
    found["magnitude"] = accuracy(model, *test)
    for most in EVALUATIONS:
        started = time.perf_counter()
        options = {"data_loader": loader, "score_func": lambda m: accuracy(m, *valid), "max_evaluations": most}
        model, result = sc.prune(copy.deepcopy(whole), "fastnas", {"flops": share}, x[:1], options)
        found[str(most or "all")] = accuracy(model, *test)
        plan = result.evidence.candidates[0].name
        seconds = time.perf_counter() - started
        print(f"  {name} {most or 'all'}: {found[str(most or 'all')]:.1f} by {plan}, {seconds:.0f} s", flush=True)
    return found


def misses(found: dict[str, float]) -> list[str]:
    """Where the bar is not reached."""
    below = [
        f"{most or 'all'} below magnitude" for most in EVALUATIONS if found[str(most or "all")] < found["magnitude"]
    ]
    return below + (["20 more than two points below all"] if found["20"] < found["all"] - 2 else [])


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    reader.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    reader.add_argument("--share", default="60%")
    asked = reader.parse_args()
    missed = 0
    for name in asked.networks:
        found = row(name, asked.share)
        wrong = misses(found)
        missed += len(wrong)
        print(name, "  ".join(f"{key} {value:.1f}" for key, value in found.items()), *wrong, sep=" | ", flush=True)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
