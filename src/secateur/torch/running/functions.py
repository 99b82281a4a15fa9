"""Contractions inside a ``torch.autograd.Function``, whose forward PyTorch runs without gradients.

    out = F.apply(x, w)              as always, the tap looking away: upstream gets what its own backward says
    again = F.forward(ctx, x', w')   on the same numbers, cut off, with gradients: what the tap puts in gets its own
    out, whose gradient goes to both

Megatron-Core's linear layers are such functions. ``Function.apply`` is another one while a tap is open, which other threads
only pass through.

Invariant: numbers, and gradients upstream, are those of the function; one without contractions runs once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch.autograd import Function
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from secateur.torch.running.calls import Args, Kwargs, Result
from secateur.torch.running.interrupts import Interrupts
from secateur.torch.running.transforms import inside_a_transform

_APPLY = vars(Function)["apply"]
_LOCK = threading.Lock()
_THREAD = threading.local()
_open = 0


class LooksInside(Protocol):
    """What looks for contractions."""

    def away(self) -> AbstractContextManager[list[str]]:
        """Look away; the names of the contractions that were there."""
        ...

    def known_as(self, tensor: torch.Tensor, copy: torch.Tensor) -> None:
        """The copy stands for the tensor."""
        ...


@contextmanager
def functions_opened(watch: LooksInside) -> Iterator[None]:
    """While this is open, what functions of autograd do in their forward passes by the watch of this thread."""
    global _open
    with Interrupts() as interrupts:  # half open it would never be closed
        before = getattr(_THREAD, "watch", None)
        with _LOCK:
            _open += 1
            Function.apply = classmethod(_apply)  # type: ignore[assignment]
        _THREAD.watch = watch
        try:
            with interrupts.welcome():
                yield
        finally:
            _THREAD.watch = before
            with _LOCK:
                _open -= 1
                if not _open:
                    Function.apply = _APPLY


def _apply(kind: type[Function], *args: object, **kwargs: object) -> Result:
    watch: LooksInside | None = getattr(_THREAD, "watch", None)
    if watch is None or inside_a_transform() or not torch.is_grad_enabled():
        return _APPLY.__func__(kind, *args, **kwargs)
    before = _versions(args, kwargs)
    with watch.away() as met:
        out = _APPLY.__func__(kind, *args, **kwargs)
    if not met or _versions(args, kwargs) != before:
        return out
    return _joined(out, _again(kind, watch, args, kwargs))


def _versions(args: Args, kwargs: Kwargs) -> list[int]:
    given = tree_flatten((args, kwargs))[0]
    return [t._version for t in given if isinstance(t, torch.Tensor) and not t.is_inference()]


def _again(kind: Any, watch: LooksInside, args: Args, kwargs: Kwargs) -> Result:
    """The forward, run on copies that lead nowhere."""

    def cut(value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return value
        copy = value.detach().requires_grad_(value.requires_grad)
        for key, held in vars(value).items():
            setattr(copy, key, held)
        watch.known_as(value, copy)
        return copy

    args, kwargs = tree_map(cut, args), tree_map(cut, kwargs)
    if kind.setup_context is not Function.setup_context:
        return kind.forward(*args, **kwargs)
    return kind.forward(_Context(args), *args, **kwargs)


class _Context:
    """What a forward writes down for a backward that is never asked for. State: whatever it likes to keep."""

    def __init__(self, args: Args) -> None:
        self.needs_input_grad = tuple(isinstance(a, torch.Tensor) and a.requires_grad for a in args)
        self.saved_tensors: tuple[torch.Tensor, ...] = ()

    def save_for_backward(self, *tensors: torch.Tensor) -> None:
        self.saved_tensors = tensors

    def _ignored(self, *values: object) -> None:
        pass

    save_for_forward = mark_dirty = mark_non_differentiable = set_materialize_grads = _ignored


def _joined(out: Result, again: Result) -> Result:
    mine, spec = tree_flatten(out)
    theirs = tree_flatten(again)[0]
    if len(mine) != len(theirs):
        return out
    return tree_unflatten([_both(a, b) for a, b in zip(mine, theirs, strict=True)], spec)


def _both(value: object, again: object) -> object:
    if isinstance(value, torch.Tensor) and isinstance(again, torch.Tensor) and again.requires_grad:
        return _APPLY.__func__(_Both, value, again)
    return value


class _Both(Function):
    """The first, whose gradient is the second's, too."""

    @staticmethod
    def forward(ctx: object, value: torch.Tensor, again: torch.Tensor) -> torch.Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: object, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gradients[0], gradients[0]
