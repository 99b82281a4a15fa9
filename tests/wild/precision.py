"""Numbers of other kinds: quantised, binary, complex, half and double precision."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
ROWS = lambda: (floats(4, 6),)


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
