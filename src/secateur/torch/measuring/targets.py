"""What is differentiated: the loss, or how strong the network's answer is.

    target="loss"      ∂ of the data's loss: what GradNAS and the Taylor criteria do
    target="output"    ∂ of ‖z − mean z‖, the norm of the centred output of each sample: needs no labels

On data that a network fits, the loss has almost no gradient left but for the few samples it gets wrong, and these then decide
which units stay; the output has as much as ever.

Invariant: a target is a mean over samples.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch.utils._pytree import tree_leaves

from secateur.errors import InputError
from secateur.torch.running.data import Data

Target = Literal["loss", "output"]


def aimed(data: Data, target: Target) -> Data:
    """The data, with what is differentiated as its loss."""
    return data if target == "loss" else replace(data, loss=output_norm)


def output_norm(output: object, batch: object = None) -> torch.Tensor:
    """Mean over samples of ‖z − mean z‖, z being ``output.logits`` or the first tensor of the output.

    Classes are the last dimension, or dimension 1 of maps ``[B, K, h, w]``. Raises InputError where there is no such tensor.
    """
    z = getattr(output, "logits", None)
    if z is None:
        z = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)), None)
    if z is None or not z.is_floating_point() or z.dim() < 1:
        raise InputError('target="output" needs an output with .logits, or one that begins with a floating tensor')
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    classes = 1 if z.dim() > 3 else -1
    centred = z - z.mean(classes, keepdim=True) if z.shape[classes] > 1 else z
    return centred.reshape(len(z), -1).norm(dim=1).mean()
