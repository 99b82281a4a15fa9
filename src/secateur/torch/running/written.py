"""Which parameters a model's own code writes to as it runs (``max_norm``, ``weight.data.clamp_()``): a trace finds out.

    trace ──► the stand-in of embed.weight is written to ──► noted ──► who runs the model on data gives it a copy of that one

All other parameters of a network that is only run are in the memory of the model's, so that a large model is not held twice.

Invariant: a note holds no tensor alive, and is of that tensor alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import cache

import torch
from torch import nn

from secateur.torch.running.calls import Args, Kwargs, Operator

# By identity, without a callback for when the tensor goes: Ctrl-C in one would be lost.
_WRITTEN: dict[int, weakref.ref[torch.Tensor]] = {}


def note_written(parameter: torch.Tensor) -> None:
    """The model's code writes to this parameter."""
    for gone in [key for key, held in list(_WRITTEN.items()) if held() is None]:
        _WRITTEN.pop(gone, None)
    _WRITTEN[id(parameter)] = weakref.ref(parameter)


def is_written(parameter: torch.Tensor) -> bool:
    """Whether a trace saw code write to it."""
    held = _WRITTEN.get(id(parameter))
    return held is not None and held() is parameter


class Watch:
    """Of one run: what stands in for which parameter. State, because stand-ins come one by one."""

    def __init__(self) -> None:
        self._originals: dict[int, torch.Tensor] = {}

    def stands_in(self, made: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
        """``made``, which is watched if it is a parameter's."""
        memory = _memory(made) if isinstance(original, nn.Parameter) else None
        if memory is not None:
            self._originals[memory] = original
        return made

    def sees(self, func: Operator, args: Args, kwargs: Kwargs) -> None:
        """An operator runs: note what it writes to."""
        for tensor in _written(func, args, kwargs):
            original = self._originals.get(_memory(tensor) or 0)
            if original is not None:
                note_written(original)

    def forget(self) -> None:
        """The run is over: other tensors may come to lie where its own did."""
        self._originals.clear()


def _memory(tensor: torch.Tensor) -> int | None:
    """What a tensor shares with its views, and with what ``.data`` gives."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse ones, and some subclasses
        return None


def _written(func: Operator, args: Args, kwargs: Kwargs) -> Iterator[torch.Tensor]:
    for place, name in written_places(func):
        given = kwargs.get(name) if name in kwargs else args[place] if place < len(args) else None
        yield from (t for t in (given if isinstance(given, list | tuple) else (given,)) if isinstance(t, torch.Tensor))


@cache
def written_places(func: Operator) -> tuple[tuple[int, str], ...]:
    """The places and names of the arguments that an operator writes into."""
    schema = getattr(func, "_schema", None)
    arguments = schema.arguments if schema is not None and schema.is_mutable else ()
    return tuple((n, a.name) for n, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write)
