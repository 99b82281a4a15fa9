"""The optimizer and the schedule for whoever names none.

    AdamW, decay on matrices only     lr:  ╱‾‾╲      a short warm-up, then half a cosine to zero
                                          ╱    ╲__

Invariant: an optimizer that was given is used as it is; it must hold a parameter of this very model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from secateur.errors import ConfigError, InputError
from secateur.torch.narrowing.history import history_of
from secateur.torch.running.batch_norm import batch_norms
from secateur.torch.running.walking import parameters_of
from secateur.torch.training.config import FinetuneConfig, Scheduler


def optimizer_for(
    model: nn.Module, options: FinetuneConfig, beside: Sequence[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """The optimizer that was given or made, or the default one. Raises ConfigError, InputError where it cannot train this.

    One that is made here trains the parameters ``beside`` the model's, too.
    """
    given, lr = options.optimizer, options.lr
    idle = [name for name in ("lr", "weight_decay") if name in options.model_fields_set and given is not None]
    if idle:
        raise ConfigError(f"config: {idle[0]} has no effect beside an optimizer: set it there")
    trained = [
        p for p in model.parameters() if p.requires_grad
    ]  # as the class has it: some leave out what is not to be
    if not trained:
        raise InputError("no parameter of the model requires a gradient: nothing can be trained")
    if given is None:
        rate = lr if lr is not None else 1e-3 if batch_norms(model) else 1e-4
        trained += beside
        matrices = [p for p in trained if p.dim() > 1]
        groups = [
            {"params": matrices, "weight_decay": options.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=rate)
    made = given if isinstance(given, torch.optim.Optimizer) else given([*trained, *beside])
    if not hasattr(made, "param_groups"):
        raise ConfigError(f"config: optimizer(parameters) gives a torch.optim.Optimizer, not {made!r:.60}")
    held = {id(p) for group in made.param_groups for p in group["params"]}
    was = {old for step in history_of(model) for old in step.names()} - {id(p) for p in parameters_of(model)}
    if held & was:
        raise InputError(
            "the optimizer holds parameters from before pruning: call remap_optimizer(optimizer, model) first"
        )
    if not held & {id(p) for p in trained}:
        raise InputError("the optimizer holds no parameter of this model that requires a gradient")
    return made


def scheduler_for(optimizer: torch.optim.Optimizer, options: FinetuneConfig, num_steps: int) -> Scheduler:
    """The learning rate's course over this many steps: a warm-up, then half a cosine to zero, or constant.

    Raises ConfigError where the function that was given makes none.
    """
    if callable(options.scheduler):
        made = options.scheduler(optimizer, num_steps)
        if not hasattr(made, "step"):
            raise ConfigError(f"config: scheduler(optimizer, num_steps) gives something with step(), not {made!r:.60}")
        return made
    warm = int(options.warmup * num_steps)
    cosine = options.scheduler == "cosine"

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        share = (step - warm) / max(num_steps - warm, 1)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0))) if cosine else 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
