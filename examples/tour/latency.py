"""Time on this machine: a bound in milliseconds, met as the stopwatch shows it, beside the same share of MACs.

python examples/tour/latency.py         prunes one network twice, writes latency.html; nothing is trained here
"""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import plotly.graph_objects as go
import torch
from torch import nn

import secateur as sc


def network() -> nn.Module:
    """Wide, cheap layers at a high resolution, and narrow, expensive ones after them."""
    sizes = (3, 32, 32, 64, 128)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes[-1], 10))


def main(folder: Path = Path(), share: str = "60%", size: int = 64) -> dict[str, float]:
    """Milliseconds: whole, at a share of its MACs, at the same share of its time."""
    torch.manual_seed(0)
    net, x = network().eval(), torch.randn(8, 3, size, size)
    found: dict[str, float] = {}
    for metric in ("macs", "latency_ms"):
        small, result = sc.prune(copy.deepcopy(net), "magnitude", {metric: share}, x)
        times = {name: sc.measure(m, dummy_input=x).times[0].median_ms for name, m in (("whole", net), (metric, small))}
        found.setdefault("whole", times["whole"])
        found[f"{share} of {metric}"] = times[metric] / times["whole"] * found["whole"]
        if result.latency is not None:
            print(result.latency)  # before and after, the bound, what was predicted, the error of the fit
    draw(found, folder / "latency.html")
    return found


def draw(found: dict[str, float], path: Path) -> None:
    """A bar a network."""
    figure = go.Figure(
        go.Bar(x=list(found), y=list(found.values()), text=[f"{value:.2f} ms" for value in found.values()])
    )
    figure.update_layout(yaxis_title="milliseconds, median, on this machine")
    figure.write_html(path)


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.2f} ms")
    print("latency.html")
