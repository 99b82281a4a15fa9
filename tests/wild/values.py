"""What a model returned, of whatever kind, as tensors that can be compared; and randomness made quiet.

    flat({"a": x, "b": Boxes(y)})  ->  [("['a']", x), ("['b'].y", y)]

Invariant: nothing that holds a number is passed over: arrays, numbers, slots and generators count as tensors do.
"""

from __future__ import annotations

import dataclasses
import enum
import random
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Leaf = tuple[str, Any]


def flat(value: Any) -> list[Leaf]:
    """Every number in a value, as dense real tensors, and every word, each with where it stands."""
    return list(_walk(value, "", set()))


def _walk(value: Any, path: str, around: set[int]) -> Iterator[Leaf]:
    if isinstance(value, Tensor):
        yield path, _dense(value)
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind in "biufc":
            yield path, torch.from_numpy(np.array(array))
        else:
            yield from _walk(array.tolist(), path, around)
    elif isinstance(value, bytes):
        yield path, len(value)  # rounding shows in bytes: only their number can be compared
    elif isinstance(value, (bool, int, float, complex)):
        yield path, torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    elif value is None or isinstance(value, (str, torch.Size, torch.dtype, torch.device, enum.Enum, type)):
        yield path, value
    elif not isinstance(value, (nn.Module, types.MethodType)) and id(value) not in around:
        for key, item in _parts(value):
            yield from _walk(item, path + key, around | {id(value)})


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        yield from ((f"({name})", cell.cell_contents) for name, cell in cells if cell != types.CellType())
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, Iterable):
        yield from ((f"[{i}]", item) for i, item in enumerate(value))
    elif dataclasses.is_dataclass(value):
        yield from ((f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value))
    else:
        for cls in type(value).__mro__:
            yield from ((f".{n}", getattr(value, n)) for n in vars(cls).get("__slots__", ()) if hasattr(value, n))
        yield from ((f".{name}", item) for name, item in getattr(value, "__dict__", {}).items())


def _dense(tensor: Tensor) -> Tensor:
    tensor = tensor.dequantize() if tensor.is_quantized else tensor
    if tensor.is_nested:
        tensor = torch.nested.to_padded_tensor(tensor, 0.0)
    tensor = tensor.to_dense() if tensor.layout is not torch.strided else tensor
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def difference(reference: list[Leaf], found: list[Leaf]) -> tuple[float, str]:
    """The largest gap relative to the largest number of its tensor, and where; infinite where the forms differ."""
    worst, where = 0.0, ""
    if [path for path, _ in reference] != [path for path, _ in found]:
        return float("inf"), "another structure of outputs"
    for (path, a), (_, b) in zip(reference, found):
        gap, what = _gap(a, b)
        if gap > worst:
            worst, where = gap, f"output{path}: {what}"
    return worst, where


def _gap(a: Any, b: Any) -> tuple[float, str]:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        same = type(a) is type(b) and a == b
        return (0.0, "") if same else (float("inf"), f"{str(b)[:30]} in place of {str(a)[:30]}")
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf"), f"{b.dtype} {list(b.shape)} in place of {a.dtype} {list(a.shape)}"
    if not a.numel():
        return 0.0, ""
    exact = not a.is_floating_point()
    a, b = a.detach().double(), b.detach().double()
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs()).nan_to_num(nan=float("inf")).max().item()
    if exact:
        return (float("inf") if gap else 0.0), "other integers"
    finite = a[a.isfinite()]
    scale = max(finite.abs().max().item(), 1e-9) if finite.numel() else 1.0
    return gap / scale, f"differs by {gap / scale:.1e} of its largest number"


def cast(value: Any, dtype: torch.dtype) -> Any:
    """The same arguments with floating-point tensors of this dtype (complex ones of its complex partner), at any depth."""
    if isinstance(value, Tensor):
        return value.to(_partner(value, dtype))
    if type(value) in (list, tuple, set):
        return type(value)(cast(v, dtype) for v in value)
    if type(value) is dict:
        return {k: cast(v, dtype) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(cast(v, dtype) for v in value))
    if isinstance(value, dict):
        for key in list(value):
            value[key] = cast(value[key], dtype)
    for key, item in list(getattr(value, "__dict__", {}).items()):
        if isinstance(item, (Tensor, list, tuple, dict)) or hasattr(item, "__dict__"):
            object.__setattr__(value, key, cast(item, dtype)) if not isinstance(item, type) else None
    return value


def cast_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """All floating-point and complex parameters and buffers in another precision, ties kept."""
    for tensor in {id(t): t for t in (*model.parameters(), *model.buffers())}.values():
        tensor.data = tensor.data.to(_partner(tensor, dtype))
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
    return model


def _partner(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    if tensor.is_complex():
        return torch.complex128 if dtype is torch.float64 else torch.complex64
    return dtype if tensor.is_floating_point() else tensor.dtype


class _Constants(TorchDispatchMode):
    """Random tensors become constant ones, the same for every unit, so that networks of other widths can be compared."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        torch.manual_seed(7)
        out, name = func(*args, **kwargs), func._schema.name.partition("::")[2]
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if name.startswith("rrelu"):
            return torch.where(args[0] > 0, args[0], 0.2 * args[0])
        drawn = name.startswith(("rand", "uniform", "normal", "bernoulli", "exponential", "cauchy", "log_normal"))
        if isinstance(out, Tensor) and drawn and not name.startswith(("randint", "randperm")):
            out.copy_(_constant(name, args))
        return out


def _constant(name: str, args: tuple[Any, ...]) -> Any:
    if name.startswith("bernoulli"):
        return torch.ones(())
    if name.startswith("uniform"):
        low, high = (*args[1:], 0.0, 1.0)[:2] if len(args) != 2 else (args[1], 1.0)
        return torch.as_tensor((low + high) / 2)
    if name.startswith("normal"):
        mean, std = (*args[1:], 0.0, 1.0)[:2] if name.endswith("_") else (*args, 1.0)[:2]
        return torch.as_tensor(mean + 0.7 * std)
    return torch.tensor(0.7 if name.startswith("randn") else 0.5)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, randomness is the same for every network, whatever its widths; outside, its states are untouched."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        try:
            with _Constants():
                yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
