"""Image networks that give more than a class: pyramids, grids, videos, larger images; and ways of pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, wild
from .vision import Net

IMAGE = lambda: (floats(2, 3, 8, 8),)
LARGER = [lambda: (floats(1, 3, 12, 12),)]


@wild(IMAGE)
class SpatialTransformer(Net):
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
class NetVLAD(Net):
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
class ASPP(Net):
    """Dilations in parallel, image pooling spread again, joined and projected."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(12, 6, 3, padding=d, dilation=d, bias=False) for d in (1, 2, 3))
        self.pooled, self.norm, self.project = nn.Conv2d(12, 6, 1), nn.BatchNorm2d(24), nn.Conv2d(24, 12, 1)

    def block(self, h: Tensor) -> Tensor:
        whole = F.interpolate(self.pooled(F.adaptive_avg_pool2d(h, 1)), size=h.shape[-2:], mode="bilinear")
        return self.project(F.relu(self.norm(torch.cat([b(h) for b in self.branches] + [whole], 1))))


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


@wild(IMAGE)
class BilinearPooling(Net):
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
