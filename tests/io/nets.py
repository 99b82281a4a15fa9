"""Small networks that each hold something that is easily lost between disk and memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Convolutions, batch norm, a shortcut; a parameter that is not trained and one with a note on it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 12, 3, padding=1)
        self.back = nn.Conv2d(12, 8, 1, bias=False)
        self.head = nn.Linear(8, 4)
        self.head.bias.requires_grad_(False)
        self.inner.weight.note = "no weight decay"  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        return self.head((x + self.back(F.relu(self.inner(x)))).mean((2, 3)))


@dataclass
class Config:
    hidden_size: int = 16
    num_heads: int = 4
    dropout: float = 0.0


class Decoder(nn.Module):
    """Tied embeddings, heads kept in attributes, a transient buffer that narrows and two that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        size, heads = self.config.hidden_size, self.config.num_heads
        self.num_heads, self.head_dim = heads, size // heads
        self.embed, self.norm = nn.Embedding(20, size), nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 24), nn.Linear(24, size)
        self.register_buffer("scale", torch.rand(24), persistent=False)
        self.register_buffer("drift", torch.rand(()), persistent=False)
        self.register_buffer("mask", torch.ones(6, 6).tril().bool(), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.unembed = nn.Linear(size, 20, bias=False)
        self.unembed.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        score = (q @ k.transpose(-1, -2) * 0.5).masked_fill(~self.mask[:tokens, :tokens], -1e9).softmax(-1)
        x = x + self.out((score @ v).transpose(1, 2).reshape(batch, tokens, -1))
        return self.unembed(x + self.down(F.gelu(self.up(x)) * self.scale) * self.drift)


class Recurrent(nn.Module):
    """An LSTM keeps a second list of its own parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(5, 6)
        self.lstm = nn.LSTM(6, 7, num_layers=2, batch_first=True)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(F.relu(self.lift(x)))[0])


class Shared(nn.Module):
    """One module under two names, a frozen module, a module without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10)
        self.middle = nn.Sequential(nn.Linear(10, 10), nn.ReLU())
        self.again = self.middle
        self.last = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.middle(F.relu(self.first(x)))))


EXAMPLES: dict[type[nn.Module], Tensor] = {
    Residual: torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)),
    Decoder: torch.randint(0, 20, (2, 6), generator=torch.Generator().manual_seed(0)),
    Recurrent: torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0)),
    Shared: torch.rand(3, 6, generator=torch.Generator().manual_seed(0)),
}
