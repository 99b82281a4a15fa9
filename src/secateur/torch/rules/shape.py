"""Views: the same numbers with dimensions merged, split, moved, added or repeated.

    [B, T, H·D] --view--> [B, T, H, D]      H·D is the product of H and D
    [B, 1, C] --expand--> [B, R, C]         R is a new dimension

Invariant: where a view regroups dimensions in a way the algebra cannot follow, they are frozen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.core.space import ONE, Form, Space, constant, freeze, leaves, merge, split
from secateur.torch.rules.protocol import SPATIAL, Dims, Trace
from secateur.torch.rules.registry import Sample, rule, sample


@rule(
    "view",
    "reshape",
    "_unsafe_view",
    "_reshape_alias",
    "_reshape_copy",
    "_reshape_alias_copy",
    "view_copy",
    "unflatten",
    "flatten",
)
def view(trace: Trace, out: Tensor, x: Tensor, *args: object) -> None:
    if args and isinstance(args[0], torch.dtype):
        raise NotImplementedError("a view as another dtype")
    regroup(trace, out, x)


def regroup(trace: Trace, out: Tensor, x: Tensor) -> None:
    """Match runs of old dimensions with runs of new ones of equal total size, left to right."""
    if out.numel() == 0:
        trace.put(out, [constant(n, "an empty tensor") for n in out.shape])
        return
    old_spaces, old_zero = trace.spaces(x), trace.zero(x)
    spaces: list[Space] = []
    zero: list[bool] = []
    for olds, news in _runs(tuple(x.shape), tuple(out.shape)):
        pieces = _regroup_run(trace, [old_spaces[i] for i in olds], [out.shape[j] for j in news])
        clean = all(old_zero[i] for i in olds if x.shape[i] != 1) and bool(olds)
        spaces.extend(pieces)
        zero.extend(clean and p.root().size != 1 for p in pieces)
    trace.put(out, spaces, zero)


def _runs(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        if i < len(old) and j < len(new) and old[i] == new[j]:
            runs.append(([i], [j]))
            i, j = i + 1, j + 1
        elif j < len(new) and new[j] == 1:
            runs.append(([], [j]))
            j += 1
        elif i < len(old) and old[i] == 1:
            i += 1
        else:
            olds, news = [i], [j]
            total_old, total_new = old[i], new[j]
            i, j = i + 1, j + 1
            while total_old != total_new:
                if total_old < total_new:
                    total_old *= old[i]
                    olds.append(i)
                    i += 1
                else:
                    total_new *= new[j]
                    news.append(j)
                    j += 1
            runs.append((olds, news))
    return runs


def _regroup_run(trace: Trace, olds: list[Space], sizes: list[int]) -> list[Space]:
    if not olds:
        return [constant(1, ONE) for _ in sizes]
    if len(sizes) == 1:
        return [merge(olds)]
    pieces = split(merge(olds), sizes)
    if pieces is None:
        reason = f"regrouped in {trace.where}"
        for space in olds:
            freeze(space, reason)
        return [constant(n, reason if n != 1 else ONE) for n in sizes]
    return pieces


@rule("t", "t_copy", "numpy_T", "adjoint", "mT")
def t(trace: Trace, out: Tensor, x: Tensor) -> None:
    trace.put(out, trace.spaces(x)[::-1], trace.zero(x)[::-1])


@rule("transpose", "swapaxes", "transpose_copy")
def transpose(trace: Trace, out: Tensor, x: Tensor, a: int, b: int) -> None:
    order = list(range(x.dim()))
    if order:
        order[a], order[b] = order[b], order[a]
    _reorder(trace, out, x, order)


@rule("permute", "permute_copy")
def permute(trace: Trace, out: Tensor, x: Tensor, order: Sequence[int]) -> None:
    _reorder(trace, out, x, list(order))


def _reorder(trace: Trace, out: Tensor, x: Tensor, order: list[int]) -> None:
    spaces, zero = trace.spaces(x), trace.zero(x)
    trace.put(out, [spaces[d] for d in order], [zero[d] for d in order])


@rule("unsqueeze", "unsqueeze_copy")
def unsqueeze(trace: Trace, out: Tensor, x: Tensor, dim: int) -> None:
    spaces, zero = list(trace.spaces(x)), list(trace.zero(x))
    place = dim % out.dim()
    spaces.insert(place, constant(1, ONE))
    zero.insert(place, False)
    trace.put(out, spaces, zero)


def _hold_above_one(space: Space) -> None:
    """A dimension of size one would be another thing here: the largest leaf of it keeps two units."""
    top = space.root()
    free = [leaf for leaf in leaves(top) if not leaf.frozen and leaf.size > 1]
    if free and top.form is not Form.SUM:
        largest = max(free, key=lambda leaf: leaf.size)
        largest.least = max(largest.least, 2)


@rule("squeeze", "squeeze_copy")
def squeeze(trace: Trace, out: Tensor, x: Tensor, dim: Dims = None) -> None:
    sizes = [space.root().size for space in trace.spaces(x)]  # in place, x itself has lost them by now
    dims = range(len(sizes)) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {d % max(len(sizes), 1) for d in dims if sizes and sizes[d] == 1}
    for d in dims if sizes else ():
        if sizes[d] > 1:
            _hold_above_one(trace.spaces(x)[d])
    stay = [i for i in range(len(sizes)) if i not in gone]
    _reorder(trace, out, x, stay)


@rule("expand", "expand_copy", "broadcast_to")
def expand(trace: Trace, out: Tensor, x: Tensor, *args: object, **kwargs: object) -> None:
    ahead = out.dim() - x.dim()
    spaces, zero = [], []
    for i, n in enumerate(out.shape):
        same = i >= ahead and x.shape[i - ahead] == n
        spaces.append(trace.spaces(x)[i - ahead] if same else constant(1, ONE) if n == 1 else Space(n))
        zero.append(same and trace.zero(x)[i - ahead])
    trace.put(out, spaces, zero)


@rule("repeat", "tile")
def repeat(trace: Trace, out: Tensor, x: Tensor, counts: Sequence[int]) -> None:
    ahead = out.dim() - x.dim()
    spaces, zero = [], []
    for i in range(out.dim()):
        one = trace.spaces(x)[i - ahead] if i >= ahead else constant(1, ONE)
        count = out.shape[i] // max(one.root().size, 1)
        spaces.append(one if count == 1 else merge([Space(count), one]))
        zero.append(i >= ahead and count == 1 and trace.zero(x)[i - ahead])
    trace.put(out, spaces, zero)


def _freeze_spatial(trace: Trace, x: Tensor, num: int) -> None:
    for space in trace.spaces(x)[x.dim() - num :]:
        freeze(space, SPATIAL)


@rule("pixel_shuffle")
def pixel_shuffle(trace: Trace, out: Tensor, x: Tensor, factor: int) -> None:
    _freeze_spatial(trace, x, 2)
    pieces = split(trace.spaces(x)[-3], (out.shape[-3], factor * factor))
    if pieces is None:
        raise ValueError("channels do not factor")
    freeze(pieces[1], "pixel shuffle")
    spatial = [constant(n, SPATIAL) for n in out.shape[-2:]]
    trace.put(out, [*trace.spaces(x)[:-3], pieces[0], *spatial], [*trace.zero(x)[:-2], False, False])


@rule("pixel_unshuffle")
def pixel_unshuffle(trace: Trace, out: Tensor, x: Tensor, factor: int) -> None:
    _freeze_spatial(trace, x, 2)
    channels = merge([trace.spaces(x)[-3], constant(factor * factor, "pixel unshuffle")])
    spatial = [constant(n, SPATIAL) for n in out.shape[-2:]]
    trace.put(out, [*trace.spaces(x)[:-3], channels, *spatial], [*trace.zero(x)[:-2], False, False])


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(trace: Trace, out: Tensor, x: Tensor, groups: int) -> None:
    pieces = split(trace.spaces(x)[1], (groups, x.shape[1] // groups))
    if pieces is None:
        raise ValueError("channels do not factor")
    freeze(pieces[0], "the groups of a shuffle")
    trace.put(out, [trace.spaces(x)[0], merge(pieces[::-1]), *trace.spaces(x)[2:]], trace.zero(x))


@rule("im2col")
def im2col(trace: Trace, out: Tensor, x: Tensor, kernel: Sequence[int], *args: object) -> None:
    _freeze_spatial(trace, x, 2)
    area = constant(math.prod(kernel), "kernel")
    spaces = [*trace.spaces(x)[:-3], merge([trace.spaces(x)[-3], area]), constant(out.shape[-1], SPATIAL)]
    trace.put(out, spaces, [*trace.zero(x)[:-2], False])


@rule("col2im")
def col2im(trace: Trace, out: Tensor, x: Tensor, size: Sequence[int], kernel: Sequence[int], *args: object) -> None:
    _freeze_spatial(trace, x, 1)
    pieces = split(trace.spaces(x)[-2], (out.shape[-3], math.prod(kernel)))
    if pieces is None:
        raise ValueError("channels do not factor")
    freeze(pieces[1], "kernel")
    spatial = [constant(n, SPATIAL) for n in out.shape[-2:]]
    trace.put(out, [*trace.spaces(x)[:-2], pieces[0], *spatial], [*trace.zero(x)[:-1], False, False])


@rule("unfold", "unfold_copy")
def unfold(trace: Trace, out: Tensor, x: Tensor, dim: int, size: int, step: int) -> None:
    spaces, zero = list(trace.spaces(x)), list(trace.zero(x))
    place = dim % x.dim()
    freeze(spaces[place], "a sliding window runs over it")
    spaces[place], zero[place] = constant(out.shape[place], "windows"), False
    trace.put(out, [*spaces, constant(size, "window")], [*zero, False])


@rule("as_strided", "as_strided_copy")
def as_strided(trace: Trace, out: Tensor, x: Tensor, size: Sequence[int], steps: Sequence[int], *args: object) -> None:
    """The same sizes in the same steps are the same view; anything else is not understood."""
    if not _is_view(size, steps, x.shape, x.stride()):
        raise NotImplementedError("an arbitrary strided view")
    trace.put(out, trace.spaces(x), trace.zero(x))


@rule("as_strided_")
def as_strided_(trace: Trace, out: Tensor, x: Tensor, size: Sequence[int], steps: Sequence[int], *args: object) -> None:
    """As pooling down to one place writes it: the same sizes, row after row. The steps of before are gone by now."""
    whole = tuple(space.root().size for space in trace.spaces(x))
    in_rows = torch.empty(tuple(size), device="meta").stride()
    if not _is_view(size, steps, whole, in_rows):
        raise NotImplementedError("memory seen in other steps from now on")
    trace.put(out, trace.spaces(x), trace.zero(x))


def _is_view(size: Sequence[int], steps: Sequence[int], of: Sequence[int], in_steps: Sequence[int]) -> bool:
    """Whether these are the sizes and steps of something; the step of a size of one leads nowhere."""
    return tuple(size) == tuple(of) and all(a == b for a, b, n in zip(steps, in_steps, size, strict=True) if n > 1)


@rule("resize_", "resize_as_", "resize", "resize_as")
def resize(trace: Trace, out: Tensor, x: Tensor, *args: object, **kwargs: object) -> None:
    """What has its size already stays what it is; what had none holds nothing yet."""
    sizes = tuple(space.root().size for space in trace.spaces(x))
    if sizes == tuple(out.shape):
        trace.put(out, trace.spaces(x), trace.zero(x))
    elif 0 in sizes:
        model = next((a for a in args if isinstance(a, Tensor)), None)
        trace.put(out, trace.spaces(model) if model is not None else [_new(n) for n in out.shape])
    else:
        raise NotImplementedError("memory laid out anew")


def _new(size: int) -> Space:
    return Space(size) if size != 1 else constant(1, ONE)


@rule("diagonal", "diagonal_copy")
def diagonal(trace: Trace, out: Tensor, x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> None:
    if offset or x.shape[dim1] != x.shape[dim2]:
        raise NotImplementedError("an off-centre diagonal")
    a, b = dim1 % x.dim(), dim2 % x.dim()
    both = trace.same(trace.spaces(x)[a], trace.spaces(x)[b])
    stay = [i for i in range(x.dim()) if i not in (a, b)]
    spaces = [trace.spaces(x)[i] for i in stay]
    trace.put(out, [*spaces, both], [trace.zero(x)[i] for i in stay] + [trace.zero(x)[a] or trace.zero(x)[b]])


@rule("view_as_real", "view_as_complex", "view_as_real_copy", "view_as_complex_copy")
def view_as_parts(trace: Trace, out: Tensor, x: Tensor) -> None:
    """Pairs of numbers as complex numbers, and back: the pair is a frozen innermost dimension."""
    if x.is_complex():
        trace.put(out, [*trace.spaces(x), constant(2, "a complex number's parts")], [*trace.zero(x), False])
    else:
        freeze(trace.spaces(x)[-1], "a complex number's parts")
        trace.align_memory(x, 2)
        trace.put(out, trace.spaces(x)[:-1], trace.zero(x)[:-1])


@sample("view", "transpose", "permute", "clone")
def _view() -> Sample:
    return Sample(lambda x: x.view(3, 4, 2, 5).transpose(1, 2).permute(3, 0, 1, 2).reshape(5, 3, 8), (3, 8, 5))


@sample("expand", "unsqueeze", "squeeze")
def _expand() -> Sample:
    return Sample(lambda x, y: (x.unsqueeze(1).expand(-1, y.shape[0], -1) * y.unsqueeze(0)).sum(0), (3, 4), (5, 4))


@sample("squeeze", "resize_")
def _in_place() -> Sample:
    def function(x: Tensor, w: Tensor) -> Tensor:
        y = torch.empty(0).resize_as_(x).copy_(x).unsqueeze_(1).transpose_(0, 1).squeeze_(0)
        return y.detach().clone().resize_(x.shape[0], x.shape[1]).t_().unsqueeze_(-1).squeeze_().t_() @ w

    return Sample(function, (3, 4), (4, 5))


@sample("pixel_shuffle", "pixel_unshuffle", "repeat")
def _pixel_shuffle() -> Sample:
    return Sample(lambda x: torch.pixel_unshuffle(torch.pixel_shuffle(x, 2), 2), (2, 8, 4, 4))


@sample("im2col", "col2im")
def _im2col() -> Sample:
    def function(x: Tensor) -> Tensor:
        return torch.nn.functional.fold(torch.nn.functional.unfold(x, 3, padding=1), (5, 5), 3, padding=1)

    return Sample(function, (2, 4, 5, 5))
