"""Two small networks trained for a few steps on real digits, two more that are not, and what judges them.

    residual    convolutions: plain, grouped, depthwise, gated by squeeze and excitation, batch norm, two streams
    tokens      rows of pixels: grouped-query attention, mixing over tokens, layer norm
    reader      an LSTM over rows
    branching   code that tells two sizes apart

Training is plain PyTorch, so that a change in the library cannot change what the cases begin with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

Batches = list[tuple[Tensor, Tensor]]

EPOCHS = 3


class Residual(nn.Module):
    """Two stages around residual streams."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.a, self.a_norm = nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.b, self.b_norm = nn.Conv2d(24, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.down = nn.Conv2d(16, 32, 2, stride=2)
        self.enter, self.grouped = nn.Conv2d(32, 48, 1), nn.Conv2d(48, 48, 3, padding=1, groups=4)
        self.middle, self.leave = nn.BatchNorm2d(48), nn.Conv2d(48, 32, 1)
        self.squeeze, self.excite = nn.Linear(32, 8), nn.Linear(8, 32)
        self.depthwise = nn.Conv2d(32, 32, 3, stride=2, padding=1, groups=32)
        self.hidden, self.drop, self.head = nn.Linear(128, 40), nn.Dropout(0.1), nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = torch.relu(x + self.b_norm(self.b(torch.relu(self.a_norm(self.a(x))))))
        x = self.down(x)
        x = x + self.leave(torch.relu(self.middle(self.grouped(self.enter(x)))))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))
        x = torch.relu(self.depthwise(x * gate[:, :, None, None])).flatten(1)
        return self.head(self.drop(torch.relu(self.hidden(x))))


class Attention(nn.Module):
    """Four query heads read two key and value heads; the numbers are attributes, as in other people's code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads, self.num_groups, self.head_dim = 4, 2, 6
        self.q = nn.Linear(width, self.num_heads * self.head_dim)
        self.k = nn.Linear(width, self.num_groups * self.head_dim)
        self.v = nn.Linear(width, self.num_groups * self.head_dim)
        self.out = nn.Linear(self.num_heads * self.head_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        q = self.q(x).view(batch, time, self.num_groups, -1, self.head_dim).flatten(2, 3).transpose(1, 2)
        k, v = (m(x).view(batch, time, self.num_groups, self.head_dim).transpose(1, 2) for m in (self.k, self.v))
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, mixing over tokens, and a feed-forward part, each beside the stream."""

    def __init__(self, width: int, num_tokens: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attention = Attention(width)
        self.mix_in, self.mix_out = nn.Linear(num_tokens, 12), nn.Linear(12, num_tokens)
        self.up, self.down = nn.Linear(width, 48), nn.Linear(48, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        x = x + self.mix_out(F.gelu(self.mix_in(self.norms[1](x).transpose(1, 2)))).transpose(1, 2)
        return x + self.down(F.gelu(self.up(self.norms[2](x))))


class Tokens(nn.Module):
    """A digit as eight tokens of eight pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(8, 24), nn.Parameter(torch.randn(8, 24) * 0.02)
        self.blocks = nn.Sequential(Block(24, 8), Block(24, 8))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x.squeeze(1)) + self.position)).mean(1))


class Reader(nn.Module):
    """An LSTM over the rows of a digit."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 20, batch_first=True), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.squeeze(1))[0].mean(1))


class Branching(nn.Module):
    """A projection beside the stream wherever two sizes differ: narrowed, they must not come to be equal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.beside = nn.Linear(64, 12), nn.Linear(12, 20), nn.Linear(12, 20)
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x.flatten(1)))
        y = self.second(x)
        if x.shape[-1] != y.shape[-1]:
            x = self.beside(x)
        return self.head(torch.relu(x + y))


KINDS: Mapping[str, Callable[[], nn.Module]] = {
    "residual": Residual, "tokens": Tokens, "reader": Reader, "branching": Branching,
}  # fmt: skip
TRAINED = ("residual", "tokens")
EXCLUDED = {"residual": ("stem", "hidden"), "tokens": ("embed", "*.up")}  # left whole where a case wants that


@cache
def digits() -> tuple[Batches, Batches]:
    """Eight batches of 100 to train on, and two of 120 to judge by."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[order] / 8 - 1
    y = torch.as_tensor(labels, dtype=torch.int64)[order]
    train = list(zip(x[:800].split(100), y[:800].split(100), strict=True))
    return train, list(zip(x[1000:1240].split(120), y[1000:1240].split(120), strict=True))


def example() -> Tensor:
    """What the networks are traced on."""
    return digits()[0][0][0][:2]


def fresh_network(kind: str) -> nn.Module:
    """The network before any training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return KINDS[kind]().eval()


def trained(kind: str) -> nn.Module:
    """The network after a few epochs; a new one each time."""
    model = fresh_network(kind)
    model.load_state_dict(_trained_state(kind))
    return model.eval()


def train(model: nn.Module, num_epochs: int, optimizer: torch.optim.Optimizer | None = None) -> nn.Module:
    """Adam on the batches in their order, with random numbers of its own."""
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for _ in range(num_epochs):
            for x, y in digits()[0]:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    return model.eval()


def negative_loss(model: nn.Module) -> float:
    """A score that tells small differences apart: no two networks share it."""
    with torch.no_grad():
        return -sum(float(F.cross_entropy(model(x), y)) for x, y in digits()[1])


def judged(model: nn.Module, batches: Batches) -> float:
    """The same on batches that are given."""
    model.eval()
    with torch.no_grad():
        return -sum(float(F.cross_entropy(model(x), y)) for x, y in batches)


def judged_running(model: nn.Module, batches: Batches) -> Iterator[tuple[float, float]]:
    """Mean score after each batch, with the share of batches seen: a search may stop early."""
    model.eval()
    total = 0.0
    for number, (x, y) in enumerate(batches, 1):
        total -= float(F.cross_entropy(model(x), y))
        yield number / len(batches), total / number


def calibrate(model: nn.Module, batches: Batches) -> None:
    """Forward passes in training mode, so that batch norms see data."""
    model.train()
    with torch.no_grad():
        for x, _ in batches:
            model(x)


@cache
def _trained_state(kind: str) -> dict[str, Tensor]:
    return train(fresh_network(kind), EPOCHS).state_dict()
