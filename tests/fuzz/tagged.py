"""What narrowing did, found out without asking how it does it: numbered tensors go in, the numbers that are left come out.

    a weight of 0 1 2 3 4 5 …  ──► apply ──► 0 2 4 …       so this is what was kept, and the rest was removed

A zeroed network follows: the whole one with every number that was removed set to zero. For widths that are exact it must
compute what the narrowed one does.

Invariant: nothing here knows of layouts, kept indices or masks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

import secateur as sc

BASE = 100  # digits that every number type holds
Positions = dict[str, Tensor]


def named(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that hold real or complex numbers, by every name."""
    found = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    return {name: t for name, t in found.items() if t.is_floating_point() or t.is_complex()}


def kept_positions(model: nn.Module, plan: sc.Plan) -> Positions:
    """For each tensor of the narrowed network, where each of its numbers stood in the whole one.

    The model is one to throw away: its numbers are overwritten.
    """
    kept: Positions = {}
    largest = max((t.numel() for t in named(model).values()), default=1)
    scale = 1
    while scale <= largest:
        with torch.no_grad():
            for tensor in named(model).values():
                digits = torch.arange(tensor.numel()) // scale % BASE
                tensor.copy_(digits.view(tensor.shape))
        for name, tensor in named(sc.apply(model, plan, verify=False)).items():
            digits = (tensor.detach().real if tensor.is_complex() else tensor.detach()).to(torch.int64)
            kept[name] = kept[name] + scale * digits if name in kept else digits
        scale *= BASE
    return kept


def zero_removed(model: nn.Module, here: Mapping[str, Tensor] | None, kept: Positions) -> None:
    """Set to zero whatever is not kept. ``here`` says where the numbers of this model stood, if some are gone already."""
    with torch.no_grad():
        for name, tensor in named(model).items():
            places = torch.arange(tensor.numel()) if here is None else here[name].flatten()
            gone = ~torch.isin(places, kept[name].flatten())
            tensor.masked_fill_(gone.view(tensor.shape), 0)


def gathered(whole: Tensor, here: Tensor | None, kept: Tensor) -> Tensor:
    """The numbers of a whole tensor (whose own places are ``here``) that stand where the narrowed one has its own."""
    flat = whole.reshape(-1)
    if here is None:
        return flat[kept.flatten()].view(kept.shape)
    order = here.flatten().argsort()
    return flat[order[torch.searchsorted(here.flatten()[order], kept.flatten())]].view(kept.shape)
