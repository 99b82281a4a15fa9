"""Element by element: all operands have the same dimensions, but for broadcasting.

    y[..., c] = f(a[..., c], b[..., c])    ->    a.c = b.c = y.c

Whether removed units stay zero is asked of the operator itself: it is run once on zeros (for operands that are zero there)
beside arbitrary values (for those that are not).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from secateur.core.space import ONE, Space, constant, is_frozen, mark_inexact
from secateur.torch.rules.protocol import Operator, Outputs, Trace, tensors_of
from secateur.torch.rules.registry import Sample, rule, sample

Call = tuple[tuple[object, ...], dict[str, object]]  # arguments and keyword arguments

ZERO, NOT_ZERO, UNDEFINED = "zero", "not zero", "undefined"
_VALUES = (1.7, -0.6, 0.3, 2.5)
_probed: dict[object, str] = {}


@rule(
    torch.Tag.pointwise,
    "where",
    "to",
    "_to_copy",
    "clone",
    "detach",
    "alias",
    "lift_fresh",
    "contiguous",
    "copy",
    "masked_fill",
    "clamp",
    "clamp_min",
    "clamp_max",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "lerp",
    "addcmul",
    "addcdiv",
    "dropout",
    "native_dropout",
    "nan_to_num",
    "elu",
    "celu",
    "softplus",
    "softshrink",
    "hardshrink",
    "threshold",
    "log_sigmoid_forward",
    "_prelu_kernel",
    "fill",
    "zero",
    "conj",
    "_conj",
    "_conj_copy",
    "resolve_conj",
    "_neg_view",
    "_neg_view_copy",
    "resolve_neg",
    "alias_copy",
    "detach_copy",
    "lift",
    "lift_fresh_copy",
    "rsub",
    "bitwise_not",
    "floor_divide",
    "remainder",
    "fmod",
    "polar",
    "complex",
)
def pointwise(trace: Trace, out: Outputs, *args: object, **kwargs: object) -> None:
    """All tensor operands share their dimensions, right-aligned; dimensions of size one broadcast."""
    for result in _tensors(out):
        trace.put(result, *element_by_element(trace, result.shape, args, kwargs))


def element_by_element(
    trace: Trace, shape: Sequence[int], args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[list[Space], list[bool]]:
    """What a result of this shape is made of, and where it is zero at removed units; all operands are made one."""
    operands = [t for t in _tensors((args, kwargs)) if t.dim()]
    spaces: list[Space] = []
    zero: list[bool] = []
    for back in range(len(shape), 0, -1):
        there = [t for t in operands if t.dim() >= back and t.shape[-back] == shape[-back]]
        space, is_zero = _along(trace, shape[-back], back, there, (args, kwargs), operands)
        spaces.append(space)
        zero.append(is_zero)
    return spaces, zero


def _along(
    trace: Trace, size: int, back: int, there: list[Tensor], call: Call, operands: list[Tensor]
) -> tuple[Space, bool]:
    if size == 1:
        return constant(1, ONE), False
    if not there:
        return constant(size, "a constant in the code"), False
    space = trace.spaces(there[0])[-back]
    for other in there[1:]:
        space = trace.same(space, trace.spaces(other)[-back])
    if is_frozen(space):
        return space, False
    zeros = tuple(any(t is u for u in there) and trace.zero(t)[-back] for t in operands)
    verdict = at_zero(trace.operator, call, operands, zeros)
    if verdict == UNDEFINED:
        mark_inexact(space, f"{trace.where} is not defined at zero")
    return space, verdict == ZERO


def at_zero(operator: Operator, call: Call, operands: list[Tensor], zeros: tuple[bool, ...]) -> str:
    """What an operator gives where these operands are zero and the others are anything."""
    name = getattr(operator, "_schema", operator)
    if getattr(name, "name", "") in ("aten::zero_", "aten::zero"):
        return ZERO
    if torch.Tag.nondeterministic_seeded in getattr(operator, "tags", ()):
        return NOT_ZERO
    key = (operator, zeros, tuple(t.dtype for t in operands), _scalars(call))
    known = _probed.get(key)
    if known is None:
        known = _probed[key] = _probe(operator, call, operands, zeros)
    return known


def _probe(operator: Operator, call: Call, operands: list[Tensor], zeros: tuple[bool, ...]) -> str:
    args, kwargs = call
    known_zero = {id(t) for t, is_zero in zip(operands, zeros, strict=True) if is_zero}
    order = itertools.count()

    def stand_in(leaf: object) -> object:
        if isinstance(leaf, Tensor):
            if leaf.dim() == 0 and not leaf.is_meta:
                return leaf.clone()
            return _stand_in(leaf.dtype, id(leaf) in known_zero, next(order))
        if isinstance(leaf, (list, tuple)):
            return [stand_in(item) for item in leaf]
        return leaf

    try:
        with _disable_current_modes():
            cleaned = {k: v for k, v in kwargs.items() if k not in ("device", "memory_format", "layout", "pin_memory")}
            out = operator(*(stand_in(a) for a in args), **{k: stand_in(v) for k, v in cleaned.items()})
            result = tensors_of(out)[0]
            if not bool(torch.isfinite(result.to(torch.float64) if not result.is_complex() else result.abs()).all()):
                return UNDEFINED if any(zeros) else NOT_ZERO  # √ of a negative stand-in says nothing about zero
            return ZERO if not bool((result != 0).any()) else NOT_ZERO
    except Exception:
        return NOT_ZERO


def _stand_in(dtype: torch.dtype, zero: bool, place: int) -> Tensor:
    if zero:
        return torch.zeros(4, dtype=dtype)
    rolled = _VALUES[place % 4 :] + _VALUES[: place % 4]
    if dtype == torch.bool:
        return torch.tensor([True, False, True, False])
    return torch.tensor(rolled).to(dtype) if dtype.is_floating_point or dtype.is_complex else torch.tensor([1, 2, 3, 1])


def _scalars(tree: object) -> object:
    if isinstance(tree, Tensor):
        return float(tree) if tree.dim() == 0 and not tree.is_meta else "tensor"
    if isinstance(tree, (tuple, list)):
        return tuple(_scalars(item) for item in tree)
    if isinstance(tree, dict):
        return tuple((k, _scalars(v)) for k, v in tree.items())
    return tree if isinstance(tree, (int, float, bool, str)) else str(tree)


def _tensors(tree: object) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, (tuple, list)):
        return [t for item in tree for t in _tensors(item)]
    if isinstance(tree, dict):
        return [t for item in tree.values() for t in _tensors(item)]
    return []


@rule("rrelu_with_noise", "rrelu_with_noise_functional")
def rrelu(trace: Trace, out: Outputs, x: Tensor, noise: Tensor, *args: object) -> None:
    """A leaky relu, whose slope is drawn while it trains: zero stays zero."""
    spaces = [trace.same(a, b) for a, b in zip(trace.spaces(x), trace.spaces(noise), strict=True)]
    for result in tensors_of(out):
        trace.put(result, spaces, trace.zero(x))


@rule("copy_")
def copy_(trace: Trace, out: Tensor, target: Tensor, source: Tensor, *args: object) -> None:
    """The source is written over the target: dimensions agree, values are the source's."""
    spaces, zero = list(trace.spaces(target)), [False] * target.dim()
    for back in range(1, min(source.dim(), target.dim()) + 1):
        if source.shape[-back] == target.shape[-back] != 1:
            spaces[-back] = trace.same(spaces[-back], trace.spaces(source)[-back])
            zero[-back] = trace.zero(source)[-back]
    trace.put(out, spaces, zero)


@sample("add", "relu", "mul")
def _add() -> Sample:
    return Sample(lambda a, b: torch.relu(a + b) * a, (5, 6), (6,))


@sample("rrelu_with_noise")
def _rrelu() -> Sample:
    return Sample(lambda a, w: torch.nn.functional.rrelu(a).abs_().ge_(0.3) @ w, (5, 6), (6, 4))


@sample("sigmoid", "where", "div")
def _sigmoid() -> Sample:
    return Sample(lambda a, b: torch.where(a > 0, torch.sigmoid(a), b / 3), (5, 6), (5, 6))
