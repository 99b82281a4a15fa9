"""What a network answers: how far that is from another answer, and how steeply the distance rises.

    logits      distance  KL(wanted ‖ given)         a draw  the loss on labels drawn from the answer itself
    numbers     distance  ½ ‖wanted − given‖²         a draw  the answer times normal noise

The squared gradient of the draws is, on average, the curvature of the distance (Fisher information). R rows, one for each place
of each sample; K classes, or numbers.

Invariant: a distance is a sum over samples, each the mean over its places; padded places are none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from secateur.errors import InputError
from secateur.torch.running.padding import NOTHING_PADDED, Padding


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one batch of ``samples``: ``z_RK`` are logits or, where ``is_numbers``, just that."""

    z_RK: torch.Tensor
    samples: int
    is_numbers: bool

    @classmethod
    def of(cls, output: object, asked_by: str) -> Answer:
        """Of what a model returned. Raises InputError where that has no floating tensor."""
        z = answer_of(output, asked_by)
        rows = z.reshape(-1, z.shape[-1]) if z.dim() > 1 else z[:, None]
        return cls(rows, len(z), rows.shape[1] == 1 or hasattr(output, "last_hidden_state"))

    def weights(self, padding: Padding = NOTHING_PADDED) -> torch.Tensor:
        """What each row counts, so that each sample counts one: ``[R]``."""
        shape = (self.samples, -1)
        live = padding.live(self.z_RK[:, 0].view(shape).shape)
        counts_ST = torch.ones_like(self.z_RK[:, 0]).view(shape) if live is None else live.to(self.z_RK)
        return (counts_ST / counts_ST.sum(1, keepdim=True).clamp_min(1)).flatten()

    def distance(self, wanted: Answer) -> torch.Tensor:
        """From another answer to the same batch, ``[R]``."""
        if self.is_numbers:
            return (self.z_RK - wanted.z_RK).square().sum(1) / 2
        logs_RK, wanted_RK = self.z_RK.log_softmax(1), wanted.z_RK.log_softmax(1)
        return (wanted_RK.exp() * (wanted_RK - logs_RK)).sum(1)

    def of_a_draw(self, generator: torch.Generator) -> torch.Tensor:
        """The loss of what is drawn from this answer, ``[R]``."""
        if self.is_numbers:
            return (self.z_RK * torch.randn(self.z_RK.shape, generator=generator).to(self.z_RK)).sum(1)
        chances = self.z_RK.detach().softmax(1).cpu()
        drawn_R = torch.multinomial(chances, 1, generator=generator).flatten().to(self.z_RK.device)
        return functional.cross_entropy(self.z_RK, drawn_R, reduction="none")

    def pull(self, wanted: Answer) -> torch.Tensor:
        """The gradient of the distance by the answer, ``[R, K]``."""
        if self.is_numbers:
            return self.z_RK - wanted.z_RK
        return self.z_RK.softmax(1) - wanted.z_RK.softmax(1)

    def stretched(self, change_RK: torch.Tensor) -> torch.Tensor:
        """A small change of this answer such that the squares of two rows' sum is twice the distance."""
        if self.is_numbers:
            return change_RK
        chances_RK = self.z_RK.softmax(1)
        return (change_RK - (chances_RK * change_RK).sum(1, keepdim=True)) * chances_RK.sqrt()


def answer_of(output: object, asked_by: str) -> torch.Tensor:
    """``[B, …, classes]``, in float32 or better. Raises InputError where there is no such tensor."""
    z = told(output)
    if z is None or not z.is_floating_point() or z.dim() < 1:
        raise InputError(f"{asked_by} needs an output with .logits, or one that begins with a floating tensor")
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return z.movedim(1, -1) if z.dim() > 3 else z


def told(output: object) -> torch.Tensor | None:
    """``output.logits``, or the first tensor of the output."""
    z = getattr(output, "logits", None)
    return z if z is not None else next((leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)), None)
