"""Gradients that a network takes as it runs: forces from an energy, derivatives by a coordinate, an inner loop.

    tanh_backward(g, y)                   element by element, as its function
    _softmax_backward_data(g, y, dim)     a sum over what the softmax ran over
    native_layer_norm_backward(g, x, …)   statistics over what was normed; those of the weights are summed over the rest
    select_backward(g, sizes, …)          where an index was taken, zeros of the first size around it

Gradients by linear layers and products are products again, which have rules of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.core.space import ONE, constant, freeze
from secateur.torch.rules.pointwise import pointwise
from secateur.torch.rules.protocol import Trace
from secateur.torch.rules.registry import Sample, rule, sample

rule(
    "elu_backward",
    "hardshrink_backward",
    "hardsigmoid_backward",
    "hardswish_backward",
    "hardtanh_backward",
    "leaky_relu_backward",
    "log_sigmoid_backward",
    "mish_backward",
    "native_dropout_backward",
    "softplus_backward",
    "softshrink_backward",
    "_prelu_kernel_backward",
)(pointwise)


@rule("_softmax_backward_data", "_log_softmax_backward_data")
def of_softmax(trace: Trace, out: Tensor, grad: Tensor, y: Tensor, dim: int, *args: object) -> None:
    """What one of them gains, the others lose."""
    spaces = [trace.same(a, b) for a, b in zip(trace.spaces(grad), trace.spaces(y), strict=True)]
    if y.dim():
        trace.statistic(spaces[dim])
    trace.put(out, spaces)


@rule("native_layer_norm_backward")
def of_layer_norm(
    trace: Trace,
    out: Sequence[Tensor | None],
    grad: Tensor,
    x: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *args: object,
) -> None:
    """By what was normed: all that was normed together goes into each of it."""
    spaces = [trace.same(a, b) for a, b in zip(trace.spaces(grad), trace.spaces(x), strict=True)]
    for back in range(1, len(shape) + 1):
        trace.statistic(spaces[-back])
        for tensor in (t for t in (weight, bias) if t is not None):
            spaces[-back] = trace.same(spaces[-back], trace.spaces(tensor)[-back])
    for space in spaces[: -len(shape)]:
        trace.contract(space, zero=False)  # the gradients of weight and bias are sums over all the rest
    for result in (r for r in out if r is not None):
        trace.put(result, spaces[-result.dim() :])


@rule("select_backward", "slice_backward", "diagonal_backward")
def of_part(trace: Trace, out: Tensor, grad: Tensor, sizes: Sequence[int], *args: int) -> None:
    """What was taken stands where it stood, zeros around it; the sizes are those of the first."""
    if trace.name == "diagonal_backward" or (trace.name == "slice_backward" and args[3] != 1):
        raise NotImplementedError("a part that is not in one piece")
    dim = args[0] % out.dim()
    spaces, zero = list(trace.spaces(grad)), list(trace.zero(grad))
    if trace.name == "select_backward":
        spaces.insert(dim, constant(1, ONE))
        zero.insert(dim, False)
    if out.shape[dim] != spaces[dim].root().size:
        freeze(spaces[dim], f"put back into a whole in {trace.where}")
        reason = f"a part of it is taken in {trace.where}"
        spaces[dim], zero[dim] = constant(out.shape[dim], reason), False
    trace.put(out, spaces, zero)


def _slope(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The derivative of a function at a tensor that nothing else depends on, as a function of the same tensor."""

    def derivative(x: Tensor) -> Tensor:
        with torch.enable_grad():
            at = x.detach().clone().requires_grad_(True)
            return torch.autograd.grad(function(at).pow(2).sum(), at)[0]

    return derivative


@sample("softplus_backward", "leaky_relu_backward", "hardtanh_backward", "elu_backward")
def _of_activations() -> Sample:
    def smooth(x: Tensor) -> Tensor:
        return F.softplus(x) * F.leaky_relu(x) + F.elu(x) * F.hardtanh(x) + F.mish(x) * F.gelu(x)

    return Sample(lambda x, w: _slope(smooth)(x) @ w, (3, 4), (4, 5))


@sample("_softmax_backward_data", "native_layer_norm_backward")
def _of_statistics() -> Sample:
    def normed(x: Tensor) -> Tensor:
        return F.layer_norm(x.softmax(1), x.shape[-1:]) + x.log_softmax(1)

    return Sample(lambda x, w: _slope(normed)(x.relu()) @ w, (3, 4), (4, 5))


@sample("select_backward", "slice_backward")
def _of_parts() -> Sample:
    return Sample(lambda x, w: _slope(lambda y: y[0] * y[1:])(x) @ w, (3, 4), (4, 5))
