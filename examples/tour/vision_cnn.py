"""A convolutional network on real digits: how much can go, by which mode, before anything is trained again.

python examples/tour/vision_cnn.py        trains one network, prunes it four times, writes vision_cnn.html
"""

from __future__ import annotations

import copy
from pathlib import Path

import plotly.graph_objects as go
import torch
from sklearn.datasets import load_digits
from torch import nn

import secateur as sc

SHARES = ("50%", "25%")


def main(folder: Path = Path(), epochs: int = 8) -> dict[str, list[float]]:
    """Accuracies by mode, the whole network's first."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    loader = [(x[i : i + 128], y[i : i + 128]) for i in range(0, 1280, 128)]
    x_test, y_test = x[1280:], y[1280:]

    def accuracy(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model.eval()(x_test).argmax(1) == y_test).float().mean())

    net = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(48, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip
    sc.training.finetune(net, loader, epochs=epochs, config={"lr": 5e-3})
    found = {"progressive": [accuracy(net)], "magnitude": [accuracy(net)]}
    for mode, accuracies in found.items():
        for share in SHARES:
            config = {"data_loader": loader} | ({"score_func": accuracy} if mode == "progressive" else {})
            small, _ = sc.prune(copy.deepcopy(net), mode, {"macs": share}, x[:1], config)
            accuracies.append(accuracy(small))
    draw(found, folder / "vision_cnn.html")
    return found


def draw(found: dict[str, list[float]], path: Path) -> None:
    """Accuracy against what is left of the MACs."""
    left = [100.0, *(float(share.rstrip("%")) for share in SHARES)]
    figure = go.Figure([go.Scatter(x=left, y=values, name=mode) for mode, values in found.items()])
    figure.update_layout(
        xaxis_title="% of MACs left", yaxis_title="accuracy, nothing trained again", yaxis_tickformat=".0%"
    )
    figure.write_html(path)


if __name__ == "__main__":
    for mode, accuracies in main().items():
        print(mode, *(f"{value:.1%}" for value in accuracies))
    print("vision_cnn.html")
