"""Pooling, resampling and spatial padding: trailing dimensions change size, the others stay what they were."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.core.space import constant, freeze, is_frozen
from secateur.torch.rules.protocol import SPATIAL, Trace, tensors_of
from secateur.torch.rules.registry import Rule, Sample, rule, sample


def _spatial(num: int) -> Rule:
    def resample(trace: Trace, out: Tensor, x: Tensor, *args: object, **kwargs: object) -> None:
        for space in trace.spaces(x)[x.dim() - num :]:
            if not is_frozen(space):
                freeze(space, SPATIAL)
        for result in tensors_of(out):
            spatial = [constant(n, SPATIAL) for n in result.shape[-num:]]
            trace.put(result, [*trace.spaces(x)[:-num], *spatial], [*trace.zero(x)[:-num], *[False] * num])

    resample.__name__ = f"resample_{num}d"
    return resample


rule(
    "avg_pool1d",
    "max_pool1d",
    "adaptive_avg_pool1d",
    "adaptive_max_pool1d",
    "max_pool1d_with_indices",
    "upsample_linear1d",
    "upsample_nearest1d",
    "_upsample_nearest_exact1d",
    "reflection_pad1d",
    "replication_pad1d",
)(_spatial(1))
rule(
    "avg_pool2d",
    "max_pool2d",
    "max_pool2d_with_indices",
    "mkldnn_max_pool2d",
    "_adaptive_avg_pool2d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "mkldnn_adaptive_avg_pool2d",
    "fractional_max_pool2d",
    "_upsample_lanczos2d_aa",
    "upsample_nearest2d",
    "_upsample_nearest_exact2d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
    "reflection_pad2d",
    "replication_pad2d",
)(_spatial(2))
rule(
    "avg_pool3d",
    "max_pool3d",
    "max_pool3d_with_indices",
    "_adaptive_avg_pool3d",
    "adaptive_max_pool3d",
    "fractional_max_pool3d",
    "mkldnn_max_pool3d",
    "upsample_nearest3d",
    "_upsample_nearest_exact3d",
    "upsample_trilinear3d",
    "reflection_pad3d",
    "replication_pad3d",
)(_spatial(3))


@rule("max_unpool2d", "max_unpool3d")
def unpool(trace: Trace, out: Tensor, x: Tensor, positions: Tensor, size: Sequence[int], *args: object) -> None:
    """Each number goes back to the place in the map that it was taken from; maps stay apart."""
    num = len(size)
    spaces = [trace.same(a, b) for a, b in zip(trace.spaces(x), trace.spaces(positions), strict=True)]
    for space in spaces[-num:]:
        freeze(space, SPATIAL)
    spatial = [constant(n, SPATIAL) for n in out.shape[-num:]]
    trace.put(out, [*spaces[:-num], *spatial], [*trace.zero(x)[:-num], *[False] * num])


@rule("affine_grid_generator")
def affine_grid(trace: Trace, out: Tensor, theta: Tensor, *args: object) -> None:
    """A map of coordinates for each matrix of a batch."""
    for space in trace.spaces(theta)[1:]:
        freeze(space, f"coordinates in {trace.where}")
    trace.put(out, [trace.spaces(theta)[0], *(constant(n, "coordinates") for n in out.shape[1:])])


@rule("grid_sampler_2d", "grid_sampler_3d")
def grid_sample(trace: Trace, out: Tensor, x: Tensor, grid: Tensor, *args: object) -> None:
    """Each place of the grid, whose last dimension are coordinates, is looked up in x; channels go through."""
    for space in (*trace.spaces(x)[2:], trace.spaces(grid)[-1]):
        freeze(space, f"coordinates in {trace.where}")
    batch = trace.same(trace.spaces(x)[0], trace.spaces(grid)[0])
    trace.put(
        out, [batch, trace.spaces(x)[1], *trace.spaces(grid)[1:-1]], [False, trace.zero(x)[1], *[False] * (x.dim() - 2)]
    )


@sample("grid_sampler_2d")
def _grid_sample() -> Sample:
    def function(x: Tensor, grid: Tensor) -> Tensor:
        return torch.nn.functional.grid_sample(x, grid.tanh(), align_corners=False)

    return Sample(function, (2, 4, 6, 6), (2, 5, 3, 2))


@sample("max_unpool2d", "affine_grid_generator")
def _unpool() -> Sample:
    def function(x: Tensor, theta: Tensor) -> Tensor:
        pooled, positions = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
        back = torch.nn.functional.max_unpool2d(pooled.tanh(), positions, [2, 2])
        grid = torch.nn.functional.affine_grid(theta, [2, 1, 3, 3], align_corners=False)
        return torch.nn.functional.grid_sample(back, grid, align_corners=False)

    return Sample(function, (2, 4, 6, 6), (2, 2, 3))


@sample("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "upsample_bilinear2d")
def _pool() -> Sample:
    def function(x: Tensor) -> Tensor:
        x = torch.nn.functional.max_pool2d(x, 2) + torch.nn.functional.avg_pool2d(x, 2)
        x = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
        return torch.nn.functional.adaptive_avg_pool2d(x, 1)

    return Sample(function, (2, 4, 6, 6))
