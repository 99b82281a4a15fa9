"""From one kind of stream to another, the ways into a network, and what happens on the grid.

ids ── embed ── tokens ◄── patch embed ── map ── pool, flatten ── vector ── unflatten ── tokens, map
signal ── transpose ── tokens                volume ── mean over depth, or fold it into the channels ── map
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .making import LARGEST, Maker, Shape, block

VOCABULARY = 11


class Call(nn.Module):
    """A fixed function of the activation, as people write it inline in forward."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@block("map", to="vector", weight=6)
def global_pool(make: Maker, at: Shape) -> nn.Module:
    if make.choose.chance(50):
        return nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten())
    return Call(lambda x: x.mean((2, 3)))


@block("map", to="vector", weight=4)
def global_max_pool(make: Maker, at: Shape) -> nn.Module:
    return Call(lambda x: torch.cat([x.amax(dim=(-2, -1)), x.flatten(2).mean(-1)], 1))


class FlattenLinear(nn.Module):
    """A map flattened into a linear layer: each channel owns H*W columns."""

    def __init__(self, at: Shape, out: int, style: str) -> None:
        super().__init__()
        self.features = at.sizes[0] * at.sizes[1] * at.sizes[2]
        self.style = style
        self.fc = nn.Linear(self.features, out)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "view":
            return self.fc(x.contiguous().view(-1, self.features))
        if self.style == "permuted":
            return self.fc(x.permute(0, 2, 3, 1).reshape(x.size(0), -1))
        return self.fc(torch.flatten(x, 1))


@block("map", to="vector", weight=5)
def flatten_linear(make: Maker, at: Shape) -> nn.Module:
    return FlattenLinear(at, make.width(at), make.choose.pick(("flatten", "view", "permuted")))


@block("map", "tokens", to="vector", when=lambda at: _numel(at) <= LARGEST["channels"], weight=6)
def flatten(make: Maker, at: Shape) -> nn.Module:
    return nn.Flatten()


def _numel(at: Shape) -> int:
    total = 1
    for n in at.sizes:
        total *= n
    return total


class PatchEmbed(nn.Module):
    """ViT's stem: a strided convolution, flatten, transpose."""

    def __init__(self, dim: int, out: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, out, patch, stride=patch)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


@block("map", to="tokens", when=lambda at: min(at.space) >= 2 and max(at.space) <= 8, weight=6)
def patch_embed(make: Maker, at: Shape) -> nn.Module:
    return PatchEmbed(at.channels, make.width(at), 2)


@block("map", to="tokens", when=lambda at: at.space[0] * at.space[1] <= 16, weight=12)
def pixels_to_tokens(make: Maker, at: Shape) -> nn.Module:
    return Call(lambda x: x.flatten(2).permute(0, 2, 1))


@block("map", to="tokens", when=lambda at: at.space[0] <= 8 and at.space[1] <= 4, weight=7)
def rows_to_tokens(make: Maker, at: Shape) -> nn.Module:
    return Call(lambda x: x.permute(0, 2, 1, 3).flatten(2))


@block("map", to="tokens", when=lambda at: at.channels <= 12 and at.space[0] * at.space[1] <= 32, weight=7)
def channels_to_tokens(make: Maker, at: Shape) -> nn.Module:
    return nn.Flatten(2)


class TokensToMap(nn.Module):
    """Back to a grid, whose height and width are attributes."""

    def __init__(self, h: int, w: int) -> None:
        super().__init__()
        self.h, self.w = h, w

    def forward(self, x: Tensor) -> Tensor:
        b, _, c = x.shape
        return x.transpose(1, 2).reshape(b, c, self.h, self.w)


@block("tokens", to="map", weight=8)
def tokens_to_map(make: Maker, at: Shape) -> nn.Module:
    tokens = at.sizes[0]
    h = make.divisor(tokens)
    return TokensToMap(h, tokens // h)


@block("tokens", to="signal", weight=7)
def tokens_to_signal(make: Maker, at: Shape) -> nn.Module:
    return Call(lambda x: x.transpose(1, 2))


@block("tokens", to="vector", weight=6)
def mean_tokens(make: Maker, at: Shape) -> nn.Module:
    return Call(lambda x: x.mean(dim=1))


@block("tokens", to="vector", weight=6)
def pick_token(make: Maker, at: Shape) -> nn.Module:
    return Call((lambda x: x[:, 0]) if make.choose.chance(50) else (lambda x: x[:, -1, :]))


class FlattenTokens(nn.Module):
    """All tokens side by side into a linear layer."""

    def __init__(self, tokens: int, dim: int, out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(tokens * dim, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.reshape(x.shape[0], -1))


@block("tokens", to="vector", weight=6)
def flatten_tokens(make: Maker, at: Shape) -> nn.Module:
    return FlattenTokens(at.sizes[0], at.sizes[1], make.width(at))


class AttentionPool(nn.Module):
    """A learned score a token, softmax over the tokens, weighted sum."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.score(x).softmax(dim=1).transpose(1, 2) @ x).squeeze(1)


@block("tokens", to="vector", weight=6)
def attention_pool(make: Maker, at: Shape) -> nn.Module:
    return AttentionPool(at.channels)


class VectorToTokens(nn.Module):
    """A wide linear layer unflattened into tokens (view with attributes, or unflatten)."""

    def __init__(self, dim: int, tokens: int, out: int) -> None:
        super().__init__()
        self.tokens, self.dim = tokens, out
        self.fc = nn.Linear(dim, tokens * out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).view(x.shape[0], self.tokens, self.dim)


@block("vector", to="tokens", weight=7)
def vector_to_tokens(make: Maker, at: Shape) -> nn.Module:
    out = make.width(at, high=16)
    tokens = make.choose.pick((out, make.choose.integer(2, 8)))
    return VectorToTokens(at.channels, tokens, out)


@block(
    "vector",
    to="tokens",
    when=lambda at: any(at.channels % d == 0 and at.channels > 2 * d for d in (2, 3, 5)),
    weight=14,
)
def cut_vector(make: Maker, at: Shape) -> nn.Module:
    tokens = make.choose.pick([d for d in (2, 3, 5) if at.channels % d == 0 and at.channels > 2 * d])
    return nn.Unflatten(1, (tokens, at.channels // tokens))


class Generator(nn.Module):
    """A GAN's first layer: linear, then view as a small map."""

    def __init__(self, dim: int, out: int, size: int) -> None:
        super().__init__()
        self.out, self.size = out, size
        self.fc = nn.Linear(dim, out * size * size)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.fc(x).view(-1, self.out, self.size, self.size)))


@block("vector", to="map", weight=6)
def vector_to_map(make: Maker, at: Shape) -> nn.Module:
    return Generator(at.channels, make.width(at, high=16), make.choose.integer(2, 4))


@block("vector", to="map", weight=5)
def broadcast_map(make: Maker, at: Shape) -> nn.Module:
    size = make.choose.integer(1, 3)
    grid = torch.linspace(0.5, 1.5, size * size).view(1, 1, size, size).tolist()
    return Call(lambda x: x[:, :, None, None].expand(-1, -1, size, size) * x.new_tensor(grid))


@block("signal", to="tokens", weight=5)
def signal_to_tokens(make: Maker, at: Shape) -> nn.Module:
    return Call(lambda x: x.permute(0, 2, 1).contiguous())


@block("signal", to="vector", weight=5)
def signal_pool(make: Maker, at: Shape) -> nn.Module:
    return nn.Sequential(nn.AdaptiveMaxPool1d(1), nn.Flatten())


@block("volume", to="map", weight=5)
def depth_mean(make: Maker, at: Shape) -> nn.Module:
    return Call(lambda x: x.mean(2))


@block("volume", to="map", weight=5)
def depth_to_channels(make: Maker, at: Shape) -> nn.Module:
    return nn.Flatten(1, 2)


@block("volume", to="vector", weight=5)
def volume_pool(make: Maker, at: Shape) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())


@block("map", when=lambda at: min(at.space) >= 4, weight=5)
def max_pool(make: Maker, at: Shape) -> nn.Module:
    return nn.MaxPool2d(3, 2, 1) if make.choose.chance(50) else nn.MaxPool2d(2)


@block("map", when=lambda at: min(at.space) >= 4, weight=5)
def avg_pool(make: Maker, at: Shape) -> nn.Module:
    return nn.AvgPool2d(2) if make.choose.chance(50) else nn.AvgPool2d(3, 1, 1, count_include_pad=False)


@block("map", when=lambda at: min(at.space) >= 3, weight=4)
def adaptive_pool(make: Maker, at: Shape) -> nn.Module:
    return nn.AdaptiveAvgPool2d((2, make.choose.integer(1, 3)))


@block("map", when=lambda at: max(at.space) <= 5, weight=7)
def interpolate(make: Maker, at: Shape) -> nn.Module:
    mode = make.choose.pick(("nearest", "bilinear", "bicubic"))
    return nn.Upsample(scale_factor=2, mode=mode, align_corners=None if mode == "nearest" else False)


@block("map", when=lambda at: min(at.space) >= 2 and max(at.space) <= 8, weight=4)
def pad_space(make: Maker, at: Shape) -> nn.Module:
    mode = make.choose.pick(("constant", "reflect", "replicate"))
    return Call(lambda x: F.pad(x, (1, 0, 1, 1), mode=mode))


@block("map", when=lambda at: min(at.space) >= 3, weight=4)
def crop(make: Maker, at: Shape) -> nn.Module:
    return Call(lambda x: x[:, :, 1:, :-1])


@block("map", when=lambda at: at.space[0] != at.space[1], weight=4)
def swap_space(make: Maker, at: Shape) -> nn.Module:
    return Call(lambda x: x.transpose(2, 3))


@block("map", when=lambda at: at.channels == at.space[0] or at.channels == at.space[1], weight=12)
def swap_channels_and_space(make: Maker, at: Shape) -> nn.Module:
    axis = 2 if at.channels == at.space[0] else 3
    return Call(lambda x: x + 0.5 * x.transpose(1, axis))


@block("tokens", when=lambda at: at.sizes[0] == at.sizes[1], weight=15)
def swap_tokens_and_channels(make: Maker, at: Shape) -> nn.Module:
    return Call(lambda x: x - 0.5 * x.transpose(1, 2))


@block("tokens", when=lambda at: at.sizes[0] >= 4, weight=5)
def merge_tokens(make: Maker, at: Shape) -> nn.Module:
    return Call(lambda x: x[:, : x.shape[1] // 2 * 2].reshape(x.shape[0], x.shape[1] // 2, -1))


@block("tokens", weight=4)
def reverse_tokens(make: Maker, at: Shape) -> nn.Module:
    return Call(lambda x: x.flip(1) + torch.roll(x, 1, 1))
