"""Weights in more than one place: two parameters on one storage, views, transposes, ties, copies kept in step."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, ids, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
ROWS = lambda: (floats(4, 6),)


@wild(ROWS, uses=[lambda m: m.encode(torch.ones(2, 6))])
class TiedDecoder(nn.Module):
    """An autoencoder whose decoder is the encoder transposed: `F.linear(h, W.t())`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.bias = nn.Linear(6, 10), nn.Parameter(torch.randn(6))

    def encode(self, x: Tensor) -> Tensor:
        """The code's first number."""
        return torch.tanh(self.encoder(x)).sum(-1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.encoder(x)), self.encoder.weight.t(), self.bias)


@wild(IMAGE)
class TiedConvDecoder(nn.Module):
    """`conv_transpose2d` with the encoder's own kernels, two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        h = F.conv_transpose2d(h, self.conv2.weight, stride=2, padding=1, output_padding=1)
        return F.conv_transpose2d(torch.relu(h), self.conv1.weight, padding=1)


@wild(lambda: (ids(11, 2, 5),))
class TiedEmbedding(nn.Module):
    """Input embedding = output projection, scaled by its own width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down, self.head = (
            nn.Embedding(11, 8),
            nn.Linear(8, 20),
            nn.Linear(20, 8),
            nn.Linear(8, 11),
        )
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) * self.embed.embedding_dim**0.5
        return self.head(x + self.down(F.gelu(self.up(x))))


@wild(ROWS)
class TwoOnOneStorage(nn.Module):
    """Two parameters are halves of one storage, as flat-parameter optimisers leave them."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.randn(10 * 6 + 3 * 10) / 3
        self.w1, self.w2 = nn.Parameter(flat[:60].view(10, 6)), nn.Parameter(flat[60:].view(3, 10))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(F.linear(x, self.w1)), self.w2)


@wild(ROWS)
class OverlappingParameters(nn.Module):
    """Two parameters look at the same numbers: one is the other's transpose."""

    def __init__(self) -> None:
        super().__init__()
        data = torch.randn(10, 6) / 3
        self.w1, self.w2, self.head = nn.Parameter(data), nn.Parameter(data.t()), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(torch.relu(F.linear(x, self.w1)), self.w2))


@wild(ROWS)
class ViewOfAParameter(nn.Module):
    """A plain tensor attribute is a view of a parameter: training the one moves the other."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 3)
        self.first = self.fc1.weight.detach()[:, :2]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x) + x[:, :2] @ self.first.t().to(x)))


@wild(ROWS)
class ListOfTensors(nn.Module):
    """Weights in a plain list that no registry knows, of the same sizes as those that are known."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 3)
        self.more = [torch.randn(10, 10, dtype=torch.float64) / 3, torch.randn(10, dtype=torch.float64)]

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.fc1(x))
        return self.fc2(torch.tanh(h @ self.more[0].to(h) + self.more[1].to(h)))


@wild(ROWS)
class HiddenModule(nn.Module):
    """A module in a list, out of sight of `parameters()`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 3)
        self.teacher = [nn.Linear(10, 3, dtype=torch.float64)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.fc1(x))
        return self.fc2(h), self.teacher[0](h.double()).to(h)


@wild(lambda: (floats(4, 6), floats(4, 6)))
class Siamese(nn.Module):
    """Two inputs through one network, compared."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        u, v = self.body(a), self.body(b)
        return F.cosine_similarity(u, v), (u - v).pow(2).sum(1)


@wild(lambda: (floats(2, 3, 8, 8), floats(2, 3, 8, 8), floats(2, 3, 8, 8)))
class Triplet(nn.Module):
    """Three branches and a margin, returning the loss and the distances."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 6)

    def embed(self, x: Tensor) -> Tensor:
        """A point on the sphere."""
        return F.normalize(self.fc(F.relu(self.conv(x)).mean((2, 3))), dim=1)

    def forward(self, a: Tensor, p: Tensor, n: Tensor) -> dict[str, Tensor]:
        a, p, n = self.embed(a), self.embed(p), self.embed(n)
        return {"loss": F.triplet_margin_loss(a, p, n), "near": (a - p).norm(dim=1), "far": torch.cdist(a, n)}


@wild(lambda: (floats(4, 6), floats(4, 6)))
class ContrastiveWithQueue(nn.Module):
    """MoCo: a momentum encoder, a queue of keys in a buffer, a pointer moved in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8))
        self.k = copy.deepcopy(self.q).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(8, 16), dim=0))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        q = F.normalize(self.q(a), dim=1)
        with torch.no_grad():
            for ours, theirs in zip(self.q.parameters(), self.k.parameters()):
                theirs.mul_(0.99).add_(ours, alpha=0.01)
            k = F.normalize(self.k(b), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.clone()], 1) / 0.07
        if self.training:
            start = int(self.pointer)
            self.queue[:, start : start + len(k)] = k.T
            self.pointer[0] = (start + len(k)) % 16
        return logits


@wild(IMAGE)
class SharedAcrossDepth(nn.Module):
    """One block applied three times, with norms of its own each time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for norm in self.norms:
            h = h + F.relu(norm(self.conv(h)))
        return self.head(h)


@wild(IMAGE)
class SharedInPart(nn.Module):
    """Two levels share a convolution and differ in biases: RetinaNet's heads."""

    def __init__(self) -> None:
        super().__init__()
        self.p3, self.p4 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.tower = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
        self.classes, self.boxes = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.scales = nn.ParameterList(nn.Parameter(torch.rand(())) for _ in range(2))

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        towers = [self.tower(level(x)) for level in (self.p3, self.p4)]
        boxes = [torch.exp(self.boxes(t) * s) for t, s in zip(towers, self.scales)]
        return {"classes": [self.classes(t).permute(0, 2, 3, 1).flatten(1, 2) for t in towers], "boxes": boxes}


@wild(ROWS)
class SameModuleTwice(nn.Module):
    """One module under two names, one parameter under two names, a module inside itself by a list."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 10)
        self.again, self.out = self.fc2, nn.Linear(10, 3)
        self.alias = self.fc1.bias
        self.everything: list[Any] = [self.fc1, self.fc2]

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.fc1(x)) + self.alias
        return self.out(self.again(torch.relu(self.everything[1](h))))


@wild(ROWS)
class Symmetric(nn.Module):
    """A symmetric and an antisymmetric recurrence made of one square weight."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.w, self.out = nn.Linear(6, 10), nn.Parameter(torch.randn(10, 10) / 3), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        for _ in range(3):
            h = h + 0.1 * torch.tanh(h @ (self.w - self.w.T - 0.1 * torch.eye(10).to(h)) + h @ (self.w @ self.w.T))
        return self.out(h)


@wild(ROWS)
class WeightFromTwo(nn.Module):
    """A low-rank weight `A @ B`, a Kronecker product, and a weighted sum of two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(12, 4)), nn.Parameter(torch.randn(4, 6))
        self.k1, self.k2 = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(4, 4))
        self.mix, self.out = nn.Parameter(torch.rand(())), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(x @ (self.a @ self.b).T)
        square = self.mix * torch.kron(self.k1, self.k2) + (1 - self.mix) * (self.a @ self.a.T)
        return self.out(torch.tanh(h @ square))


@wild(ROWS)
class SlicesOfOneWeight(nn.Module):
    """One matrix cut into the weights of three layers, biases in one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.biases = nn.Parameter(torch.randn(10 + 10 + 3, 10) / 3), nn.Parameter(torch.randn(23))
        self.inp = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        for start, stop in ((0, 10), (10, 20), (20, 23)):
            h = F.linear(torch.tanh(h), self.weights[start:stop], self.biases[start:stop])
        return h


@wild(ROWS)
class FlatParameter(nn.Module):
    """All weights in one vector, cut by a running offset."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes = [(10, 6), (10,), (3, 10), (3,)]
        self.flat = nn.Parameter(torch.randn(sum(torch.Size(s).numel() for s in self.shapes)) / 3)

    def forward(self, x: Tensor) -> Tensor:
        start, cut = 0, []
        for shape in self.shapes:
            size = torch.Size(shape).numel()
            cut.append(self.flat[start : start + size].view(shape))
            start += size
        return F.linear(torch.relu(F.linear(x, cut[0], cut[1])), cut[2], cut[3])


@wild(ROWS)
class ExpandedParameter(nn.Module):
    """A parameter that is one row seen ten times (stride 0), and a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 10)
        self.fc1.weight = nn.Parameter(torch.randn(6, 10).t())
        self.register_buffer("row", torch.randn(1, 10).expand(4, 10))
        self.fc2 = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x) + self.row.sum(0)))
