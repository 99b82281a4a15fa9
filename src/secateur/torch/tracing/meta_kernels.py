"""Operators on tensors without data, for those whose own shape functions are slow or missing.

    run(operator, args, kwargs)  ->  the abstract result, or None: then the operator's own shape function runs

PyTorch computes the shapes of batch norm, layer norm or gelu by running their decompositions in Python, which costs
milliseconds; the shapes are those of the input.

Invariant: shape, dtype and aliasing are those of the real operator; every entry is held against it by a test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from secateur.torch.running.calls import Args, Kwargs, Operator, Result

Kernel = Callable[..., Any]


_aten = torch.ops.aten


KERNELS: dict[Any, Kernel] = {}
_OF_ONE_DTYPE = frozenset(
    getattr(_aten, name).default
    for name in ("mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "convolution")
)


def _check_one_dtype(operator: object, args: Args) -> None:
    """What these refuse of tensors with data, their shape functions take: the network would be another one than the user's."""
    found = {a.dtype for a in args if isinstance(a, torch.Tensor) and (a.is_floating_point() or a.is_complex())}
    if len(found) > 1:
        raise RuntimeError(f"{operator} is given {' and '.join(sorted(map(str, found)))}, and takes one dtype")


def run(operator: object, args: Args, kwargs: Kwargs) -> Result:
    """The abstract result of an operator, or None where there is no kernel here for these arguments."""
    if (
        operator in _OF_ONE_DTYPE and not torch._C._is_any_autocast_enabled()
    ):  # which casts what has data, and nothing here
        _check_one_dtype(operator, args)
    kernel = KERNELS.get(operator)
    if kernel is None or not isinstance(args[0], torch.Tensor) or not args[0].is_meta:
        return None
    return kernel(*args, **kwargs)


def factory_device(func: Operator, args: Args, kwargs: Kwargs) -> torch.device:
    """Where a factory or a copy puts its result in an abstract run: integers stay real, the rest is abstract."""
    device = torch.device(kwargs["device"])
    if func._schema.name == "aten::_to_copy":
        keep_real = not args[0].is_meta and not (kwargs.get("dtype") or args[0].dtype).is_floating_point
        return torch.device("cpu") if keep_real else torch.device("meta")
    dtype = kwargs.get("dtype")
    if dtype is None or dtype.is_floating_point or dtype.is_complex:
        inferred_integer = func._schema.name == "aten::arange" and not any(isinstance(a, float) for a in args)
        if not (dtype is None and inferred_integer):
            return torch.device("meta")
    if any(isinstance(a, torch.Tensor) and a.is_meta for a in args):
        return device
    return torch.device("cpu")


def _like(x: torch.Tensor) -> torch.Tensor:
    """``empty_like``, which PyTorch computes in Python for tensors without data: plain layouts need not go there."""
    return x.new_empty(x.shape) if x.is_contiguous() else torch.empty_like(x)


def _kernel(*names: str) -> Callable[[Kernel], Kernel]:
    def register(function: Kernel) -> Kernel:
        for name in names:
            packet, _, overload = name.partition(".")
            operator = getattr(getattr(_aten, packet, None), overload or "default", None)
            if operator is not None:
                KERNELS[operator] = function
        return function

    return register


@_kernel(
    "relu", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu", "mish", "softplus",
    "_sample_dirichlet", "binomial",
)  # fmt: skip
def _same(x: torch.Tensor, *args: object, **kwargs: object) -> Any:
    return _like(x) if x.is_floating_point() else None


@_kernel(
    "relu_", "gelu_", "silu_", "sigmoid_", "tanh_", "hardswish_", "hardsigmoid_", "hardtanh_", "leaky_relu_", "elu_"
)
def _in_place(x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    return x


@_kernel("add.Tensor", "sub.Tensor", "mul.Tensor")
def _binary(x: torch.Tensor, y: object, *args: object, **kwargs: object) -> Any:
    if not isinstance(y, torch.Tensor) or x.dtype != y.dtype or not x.is_floating_point():
        return None
    if x.shape == y.shape:
        return _like(x)
    if x.dim() >= y.dim() and all(n in (1, m) for n, m in zip(reversed(y.shape), reversed(x.shape), strict=False)):
        return _like(x)
    return None


@_kernel("native_batch_norm")
def _batch_norm(
    x: torch.Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, epsilon: float
) -> Any:
    fits = all(t is None or t.shape[0] == x.shape[1] for t in (weight, bias, mean, variance))
    if not fits or any(t is not None and t.dtype != x.dtype for t in (weight, bias)):
        return None
    saved = x.new_empty(x.shape[1] if training else 0)
    return _like(x), saved, _like(saved)


@_kernel("native_layer_norm")
def _layer_norm(x: torch.Tensor, shape: Any, weight: Any, bias: Any, epsilon: float) -> Any:
    tail = tuple(shape)
    if tuple(x.shape[x.dim() - len(tail) :]) != tail or any(
        t is not None and (tuple(t.shape) != tail or t.dtype != x.dtype) for t in (weight, bias)
    ):
        return None
    saved = x.new_empty((*x.shape[: x.dim() - len(tail)], *([1] * len(tail))))
    return x.new_empty(x.shape), saved, _like(saved)


@_kernel("embedding")
def _embedding(weight: torch.Tensor, ids: torch.Tensor, *args: object, **kwargs: object) -> Any:
    if weight.dim() != 2 or ids.dtype not in (torch.int32, torch.int64):
        return None
    return weight.new_empty((*ids.shape, weight.shape[1]))


@_kernel("_softmax")
def _softmax(x: torch.Tensor, dim: int, half_to_float: bool) -> Any:
    return None if half_to_float else _like(x)


@_kernel("_grouped_mm")
def _grouped_mm(a: torch.Tensor, b: torch.Tensor, offsets: object = None, *args: object, **kwargs: object) -> Any:
    if a.dim() != 2 or b.dim() != 3:
        return None
    if a.shape[1] != b.shape[1]:
        raise RuntimeError(f"grouped_mm: rows of {a.shape[1]} do not fit matrices of {b.shape[1]}")
    return a.new_empty((a.shape[0], b.shape[2]))


@_kernel("_pack_padded_sequence")
def _pack(x: torch.Tensor, lengths: torch.Tensor, batch_first: bool) -> Any:
    if lengths.is_meta:
        return None
    rows, counts = _aten._pack_padded_sequence(torch.empty(*x.shape[:2], 1), lengths, batch_first)
    return x.new_empty((rows.shape[0], *x.shape[2:])), counts


@_kernel(
    "fake_quantize_per_tensor_affine_cachemask",
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "fake_quantize_per_channel_affine_cachemask",
)
def _fake_quantize(x: torch.Tensor, *args: object) -> Any:
    return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)


@_kernel("_fake_quantize_learnable_per_tensor_affine", "_fake_quantize_learnable_per_channel_affine")
def _learnable(x: torch.Tensor, *args: object) -> torch.Tensor:
    return torch.empty_like(x)
