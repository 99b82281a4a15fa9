"""Secateur removes whole units from trained neural networks, physically, under a budget, and proves the result.

    model, result = secateur.prune(model, "magnitude", {"macs": "60%"}, dummy_input=x)      the whole pipeline
    trace ──► plan ──► apply ──► verify                                                     its steps, one at a time

What is for writing a part of one's own stands in a module: `criteria`, `rules`, `modes`, `pruners`, `training`, `testing`,
`hf` for checkpoints of transformers, and `compat` for what others' users have written.

Importing this module imports no framework; the first name that needs one does.
"""

from __future__ import annotations

import importlib
import random
from types import ModuleType
from typing import TYPE_CHECKING

from secateur.errors import (
    ApplyError,
    ArtifactError,
    Coincidence,
    ConfigError,
    DeadNetwork,
    Infeasible,
    InputError,
    PlanError,
    SecateurError,
    TraceError,
    VerificationError,
)
from secateur.version import __version__

if TYPE_CHECKING:
    from secateur import compat, criteria, hf, modes, pruners, report, rules, scenario, testing, training
    from secateur.core.budget import Budget
    from secateur.core.graph import Graph, Width
    from secateur.core.measurement import Measurement
    from secateur.core.plan import Plan
    from secateur.core.verification import Verification
    from secateur.io.artifact import restore, save
    from secateur.modes.result import PruneResult
    from secateur.search.limits import Limits
    from secateur.torch.apply import apply, plans_of
    from secateur.torch.measure import measure
    from secateur.torch.narrowing.slices import narrowed
    from secateur.torch.narrowing.subnet import subnet
    from secateur.torch.plan import plan
    from secateur.torch.prune import prune
    from secateur.torch.running.example import Call, Examples
    from secateur.torch.trace import trace
    from secateur.torch.verify import verify

_HOMES = {
    "Budget": "secateur.core.budget",
    "Call": "secateur.torch.running.example",
    "Examples": "secateur.torch.running.example",
    "Graph": "secateur.core.graph",
    "Limits": "secateur.search.limits",
    "Measurement": "secateur.core.measurement",
    "Plan": "secateur.core.plan",
    "PruneResult": "secateur.modes.result",
    "Verification": "secateur.core.verification",
    "Width": "secateur.core.graph",
    "apply": "secateur.torch.apply",
    "measure": "secateur.torch.measure",
    "narrowed": "secateur.torch.narrowing.slices",
    "plan": "secateur.torch.plan",
    "plans_of": "secateur.torch.apply",
    "prune": "secateur.torch.prune",
    "restore": "secateur.io.artifact",
    "save": "secateur.io.artifact",
    "subnet": "secateur.torch.narrowing.subnet",
    "trace": "secateur.torch.trace",
    "verify": "secateur.torch.verify",
}
_MODULES = ("compat", "criteria", "hf", "modes", "pruners", "report", "rules", "scenario", "testing", "training")

__all__ = [  # noqa: RUF022  the version last
    "ApplyError",
    "ArtifactError",
    "Budget",
    "Call",
    "Coincidence",
    "ConfigError",
    "DeadNetwork",
    "Examples",
    "Graph",
    "Infeasible",
    "InputError",
    "Limits",
    "Measurement",
    "Plan",
    "PlanError",
    "PruneResult",
    "SecateurError",
    "TraceError",
    "Verification",
    "VerificationError",
    "Width",
    "apply",
    "compat",
    "criteria",
    "hf",
    "measure",
    "modes",
    "narrowed",
    "plan",
    "plans_of",
    "prune",
    "pruners",
    "report",
    "restore",
    "rules",
    "save",
    "scenario",
    "subnet",
    "testing",
    "trace",
    "training",
    "verify",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return _loaded(f"secateur.{name}")
    if name in _HOMES:
        return getattr(_loaded(_HOMES[name]), name)
    raise AttributeError(f"module 'secateur' has no attribute {name!r}")


def _loaded(name: str) -> ModuleType:
    """A module of ours. What libraries draw when they are loaded is not taken from the numbers of the user's seed."""
    state = random.getstate()
    try:
        return importlib.import_module(name)
    finally:
        random.setstate(state)


def __dir__() -> list[str]:
    return sorted(__all__)
