"""Matrix products: the contracted dimensions are the same one.

    out[m, n] = sum over k of a[m, k] b[k, n]      a.k = b.k

Legend: m n free dimensions, k contracted, b batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.core.space import ONE, Space, constant, freeze
from secateur.torch.rules.protocol import Trace
from secateur.torch.rules.registry import FUNCTION_RULES, Sample, rule, sample


def _contract(trace: Trace, a: Tensor, i: int, b: Tensor, j: int) -> Space:
    space = trace.same(trace.spaces(a)[i], trace.spaces(b)[j])
    trace.contract(space, zero=trace.zero(a)[i] or trace.zero(b)[j])
    return space


@rule("mm")
def mm(trace: Trace, out: Tensor, a: Tensor, b: Tensor) -> None:
    k = _contract(trace, a, 1, b, 0)
    m, n = trace.spaces(a)[0], trace.spaces(b)[1]
    trace.multiply(1, m, k, n)
    trace.put(out, [m, n], [trace.zero(a)[0], trace.zero(b)[1]])


@rule("addmm")
def addmm(trace: Trace, out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **kwargs: object) -> None:
    k = _contract(trace, a, 1, b, 0)
    spaces, zero = [trace.spaces(a)[0], trace.spaces(b)[1]], [trace.zero(a)[0], trace.zero(b)[1]]
    trace.multiply(1, spaces[0], k, spaces[1])
    trace.put(out, *_add_bias(trace, spaces, zero, bias, **kwargs))


def _add_bias(
    trace: Trace, spaces: list[Space], zero: list[bool], bias: Tensor, *, beta: object = 1, **rest: object
) -> tuple[list[Space], list[bool]]:
    if beta == 0:  # not even read
        return spaces, zero
    for back in range(1, len(spaces) + 1):
        if bias.dim() >= back and bias.shape[-back] == spaces[-back].root().size:
            spaces[-back] = trace.same(spaces[-back], trace.spaces(bias)[-back])
            zero[-back] = zero[-back] and trace.zero(bias)[-back]
        else:
            zero[-back] = False
    return spaces, zero


@rule("bmm")
def bmm(trace: Trace, out: Tensor, a: Tensor, b: Tensor) -> None:
    k = _contract(trace, a, 2, b, 1)
    batch = trace.same(trace.spaces(a)[0], trace.spaces(b)[0])
    m, n = trace.spaces(a)[1], trace.spaces(b)[2]
    trace.multiply(1, batch, m, k, n)
    either = trace.zero(a)[0] or trace.zero(b)[0]
    trace.put(out, [batch, m, n], [either, trace.zero(a)[1], trace.zero(b)[2]])


@rule("baddbmm")
def baddbmm(trace: Trace, out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **kwargs: object) -> None:
    k = _contract(trace, a, 2, b, 1)
    batch = trace.same(trace.spaces(a)[0], trace.spaces(b)[0])
    spaces = [batch, trace.spaces(a)[1], trace.spaces(b)[2]]
    zero = [trace.zero(a)[0] or trace.zero(b)[0], trace.zero(a)[1], trace.zero(b)[2]]
    trace.multiply(1, *spaces, k)
    trace.put(out, *_add_bias(trace, spaces, zero, bias, **kwargs))


@rule("_trilinear")
def trilinear(
    trace: Trace,
    out: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    e1: Sequence[int],
    e2: Sequence[int],
    e3: Sequence[int],
    summed: Sequence[int],
    *r: object,
) -> None:
    """``a·b·c`` over unsqueezed operands, summed over some dimensions: what a bilinear layer becomes."""
    operands = []
    for tensor, extra in ((a, e1), (b, e2), (c, e3)):
        spaces, zero = list(trace.spaces(tensor)), list(trace.zero(tensor))
        for place in sorted(extra):
            spaces.insert(place, constant(1, ONE))
            zero.insert(place, False)
        operands.append((spaces, zero))
    shared, zeros = [], []
    for place in range(len(operands[0][0])):
        there = [(s[place], z[place]) for s, z in operands if s[place].root().size != 1]
        space = there[0][0] if there else constant(1, ONE)
        for other, _ in there[1:]:
            space = trace.same(space, other)
        shared.append(space)
        zeros.append(any(z for _, z in there))
    for place in summed:
        trace.contract(shared[place], zero=zeros[place])
    trace.multiply(1, *shared)
    rest = [i for i in range(len(shared)) if i not in summed]
    trace.put(out, [shared[i] for i in rest], [zeros[i] for i in rest])


@rule("mv")
def mv(trace: Trace, out: Tensor, a: Tensor, v: Tensor) -> None:
    k = _contract(trace, a, 1, v, 0)
    trace.multiply(1, trace.spaces(a)[0], k)
    trace.put(out, [trace.spaces(a)[0]], [trace.zero(a)[0]])


@rule("addmv")
def addmv(trace: Trace, out: Tensor, bias: Tensor, a: Tensor, v: Tensor, **kwargs: object) -> None:
    k = _contract(trace, a, 1, v, 0)
    trace.multiply(1, trace.spaces(a)[0], k)
    trace.put(out, *_add_bias(trace, [trace.spaces(a)[0]], [trace.zero(a)[0]], bias, **kwargs))


@rule("addr")
def addr(trace: Trace, out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **kwargs: object) -> None:
    """The outer product of two vectors, added to a matrix."""
    spaces, zero = [trace.spaces(a)[0], trace.spaces(b)[0]], [trace.zero(a)[0], trace.zero(b)[0]]
    trace.put(out, *_add_bias(trace, spaces, zero, bias, **kwargs))


@rule("addbmm")
def addbmm(trace: Trace, out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **kwargs: object) -> None:
    """The products of a batch, all added up."""
    k, batch = _contract(trace, a, 2, b, 1), _contract(trace, a, 0, b, 0)
    spaces, zero = [trace.spaces(a)[1], trace.spaces(b)[2]], [trace.zero(a)[1], trace.zero(b)[2]]
    trace.multiply(1, batch, *spaces, k)
    trace.put(out, *_add_bias(trace, spaces, zero, bias, **kwargs))


@rule("_sparse_addmm", "_sparse_mm")
def sparse_mm(trace: Trace, out: Tensor, *args: object, **kwargs: object) -> None:
    """A sparse matrix times a dense one; how many products that takes is told by what the matrix holds."""
    a, b = [t for t in args if isinstance(t, Tensor)][-2:]
    _contract(trace, a, 1, b, 0)
    spaces, zero = [trace.spaces(a)[0], trace.spaces(b)[1]], [trace.zero(a)[0], trace.zero(b)[1]]
    bias = args[0]
    if isinstance(bias, Tensor) and bias is not a:  # not read with ``beta=0``, but of this size all the same
        spaces, zero = _add_bias(trace, spaces, zero, bias)
    trace.put(out, spaces, zero)


@rule("dot", "vdot")
def dot(trace: Trace, out: Tensor, a: Tensor, b: Tensor) -> None:
    k = _contract(trace, a, 0, b, 0)
    trace.multiply(1, k)
    trace.put(out, [])


_OF_16_BITS = 8  # numbers in 16 bytes


@rule("_grouped_mm")
def grouped_mm(
    trace: Trace,
    out: Tensor,
    a: Tensor,
    b: Tensor,
    offsets: Tensor | None = None,
    *rest: object,
) -> None:
    """Rows of ``a`` in consecutive groups, each times its own matrix ``b[group]``. Rows must be multiples of 16 bytes."""
    if a.dim() != 2 or b.dim() != 3:
        raise NotImplementedError("only rows grouped against a stack of matrices")
    k = _contract(trace, a, 1, b, 1)
    n = trace.spaces(b)[2]
    freeze(trace.spaces(a)[0], f"rows are grouped by position in {trace.where}")
    if offsets is not None:
        trace.same(trace.spaces(offsets)[0], trace.spaces(b)[0])
    if offsets is None or trace.said(offsets, "offsets") is None:  # counted anew, they follow a narrower network
        freeze(trace.spaces(b)[0], f"rows are grouped by position in {trace.where}")
    for space in (k, n):
        # what runs in 16 bits as it is goes on to: networks are cast after they were narrowed, and trained under autocast
        casts = space.root().size % _OF_16_BITS == 0
        trace.align(space, _OF_16_BITS if casts else max(16 // a.element_size(), 1))
    trace.multiply(1, trace.spaces(a)[0], k, n)
    trace.put(out, [trace.spaces(a)[0], n], [False, trace.zero(b)[2]])


def linear(trace: Trace, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    """``x[…, i] weight[o, i] + bias[o]`` as one operator."""
    k = _contract(trace, x, x.dim() - 1, weight, weight.dim() - 1)
    spaces, zero = list(trace.spaces(x)[:-1]), list(trace.zero(x)[:-1])
    if bias is not None:
        zero = [False] * len(zero)
    if weight.dim() == 2:
        o, o_zero = trace.spaces(weight)[0], trace.zero(weight)[0]
        if bias is not None and bias.dim() and bias.shape[-1] == weight.shape[0]:
            o, o_zero = trace.same(o, trace.spaces(bias)[-1]), o_zero and trace.zero(bias)[-1]
        spaces.append(o)
        zero.append(o_zero)
        trace.multiply(1, *spaces, k)
    else:
        trace.multiply(1, *spaces, k)
    trace.put(out, spaces, zero)


def linear_shape(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The abstract result of a linear layer; raises where the real one would."""
    if x.shape[-1] != weight.shape[-1]:
        raise RuntimeError(f"linear: {tuple(x.shape)} does not fit a weight of {tuple(weight.shape)}")
    if bias is not None and bias.shape[-1] not in (1, weight.shape[0]):
        raise RuntimeError(f"linear: a bias of {tuple(bias.shape)} does not fit a weight of {tuple(weight.shape)}")
    if (
        x.dtype is not weight.dtype and not torch._C._is_any_autocast_enabled()
    ):  # which casts what has data, and nothing here
        raise RuntimeError(f"linear: {x.dtype} numbers and {weight.dtype} weights")
    return torch.empty((*x.shape[:-1], *weight.shape[:-1]), dtype=x.dtype, device="meta")


FUNCTION_RULES[torch.nn.functional.linear] = linear


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(trace: Trace, out: Tensor, weight: Tensor, indices: Tensor, offsets: Tensor, *a: object) -> None:
    freeze(trace.spaces(weight)[0], "vocabulary")
    result, *others = out
    trace.put(result, [constant(result.shape[0], "bags"), trace.spaces(weight)[1]], [False, trace.zero(weight)[1]])
    for other in others:
        trace.keep_whole(other)


@sample("mm", "addmm")
def _mm() -> Sample:
    return Sample(lambda a, b, c: torch.addmm(c, a, b), (3, 4), (4, 5), (5,))


@sample("bmm", "baddbmm")
def _bmm() -> Sample:
    return Sample(lambda a, b, c: torch.baddbmm(c, torch.bmm(a, b), a), (2, 4, 4), (2, 4, 4), (2, 4, 4))


@sample("linear")
def _linear() -> Sample:
    return Sample(torch.nn.functional.linear, (2, 3, 4), (5, 4), (5,))


@sample("mv", "dot")
def _mv() -> Sample:
    return Sample(lambda a, v, w: torch.mv(a, v) * torch.dot(v, w), (3, 4), (4,), (4,))


@sample("addmv", "addr", "addbmm")
def _added() -> Sample:
    def function(a: Tensor, v: Tensor, w: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return torch.addbmm(torch.addr(a, torch.addmv(w, a, v), v), b, c)

    return Sample(function, (3, 4), (4,), (3,), (2, 3, 5), (2, 5, 4))


@sample("_trilinear")
def _bilinear() -> Sample:
    return Sample(torch.nn.functional.bilinear, (3, 4), (3, 5), (6, 4, 5), (6,))
