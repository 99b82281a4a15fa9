"""What code has hung on a parameter and that would not follow where it is narrowed.

    w.register_hook(mask_the_gradient)             a hook that may hold a mask of the whole size, or name units by number
    w.register_post_accumulate_grad_hook(step)     an optimizer inside the backward pass, whose state has the whole size
    w.lr_scale = torch.ones(w.shape)               a tensor of the parameter's own shape

Invariant: of such parameters no dimension is narrowed; who takes the thing off, and puts it on again afterwards, has them free.
"""

from __future__ import annotations

import torch
from torch import nn

from secateur.core.space import freeze
from secateur.torch.running.parameter_hooks import hooks_on
from secateur.torch.tracing.observe import Observation


def freeze_hung(seen: Observation) -> None:
    """Freeze what parameters are made of that carry a hook, or a tensor of their own shape."""
    for name, tensor in seen.tensors.items():
        if isinstance(tensor, nn.Parameter) and (why := _reason(name, tensor)) is not None:
            for space in seen.spaces.get(name, ()):
                freeze(space, why)


def _reason(name: str, parameter: nn.Parameter) -> str | None:
    if hooks := hooks_on(parameter):
        registered = " and ".join(sorted(hooks))
        return f"{name} has a hook ({registered}), which would not follow: remove it before, register it again after"
    for key, value in vars(parameter).items():
        if isinstance(value, torch.Tensor) and value.dim() and value.shape == parameter.shape:
            return f"{name}.{key}, a tensor of its shape, would not follow: take it off before, hang it on again after"
    return None
