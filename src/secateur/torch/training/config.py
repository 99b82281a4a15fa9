"""How to fine-tune, beyond what the call itself says.

    FinetuneConfig.read({"lr": 1e-3, "patience": 3})        unknown keys and wrong types are errors

Invariant: a configuration is frozen and validated; the defaults depend on nothing but the model's device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from pydantic import Field, field_validator
from torch import nn

from secateur.core.options import Options
from secateur.torch.running.data import Collect, Loss, first_of

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
MakeScheduler = Callable[[torch.optim.Optimizer, int], "Scheduler"]  # of the optimizer and the number of steps


class Scheduler(Protocol):
    """What torch's schedulers have in common, and all that is asked of one."""

    def step(self) -> object:
        """Go on to the next rate."""
        ...


class FinetuneConfig(Options):
    """Options of `finetune`."""

    lr: float | None = Field(default=None, gt=0)
    """The rate of the default optimizer, AdamW: 1e-3 for models with batch norm, 1e-4 for others."""
    optimizer: torch.optim.Optimizer | MakeOptimizer | None = None
    """An optimizer, or a function of the parameters that makes one."""
    collect_func: Collect = first_of
    """What of a batch the model takes: its first item, or a dict whole."""
    loss_func: Loss | None = None
    """loss_func(output, batch); if not given the output's own loss, or cross entropy with the labels."""
    scheduler: Literal["cosine", "constant"] | MakeScheduler = "cosine"
    """The course of the rate; or a function of the optimizer and the number of steps, stepped after each batch."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """The share of all steps over which the rate rises, with the cosine."""
    amp: Literal["auto", "off", "bfloat16", "float16"] = "auto"
    """Mixed precision: "auto" is bfloat16 (else float16 with scaled gradients) on CUDA, and off elsewhere."""
    patience: int | None = Field(default=None, ge=1)
    """Epochs without a better score that end the training."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """The bound on the norm of all gradients together."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Of the default optimizer, on matrices only."""
    seed: int = 0
    """What is drawn while training: the same seed gives the same weights."""

    @field_validator("optimizer", mode="before")
    @classmethod
    def _no_name(cls, given: object) -> object:
        if isinstance(given, str):
            name = given.rpartition(".")[2]
            known = name if hasattr(torch.optim, name) else "AdamW"
            raise ValueError(
                f"{given!r} is a name: give torch.optim.{known}, or lambda p: torch.optim.{known}(p, lr=1e-4)"
            )
        return given

    def autocast_dtype(self, device: torch.device) -> torch.dtype | None:
        """What to compute in on this device, or None for the model's own type."""
        if self.amp == "auto":
            if device.type != "cuda":
                return None
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return {"off": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.amp]
