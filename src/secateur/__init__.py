"""Secateur removes whole units from trained neural networks, physically, under a budget, and proves the result.

    model, result = secateur.prune(model, "magnitude", {"macs": "60%"}, dummy_input=x)      the whole pipeline
    trace ──► plan ──► apply ──► verify                                                     its steps, one at a time

Importing this module imports no framework; the first name that needs one does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from secateur.errors import Infeasible, SecateurError, VerificationError

if TYPE_CHECKING:
    from secateur.core.budget import Budget
    from secateur.core.graph import Graph, Width
    from secateur.core.plan import Plan
    from secateur.core.verification import Verification
    from secateur.io.artifact import restore, save
    from secateur.torch import criteria
    from secateur.torch.apply import apply, plans_of
    from secateur.torch.narrowing.subnet import subnet
    from secateur.torch.plan import plan
    from secateur.torch.prune import PruneResult, prune
    from secateur.torch.pruners.iterative import IterativePruner
    from secateur.torch.pruners.one_step import OneStepPruner
    from secateur.torch.pruners.sparsifier import Sparsifier
    from secateur.torch.trace import trace
    from secateur.torch.training.finetune import finetune
    from secateur.torch.training.optimizer import remap_optimizer
    from secateur.torch.verify import verify

__version__ = "0.1.0"

_HOMES = {
    "Budget": "secateur.core.budget",
    "Graph": "secateur.core.graph",
    "Width": "secateur.core.graph",
    "Plan": "secateur.core.plan",
    "Verification": "secateur.core.verification",
    "IterativePruner": "secateur.torch.pruners.iterative",
    "OneStepPruner": "secateur.torch.pruners.one_step",
    "PruneResult": "secateur.torch.prune",
    "Sparsifier": "secateur.torch.pruners.sparsifier",
    "apply": "secateur.torch.apply",
    "finetune": "secateur.torch.training.finetune",
    "plan": "secateur.torch.plan",
    "plans_of": "secateur.torch.apply",
    "prune": "secateur.torch.prune",
    "remap_optimizer": "secateur.torch.training.optimizer",
    "restore": "secateur.io.artifact",
    "save": "secateur.io.artifact",
    "subnet": "secateur.torch.narrowing.subnet",
    "trace": "secateur.torch.trace",
    "verify": "secateur.torch.verify",
}

__all__ = [
    "Budget",
    "Graph",
    "Infeasible",
    "IterativePruner",
    "OneStepPruner",
    "Plan",
    "PruneResult",
    "SecateurError",
    "Sparsifier",
    "Verification",
    "VerificationError",
    "Width",
    "apply",
    "criteria",
    "finetune",
    "plan",
    "plans_of",
    "prune",
    "remap_optimizer",
    "restore",
    "save",
    "subnet",
    "trace",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "criteria":
        return importlib.import_module("secateur.torch.criteria")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'secateur' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
