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
from secateur.errors import InputError
from secateur.torch.measuring.judging import batches
from secateur.torch.measuring.norms import with_values
from secateur.torch.measuring.samples import has_samples
from secateur.torch.measuring.weights import Carrier, carriers
from secateur.torch.running.data import Data
from secateur.torch.running.example import Example, batch_size
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
            backward(data.loss_of(data.output(model, part), part))
            yield 1 if per == "sample" else size


def gradient_of(carrier: Carrier) -> torch.Tensor:
    """The gradient, in float32 or better; zeros where the loss did not depend on it."""
    grad = carrier.tensor.grad
    if grad is None:
        grad = torch.zeros_like(carrier.tensor)
    return grad.to(torch.promote_types(grad.dtype, torch.float32))


def backward(loss: torch.Tensor) -> None:
    """Differentiate a loss. Raises InputError where it depends on nothing that is judged."""
    if not loss.requires_grad:
        raise InputError(
            "the loss does not depend on what is judged: does the model, or loss_func, detach or run under no_grad?"
        )
    loss.backward()


def _singly(batch: object, size: int) -> Iterator[object]:
    """Batches of one: every tensor whose first dimension counts samples is cut."""

    def one(value: object, i: int) -> object:
        return value[i : i + 1] if has_samples(value, size) else value

    return (tree_map(lambda value, i=i: one(value, i), batch) for i in range(size))
