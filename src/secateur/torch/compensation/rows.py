"""A contraction as rows: what its weight is multiplied with, and what comes out, at some positions.

    conv y[n, :, p] = W · patch(x, n, p)         linear y[t, :] = W · x[t, :]
    rows_RGD (R positions, G groups, D = inputs in a group × kernel)    and    rows_RGO

A few thousand positions determine a weight of a few hundred inputs as well as all of them do, at a hundredth of the cost.

Invariant: the positions depend on the seed and on the number of positions alone, so two networks with the same
resolution are looked at in the same places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from secateur.torch.running.contractions import Site
from secateur.torch.running.padding import NOTHING_PADDED, Padding


def positions(y: torch.Tensor, site: Site, limit: int, seed: int, padding: Padding = NOTHING_PADDED) -> torch.Tensor:
    """At most ``limit`` flat positions (sample and place) of an output, ascending; the same for the same seed.

    Those that are padding are none.
    """
    shape = list(y.shape)
    del shape[site.features]
    live = padding.live(shape)
    among = None if live is None else live.flatten().nonzero().flatten().to(y.device)
    total = math.prod(shape) if among is None else len(among)
    if total <= limit:
        return torch.arange(total, device=y.device) if among is None else among
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(total, generator=generator)[:limit].sort().values.to(y.device)
    return drawn if among is None else among[drawn]


def output_rows(y: torch.Tensor, site: Site, at: torch.Tensor) -> torch.Tensor:
    """The outputs at these positions: ``[R, features]``."""
    if site.kind == "linear":
        return y.reshape(-1, y.shape[-1])[at]
    return y.movedim(site.features, -1).flatten(0, -2)[at]


def input_rows(site: Site, at: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    """What the weight meets at these positions: ``[R, G, D]``; ``places`` are the spatial sizes of the output."""
    if site.kind == "linear":
        return site.x.reshape(-1, 1, site.x.shape[-1])[at]
    x, stride, dilation = _padded(site)
    kernel = site.weight.shape[2:]
    index, rest = [], at
    for size, step in zip(reversed(places), reversed(stride), strict=True):
        index.append(rest % size * step)
        rest = rest // size
    starts = index[::-1]
    grid = torch.meshgrid(
        *(torch.arange(k, device=at.device) * d for k, d in zip(kernel, dilation, strict=True)), indexing="ij"
    )
    where = [start[:, None] + offset.reshape(1, -1) for start, offset in zip(starts, grid, strict=True)]
    patches = x.movedim(1, -1)[(rest[:, None], *where)]  # [R, kernel, channels]
    grouped = patches.unflatten(-1, (site.groups, -1)).permute(0, 2, 3, 1)
    return grouped.flatten(2)


def weight_rows(site: Site) -> torch.Tensor:
    """The weight as rows of these inputs: ``[G, O, D]``."""
    weight = site.weight.detach()
    if site.kind == "linear":
        return weight.movedim((site.outputs, site.inputs), (0, 1))[None]
    if site.kind == "transposed":
        weight = weight.flip(list(range(2, weight.dim())))
        weight = weight.unflatten(0, (site.groups, -1)).transpose(1, 2)
        return weight.flatten(3).flatten(2)
    return weight.unflatten(0, (site.groups, -1)).flatten(2)


def weight_of_rows(site: Site, rows: torch.Tensor) -> torch.Tensor:
    """The weight that these rows are of; the inverse of `weight_rows`."""
    weight = site.weight
    if site.kind == "linear":
        return rows[0].movedim((0, 1), (site.outputs, site.inputs))
    kernel = weight.shape[2:]
    if site.kind == "transposed":
        unfolded = rows.unflatten(2, (-1, *kernel)).transpose(1, 2).flatten(0, 1)
        return unfolded.flip(list(range(2, unfolded.dim())))
    return rows.flatten(0, 1).unflatten(1, (-1, *kernel))


def _padded(site: Site) -> tuple[torch.Tensor, list[int], list[int]]:
    """The input as an unpadded, ordinary convolution would see it, with its stride and dilation."""
    x, dims = site.x, site.spatial
    if x.dim() == dims + 1:
        x = x[None]
    stride, dilation = _each(site.options["stride"], dims), _each(site.options["dilation"], dims)
    kernel = site.weight.shape[2:]
    if site.kind == "transposed":
        spread = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)]
        wide = x.new_zeros(*x.shape[:2], *spread)
        wide[(..., *(slice(None, None, s) for s in stride))] = x
        before = [
            d * (k - 1) - p for d, k, p in zip(dilation, kernel, _each(site.options["padding"], dims), strict=True)
        ]
        after = [b + o for b, o in zip(before, _each(site.options["output_padding"], dims), strict=True)]
        return _pad(wide, before, after), [1] * dims, dilation
    padding = site.options["padding"]
    if padding == "same":
        whole = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return _pad(x, [w // 2 for w in whole], [w - w // 2 for w in whole]), stride, dilation
    each = [0] * dims if padding == "valid" else _each(padding, dims)
    return _pad(x, each, each), stride, dilation


def _pad(x: torch.Tensor, before: Sequence[int], after: Sequence[int]) -> torch.Tensor:
    amounts = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
    return nn.functional.pad(x, amounts) if any(amounts) else x


def _each(value: int | Sequence[int], dims: int) -> list[int]:
    if isinstance(value, int):
        return [value] * dims
    return list(value) * dims if len(value) == 1 else list(value)


def num_inputs(site: Site) -> int:
    """D: how many inputs one output has."""
    inputs = site.weight.shape[site.inputs] // (site.groups if site.kind == "transposed" else 1)
    return inputs * math.prod(site.weight.shape[2:] if site.kind != "linear" else ())


def outline(site: Site) -> tuple[int, ...]:
    """The shape of what comes in, but for its features."""
    shape = list(site.x.shape)
    del shape[site.features]
    return tuple(shape)


def num_outputs(site: Site) -> int:
    """How many features come out."""
    return site.weight.shape[site.outputs] * (site.groups if site.kind == "transposed" else 1)
