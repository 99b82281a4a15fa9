"""A network that data runs through to be judged, apart from the model that it is judged for.

    with judging(model) as judged:     evaluation mode, no parameter asks for a gradient, autograd is on
        ...                            judged is a twin: flags, requires_grad, .grad, buffers and attributes are its own

Weights are in the memory of the model's, so that a large model is not held twice.

Invariant: the model is never written to, and may serve in another thread meanwhile; the process is left as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from secateur.progress import progress
from secateur.torch.running.data import Data
from secateur.torch.running.switches import Watched, apart, cudnn_off
from secateur.torch.running.twin import in_use, twin
from secateur.torch.running.walking import modules_of


@contextmanager
def judging(model: nn.Module) -> Iterator[nn.Module]:
    """A twin of the model, to run as often as you like in here. Raises InputError where the model cannot be copied."""
    with ExitStack() as stack:
        stack.enter_context(apart())  # first: what is made in inference mode has no gradient
        judged = twin(model, in_use).eval()
        stack.enter_context(torch.enable_grad())
        stack.enter_context(Watched())  # attention's fused path shows no weights and has no gradient
        if any(isinstance(m, nn.RNNBase) for m in modules_of(judged)):
            stack.enter_context(cudnn_off())  # cuDNN has no gradient in evaluation
        yield judged


def batches(name: str, data: Data, model: nn.Module) -> Iterator[object]:
    """The batches of the data, with progress on a terminal."""
    length = len(data.loader) if hasattr(data.loader, "__len__") else data.num_batches  # type: ignore[arg-type]
    total = max(1, min(length, data.num_batches))
    with progress(name) as tell:
        for number, batch in enumerate(data.batches(model), start=1):
            tell(number / total, f"batch {number} of {total}")
            yield batch
