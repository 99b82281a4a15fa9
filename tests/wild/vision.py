"""Blocks of image networks as repositories have them, each with what is particular to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
LARGER = [lambda: (floats(1, 3, 12, 12),)]


class Net(nn.Module):
    """stem 12, a block that keeps 12, head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Linear(12, 5)

    def block(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(F.relu(self.stem(x))).mean((2, 3)))


@wild(IMAGE, fresh=LARGER)
class SqueezeExcite(Net):
    """Channel gates by 1x1 convolutions, the reduction a quotient."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(12, 12 // 4, 1), nn.Conv2d(12 // 4, 12, 1)

    def block(self, h: Tensor) -> Tensor:
        return h * F.hardsigmoid(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(h, 1)))))


@wild(IMAGE, fresh=LARGER)
class EfficientChannelAttention(Net):
    """A 1-D convolution *along* channels: neighbours matter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def block(self, h: Tensor) -> Tensor:
        y = h.mean((2, 3))
        return h * torch.sigmoid(self.conv(y[:, None]).squeeze(1))[:, :, None, None]


@wild(IMAGE, fresh=LARGER)
class CBAM(Net):
    """Mean and maximum, over space through a shared MLP, over channels through a 7x7."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.spatial = (
            nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 12)),
            nn.Conv2d(2, 1, 7, padding=3),
        )

    def block(self, h: Tensor) -> Tensor:
        h = h * torch.sigmoid(self.mlp(h.mean((2, 3))) + self.mlp(h.amax((2, 3))))[:, :, None, None]
        return h * torch.sigmoid(self.spatial(torch.stack([h.mean(1), h.amax(1)], 1)))


@wild(IMAGE, fresh=LARGER)
class ChannelShuffle(Net):
    """ShuffleNet: split in halves, one convolved, joined, shuffled by view and transpose; grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        )
        self.grouped = nn.Conv2d(12, 12, 1, groups=3)

    @staticmethod
    def shuffle(h: Tensor, groups: int) -> Tensor:
        """Interleaves groups."""
        b, c, height, width = h.size()
        return h.view(b, groups, c // groups, height, width).transpose(1, 2).contiguous().view(b, -1, height, width)

    def block(self, h: Tensor) -> Tensor:
        a, b = h.chunk(2, dim=1)
        h = self.shuffle(torch.cat([a, self.branch(b)], 1), 2)
        return self.shuffle(self.grouped(h), 3)


@wild(IMAGE, fresh=LARGER)
class Res2(Net):
    """Four splits in a cascade, sizes from an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.convs = 3, nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def block(self, h: Tensor) -> Tensor:
        parts = torch.split(h, self.width, 1)
        outs, last = [parts[0]], parts[0]
        for conv, part in zip(self.convs, parts[1:]):
            last = F.relu(conv(last + part))
            outs.append(last)
        return torch.cat(outs, 1) + h


@wild(IMAGE, fresh=LARGER)
class Ghost(Net):
    """Half of the channels made cheaply from the other half, then cut to a number."""

    def __init__(self) -> None:
        super().__init__()
        self.oup, self.primary, self.cheap = 12, nn.Conv2d(12, 7, 1), nn.Conv2d(7, 7, 3, padding=1, groups=7)

    def block(self, h: Tensor) -> Tensor:
        a = F.relu(self.primary(h))
        return torch.cat([a, F.relu(self.cheap(a))], 1)[:, : self.oup]


@wild(IMAGE, fresh=LARGER)
class DenseByHand(Net):
    """Each layer sees all before it; a bottleneck between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(12 + 4 * i), nn.ReLU(), nn.Conv2d(12 + 4 * i, 8, 1), nn.Conv2d(8, 4, 3, padding=1)
            )
            for i in range(3)
        )
        self.transition = nn.Conv2d(24, 12, 1)

    def block(self, h: Tensor) -> Tensor:
        features = [h]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.transition(torch.cat(features, 1))


@wild(IMAGE, fresh=LARGER)
class Octave(Net):
    """Two resolutions exchanging channels, the ratio kept as a float."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = 0.25
        low = int(12 * self.alpha)
        self.hh, self.hl, self.lh, self.ll = (
            nn.Conv2d(a, b, 3, padding=1) for a in (12 - low, low) for b in (12 - low, low)
        )

    def block(self, h: Tensor) -> Tensor:
        low = int(h.shape[1] * self.alpha)
        high, small = h[:, low:], F.avg_pool2d(h[:, :low], 2)
        up = F.interpolate(self.lh(small), size=high.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat(
            [F.interpolate(self.ll(small) + self.hl(F.avg_pool2d(high, 2)), scale_factor=2.0), self.hh(high) + up], 1
        )


@wild(IMAGE)
class Mixer(nn.Module):
    """Patches, token mixing by transposes, channel mixing; a gMLP gate along tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 2, 2)
        self.n1, self.n2, self.n3 = nn.LayerNorm(12), nn.LayerNorm(12), nn.LayerNorm(9)
        self.token, self.channel = (
            nn.Sequential(nn.Linear(16, 20), nn.GELU(), nn.Linear(20, 16)),
            nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12)),
        )
        self.inp, self.gate, self.out, self.head = (
            nn.Linear(12, 18),
            nn.Conv1d(16, 16, 1),
            nn.Linear(9, 12),
            nn.Linear(12, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.patch(x).flatten(2).transpose(1, 2)
        h = h + self.token(self.n1(h).transpose(1, 2)).transpose(1, 2)
        h = h + self.channel(self.n2(h))
        u, v = F.gelu(self.inp(h)).chunk(2, dim=-1)
        h = h + self.out(u * self.gate(self.n3(v)))
        return self.head(h.mean(1))


@wild(IMAGE)
class ConvNeXtByHand(Net):
    """Channels-last norm and MLP, layer scale, global response normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(12, 12, 7, padding=3, groups=12), nn.LayerNorm(12, eps=1e-6)
        self.up, self.down, self.gamma = nn.Linear(12, 48), nn.Linear(48, 12), nn.Parameter(torch.rand(12))
        self.grn_gain, self.grn_shift = nn.Parameter(torch.randn(1, 1, 1, 48)), nn.Parameter(torch.randn(1, 1, 1, 48))

    def block(self, h: Tensor) -> Tensor:
        y = F.gelu(self.up(self.norm(self.depthwise(h).permute(0, 2, 3, 1))))
        g = y.norm(p=2, dim=(1, 2), keepdim=True)
        y = self.grn_gain * (y * g / (g.mean(-1, keepdim=True) + 1e-6)) + self.grn_shift + y
        return h + (self.gamma * self.down(y)).permute(0, 3, 1, 2)


@wild(IMAGE, fresh=LARGER)
class CoordAndBlur(Net):
    """Coordinates appended, an anti-aliasing kernel repeated over channels in a buffer, max-pooling with indices."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(14, 12, 1)
        k = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", (k[:, None] * k / 16)[None, None].repeat(12, 1, 1, 1))

    def block(self, h: Tensor) -> Tensor:
        b, _, height, width = h.shape
        ys, xs = torch.linspace(-1, 1, height).to(h), torch.linspace(-1, 1, width).to(h)
        grid = torch.stack(torch.meshgrid(ys, xs, indexing="ij")).expand(b, -1, -1, -1)
        h = self.mix(torch.cat([h, grid], 1))
        h = F.conv2d(F.pad(h, (1, 1, 1, 1), mode="reflect"), self.kernel, groups=h.shape[1])
        pooled, where = F.max_pool2d(h, 2, return_indices=True)
        return F.max_unpool2d(pooled, where, 2)


@wild(IMAGE)
class LocalResponse(Net):
    """Normalisation across neighbouring channels, maxout over pairs, CReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs, self.project = nn.Conv2d(12, 16, 1), nn.Conv2d(16, 12, 1)

    def block(self, h: Tensor) -> Tensor:
        h = F.local_response_norm(h, 3)
        pairs = self.pairs(h)
        best = pairs.view(len(h), 8, 2, *h.shape[2:]).amax(2)
        return self.project(F.relu(torch.cat([best, -best], 1)))


@wild(IMAGE, fresh=LARGER)
class InstanceNorms(Net):
    """nn.InstanceNorm2d (with and without affine), AdaIN from statistics of another branch, `num_features` read."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.affine = nn.InstanceNorm2d(12), nn.InstanceNorm2d(12, affine=True, track_running_stats=True)
        self.style, self.side = nn.Linear(12, 24), nn.Conv2d(12, 12, 1)

    def block(self, h: Tensor) -> Tensor:
        gain, shift = self.style(h.mean((2, 3))).view(len(h), 2, self.plain.num_features, 1, 1).unbind(1)
        content = self.plain(h) * (1 + gain) + shift
        other = self.side(h)
        mean, std = other.mean((2, 3), keepdim=True), other.std((2, 3), keepdim=True)
        return self.affine(content) * std + mean
