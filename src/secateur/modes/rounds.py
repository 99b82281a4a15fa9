"""From a mode to a narrowed model, in one round or in several.

    one round, no data      search ──► plan
    otherwise, on a copy    (search ──► narrow ──► compensate) × steps ──► one plan, and the weights that go with it

Invariant: the model itself is only read here; what comes out is data that `prune` applies all at once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.core.budget import Budget, Limit
from secateur.core.compose import composed
from secateur.core.graph import Graph, Width
from secateur.core.layout import Indices
from secateur.core.plan import Plan
from secateur.modes.task import Mode, Task
from secateur.progress import Tell
from secateur.search.limits import restrict
from secateur.search.refusal import check_reachable
from secateur.torch.apply import apply
from secateur.torch.compensation import Compensation, Compensator
from secateur.torch.evaluating.evaluator import keep_freed_memory
from secateur.torch.running.batch_norm import batch_norms, reestimate_batch_norm
from secateur.torch.running.data import Data
from secateur.torch.running.distributed import agree
from secateur.torch.running.restoring import named_tensors
from secateur.torch.trace import trace

_NO_LIMITS = {"multiple_of": 1, "exclude": (), "only": (), "floor": None, "ceiling": None, "rules": {}}


_SHARE_ON_THE_WAY = 0.25  # of the calibration samples, before the last round


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A plan for the original model; ``weights`` replace what narrowing leaves, where they were fitted or measured anew."""

    plan: Plan
    weights: Mapping[str, torch.Tensor]
    compensation: Compensation | None = None


def outcome_of(recipe: Mode, graph: Graph, model: nn.Module, budget: Budget, tell: Tell) -> Outcome:
    """Search, narrow and compensate as the mode says."""
    data = recipe.data(model)
    tell = _within(tell, 0.1, 0.7)
    if data is None and recipe.steps == 1:
        return Outcome(
            plan=_search(recipe, Task(graph=graph, model=model, budget=budget, data=None, tell=tell)), weights={}
        )
    return _Rounds(recipe, graph, model, data).run(budget, tell)


class _Rounds:
    """The rounds of one call, on a copy of the model; state, because the copy gets narrower."""

    def __init__(self, recipe: Mode, graph: Graph, model: nn.Module, data: Data | None) -> None:
        self.recipe, self.graph, self.data = recipe, graph, data
        self.space = restrict(graph, recipe.limits())
        self.later = recipe.model_copy(update=_NO_LIMITS)  # limits are shares of what was there at first
        self.working = _copied(model)
        self.kept: dict[str, Indices] = {}
        self.found: list[Plan] = []
        self.compensation: Compensation | None = None

    def run(self, budget: Budget, tell: Tell) -> Outcome:
        """All rounds; the plan for the original, and the weights of the copy where they are not slices of it."""
        keep_freed_memory()
        compensator = self._compensator(tell)
        check_reachable(self.space, budget)
        steps = self.recipe.steps
        for step in range(steps):
            part = _within(tell, step / steps, (step + 1) / steps)
            plan = self._round(step, _approach(budget, (step + 1) / steps), part)
            if compensator is not None:
                share = 1.0 if step == steps - 1 else _SHARE_ON_THE_WAY
                self.compensation = compensator.fit(self.working, plan, share=share)
        if self.data is not None and batch_norms(self.working):
            reestimate_batch_norm(
                self.working, self.data.loader, num_batches=self.data.num_batches, collect_func=self.data.collect
            )
        final = replace(self._plan(), provenance=self._record())
        weights = {name: t.detach() for name, t in named_tensors(self.working).items()} if self.data is not None else {}
        return Outcome(plan=final, weights=weights, compensation=self.compensation)

    def _round(self, step: int, budget: Budget, tell: Tell) -> Plan:
        graph = self._graph(step)
        task = Task(graph=graph, model=self.working, budget=budget, data=self.data, step=step, tell=tell)
        plan = _search(self.later if step else self.recipe, task)
        self.found.append(plan)
        self.kept = composed(self.graph, self.kept, plan)
        apply(self.working, plan, in_place=True, verify=False)
        return self._plan()

    def _graph(self, step: int) -> Graph:
        """The graph of the network as it is now, with the choices that are left of the first one's."""
        assert self.graph.example is not None
        example = replace(self.graph.example, model=self.working)
        if step == 0:
            return replace(self.graph, example=example)
        now = trace(self.working, (*example.args, dict(example.kwargs)))
        before = {width.name: width for width in self.space.widths}
        return now.with_widths(_as_free_as(before.get(width.name), width) for width in now.widths)

    def _plan(self) -> Plan:
        return self.graph.plan({name: np.asarray(kept) for name, kept in self.kept.items()})

    def _record(self) -> dict[str, Any]:
        costs = {metric: int(self.graph.cost(metric, self._plan().sizes)) for metric in self.graph.costs}
        asked = {"compensate": self.recipe.compensate, "steps": self.recipe.steps}
        return {**self.found[-1].provenance, **asked, "costs": costs}

    def _compensator(self, tell: Tell) -> Compensator | None:
        method = self.recipe.compensate
        if method == "none" or self.data is None:
            return None
        tell(0.0, "looking at what the network computes")
        return Compensator(
            self.working,
            self.data,
            method=method,
            ridge=self.recipe.ridge,
            samples=self.recipe.calibration_samples,
        )


def _as_free_as(first: Width | None, now: Width) -> Width:
    """A width as it is now, with no more freedom than it had in the first round."""
    if now.frozen is not None or first is None or first.frozen is not None:
        return replace(now, frozen=now.frozen or "it was not free in the first round", choices=(now.size,))
    outer = now.outer if now.outer == first.outer else None  # where a size of one is gone, more seems possible
    return replace(now, outer=outer, choices=(*(c for c in first.choices if c < now.size), now.size))


def _search(recipe: Mode, task: Task) -> Plan:
    plan = recipe.search(task)
    agree("the plan", plan)
    return plan


def _approach(budget: Budget, progress: float) -> Budget:
    """The bounds on the way: the same share of what is left goes in each round."""
    if progress >= 1:
        return budget
    limits = (
        Limit(metric=m.metric, whole=m.whole, bound=max(m.bound, math.floor(m.whole * (m.bound / m.whole) ** progress)))
        for m in budget.limits
    )
    return Budget(limits=tuple(limits))


def _within(tell: Tell, start: float, end: float) -> Tell:
    return lambda share, word: tell(start + (end - start) * share, word)


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy; activations that the model holds on to, which cannot be copied, come without their history."""
    held = (value for module in model.modules() for value in vars(module).values())
    memo: dict[int, Any] = {id(t): t.detach() for t in held if isinstance(t, torch.Tensor) and not t.is_leaf}
    return copy.deepcopy(model, memo)
