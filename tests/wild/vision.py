"""Blocks of image networks as repositories have them, each with what is particular to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
LARGER = [lambda: (floats(1, 3, 12, 12),)]


class _Net(nn.Module):
    """stem 12, a block that keeps 12, head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Linear(12, 5)

    def block(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(F.relu(self.stem(x))).mean((2, 3)))


@wild(IMAGE, fresh=LARGER)
class SqueezeExcite(_Net):
    """Channel gates by 1x1 convolutions, the reduction a quotient."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(12, 12 // 4, 1), nn.Conv2d(12 // 4, 12, 1)

    def block(self, h: Tensor) -> Tensor:
        return h * F.hardsigmoid(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(h, 1)))))


@wild(IMAGE, fresh=LARGER)
class EfficientChannelAttention(_Net):
    """A 1-D convolution *along* channels: neighbours matter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def block(self, h: Tensor) -> Tensor:
        y = h.mean((2, 3))
        return h * torch.sigmoid(self.conv(y[:, None]).squeeze(1))[:, :, None, None]


@wild(IMAGE, fresh=LARGER)
class CBAM(_Net):
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
class ChannelShuffle(_Net):
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
class Res2(_Net):
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
class Ghost(_Net):
    """Half of the channels made cheaply from the other half, then cut to a number."""

    def __init__(self) -> None:
        super().__init__()
        self.oup, self.primary, self.cheap = 12, nn.Conv2d(12, 7, 1), nn.Conv2d(7, 7, 3, padding=1, groups=7)

    def block(self, h: Tensor) -> Tensor:
        a = F.relu(self.primary(h))
        return torch.cat([a, F.relu(self.cheap(a))], 1)[:, : self.oup]


@wild(IMAGE, fresh=LARGER)
class DenseByHand(_Net):
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
class Octave(_Net):
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
class SpatialTransformer(_Net):
    """`affine_grid` and `grid_sample` from predicted angles; deformable offsets by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.theta, self.offset, self.mix = nn.Linear(12, 6), nn.Conv2d(12, 2, 3, padding=1), nn.Conv2d(12, 12, 1)

    def block(self, h: Tensor) -> Tensor:
        theta = 0.1 * self.theta(h.mean((2, 3))).view(-1, 2, 3) + torch.eye(2, 3).to(h)
        grid = F.affine_grid(theta, list(h.shape), align_corners=False)
        grid = grid + 0.1 * torch.tanh(self.offset(h)).permute(0, 2, 3, 1)
        return self.mix(F.grid_sample(h, grid, align_corners=False))


@wild(IMAGE)
class NetVLAD(_Net):
    """Soft assignment to centres, residual sums, normalised inside clusters and over all."""

    def __init__(self) -> None:
        super().__init__()
        self.clusters, self.assign, self.centres = 4, nn.Conv2d(12, 4, 1), nn.Parameter(torch.rand(4, 12))
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.stem(x))
        a = self.assign(h).flatten(2).softmax(1)
        residual = h.flatten(2)[:, None] - self.centres[None, :, :, None]
        v = F.normalize((residual * a[:, :, None]).sum(-1), dim=2)
        return self.head(F.normalize(v.flatten(1), dim=1))


@wild(IMAGE, fresh=LARGER)
class FeaturePyramid(nn.Module):
    """Laterals added top-down, smoothed, a dict of levels returned; fusion weights normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.ModuleList([nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 16, 3, 2, 1)])
        self.lateral, self.smooth = (
            nn.ModuleList(nn.Conv2d(n, 10, 1) for n in (8, 12, 16)),
            nn.ModuleList(nn.Conv2d(10, 6, 3, 1, 1) for _ in range(3)),
        )
        self.weights = nn.Parameter(torch.ones(2, 2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = []
        for conv in self.c:
            x = F.relu(conv(x))
            levels.append(x)
        top = self.lateral[2](levels[2])
        outs = {"p5": self.smooth[2](top)}
        for i in (1, 0):
            w = F.relu(self.weights[i])
            w = w / (w.sum() + 1e-4)
            top = w[0] * self.lateral[i](levels[i]) + w[1] * F.interpolate(top, size=levels[i].shape[-2:])
            outs[f"p{i + 3}"] = self.smooth[i](top)
        return outs


@wild(IMAGE, fresh=LARGER)
class ASPP(_Net):
    """Dilations in parallel, image pooling spread again, joined and projected."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(12, 6, 3, padding=d, dilation=d, bias=False) for d in (1, 2, 3))
        self.pooled, self.norm, self.project = nn.Conv2d(12, 6, 1), nn.BatchNorm2d(24), nn.Conv2d(24, 12, 1)

    def block(self, h: Tensor) -> Tensor:
        whole = F.interpolate(self.pooled(F.adaptive_avg_pool2d(h, 1)), size=h.shape[-2:], mode="bilinear")
        return self.project(F.relu(self.norm(torch.cat([b(h) for b in self.branches] + [whole], 1))))


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
class ConvNeXtByHand(_Net):
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


@wild(IMAGE)
class PixelShuffler(nn.Module):
    """Super-resolution: dense residuals scaled, space to depth and back, a global skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (
            nn.Conv2d(12, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(16, 8, 3, padding=1),
        )
        self.up, self.out = nn.Conv2d(8, 5 * 16, 3, padding=1), nn.Conv2d(5, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(F.pixel_unshuffle(x, 2))
        y = F.leaky_relu(self.a(h), 0.2)
        h = h + 0.2 * self.b(torch.cat([h, y], 1))
        return self.out(F.pixel_shuffle(self.up(h), 4)) + F.interpolate(x, scale_factor=2, mode="bicubic")


@wild(IMAGE, fresh=LARGER)
class CoordAndBlur(_Net):
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
class LocalResponse(_Net):
    """Normalisation across neighbouring channels, maxout over pairs, CReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs, self.project = nn.Conv2d(12, 16, 1), nn.Conv2d(16, 12, 1)

    def block(self, h: Tensor) -> Tensor:
        h = F.local_response_norm(h, 3)
        pairs = self.pairs(h)
        best = pairs.view(len(h), 8, 2, *h.shape[2:]).amax(2)
        return self.project(F.relu(torch.cat([best, -best], 1)))


@wild(lambda: (floats(2, 3, 4, 8, 8),))
class VideoNet(nn.Module):
    """(2+1)-D convolutions, temporal shift of channel slices, a non-local block."""

    def __init__(self) -> None:
        super().__init__()
        self.space, self.time = (
            nn.Conv3d(3, 9, (1, 3, 3), padding=(0, 1, 1)),
            nn.Conv3d(9, 12, (3, 1, 1), padding=(1, 0, 0)),
        )
        self.theta, self.phi, self.g, self.back = (
            nn.Conv3d(12, 6, 1),
            nn.Conv3d(12, 6, 1),
            nn.Conv3d(12, 6, 1),
            nn.Conv3d(6, 12, 1),
        )
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.time(F.relu(self.space(x))))
        fold = h.shape[1] // 4
        out = torch.zeros_like(h)
        out[:, :fold, :-1], out[:, fold : 2 * fold, 1:], out[:, 2 * fold :] = (
            h[:, :fold, 1:],
            h[:, fold : 2 * fold, :-1],
            h[:, 2 * fold :],
        )
        q, k, v = (f(out).flatten(2) for f in (self.theta, self.phi, self.g))
        y = (v @ (q.mT @ k).softmax(-1).mT).view(len(x), -1, *h.shape[2:])
        return self.head((out + self.back(y)).mean((2, 3, 4)))


@wild(IMAGE, fresh=LARGER)
class InstanceNorms(_Net):
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


@wild(IMAGE)
class BilinearPooling(_Net):
    """Outer products of channels (Gram matrix), signed roots; a matrix square root by Newton steps."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.head = nn.Conv2d(12, 6, 1), nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.reduce(F.relu(self.stem(x))).flatten(2)
        gram = h @ h.mT / h.shape[-1]
        y = gram / gram.diagonal(dim1=1, dim2=2).sum(-1)[:, None, None]
        z = 1.5 * y - 0.5 * y @ y @ y
        return self.head(F.normalize((z.sign() * (z.abs() + 1e-6).sqrt()).flatten(1)))


@wild(IMAGE)
class AnchorFree(nn.Module):
    """A YOLO-like head: objectness, boxes and classes in one convolution, viewed by anchors, grids cached by size."""

    def __init__(self) -> None:
        super().__init__()
        self.na, self.nc = 2, 3
        self.no, self.grid = self.nc + 5, None
        self.body, self.m = (
            nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 12, 3, padding=1), nn.SiLU()),
            nn.Conv2d(12, self.na * self.no, 1),
        )
        self.register_buffer("anchors", torch.rand(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.m(self.body(x))
        b, _, ny, nx = y.shape
        y = y.view(b, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
        if self.training:
            return y
        if self.grid is None or self.grid.shape[2:4] != y.shape[2:4] or self.grid.dtype != y.dtype:
            self.grid = (
                torch.stack(torch.meshgrid(torch.arange(nx), torch.arange(ny), indexing="xy"), 2)
                .view(1, 1, ny, nx, 2)
                .to(y)
            )
        y = y.sigmoid()
        xy = (y[..., 0:2] * 2 - 0.5 + self.grid) * 2
        wh = (y[..., 2:4] * 2) ** 2 * self.anchors.view(1, self.na, 1, 1, 2)
        return torch.cat([xy, wh, y[..., 4:]], -1).view(b, -1, self.no)
