"""Concatenation: one dimension is the sum of others, all the others are equal.

cat([a, b], 1)    out.1 = a.1 + b.1           stack    a new frozen dimension
pad(a, (l, r))    out = l + a + r, where l and r are frozen parts
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.core.space import Space, concat, constant, is_frozen, window
from secateur.torch.rules.protocol import STACKED, Trace
from secateur.torch.rules.registry import Sample, rule, sample


@rule("cat", "concat", "_cat")
def cat(trace: Trace, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
    tensors = [t for t in tensors if not (t.dim() == 1 and t.shape[0] == 0 and out.dim() != 1)]
    dim %= out.dim()
    spaces, zero = _shared(trace, tensors, out.dim(), skip=dim)
    spaces[dim] = concat([_part(trace.spaces(t)[dim]) for t in tensors])
    zero[dim] = all(trace.zero(t)[dim] or is_frozen(trace.spaces(t)[dim]) for t in tensors)
    trace.put(out, spaces, zero)


def _part(space: Space) -> Space:
    """A part of size one must not vanish from a sum."""
    return space if space.root().size != 1 else constant(1, "a single part")


def _shared(trace: Trace, tensors: Sequence[Tensor], num_dims: int, skip: int = -1) -> tuple[list[Space], list[bool]]:
    spaces, zero = list(trace.spaces(tensors[0])), list(trace.zero(tensors[0]))
    for tensor in tensors[1:]:
        for i in range(num_dims):
            if i != skip:
                spaces[i] = trace.same(spaces[i], trace.spaces(tensor)[i])
                zero[i] = zero[i] and trace.zero(tensor)[i]
    return spaces, zero


@rule("stack")
def stack(trace: Trace, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
    spaces, zero = _shared(trace, tensors, out.dim() - 1)
    place = dim % out.dim()
    spaces.insert(place, constant(len(tensors), STACKED))
    zero.insert(place, False)
    trace.put(out, spaces, zero)


@rule("constant_pad_nd")
def pad(trace: Trace, out: Tensor, x: Tensor, widths: Sequence[int], value: float = 0) -> None:
    spaces, zero = list(trace.spaces(x)), list(trace.zero(x))
    for i in range(len(widths) // 2):
        dim, left, right = x.dim() - 1 - i, widths[2 * i], widths[2 * i + 1]
        if left == right == 0:
            continue
        if left < 0 or right < 0:
            size = spaces[dim].root().size
            spaces[dim] = window(spaces[dim], max(-left, 0), size - max(-right, 0))
            left, right = max(left, 0), max(right, 0)
        ends = [constant(n, "padding") for n in (left, right)]
        if is_frozen(spaces[dim]):
            spaces[dim] = constant(out.shape[dim], "padding")
        else:
            spaces[dim] = concat([ends[0], spaces[dim], ends[1]])
    if value != 0:
        zero = [False] * len(zero)
    trace.put(out, spaces, zero)


@sample("cat", "stack")
def _cat() -> Sample:
    return Sample(lambda a, b: torch.cat([a, b, a], 1) @ torch.stack([b, b]).sum(0).t().new_ones(14, 3), (3, 4), (3, 6))


@sample("constant_pad_nd")
def _pad() -> Sample:
    return Sample(lambda a: torch.nn.functional.pad(a, (1, 2)), (3, 4))
