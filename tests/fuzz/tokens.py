"""Linear layers and what is built from them: MLPs, einsum layers, token mixing, experts, products.

Linear layers act on the last axis; a token-mixing layer acts on T by transposing, and T may equal C.
B batch, T tokens, C channels, F hidden features, E experts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .making import Maker, Shape, block

FLAT = ("tokens", "vector")


@block(*FLAT, weight=25)
def linear(make: Maker, at: Shape) -> nn.Module:
    return nn.Linear(at.channels, make.width(at), bias=not make.choose.chance(15))


@block(*FLAT, weight=6)
def mlp(make: Maker, at: Shape) -> nn.Module:
    hidden = make.width(at)
    return nn.Sequential(
        nn.Linear(at.channels, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, make.width(at)), nn.Dropout(0.1)
    )


class GatedMLP(nn.Module):
    """One fused layer, cut in two by chunk: the gate is first or second."""

    def __init__(self, dim: int, hidden: int, out: int, gate_first: bool) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(dim, 2 * hidden)
        self.down_proj = nn.Linear(hidden, out)
        self.gate_first = gate_first

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(a) * b if self.gate_first else a * F.gelu(b))


@block(*FLAT, weight=4)
def gated_mlp(make: Maker, at: Shape) -> nn.Module:
    return GatedMLP(at.channels, make.width(at), make.width(at), make.choose.chance(50))


class LlamaMLP(nn.Module):
    """Gate and up as two layers."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


@block(*FLAT, weight=3)
def gated_mlp_separate(make: Maker, at: Shape) -> nn.Module:
    return LlamaMLP(at.channels, make.width(at))


class TokenMixing(nn.Module):
    """A linear layer over T between two transposes."""

    def __init__(self, tokens: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(tokens, hidden)
        self.fc2 = nn.Linear(hidden, tokens)

    def forward(self, x_BTC: Tensor) -> Tensor:
        h = self.fc2(F.gelu(self.fc1(x_BTC.transpose(1, 2))))
        return x_BTC + h.transpose(1, 2)


@block("tokens", weight=4)
def token_mixing(make: Maker, at: Shape) -> nn.Module:
    return TokenMixing(at.sizes[0], make.width(at))


class SquareMixing(nn.Module):
    """Mixes tokens and channels by two layers of the same size, where T == C (and by matmul with a parameter)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.rows = nn.Linear(size, size)
        self.columns = nn.Parameter(torch.empty(size, size))

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.rows(x_BTC.mT).mT + self.columns @ x_BTC


@block("tokens", when=lambda at: at.sizes[0] == at.sizes[1], weight=12)
def square_mixing(make: Maker, at: Shape) -> nn.Module:
    return SquareMixing(at.channels)


class ResizeTokens(nn.Module):
    """Changes the number of tokens by a linear layer over T (Perceiver-like latents of any number)."""

    def __init__(self, tokens: int, out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(tokens, out)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.fc(x_BTC.permute(0, 2, 1)).permute(0, 2, 1)


@block("tokens", weight=3)
def resize_tokens(make: Maker, at: Shape) -> nn.Module:
    tokens = make.choose.pick((at.channels, make.choose.integer(2, 9)))
    return ResizeTokens(at.sizes[0], min(tokens, 16))


class SpatialGate(nn.Module):
    """gMLP: half of the features is mixed over tokens and gates the other half."""

    def __init__(self, dim: int, hidden: int, tokens: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * hidden)
        self.norm = nn.LayerNorm(hidden)
        self.spatial = nn.Conv1d(tokens, tokens, 1)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x_BTC: Tensor) -> Tensor:
        u, v = F.gelu(self.up(x_BTC)).chunk(2, -1)
        return x_BTC + self.down(u * self.spatial(self.norm(v)))


@block("tokens", weight=3)
def spatial_gate(make: Maker, at: Shape) -> nn.Module:
    return SpatialGate(at.channels, make.width(at), at.sizes[0])


class EinsumLinear(nn.Module):
    """A linear layer written as einsum, with its weight either way round."""

    def __init__(self, dim: int, out: int, transposed: bool) -> None:
        super().__init__()
        self.equation = "...c,oc->...o" if transposed else "...c,co->...o"
        self.weight = nn.Parameter(torch.empty((out, dim) if transposed else (dim, out)))
        self.bias = nn.Parameter(torch.empty(out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum(self.equation, x, self.weight) + self.bias


@block(*FLAT, weight=3)
def einsum_linear(make: Maker, at: Shape) -> nn.Module:
    return EinsumLinear(at.channels, make.width(at), make.choose.chance(50))


class EinsumHeads(nn.Module):
    """DenseGeneral: a weight per head, (C, N, D) in and (N, D, C) out."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(dim, heads, head_dim))
        self.bias = nn.Parameter(torch.empty(heads, head_dim))
        self.down = nn.Parameter(torch.empty(heads, head_dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(torch.einsum("...c,cnd->...nd", x, self.up) + self.bias)
        return torch.einsum("...nd,ndc->...c", h, self.down)


@block(*FLAT, weight=3)
def einsum_heads(make: Maker, at: Shape) -> nn.Module:
    return EinsumHeads(at.channels, make.choose.integer(2, 5), make.choose.integer(2, 5))


class Conv1dLayer(nn.Module):
    """GPT-2's Conv1D: addmm on flattened leading axes, weight (in, out)."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.nf = out
        self.weight = nn.Parameter(torch.empty(dim, out))
        self.bias = nn.Parameter(torch.empty(out))

    def forward(self, x: Tensor) -> Tensor:
        size_out = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.reshape(-1, x.size(-1)), self.weight).view(size_out)


@block(*FLAT, weight=3)
def addmm_linear(make: Maker, at: Shape) -> nn.Module:
    return Conv1dLayer(at.channels, make.width(at))


class BlockDiagonal(nn.Module):
    """A linear layer a group: view, bmm with a [G, I, O] weight, flatten."""

    def __init__(self, dim: int, groups: int, out: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight_GIO = nn.Parameter(torch.empty(groups, dim // groups, out))

    def forward(self, x: Tensor) -> Tensor:
        lead = x.shape[:-1]
        x = x.reshape(-1, self.groups, x.shape[-1] // self.groups).transpose(0, 1)
        return torch.bmm(x, self.weight_GIO).transpose(0, 1).reshape(*lead, -1)


@block(*FLAT, weight=3)
def block_diagonal(make: Maker, at: Shape) -> nn.Module:
    return BlockDiagonal(at.channels, make.divisor(at.channels), make.choose.integer(2, 4))


class Outer(nn.Module):
    """An outer product of two projections, flattened into one axis."""

    def __init__(self, dim: int, a: int, b: int) -> None:
        super().__init__()
        self.left = nn.Linear(dim, a)
        self.right = nn.Linear(dim, b)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x).tanh(), self.right(x)
        return (left.unsqueeze(-1) * right.unsqueeze(-2)).flatten(-2)


@block(*FLAT, weight=3)
def outer_product(make: Maker, at: Shape) -> nn.Module:
    return Outer(at.channels, make.choose.integer(2, 5), make.choose.integer(2, 6))


class Bilinear(nn.Module):
    """nn.Bilinear of a vector with a bounded copy of itself."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.layer = nn.Bilinear(dim, dim, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.contiguous(), torch.tanh(x).contiguous())


@block(*FLAT, when=lambda at: at.channels <= 16, weight=3)
def bilinear(make: Maker, at: Shape) -> nn.Module:
    return Bilinear(at.channels, make.width(at))


class GramMatrix(nn.Module):
    """Second-order pooling: C x C products, each channel twice in one axis."""

    def forward(self, x_BTC: Tensor) -> Tensor:
        return torch.matmul(x_BTC.transpose(1, 2), x_BTC).flatten(1) / x_BTC.shape[1]


@block("tokens", to="vector", when=lambda at: at.channels <= 7, weight=7)
def gram_matrix(make: Maker, at: Shape) -> nn.Module:
    return GramMatrix()


class HyperLinear(nn.Module):
    """A layer whose weight is the output of another layer."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.dim, self.out = dim, out
        self.make_weight = nn.Linear(dim, dim * out)

    def forward(self, x_BC: Tensor) -> Tensor:
        weight = self.make_weight(x_BC).view(-1, self.out, self.dim)
        return torch.bmm(weight.tanh(), x_BC.unsqueeze(2)).squeeze(2)


@block("vector", when=lambda at: at.channels <= 16, weight=3)
def hyper_linear(make: Maker, at: Shape) -> nn.Module:
    return HyperLinear(at.channels, make.choose.integer(2, 12))


class SoftExperts(nn.Module):
    """A dense mixture of experts: stacked [E C F] and [E F C] weights, mixed by a softmax router."""

    def __init__(self, dim: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.router = nn.Linear(dim, experts)
        self.up = nn.Parameter(torch.empty(experts, dim, hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        mix = self.router(x).softmax(-1)
        h = F.relu(torch.einsum("...c,ecf->...ef", x, self.up))
        return torch.einsum("...ef,efc,...e->...c", h, self.down, mix)


@block(*FLAT, weight=3)
def soft_experts(make: Maker, at: Shape) -> nn.Module:
    return SoftExperts(at.channels, make.width(at, high=12), make.choose.integer(2, 3))


class TopKExperts(nn.Module):
    """Experts as modules in a loop; each token keeps its best k routes."""

    def __init__(self, dim: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.top_k = 1
        self.gate = nn.Linear(dim, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, dim)) for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits = self.gate(x)
        weight, chosen = logits.softmax(-1).topk(self.top_k, dim=-1)
        mix = torch.zeros_like(logits).scatter(-1, chosen, weight)
        return x + sum(expert(x) * mix[..., i : i + 1] for i, expert in enumerate(self.experts))


@block(*FLAT, weight=3)
def topk_experts(make: Maker, at: Shape) -> nn.Module:
    return TopKExperts(at.channels, make.width(at, high=12), make.choose.integer(2, 3))


class TokenConv(nn.Module):
    """conv1d over tokens, with the transposes people write around it."""

    def __init__(self, dim: int, out: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, out, 3, padding=1, groups=groups)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.conv(x_BTC.transpose(1, 2)).transpose(1, 2)


@block("tokens", weight=3)
def token_conv(make: Maker, at: Shape) -> nn.Module:
    if make.choose.chance(40):
        return TokenConv(at.channels, at.channels, at.channels)
    return TokenConv(at.channels, make.width(at), 1)


class TokenShift(nn.Module):
    """RWKV: some of the channels come from the token before."""

    def __init__(self, shifted: int) -> None:
        super().__init__()
        self.shifted = shifted

    def forward(self, x_BTC: Tensor) -> Tensor:
        before = F.pad(x_BTC, (0, 0, 1, -1))
        return torch.cat([before[..., : self.shifted], x_BTC[..., self.shifted :]], dim=-1)


@block("tokens", weight=3)
def token_shift(make: Maker, at: Shape) -> nn.Module:
    return TokenShift(make.choose.integer(1, at.channels - 1))


class FlatTokens(nn.Module):
    """Folds batch and tokens together around a layer: view(b * t, c)."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, out)
        self.norm = nn.BatchNorm1d(out)

    def forward(self, x_BTC: Tensor) -> Tensor:
        b, t, c = x_BTC.shape
        return self.norm(self.fc(x_BTC.reshape(b * t, c))).view(b, t, -1)


@block("tokens", weight=3)
def batch_folded_linear(make: Maker, at: Shape) -> nn.Module:
    return FlatTokens(at.channels, make.width(at))


class Checked(nn.Module):
    """Asserts the sizes it was made for before it runs."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.in_dim = dim
        self.fc = nn.Linear(dim, out)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.in_dim:
            raise ValueError(f"expected {self.in_dim} features, got {x.shape[-1]}")
        return self.fc(x)


@block(*FLAT, weight=3)
def asserting_linear(make: Maker, at: Shape) -> nn.Module:
    return Checked(at.channels, make.width(at))
