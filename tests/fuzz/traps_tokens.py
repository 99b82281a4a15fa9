"""Tiny networks, one for each way of pruning wrongly that is known from other tools: tokens and attention.

B batch, T tokens, C channels, N heads, D head dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .traps import IMAGE, floats, ids, trap

TOKENS = floats(2, 5, 6)


@trap(floats(2, 6, 6))
class TokenLinearSquare(nn.Module):
    """T == C, and a layer over each: only the axis tells them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.over_tokens, self.over_channels = nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.stem(x))
        x = x + self.over_tokens(x.transpose(1, 2)).transpose(1, 2)
        return self.head(x + self.over_channels(x))


@trap(TOKENS)
class LayerNormLast(nn.Module):
    """Statistics over the pruned axis: the narrowed model is another function."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(6, 10), nn.LayerNorm(10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.norm(self.fc1(x))))


@trap(TOKENS)
class MultiheadAttention(nn.Module):
    """Heads and head dimensions inside in_proj_weight, with the width fixed by embed_dim."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 12)
        self.attn = nn.MultiheadAttention(12, 3, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return self.head(x + self.attn(x, x, x, need_weights=False)[0])


class _QKV(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 3, 4
        self.qkv = nn.Linear(6, 36)
        self.proj = nn.Linear(12, 5)


@trap(TOKENS)
class SDPA(_QKV):
    """The default scale is taken from the head dimension, which pruning changes."""

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (p.view(b, t, self.num_heads, self.head_dim).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1))


@trap(TOKENS)
class FusedQKV(_QKV):
    """(3, N, D) by reshape and permute, by hand, with a scale kept from __init__."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = self.head_dim**-0.5

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = self.qkv(x).reshape(B, T, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        attn = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((attn @ v).transpose(1, 2).flatten(2))


@trap(TOKENS)
class FusedQKVInterleaved(_QKV):
    """(N, 3 D): each head's query, key and value side by side."""

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).view(*x.shape[:2], self.num_heads, 3 * self.head_dim).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=-1)
        return self.proj(F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2))


@trap(TOKENS)
class GroupedQueryAttention(nn.Module):
    """Two key-value heads, three query heads each, rotary pairs inside."""

    inv_freq: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.num_kv, self.num_groups, self.head_dim = 2, 3, 4
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(6, 24), nn.Linear(6, 8), nn.Linear(6, 8)
        self.o_proj = nn.Linear(24, 6)
        self.register_buffer("inv_freq", torch.tensor([1.0, 0.1]))

    def rotate(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[2], device=x.device, dtype=x.dtype)[:, None] * self.inv_freq
        emb = torch.cat((angles, angles), dim=-1)
        x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return x * emb.cos() + torch.cat((-x2, x1), dim=-1) * emb.sin()

    def repeat_kv(self, x: Tensor) -> Tensor:
        b, kv, t, d = x.shape
        return x[:, :, None].expand(b, kv, self.num_groups, t, d).reshape(b, kv * self.num_groups, t, d)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head_dim)
        q = self.rotate(self.q_proj(x).view(shape).transpose(1, 2))
        k = self.rotate(self.k_proj(x).view(shape).transpose(1, 2))
        v = self.v_proj(x).view(shape).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, self.repeat_kv(k), self.repeat_kv(v), scale=0.5)
        return self.o_proj(out.transpose(1, 2).reshape(*x.shape[:-1], -1))


@trap(TOKENS)
class EnableGQA(nn.Module):
    """Grouped queries left to the kernel: four query heads, two key-value heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, -1, 3).transpose(1, 2)
        k, v = self.kv(x).view(b, t, 2, 2, 3).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, scale=0.6)
        return self.out(out.transpose(1, 2).reshape(b, t, -1))


@trap(TOKENS)
class PositionalParameter(nn.Module):
    """A parameter [1, T, C] that is added: its last axis is the stream's."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 4)
        self.pos_embed = nn.Parameter(torch.empty(1, 5, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(x) + self.pos_embed))


@trap(IMAGE)
class ClassToken(nn.Module):
    """ViT: a patch stem, a class token reshaped with hidden_dim, positions, a head that reads one token."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_dim = 8
        self.conv_proj = nn.Conv2d(3, 8, 4, stride=4)
        self.class_token = nn.Parameter(torch.empty(1, 1, 8))
        self.pos_embedding = nn.Parameter(torch.empty(1, 5, 8))
        self.ln = nn.LayerNorm(8)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = self.conv_proj(x).reshape(n, self.hidden_dim, 4).permute(0, 2, 1)
        x = torch.cat([self.class_token.expand(n, -1, -1), x], dim=1) + self.pos_embedding
        y = self.ln(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return self.head(x[:, 0])


@trap(floats(2, 4, 4, 6))
class WindowAttention(nn.Module):
    """Swin: windows by view and permute, a bias table a head, a cyclic shift; channels last."""

    index: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.window, self.num_heads = 2, 3
        self.qkv, self.proj = nn.Linear(6, 36), nn.Linear(12, 6)
        self.table = nn.Parameter(torch.empty(9, 3))
        y, x = torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")
        y, x = y.flatten(), x.flatten()
        index = (y[:, None] - y + 1) * 3 + (x[:, None] - x + 1)
        self.register_buffer("index", index)

    def attend(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(t, t, -1).permute(2, 0, 1).contiguous()
        attn = (q * 0.5) @ k.transpose(-2, -1) + bias.unsqueeze(0)
        return self.proj((attn.softmax(-1) @ v).transpose(1, 2).reshape(b, t, -1))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        b, h, w, c = x_BHWC.shape
        s = self.window
        x = torch.roll(x_BHWC, shifts=(-1, -1), dims=(1, 2))
        x = x.view(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, s * s, c)
        x = self.attend(x).view(b, h // s, w // s, s, s, -1)
        x = x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)
        return torch.roll(x, shifts=(1, 1), dims=(1, 2))


@trap(ids(2, 6, below=13))
class TiedEmbedding(nn.Module):
    """lm_head owns the embedding's weight: its columns are the stream, its rows the vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 10), nn.GELU(), nn.Linear(10, 8))
        self.lm_head = nn.Linear(8, 13, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, ids_BT: Tensor) -> Tensor:
        x = self.embed(ids_BT)
        return self.lm_head(x + self.mlp(x))


@trap(TOKENS)
class LSTMLinear(nn.Module):
    """Two layers, hidden units in four stacked gate blocks, and a linear layer on each step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(6, 7, num_layers=2, batch_first=True), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0])


@trap(TOKENS)
class GRUBidirectional(nn.Module):
    """Two directions side by side in one axis; the last states are read as well."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 5, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        out, h = self.gru(x)
        return self.fc(out.mean(1)) + self.fc(torch.cat([h[-2], h[-1]], dim=-1))
