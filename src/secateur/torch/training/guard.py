"""What fine-tuning must not leave behind.

    with restored_on_error(model, optimizer), rates_kept(optimizer): …

Invariant: after the block, learning rates are what they were; after an error, so are all weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from secateur.torch.running.walking import buffers_of, parameters_of


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is."""
    return next((p.device for p in parameters_of(model)), torch.device("cpu"))


def snapshot_of(model: nn.Module) -> list[torch.Tensor]:
    """Copies of all parameters and buffers."""
    return [t.detach().clone() for t in (*parameters_of(model), *buffers_of(model))]


def put_back(model: nn.Module, tensors: list[torch.Tensor]) -> None:
    """Write copies back into the very tensors they were made of."""
    with torch.no_grad():
        for live, kept in zip((*parameters_of(model), *buffers_of(model)), tensors, strict=True):
            live.copy_(kept)


@contextmanager
def restored_on_error(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """If the block raises, the model and the optimizer are what they were; gradients are gone in any case."""
    tensors = snapshot_of(model)
    state = copy.deepcopy(optimizer.state_dict())
    try:
        yield
    except BaseException:
        put_back(model, tensors)
        optimizer.load_state_dict(state)
        raise
    finally:
        optimizer.zero_grad(set_to_none=True)


@contextmanager
def rates_kept(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """A scheduler may turn the learning rates in the block; on exit an optimizer that is used again has its own."""
    before = [(group, group["lr"], "initial_lr" in group) for group in optimizer.param_groups]
    try:
        yield
    finally:
        for group, rate, scheduled in before:
            group["lr"] = rate
            if not scheduled:
                group.pop("initial_lr", None)
