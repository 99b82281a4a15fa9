"""Attention as people write it: many layouts, biases, caches and approximations."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, wild

TOKENS = lambda: (floats(2, 6, 12),)
LONGER = [lambda: (floats(3, 9, 12),)]


class Around(nn.Module):
    """attention, then a residual MLP: what every class here stands on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)

    def attend(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm(x))
        return x + self.down(F.gelu(self.up(x)))


class Projected(Around):
    def __init__(self, heads: int = 3, inner: int = 12) -> None:
        super().__init__()
        self.heads, self.inner = heads, inner
        self.q, self.k, self.v, self.o = (
            nn.Linear(12, inner),
            nn.Linear(12, inner),
            nn.Linear(12, inner),
            nn.Linear(inner, 12),
        )


@wild(TOKENS, fresh=LONGER)
class ByEinsum(Projected):
    """`einsum` over named axes, heads unflattened."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)) for f in (self.q, self.k, self.v))
        weights = torch.einsum("bihd,bjhd->bhij", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
        return self.o(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(-2))


@wild(TOKENS, fresh=LONGER)
class ByChunk(Around):
    """One projection, `chunk(3)`, `view(b, n, h, c // h)`."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = nn.Linear(12, 36, bias=False), nn.Linear(12, 12), 4

    def attend(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (t.view(b, n, self.heads, c // self.heads).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        weights = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


@wild(TOKENS, fresh=LONGER)
class ByLiterals(Around):
    """Every size a literal."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(len(x), -1, 3, 3, 4).permute(2, 0, 3, 1, 4)
        return self.proj(((q @ k.mT) / 2).softmax(-1).matmul(v).permute(0, 2, 1, 3).reshape(len(x), -1, 12))


@wild(TOKENS, fresh=LONGER)
class BySplitSize(Projected):
    """`split(self.head_dim)` and `stack`: a head at a time, in a Python list."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim = 4

    def attend(self, x: Tensor) -> Tensor:
        outs = []
        for q, k, v in zip(*(f(x).split(self.head_dim, -1) for f in (self.q, self.k, self.v))):
            outs.append((q @ k.mT / math.sqrt(self.head_dim)).softmax(-1) @ v)
        return self.o(torch.cat(outs, -1))


@wild(TOKENS, fresh=LONGER)
class HeadsAsModules(Around):
    """A ModuleList of single heads, concatenated."""

    class Head(nn.Module):
        """One head, with an attribute for its size."""

        def __init__(self, d: int, size: int) -> None:
            super().__init__()
            self.size, self.q, self.k, self.v = size, nn.Linear(d, size), nn.Linear(d, size), nn.Linear(d, size)

        def forward(self, x: Tensor) -> Tensor:
            weights = (self.q(x) @ self.k(x).transpose(1, 2)) * self.size**-0.5
            mask = torch.tril(torch.ones(x.shape[1], x.shape[1], device=x.device)) == 0
            return weights.masked_fill(mask, float("-inf")).softmax(-1) @ self.v(x)

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.o = nn.ModuleList(self.Head(12, 4) for _ in range(3)), nn.Linear(12, 12)

    def attend(self, x: Tensor) -> Tensor:
        return self.o(torch.cat([head(x) for head in self.heads], -1))


@wild(TOKENS, fresh=LONGER)
class TorchMultihead(Around):
    """nn.MultiheadAttention, batch first, with a key padding mask; its weights are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True, dropout=0.1)

    def attend(self, x: Tensor) -> Tensor:
        padding = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        padding[:, -1] = True
        return self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]


@wild(lambda: (floats(2, 6, 12), floats(2, 5, 10)))
class TorchCross(nn.Module):
    """nn.MultiheadAttention across, with other key and value sizes, its averaged weights returned."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 2, kdim=10, vdim=10, batch_first=True, add_bias_kv=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        out, weights = self.attention(x, context, context)
        return self.head(x + out), weights


@wild(TOKENS, name="TorchEncoder")
def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 3, 20, dropout=0.1, batch_first=True, norm_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(12, 4))


@wild(lambda: (floats(5, 2, 12), floats(4, 2, 12)), name="TorchTransformer")
def _transformer() -> nn.Module:
    return nn.Transformer(12, 2, 1, 1, 16, dropout=0.0)


@wild(TOKENS, fresh=LONGER)
class GroupedQuery(Around):
    """Four query heads on two key heads, `repeat_interleave`."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.groups, self.size = 4, 2, 4
        self.q, self.kv, self.o = nn.Linear(12, 16), nn.Linear(12, 2 * 2 * 4), nn.Linear(16, 12)

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, self.size).transpose(1, 2)
        k, v = self.kv(x).view(b, n, 2, self.groups, self.size).permute(2, 0, 3, 1, 4)
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
        return self.o((q @ k.mT / self.size**0.5).softmax(-1).matmul(v).transpose(1, 2).reshape(b, n, -1))


@wild(TOKENS, fresh=LONGER)
class MultiQuery(Around):
    """One key and value for all heads, broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 3
        self.q, self.kv, self.o = nn.Linear(12, 15), nn.Linear(12, 10), nn.Linear(15, 12)

    def attend(self, x: Tensor) -> Tensor:
        q = self.q(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
        k, v = self.kv(x)[:, None].chunk(2, -1)
        return self.o((q @ k.mT).mul(5**-0.5).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


@wild(TOKENS, fresh=LONGER)
class LinearAttention(Projected):
    """elu + 1, causal by `cumsum`."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)) for f in (self.q, self.k, self.v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        state = torch.einsum("bnhd,bnhe->bnhde", k, v).cumsum(1)
        scale = 1 / torch.einsum("bnhd,bnhd->bnh", q, k.cumsum(1))
        return self.o((torch.einsum("bnhd,bnhde->bnhe", q, state) * scale[..., None]).flatten(2))


@wild(TOKENS, fresh=LONGER)
class RandomFeatures(Projected):
    """Performer: a fixed random projection in a buffer, exponentials normalised by its number of features."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("features", torch.randn(7, 4))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = (
            torch.exp(t @ self.features.T - t.pow(2).sum(-1, keepdim=True) / 2) / self.features.shape[0] ** 0.5
            for t in (q, k)
        )
        out = q @ (k.mT @ v) / (q * k.sum(2, keepdim=True)).sum(-1, keepdim=True)
        return self.o(out.transpose(1, 2).flatten(2))


@wild(TOKENS)
class Linformer(Projected):
    """Keys and values projected along positions."""

    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Parameter(torch.randn(4, 6))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = self.e @ k, self.e @ v
        return self.o((q @ k.mT / 2).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


@wild(TOKENS, fresh=LONGER)
class TalkingHeads(Projected):
    """Heads mixed before and after the softmax, one gate a head."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after, self.gate = nn.Parameter(torch.randn(3, 3)), nn.Linear(3, 3), nn.Linear(12, 3)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = torch.einsum("bhij,hg->bgij", q @ k.mT, self.before).softmax(-1)
        scores = self.after(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        gates = torch.sigmoid(self.gate(x)).mT[..., None]
        return self.o((scores @ v * gates).transpose(1, 2).flatten(2))


@wild(lambda: (floats(2, 6, 12),), fresh=[lambda: (floats(2, 20, 12),)])
class Perceiver(nn.Module):
    """Learned latents read a long input, twice with shared weights."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(5, 16))
        self.q, self.kv, self.o = nn.Linear(16, 8), nn.Linear(12, 16), nn.Linear(8, 16)
        self.mlp, self.head = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.latents.expand(len(x), -1, -1)
        k, v = self.kv(x).chunk(2, -1)
        for _ in range(2):
            h = h + self.o((self.q(h) @ k.mT / 8**0.5).softmax(-1) @ v)
            h = h + self.mlp(h)
        return self.head(h.mean(1))


@wild(TOKENS, needs=["einops"])
class ByEinops(Projected):
    """`rearrange` to and from heads."""

    def attend(self, x: Tensor) -> Tensor:
        from einops import rearrange

        q, k, v = (rearrange(f(x), "b n (h d) -> b h n d", h=self.heads) for f in (self.q, self.k, self.v))
        return self.o(rearrange((q @ k.mT / 2).softmax(-1) @ v, "b h n d -> b n (h d)"))
