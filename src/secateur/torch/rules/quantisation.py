"""Fake quantisation: rounded to the steps of an integer grid, element by element, as training for integers does it.

    per tensor    one scale for all               per channel    a scale for each index of one axis: that axis is theirs

Zero is on every grid, so that removed units stay zero. A scale that follows what it sees is a statistic of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.core.space import ONE, Space, constant
from secateur.torch.rules.protocol import Outputs, Trace, tensors_of
from secateur.torch.rules.registry import Sample, rule, sample


@rule(
    "fake_quantize_per_tensor_affine_cachemask",
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "_fake_quantize_learnable_per_tensor_affine",
)
def per_tensor(trace: Trace, out: Outputs, x: Tensor, *args: object) -> None:
    _put(trace, out, trace.spaces(x), trace.zero(x))


@rule("fake_quantize_per_channel_affine_cachemask", "_fake_quantize_learnable_per_channel_affine")
def per_channel(
    trace: Trace, out: Outputs, x: Tensor, scale: Tensor, zero_point: Tensor, axis: int, *a: object
) -> None:
    spaces = list(trace.spaces(x))
    spaces[axis] = _shared(trace, spaces[axis], scale, zero_point)
    _put(trace, out, spaces, trace.zero(x))


@rule("_fused_moving_avg_obs_fq_helper", "fused_moving_avg_obs_fake_quant")
def observed(
    trace: Trace,
    out: Outputs,
    x: Tensor,
    observer_on: Tensor,
    quantised: Tensor,
    low: Tensor,
    high: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    averaging: float,
    first: int,
    last: int,
    axis: int,
    by_row: bool = False,
    *args: object,
) -> None:
    """It moves its scale by the least and the greatest that it sees."""
    spaces = list(trace.spaces(x))
    if by_row:
        spaces[axis] = _shared(trace, spaces[axis], low, high, scale, zero_point)
    for place, space in enumerate(spaces):
        if not (by_row and place == axis % x.dim()):
            trace.statistic(space)
    _put(trace, out, spaces, trace.zero(x))


def _shared(trace: Trace, space: Space, *of_it: Tensor) -> Space:
    """The axis of which each index has numbers of its own. Raises where these have not been observed yet."""
    for tensor in of_it:
        if tuple(tensor.shape) != (space.root().size,):
            raise ValueError("its scales are not those of the axis: run the model once before it is traced")
        space = trace.same(space, trace.spaces(tensor)[0])
    return space


def _put(trace: Trace, out: Outputs, spaces: list[Space], zero: list[bool]) -> None:
    spaces = [s if s.root().size != 1 else constant(1, ONE) for s in spaces]
    for place, result in enumerate(tensors_of(out)):
        trace.put(result, spaces, zero if place == 0 else None)  # the second says what was within the grid


@sample("fake_quantize_per_tensor_affine_cachemask")
def _per_tensor() -> Sample:
    return Sample(lambda x, w: torch.fake_quantize_per_tensor_affine(x @ w, 0.01, 3, -128, 127), (4, 5), (5, 6))


@sample("_fake_quantize_per_tensor_affine_cachemask_tensor_qparams")
def _by_tensors() -> Sample:
    def function(x: Tensor, w: Tensor) -> Tensor:
        scale, zero_point = torch.tensor([0.02]), torch.tensor([1], dtype=torch.int32)
        return torch.fake_quantize_per_tensor_affine(x @ w, scale, zero_point, -128, 127)

    return Sample(function, (4, 5), (5, 6))


@sample("fake_quantize_per_channel_affine_cachemask")
def _per_channel() -> Sample:
    def function(x: Tensor, w: Tensor, scale: Tensor) -> Tensor:
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
        return x @ torch.fake_quantize_per_channel_affine(w, scale.detach().abs() + 0.01, zero_point, 1, -128, 127)

    return Sample(function, (4, 5), (5, 6), (6,))


@sample("_fused_moving_avg_obs_fq_helper")
def _observed() -> Sample:
    def function(x: Tensor, w: Tensor) -> Tensor:
        on, none = torch.ones(1, dtype=torch.int64), torch.zeros(w.shape[0])
        kept = (on, on, none.clone(), none.clone(), none + 1, none.to(torch.int32), 0.01, -128, 127, 0, True)
        return x @ torch.fused_moving_avg_obs_fake_quant(w, *kept).T

    return Sample(function, (4, 5), (6, 5))
