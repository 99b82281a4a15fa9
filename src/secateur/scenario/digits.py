"""The demo's problem: scikit-learn's handwritten digits, a small residual network, and how to train it.

    1797 images of 8x8  ->  train 1077 | valid 180 | test 540, one stratified split for all seeds

Nothing is chosen by looking at the test images: the recipe is fixed, the validation images only show the progress of
training.

Invariant: the same seed gives the same network on the same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from secateur.errors import InputError

EPOCHS, FINE_TUNING_EPOCHS = 24, 14


@dataclass(frozen=True, slots=True)
class DigitImages:
    """Images ``[N, 1, 8, 8]``, standardised, and their labels."""

    images_N1hw: Tensor
    labels_N: Tensor


@dataclass(frozen=True, slots=True)
class Digits:
    """The split."""

    train: DigitImages
    valid: DigitImages
    test: DigitImages


def load_digits() -> Digits:
    """The data, which ship with scikit-learn. Raises InputError without that package."""
    try:
        from sklearn.datasets import load_digits as load
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError:
        raise InputError("the digits ship with scikit-learn; add it with: pip install scikit-learn") from None
    images, labels = load(return_X_y=True)
    rest, test = train_test_split(range(len(labels)), test_size=0.3, random_state=0, stratify=labels)
    train, valid = train_test_split(rest, test_size=180, random_state=0, stratify=labels[rest])
    pixels = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)
    targets = torch.as_tensor(labels, dtype=torch.int64)
    pixels = (pixels - pixels[train].mean()) / pixels[train].std()
    return Digits(*(DigitImages(pixels[part], targets[part]) for part in (train, valid, test)))


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, wide_in: int, wide_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(wide_out)
        self.conv2 = nn.Conv2d(wide_out, wide_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(wide_out)
        self.shortcut = nn.Identity()
        if stride != 1 or wide_in != wide_out:
            self.shortcut = nn.Sequential(nn.Conv2d(wide_in, wide_out, 1, stride, bias=False), nn.BatchNorm2d(wide_out))

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class DigitNet(nn.Module):
    """A residual network for 8x8 images: a stem, three stages of two blocks, a linear head."""

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 96), channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Sequential(
            nn.Conv2d(channels, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        self.stages = nn.Sequential(
            Block(first, first, 1), Block(first, first, 1),
            Block(first, second, 2), Block(second, second, 1),
            Block(second, third, 2), Block(third, third, 1),
        )  # fmt: skip
        self.head = nn.Linear(third, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


def train(model: nn.Module, data: Digits, *, epochs: int, rate: float, seed: int, step: Callable[[str], None]) -> None:
    """Stochastic gradient descent on a one-cycle schedule; ``step(remark)`` is called after every epoch."""
    generator = torch.Generator().manual_seed(seed)
    batches = len(data.train.labels_N) // 64 + 1
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs=epochs, steps_per_epoch=batches)
    for _ in range(epochs):
        model.train()
        for images, labels in _shuffled(data.train, generator):
            loss = cross_entropy(model(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        step(f"validation accuracy {accuracy(model, data.valid):.1%}")
    model.eval()


def accuracy(model: nn.Module, part: DigitImages) -> float:
    """The share of images that are named rightly."""
    model.eval()
    with torch.inference_mode():
        return float((model(part.images_N1hw).argmax(1) == part.labels_N).float().mean())


def _shuffled(part: DigitImages, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(part.labels_N), generator=generator)
    for chosen in order.split(64):
        yield _shifted(part.images_N1hw[chosen], generator), part.labels_N[chosen]


def _shifted(images_N1hw: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to one pixel in both directions."""
    count, _, height, width = images_N1hw.shape
    blank = float(images_N1hw.min())
    padded = pad(images_N1hw, (1, 1, 1, 1), value=blank)[:, 0]
    down, right = torch.randint(0, 3, (2, count, 1), generator=generator)
    rows, columns = torch.arange(height) + down, torch.arange(width) + right
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]][:, None]
