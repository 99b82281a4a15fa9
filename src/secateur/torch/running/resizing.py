"""Inputs like the example, but longer, larger, more of them.

    [2, 1, 5]       ──►  [2, 3, 5]   [6, 1, 5]   [2, 1, 11]        one size after the other; equal sizes are one,
    [2, 8, 8]       ──►  [2, 17, 17], else [2, 16, 8]              and where that does not run, each is its own
    [x, y]          ──►  [x, y, x, y]                              lists of tensors
    lengths [4, 2]  ──►  [2, 1]                                    whole numbers, where code reads them

What a dimension of the input means is not known. Code that takes it at one size only raises at another, and says so by that.

Invariant: what was an index into the inputs is one still. Kernels for sparse tensors, and those of other packages, write to where
an index points without a look at how much there is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from secateur.torch.running.example import Example
from secateur.torch.running.restoring import named_tensors

_SMALL = 32  # up to here twice as large: what counts by the dozen steps counts on
_STEP = 32  # of larger ones, that strides of images still divide
_MOST = 2**20  # numbers: a batch of large images gets one more and not twice as many
Others = tuple[
    str, list[Example]
]  # what is another one, and the examples with it, of which the first that runs will do


def other_sizes(example: Example, *, briefly: bool = False, but: Collection[int] = ()) -> Iterator[Others]:
    """For each size of a dimension of the inputs ``but`` these, the example with another in its place: a larger one, if it will
    do one that is nothing else's size; and a smaller. For each list of tensors, the example with a longer one.

    ``briefly``: the smaller of large sizes, the larger of others, since what runs takes time.
    """
    tensors = example.tensors()
    if any(tensor.layout is not torch.strided or tensor.is_quantized for tensor in tensors):
        return
    sizes = {n for tensor in tensors for n in tensor.shape if n}
    taken = sizes | {n for tensor in named_tensors(example.model).values() for n in tensor.shape}
    total = sum(tensor.numel() for tensor in tensors)
    highest = _highest(tensors)
    for size in sorted(sizes.difference(but)):
        larger = 2 * size if size <= _SMALL else size + _STEP
        if total * larger > _MOST * size:
            larger = size
        alone = next(n for n in itertools.count(larger + 1) if n not in taken)
        more = [_resized(example, size, to) for to in dict.fromkeys((alone, larger)) if to != size]
        more += [_resized(example, size, larger, dim) for dim in _repeated(tensors, size) if larger != size]
        fewer = [_resized(example, size, size // 2)] if size // 2 > max(0, highest) else []
        if briefly:
            more, fewer = ([*fewer, *more] if size > _SMALL else [*more, *fewer]), []
        yield from ((f"size than {size}", others) for others in (more, fewer))
    for name, given in [*enumerate(example.args), *example.kwargs.items()]:
        if type(given) in (list, tuple) and given and all(isinstance(each, torch.Tensor) for each in given):
            yield f"length than {len(given)}", [_with(example, name, given + given)]


def _highest(tensors: Sequence[torch.Tensor]) -> float:
    """The highest whole number given: it may be an index, which some kernels use unchecked, and no size may fall below it."""
    whole = [tensor for tensor in tensors if _is_whole(tensor) and tensor.numel()]
    return max((math.inf if tensor.is_meta else int(tensor.max()) for tensor in whole), default=-1)


def other_numbers(example: Example) -> list[list[Example]]:
    """The example with larger whole numbers, and with smaller ones, in the order to try them in.

    Several in one tensor may be indices, which some kernels use unchecked: these only fall, and not below zero.
    """

    def changed(change: Callable[[Any], Any], *, grows: bool) -> Example:
        def of_tensor(tensor: torch.Tensor) -> torch.Tensor:
            made = tensor.detach().clone()
            if not _is_whole(tensor) or (grows and tensor.numel() > 1):
                return made
            return change(made) if grows else torch.where(made > 0, change(made), made)

        def of_number(value: Any) -> Any:
            return change(value) if type(value) is int and (grows or value > 0) else value

        made = example.map(of_tensor)
        args = tuple(map(of_number, made.args))
        return replace(made, args=args, kwargs={k: of_number(v) for k, v in made.kwargs.items()}, also=())

    numbers = [value for value in (*example.args, *example.kwargs.values()) if type(value) is int]
    if not numbers and not any(map(_is_whole, example.tensors())):
        return []
    return [
        [changed(lambda n: 2 * n, grows=True), changed(lambda n: n + 1, grows=True)],
        [changed(lambda n: n // 2, grows=False), changed(lambda n: n - 1, grows=False)],
    ]


def _is_whole(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool or tensor.is_quantized)


def _repeated(tensors: Sequence[torch.Tensor], size: int) -> list[int]:
    """The dimensions of this size, where a tensor has more than one: as many tokens as features, by chance."""
    found = [[dim for dim, n in enumerate(tensor.shape) if n == size] for tensor in tensors]
    return sorted({dim for dims in found if len(dims) > 1 for dim in dims})


def _resized(example: Example, size: int, to: int, only: int | None = None) -> Example:
    """Each dimension of this size, or the one at this place alone, at another; what is there is repeated, or cut off."""

    def one(tensor: torch.Tensor) -> torch.Tensor:
        made = tensor.detach().clone()
        for dim, n in enumerate(tensor.shape):
            if n == size and only in (None, dim):
                made = made.index_select(dim, torch.arange(to, device=made.device) % size)
        return made

    return replace(example.map(one), also=())


def _with(example: Example, name: int | str, value: object) -> Example:
    args = tuple(value if place == name else each for place, each in enumerate(example.args))
    kwargs = {key: value if key == name else each for key, each in example.kwargs.items()}
    return replace(example, args=args, kwargs=kwargs, also=())
