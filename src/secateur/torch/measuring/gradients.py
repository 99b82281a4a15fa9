"""Gradients of the parameters that carry widths, a backward pass at a time.

    for count in gradients(...):     every asked parameter has its .grad of this batch's (or sample's) loss
        carrier.tensor.grad

Invariant: meant for the network that `judging` gives, whose gradients are nobody else's.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.utils._pytree import tree_map

from secateur.core.graph import Graph
from secateur.errors import InputError, SecateurError
from secateur.torch.measuring.judging import batches
from secateur.torch.measuring.norms import with_values
from secateur.torch.measuring.samples import has_samples, rows_of
from secateur.torch.measuring.weights import Carrier, carriers
from secateur.torch.running.data import Data
from secateur.torch.running.example import Example, batch_size
from secateur.torch.running.explaining import brief
from secateur.torch.running.walking import named_parameters


def live_carriers(graph: Graph, model: nn.Module, *, bias: bool = False) -> list[Carrier]:
    """As `carriers`, with the parameters themselves, which have a ``.grad``."""
    named = dict(named_parameters(model))
    return with_values(carriers(graph, model, bias=bias), lambda carrier: named[carrier.name])


def gradients(name: str, data: Data, model: nn.Module, asked: list[Carrier], *, per: str) -> Iterator[int]:
    """Yield after each backward pass how many samples it was of; with ``per="sample"`` one at a time."""
    for carrier in asked:
        carrier.tensor.requires_grad_()
    for batch in batches(name, data, model):
        size = batch_size(Example.of(model, data.collect(batch)))
        for part in _singly(batch, size) if per == "sample" else (batch,):
            for carrier in asked:
                carrier.tensor.grad = None
            output = data.output(model, part) if per != "sample" or size == 1 else _of_one(data, model, part)
            backward(data.loss_of(output, part))
            yield 1 if per == "sample" else size


def gradient_of(carrier: Carrier) -> torch.Tensor:
    """The gradient, in float32 or better; zeros where the loss did not depend on it."""
    grad = carrier.tensor.grad
    if grad is None:
        grad = torch.zeros_like(carrier.tensor)
    return grad.to(torch.promote_types(grad.dtype, torch.float32))


def backward(loss: torch.Tensor) -> None:
    """Differentiate a loss. Raises InputError where it depends on nothing that is judged, and where PyTorch cannot."""
    if not loss.requires_grad:
        raise InputError(
            "the loss does not depend on what is judged: does the model, or loss_func, detach or run under no_grad?"
        )
    try:
        loss.backward()
    except (SecateurError, torch.OutOfMemoryError):
        raise
    except RuntimeError as fault:
        raise InputError(
            f"PyTorch cannot differentiate what the model computes on these data ({brief(fault)}): use a criterion that needs no "
            'gradients, such as "l2" or "second_moment"'
        ) from fault


def _of_one(data: Data, model: nn.Module, part: object) -> object:
    """What the model gives for one sample. Raises InputError where it does not run on one."""
    try:
        return data.output(model, part)
    except (SecateurError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, IndexError) as fault:
        raise InputError(
            f"{type(model).__name__} does not run on one sample of a batch alone ({brief(fault)}), as "
            'where samples are the nodes of one graph: judge batches whole, with per="batch"'
        ) from fault


def _singly(batch: object, size: int) -> Iterator[object]:
    """Batches of one: every tensor whose first dimension counts samples is cut."""

    def one(value: object, i: int) -> object:
        return rows_of(value, [i]) if has_samples(value, size) else value

    return (tree_map(lambda value, i=i: one(value, i), batch) for i in range(size))
