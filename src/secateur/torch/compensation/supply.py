"""Batches for one step after the other: first those that layers were fitted to, then what the loader has beyond them, then again.

    known │ known │ known ┃ beyond │ beyond │ … ┃ known │ …          a step looks at a few, the next step at the next few

A step costs the same on samples that no step has seen, and cannot learn them by heart.

Invariant: a sample that is left out is left out wherever it comes again, in whatever order a loader gives its samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from secateur.torch.measuring.samples import has_samples, rows_of
from secateur.torch.running.digests import add_tensor
from secateur.torch.running.example import Example, batch_size


@dataclass(frozen=True, slots=True, eq=False)
class Portion:
    """A batch, which of its samples are only judged on (True), and its number among those known; None for one from beyond."""

    batch: object
    held_S: torch.Tensor
    number: int | None = None


def in_turn(
    known: Sequence[Portion], beyond: Callable[[], Iterable[object]], read: Callable[[object], Example]
) -> Iterator[Portion]:
    """Batches without end; ``beyond`` gives those that come after the known ones, ``read`` what a model takes of one."""
    left_out: set[bytes] | None = None
    while True:
        yield from known
        for batch in beyond():
            if left_out is None:
                left_out = {mark for one in known for mark in _marks(read(one.batch), one.held_S.tolist())}
            example = read(batch)
            held = [mark in left_out for mark in _marks(example, [True] * batch_size(example))]
            yield Portion(batch, torch.tensor(held))


def _marks(example: Example, asked: Sequence[bool]) -> list[bytes]:
    """What tells a sample from others, for those asked for: a digest of its rows in all tensors."""
    rows = [tensor.cpu() for tensor in example.tensors() if has_samples(tensor, len(asked))]
    return [_digest([rows_of(tensor, [number]) for tensor in rows]) for number, wanted in enumerate(asked) if wanted]


def _digest(tensors: Iterable[torch.Tensor]) -> bytes:
    digest = hashlib.sha256()
    for tensor in tensors:
        add_tensor(digest, tensor)
    return digest.digest()
