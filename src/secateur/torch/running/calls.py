"""What passes through when calls of torch functions and operators are looked at.

    def __torch_function__(self, func: Function, types: object, args: Args = (), kwargs: Kwargs | None = None) -> Result

These are the calls of all functions there are: of what they take and give nothing can be said before it is looked at. So the
types say `Any`, here and once.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

Function = Any  # a Python function, a builtin, a method descriptor, a bound getter
Operator = Any  # a torch.ops overload; PyTorch gives it no public type
Args = Sequence[Any]
Kwargs = dict[str, Any]
Result = Any

_OUT = "out"


def tensors_first(func: Function, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
    """The same call, with the tensors that it gives by name where they stand without: ``conv2d(input=x, weight=w, stride=2)``
    is ``conv2d(x, w, stride=2)``."""
    if not any(isinstance(value, torch.Tensor) for value in kwargs.values()):
        return args, kwargs
    placed, named = [*args], dict(kwargs)
    for name in _names(func)[len(args) :]:
        if name == _OUT or not isinstance(named.get(name), torch.Tensor):
            break
        placed.append(named.pop(name))
    return tuple(placed), named


@cache
def _names(func: Function) -> tuple[str, ...]:
    """What a function calls its arguments; none for what PyTorch does not tell of."""
    told = torch.overrides.get_testing_overrides().get(func)
    return tuple(inspect.signature(told).parameters) if told is not None else ()
