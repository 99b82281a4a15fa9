"""Small networks that each hold something that is easily lost between disk and memory, and ways to compare them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.torch.apply import apply
from secateur.torch.trace import trace

torch.set_num_threads(1)


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
        q, k, v = (
            self.qkv(self.norm(x))
            .view(batch, tokens, 3, self.num_heads, self.head_dim)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
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


def narrowed(kind: type[nn.Module], *, seed: int = 0, step: int = 2, model: nn.Module | None = None) -> nn.Module:
    """A model of this kind with every free width cut to about one part in ``step``."""
    torch.manual_seed(seed)
    model = (kind() if model is None else model).eval()
    example = EXAMPLES[kind]
    dtype = next(model.parameters()).dtype
    graph = trace(model, example.to(dtype) if example.is_floating_point() else example)
    plan = graph.plan({w.name: range(0, w.size, step) for w in graph.free}, {"seed": seed})
    return apply(model, plan, verify=False)


def everything(model: nn.Module) -> dict[str, Any]:
    """All that a model holds, for comparing bit for bit: tensors, their kinds, integers, repr."""
    found: dict[str, Any] = {"repr": repr(model)}
    for name, module in model.named_modules():
        for key, value in module.__dict__.items():
            if type(value) in (int, bool, float, tuple) and not key.startswith("_secateur"):
                found[f"{name}.{key}"] = value
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        found[name] = (type(tensor), tensor.dtype, tuple(tensor.shape), data)
    return found
