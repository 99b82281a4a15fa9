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
from secateur.modes import MODES, Mode
from secateur.modes.rounds import Outcome, outcome_of
from secateur.progress import Tell, progress
from secateur.search.limits import restrict
from secateur.torch.apply import apply_fitted, verification_of
from secateur.torch.narrowing.history import History, history_of
from secateur.torch.running.distributed import agree
from secateur.torch.trace import trace


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """What `prune` did.

    ``before`` and ``after`` are the costs of the whole and of the narrowed network; ``frozen`` maps every width that could
    not be narrowed to the reason; ``verification`` compares the narrowed network with the masked one, before compensation
    changes weights; ``refitted`` names the weights that compensation changed, ``left_as_they_are`` those that it could not,
    with the reason; ``seconds`` times each step.
    """

    plan: Plan
    before: Mapping[str, int]
    after: Mapping[str, int]
    frozen: Mapping[str, str]
    verification: Verification
    refitted: tuple[str, ...] = ()
    left_as_they_are: Mapping[str, str] = field(default_factory=dict)
    history: History | None = field(default=None, compare=False, repr=False)
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
        given_back = [f"compensated: {len(self.refitted)} weights re-fitted"] if self.refitted else []
        given_back += [f"not re-fitted: {name}: {reason}" for name, reason in self.left_as_they_are.items()]
        return "\n".join([plan_table(self.plan), *lines, str(self.verification), *given_back, f"timing: {timings}"])


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
    budget = _budget(constraints, graph, recipe)
    if recipe.verbose:
        space = restrict(graph, recipe.limits())
        table = f"\n{constraint_table(space, budget)}" if budget.limits else ""
        Console().print(f"{space}{table}", markup=False, highlight=False)
    started = time.perf_counter()
    outcome = outcome_of(recipe, graph, model, budget, tell)
    searched = time.perf_counter()
    tell(0.7, "narrowing and verifying" if recipe.verify else "narrowing")
    agree("the plan", outcome.plan)
    apply_fitted(model, outcome.plan, outcome.weights, verify=recipe.verify)
    verification = verification_of(model)
    assert verification is not None
    applied = time.perf_counter() - searched - verification.seconds
    seconds = {**graph.seconds, "plan": searched - started, "apply": applied, "verify": verification.seconds}
    return model, _result(graph, outcome, verification, seconds, model)


def _budget(constraints: Mapping[str, Any] | None, graph: Graph, recipe: Mode) -> Budget:
    if constraints:
        return Budget.of(constraints, graph)
    if recipe.needs_budget:
        raise ConfigError('constraints are needed, for example {"macs": "60%"} or {"params": 3e6}')
    return Budget(limits=())


def _recipe(mode: str | Mode | list[tuple[str, Any]], config: Mapping[str, Any] | Mode | None) -> Mode:
    """The mode with its options; those in a list, as ``[("fastnas", rules)]`` has them, go together with ``config``."""
    if isinstance(mode, Mode):
        if config is not None:
            raise ConfigError("config has no effect beside a mode object: put its options into the object")
        return mode
    if isinstance(mode, list):
        if len(mode) != 1 or not isinstance(mode[0], tuple) or len(mode[0]) != 2:
            raise ConfigError('a list of modes is written as [("magnitude", {…})], with one mode')
        mode, config = mode[0][0], _together(mode[0][1], config)
    if not isinstance(mode, str):
        raise ConfigError(f"a mode is a name such as 'magnitude', not {type(mode).__name__}")
    return MODES[mode].read(config)


def _together(listed: Any, config: Any) -> Any:
    """The options beside a mode's name in the list, and those of ``config``; neither may contradict the other."""
    if listed is None or config is None:
        return config if listed is None else listed
    for options in (listed, config):
        if not isinstance(options, Mapping):
            raise ConfigError(f"beside a list of modes with options, config is a dict, not {type(options).__name__}")
    return _merged(listed, config, "option")


def _merged(listed: Mapping[str, Any], config: Mapping[str, Any], place: str) -> dict[str, Any]:
    found = {**config, **listed}
    for key in [key for key in listed if key in config]:
        ours, theirs = listed[key], config[key]
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            found[key] = _merged(ours, theirs, f"{place} {key!r}:")
        elif ours is not theirs and not (isinstance(ours, str | int | float | bool) and ours == theirs):
            raise ConfigError(f"{place} {key!r}: the list of modes says otherwise than config; keep one of them")
    return found


def _result(
    graph: Graph, outcome: Outcome, verification: Verification, seconds: Mapping[str, float], model: nn.Module
) -> PruneResult:
    plan, compensation = outcome.plan, outcome.compensation
    return PruneResult(
        plan=plan,
        before={name: int(graph.cost(name)) for name in graph.costs},
        after={name: int(graph.cost(name, plan.sizes)) for name in graph.costs},
        frozen={w.name: w.frozen for w in graph.widths if w.frozen is not None},
        verification=verification,
        refitted=() if compensation is None else compensation.refitted,
        left_as_they_are={} if compensation is None else dict(compensation.left),
        seconds=dict(seconds),
        history=history_of(model),
    )
