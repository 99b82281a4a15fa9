"""Attention that knows where its tokens are: rotations, slopes, tables, windows, caches of the past."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attending import Projected
from .entry import Call, floats, ids, wild

TOKENS = lambda: (floats(2, 6, 12),)
LONGER = [lambda: (floats(3, 9, 12),)]


@wild(TOKENS, fresh=LONGER)
class Rotary(Projected):
    """RoPE by `rotate_half`, the frequencies in a buffer."""

    def __init__(self) -> None:
        super().__init__(heads=2, inner=16)
        self.register_buffer("frequencies", 1 / 100 ** (torch.arange(0, 8, 2).float() / 8), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        """Each half of the head, turned against the other."""
        angles = torch.outer(torch.arange(x.shape[2]).to(x), self.frequencies.to(x))
        cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        return self.o(out.transpose(1, 2).flatten(2))


@wild(TOKENS, fresh=LONGER)
class RotaryComplex(Projected):
    """RoPE by complex numbers, from frequencies computed out of the head's size on each call."""

    def __init__(self) -> None:
        super().__init__(heads=2, inner=16)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        dim = q.shape[-1]
        frequencies = 1 / 100 ** (torch.arange(0, dim, 2).to(x) / dim)
        angles = torch.outer(torch.arange(x.shape[1]).to(x), frequencies)
        turn = torch.polar(torch.ones_like(angles), angles)
        q, k = (
            torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(3)
            for t in (q, k)
        )
        return self.o((q @ k.mT / dim**0.5).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


@wild(TOKENS, fresh=LONGER)
class Alibi(Projected):
    """A slope for each head from its number: heads are not alike."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        slopes = torch.tensor([2 ** (-8 * (i + 1) / self.heads) for i in range(self.heads)]).to(x)
        place = torch.arange(x.shape[1]).to(x)
        bias = -(place[:, None] - place[None]).abs() * slopes[:, None, None]
        return self.o(((q @ k.mT) / 2 + bias).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


@wild(TOKENS, fresh=LONGER)
class AlibiBuffer(Projected):
    """Slopes in a buffer along the heads, which travels with them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor([0.5, 0.25, 0.125]))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        place = torch.arange(x.shape[1]).to(x)
        bias = -(place[:, None] - place[None]).abs() * self.slopes[:, None, None]
        return self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


@wild(TOKENS)
class RelativeTable(Projected):
    """Swin's table of relative positions, heads last, and a learned temperature for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.temperature = nn.Parameter(torch.randn(11, 3)), nn.Parameter(torch.randn(3, 1, 1))
        place = torch.arange(6)
        self.register_buffer("index", place[:, None] - place[None] + 5)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        bias = self.table[self.index.view(-1)].view(6, 6, -1).permute(2, 0, 1)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature.clamp(max=4).exp()
        return self.o((scores + bias).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


@wild(lambda: (floats(2, 4, 4, 12),), fresh=[lambda: (floats(1, 8, 8, 12),)])
class Windows(nn.Module):
    """Windowed attention: partition, shift by `roll`, reverse."""

    def __init__(self) -> None:
        super().__init__()
        self.window, self.heads = 2, 3
        self.qkv, self.proj, self.norm = nn.Linear(12, 36), nn.Linear(12, 12), nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        s = self.window
        y = torch.roll(self.norm(x), (-1, -1), (1, 2))
        y = y.view(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        q, k, v = self.qkv(y).reshape(len(y), s * s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = self.proj((q @ k.mT).softmax(-1).matmul(v).transpose(1, 2).reshape(len(y), s * s, c))
        y = y.view(b, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return x + torch.roll(y, (1, 1), (1, 2))


@wild(lambda: (ids(13, 2, 5),), uses=[lambda m: m.generate(torch.tensor([[1, 2]]), 3)])
class CachedDecoder(nn.Module):
    """Keys and values kept in a dict of the module between calls of `generate`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position, self.heads = nn.Embedding(13, 12), nn.Embedding(16, 12), 3
        self.qkv, self.proj, self.norm, self.head = (
            nn.Linear(12, 36),
            nn.Linear(12, 12),
            nn.LayerNorm(12),
            nn.Linear(12, 13),
        )
        self.cache: dict[str, Tensor] = {}

    def forward(self, tokens: Tensor, use_cache: bool = False) -> Tensor:
        start = self.cache["k"].shape[2] if use_cache and self.cache else 0
        x = self.embed(tokens) + self.position(torch.arange(start, start + tokens.shape[1]))
        q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if use_cache and self.cache:
            k, v = torch.cat([self.cache["k"], k], 2), torch.cat([self.cache["v"], v], 2)
        if use_cache:
            self.cache = {"k": k, "v": v}
        out = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
        return self.head(x + self.proj(out.transpose(1, 2).flatten(2)))

    def generate(self, tokens: Tensor, number: int) -> Tensor:
        """Greedy."""
        self.cache, logits = {}, self.forward(tokens, use_cache=True)
        for _ in range(number):
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
            logits = self.forward(tokens[:, -1:], use_cache=True)
        self.cache = {}
        return tokens


@wild(lambda: (floats(2, 1, 12), None), fresh=[lambda: (floats(2, 4, 12), None)])
class CacheInAndOut(Projected):
    """Takes and returns past keys and values."""

    def forward(self, x: Tensor, past: Any = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # type: ignore[override]
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)), (k, v)


@wild(lambda: (floats(2, 6, 10),), fresh=[lambda: (floats(2, 4, 10),)])
class LatentAttention(nn.Module):
    """Keys and values through a low rank, a rotary part apart: DeepSeek's MLA."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.nope, self.rope = 2, 4, 2
        self.q, self.down, self.norm = nn.Linear(10, 2 * 6), nn.Linear(10, 8 + 2), nn.RMSNorm(8)
        self.up, self.o = nn.Linear(8, 2 * (4 + 5)), nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q_nope, q_rope = self.q(x).view(b, n, self.heads, -1).transpose(1, 2).split([self.nope, self.rope], -1)
        latent, k_rope = self.down(x).split([self.down.out_features - self.rope, self.rope], -1)
        k_nope, v = self.up(self.norm(latent)).view(b, n, self.heads, -1).transpose(1, 2).tensor_split([self.nope], -1)
        angle = torch.arange(n).to(x)[:, None]
        q_rope, k_rope = q_rope * angle.cos(), (k_rope * angle.cos())[:, None].expand_as(q_rope)
        q, k = torch.cat([q_nope, q_rope], -1), torch.cat([k_nope, k_rope], -1)
        return self.o((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


@wild(lambda: Call((floats(2, 6, 12),), {"mask": torch.ones(2, 6, dtype=torch.bool)}))
class PaddedSegments(Projected):
    """Boolean masks, `masked_fill` by `finfo.min`, additive biases from embeddings of segments, head mask as argument."""

    def __init__(self) -> None:
        super().__init__()
        self.segments = nn.Embedding(2, 3)

    def forward(self, x: Tensor, mask: Tensor, head_mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        same = self.segments((torch.arange(x.shape[1])[:, None] == torch.arange(x.shape[1])).long()).permute(2, 0, 1)
        scores = (q @ k.mT + same).masked_fill(~mask[:, None, None], torch.finfo(q.dtype).min)
        weights = scores.softmax(-1) if head_mask is None else scores.softmax(-1) * head_mask
        return self.o((weights @ v).transpose(1, 2).flatten(2))
