"""One computation, many spellings: contractions, norms, parametrised weights, other number types.

einsum("bi,oi->bo")   einsum(x, [0, 1], w, [2, 1])   tensordot   inner   x @ w.T   F.linear(x, w.t().t())

B batch, I in, O out, H hidden, D pairs of complex numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, weight_norm

from .idioms import ANY, FLAT, Sandwich, idiom
from .joins import pointwise_layer
from .making import Maker, Shape, block

SPELLINGS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, w: torch.einsum("...i,oi->...o", x, w),
    lambda x, w: torch.einsum("...i , o i", x, w) if x.dim() == 2 else torch.einsum("b...i,Oi->b...O", x, w),
    lambda x, w: torch.einsum(x, [..., 0], w, [1, 0], [..., 1]),
    lambda x, w: torch.tensordot(x, w, dims=([-1], [1])),
    lambda x, w: torch.inner(x, w),
    lambda x, w: x @ w.T,
    lambda x, w: (w @ x.mT).mT if x.dim() > 2 else (w @ x.T).T,
    lambda x, w: (x.unsqueeze(-2) * w).sum(-1),
    lambda x, w: torch.matmul(x.unsqueeze(-2), w.t()).squeeze(-2),
    lambda x, w: F.linear(x, w.t().contiguous().t()),
    lambda x, w: torch.stack([x @ row for row in w], -1),
    lambda x, w: torch.addmm(torch.zeros(w.shape[0]).to(x), x.flatten(0, -2), w.t()).view(*x.shape[:-1], -1),
    lambda x, w: torch.einsum("...i,oi,->...o", x, w, torch.tensor(0.5).to(x)),
    lambda x, w: F.conv1d(x.flatten(0, -2).unsqueeze(-1), w.unsqueeze(-1)).squeeze(-1).view(*x.shape[:-1], -1),
    lambda x, w: torch.linalg.multi_dot([x.flatten(0, -2), w.t(), torch.eye(len(w)).to(x)]).view(*x.shape[:-1], -1),
    lambda x, w: torch.baddbmm(torch.zeros(1, 1, len(w)).to(x), x.flatten(0, -2)[None], w.t()[None])[0].view(
        *x.shape[:-1], -1
    ),
)


class Spelled(nn.Module):
    """Two layers, each contraction in a spelling of its own."""

    def __init__(self, dim: int, hidden: int, out: int, spellings: tuple[int, int]) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.empty(hidden, dim)), nn.Parameter(torch.empty(out, hidden))
        self.spellings = spellings

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.spellings
        return SPELLINGS[b](F.relu(SPELLINGS[a](x, self.first)), self.second)


@block(*FLAT, weight=10)
def spelled_contractions(make: Maker, at: Shape) -> nn.Module:
    last = len(SPELLINGS) - 1
    spellings = make.choose.integer(0, last), make.choose.integer(0, last)
    return Spelled(at.channels, make.width(at), make.width(at), spellings)


@idiom("map", "signal", multiple=2, when=lambda at: min(at.space) > 1)
def instance_norm_without_parameters(self: Sandwich, h: Tensor) -> Tensor:
    return F.instance_norm(h)


@idiom("map")
def local_response_norm(self: Sandwich, h: Tensor) -> Tensor:
    return F.local_response_norm(h, 3)


@idiom()
def softmax_over_the_channels(self: Sandwich, h: Tensor) -> Tensor:
    return h * F.softmax(h, dim=self.axis)


@idiom()
def cosine_with_itself(self: Sandwich, h: Tensor) -> Tensor:
    return h * F.cosine_similarity(h, h.tanh(), dim=self.axis).unsqueeze(self.axis)


@idiom(*FLAT)
def distances_of_tokens(self: Sandwich, h: Tensor) -> Tensor:
    flat = h.reshape(-1, h.shape[-1])
    return h / (1 + torch.cdist(flat, flat).mean())


@idiom(*FLAT)
def weighted_root_mean_square(self: Sandwich, h: Tensor) -> Tensor:
    return F.rms_norm(h, (h.shape[-1],), self.down.weight[0])


@block("map", "signal", when=lambda at: min(at.space) > 1, weight=3)
def instance_norm_module(make: Maker, at: Shape) -> nn.Module:
    norm = nn.InstanceNorm2d if at.stream == "map" else nn.InstanceNorm1d
    width = make.width(at)
    return nn.Sequential(
        pointwise_layer(at, width),
        norm(width, affine=make.choose.chance(60), track_running_stats=make.choose.chance(30)),
    )


class Bilinear(nn.Module):
    """Two views of the input meet in a bilinear layer."""

    def __init__(self, dim: int, a: int, b: int, out: int) -> None:
        super().__init__()
        self.a, self.b, self.layer = nn.Linear(dim, a), nn.Linear(dim, b), nn.Bilinear(a, b, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.a(x).tanh(), self.b(x))


@block(*FLAT, weight=3)
def bilinear_of_two_layers(make: Maker, at: Shape) -> nn.Module:
    return Bilinear(at.channels, make.width(at, high=8), make.width(at, high=8), make.width(at))


class Symmetric(nn.Module):
    """A square weight made symmetric."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).mT


class Positive(nn.Module):
    """A weight that cannot be negative."""

    def forward(self, weight: Tensor) -> Tensor:
        return F.softplus(weight)


class Standardised(nn.Module):
    """Weight standardisation."""

    def forward(self, weight: Tensor) -> Tensor:
        centred = weight - weight.mean(1, keepdim=True)
        return centred / (centred.std(1, keepdim=True) + 1e-2)


class FakeQuantised(nn.Module):
    """Eight bits a row, by the largest number of the row."""

    def forward(self, weight: Tensor) -> Tensor:
        step = weight.detach().abs().amax(1, keepdim=True) / 127
        return weight + ((weight / step).round() * step - weight).detach()


def _parametrised(layer: nn.Module, style: str) -> nn.Module:
    if style == "orthogonal":
        return parametrizations.orthogonal(layer)
    if style == "spectral norm":
        return parametrizations.spectral_norm(layer)
    if style == "weight norm":
        return parametrizations.weight_norm(layer, dim=0)
    if style == "old weight norm":
        return weight_norm(layer)
    kinds: dict[str, Callable[[], nn.Module]] = {
        "positive": Positive, "standardised": Standardised, "quantised": FakeQuantised, "symmetric": Symmetric,
    }  # fmt: skip
    parametrize.register_parametrization(layer, "weight", kinds[style]())
    return layer


PARAMETRISED = (
    "positive",
    "standardised",
    "quantised",
    "spectral norm",
    "orthogonal",
    "weight norm",
    "old weight norm",
)


@block(*FLAT, weight=6)
def parametrised_layers(make: Maker, at: Shape) -> nn.Module:
    hidden = make.width(at, high=12)
    style = make.choose.pick(PARAMETRISED)
    middle = _parametrised(nn.Linear(hidden, hidden), "symmetric") if make.choose.chance(20) else nn.Tanh()
    return nn.Sequential(
        _parametrised(nn.Linear(at.channels, hidden), style), nn.ReLU(), middle, nn.Linear(hidden, make.width(at))
    )


class DoRA(nn.Module):
    """A direction from a frozen weight and a low-rank one, with a magnitude of its own for each output."""

    def __init__(self, dim: int, out: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(dim, out)
        self.base.weight.requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.empty(rank, dim)), nn.Parameter(torch.empty(out, rank))
        self.magnitude = nn.Parameter(torch.empty(out))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.base.weight + self.b @ self.a
        weight = self.magnitude[:, None] * weight / (0.1 + weight.norm(dim=1, keepdim=True))
        return F.linear(x, weight, self.base.bias)


@block(*FLAT, weight=3)
def direction_and_magnitude(make: Maker, at: Shape) -> nn.Module:
    return nn.Sequential(DoRA(at.channels, make.width(at, multiple=4), make.choose.integer(2, 3)), nn.LeakyReLU(0.2))


class HalfStem(nn.Module):
    """The first layers compute in bfloat16, the others in the precision of what follows."""

    def __init__(self, at: Shape, hidden: int, out: int) -> None:
        super().__init__()
        inner = Shape(at.stream, (*at.space, hidden) if at.axis == -1 else (hidden, *at.space))
        self.stem, self.body = pointwise_layer(at, hidden).to(torch.bfloat16), pointwise_layer(inner, out)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.stem(x.to(self.stem.weight.dtype)))
        return self.body(h.to(self.body.weight.dtype))


@block(*ANY, weight=2)
def half_stem(make: Maker, at: Shape) -> nn.Module:
    return HalfStem(at, make.width(at), make.width(at))


class ComplexLinear(nn.Module):
    """A layer on complex numbers, between real ones."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(dim, 2 * hidden), nn.Linear(2 * hidden, out)
        self.weight = nn.Parameter(torch.randn(hidden, hidden, dtype=torch.cfloat) / hidden**0.5)
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        z = torch.complex(h[..., : self.hidden], h[..., self.hidden :])
        z = torch.einsum("...d,de->...e", z, self.weight.to(z.dtype))
        return self.down(torch.cat([z.real, z.imag], -1))


@block(*FLAT, weight=3)
def complex_layer(make: Maker, at: Shape) -> nn.Module:
    return ComplexLinear(at.channels, make.width(at, high=10), make.width(at))


class Spectral(nn.Module):
    """A Fourier layer: a weight for each kept frequency mixes the channels."""

    def __init__(self, dim: int, hidden: int, out: int, modes: int) -> None:
        super().__init__()
        self.up, self.down, self.modes = nn.Linear(dim, hidden), nn.Linear(hidden, out), modes
        self.weight = nn.Parameter(torch.randn(hidden, hidden, modes, dtype=torch.cfloat) / hidden)

    def forward(self, x_BTC: Tensor) -> Tensor:
        h = self.up(x_BTC)
        spectrum = torch.fft.rfft(h, dim=1)[:, : self.modes]
        mixed = torch.einsum("bmi,iom->bmo", spectrum, self.weight.to(spectrum.dtype))
        return self.down(h + torch.fft.irfft(mixed, n=h.shape[1], dim=1))


@block("tokens", weight=3)
def fourier_layer(make: Maker, at: Shape) -> nn.Module:
    return Spectral(at.channels, make.width(at, high=10), make.width(at), min(2, at.sizes[0] // 2 + 1))


class ComplexRotary(nn.Module):
    """Pairs of channels turned as complex numbers, as Llama's first code does."""

    def __init__(self, dim: int, heads: int, pairs: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(dim, 3 * heads * 2 * pairs), nn.Linear(heads * 2 * pairs, dim)
        self.heads, self.pairs = heads, pairs

    def turned(self, x_BTND: Tensor) -> Tensor:
        z = torch.view_as_complex(x_BTND.reshape(*x_BTND.shape[:-1], -1, 2))
        angles = torch.outer(torch.arange(x_BTND.shape[1]), 10.0 ** -torch.linspace(0, 1, z.shape[-1]))
        z = z * torch.polar(torch.ones_like(angles), angles)[None, :, None].to(z.dtype)
        return torch.view_as_real(z).flatten(-2)

    def forward(self, x_BTC: Tensor) -> Tensor:
        b, t, _ = x_BTC.shape
        q, k, v = self.qkv(x_BTC).view(b, t, 3, self.heads, 2 * self.pairs).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (self.turned(q), self.turned(k), v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@block("tokens", weight=3)
def rotary_by_complex_numbers(make: Maker, at: Shape) -> nn.Module:
    return ComplexRotary(at.channels, make.choose.integer(1, 3), make.choose.integer(1, 3))


class MultiHeadTie(nn.Module):
    """nn.MultiheadAttention, and attention by hand that ends in reshape(B, N, C): heads times width is C."""

    def __init__(self, dim: int, heads: int, out: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 12)
        self.built_in = nn.MultiheadAttention(12, heads, batch_first=True)
        self.qkv, self.proj, self.heads = nn.Linear(12, 36), nn.Linear(12, out), heads

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        x = x + self.built_in(x, x, x, need_weights=False)[0]
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * (C // self.heads) ** -0.5).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(B, N, C))


@block("tokens", weight=4)
def heads_times_width_is_the_channels(make: Maker, at: Shape) -> nn.Module:
    return MultiHeadTie(at.channels, make.choose.pick((2, 3, 4)), make.width(at))


class OddRecurrent(nn.Module):
    """An LSTM with a projection, a packed batch, or the time axis first."""

    def __init__(self, dim: int, hidden: int, style: str) -> None:
        super().__init__()
        self.style = style
        sizes = {"proj_size": max(hidden // 2, 1)} if style == "projected" else {}
        self.rnn = nn.LSTM(dim, hidden, batch_first=style != "time first", **sizes)
        self.head = nn.Linear(sizes.get("proj_size", hidden), dim)

    def forward(self, x_BTC: Tensor) -> Tensor:
        if self.style == "time first":
            return self.head(self.rnn(x_BTC.transpose(0, 1))[0].transpose(0, 1))
        if self.style == "packed":
            lengths = torch.full((x_BTC.shape[0],), x_BTC.shape[1])
            packed = nn.utils.rnn.pack_padded_sequence(x_BTC, lengths, batch_first=True)
            return self.head(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0])
        return self.head(self.rnn(x_BTC)[0])


@block("tokens", when=lambda at: at.sizes[0] <= 8, weight=3)
def recurrent_in_other_ways(make: Maker, at: Shape) -> nn.Module:
    style = make.choose.pick(("projected", "packed", "time first"))
    return OddRecurrent(at.channels, make.width(at, high=12), style)
