"""Slices of live parameters that gradients flow back through.

    weight ──kept rows──► slice ──► loss      loss.backward():  slice's gradient, zero elsewhere ──► weight.grad

Unlike indexing, a slice keeps no tensor for the way back, so that one slice serves any number of backward passes.

Invariant: a slice holds the numbers that the parameter had when it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from secateur.core.layout import Indices, Layout
from secateur.core.plan import Plan
from secateur.torch.narrowing.slices import check_shape, narrow_tensor, widened


def shared_slices(tensors: Mapping[str, torch.Tensor | None], plan: Plan) -> dict[str, torch.Tensor]:
    """What the plan leaves of each of these tensors; the gradients of floating ones reach the tensors given."""
    made: dict[str, torch.Tensor] = {}
    known: dict[int, torch.Tensor] = {}
    for name, tensor in tensors.items():
        layout = plan.layouts[name]
        tensor = check_shape(name, tensor, layout)
        if id(tensor) not in known:
            with torch.enable_grad():
                known[id(tensor)] = _Slice.apply(tensor, layout, plan.arrays)
        made[name] = known[id(tensor)]
    return made


class _Slice(torch.autograd.Function):
    """`narrow_tensor`, and `widened` for its gradient."""

    @staticmethod
    def forward(tensor: torch.Tensor, layout: Layout, arrays: Mapping[str, Indices]) -> torch.Tensor:
        return narrow_tensor(tensor, layout, arrays)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: torch.Tensor) -> None:
        _, ctx.layout, ctx.arrays = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return widened(gradients[0], ctx.layout, ctx.arrays), None, None
