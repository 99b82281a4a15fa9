"""Sizes that are written into the code as numbers: where it does not run when narrowed, these are why.

    h.view(b, 4, -1)    group_norm(h, 4)    conv2d(…, groups=4)    h.split([8, 4])    h[:, :8]    h[:, 8:]    h.repeat(1, 4)

They are remembered, not frozen: a number that was calculated from a size looks the same, and follows it.

Invariant: nothing is learnt from what carries an origin; that is read as an equation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from secateur.core.sized import Sized
from secateur.core.space import Space, factors, is_frozen, split, window
from secateur.torch.running.calls import Args, Kwargs, Result
from secateur.torch.tracing.tracer import Tracer

# function -> (position of the groups argument, its keyword, channel axis of the first argument)
GROUP_ARGUMENT: dict[str, tuple[int, str, int]] = {
    "group_norm": (1, "num_groups", 1),
    "conv1d": (6, "groups", -2),
    "conv2d": (6, "groups", -3),
    "conv3d": (6, "groups", -4),
    "conv_transpose1d": (6, "groups", -2),
    "conv_transpose2d": (6, "groups", -3),
    "conv_transpose3d": (6, "groups", -4),
}


def groups_of(tracer: Tracer, name: str, args: Args, kwargs: Kwargs) -> tuple[Any, Space] | None:
    """The number of groups of a call, as the code gave it, and the space that it counts; None where there is but one."""
    position, key, axis = GROUP_ARGUMENT[name]
    groups = args[position] if len(args) > position else kwargs.get(key)
    x = args[0]
    if not isinstance(groups, int) or (count := int.__index__(groups)) < 2:
        return None
    channels = tracer.spaces(x)[x.dim() + axis if axis < 0 else axis]
    pieces = split(channels, (count, channels.root().size // count))
    return None if pieces is None else (groups, pieces[0])


def literal_groups(tracer: Tracer, name: str, args: Args, kwargs: Kwargs) -> Iterator[Space]:
    """The groups that a plain number counts."""
    found = groups_of(tracer, name, args, kwargs)
    if found is not None and type(found[0]) is int:
        yield found[1]


def literal_parts(tracer: Tracer, args: Args) -> Iterator[Space]:
    """Of ``x[index]``, the parts whose size a plain number in a slice says: before its start, up to its end, after it."""
    x, index = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
    consumed = sum(1 for q in index if q is not None and q is not Ellipsis)
    place = 0
    for q in index:
        if q is Ellipsis:
            place += x.dim() - consumed
        elif isinstance(q, slice):
            yield from _around(tracer, x, place, q)
            place += 1
        elif type(q) in (int, Sized):
            place += 1
        elif q is not None:
            return  # a tensor, a list: it may take several dimensions


def literal_repeats(tracer: Tracer, out: torch.Tensor, args: Args, kwargs: Kwargs) -> Iterator[Space]:
    """Of ``x.repeat(1, 4, 1)``, what is there as often as a plain number says."""
    given = args[1:] or tuple(kwargs.get(key, ()) for key in ("repeats", "dims") if key in kwargs)
    counts = given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
    for space, count in zip(tracer.spaces(out)[::-1], counts[::-1], strict=False):
        if type(count) is int and count > 1:
            yield factors(space)[0]


def _around(tracer: Tracer, x: torch.Tensor, place: int, q: slice) -> Iterator[Space]:
    space, size = tracer.spaces(x)[place], x.shape[place]
    if q.step not in (None, 1) or is_frozen(space):
        return
    start, stop, _ = slice(q.start, q.stop).indices(size)
    if type(q.start) is int and 0 < start < size:
        yield window(space, 0, start) if q.start > 0 else window(space, start, size)
    if type(q.stop) is int and 0 < stop < size:
        if q.stop < 0:
            yield window(space, stop, size)
        elif q.start is None or type(q.start) is int:
            yield window(space, max(start, 0), stop)


def written(name: str, tracer: Tracer, out: Result, args: Args, kwargs: Kwargs, reading: Any) -> Iterator[Space]:
    """The spaces whose sizes a call has as plain numbers; ``reading``: what is read as sizes of that call."""
    if name in _TAKE:
        yield from literal_parts(tracer, args)
    elif name in GROUP_ARGUMENT:
        yield from literal_groups(tracer, name, args, kwargs)
    elif name in _REPEAT:
        yield from literal_repeats(tracer, out, args, kwargs)
    elif name == "repeat_interleave":
        if type(args[1] if len(args) > 1 else kwargs.get("repeats")) is int:
            yield from (factors(tracer.spaces(out)[dim])[-1] for *_, dim in reading(tracer, out, args, kwargs))
    else:
        for value, tensor, dim in reading(tracer, out, args, kwargs):
            if type(value) is int and value > 1:
                yield tracer.spaces(tensor)[dim % tensor.dim()]


_TAKE = frozenset(["__getitem__", "__setitem__"])
_REPEAT = frozenset(["repeat", "tile"])
WRITTEN = frozenset(["view", "reshape", "unflatten", "expand", "split", "split_with_sizes", "narrow"])
WRITTEN |= _TAKE | _REPEAT | {"repeat_interleave"} | GROUP_ARGUMENT.keys()
