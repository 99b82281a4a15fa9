"""What happens to a contraction's output on its way to a sum: batch norm, a scale, dropout that is off.

    y ── batch norm ── × gamma ──► (+) skip          every step is affine for each channel

So the contraction can be fitted to what the *sum* should be, and a block gives back what all blocks before it lost.

Invariant: a chain that anything else has read is left alone: its output is out in the world.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from secateur.torch.running.contractions import Site

Affine = Callable[[torch.Tensor], torch.Tensor]


@dataclass(slots=True)
class Chain:
    """A contraction's output, and what has been done to each channel of it since."""

    visit: str
    site: Site
    affine: list[Affine] = field(default_factory=list)
    scale: torch.Tensor | None = None  # what the channels have been multiplied with
    read: bool = False  # something else has used the output: it cannot be changed any more


def chain_of(tensor: object) -> Chain | None:
    """The chain that a tensor is the end of."""
    return getattr(tensor, "_secateur_chain", None) if isinstance(tensor, torch.Tensor) else None


def link(tensor: torch.Tensor, chain: Chain | None) -> torch.Tensor:
    """Note that a tensor is the end of a chain."""
    if chain is not None:
        tensor._secateur_chain = chain  # type: ignore[attr-defined]
    return tensor


def used(value: object) -> None:
    """Note that something has used this tensor, or the tensors in this list, as they are."""
    for item in value if isinstance(value, (list, tuple)) else (value,):
        chain = chain_of(item)
        if chain is not None:
            chain.read = True


SUMS = {
    torch.add,
    torch.Tensor.add,
    torch.Tensor.add_,
    torch.Tensor.__add__,
    torch.Tensor.__radd__,
    torch.Tensor.__iadd__,
}
SCALES = {torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__}
DROPOUTS = {torch.dropout, torch.dropout_, torch.feature_dropout, nn.functional.dropout}
BATCH_NORMS = {torch.batch_norm}
LOOKUPS = {torch.embedding, nn.functional.embedding, torch.embedding_bag, nn.functional.embedding_bag}
IN_PLACE = {torch.Tensor.add_, torch.Tensor.__iadd__}
