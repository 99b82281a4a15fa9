"""Parts of a dimension: slices, chunks, single indices.

x[:, a:b]   the part [a:b] of a sum        x[..., ::2]   a product with a frozen inner factor
x[:, 3]     freezes what it indexes        unbind        likewise
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.core.space import Space, constant, freeze, is_frozen, split, window
from secateur.torch.rules.protocol import Trace
from secateur.torch.rules.registry import Sample, rule, sample


@rule("slice", "slice_copy")
def slice_(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> None:
    dim %= x.dim()
    first, last, _ = slice(start, end).indices(x.shape[dim])
    if step == 1:
        _replace(trace, out, x, dim, window(trace.spaces(x)[dim], first, last))
        if 0 < first < last:
            trace.starts_after(window(trace.spaces(x)[dim], 0, first))
    else:
        _replace(trace, out, x, dim, _strided(trace, trace.spaces(x)[dim], first, last, step, out.shape[dim]))


def _strided(trace: Trace, space: Space, first: int, last: int, step: int, count: int) -> Space:
    if is_frozen(space):
        return constant(count, "a constant in the code")
    size = space.root().size
    if first < step and last == size and size % step == 0:
        pieces = split(space, (size // step, step))
        if pieces is not None:
            freeze(pieces[1], "interleaved")
            return pieces[0]
    freeze(space, f"strided slice in {trace.where}")
    return constant(count, "strided slice")


def _replace(trace: Trace, out: Tensor, x: Tensor, dim: int, space: Space) -> None:
    spaces = list(trace.spaces(x))
    spaces[dim] = space
    trace.put(out, spaces, trace.zero(x))


@rule("narrow", "narrow_copy")
def narrow(trace: Trace, out: Tensor, x: Tensor, dim: int, start: int, length: int) -> None:
    dim %= x.dim()
    start = start % x.shape[dim] if start < 0 else start
    _replace(trace, out, x, dim, window(trace.spaces(x)[dim], start, start + length))


@rule("select", "select_copy")
def select(trace: Trace, out: Tensor, x: Tensor, dim: int, index: int) -> None:
    _drop(trace, [out], x, dim, "a single index of it is taken")


@rule("unbind", "unbind_copy")
def unbind(trace: Trace, out: Tensor, x: Tensor, dim: int = 0) -> None:
    _drop(trace, list(out), x, dim, "it is unbound")


def _drop(trace: Trace, outs: list[Tensor], x: Tensor, dim: int, reason: str) -> None:
    dim %= x.dim()
    indexed = trace.spaces(x)[dim]
    spaces = [s for i, s in enumerate(trace.spaces(x)) if i != dim]
    zero = [z for i, z in enumerate(trace.zero(x)) if i != dim]
    for out in outs:
        trace.put(out, spaces, zero)
        trace.freeze_when_read(out, indexed, f"{reason} in {trace.where}")


@rule("select_scatter")
def select_scatter(trace: Trace, out: Tensor, x: Tensor, source: Tensor, dim: int, index: int) -> None:
    """A copy in which a single index of a dimension is written anew."""
    dim %= x.dim()
    freeze(trace.spaces(x)[dim], f"a single index of it is written in {trace.where}")
    spaces, zero = list(trace.spaces(x)), list(trace.zero(x))
    for place, other in zip((i for i in range(x.dim()) if i != dim), range(source.dim()), strict=True):
        spaces[place] = trace.same(spaces[place], trace.spaces(source)[other])
        zero[place] = zero[place] and trace.zero(source)[other]
    trace.put(out, spaces, zero)


@rule("slice_scatter")
def slice_scatter(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    source: Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> None:
    """A copy in which a part of a dimension is written anew."""
    dim %= x.dim()
    first, last, _ = slice(start, end).indices(x.shape[dim])
    spaces = list(trace.spaces(x))
    if step == 1:
        trace.same(window(spaces[dim], first, last), trace.spaces(source)[dim])
    else:
        trace.same(_strided(trace, spaces[dim], first, last, step, source.shape[dim]), trace.spaces(source)[dim])
    for place in (i for i in range(x.dim()) if i != dim):
        spaces[place] = trace.same(spaces[place], trace.spaces(source)[place])
    trace.put(out, spaces, [a and b for a, b in zip(trace.zero(x), trace.zero(source), strict=True)])


@rule(
    "split",
    "split_with_sizes",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "chunk",
    "unsafe_chunk",
    "tensor_split",
    "split_copy",
    "split_with_sizes_copy",
)
def split_(trace: Trace, out: Tensor, x: Tensor, sizes: int | Sequence[int], dim: int = 0) -> None:
    dim %= x.dim()
    start = 0
    for part in out:
        stop = start + part.shape[dim]
        _replace(trace, part, x, dim, window(trace.spaces(x)[dim], start, stop))
        start = stop


@sample("slice", "split", "cat")
def _split() -> Sample:
    def function(x: Tensor) -> Tensor:
        a, b, c = x.split([2, 4, 4], dim=1)
        return torch.cat([b * c, a, x[:, 2:6]], dim=1)

    return Sample(function, (3, 10))


@sample("select_scatter", "slice_scatter")
def _scatters() -> Sample:
    def function(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return x.select_scatter(y, 0, 1).slice_scatter(z, 0, 1, 3).relu()

    return Sample(function, (4, 6), (6,), (2, 6))


@sample("select", "unbind")
def _unbind() -> Sample:
    def function(x: Tensor) -> Tensor:
        q, k = x.view(3, 2, 4).unbind(1)
        return q * k + x[0, :4]

    return Sample(function, (3, 8))


@sample("slice")
def _strided_slice() -> Sample:
    return Sample(lambda x: x[:, ::2] + x[:, 1::2], (3, 8))
