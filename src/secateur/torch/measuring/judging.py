"""The state a model is in while data runs through it to be judged, and the way back.

    with judging(model):     evaluation mode, no parameter asks for a gradient, buffers are copies, autograd is on
        ...
                             training flags, requires_grad, .grad, buffers, attributes, random state are as before

Invariant: after the block, even after an error, the model is bit for bit what it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from secateur.progress import progress
from secateur.torch.running.data import Data
from secateur.torch.running.restoring import swap_weights, untouched


@contextmanager
def judging(model: nn.Module) -> Iterator[None]:
    """Run the model as often as you like in here; it will not show."""
    with untouched(model), _gradients_put_aside(model), _switches(model):
        buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
        swap_weights(model, lambda name, tensor: tensor.detach().clone() if name in buffers else tensor)
        model.eval()
        yield


def batches(name: str, data: Data, model: nn.Module) -> Iterator[object]:
    """The batches of the data, with progress on a terminal."""
    length = len(data.loader) if hasattr(data.loader, "__len__") else data.num_batches  # type: ignore[arg-type]
    total = max(1, min(length, data.num_batches))
    with progress(name) as tell:
        for number, batch in enumerate(data.batches(model), start=1):
            tell(number / total, f"batch {number} of {total}")
            yield batch


@contextmanager
def _gradients_put_aside(model: nn.Module) -> Iterator[None]:
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        for p, _, _ in before:
            p.requires_grad_(False)
            p.grad = None
        yield
    finally:
        for p, asked, grad in before:
            p.requires_grad_(asked)
            p.grad = grad


@contextmanager
def _switches(model: nn.Module) -> Iterator[None]:
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused path shows no weights and has no gradient
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            if any(isinstance(m, nn.RNNBase) for m in model.modules()):
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # cuDNN has no gradient in evaluation
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
