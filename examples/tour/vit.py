"""A vision transformer: heads, feed-forward widths and the stream go, each where they are missed least.

python examples/tour/vit.py        trains a small ViT on real digits, prunes it to half, fine-tunes it, writes vit.html
"""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import torch
from sklearn.datasets import load_digits
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import secateur as sc


def main(folder: Path = Path(), epochs: int = 10) -> dict[str, float]:
    """Accuracies: whole, pruned, fine-tuned."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    loader = [(x[i : i + 64], y[i : i + 64]) for i in range(0, 1280, 64)]
    x_test, y_test = x[1280:], y[1280:]

    def accuracy(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model.eval()(x_test).argmax(1) == y_test).float().mean())

    net = VisionTransformer(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=48, depth=3, num_heads=4)
    sc.training.finetune(net, loader, epochs=epochs, config={"lr": 2e-3})
    found = {"whole": accuracy(net)}
    graph = sc.trace(net, x[:1])
    net, result = sc.prune(net, "progressive", {"macs": "50%"}, x[:1], {"data_loader": loader, "score_func": accuracy})
    found["pruned"] = accuracy(net)
    sc.training.finetune(net, loader, epochs=2, score_func=accuracy)
    found["fine-tuned"] = accuracy(net)
    draw(graph, result.plan, folder / "vit.html")
    return found


def draw(graph: sc.Graph, plan: sc.Plan, path: Path) -> None:
    """Every width that could go: was, and what is kept of it."""
    names = [width.name for width in graph.free]
    was = [graph[name].size for name in names]
    kept = [plan.sizes[name] for name in names]
    figure = go.Figure(
        [go.Bar(x=was, y=names, orientation="h", name="was"), go.Bar(x=kept, y=names, orientation="h", name="kept")]
    )
    figure.update_layout(barmode="overlay", xaxis_title="units", yaxis_automargin=True)
    figure.write_html(path)


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.1%}")
    print("vit.html")
