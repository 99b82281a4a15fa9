"""Plain tensors that a constructor makes: buffers in all but name.

    def __init__(self, dim): self.pos_embedding = sincos_2d(8, 8, dim)     never set again: narrowed with what it is added to
    def forward(self, x): self.cache = self.cache or table(x)              set by other code, too: state, or a table made anew

Only the former are meant, told from the latter by the code of the class: no function of it but the constructor sets an
attribute of that name, or asks for one by a text. Numbers other than floating ones tell places, and stay.

Invariant: nothing is run, and nothing is changed.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator, Mapping
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

from secateur.torch.running.restoring import named_tensors
from secateur.torch.running.walking import named_modules

_SETS = frozenset({"STORE_ATTR", "DELETE_ATTR"})
_BENEATH = ("__func__", "__wrapped__", "fget", "fset", "fdel", "func")


def named_constants(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """The floating tensors that modules of the user's own classes were given by their constructors, and keep, by name."""
    return {
        f"{name}.{key}" if name else key: tensor
        for name, module in named_modules(model, once=False)
        for key, tensor in constants_of(module).items()
    }


def narrowable_tensors(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """All that a plan may narrow, by every name it has: parameters, buffers, and what constructors made beside them."""
    return {**named_tensors(model), **named_constants(model)}


def constants_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Those of one module, by its own names for them."""
    found = {key: value for key, value in list(vars(module).items()) if type(value) is torch.Tensor and _may_be(value)}
    if not found or type(module).__module__.partition(".")[0] == "torch":
        return {}  # what PyTorch's own modules hold beside their tables somebody else has hung on them
    computed = {getattr(hook, "name", None) for hook in module._forward_pre_hooks.values()}
    others = _set_by_others(type(module)) | computed
    return {key: value for key, value in found.items() if key not in others}


def table_of(module: nn.Module, key: str) -> dict[str, Any]:
    """Where a module keeps a tensor of this name."""
    tables = (module._parameters, module._buffers)
    return next((table for table in tables if key in table), module.__dict__)  # type: ignore[return-value]


def _may_be(tensor: torch.Tensor) -> bool:
    numbers = tensor.is_floating_point() or tensor.is_complex()
    return (
        numbers
        and tensor.dim() > 0
        and not (tensor.is_meta or tensor.requires_grad or tensor.layout is not torch.strided)
    )


@cache
def _set_by_others(kind: type) -> frozenset[str]:
    """The names that code of a class may set, other than its constructor's own."""
    found: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in ("torch", "builtins"):
            found |= set(vars(base))
            continue
        for name, value in vars(base).items():
            codes = list(_codes(value))
            if name == "__init__":
                codes = [inner for code in codes for inner in code.co_consts if isinstance(inner, CodeType)]
            else:
                found.add(name)
            for code in codes:
                found |= _set_in(code)
    return frozenset(found)


def _codes(value: object, depth: int = 4) -> Iterator[CodeType]:
    """The functions beneath what decorates a method."""
    if isinstance(value, FunctionType):
        yield value.__code__
    if depth:
        for name in _BENEATH:
            inner = getattr(value, name, None)
            if inner is not None and inner is not value:
                yield from _codes(inner, depth - 1)


def _set_in(code: CodeType) -> set[str]:
    found = {step.argval for step in dis.get_instructions(code) if step.opname in _SETS}
    found |= {const for const in code.co_consts if isinstance(const, str) and const.isidentifier()}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found |= _set_in(inner)
    return found
