"""Inputs like the example, but longer, larger, more of them.

    [2, 1, 5]       ──►  [2, 3, 5]   [6, 1, 5]   [2, 1, 11]        one size after the other; equal sizes are one
    [x, y]          ──►  [x, y, x, y]                              lists of tensors
    lengths [4, 2]  ──►  [8, 4]                                    whole numbers, where code reads them

What a dimension of the input means is not known. Code that takes it at one size only raises at another, and says so by that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

import torch

from secateur.torch.running.example import Example
from secateur.torch.running.restoring import named_tensors

_SMALL = 32  # up to here twice as large: what counts by the dozen steps counts on
_STEP = 32  # of larger ones, that strides of images still divide
_MOST = 2**20  # numbers: a batch of large images gets one more and not twice as many
Others = tuple[str, list[Example]]  # what is another one, and the examples with it, the first to be tried first


def other_sizes(example: Example, *, briefly: bool = False, but: Collection[int] = ()) -> Iterator[Others]:
    """For each size of a dimension of the inputs ``but`` these, the example with another in its place: larger ones, first one
    that is nothing else's size, and then a smaller; for each list of tensors, the example with a longer one.

    ``briefly``: of large sizes the smaller first, since what runs takes time.
    """
    tensors = example.tensors()
    if any(tensor.layout is not torch.strided or tensor.is_quantized for tensor in tensors):
        return
    sizes = {n for tensor in tensors for n in tensor.shape if n}
    taken = sizes | {n for tensor in named_tensors(example.model).values() for n in tensor.shape}
    total = sum(tensor.numel() for tensor in tensors)
    for size in sorted(sizes.difference(but)):
        larger = 2 * size if size <= _SMALL else size + _STEP
        if total * larger > _MOST * size:
            larger = size
        alone = next(n for n in itertools.count(larger + 1) if n not in taken)
        others = (size // 2, alone, larger) if briefly and size > _SMALL else (alone, larger, size // 2)
        yield f"size than {size}", [_resized(example, size, to) for to in others if to not in (0, size)]
    for name, given in [*enumerate(example.args), *example.kwargs.items()]:
        if type(given) in (list, tuple) and given and all(isinstance(each, torch.Tensor) for each in given):
            yield f"length than {len(given)}", [_with(example, name, given + given)]


def other_numbers(example: Example) -> list[Example]:
    """The example with other whole numbers: larger ones, then smaller ones."""

    def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> Example:
        return replace(
            example.map(lambda t: change(t.detach().clone()) if _is_whole(t) else t.detach().clone()), also=()
        )

    if not any(map(_is_whole, example.tensors())):
        return []
    return [
        changed(one) for one in (lambda t: 2 * t, lambda t: t + 1, lambda t: t // 2, lambda t: (t - 1).clamp_min(0))
    ]


def _is_whole(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool or tensor.is_quantized)


def _resized(example: Example, size: int, to: int) -> Example:
    """Each dimension of this size at another; what is there is repeated, or cut off."""

    def one(tensor: torch.Tensor) -> torch.Tensor:
        made = tensor.detach().clone()
        for dim, n in enumerate(tensor.shape):
            if n == size:
                made = made.index_select(dim, torch.arange(to, device=made.device) % size)
        return made

    return replace(example.map(one), also=())


def _with(example: Example, name: int | str, value: object) -> Example:
    args = tuple(value if place == name else each for place, each in enumerate(example.args))
    kwargs = {key: value if key == name else each for key, each in example.kwargs.items()}
    return replace(example, args=args, kwargs=kwargs, also=())
