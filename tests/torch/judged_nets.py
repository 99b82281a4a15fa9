"""Small networks on real digits and functions that judge them, at the top level of a module so that processes can share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

Batches = list[tuple[Tensor, Tensor]]


@cache
def digits() -> tuple[Batches, Batches]:
    """Batches of 100 to train on, and two of 120 to judge by."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[order] / 8 - 1
    y = torch.as_tensor(labels, dtype=torch.int64)[order]
    train = list(zip(x[:800].split(100), y[:800].split(100), strict=True))
    return train, list(zip(x[1000:1240].split(120), y[1000:1240].split(120), strict=True))


INPUT = torch.zeros(2, 1, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


def train(model: nn.Module, epochs: int, optimizer: torch.optim.Optimizer | None = None) -> nn.Module:
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for _ in range(epochs):
        for x, y in digits()[0]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


@cache
def trained_state() -> dict[str, Tensor]:
    return train(network(), 8).state_dict()


def trained() -> nn.Module:
    model = network()
    model.load_state_dict(trained_state())
    return model.eval()


def accuracy(model: nn.Module, batches: Batches) -> float:
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    return right / sum(len(y) for _, y in batches)


def running_accuracy(model: nn.Module, batches: Batches) -> Iterator[tuple[float, float]]:
    """Accuracy after each batch, with the share of batches seen."""
    model.eval()
    right = seen = 0
    for number, (x, y) in enumerate(batches, 1):
        right, seen = right + int((model(x).argmax(1) == y).sum()), seen + len(y)
        yield number / len(batches), right / seen


def calibrate(model: nn.Module, batches: Batches) -> None:
    """As the source document writes it: forward passes in training mode."""
    model.train()
    with torch.no_grad():
        for x, _ in batches:
            model(x)


class Stopped(Exception):
    """An interruption in the middle of an evaluation."""


class Counting:
    """A ``score_func`` that counts its calls and may stop at one of them."""

    def __init__(self, stop_at: int | None = None, *, batches: Batches) -> None:
        self.calls, self.stop_at, self.batches = 0, stop_at, batches
        self.__qualname__ = "Counting"

    def __call__(self, model: nn.Module) -> float:
        if self.calls == self.stop_at:
            raise Stopped
        self.calls += 1
        return accuracy(model, self.batches)


class Encoder(nn.Module):
    """Attention and a feed-forward part, no convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(8, 16)
        self.block = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embed(x.squeeze(1))).mean(1))
