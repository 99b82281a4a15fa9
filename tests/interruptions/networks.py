"""Ten networks that hold state in as many ways, each lived in: hooks, gradients, frozen parameters, mixed training flags.

Invariant: a network is built bit for bit the same each time; its forward pass in evaluation mode is deterministic.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.hooks import RemovableHandle

from tests.zoo.shim import declare_torchvision_operators

VOCABULARY = 23


@dataclass(frozen=True, slots=True)
class Subject:
    """A network, an example of its input, and batches of data; ``outside`` is state that it keeps elsewhere."""

    name: str
    make: Callable[[], nn.Module]
    example: Callable[[int], Any]
    outside: Callable[[], dict[str, object]] = dict

    def build(self) -> nn.Module:
        """The network as somebody has used it for a while."""
        before = RemovableHandle.next_id
        RemovableHandle.next_id = 1_000_000  # the keys of hooks, the same in each build
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return lived_in(self.make())
        finally:
            RemovableHandle.next_id = before

    def inputs(self, batch: int, seed: int = 0) -> Any:
        """What the network takes."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.example(batch)


SUBJECTS: dict[str, Subject] = {}


def subject(
    example: Callable[[int], Any], outside: Callable[[], dict[str, object]] = dict
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register what builds a network, with what it takes."""

    def register(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        name = make.__name__.lower()
        SUBJECTS[name] = Subject(name, make, example, outside)
        return make

    return register


class Counter:
    """A user's forward hook: it counts calls, and remembers the last shape."""

    def __init__(self) -> None:
        self.calls, self.shapes = 0, deque(maxlen=3)

    def __call__(self, module: nn.Module, args: Any, out: Any) -> None:
        self.calls += 1
        self.shapes.append(tuple(getattr(out, "shape", ())))


def lived_in(model: nn.Module) -> nn.Module:
    """Hooks, gradients, a frozen parameter, flags of both kinds, statistics that are not those of a fresh network."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_var is not None:
                module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)
    parameters = list(model.parameters())
    for i, parameter in enumerate(parameters):
        if parameter.is_floating_point() and i % 3 == 0:
            parameter.grad = torch.randn_like(parameter)
    parameters[-1].requires_grad_(False)
    modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    modules[-1].register_forward_hook(Counter())
    modules[0].register_forward_pre_hook(partial(_noted, notes=[]))
    for module in modules[len(modules) // 2 :]:
        module.training = False
    return model


def _noted(module: nn.Module, args: Any, *, notes: list[int]) -> None:
    notes.append(len(args))


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 8, 8)


def tokens(batch: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, 6))


def vectors(batch: int) -> Tensor:
    """Enough of them for each of the experts to run."""
    return torch.randn(16 * batch, 8)


@subject(images)
class Residual(nn.Module):
    """Convolutions, batch norm, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv1, self.bn1 = nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.stem(x)))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.head(x.mean((2, 3)))


@subject(images)
class Mobile(nn.Module):
    """Depthwise convolutions, a squeeze-and-excite gate, dropout in place."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.depthwise, self.bn2 = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16)
        self.reduce, self.gate = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.project = nn.Sequential(nn.Conv2d(16, 10, 1), nn.BatchNorm2d(10), nn.Dropout(0.2, inplace=True))
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.bn2(self.depthwise(F.relu6(self.bn1(self.expand(x)), inplace=True))))
        x = x * self.gate(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head(self.project(x).mean((2, 3)))


@subject(images)
class Vision(nn.Module):
    """Patches, a class token, attention of torch.nn with its fast path."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.cls_token, self.pos_embed = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.1, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        return self.head(self.blocks(x)[:, 0])


@subject(tokens)
class Tagger(nn.Module):
    """A bidirectional LSTM and a GRU, whose weights hang a second time in lists."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 10)
        self.lstm = nn.LSTM(10, 8, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(16, 9, batch_first=True)
        self.head = nn.Linear(9, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.gru(self.lstm(self.embed(ids))[0])[0])


@subject(tokens)
def bert() -> nn.Module:
    """Hugging Face's BERT with a classification head."""
    declare_torchvision_operators()
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
        max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return BertForSequenceClassification(config)


@subject(vectors)
class Experts(nn.Module):
    """A hand-written router: each sample goes through its best two experts, others may not run at all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 12)
        self.router = nn.Linear(12, 4, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(12, 10), nn.SiLU(), nn.Linear(10, 12)) for _ in range(4))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        weights, chosen = self.router(x).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows, place = (chosen == i).nonzero(as_tuple=True)
            if len(rows):
                out = out.index_add(0, rows, expert(x[rows]) * weights[rows, place, None])
        return self.head(x + out)


@subject(tokens)
class Tied(nn.Module):
    """One weight under several names: embedding and output layer, a layer used twice, an autoencoder with its transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 12)
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)
        self.second.weight = self.first.weight
        self.code = nn.Parameter(torch.randn(12, 7) / 3)
        self.norm = nn.LayerNorm(12)
        self.lm_head = nn.Linear(12, VOCABULARY, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + self.second(F.gelu(self.first(x)))
        return self.lm_head(self.norm(x + (x @ self.code).tanh() @ self.code.T))


@subject(vectors)
class Parametrised(nn.Module):
    """Weights that are computed from others, with buffers that training moves."""

    def __init__(self) -> None:
        super().__init__()
        self.a = parametrizations.weight_norm(nn.Linear(8, 12))
        self.b = parametrizations.spectral_norm(nn.Linear(12, 10))
        self.c = parametrizations.orthogonal(nn.Linear(10, 10))
        self.d = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(F.relu(self.b(F.relu(self.a(x))))).tanh())


WINDOWS: dict[tuple[int, str], Tensor] = {}


@lru_cache(maxsize=8)
def positions(length: int, device: str) -> Tensor:
    """Cached outside of every module."""
    return torch.linspace(0, 1, length, device=device)


@dataclass
class Settings:
    """A plain object that is written to during a forward pass."""

    hidden: int = 12
    seen: list[int] = field(default_factory=list)


class Slots:
    """Has no dict."""

    __slots__ = ("last", "width")

    def __init__(self, width: int) -> None:
        self.width, self.last = width, torch.zeros(2)


@subject(tokens, lambda: {"windows": WINDOWS, "positions": positions})
class Keeper(nn.Module):
    """Caches, counters, generators and plain objects, all written to in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 12, max_norm=1.5)
        self.up, self.down = nn.Linear(12, 9), nn.Linear(9, 12)
        self.head = nn.Linear(12, 4)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.history: deque[Tensor] = deque(maxlen=4)
        self.cache: dict[str, Any] = {"nested": [{}]}
        self.settings, self.slots = Settings(), Slots(9)
        self.noise = torch.Generator().manual_seed(3)
        self.numpy_noise, self.python_noise = np.random.default_rng(4), random.Random(5)
        self.legacy_noise = np.random.RandomState(6)
        self.activation = lambda x: F.relu(self.up(x))

    def forward(self, ids: Tensor) -> Tensor:
        self.steps += 1
        x = self.embed(ids)
        length = ids.shape[1]
        if (length, str(x.device)) not in WINDOWS:
            WINDOWS[length, str(x.device)] = torch.hann_window(length, device=x.device)
        x = x * (1 + 0 * WINDOWS[length, str(x.device)][:, None]) + 0 * positions(length, str(x.device))[:, None]
        self.history.append(x.detach())
        self.cache["nested"][0][length] = x.sum()
        self.settings.seen.append(length)
        self.slots.last = x.detach()
        x = x + 0 * torch.rand(1, generator=self.noise).to(x)
        x = x + 0 * (self.numpy_noise.random() + self.python_noise.random() + self.legacy_noise.rand())
        x = x + 0 * (random.random() + np.random.rand()) + 0 * torch.rand(1).to(x)
        with torch.no_grad():
            self.down.weight.data.clamp_(-0.25, 0.25)
        return self.head(x + self.down(self.activation(x)))


@subject(vectors)
class Scripted(nn.Module):
    """A TorchScript module inside an ordinary one."""

    def __init__(self) -> None:
        super().__init__()
        inner = nn.Sequential(nn.Linear(12, 12), nn.ReLU())
        self.a = nn.Linear(8, 12)
        self.scripted = torch.jit.script(inner)
        self.b, self.c = nn.Linear(12, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(self.scripted(F.relu(self.a(x))))))


def chosen(names: Iterable[str] = ()) -> tuple[Subject, ...]:
    """The subjects with these names; all of them where none is given."""
    return tuple(SUBJECTS[name] for name in (tuple(names) or SUBJECTS))
