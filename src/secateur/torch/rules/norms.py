"""Normalisations. A statistic over a dimension makes that dimension inexact; the scale and shift carry it.

batch norm   statistics over everything but channels          channels exact
layer norm   statistics over the normalised dimensions        these inexact
group norm   statistics over the channels of a group          groups exact, channels inside inexact
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.core.space import ONE, constant, is_frozen, mark_inexact, split
from secateur.torch.rules.protocol import Trace
from secateur.torch.rules.registry import Sample, rule, sample


@rule(
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update",
    "_batch_norm_no_update",
)
def batch_norm(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    *rest: object,
) -> None:
    spaces = list(trace.spaces(x))
    buffers = [t for t in (mean, variance) if isinstance(t, Tensor)]
    if not buffers or True in rest[:1]:
        for space in (spaces[0], *spaces[2:]):
            trace.statistic(space)
    else:  # it is exact as it runs here, but the network must train, too
        for space in (spaces[0], *spaces[2:]):
            mark_inexact(space, f"in training a statistic runs over it in {trace.where}")
    for space in spaces[2:]:
        if not is_frozen(space):
            # one number has no spread: PyTorch trains on none, and one sample may be all there is
            trace.at_least(space, 2)
    for tensor in [t for t in (weight, bias) if t is not None] + buffers:
        spaces[1] = trace.same(spaces[1], trace.spaces(tensor)[0])
    shifts_zero = all(trace.zero(t)[0] for t in (bias, *buffers[:1]) if isinstance(t, Tensor))
    scaled = weight is not None and trace.zero(weight)[0] and (bias is None or trace.zero(bias)[0])
    zero = [False] * x.dim()
    zero[1] = scaled or (weight is None and trace.zero(x)[1] and shifts_zero)
    trace.put(out[0], spaces, zero)
    for other in out[1:]:
        if other.dim() == 1 and other.shape[0] == x.shape[1]:
            trace.put(other, [spaces[1]])
        else:
            trace.keep_whole(other)


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | float | None = None,
    *rest: object,
) -> None:
    affine = [t for t in (weight, bias) if isinstance(t, Tensor)]
    spaces, zero = list(trace.spaces(x)), list(trace.zero(x))
    num_normalised = len(shape)
    for back in range(1, num_normalised + 1):
        trace.statistic(spaces[-back])
        for tensor in affine:
            spaces[-back] = trace.same(spaces[-back], trace.spaces(tensor)[-back])
        zero[-back] = bool(affine) and all(trace.zero(t)[-back] for t in affine)
    if isinstance(bias, Tensor):
        zero[: x.dim() - num_normalised] = [False] * (x.dim() - num_normalised)
    results = list(out) if isinstance(out, (tuple, list)) else [out]
    trace.put(results[0], spaces, zero)
    for other in results[1:]:
        trace.put(other, [s if other.shape[i] != 1 else constant(1, ONE) for i, s in enumerate(spaces[: other.dim()])])


@rule("native_group_norm")
def group_norm(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    num: int,
    channels: int,
    area: int,
    groups: int,
    epsilon: float,
) -> None:
    spaces = list(trace.spaces(x))
    affine = [t for t in (weight, bias) if isinstance(t, Tensor)]
    for tensor in affine:
        spaces[1] = trace.same(spaces[1], trace.spaces(tensor)[0])
    pieces = split(spaces[1], (groups, channels // groups))
    if pieces is None:
        raise ValueError("the channels cannot be seen as groups")
    trace.statistic(pieces[1])
    if area == 1 and channels > groups:
        # one number has no spread: PyTorch refuses a batch of one, and gives zero otherwise
        trace.at_least(pieces[1], 2)
    for space in spaces[2:]:
        trace.statistic(space)
    zero = [False] * x.dim()
    zero[1] = all(trace.zero(t)[0] for t in affine) if affine else False
    trace.put(out[0], spaces, zero)
    for other in out[1:]:
        trace.put(other, [spaces[0], pieces[0]])


@rule("_weight_norm_interface", "_weight_norm")
def weight_norm(trace: Trace, out: Tensor, v: Tensor, g: Tensor, dim: int = 0) -> None:
    """``g · v / ‖v‖`` with one norm for each index of ``dim``."""
    spaces, zero = list(trace.spaces(v)), list(trace.zero(v))
    axis = dim if g.dim() == v.dim() else 0
    if g.shape[axis] == v.shape[axis] != 1:
        spaces[axis] = trace.same(spaces[axis], trace.spaces(g)[axis])
        mark_inexact(spaces[axis], "its weight's norm is zero where it is masked")
    results = list(out) if isinstance(out, (tuple, list)) else [out]
    trace.put(results[0], spaces, zero)
    for other in results[1:]:
        trace.put(other, trace.spaces(g))


@sample("native_batch_norm")
def _batch_norm() -> Sample:
    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.nn.functional.batch_norm(x, torch.zeros(x.shape[1]), torch.ones(x.shape[1]), w, b)

    return Sample(function, (3, 4, 5, 5), (4,), (4,))


@sample("native_layer_norm")
def _layer_norm() -> Sample:
    return Sample(lambda x, w, b: torch.nn.functional.layer_norm(x, x.shape[-1:], w, b), (3, 4, 6), (6,), (6,))


@sample("native_group_norm")
def _group_norm() -> Sample:
    return Sample(lambda x, w, b: torch.group_norm(x, 2, w, b), (3, 8, 5, 5), (8,), (8,))
