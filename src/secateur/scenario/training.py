"""Optimizers and losses by name.

    optimizer: adam   lr: 0.001        ->  torch.optim.Adam(parameters, lr=0.001)
    loss: cross_entropy                ->  loss(output, batch), a scalar

Invariant: a name selects from this list, or from what the user registered; it is never imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.core.registry import Registry
from secateur.errors import InputError
from secateur.torch.evaluating.metrics import classes_of

MakeOptimizer = Callable[[list[nn.Parameter], float, float], torch.optim.Optimizer]  # parameters, lr, weight decay
Loss = Callable[[object, object], Tensor]

OPTIMIZERS: Registry[MakeOptimizer] = Registry("optimizer")
LOSSES: Registry[Loss] = Registry("loss")


@OPTIMIZERS.add("adamw")
def adamw(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay."""
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)


@OPTIMIZERS.add("adam")
def adam(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Adam."""
    return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay)


@OPTIMIZERS.add("sgd")
def sgd(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent with Nesterov's momentum of 0.9."""
    return torch.optim.SGD(parameters, lr=lr, weight_decay=weight_decay, momentum=0.9, nesterov=True)


@OPTIMIZERS.add("plain_sgd")
def plain_sgd(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent without momentum."""
    return torch.optim.SGD(parameters, lr=lr, weight_decay=weight_decay)


@OPTIMIZERS.add("rmsprop")
def rmsprop(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """RMSprop."""
    return torch.optim.RMSprop(parameters, lr=lr, weight_decay=weight_decay)


@LOSSES.add("cross_entropy")
def cross_entropy(output: object, batch: object) -> Tensor:
    """Of the classes; labels of -100 do not count."""
    logits, labels = classes_of(output, batch)
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten())


@LOSSES.add("next_token")
def next_token(output: object, batch: object) -> Tensor:
    """Cross entropy of each token with what was foretold for it."""
    logits, labels = classes_of(output, batch)
    return functional.cross_entropy(logits[:, :-1].flatten(0, -2), labels[:, 1:].flatten())


@LOSSES.add("mean_squared_error")
def mean_squared_error(output: object, batch: object) -> Tensor:
    """Of numbers."""
    given = getattr(output, "logits", output)
    wanted = (
        batch.get("labels") if isinstance(batch, Mapping) else batch[1] if isinstance(batch, list | tuple) else None
    )
    if not isinstance(given, Tensor) or not isinstance(wanted, Tensor):
        raise InputError("mean_squared_error wants batches of (inputs, numbers) and an output that is a tensor")
    return functional.mse_loss(given.squeeze(-1), wanted.to(given.dtype))
