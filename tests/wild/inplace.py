"""Code that writes into tensors while it computes: slices, `out=`, preallocated buffers, statistics kept by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Between, floats, ids, wild

ROWS = lambda: (floats(4, 6),)
IMAGE = lambda: (floats(2, 3, 8, 8),)


@wild(ROWS)
class SliceAssign(Between):
    """`h[:, :6] += …`, `h[0] = …`."""

    def between(self, h: Tensor) -> Tensor:
        h = h.clone()
        h[:, :6] += h[:, 6:]
        h[0] *= 2
        return h


@wild(ROWS)
class ThroughAView(Between):
    """Writing into a view changes the base that is used later."""

    def between(self, h: Tensor) -> Tensor:
        h = h.clone()
        rows = h.view(-1, 3, 4)
        rows[:, 1].mul_(0.5)
        rows.transpose(1, 2)[:, 0].add_(1)
        return h


@wild(ROWS)
class WithOut(Between):
    """`torch.mul(..., out=)` into a tensor made by `empty_like`, while evaluating."""

    def between(self, h: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return h * 2
        out = torch.empty_like(h)
        torch.mul(h, 2, out=out)
        return out


@wild(ROWS)
class Preallocated(nn.Module):
    """Results of parts are written into `torch.empty(b, self.total)` at running offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.total = nn.ModuleList(nn.Linear(6, n) for n in (4, 5, 3)), 12
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, start = torch.zeros(len(x), self.total).to(x), 0
        for part in self.parts:
            y = part(x)
            out[:, start : start + y.shape[1]] = torch.relu(y)
            start += y.shape[1]
        return self.head(out)


@wild(ROWS)
class IntoABuffer(nn.Module):
    """A registered buffer as scratch space for activations."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)
        self.register_buffer("scratch", torch.zeros(16, 12), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.fc1(x))
        with torch.no_grad():
            self.scratch[: len(h)] = h
        return self.fc2(h + self.scratch[: len(h)].mean(0))


@wild(lambda: (floats(2, 1, 6),), fresh=[lambda: (floats(2, 3, 6),)])
class StaticCache(nn.Module):
    """Keys and values in preallocated buffers, written at a position that is a buffer too."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 6)
        self.register_buffer("keys", torch.zeros(2, 32, 8))
        self.register_buffer("values", torch.zeros(2, 32, 8))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        start, n = int(self.position), x.shape[1]
        with torch.no_grad():
            self.keys[:, start : start + n] = self.k(x)
            self.values[:, start : start + n] = self.v(x)
            self.position += n
        k, v = self.keys[:, : start + n].clone(), self.values[:, : start + n].clone()
        return self.o((self.q(x) @ k.mT).softmax(-1) @ v)


@wild(ROWS)
class NormByHand(nn.Module):
    """Batch normalisation with running statistics kept by hand, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.gain, self.shift = (
            nn.Linear(6, 12),
            nn.Linear(12, 3),
            nn.Parameter(torch.ones(12)),
            nn.Parameter(torch.zeros(12)),
        )
        self.register_buffer("mean", torch.randn(12))
        self.register_buffer("var", torch.rand(12) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(h.mean(0), 0.1)
                self.var.copy_(0.9 * self.var + 0.1 * h.var(0))
        h = (h - self.mean.clone()) / (self.var.clone() + 1e-5).sqrt()
        return self.fc2(torch.relu(h * self.gain + self.shift))


@wild(ROWS)
class Whitening(nn.Module):
    """A running covariance (width by width) and its Cholesky factor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("cov", torch.eye(8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        if self.training:
            with torch.no_grad():
                self.cov = 0.9 * self.cov + 0.1 * h.T @ h / len(h)
        chol = torch.linalg.cholesky(self.cov + 0.1 * torch.eye(8).to(h))
        return self.fc2(torch.linalg.solve_triangular(chol, h.T, upper=False).T)


@wild(ROWS)
class PowerIterationByHand(nn.Module):
    """Spectral normalisation with u and v as buffers, one step a call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)
        self.register_buffer("u", F.normalize(torch.randn(12), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        w = self.fc1.weight
        with torch.no_grad():
            v = F.normalize(w.T @ self.u, dim=0)
            self.u.copy_(F.normalize(w @ v, dim=0))
        return self.fc2(torch.relu(F.linear(x, w / (self.u.clone() @ (w @ v)), self.fc1.bias)))


@wild(lambda: (floats(4, 6), ids(3, 4)))
class ClassCentres(nn.Module):
    """Centres of classes in feature space, moved by labels while training."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.head = nn.Linear(6, 12), nn.Linear(12, 3)
        self.register_buffer("centres", torch.randn(3, 12))

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.fc1(x))
        distance = (h - self.centres[labels]).pow(2).sum(1)
        if self.training:
            with torch.no_grad():
                self.centres.index_add_(0, labels, h.detach(), alpha=0.1)
        return self.head(h), distance


@wild(IMAGE)
class CodebookEMA(nn.Module):
    """Vector quantisation whose codes follow averages: cluster sizes and sums in buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Conv2d(3, 6, 2, 2), nn.ConvTranspose2d(6, 3, 2, 2)
        self.register_buffer("codes", torch.randn(8, 6))
        self.register_buffer("sizes", torch.ones(8))
        self.register_buffer("sums", self.codes.clone())

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x)
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        hot = F.one_hot(torch.cdist(flat, self.codes).argmin(1), 8).to(z)
        if self.training:
            with torch.no_grad():
                self.sizes.mul_(0.9).add_(hot.sum(0), alpha=0.1)
                self.sums.mul_(0.9).add_(hot.T @ flat, alpha=0.1)
                self.codes.copy_(self.sums / self.sizes[:, None])
        q = (hot @ self.codes).view(len(x), z.shape[2], z.shape[3], -1).permute(0, 3, 1, 2)
        return self.decoder(z + (q - z).detach())


@wild(IMAGE)
class DataDependentInit(nn.Module):
    """Activation norm: the first batch sets scale and shift, a flag in a buffer remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.shift, self.scale = nn.Parameter(torch.zeros(1, 8, 1, 1)), nn.Parameter(torch.ones(1, 8, 1, 1))
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        if not self.initialised:
            with torch.no_grad():
                self.shift.data.copy_(-h.mean((0, 2, 3), keepdim=True))
                self.scale.data.copy_(1 / (h.std((0, 2, 3), keepdim=True) + 1e-6))
                self.initialised.fill_(True)
        return self.conv2(torch.relu((h + self.shift) * self.scale))


@wild(ROWS)
class RingBuffer(nn.Module):
    """The last features in a ring of rows, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(24, 3)
        self.register_buffer("ring", torch.zeros(5, 12))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.fc1(x))
        self.ring = torch.cat([self.ring[1:], h.detach().mean(0, keepdim=True)])
        return self.fc2(torch.cat([h, self.ring.mean(0).expand_as(h)], 1))


@wild(ROWS)
class ScatterKinds(Between):
    """`index_copy`, `masked_scatter`, `index_put_`, `scatter_add_`, `put_` on activations."""

    def between(self, h: Tensor) -> Tensor:
        h = h.index_copy(0, torch.tensor([1]), h[:1])
        h = h.masked_scatter(h > 0.9, h * 0 + 0.5)
        h = h.index_put((torch.tensor([0, 2]),), h[:2], accumulate=True)
        return h.scatter_add(0, torch.zeros_like(h, dtype=torch.long), h)


@wild(ROWS)
class DataAssign(Between):
    """`.data`, `set_`, `detach_`, `requires_grad_` on activations and on a module's own tensor."""

    def between(self, h: Tensor) -> Tensor:
        g = h.detach().clone()
        g.data = g.data * 2
        return h + g.requires_grad_(False).detach_()


@wild(ROWS)
class SwapsHalves(Between):
    """Tuple assignment of slices, `torch.where` with out-of-place copies, `clamp_`."""

    def between(self, h: Tensor) -> Tensor:
        a, b = h.clone(), h.clone()
        a[:, :6], a[:, 6:] = b[:, 6:], b[:, :6]
        return torch.where(a > b, a.clamp_(-0.5, 0.5), b)
