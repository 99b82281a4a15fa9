"""Reductions and scans along a dimension.

sum     exact where removed units are zero         mean, max, var, softmax, …   a statistic: inexact
cumsum, cumprod, …   the order of units: frozen
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.core.space import ONE, constant, cut, freeze
from secateur.torch.rules.pointwise import pointwise
from secateur.torch.rules.protocol import Dims, Outputs, Trace, tensors_of
from secateur.torch.rules.registry import Sample, rule, sample

_KEEPS_ZERO = {
    "sum",
    "mean",
    "amax",
    "amin",
    "max",
    "min",
    "var",
    "std",
    "norm",
    "linalg_vector_norm",
    "linalg__powsum",
    "prod",
    "nansum",
    "count_nonzero",
}
_WITH_POSITIONS = {"max", "min", "median", "nanmedian", "mode"}


def _dims(x: Tensor, dim: Dims) -> set[int]:
    if dim is None or dim == []:
        return set(range(x.dim()))
    return {d % max(x.dim(), 1) for d in ([dim] if isinstance(dim, int) else dim)}


def _reduce(trace: Trace, out: Outputs, x: Tensor, dims: set[int], *, adds: bool) -> None:
    name = trace.name
    for dim in dims:
        if adds:
            trace.contract(trace.spaces(x)[dim], zero=trace.zero(x)[dim])
        else:
            trace.statistic(trace.spaces(x)[dim])
    for result in tensors_of(out):
        if result.dim() == x.dim() and x.dim():
            spaces = [constant(1, ONE) if i in dims else s for i, s in enumerate(trace.spaces(x))]
            zero = [i not in dims and z for i, z in enumerate(trace.zero(x))]
        else:
            spaces = [s for i, s in enumerate(trace.spaces(x)) if i not in dims]
            zero = [z for i, z in enumerate(trace.zero(x)) if i not in dims]
        trace.put(result, spaces, zero if name in _KEEPS_ZERO else None)


@rule("sum", "nansum", "count_nonzero")
def sum_(trace: Trace, out: Tensor, x: Tensor, dim: Dims = None, keepdim: bool = False, **kwargs: object) -> None:
    _reduce(trace, out, x, _dims(x, dim), adds=True)


@rule("linalg_vector_norm", "linalg__powsum", "norm", "native_norm")
def norm(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    order: float | str | None = 2,
    dim: Dims = None,
    *args: object,
    **kwargs: object,
) -> None:
    _reduce(trace, out, x, _dims(x, dim), adds=(isinstance(order, (int, float)) and order > 0) or order is None)


@rule(
    "mean",
    "amax",
    "amin",
    "max",
    "min",
    "argmax",
    "argmin",
    "any",
    "all",
    "_is_any_true",
    "_is_all_true",
    "prod",
    "logsumexp",
    "median",
    "nanmedian",
    "aminmax",
)
def statistic(
    trace: Trace, out: Outputs, x: Tensor, dim: Dims | Tensor = None, *args: object, **kwargs: object
) -> None:
    if isinstance(dim, Tensor):
        pointwise(trace, out, x, dim)
        return
    dims = _dims(x, dim)
    _reduce(trace, out, x, dims, adds=False)
    for dim_ in dims:
        if trace.name.startswith("arg") and dim is None:
            freeze(trace.spaces(x)[dim_], f"its positions are read in {trace.where}")
        elif trace.name.startswith("arg") or (trace.name in _WITH_POSITIONS and len(tensors_of(out)) == 2):
            trace.say(tensors_of(out)[-1], "positions", trace.spaces(x)[dim_])


@rule("mode")
def mode(trace: Trace, out: Outputs, x: Tensor, dim: int = -1, *args: object, **kwargs: object) -> None:
    """The commonest number along a dimension, and where it stands."""
    statistic(trace, out, x, dim)


@rule("renorm")
def renorm(trace: Trace, out: Tensor, x: Tensor, p: float, dim: int, most: float) -> None:
    """What stands at an index of one dimension is shortened to a norm, which runs over all the others."""
    for place, (space, zero) in enumerate(zip(trace.spaces(x), trace.zero(x), strict=True)):
        if place != dim % x.dim():
            trace.contract(space, zero=zero and p > 0)
    trace.put(out, trace.spaces(x), trace.zero(x))


@rule("var", "std", "var_mean", "std_mean")
def variance(trace: Trace, out: Outputs, x: Tensor, dim: Dims = None, *args: object, **kwargs: object) -> None:
    dims = _dims(x, dim if not isinstance(dim, bool) else None)
    _reduce(trace, out, x, dims, adds=False)
    long = [d for d in dims if x.shape[d] > 1]
    if len(long) == 1 and not (args[:1] == (False,) or kwargs.get("correction", 1) == 0):
        only = trace.spaces(x)[long[0]].root()
        only.least = max(only.least, 2)  # one number has no variance


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax")
def softmax(trace: Trace, out: Tensor, x: Tensor, dim: int, *args: object, **kwargs: object) -> None:
    if x.dim():
        trace.statistic(trace.spaces(x)[dim])
    trace.put(out, trace.spaces(x))


@rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin")
def scan(trace: Trace, out: Outputs, x: Tensor, dim: int, *args: object, **kwargs: object) -> None:
    """What comes before a unit goes into it: its place is told by a number, and units are what they are by their order."""
    space = trace.spaces(x)[dim]
    if trace.name == "cumsum" and trace.said(x, "counts") is not None:
        trace.contract(space, zero=trace.zero(x)[dim])
        trace.say(tensors_of(out)[0], "offsets", space)
    else:
        freeze(space, f"its positions are numbers in {trace.where}")
    for result in tensors_of(out):
        trace.put(result, trace.spaces(x), [z and i != dim % x.dim() for i, z in enumerate(trace.zero(x))])
    for positions in tensors_of(out)[1:]:
        trace.freeze_when_read(positions, trace.spaces(x)[dim], f"its positions are read in {trace.where}")


@rule("topk")
def topk(trace: Trace, out: Outputs, x: Tensor, k: int, dim: int = -1, *args: object, **kwargs: object) -> None:
    """The best of a dimension: which these are is a matter of all, and is known by position."""
    if k >= x.shape[dim]:
        order(trace, out, x, k, dim)
        return
    space = trace.spaces(x)[dim]
    trace.statistic(space)
    trace.at_least(space, k)
    spaces = list(trace.spaces(x))
    spaces[dim] = constant(k, "taken by rank" if k != 1 else ONE)
    for result in tensors_of(out):
        trace.put(result, spaces)
    trace.say(tensors_of(out)[1], "positions", space)


@rule("sort", "argsort", "kthvalue", "msort")
def order(trace: Trace, out: Outputs, x: Tensor, *args: object, **kwargs: object) -> None:
    results = tensors_of(out)
    integers = [a for a in args if isinstance(a, int) and not isinstance(a, bool)]
    takes_count = trace.name == "kthvalue" or trace.name == "topk"
    named = kwargs.get("dim")
    place = named if isinstance(named, int) else next(iter(integers[1:] if takes_count else integers), -1)
    dim = place % x.dim()
    freeze(trace.spaces(x)[dim], f"its order is read in {trace.where}")
    for result in results:
        spaces, zero = list(trace.spaces(x)), list(trace.zero(x))
        if result.dim() < x.dim():
            del spaces[dim], zero[dim]
        elif result.shape[dim] != x.shape[dim]:
            spaces[dim], zero[dim] = constant(result.shape[dim], "taken by rank"), False
        trace.put(result, spaces, [False] * len(spaces))


@rule("glu")
def glu(trace: Trace, out: Tensor, x: Tensor, dim: int = -1) -> None:
    """The first half of a dimension, times the sigmoid of the second."""
    dim %= x.dim()
    spaces = list(trace.spaces(x))
    spaces[dim] = trace.same(*cut(spaces[dim], x.shape[dim] // 2))
    trace.put(out, spaces, trace.zero(x))


@rule("_fft_c2c", "_fft_r2c", "_fft_c2r")
def fourier(trace: Trace, out: Tensor, x: Tensor, dims: Sequence[int], *args: object) -> None:
    """Every position of a transformed dimension goes into every other one: these are frozen, the rest goes through."""
    spaces, zero = list(trace.spaces(x)), list(trace.zero(x))
    for dim in dims:
        freeze(spaces[dim], f"transformed in {trace.where}")
        spaces[dim], zero[dim] = constant(out.shape[dim], "frequencies"), False
    trace.put(out, spaces, zero)


@sample("sum", "mean", "amax", "linalg_vector_norm")
def _sum() -> Sample:
    return Sample(lambda x: x.sum(1) * x.mean((1,)) + torch.linalg.vector_norm(x, dim=1) + x.amax(1), (4, 5, 6))


@sample("mode", "nanmedian", "count_nonzero", "renorm", "_is_all_true")
def _counted() -> Sample:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        known = torch.ops.aten._is_all_true(x == x) & torch.ops.aten._is_any_true(x > 0)
        return x.mode(1)[0] + x.nanmedian(1)[0], torch.count_nonzero(x, 1), x.renorm(2, 1, 0.5) * known

    return Sample(function, (4, 5, 6))


@sample("_softmax", "var", "cumsum")
def _softmax() -> Sample:
    return Sample(lambda x: torch.softmax(x, 1) * x.var(1, keepdim=True) + x.cumsum(0), (4, 5, 6))


@sample("topk", "sort")
def _topk() -> Sample:
    return Sample(lambda x: x.topk(2, dim=1)[0] + x.sort(1)[0][:, :2], (4, 5, 6))


@sample("glu")
def _glu() -> Sample:
    return Sample(lambda x: torch.nn.functional.glu(x, 1), (4, 6))
