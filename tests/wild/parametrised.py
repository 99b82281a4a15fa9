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


class _Round(torch.autograd.Function):
    """Rounds, and lets gradients through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g


class QuantLinear(nn.Linear):
    """Fake quantisation: a scale for each row, one for the activations that follows them."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b)
        self.step = nn.Parameter(torch.full((b, 1), 0.05))
        self.register_buffer("range", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.range.mul_(0.9).add_(x.detach().abs().max(), alpha=0.1)
        x = _Round.apply(x / self.range * 127).clamp(-128, 127) / 127 * self.range
        return F.linear(x, _Round.apply(self.weight / self.step).clamp(-8, 7) * self.step, self.bias)


wild(ROWS, name="FakeQuantised")(lambda: nn.Sequential(QuantLinear(6, 12), nn.ReLU(), QuantLinear(12, 3)))


@wild(ROWS)
class Binarised(nn.Module):
    """Sign weights with a scale: XNOR-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        w = self.fc1.weight
        w = (w.sign() * w.abs().mean(1, keepdim=True) - w).detach() + w
        return self.fc2(torch.tanh(F.linear(x, w, self.fc1.bias)))


def _torch_fake_quantised() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = torch.ao.quantization.prepare_qat(model)
        for _ in range(3):
            prepared(torch.randn(8, 6))
    return prepared


wild(ROWS, name="TorchQAT")(_torch_fake_quantised)


def _torch_quantised() -> nn.Module:
    class Small(nn.Module):
        """Stubs around two layers, converted to int8."""

        def __init__(self) -> None:
            super().__init__()
            self.quant, self.fc1, self.act = torch.ao.quantization.QuantStub(), nn.Linear(6, 12), nn.ReLU()
            self.fc2, self.dequant = nn.Linear(12, 3), torch.ao.quantization.DeQuantStub()

        def forward(self, x: Tensor) -> Tensor:
            return self.dequant(self.fc2(self.act(self.fc1(self.quant(x)))))

    model = Small().eval()
    model.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = torch.ao.quantization.prepare(model)
        prepared(torch.randn(8, 6))
        return torch.ao.quantization.convert(prepared)


wild(ROWS, name="TorchInt8")(_torch_quantised)
wild(ROWS, name="TorchDynamicInt8")(
    lambda: torch.ao.quantization.quantize_dynamic(
        nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)), {nn.Linear}
    )
)
wild(ROWS, name="QuantStubs")(
    lambda: nn.Sequential(
        torch.ao.quantization.QuantStub(),
        nn.Linear(6, 12),
        nn.ReLU(),
        nn.Linear(12, 3),
        torch.ao.quantization.DeQuantStub(),
    )
)


@wild(ROWS)
class Int8ByHand(nn.Module):
    """Weights stored as int8 buffers with a float scale each row: GPTQ-like."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 12)
        self.register_buffer("q", torch.randint(-128, 127, (3, 12), dtype=torch.int8))
        self.register_buffer("scale", torch.rand(3, 1) / 100)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.fc1(x))
        return h @ (self.q.to(h) * self.scale.to(h)).T


@wild(ROWS)
class ComplexParameters(nn.Module):
    """Complex weights: modulus and phase."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(6, 10, dtype=torch.complex64))
        self.w2, self.b = nn.Parameter(torch.randn(10, 3, dtype=torch.complex64)), nn.Parameter(torch.randn(10))

    def forward(self, x: Tensor) -> Tensor:
        h = x.to(self.w1.dtype) @ self.w1
        h = torch.polar(F.relu(h.abs() + self.b), h.angle())
        return (h @ self.w2).abs()


@wild(ROWS)
class ComplexOutput(nn.Module):
    """Real and imaginary weights apart; a complex tensor comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.real, self.imaginary = nn.Linear(6, 10), nn.Linear(6, 10)
        self.out = nn.Parameter(torch.view_as_real(torch.randn(10, 3, dtype=torch.complex64)).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(self.real(x), self.imaginary(x)) @ torch.view_as_complex(self.out)


@wild(IMAGE)
class HalfStem(nn.Module):
    """A bfloat16 stem with a float body: the code casts between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3).bfloat16(), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x.to(self.stem.weight.dtype)).to(self.body.weight.dtype)
        return self.head(F.relu(self.body(F.relu(h))).mean((2, 3)))


@wild(lambda: (floats(4, 6).half(),))
class AllHalf(nn.Module):
    """float16 throughout, sums in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12).half(), nn.Linear(12, 3).half()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)).float().to(self.fc2.weight.dtype)).float()


@wild(ROWS)
class DoubleInside(nn.Module):
    """A double-precision solve between float layers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)
        self.core = nn.Parameter(torch.randn(12, 12))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x).double()
        system = self.core.double() @ self.core.double().T + 12 * torch.eye(12, dtype=torch.float64)
        return self.fc2(torch.linalg.solve(system, h.T).T.to(x))


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
