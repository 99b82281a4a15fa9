"""What the code called, and with which numbers: a size that went where it cannot be followed shows in these.

    h / math.log(h.shape[1])      trace: div 2.48     narrowed: div 1.79      the same code, another number
    for i in range(width): …      trace: 12 × add     narrowed: 7 × add       the same code, another course

``math.log``, ``range``, ``int()``, ``len`` and C code take a plain number out of an integer and tell nobody. What comes of it
reaches a tensor in the end, and differs when the same code runs on a narrower network.

Invariant: sizes, which differ by nature, are no part of a call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils._python_dispatch import _disable_current_modes

from secateur.core.sized import Sized
from secateur.torch.running.calls import Args, Function, Kwargs
from secateur.torch.tracing.arithmetic import ARITHMETIC

Number = float | None  # None: an integer that is known to be a size
Call = tuple[str, tuple[Number, ...]]

OPEN: Call = ("…", ())  # from here on the code may call anything: what it reads of its numbers decides

_NO_NUMBERS = frozenset({bool, str, type(None), torch.dtype, torch.device, torch.memory_format})
_MOST = 64  # numbers of an array that are looked at
_QUIET = frozenset(
    [
        "__get__",
        "__set__",
        "size",
        "dim",
        "numel",
        "__len__",
        "is_floating_point",
        "stride",
        "is_complex",
        "element_size",
        "empty",  # what it gives has no numbers, and code that keeps it asks for it once only
        "new_empty",
        "device",
    ]
)
_NUMBERS = frozenset(
    ["full", "new_full", "full_like", "as_tensor", "from_numpy", "new_tensor", "asarray", "masked_fill"]
)


def call_of(func: Function, args: Args, kwargs: Kwargs, *, of_tensors: bool = True) -> Call | None:
    """A call as its name and its numbers, those of small tensors with ``of_tensors``; None for one that only asks about a
    tensor."""
    name = func.__name__
    if name in _QUIET:
        return None
    found: list[Number] = []
    whole = name in ARITHMETIC or name in _NUMBERS
    given = (
        value for key, value in kwargs.items() if key != "dropout_p"
    )  # what it drops while training is no number of the function's
    for argument in (*args, *given):
        if type(argument) not in _NO_NUMBERS and not (isinstance(argument, torch.Tensor) and argument.is_meta):
            found += numbers_in(argument, whole=whole, of_tensors=of_tensors)
    return name, tuple(found)


def steady(calls: Sequence[Call], others: Sequence[Call]) -> list[Call]:
    """Calls without the numbers that another run of the same code had otherwise; open-ended where its course was another."""
    found: list[Call] = []
    for one, other in zip_longest(calls, others, fillvalue=OPEN):
        if OPEN in (one, other) or (one[0], len(one[1])) != (other[0], len(other[1])):
            return [*found, OPEN]
        found.append((one[0], tuple(a if a == b else None for a, b in zip(one[1], other[1], strict=True))))
    return found


def is_alike(one: Call, other: Call) -> bool:
    """Whether two calls are of one function with the same numbers, as far as these are no sizes."""
    if one is OPEN:
        return True
    if one[0] != other[0] or len(one[1]) != len(other[1]):
        return False
    return all(a is None or b is None or a == b or a != a for a, b in zip(one[1], other[1], strict=True))


def place_of_code() -> str:
    """``file:line`` of the code, neither PyTorch's nor ours, that is running."""
    frame = sys._getframe(1)
    while frame is not None:
        owner = str(frame.f_globals.get("__name__")).partition(".")[0]
        if owner not in ("torch", "secateur") and not frame.f_code.co_filename.startswith("<"):
            return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "its code"


def code_running() -> CodeType:
    """The code, neither PyTorch's nor ours, that is running."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith(("torch.", "secateur.")):
        frame = frame.f_back
    return frame.f_code


def names_a_function() -> bool:
    """Whether PyTorch spells out a function that it transforms, which may be a module, for messages of its own."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_name != "_get_name":
        frame = frame.f_back
    return str(frame.f_globals.get("__name__")).startswith("torch._functorch.")


def is_followed(value: Any) -> bool:
    """Whether a transform of ``torch.func``, or a gradient that the code takes, needs a tensor's operators one by one."""
    if not isinstance(value, torch.Tensor):
        return False
    return is_functorch_wrapped_tensor(value) or (value.requires_grad and torch.is_grad_enabled())


def _of_tensor(numbers_N: torch.Tensor) -> Sequence[Number]:
    """What stays of a constant's numbers where it is repeated more or less often; nothing is known of many."""
    if not 0 < len(numbers_N) <= _MOST:
        return [None] * 5
    each = numbers_N.double().unique()
    return [float(n) for n in (numbers_N[0], numbers_N[-1], each[0], each[-1], each.mean())]


def numbers_in(tree: Any, *, whole: bool, of_tensors: bool = True) -> Iterator[Number]:
    """The floats in a call's arguments; with ``whole``, integers too; ``of_tensors``: those of small ones as well."""
    if isinstance(tree, (bool, str)):
        return
    if isinstance(tree, torch.Tensor):
        if of_tensors and not tree.is_meta and tree.is_floating_point() and tree.dim() > 0:
            with _disable_current_modes():  # a constant that the code made outside PyTorch
                yield from _of_tensor(tree.detach().flatten())
        return
    if isinstance(tree, int | np.integer):
        if whole:
            yield None if isinstance(tree, Sized) else float(tree)
    elif isinstance(tree, (float, complex)):
        yield complex(tree).real
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from numbers_in(item, whole=whole, of_tensors=of_tensors)
    elif isinstance(tree, dict):
        yield from numbers_in(tuple(tree.values()), whole=whole, of_tensors=of_tensors)
    elif isinstance(tree, np.generic | np.ndarray) and np.asarray(tree).dtype.kind in "iufb":
        yield from np.asarray(tree, dtype=float).ravel()[:_MOST].tolist()
