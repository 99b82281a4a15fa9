"""A criterion of your own beside ours, on one network: what is a unit worth?

python examples/tour/own_criterion.py       checks it, tries it against three others, writes own_criterion.html
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
import torch
from sklearn.datasets import load_digits
from torch import nn

import secateur as sc
from secateur.criteria import DataDriven, unit_means


@dataclass(frozen=True, kw_only=True)
class Spread(DataDriven):
    """Mean of |a|³ where units are read: what is rarely large but very large counts for more than its square says."""

    name = "spread"

    def __call__(self, graph, model):
        """Scores of all units, from the data of the mode it runs in."""
        return unit_means(self, graph, model, lambda a: a.abs() ** 3)


def main(folder: Path = Path(), epochs: int = 8) -> dict[str, float]:
    """Accuracy at 40 % of the MACs by criterion, with one and the same compensation."""
    for check in sc.testing.check_criterion(Spread()):
        check()  # pure, deterministic, never negative where it says so, …
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    loader = [(x[i : i + 128], y[i : i + 128]) for i in range(0, 1280, 128)]
    net = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    sc.training.finetune(net, loader, epochs=epochs, config={"lr": 3e-3})

    def accuracy(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model.eval()(x[1280:]).argmax(1) == y[1280:]).float().mean())

    found = {"whole": accuracy(net)}
    for criterion in (Spread(), "second_moment", "l1", "random"):
        config = {"criterion": criterion, "data_loader": loader}
        small, _ = sc.prune(copy.deepcopy(net), "magnitude", {"macs": "40%"}, x[:1], config)
        found[getattr(criterion, "name", str(criterion))] = accuracy(small)
    draw(found, folder / "own_criterion.html")
    return found


def draw(found: dict[str, float], path: Path) -> None:
    """A bar a criterion."""
    figure = go.Figure(go.Bar(x=list(found), y=list(found.values()), text=[f"{value:.1%}" for value in found.values()]))
    figure.update_layout(yaxis_title="accuracy at 40 % of the MACs, nothing trained again", yaxis_tickformat=".0%")
    figure.write_html(path)


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.1%}")
    print("own_criterion.html")
