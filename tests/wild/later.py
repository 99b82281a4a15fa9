"""Code that runs only while training, or in another method than `forward`."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
ROWS = lambda: (floats(4, 6),)


@wild(IMAGE)
class TrainingOnlyNoise(nn.Module):
    """A mask drawn from `torch.full((self.hidden,), .9)` while training."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 8
        self.conv1, self.conv2 = nn.Conv2d(3, self.hidden, 3), nn.Conv2d(self.hidden, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x))
        if self.training:
            h = h * torch.bernoulli(torch.full((self.hidden,), 0.9, dtype=h.dtype))[None, :, None, None]
        return self.conv2(h)


@wild(IMAGE)
class TrainingOnlyHead(nn.Module):
    """An auxiliary classifier and a feature-noise parameter that evaluation never touches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.auxiliary = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
        self.noise = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        h = F.relu(self.conv1(x))
        if not self.training:
            return self.conv2(h)
        h = h + self.noise * torch.randn_like(h)
        return self.conv2(h), self.auxiliary(h)


@wild(IMAGE)
class OtherOrderInTraining(nn.Module):
    """Channels are shuffled by a fixed pattern while training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x))
        if self.training:
            h = torch.cat([h[:, 1:], h[:, :1]], 1) * torch.arange(8).to(h)[:, None, None]
        return self.conv2(h)


@wild(ROWS, training=True)
class RandomPath(nn.Module):
    """Single-path supernet: a block is drawn by `random.choice` while training, the first one in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(6, 12), nn.Linear(12, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(12, n), nn.ReLU(), nn.Linear(n, 12)) for n in (8, 16, 24))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        block = self.blocks[random.randrange(3) if self.training else 0]
        return self.out(h + block(h))


@wild(ROWS)
class StochasticDepthByHand(nn.Module):
    """Blocks dropped with growing probability; the survivors scaled in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(6, 12), nn.Linear(12, 3)
        self.blocks = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        for i, block in enumerate(self.blocks):
            keep = 1 - 0.2 * i
            if not self.training:
                h = h + keep * torch.relu(block(h))
            elif torch.rand(()) < keep:
                h = h + torch.relu(block(h))
        return self.out(h)


@wild(ROWS, uses=[lambda m: m.sample(3), lambda m: m.decode(torch.ones(2, m.latent))])
class SamplesLater(nn.Module):
    """An autoencoder that keeps `self.latent` for `sample()`, which forward never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.latent = 5
        self.encoder, self.decoder = (
            nn.Linear(6, 2 * self.latent),
            nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 6)),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, spread = self.encoder(x).chunk(2, -1)
        z = mean + torch.exp(0.5 * spread) * torch.randn_like(mean) if self.training else mean
        return self.decode(z), mean, spread

    def decode(self, z: Tensor) -> Tensor:
        """From a latent vector."""
        return self.decoder(z)

    def sample(self, number: int) -> Tensor:
        """New rows."""
        return self.decode(torch.randn(number, self.latent))


@wild(ROWS, uses=[lambda m: m.sample(3)])
class SamplesLaterHidden(nn.Module):
    """Only the reconstruction is returned, so that the latent is free; `sample` and a prior buffer depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.latent = 5
        self.encoder, self.decoder = (
            nn.Linear(6, self.latent),
            nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 6)),
        )
        self.register_buffer("prior", torch.randn(self.latent))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.encoder(x)))

    def sample(self, number: int) -> Tensor:
        """New rows."""
        return self.decoder(torch.tanh(self.prior + torch.randn(number, self.latent)))


@wild(lambda: (floats(2, 5, 6),), uses=[lambda m: m.step(torch.ones(2, 6), m.start(2))[0]])
class StepwiseCell(nn.Module):
    """`LSTMCell.hidden_size` makes the state; another method continues from it."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(6, 10), nn.Linear(10, 3)

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zeros."""
        return torch.zeros(batch, self.cell.hidden_size), torch.zeros(batch, self.cell.hidden_size)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One step."""
        state = self.cell(x, state)
        return self.head(state[0]), state

    def forward(self, x: Tensor) -> Tensor:
        state = self.cell(x[:, 0])
        outs = [self.head(state[0])]
        for t in range(1, x.shape[1]):
            out, state = self.step(x[:, t], state)
            outs.append(out)
        return torch.stack(outs, 1)


@wild(ROWS, uses=[lambda m: m.features(torch.ones(2, 6)), lambda m: m.penalty(), lambda m: m.describe()])
class OtherMethods(nn.Module):
    """Methods that use the same layers otherwise: a regulariser, a description, features."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 14), nn.Linear(14, 3)
        self.basis = nn.Parameter(torch.randn(14, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(x)))

    def features(self, x: Tensor) -> Tensor:
        """Projected by a parameter that forward never sees."""
        return torch.tanh(self.fc1(x)) @ self.basis

    def penalty(self) -> Tensor:
        """A cost."""
        return (self.fc1.weight.T @ self.basis).square().sum()

    def describe(self) -> str:
        """A word."""
        return f"{self.fc1.out_features == len(self.fc1.weight)}"


@wild(ROWS)
class OptionalPart(nn.Module):
    """A part that is None, one that is never used, one used only without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.extra = nn.Linear(6, 14), nn.Linear(14, 3), None
        self.unused = nn.Linear(14, 14)
        self.frozen_copy = nn.Linear(14, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.fc1(x))
        if torch.is_grad_enabled():
            h = h + 0 * self.frozen_copy(h).sum()
        return self.fc2(h) if self.extra is None else self.extra(h)
