"""Attention that knows positions or looks elsewhere: rotary, relative bias, windows, maps, channels.

    rotate half       (x1 x2) -> (-x2 x1)          pairs are i and i + D/2
    interleaved       (a b c d) -> (-b a -d c)     pairs are 2i and 2i + 1

B batch, T tokens, C channels, N heads, D head dimension, h w a window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, Chunked, Core, ThreeHeads, core, heads
from .making import Maker, Shape, block


class Rotary(Attention):
    """Queries and keys are rotated by angles from a buffer of frequencies or a table of cosines and sines."""

    inv_freq: Tensor

    def __init__(self, dim: int, num_heads: int, head_dim: int, attend: Core, interleaved: bool) -> None:
        super().__init__(dim, num_heads, head_dim, attend)
        self.interleaved = interleaved
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim)
        self.register_buffer("inv_freq", 10.0 ** -torch.linspace(0, 1, head_dim // 2))
        self.num_rotated = head_dim // 2

    def rotate(self, x_BNTD: Tensor) -> Tensor:
        t = torch.arange(x_BNTD.shape[2], device=x_BNTD.device, dtype=x_BNTD.dtype)
        angles_TD = torch.outer(t, self.inv_freq)
        if self.interleaved:
            cos, sin = angles_TD.cos().repeat_interleave(2, -1), angles_TD.sin().repeat_interleave(2, -1)
            turned = torch.stack((-x_BNTD[..., 1::2], x_BNTD[..., ::2]), dim=-1).flatten(-2)
        else:
            emb = torch.cat((angles_TD, angles_TD), dim=-1)
            cos, sin = emb.cos(), emb.sin()
            half = x_BNTD.shape[-1] // 2
            turned = torch.cat((-x_BNTD[..., half:], x_BNTD[..., :half]), dim=-1)
        return x_BNTD * cos + turned * sin

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return self.merge(self.attend(self.rotate(q), self.rotate(k), v))


@block("tokens", weight=3)
def rotary_half(make: Maker, at: Shape) -> nn.Module:
    n, d = heads(make, even=True)
    return Rotary(at.channels, n, d, core(make, d), interleaved=False)


@block("tokens", weight=3)
def rotary_interleaved(make: Maker, at: Shape) -> nn.Module:
    n, d = heads(make, even=True)
    return Rotary(at.channels, n, d, core(make, d), interleaved=True)


class RelativeBias(nn.Module):
    """A table [2T-1, N], read by an index buffer: Swin's parameter or T5's embedding."""

    relative_position_index: Tensor

    def __init__(self, tokens: int, num_heads: int, embedding: bool) -> None:
        super().__init__()
        self.tokens = tokens
        offsets = torch.arange(tokens)
        self.register_buffer("relative_position_index", offsets[:, None] - offsets[None] + tokens - 1)
        self.table = nn.Embedding(2 * tokens - 1, num_heads) if embedding else None
        self.relative_position_bias_table = None if embedding else nn.Parameter(torch.empty(2 * tokens - 1, num_heads))

    def forward(self) -> Tensor:
        if self.table is not None:
            return self.table(self.relative_position_index).permute(2, 0, 1).unsqueeze(0)
        assert self.relative_position_bias_table is not None
        flat = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        return flat.view(self.tokens, self.tokens, -1).permute(2, 0, 1).contiguous().unsqueeze(0)


class BiasedAttention(ThreeHeads):
    """Fused attention with a relative position bias per head."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, attend: Core, bias: nn.Module) -> None:
        super().__init__(dim, num_heads, head_dim, attend)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = self.qkv(x).reshape(B, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return self.merge(self.attend(q, k, v, self.bias()))


def biased_attention(make: Maker, dim: int, tokens: int) -> nn.Module:
    n, d = heads(make)
    return BiasedAttention(dim, n, d, core(make, d), RelativeBias(tokens, n, make.choose.chance(50)))


@block("tokens", weight=3)
def relative_bias(make: Maker, at: Shape) -> nn.Module:
    return biased_attention(make, at.channels, at.sizes[0])


class HeadSlopes(Attention):
    """ALiBi: a buffer with one slope a head, and queries and keys normalised over D."""

    slopes: Tensor

    def __init__(self, dim: int, num_heads: int, head_dim: int, attend: Core) -> None:
        super().__init__(dim, num_heads, head_dim, attend)
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim)
        self.norm = nn.LayerNorm(head_dim)
        self.register_buffer("slopes", 2.0 ** -torch.arange(1.0, num_heads + 1).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        steps = torch.arange(t, device=x.device, dtype=x.dtype)
        return self.merge(self.attend(self.norm(q), self.norm(k), v, -self.slopes * (steps[:, None] - steps).abs()))


@block("tokens", weight=3)
def head_slopes(make: Maker, at: Shape) -> nn.Module:
    n, d = heads(make)
    return HeadSlopes(at.channels, n, d, core(make, d))


class TalkingHeads(ThreeHeads):
    """Heads are mixed by a linear layer after the softmax, and scaled by a parameter a head."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, attend: Core) -> None:
        super().__init__(dim, num_heads, head_dim, attend)
        self.mix = nn.Linear(num_heads, num_heads)
        self.temperature = nn.Parameter(torch.empty(num_heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = self.qkv(x).reshape(B, T, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.merge(self.mix(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ v)


@block("tokens", weight=3)
def talking_heads(make: Maker, at: Shape) -> nn.Module:
    n, d = heads(make)
    return TalkingHeads(at.channels, n, d, core(make, d))


class ClassToken(nn.Module):
    """A learned token is put in front, and learned positions are added to all."""

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, tokens + 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        cls = self.cls_token.expand(x.shape[0], -1, -1)
        return torch.cat((cls, x), dim=1) + self.pos_embed


@block("tokens", when=lambda at: at.sizes[0] < 12, weight=4)
def class_token(make: Maker, at: Shape) -> nn.Module:
    return ClassToken(at.sizes[0], at.channels)


class Positions(nn.Module):
    """Positions added: a parameter, a fixed sinusoidal buffer, or an embedding of arange."""

    def __init__(self, tokens: int, dim: int, style: str) -> None:
        super().__init__()
        self.style = style
        if style == "parameter":
            self.pos = nn.Parameter(torch.empty(tokens, dim))
        elif style == "buffer":
            self.register_buffer("pos", torch.sin(torch.arange(tokens)[:, None] / (1.0 + torch.arange(dim))))
        else:
            self.wpe = nn.Embedding(tokens + 2, dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "embedding":
            return x + self.wpe(torch.arange(x.shape[1], device=x.device))
        return x + self.pos[: x.size(1)].unsqueeze(0)


@block("tokens", weight=4)
def positions(make: Maker, at: Shape) -> nn.Module:
    return Positions(at.sizes[0], at.channels, make.choose.pick(("parameter", "buffer", "embedding")))


class Windows(nn.Module):
    """Swin: the map is cut into windows, each of which attends to itself, optionally after a cyclic shift."""

    def __init__(self, attn: nn.Module, dim: int, window: int, shift: int) -> None:
        super().__init__()
        self.attn = attn
        self.dim, self.window_size, self.shift = dim, window, shift

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = torch.roll(x, (-self.shift, -self.shift), (2, 3)).permute(0, 2, 3, 1)
        x = x.reshape(b, h // self.window_size, self.window_size, w // self.window_size, self.window_size, c)
        windows = x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, self.window_size * self.window_size, self.dim)
        x = self.attn(windows).view(
            b, h // self.window_size, w // self.window_size, self.window_size, self.window_size, -1
        )
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, -1).permute(0, 3, 1, 2)
        return torch.roll(x, (self.shift, self.shift), (2, 3))


@block("map", when=lambda at: at.space in {(4, 4), (2, 2), (6, 6), (2, 4), (4, 2), (4, 6), (6, 4), (8, 8)}, weight=12)
def window_attention(make: Maker, at: Shape) -> nn.Module:
    window = 2
    return Windows(biased_attention(make, at.channels, window * window), at.channels, window, make.choose.integer(0, 1))


class MapAttention(nn.Module):
    """A non-local block: 1x1 convolutions, heads by view, attention between pixels."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Conv2d(dim, 3 * num_heads * head_dim, 1, bias=False)
        self.to_out = nn.Conv2d(num_heads * head_dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = (t.reshape(b, self.num_heads, -1, h * w) for t in self.to_qkv(x).chunk(3, dim=1))
        sim = torch.einsum("bndi,bndj->bnij", q * q.shape[2] ** -0.5, k)
        out = torch.einsum("bnij,bndj->bndi", sim.softmax(-1), v)
        return x + self.to_out(out.reshape(b, -1, h, w))


@block("map", weight=3)
def map_attention(make: Maker, at: Shape) -> nn.Module:
    return MapAttention(at.channels, *heads(make))


class ChannelAttention(nn.Module):
    """XCiT: attention between the channels of a head; the head dimension is on both sides of the softmax."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(x).reshape(B, T, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 4, 1)
        attn = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature
        return self.proj((attn.softmax(dim=-1) @ v).permute(0, 3, 1, 2).reshape(B, T, C))


@block("tokens", weight=4)
def channel_attention(make: Maker, at: Shape) -> nn.Module:
    return ChannelAttention(at.channels, make.divisor(at.channels))


class LinearAttention(Attention):
    """softmax over D for queries, over T for keys, and a D x D context: no T x T matrix."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, attend: Core) -> None:
        super().__init__(dim, num_heads, head_dim, attend)
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        context = k.softmax(dim=2).transpose(-1, -2) @ v
        return self.merge(q.softmax(dim=-1) @ context)


@block("tokens", weight=3)
def linear_attention(make: Maker, at: Shape) -> nn.Module:
    n, d = heads(make)
    return LinearAttention(at.channels, n, d, core(make, d))


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP on one residual stream, with layer scale."""

    def __init__(self, dim: int, attn: nn.Module, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = attn
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.ls = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls * self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@block("tokens", weight=4)
def transformer_block(make: Maker, at: Shape) -> nn.Module:
    n, d = heads(make)
    return TransformerBlock(at.channels, Chunked(at.channels, n, d, core(make, d), causal=False), make.width(at))


class CrossAttention(nn.Module):
    """Learned queries read the tokens (DETR, Perceiver): the number of queries becomes T."""

    def __init__(self, dim: int, queries: int, num_heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(queries, dim))
        self.attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        q = self.queries.unsqueeze(0).repeat(x.shape[0], 1, 1)
        return self.attn(q, x, x)[0]


@block("tokens", weight=3)
def cross_attention(make: Maker, at: Shape) -> nn.Module:
    return CrossAttention(at.channels, make.choose.integer(2, 6), make.divisor(at.channels))
