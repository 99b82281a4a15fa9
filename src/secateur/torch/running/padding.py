"""Which positions of a batch are text, and which only fill it up.

    attention_mask  1 1 1 0        rows of an activation [B, T, F], [B·T, F] or [T, B, F]: those of zeros say nothing
                    1 1 1 1

Found by what the model's own forward calls it: ``…attention_mask`` (one is text) and ``…padding_mask`` (True is padding), of two
dimensions. Masks of other shapes say who sees whom, not what is padding.

Invariant: where nothing is padded there is no mask, and everybody does what they did without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from secateur.torch.running.example import Example


@dataclass(frozen=True, slots=True)
class Padding:
    """The masks of one batch, each True where there is text, ``[B, T]``."""

    masks: tuple[torch.Tensor, ...] = ()

    @classmethod
    def of(cls, model: nn.Module, given: object) -> Padding:
        """What a batch says of itself, as the model is given it."""
        return cls(tuple(_masks(Example.of(model, given))))

    def live(self, shape: Sequence[int]) -> torch.Tensor | None:
        """Which rows of this shape (an activation's, but for its features) are text; None where all of them are."""
        for mask in self.masks:
            if tuple(shape) == tuple(mask.shape):
                return mask
            if tuple(shape) == (mask.numel(),):
                return mask.flatten()
            if tuple(shape) == tuple(mask.T.shape):
                return mask.T
        return None

    def only(self, rows: torch.Tensor) -> torch.Tensor:
        """``[*shape, F]`` as ``[R, F]``, without those that are padding."""
        live = self.live(rows.shape[:-1])
        return rows.flatten(0, -2) if live is None else rows[live.to(rows.device)]

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """``[B, T]`` as the mean of each row's text, ``[B]``."""
        live = self.live(values.shape)
        if live is None:
            return values.mean(1)
        live = live.to(values)
        return (values * live).sum(1) / live.sum(1).clamp_min(1)


NOTHING_PADDED = Padding()


def _masks(example: Example) -> Iterator[torch.Tensor]:
    for name, value in example.by_name().items():
        if not isinstance(value, torch.Tensor) or value.dim() != 2 or value.is_complex():
            continue
        if name.endswith("attention_mask"):
            live = value != 0
            binary = value.dtype == torch.bool or bool(((value == 0) | (value == 1)).all())
        elif name.endswith("padding_mask") and value.dtype == torch.bool:
            live, binary = ~value, True
        else:
            continue
        if binary and bool(live.any()) and not bool(live.all()):
            yield live
