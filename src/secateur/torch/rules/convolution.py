"""Convolutions: input channels are the weight's dimension 1, output channels its dimension 0.

    groups = G        ci = G × i,  co = G × o,  weight [G·o, i, …]      transposed: weight [G·i, o, …]

Legend: ci co input and output channels, i o the same inside a group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.core.space import Space, constant, freeze, is_frozen, merge, split
from secateur.torch.rules.protocol import SPATIAL, Trace
from secateur.torch.rules.registry import Sample, rule, sample


@rule("convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution")
def convolution(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool = False,
    output_padding: Sequence[int] | None = None,
    groups: int = 1,
    *rest: object,
) -> None:
    num_spatial = weight.dim() - 2
    channel_axis = x.dim() - num_spatial - 1
    for kernel in trace.spaces(weight)[2:]:
        freeze(kernel, "kernel")
    co, co_zero = _channels(trace, x, channel_axis, weight, transposed, groups)
    if bias is not None:
        co, co_zero = trace.same(co, trace.spaces(bias)[0]), co_zero and trace.zero(bias)[0]
    batch = trace.spaces(x)[:channel_axis]
    spatial = _spatial(trace, out, x, weight, (stride, padding), transposed)
    kernel_area = math.prod(weight.shape[2:])
    if transposed:
        positions, channels = trace.spaces(x)[channel_axis + 1 :], trace.spaces(x)[channel_axis]
    else:
        positions, channels = spatial, co
    trace.multiply(kernel_area, *batch, *positions, channels, trace.spaces(weight)[1])
    trace.put(out, [*batch, co, *spatial], [False] * len(batch) + [co_zero] + [False] * num_spatial)


@rule("conv_tbc")
def conv_tbc(trace: Trace, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, pad: int = 0) -> None:
    """Over time, which comes first, the batch second, channels last: ``weight[kernel, ci, co]``."""
    kernel, ci, co = trace.spaces(weight)
    freeze(kernel, "kernel")
    freeze(trace.spaces(x)[0], SPATIAL)
    trace.contract(trace.same(trace.spaces(x)[2], ci), zero=trace.zero(x)[2] or trace.zero(weight)[1])
    co, zero = trace.same(co, trace.spaces(bias)[0]), trace.zero(weight)[2] and trace.zero(bias)[0]
    time, batch = constant(out.shape[0], SPATIAL), trace.spaces(x)[1]
    trace.multiply(weight.shape[0], time, batch, ci, co)
    trace.put(out, [time, batch, co], [False, False, zero])


def _spatial(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    steps: tuple[Sequence[int], Sequence[int]],
    transposed: bool,
) -> list[Space]:
    """A kernel of one that moves by one leaves a dimension what it is; any other freezes it."""
    num = weight.dim() - 2
    result: list[Space] = []
    for i, space in enumerate(trace.spaces(x)[x.dim() - num :]):
        stride, padding = (s[i] if len(s) > i else s[0] for s in steps)
        if weight.shape[2 + i] == stride == 1 and padding == 0 and not transposed:
            result.append(space)
        else:
            if not is_frozen(space):
                freeze(space, SPATIAL)
            result.append(constant(out.shape[x.dim() - num + i], SPATIAL))
    return result


def _channels(trace: Trace, x: Tensor, axis: int, weight: Tensor, transposed: bool, groups: int) -> tuple[Space, bool]:
    """State what the channels are; the output's channel space and whether removed ones are zero."""
    ci = trace.spaces(x)[axis]
    first, second = trace.spaces(weight)[:2]
    zero = trace.zero(x)[axis] or all(trace.zero(weight)[:2])
    if groups == 1:
        taken, given = (first, second) if transposed else (second, first)
        trace.contract(trace.same(ci, taken), zero=zero)
        return given, all(trace.zero(weight)[:2])
    if not transposed:
        group_in, inner = _groups(ci, groups)
        group_out, _ = _groups(first, groups)
        trace.same(group_in, group_out)
        trace.contract(trace.same(inner, second), zero=zero)
        return first, all(trace.zero(weight)[:2])
    trace.same(ci, first)
    group, inner = _groups(first, groups)
    trace.contract(inner, zero=zero)
    return merge([group, second]), all(trace.zero(weight)[:2])


def _groups(channels: Space, groups: int) -> list[Space]:
    pieces = split(channels, (groups, channels.root().size // groups))
    if pieces is None:
        raise ValueError("the channels cannot be seen as groups")
    return pieces


@sample("convolution")
def _conv() -> Sample:
    return Sample(lambda x, w, b: torch.conv2d(x, w, b, padding=1), (2, 4, 5, 5), (6, 4, 3, 3), (6,))


@sample("convolution")
def _depthwise() -> Sample:
    return Sample(lambda x, w, b: torch.conv2d(x, w, b, groups=x.shape[1]), (2, 4, 5, 5), (4, 1, 3, 3), (4,))


@sample("convolution")
def _transposed() -> Sample:
    return Sample(lambda x, w, b: torch.conv_transpose2d(x, w, b, stride=2), (2, 4, 5, 5), (4, 6, 3, 3), (6,))


@sample("conv_tbc")
def _time_first() -> Sample:
    return Sample(lambda x, w, b, v: torch.conv_tbc(x, w, b, 1) @ v, (5, 2, 4), (3, 4, 6), (6,), (6, 3))


@sample("convolution")
def _one_dimensional() -> Sample:
    return Sample(lambda x, w: torch.conv1d(x, w), (2, 4, 9), (6, 4, 3))
