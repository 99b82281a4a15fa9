"""Inputs like the example, but others.

    floating numbers    drawn around the lower or the upper quarter of their range      (a branch on their mean goes either way)
    ids                 drawn from the example's least to its greatest
    samples             as many as there are, and once one more or one fewer
    booleans, masks     kept: numbers of two values or with infinities, and integers in order (positions, lengths, offsets)

Invariant: whatever values an argument had, its fresh ones lie in the same range; everything that is no tensor stays.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from secateur.torch.running.example import Example
from secateur.torch.running.twin import copied


def informative(example: Example) -> Example:
    """The example, but noise where a tensor is one number everywhere: that would hide mistakes."""
    generator = torch.Generator().manual_seed(0)

    def one(tensor: torch.Tensor) -> torch.Tensor:
        numbers = tensor.is_floating_point() and tensor.numel() > 1 and tensor.layout is torch.strided
        constant = numbers and not bool((tensor != tensor.reshape(-1)[0]).any())
        return _noise(tensor, generator) if constant else tensor.detach().clone()

    return _mapped(example, one)


def fresh(example: Example, share: float, *, ids: bool) -> Example:
    """Other inputs of the same shapes, around this share of their ranges; integers stay unless ``ids``."""
    generator = torch.Generator().manual_seed(round(100 * share))

    def one(tensor: torch.Tensor) -> torch.Tensor:
        if not is_drawn(tensor):
            return tensor.detach().clone()
        if tensor.is_floating_point() or tensor.is_complex():
            return _like(tensor, share, generator)
        if not ids:
            return tensor.detach().clone()
        low, high = int(tensor.min()), int(tensor.max())
        return torch.randint(low, high + 1, tensor.shape, generator=generator).to(tensor)

    return _mapped(example, one)


def resized(example: Example) -> Example | None:
    """The example with two samples for one, or else one fewer; None where its tensors do not agree on how many there are."""
    tensors = [tensor for tensor in example.tensors() if tensor.dim()]
    if len({tensor.shape[0] for tensor in tensors}) != 1 or any(t.layout is not torch.strided for t in tensors):
        return None

    def one(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.dim():
            return tensor.detach().clone()
        return torch.cat([tensor.detach()] * 2) if tensor.shape[0] == 1 else tensor.detach()[:-1].clone()

    return _mapped(example, one)


def is_drawn(tensor: torch.Tensor) -> bool:
    """Whether other numbers can stand in the place of these: they are no mask, no flag and no order."""
    if tensor.numel() < 2 or tensor.dtype is torch.bool or tensor.is_quantized or tensor.layout is not torch.strided:
        return False
    if tensor.is_complex():
        return True
    least, most = tensor.aminmax()
    if not bool((most - least).isfinite()) or bool(((tensor == least) | (tensor == most)).all()):
        return False
    return tensor.is_floating_point() or not _is_in_order(tensor)


def _is_in_order(tensor: torch.Tensor) -> bool:
    """Whether integers never fall along the last axis, or never rise: positions, lengths, offsets."""
    if tensor.dim() == 0 or tensor.shape[-1] < 2:
        return True
    steps = tensor.diff(dim=-1)
    return bool((steps >= 0).all()) or bool((steps <= 0).all())


def _like(tensor: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    if tensor.is_complex():
        return torch.view_as_complex(
            _like(torch.view_as_real(tensor.detach().resolve_conj()), share, generator).contiguous()
        )
    numbers = tensor.detach().double()
    low, high = numbers.min(), numbers.max()
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
    made = low + (high - low) * share + noise * numbers.std() / 2
    made = made.clamp(low, high)
    return (made.round() if bool((numbers == numbers.round()).all()) else made).to(tensor.dtype)


def _noise(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(tensor.shape, generator=generator).to(tensor)


def _mapped(example: Example, one: object) -> Example:
    args, kwargs = copied((example.args, example.kwargs), one)  # type: ignore[arg-type]
    return replace(example, args=args, kwargs=kwargs, also=())
