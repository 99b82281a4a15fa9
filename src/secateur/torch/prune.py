"""`prune`: the whole pipeline in one call, in place.

    trace ──► profile and constraints ──► the mode's search ──► apply ──► verify ──► (model, result)

Invariant: the model that comes back meets every constraint, or an error was raised and the model is as it was.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from torch import nn

from secateur.core.budget import Budget
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.show import constraint_table, plan_table
from secateur.core.verification import Verification
from secateur.errors import ConfigError
from secateur.torch.apply import apply, verification_of
from secateur.torch.modes import MODES, Mode, Task
from secateur.torch.progress import Tell, progress
from secateur.torch.trace import trace


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """What `prune` did.

    ``before`` and ``after`` are the costs of the whole and of the narrowed network; ``frozen`` maps every width that could
    not be narrowed to the reason; ``seconds`` times each step.
    """

    plan: Plan
    before: Mapping[str, int]
    after: Mapping[str, int]
    frozen: Mapping[str, str]
    verification: Verification
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the narrowed network."""
        return self.after["macs"]

    @property
    def params(self) -> int:
        """Parameters of the narrowed network."""
        return self.after["params"]

    def __str__(self) -> str:
        lines = [
            f"{name}: {self.before[name]:,} -> {self.after[name]:,} ({self.after[name] / max(self.before[name], 1):.1%})"
            for name in self.before
        ]
        timings = ", ".join(f"{step} {value:.2f} s" for step, value in self.seconds.items())
        return "\n".join([plan_table(self.plan), *lines, str(self.verification), f"timing: {timings}"])


def prune(
    model: nn.Module,
    mode: str | Mode | list[tuple[str, Any]] = "magnitude",
    constraints: Mapping[str, Any] | None = None,
    dummy_input: Any = None,
    config: Mapping[str, Any] | Mode | None = None,
) -> tuple[nn.Module, PruneResult]:
    """Narrow a model in place until it meets the constraints; the model and what was done.

    ``mode`` is a name, or ``[(name, config)]``. ``constraints`` are upper bounds, absolute or relative:
    ``{"macs": "60%", "params": 3e6}``. ``dummy_input`` is a tensor, a tuple of arguments, or a tuple ending in a dict of
    keyword arguments. ``config`` holds the mode's options.

    Raises ConfigError for an option that is unknown or of the wrong type, Infeasible where no network of the search space
    meets the constraints, VerificationError where the result does not compute what it should. The model is then unchanged.
    """
    recipe = _recipe(mode, config)
    with progress("prune") as tell:
        return _prune(model, recipe, constraints, dummy_input, tell)


def _prune(
    model: nn.Module, recipe: Mode, constraints: Mapping[str, Any] | None, dummy_input: Any, tell: Tell
) -> tuple[nn.Module, PruneResult]:
    tell(0.0, "tracing")
    graph = trace(model, dummy_input)
    if not constraints:
        raise ConfigError('constraints are needed, for example {"macs": "60%"} or {"params": 3e6}')
    budget = Budget.of(constraints, graph)
    if recipe.verbose:
        Console().print(f"{graph}\n{constraint_table(graph, budget)}", markup=False, highlight=False)
    started = time.perf_counter()
    plan = recipe.search(Task(graph=graph, model=model, budget=budget, data=recipe.data(model), tell=tell))
    searched = time.perf_counter()
    tell(0.6, "narrowing and verifying" if recipe.verify else "narrowing")
    apply(model, plan, in_place=True, verify=recipe.verify)
    verification = verification_of(model)
    assert verification is not None
    applied = time.perf_counter() - searched - verification.seconds
    seconds = {**graph.seconds, "plan": searched - started, "apply": applied, "verify": verification.seconds}
    return model, _result(graph, plan, verification, seconds)


def _recipe(mode: str | Mode | list[tuple[str, Any]], config: Mapping[str, Any] | Mode | None) -> Mode:
    if isinstance(mode, Mode):
        if config is not None:
            raise ConfigError("config has no effect beside a mode object: put its options into the object")
        return mode
    if isinstance(mode, list):
        if len(mode) != 1 or not isinstance(mode[0], tuple) or len(mode[0]) != 2:
            raise ConfigError('a list of modes is written as [("magnitude", {…})], with one mode')
        if config is not None and mode[0][1] is not None:
            raise ConfigError("config has no effect: the mode in the list has its own")
        mode, config = mode[0][0], mode[0][1] if mode[0][1] is not None else config
    if not isinstance(mode, str):
        raise ConfigError(f"a mode is a name such as 'magnitude', not {type(mode).__name__}")
    return MODES[mode].read(config)


def _result(graph: Graph, plan: Plan, verification: Verification, seconds: Mapping[str, float]) -> PruneResult:
    return PruneResult(
        plan=plan,
        before={name: int(graph.cost(name)) for name in graph.costs},
        after={name: int(graph.cost(name, plan.sizes)) for name in graph.costs},
        frozen={w.name: w.frozen for w in graph.widths if w.frozen is not None},
        verification=verification,
        seconds=dict(seconds),
    )
