"""Self-attention in the layouts that real models use.

    fused projection     three-heads [3 N D]     heads-three [N 3 D]     chunk [3 (N D)]
    grouped queries      keys expanded, repeated, or left to enable_gqa
    core                 SDPA (scale from D), by hand (scale kept in __init__), by hand (scale from x.shape)

B batch, T tokens, C channels, N heads, G key-value heads, D head dimension.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .making import Maker, Shape, block

CORES = ("sdpa", "fixed scale", "shape scale")


class Core(nn.Module):
    """softmax(q k^T) v on [B N T D]."""

    def __init__(self, style: str, head_dim: int) -> None:
        super().__init__()
        self.style = style
        self.scale = head_dim**-0.5

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.style == "sdpa":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        if self.style == "fixed scale":
            weights = (q * self.scale) @ k.transpose(-2, -1)
        else:
            weights = torch.matmul(q, k.mT) / math.sqrt(q.shape[-1])
        if bias is not None:
            weights = weights + bias
        return torch.matmul(weights.softmax(dim=-1), v)


def core(make: Maker, head_dim: int) -> Core:
    return Core(make.choose.pick(CORES), head_dim)


def heads(make: Maker, even: bool = False) -> tuple[int, int]:
    """A number of heads and a head dimension, which may be equal."""
    head_dim = make.choose.pick((2, 4, 6) if even else (2, 3, 4, 5, 6))
    return make.choose.pick((2, 3, 4, 1, head_dim)), head_dim


class Attention(nn.Module):
    """What the blocks below share: the output layer and the way back from heads to channels."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, attend: Core) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.attend = attend
        self.proj = nn.Linear(num_heads * head_dim, dim)

    def merge(self, out_BNTD: Tensor) -> Tensor:
        b, n, t, d = out_BNTD.shape
        return self.proj(out_BNTD.transpose(1, 2).reshape(b, t, n * d))


class ThreeHeads(Attention):
    """timm's layout: (3, N, D)."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, attend: Core) -> None:
        super().__init__(dim, num_heads, head_dim, attend)
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim)

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        qkv = self.qkv(x).reshape(B, T, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return self.merge(self.attend(q, k, v))


@block("tokens", weight=4)
def qkv_three_heads(make: Maker, at: Shape) -> nn.Module:
    n, d = heads(make)
    return ThreeHeads(at.channels, n, d, core(make, d))


class HeadsThree(Attention):
    """GPT-NeoX's layout: (N, 3, D), each head's query, key and value side by side."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, attend: Core) -> None:
        super().__init__(dim, num_heads, head_dim, attend)
        self.query_key_value = nn.Linear(dim, 3 * num_heads * head_dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.query_key_value(x).view(*x.shape[:2], self.num_heads, 3 * self.head_dim).transpose(1, 2)
        q = qkv[..., : self.head_dim]
        k = qkv[..., self.head_dim : 2 * self.head_dim]
        v = qkv[..., 2 * self.head_dim :]
        return self.merge(self.attend(q, k, v))


@block("tokens", weight=4)
def qkv_heads_three(make: Maker, at: Shape) -> nn.Module:
    n, d = heads(make)
    return HeadsThree(at.channels, n, d, core(make, d))


class Chunked(Attention):
    """nanoGPT's layout: chunk (or split) in three, then heads; optionally causal."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, attend: Core, causal: bool) -> None:
        super().__init__(dim, num_heads, head_dim, attend)
        self.inner = num_heads * head_dim
        self.c_attn = nn.Linear(dim, 3 * self.inner)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.size()
        parts = self.c_attn(x).split(self.inner, dim=2) if self.causal else self.c_attn(x).chunk(3, dim=-1)
        q, k, v = (p.view(b, t, self.num_heads, self.head_dim).transpose(1, 2) for p in parts)
        if not self.causal:
            return self.merge(self.attend(q, k, v))
        mask = torch.ones(t, t, dtype=torch.bool, device=x.device).tril()
        bias = torch.zeros(t, t, device=x.device, dtype=x.dtype).masked_fill(~mask, float("-inf"))
        return self.merge(self.attend(q, k, v, bias))


@block("tokens", weight=4)
def qkv_chunk(make: Maker, at: Shape) -> nn.Module:
    n, d = heads(make)
    return Chunked(at.channels, n, d, core(make, d), make.choose.chance(40))


class Separate(Attention):
    """Three layers; the values may have their own head dimension; sizes live in a config object."""

    def __init__(self, dim: int, config: SimpleNamespace, attend: Core) -> None:
        super().__init__(dim, config.num_heads, config.value_dim, attend)
        self.config = config
        self.q_proj = nn.Linear(dim, config.num_heads * config.head_dim)
        self.k_proj = nn.Linear(dim, config.num_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(dim, config.num_heads * config.value_dim)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.config.head_dim)
        q = self.q_proj(x).view(shape).transpose(1, 2)
        k = self.k_proj(x).view(shape).transpose(1, 2)
        v = self.v_proj(x).view(*x.shape[:-1], self.config.num_heads, self.config.value_dim).transpose(1, 2)
        return self.merge(self.attend(q, k, v))


@block("tokens", weight=4)
def separate_qkv(make: Maker, at: Shape) -> nn.Module:
    n, d = heads(make)
    config = SimpleNamespace(num_heads=n, head_dim=d, value_dim=make.choose.pick((d, 3)))
    return Separate(at.channels, config, core(make, d))


class MultiHead(nn.Module):
    """nn.MultiheadAttention, batch first or time first."""

    def __init__(self, dim: int, num_heads: int, batch_first: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, num_heads, batch_first=batch_first)

    def forward(self, x_BTC: Tensor) -> Tensor:
        if self.attn.batch_first:
            return self.attn(x_BTC, x_BTC, x_BTC, need_weights=False)[0]
        x = x_BTC.transpose(0, 1)
        out, weights = self.attn(x, x, x)
        return out.transpose(0, 1) + weights.mean()


@block("tokens", weight=4)
def multihead_attention(make: Maker, at: Shape) -> nn.Module:
    return MultiHead(at.channels, make.divisor(at.channels), batch_first=True)


@block("tokens", weight=3)
def multihead_attention_time_first(make: Maker, at: Shape) -> nn.Module:
    return MultiHead(at.channels, make.divisor(at.channels), batch_first=False)


@block("tokens", weight=3)
def transformer_encoder_layer(make: Maker, at: Shape) -> nn.Module:
    return nn.TransformerEncoderLayer(
        at.channels,
        make.divisor(at.channels),
        make.width(at),
        batch_first=True,
        norm_first=make.choose.chance(50),
        activation=make.choose.pick(("relu", "gelu")),
    )


class Grouped(Attention):
    """Several query heads share a key-value head; three ways to bring them together."""

    def __init__(self, dim: int, kv: int, queries: int, head_dim: int, attend: Core, style: str) -> None:
        super().__init__(dim, kv * queries, head_dim, attend)
        self.num_key_value_heads = kv
        self.num_key_value_groups = queries
        self.style = style
        self.q_proj = nn.Linear(dim, kv * queries * head_dim)
        self.k_proj = nn.Linear(dim, kv * head_dim)
        self.v_proj = nn.Linear(dim, kv * head_dim)

    def repeat_kv(self, x_BGTD: Tensor) -> Tensor:
        if self.style == "interleave":
            return x_BGTD.repeat_interleave(self.num_key_value_groups, dim=1)
        b, g, t, d = x_BGTD.shape
        x = x_BGTD[:, :, None].expand(b, g, self.num_key_value_groups, t, d)
        return x.reshape(b, g * self.num_key_value_groups, t, d)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, t, self.num_key_value_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.num_key_value_heads, self.head_dim).transpose(1, 2)
        if self.style == "enable_gqa":
            return self.merge(F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
        return self.merge(self.attend(q, self.repeat_kv(k), self.repeat_kv(v)))


def _grouped(make: Maker, at: Shape, style: str) -> nn.Module:
    d = make.choose.pick((2, 3, 4))
    kv, queries = make.choose.integer(1, 3), make.choose.integer(2, 3)
    return Grouped(at.channels, kv, queries, d, core(make, d), style)


@block("tokens", weight=3)
def gqa_expand(make: Maker, at: Shape) -> nn.Module:
    return _grouped(make, at, "expand")


@block("tokens", weight=3)
def gqa_repeat_interleave(make: Maker, at: Shape) -> nn.Module:
    return _grouped(make, at, "interleave")


@block("tokens", weight=3)
def gqa_enable(make: Maker, at: Shape) -> nn.Module:
    return _grouped(make, at, "enable_gqa")


class MultiQuery(nn.Module):
    """Falcon: one key head, broadcast; queries, key and value cut from one layer by uneven split."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.qkv = nn.Linear(dim, (num_heads + 2) * head_dim)
        self.dense = nn.Linear(num_heads * head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        fused = self.qkv(x).view(b, t, self.num_heads + 2, self.head_dim)
        q, k, v = fused[..., :-2, :], fused[..., [-2], :], fused[..., [-1], :]
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2).expand(-1, self.num_heads, -1, -1), v.transpose(1, 2)
        )
        return self.dense(out.transpose(1, 2).flatten(2))


@block("tokens", weight=3)
def multi_query(make: Maker, at: Shape) -> nn.Module:
    return MultiQuery(at.channels, *heads(make))
