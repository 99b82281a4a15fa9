"""Weights that are made from others: parametrisations, adapters, quantisation, odd dtypes."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from .entry import floats, ids, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
ROWS = lambda: (floats(4, 6),)


def _mlp(wrap: Any, *widths: int) -> nn.Module:
    sizes = widths or (6, 12, 10, 3)
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers += [wrap(nn.Linear(a, b)), nn.Tanh()] if i < len(sizes) - 2 else [nn.Linear(a, b)]
    return nn.Sequential(*layers)


wild(ROWS, name="WeightNorm")(lambda: _mlp(parametrizations.weight_norm))
wild(ROWS, name="SpectralNorm")(lambda: _mlp(parametrizations.spectral_norm))
wild(ROWS, name="Orthogonal")(lambda: _mlp(parametrizations.orthogonal))
wild(ROWS, name="OrthogonalCayley")(lambda: _mlp(lambda m: parametrizations.orthogonal(m, orthogonal_map="cayley")))


def _old(function: Any) -> Any:
    def wrap(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(module)

    return wrap


wild(ROWS, name="OldWeightNorm")(lambda: _mlp(_old(nn.utils.weight_norm)))
wild(ROWS, name="OldWeightNormDim1")(lambda: _mlp(_old(lambda m: nn.utils.weight_norm(m, dim=1))))
wild(ROWS, name="OldSpectralNorm")(lambda: _mlp(_old(nn.utils.spectral_norm)))
wild(ROWS, name="MaskedByTorchPrune")(lambda: _mlp(lambda m: prune.l1_unstructured(m, "weight", 0.3)))
wild(ROWS, name="MaskedStructured")(lambda: _mlp(lambda m: prune.ln_structured(m, "weight", 0.5, n=2, dim=0)))


class _Positive(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return F.softplus(w)


class _UnitRows(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w / w.norm(dim=1, keepdim=True)


class _Skew(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu(1) - w.triu(1).mT


def _parametrised(make: Any) -> Any:
    def wrap(module: nn.Module) -> nn.Module:
        parametrize.register_parametrization(module, "weight", make())
        return module

    return wrap


wild(ROWS, name="PositiveWeights")(lambda: _mlp(_parametrised(_Positive)))
wild(ROWS, name="UnitRows")(lambda: _mlp(_parametrised(_UnitRows)))
wild(ROWS, name="SkewSymmetric")(
    lambda: _mlp(lambda m: m if m.in_features == 6 else _parametrised(_Skew)(m), 6, 10, 10, 3)
)


@wild(IMAGE)
class StandardisedConv(nn.Module):
    """Weight standardisation, and an equalised learning rate."""

    class WSConv(nn.Conv2d):
        """Zero mean and unit variance over each filter."""

        def forward(self, x: Tensor) -> Tensor:
            w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            w = w / (w.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5)
            return self._conv_forward(x, w, self.bias)

    class EqualConv(nn.Conv2d):
        """Scaled by its fan-in at run time."""

        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight * math.sqrt(2 / self.weight[0].numel()), self.bias)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = self.WSConv(3, 8, 3), self.WSConv(8, 8, 3), self.EqualConv(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


class LoRA(nn.Module):
    """A frozen layer and a low-rank correction; `merge` folds it in."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), 2 / rank
        self.a, self.b = (
            nn.Parameter(torch.randn(rank, base.in_features)),
            nn.Parameter(torch.randn(base.out_features, rank)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.dropout(x, 0.1, self.training) @ self.a.T @ self.b.T * self.scale

    def merged(self) -> Tensor:
        """One weight."""
        return self.base.weight + self.b @ self.a * self.scale


class DoRA(LoRA):
    """Magnitude and direction apart."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__(base, rank)
        self.m = nn.Parameter(base.weight.detach().norm(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        w = self.merged()
        return F.linear(x, w * (self.m / w.norm(dim=1).detach())[:, None], self.base.bias)


class RsLoRA(LoRA):
    """The scale follows the rank through a root, read from the weight."""

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.a.T @ self.b.T) * (8 / math.sqrt(self.a.shape[0]))


wild(ROWS, name="LoRA", uses=[lambda m: F.linear(torch.ones(2, m[0].base.in_features), m[0].merged()).sum(1)])(
    lambda: _mlp(LoRA)
)
wild(ROWS, name="DoRA")(lambda: _mlp(DoRA))
wild(ROWS, name="RsLoRA")(lambda: _mlp(RsLoRA))


@wild(lambda: (floats(2, 5, 12),))
class LoRAInAttention(nn.Module):
    """Corrections on queries and values only, the fused projection split."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(12, 36), nn.Linear(12, 12), 3
        self.qa, self.qb = nn.Parameter(torch.randn(2, 12)), nn.Parameter(torch.randn(12, 2))
        self.va, self.vb = nn.Parameter(torch.randn(2, 12)), nn.Parameter(torch.randn(12, 2))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        qkv[..., :12] += x @ self.qa.T @ self.qb.T
        qkv[..., -12:] += x @ self.va.T @ self.vb.T
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in qkv.chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@wild(ROWS)
class SoftMasks(nn.Module):
    """Learned gates on units, thresholded in evaluation: L0 regularisation."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.gate = nn.Linear(6, 12), nn.Linear(12, 3), nn.Parameter(torch.randn(12))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            u = torch.rand_like(self.gate)
            gate = torch.sigmoid((u.log() - (1 - u).log() + self.gate) / 0.66)
        else:
            gate = (torch.sigmoid(self.gate) * 1.2 - 0.1).clamp(0, 1)
        return self.fc2(torch.relu(self.fc1(x)) * gate)


@wild(lambda: (ids(10, 2, 6),))
class HashedEmbedding(nn.Module):
    """Embeddings composed of quotient and remainder tables, multiplied, and an embedding bag."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.r, self.bag = nn.Embedding(4, 8), nn.Embedding(3, 8), nn.EmbeddingBag(10, 8, mode="sum")
        self.fc = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.q(tokens // 3) * self.r(tokens % 3)
        return self.fc(torch.cat([h.mean(1), self.bag(tokens)], 1))


@wild(ROWS)
class FoldedNorm(nn.Module):
    """Folds its batch norm into the weight when it evaluates: RepVGG."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.skip, self.fc2 = (
            nn.Linear(6, 12, bias=False),
            nn.BatchNorm1d(12),
            nn.Linear(6, 12),
            nn.Linear(12, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.fc2(torch.relu(self.norm(self.fc1(x)) + self.skip(x)))
        n = self.norm
        assert n.running_var is not None
        assert n.running_mean is not None
        t = n.weight / (n.running_var + n.eps).sqrt()
        w = self.fc1.weight * t[:, None] + self.skip.weight
        return self.fc2(torch.relu(F.linear(x, w, n.bias - n.running_mean * t + self.skip.bias)))
