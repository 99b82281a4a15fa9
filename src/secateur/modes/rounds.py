"""From a mode to a plan and the weights that go with it, in one round or in several.

    one round, no data      search ──► plan
    otherwise, on a copy    (search ──► narrow ──► compensate) × steps ──► one plan, and the weights that go with it

Invariant: the network itself is only read here; what comes out is data that `prune` applies all at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from secateur.core.budget import Budget
from secateur.core.compose import composed
from secateur.core.graph import Graph, Width
from secateur.core.layout import Indices
from secateur.core.plan import Plan
from secateur.modes.frontend import Compensating, Frontend, RefitReport
from secateur.modes.task import Mode, Task
from secateur.progress import Tell
from secateur.search.evidence import Evidence, Found
from secateur.search.limits import NO_LIMITS, Limits, restrict
from secateur.search.refusal import check_reachable

_SHARE_ON_THE_WAY = 0.25  # of the calibration samples, before the last round


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A plan for the original network, and what its search saw.

    ``weights`` replace what narrowing leaves, where they were fitted or measured anew; they are the front-end's own.
    """

    plan: Plan
    evidence: Evidence
    weights: Mapping[str, Any]
    compensation: RefitReport | None = None


def outcome_of(recipe: Mode, frontend: Frontend, budget: Budget, tell: Tell) -> Outcome:
    """Search, narrow and compensate as the mode says."""
    tell = _within(tell, 0.1, 0.7)
    if not frontend.has_data and recipe.steps == 1:
        task = Task(graph=frontend.graph, frontend=frontend, budget=budget, tell=tell)
        found = _search(recipe, task)
        return Outcome(plan=found.plan, evidence=found.evidence, weights={})
    return _Rounds(recipe, frontend).run(budget, tell)


class _Rounds:
    """The rounds of one call, on a copy of the network; state, because the copy gets narrower."""

    def __init__(self, recipe: Mode, frontend: Frontend) -> None:
        self.recipe, self.graph, self.has_data = recipe, frontend.graph, frontend.has_data
        self.search_space = restrict(self.graph, recipe.limits())
        # limits are shares of what was there at first
        self.later = recipe.model_copy(update={name: getattr(NO_LIMITS, name) for name in Limits.model_fields})
        self.working = frontend.copied()
        self.kept: dict[str, Indices] = {}
        self.found: list[Found] = []
        self.compensation: RefitReport | None = None

    def run(self, budget: Budget, tell: Tell) -> Outcome:
        """All rounds; the plan for the original, and the weights of the copy where they are not slices of it."""
        compensator = self._compensator(tell)
        check_reachable(self.search_space, budget)
        steps = self.recipe.steps
        for step in range(steps):
            part = _within(tell, 0.1 + 0.9 * step / steps, 0.1 + 0.9 * (step + 1) / steps)
            plan = self._round(step, _approach(budget, (step + 1) / steps), part)
            if compensator is not None:
                share = 1.0 if step == steps - 1 else _SHARE_ON_THE_WAY
                self.compensation = compensator.fit(plan, share=share, tell=_within(part, 0.5, 1.0))
        if self.has_data and compensator is None:  # which sees to running statistics itself
            self.working.remeasure()
        return Outcome(
            plan=replace(self._plan(), provenance=self._record()),
            evidence=self._evidence(),
            weights=self.working.weights() if self.has_data else {},
            compensation=self.compensation,
        )

    def _round(self, step: int, budget: Budget, tell: Tell) -> Plan:
        task = Task(graph=self._graph(step), frontend=self.working, budget=budget, step=step, tell=tell)
        found = _search(self.later if step else self.recipe, task)
        self.found.append(found)
        self.kept = composed(self.graph, self.kept, found.plan)
        self.working.narrow(found.plan)
        return self._plan()

    def _graph(self, step: int) -> Graph:
        """The graph of the network as it is now, with the choices that are left of the first one's."""
        now = self.working.graph
        if step == 0:
            return now
        before = {width.name: width for width in self.search_space.widths}
        return now.with_widths(_as_free_as(before.get(width.name), width) for width in now.widths)

    def _plan(self) -> Plan:
        return self.graph.plan({name: np.asarray(kept) for name, kept in self.kept.items()})

    def _record(self) -> dict[str, Any]:
        costs = {metric: int(self.graph.cost(metric, self._plan().sizes)) for metric in self.graph.costs}
        asked = {"compensate": self.recipe.compensate, "steps": self.recipe.steps}
        return {**self.found[-1].plan.provenance, **asked, "costs": costs}

    def _evidence(self) -> Evidence:
        rounds = [found.evidence for found in self.found]
        return replace(rounds[-1], rounds=tuple(rounds)) if len(rounds) > 1 else rounds[-1]

    def _compensator(self, tell: Tell) -> Compensating | None:
        method = self.recipe.compensate
        if method == "none" or not self.has_data:
            return None
        return self.working.compensator(
            method, ridge=self.recipe.ridge, samples=self.recipe.calibration_samples, tell=_within(tell, 0.0, 0.1)
        )


def _as_free_as(first: Width | None, now: Width) -> Width:
    """A width as it is now, with no more freedom than it had in the first round."""
    if now.frozen is not None or first is None or first.frozen is not None:
        return now.whole("it was not free in the first round")
    if set(now.uses) != set(first.uses):  # what the example happens to reach may be tied to other things now
        return now.whole("it is not made of what it was in the first round")
    outer = now.outer if now.outer == first.outer else None  # where a size of one is gone, more seems possible
    return replace(now, outer=outer, choices=(*(c for c in first.choices if c < now.size), now.size))


def _search(recipe: Mode, task: Task) -> Found:
    started = time.perf_counter()
    found = recipe.search(task)
    task.frontend.ranks.agree("the plan", found.plan)
    return replace(found, evidence=replace(found.evidence, seconds=time.perf_counter() - started))


def _approach(budget: Budget, progress: float) -> Budget:
    """The bounds on the way: the same share of what is left goes in each round."""
    if progress >= 1:
        return budget
    entries = (
        replace(b, most=max(b.most, math.floor(b.whole * (b.most / b.whole) ** progress))) for b in budget.entries
    )
    return Budget(entries=tuple(entries))


def _within(tell: Tell, start: float, end: float) -> Tell:
    return lambda share, word: tell(start + (end - start) * share, word)
