"""New tensors. Their sizes came from some integer in the code: fresh spaces, which an equation may tie to that integer.

zeros(n)   zero everywhere, so also at removed units          zeros_like(x)   the dimensions of x
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.core.space import ONE, Space, constant, freeze
from secateur.torch.rules.protocol import Trace
from secateur.torch.rules.registry import Sample, rule, sample

_ZEROS = {"zeros", "new_zeros", "zeros_like"}


def _is_zero(trace: Trace, args: Sequence[object]) -> bool:
    name = trace.name
    fills_zero = name in ("full", "new_full", "full_like") and 0 in [a for a in args if a == 0]
    return name in _ZEROS or fills_zero


@rule("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like")
def like(trace: Trace, out: Tensor, x: Tensor, *args: object, **kwargs: object) -> None:
    if out.shape != x.shape:
        raise NotImplementedError("another shape than its model")
    trace.put(out, trace.spaces(x), [_is_zero(trace, [a for a in args if type(a) in (int, float)])] * x.dim())
    if torch.Tag.nondeterministic_seeded in trace.operator.tags:
        for space in trace.spaces(x):
            trace.statistic(space)


@rule(
    "arange",
    "linspace",
    "logspace",
    "tril_indices",
    "triu_indices",
    "range",
    "fft_fftfreq",
    "fft_rfftfreq",
    "bartlett_window",
    "blackman_window",
    "hamming_window",
    "hann_window",
    "kaiser_window",
)
def positions(trace: Trace, out: Tensor, *args: object, **kwargs: object) -> None:
    """The values are positions: fewer of them are not a selection of the old ones."""
    reason = f"its positions are numbers in {trace.where}"
    trace.put(out, [constant(n, reason if n != 1 else ONE) for n in out.shape])


@rule(
    "full",
    "zeros",
    "ones",
    "empty",
    "rand",
    "randn",
    "randint",
    "new_zeros",
    "new_ones",
    "new_empty",
    "new_full",
    "new_empty_strided",
    "empty_strided",
    "empty_permuted",
)
def new(trace: Trace, out: Tensor, *args: object, **kwargs: object) -> None:
    scalars = [a for a in args if type(a) in (int, float)]
    zero = trace.name in _ZEROS or (trace.name in ("full", "new_full") and scalars[-1:] in ([0], [0.0]))
    trace.put(out, [constant(1, ONE) if n == 1 else Space(n) for n in out.shape], [zero] * out.dim())


@rule("eye")
def eye(trace: Trace, out: Tensor, *args: object, **kwargs: object) -> None:
    """Ones where a unit meets itself: of fewer units, it is what is left of it."""
    if out.shape[0] != out.shape[1]:
        raise NotImplementedError("a diagonal that ends before the matrix does")
    space = Space(out.shape[0]) if out.shape[0] != 1 else constant(1, ONE)
    trace.put(out, [space, space])


@rule("scalar_tensor", "_efficientzerotensor")
def scalar(trace: Trace, out: Tensor, *args: object, **kwargs: object) -> None:
    trace.keep_whole(out)


@rule("multinomial")
def multinomial(trace: Trace, out: Tensor, x: Tensor, *args: object, **kwargs: object) -> None:
    """Positions along the last dimension, drawn by what stands there."""
    freeze(trace.spaces(x)[-1], f"its positions are numbers in {trace.where}")
    trace.put(out, [*trace.spaces(x)[:-1], constant(out.shape[-1], "drawn" if out.shape[-1] != 1 else ONE)])


@rule(
    "bernoulli",
    "binomial",
    "cauchy",
    "exponential",
    "geometric",
    "log_normal",
    "normal",
    "normal_functional",
    "poisson",
    "randperm",
    "random",
    "_sample_dirichlet",
    "_standard_gamma",
    "uniform",
)
def random(trace: Trace, out: Tensor, x: object = None, *args: object, **kwargs: object) -> None:
    """Random values of this shape: another shape gives other values."""
    if not isinstance(x, Tensor) or x.shape != out.shape:
        trace.put(out, [constant(n, "random") if n != 1 else constant(1, ONE) for n in out.shape])
        return
    for space in trace.spaces(x):
        trace.statistic(space)
    trace.put(out, trace.spaces(x))


@sample("zeros", "zeros_like", "ones_like")
def _zeros() -> Sample:
    return Sample(lambda x: torch.zeros(x.shape[1]) + x * torch.ones_like(x), (3, 4))
