"""Fields and flows in time: diffusion, differential equations, radiance, automata."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
ROWS = lambda: (floats(4, 6),)


def timestep_embedding(steps: Tensor, dim: int) -> Tensor:
    """Sines and cosines of a step."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(dim // 2).to(steps.device) / (dim // 2))
    angles = steps[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], -1)


class ResBlock(nn.Module):
    """Two convolutions with a time embedding added between, and a projected skip."""

    def __init__(self, a: int, b: int, time: int, scale_shift: bool = False) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, a), nn.Conv2d(a, b, 3, padding=1)
        self.time, self.scale_shift = nn.Linear(time, 2 * b if scale_shift else b), scale_shift
        self.norm2, self.conv2 = nn.GroupNorm(4, b), nn.Conv2d(b, b, 3, padding=1)
        self.skip = nn.Conv2d(a, b, 1) if a != b else nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        t = self.time(F.silu(t))[:, :, None, None]
        if self.scale_shift:
            scale, shift = t.chunk(2, 1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + t)
        return self.skip(x) + self.conv2(F.silu(h))


class SpatialAttention(nn.Module):
    """Attention over positions, channels first, as the DDPM code has it."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj, self.heads = (
            nn.GroupNorm(4, c),
            nn.Conv1d(c, 3 * c, 1),
            nn.Conv1d(c, c, 1),
            heads,
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x).view(b, c, h * w)).reshape(b * self.heads, -1, h * w)
        q, k, v = qkv.chunk(3, dim=1)
        scale = 1 / math.sqrt(math.sqrt(c // self.heads))
        weight = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), -1)
        return x + self.proj(torch.einsum("bts,bcs->bct", weight, v).reshape(b, -1, h * w)).view(b, c, h, w)


@wild(
    lambda: (floats(2, 3, 8, 8), torch.tensor([3.0, 70.0])),
    fresh=[lambda: (floats(1, 3, 16, 16), torch.tensor([500.0]))],
)
class DiffusionUNet(nn.Module):
    """Skips on a stack, two levels, attention in the middle."""

    def __init__(self, scale_shift: bool = False) -> None:
        super().__init__()
        self.base = 16
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 32))
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.down = nn.ModuleList([ResBlock(16, 16, 32, scale_shift), ResBlock(16, 24, 32, scale_shift)])
        self.shrink = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.middle, self.attention = ResBlock(24, 24, 32, scale_shift), SpatialAttention(24, 2)
        self.up = nn.ModuleList([ResBlock(24 + 24, 16, 32, scale_shift), ResBlock(16 + 16, 16, 32, scale_shift)])
        self.out = nn.Sequential(nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = self.time(timestep_embedding(t, self.base).to(x))
        h, skips = self.stem(x), []
        for i, block in enumerate(self.down):
            h = block(h, t)
            skips.append(h)
            if i == 0:
                h = self.shrink(h)
        h = self.attention(self.middle(h, t))
        for i, block in enumerate(self.up):
            h = block(torch.cat([h, skips.pop()], 1), t)
            if i == 0:
                h = F.interpolate(h, scale_factor=2, mode="nearest")
        return self.out(h)


wild(lambda: (floats(2, 3, 8, 8), torch.tensor([3.0, 70.0])), name="DiffusionScaleShift")(lambda: DiffusionUNet(True))


@wild(lambda: (floats(2, 16, 12), floats(2, 12)))
class DiffusionTransformer(nn.Module):
    """DiT: adaptive layer norm, six modulations from one linear, started at zero."""

    class Block(nn.Module):
        """One block."""

        def __init__(self, d: int) -> None:
            super().__init__()
            self.n1, self.n2 = nn.LayerNorm(d, elementwise_affine=False), nn.LayerNorm(d, elementwise_affine=False)
            self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
            self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(approximate="tanh"), nn.Linear(4 * d, d))
            self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            s1, b1, g1, s2, b2, g2 = self.modulation(c)[:, None].chunk(6, -1)
            h = self.n1(x) * (1 + s1) + b1
            q, k, v = self.qkv(h).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
            x = x + g1 * self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            return x + g2 * self.mlp(self.n2(x) * (1 + s2) + b2)

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(self.Block(12) for _ in range(2)), nn.Linear(12, 12)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, c)
        return self.head(x)


@wild(ROWS)
class EnergyModel(nn.Module):
    """Returns the gradient of an energy with respect to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 12), nn.Linear(12, 10), nn.Linear(10, 1)

    def energy(self, x: Tensor) -> Tensor:
        """One number a row."""
        return self.fc3(F.softplus(self.fc2(torch.tanh(self.fc1(x)))))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(self.energy(x).sum(), x, create_graph=self.training)[0]


@wild(ROWS)
class NeuralODE(nn.Module):
    """Runge-Kutta steps of a small network, time appended."""

    def __init__(self) -> None:
        super().__init__()
        self.f1, self.f2, self.head = nn.Linear(7, 12), nn.Linear(12, 6), nn.Linear(6, 3)

    def derivative(self, t: float, x: Tensor) -> Tensor:
        """dx/dt."""
        return self.f2(torch.tanh(self.f1(torch.cat([x, torch.full_like(x[:, :1], t)], 1))))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(3):
            k1 = self.derivative(i / 3, x)
            k2 = self.derivative(i / 3 + 1 / 6, x + k1 / 6)
            x = x + k2 / 3
        return self.head(x)


@wild(IMAGE)
class NeuralCellularAutomaton(nn.Module):
    """Fixed perception filters on every channel, updates repeated, alive cells from channel 3."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 12
        sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
        self.register_buffer("filters", torch.stack([sobel, sobel.T, F.pad(torch.ones(1, 1), (1, 1, 1, 1))])[:, None])
        self.w1, self.w2 = nn.Conv2d(self.channels * 3, 20, 1), nn.Conv2d(20, self.channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        state = F.pad(x, (0, 0, 0, 0, 0, self.channels - x.shape[1]))
        for _ in range(2):
            seen = F.conv2d(state, self.filters.repeat(self.channels, 1, 1, 1), padding=1, groups=self.channels)
            state = state + self.w2(torch.relu(self.w1(seen)))
            state = state * (F.max_pool2d(state[:, 3:4], 3, 1, 1) > -0.5).to(state)
        return state[:, :4]


@wild(lambda: (floats(5, 3), floats(5, 3)))
class NeRF(nn.Module):
    """Positional encoding of coordinates, a skip in the middle, density and colour."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(15, 16), nn.Linear(16, 16), nn.Linear(16 + 15, 16)])
        self.density, self.feature, self.view, self.colour = (
            nn.Linear(16, 1),
            nn.Linear(16, 16),
            nn.Linear(19, 8),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor, direction: Tensor) -> Tensor:
        encoded = torch.cat([x] + [f(2**i * x) for i in range(2) for f in (torch.sin, torch.cos)], -1)
        h = encoded
        for i, layer in enumerate(self.layers):
            h = torch.relu(layer(torch.cat([h, encoded], -1) if i == 2 else h))
        colour = torch.sigmoid(self.colour(torch.relu(self.view(torch.cat([self.feature(h), direction], -1)))))
        return torch.cat([colour, torch.relu(self.density(h))], -1)


@wild(lambda: (floats(7, 2),))
class Siren(nn.Module):
    """Sine activations with a frequency, and a hash-grid-like table of features interpolated by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(16, 4))
        self.fc1, self.fc2, self.out = nn.Linear(2 + 4, 12), nn.Linear(12, 12), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        scaled = torch.sigmoid(x) * 3
        low = scaled.floor().long().clamp(0, 2)
        weight = (scaled - low).clamp(0, 1)
        features: Tensor = x.new_zeros(len(x), self.table.shape[1])
        for dx in (0, 1):
            for dy in (0, 1):
                corner = (low[:, 0] + dx) * 4 + low[:, 1] + dy
                share = (weight[:, 0] if dx else 1 - weight[:, 0]) * (weight[:, 1] if dy else 1 - weight[:, 1])
                features = features + share[:, None] * self.table[corner]
        h = torch.sin(30 * self.fc1(torch.cat([x, features], 1)) / 10)
        return self.out(torch.sin(self.fc2(h)))
