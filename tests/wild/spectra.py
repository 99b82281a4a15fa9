"""Transforms, capsules, trees, factors and kernels: linear algebra as people write it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, ids, wild

GRAPH = lambda: (floats(7, 6), torch.randint(0, 7, (2, 15)))
OTHER = [lambda: (floats(4, 6), torch.randint(0, 4, (2, 9)))]


class SpectralConv2d(nn.Module):
    """Complex weights on the lowest modes."""

    def __init__(self, a: int, b: int, modes: int) -> None:
        super().__init__()
        self.inp, self.out, self.modes = a, b, modes
        scale = 1 / (a * b)
        self.w1 = nn.Parameter(scale * torch.rand(a, b, modes, modes, dtype=torch.cfloat))
        self.w2 = nn.Parameter(scale * torch.rand(a, b, modes, modes, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        m = self.modes
        ft = torch.fft.rfft2(x)
        out = torch.zeros(len(x), self.out, x.size(-2), x.size(-1) // 2 + 1, dtype=ft.dtype, device=x.device)
        out[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", ft[:, :, :m, :m], self.w1)
        out[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", ft[:, :, -m:, :m], self.w2)
        return torch.fft.irfft2(out, s=(x.size(-2), x.size(-1)))


@wild(lambda: (floats(2, 8, 8, 1),), fresh=[lambda: (floats(1, 12, 12, 1),)])
class FourierNeuralOperator(nn.Module):
    """Grid appended, spectral and pointwise paths added, written channels-last at the ends."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(3, 6)
        self.spectral = nn.ModuleList(SpectralConv2d(6, 6, 3) for _ in range(2))
        self.pointwise = nn.ModuleList(nn.Conv2d(6, 6, 1) for _ in range(2))
        self.fc1, self.fc2 = nn.Linear(6, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, height, width, _ = x.shape
        rows = torch.linspace(0, 1, height).to(x).view(1, height, 1, 1).expand(b, -1, width, -1)
        columns = torch.linspace(0, 1, width).to(x).view(1, 1, width, 1).expand(b, height, -1, -1)
        h = self.lift(torch.cat([x, rows, columns], -1)).permute(0, 3, 1, 2)
        for spectral, pointwise in zip(self.spectral, self.pointwise):
            h = F.gelu(spectral(h) + pointwise(h))
        return self.fc2(F.gelu(self.fc1(h.permute(0, 2, 3, 1))))


@wild(lambda: (floats(2, 10, 6),), fresh=[lambda: (floats(2, 10, 6),)])
class FNet(nn.Module):
    """Tokens and features mixed by a 2-D FFT: the width is transformed, so its units are not alike."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.norm, self.ff, self.out = (
            nn.Linear(6, 8),
            nn.LayerNorm(8),
            nn.Sequential(nn.Linear(8, 20), nn.GELU(), nn.Linear(20, 8)),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        h = self.norm(h + torch.fft.fft2(h).real)
        return self.out(h + self.ff(h))


@wild(lambda: (floats(2, 8, 8, 3),))
class GlobalFilter(nn.Module):
    """GFNet: a learned complex filter stored as reals, `ortho` transforms over space only."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.filter, self.norm = (
            nn.Linear(3, 10),
            nn.Parameter(torch.randn(8, 5, 10, 2) * 0.1),
            nn.LayerNorm(10),
        )
        self.up, self.down, self.head = nn.Linear(10, 24), nn.Linear(24, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        f = torch.fft.rfft2(h, dim=(1, 2), norm="ortho") * torch.view_as_complex(self.filter)
        h = h + torch.fft.irfft2(f, s=(8, 8), dim=(1, 2), norm="ortho")
        return self.head((h + self.down(F.gelu(self.up(self.norm(h))))).mean((1, 2)))


@wild(lambda: (floats(2, 16),))
class WaveletAndDCT(nn.Module):
    """Haar lifting by even and odd places, a DCT matrix in a buffer, thresholds for each band."""

    def __init__(self) -> None:
        super().__init__()
        n = torch.arange(8)
        self.register_buffer("dct", torch.cos(torch.pi / 8 * (n[None] + 0.5) * n[:, None]))
        self.predict, self.update = nn.Conv1d(1, 6, 3, padding=1), nn.Conv1d(6, 1, 1)
        self.threshold, self.out = nn.Parameter(torch.rand(8)), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x[:, ::2], x[:, 1::2]
        detail = odd - self.update(torch.tanh(self.predict(even[:, None]))).squeeze(1)
        smooth = (even + detail / 2) @ self.dct.T
        return self.out(torch.cat([F.softshrink(smooth, 0.1) * (smooth.abs() > self.threshold), detail], 1))


def squash(x: Tensor, dim: int = -1) -> Tensor:
    """Short vectors to zero, long ones to length one."""
    norm = x.pow(2).sum(dim, keepdim=True)
    return norm / (1 + norm) * x / (norm + 1e-8).sqrt()


@wild(lambda: (floats(2, 1, 12, 12),))
class CapsNet(nn.Module):
    """Primary capsules, routing by agreement, a reconstruction masked by the longest capsule."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.primary = nn.Conv2d(1, 8, 5), nn.Conv2d(8, 4 * 6, 5, 2)
        self.w = nn.Parameter(torch.randn(1, 6 * 4, 3, 5, 4) / 2)
        self.decoder = nn.Sequential(nn.Linear(15, 20), nn.ReLU(), nn.Linear(20, 16), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.primary(F.relu(self.conv(x)))
        u = squash(h.view(len(x), 4, -1).mT)
        hat = (self.w @ u[:, :, None, :, None]).squeeze(-1)
        logits = torch.zeros(*hat.shape[:3], 1).to(x)
        for i in range(3):
            v = squash((logits.softmax(2) * hat).sum(1, keepdim=True))
            if i < 2:
                logits = logits + (hat * v).sum(-1, keepdim=True)
        lengths = v.squeeze(1).norm(dim=-1)
        chosen = F.one_hot(lengths.argmax(1), 3).to(x)[:, :, None]
        return lengths, self.decoder((v.squeeze(1) * chosen).flatten(1))


@wild(lambda: (floats(4, 6),))
class DifferentiableTree(nn.Module):
    """Soft decisions: leaves weighted by paths, outer products of probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.decide, self.leaves = nn.Linear(6, 10), nn.Linear(10, 3), nn.Parameter(torch.randn(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        p = torch.sigmoid(self.decide(torch.tanh(self.features(x))))
        p = torch.stack([p, 1 - p], -1)
        paths = torch.stack(
            [p[:, 0, 0] * p[:, 1, 0], p[:, 0, 0] * p[:, 1, 1], p[:, 0, 1] * p[:, 2, 0], p[:, 0, 1] * p[:, 2, 1]], 1
        )
        return paths @ self.leaves.softmax(-1)


@wild(lambda: (ids(10, 6, 4), floats(6, 3)))
class FactorizationMachine(nn.Module):
    """Field embeddings, pairwise interactions by a square of sums, a cross network, a deep part."""

    def __init__(self) -> None:
        super().__init__()
        self.embeds = nn.ModuleList(nn.Embedding(10, 5) for _ in range(4))
        self.dense, self.cross = nn.Linear(3, 5), nn.ParameterList(nn.Parameter(torch.randn(25) / 5) for _ in range(2))
        self.deep, self.out = (
            nn.Sequential(nn.Linear(25, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU()),
            nn.Linear(25 + 8, 1),
        )

    def forward(self, fields: Tensor, numbers: Tensor) -> Tensor:
        vectors = torch.stack([e(fields[:, i]) for i, e in enumerate(self.embeds)] + [self.dense(numbers)], 1)
        second = 0.5 * (vectors.sum(1).pow(2) - vectors.pow(2).sum(1)).sum(1, keepdim=True)
        x0 = x = vectors.flatten(1)
        for w in self.cross:
            x = x0 * (x @ w)[:, None] + x
        return torch.sigmoid(self.out(torch.cat([x, self.deep(x0)], 1)) + second)


@wild(lambda: (ids(10, 6), ids(8, 6)))
class MatrixFactorisation(nn.Module):
    """Users and items, biases as embeddings of size one, a GMF product beside an MLP; dot products of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item, self.user_bias, self.item_bias = (
            nn.Embedding(10, 8),
            nn.Embedding(8, 8),
            nn.Embedding(10, 1),
            nn.Embedding(8, 1),
        )
        self.user2, self.item2 = nn.Embedding(10, 6), nn.Embedding(8, 6)
        self.mlp, self.out = nn.Sequential(nn.Linear(12, 10), nn.ReLU()), nn.Linear(10 + 8, 1)

    def forward(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        product = self.user(users) * self.item(items)
        plain = product.sum(1) + self.user_bias(users).squeeze(1) + self.item_bias(items).squeeze(1)
        deep = self.mlp(torch.cat([self.user2(users), self.item2(items)], 1))
        return plain, self.out(torch.cat([product, deep], 1)).squeeze(1)


@wild(lambda: (floats(4, 6),))
class GaussianProcessHead(nn.Module):
    """A Cholesky solve against inducing points in feature space; determinants and distances."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.points, self.values = (
            nn.Linear(6, 8),
            nn.Parameter(torch.randn(5, 8)),
            nn.Parameter(torch.randn(5, 2)),
        )
        self.log_scale = nn.Parameter(torch.zeros(8))

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """With a length scale for each feature."""
        s = self.log_scale.exp()
        return torch.exp(-0.5 * ((a * s)[:, None] - (b * s)[None]).pow(2).sum(-1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.features(x))
        chol = torch.linalg.cholesky(self.kernel(self.points, self.points) + 0.1 * torch.eye(5).to(x))
        k = self.kernel(h, self.points)
        mean = k @ torch.cholesky_solve(self.values, chol)
        return mean, 1 - torch.linalg.solve_triangular(chol, k.T, upper=False).pow(2).sum(0)
