"""State that a call leaves for the next: what is read and what is written are one.

    self.h = tanh(self.a(cat[x, self.h]))        h as it was found (2, 20)  =  h as it is left (2, 20): one width

Invariant: what lay in a place and what is left there have the same widths, or are whole.
"""

from __future__ import annotations

import torch

from secateur.core.space import freeze, unify
from secateur.torch.running.state import State
from secateur.torch.tracing.tracer import Tracer


def tie_kept(tracer: Tracer, before: State, after: State) -> None:
    """Say that a call leaves in each place what the next one may find there."""
    for place, found in before.items():
        left = after.get(place)
        if left is not None and left.tensor is not found.tensor and tracer.known(found.tensor) is not None:
            _tie(tracer, found.tensor, left.tensor, place)


def _tie(tracer: Tracer, found: torch.Tensor, left: torch.Tensor, place: str) -> None:
    if not found.numel():
        return  # the first call fills it, and found nothing there to read: what the second one finds is tied
    reason = f"{place}, which a call leaves for the next one, has another shape then"
    if found.dim() != left.dim():
        tracer.freeze_all((found, left), reason)
        return
    for one, other in zip(tracer.spaces(found), tracer.spaces(left), strict=True):
        if one.root().size == other.root().size:
            unify(one, other, f"{place} is read by the next call")
        else:
            freeze(one, reason)
            freeze(other, reason)
