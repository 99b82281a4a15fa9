"""Code that writes where a forward pass should only read: its inputs, its weights, its attributes, the process's switches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Call, floats, ids, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
ROWS = lambda: (floats(4, 6),)


@wild(IMAGE)
class WritesIntoItsInput(nn.Module):
    """Normalises the caller's tensor in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.1).div_(1.5)
        return self.conv2(F.relu(self.conv1(x)))


class Batch:
    """What people pass around: an object that the model writes its results into."""

    def __init__(self, image: Tensor) -> None:
        self.image, self.features, self.log = image, None, []


@wild(lambda: (Batch(floats(2, 3, 8, 8)),))
class WritesIntoItsBatch(nn.Module):
    """Takes an object, stores features in it, grows its log, returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, batch: Batch) -> Tensor:
        batch.features = F.relu(self.conv1(batch.image))  # type: ignore[assignment]
        batch.log.append("seen")
        return self.conv2(batch.features)


@wild(lambda: Call((), {"batch": {"image": floats(2, 3, 8, 8), "extra": [floats(2, 3)]}}))
class PopsFromItsDict(nn.Module):
    """Takes a dict apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        image = batch.pop("image")
        batch["done"] = True
        batch["extra"].append(1)
        return self.conv2(F.relu(self.conv1(image)))


@wild(lambda: (floats(2, 1, 6), []))
class GrowsAListOfStates(nn.Module):
    """A hand-written cache: a list the caller gives, to which keys and values are added."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 6))

    def forward(self, x: Tensor, cache: list[tuple[Tensor, Tensor]]) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        cache.append((k, v))
        k, v = torch.cat([c[0] for c in cache], 1), torch.cat([c[1] for c in cache], 1)
        return self.o((q @ k.mT).softmax(-1) @ v)


@wild(lambda: (ids(15, 3, 4),))
class MaxNorm(nn.Module):
    """An embedding that renormalises its own rows while it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.head = nn.Embedding(15, 8, max_norm=1.0), nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(F.relu(self.up(self.embed(tokens))).mean(1))


@wild(ROWS)
class ClampsItsWeights(nn.Module):
    """A Wasserstein critic that clips its weights in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 1)

    def forward(self, x: Tensor) -> Tensor:
        for p in self.parameters():
            p.data.clamp_(-0.2, 0.2)
        return self.fc2(F.leaky_relu(self.fc1(x), 0.2))


@wild(ROWS)
class NormalisesItsRows(nn.Module):
    """Each row of a weight has length one: divided in place on every call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 3)

    @torch.no_grad()
    def project(self) -> None:
        """Back onto the sphere."""
        self.fc1.weight.div_(self.fc1.weight.norm(dim=1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        self.project()
        return self.fc2(torch.tanh(self.fc1(x)))


@wild(ROWS)
class ReplacesItsParameter(nn.Module):
    """Rebinds a parameter in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.fc1.weight = nn.Parameter(self.fc1.weight.detach() * 1.0)
        return self.fc2(torch.tanh(self.fc1(x)))


@wild(ROWS)
class AttributeGrad(nn.Module):
    """Parameters with gradients and hooks of the user's, an optimiser that holds them, and notes on them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 3)
        for p in self.parameters():
            p.grad = torch.randn_like(p)
            p.note = {"rate": 0.1}  # type: ignore[attr-defined]
        self.fc1.weight.register_hook(lambda g: g * 1.0)
        self.optimiser = torch.optim.Adam(self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(x)))


@wild(ROWS, training=True)
class MixedModes(nn.Module):
    """One part frozen in evaluation mode, the rest training; some parameters need no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Linear(10, 3)
        self.fc1.requires_grad_(False)

    def train(self, mode: bool = True) -> MixedModes:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.norm(self.fc1(x))))


@wild(ROWS)
class SetsSwitches(nn.Module):
    """Turns switches of the process in forward: precision, threads, determinism."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(before)
        torch.backends.mkldnn.set_flags(True)
        with torch.autocast("cpu", enabled=False):
            return self.fc2(torch.tanh(self.fc1(x)))


@wild(ROWS)
class ExponentialAverage(nn.Module):
    """A teacher that follows the student, updated in forward, kept out of the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.head = nn.Linear(6, 10), nn.Linear(10, 3)
        self.register_buffer("teacher", self.student.weight.detach().clone())
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            self.teacher.mul_(0.9).add_(self.student.weight, alpha=0.1)
            self.steps += 1
        return self.head(torch.tanh(self.student(x))), self.head(torch.tanh(F.linear(x, self.teacher)))


@wild(ROWS)
class LazyScale(nn.Module):
    """Measures its activations on the first call and divides by them ever after."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 3)
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        if self.scale is None:
            self.scale = h.detach().abs().amax(0) + 1
        return self.fc2(torch.tanh(h / self.scale))
