"""From a mode to a plan and the weights that go with it, in one round or in several.

    one round, no data      search ──► plan
    otherwise, on a copy    (search ──► narrow ──► compensate) × steps ──► one plan, and the weights that go with it
    of several ways         each on a copy ──► the plan that answers samples left out most like the whole network

Invariant: the network itself is only read here; what comes out is data that `prune` applies all at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np

from secateur.core.budget import Budget
from secateur.core.compose import composed
from secateur.core.depth import Renaming
from secateur.core.graph import Graph, Width
from secateur.core.layout import Indices
from secateur.core.plan import Plan
from secateur.modes.frontend import Compensating, Frontend, RefitReport
from secateur.modes.task import Mode, Task
from secateur.progress import Tell
from secateur.search.alive import check_alive, number_of
from secateur.search.evidence import Evidence, Found, Quality
from secateur.search.limits import NO_LIMITS, Limits, restrict
from secateur.search.refusal import check_reachable


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
    tell = within(tell, 0.1, 0.7)
    if not frontend.has_data and recipe.steps == 1:
        task = Task(graph=frontend.graph, frontend=frontend, budget=budget, tell=tell)
        found = _search(recipe, task)
        return Outcome(plan=found.plan, evidence=_scored(recipe, frontend, found), weights={})
    return _Rounds(recipe, frontend).run(budget, tell)


def _scored(recipe: Mode, frontend: Frontend, found: Found) -> Evidence:
    """What a search saw, and what the plan is worth where the recipe has a score and did not look itself."""
    if recipe.score_func is None or found.evidence.quality is not None:
        return found.evidence
    whole = frontend.graph.plan({})
    measure = frontend.evaluator(recipe.score_func, seed=0, reuse=False)
    scores = {key: one.value for key, one in measure({"whole": whole, "found": found.plan}, ())}
    quality = Quality(measure="score_func", whole=number_of(scores["whole"]), narrowed=scores["found"])
    check_alive(
        -math.inf if quality.narrowed is None else quality.narrowed,
        number_of(quality.whole),
        lambda: frontend.constant_score(recipe.score_func, seed=0),
        _advice(recipe),
    )
    return replace(found.evidence, quality=quality)


def _advice(recipe: Mode) -> str:
    """The ways out of a dead network that this recipe has not taken."""
    ways = [] if recipe.floor is not None else ["give each width a floor (floor=0.2)"]
    ways += [] if recipe.compensate != "none" else ['give back what goes (compensate="least_squares", with data)']
    return f"To keep it alive {', '.join([*ways, 'or'])} raise the bound."


_Tried = tuple[float, Mode, dict[str, Indices], list[Found]]  # how far apart, by which way, what is kept and was found


class _Rounds:
    """The rounds of one call, on a copy of the network; state, because the copy gets narrower."""

    def __init__(self, recipe: Mode, frontend: Frontend, *, appraised: bool = True) -> None:
        self.recipe, self.frontend, self.graph, self.has_data = recipe, frontend, frontend.graph, frontend.has_data
        self.search_space = restrict(self.graph, recipe.limits())
        # limits are shares of what was there at first, and sizes that were asked for are had after one round
        over = {name: getattr(NO_LIMITS, name) for name in Limits.model_fields} | (
            {"sizes": {}} if recipe.asked else {}
        )
        self.later = recipe.model_copy(update=over)
        self.working = frontend.copied()
        self.kept: dict[str, Indices] = {}
        self.found: list[Found] = []
        self.compensation: RefitReport | None = None
        self.appraiser = self.working.appraiser(recipe.score_func, seed=0) if appraised else None
        self.apart: dict[str, float] = {}  # by way, where there were several
        self.worth: list[float | None] = []  # whole, narrowed, compensated

    def run(self, budget: Budget, tell: Tell) -> Outcome:
        """All rounds; the plan for the original, and the weights of the copy where they are not slices of it."""
        compensator = self._compensator(tell)
        check_reachable(self.search_space, budget)
        ways = self._ways(compensator)
        if compensator is not None and len(ways) > 1:
            self._go_the_nearest(ways, budget, compensator, within(tell, 0.1, 0.8))
        else:
            (self.recipe,) = ways
            self._go(budget, compensator, within(tell, 0.1, 0.8))
        if compensator is not None:
            self._appraise(self._known.narrowed)
            self.compensation = compensator.fit(self._plan(), last=True, tell=within(tell, 0.8, 1.0))
        # a compensator sees to running statistics itself
        if self.has_data and compensator is None and self._plan().kept:
            self.working.remeasure()
        self._appraise(None if compensator is not None else self._known.narrowed)
        return Outcome(
            plan=replace(self._plan(), provenance=self._record()),
            evidence=self._evidence(),
            weights=self.working.weights() if self.has_data else {},
            compensation=self.compensation,
        )

    def _ways(self, compensator: Compensating | None) -> Sequence[Mode]:
        """Those that can be told apart. Later rounds score a network that was fitted to the samples, and no sample left out
        tells what that cost where all are of few kinds: of such only what is scored once, on the network as it was."""
        ways = self.recipe.ways
        if compensator is None or len(ways) == 1 or not compensator.tells_apart:
            return (self.recipe,)
        once = [way for way in ways if way.steps == 1]
        return ways if compensator.stands_for_all() else once or ways

    def _go(self, budget: Budget, compensator: Compensating | None, tell: Tell) -> None:
        """All rounds, with what is given back between them."""
        steps = self.recipe.steps
        for step in range(steps):
            part = within(tell, step / steps, (step + 1) / steps)
            plan = self._round(step, _approach(budget, (step + 1) / steps), part)
            if compensator is not None and step < steps - 1:
                compensator.fit(plan, last=False, tell=within(part, 0.5, 1.0))

    def _go_the_nearest(self, ways: Sequence[Mode], budget: Budget, compensator: Compensating, tell: Tell) -> None:
        """Try each way on a copy of its own, and narrow as the nearest does: a fit depends on the plan alone."""
        tried: list[_Tried] = []
        for number, way in enumerate(ways):
            part = within(tell, number / len(ways), (number + 1) / len(ways))
            tried.append(_Rounds(way, self.frontend, appraised=False)._tried(budget, compensator, part))
        self.apart = {way.said: apart for apart, way, *_ in tried}
        _, self.recipe, self.kept, self.found = min(tried, key=itemgetter(0))
        self._appraise(self._known.whole)
        self.working.narrow(self._plan())

    def _tried(self, budget: Budget, compensator: Compensating, tell: Tell) -> _Tried:
        """How far from the whole network's these rounds leave the answers, and what they found; the copy is needed no more."""
        fitter = compensator.of(self.working)
        self._go(budget, fitter, within(tell, 0.0, 0.9))
        fitter.fit(self._plan(), last=False, tell=within(tell, 0.9, 1.0))
        return fitter.apart(), self.recipe, self.kept, self.found

    def _round(self, step: int, budget: Budget, tell: Tell) -> Plan:
        task = Task(graph=self._graph(step), frontend=self.working, budget=budget, step=step, tell=tell)
        found = _search(self.later if step else self.recipe, task)
        # its graph holds the network that it is of, which may be a copy to be let go
        self.found.append(replace(found, plan=replace(found.plan, graph=None)))
        if step == 0:
            self._appraise(self._known.whole)
        self.kept = composed(self.graph, self.kept, found.plan)
        self.working.narrow(found.plan)
        return self._plan()

    def _graph(self, step: int) -> Graph:
        """The graph of the network as it is now, with the choices that are left of the first one's."""
        now = self.working.graph
        if step == 0:
            return now
        before = {width.name: width for width in self.search_space.widths}
        names, asked = self._plan().renamed, self.recipe.asked
        return now.with_widths(
            w.whole("its size was asked for")
            if (old := names.back(w.name)) in asked
            else _as_free_as(before.get(old), w, names)
            for w in now.widths
        )

    def _plan(self) -> Plan:
        return self.graph.plan({name: np.asarray(kept) for name, kept in self.kept.items()})

    def _record(self) -> dict[str, Any]:
        costs = {metric: int(self.graph.cost(metric, self._plan().sizes)) for metric in self.graph.costs}
        asked: dict[str, Any] = {"compensate": self.recipe.compensate, "steps": self.recipe.steps}
        asked |= {"sizes": dict(self.recipe.asked)} if self.recipe.asked else {}
        if self.apart:
            asked["ways"] = self.apart
        return {**self.found[-1].plan.provenance, **asked, "costs": costs}

    def _appraise(self, known: float | None = None) -> None:
        """One more look: at the whole network, the narrowed one, the compensated one; unless the search knows it already."""
        if self.appraiser is not None:
            self.worth.append(self.appraiser() if known is None else known)

    @property
    def _known(self) -> Quality:
        """What the last search said of its result by itself."""
        return self.found[-1].evidence.quality or Quality(measure="", whole=None, narrowed=None)

    def _quality(self) -> Quality | None:
        """What came of it. Raises DeadNetwork where that is no better than a constant."""
        if self.appraiser is None:
            return None
        whole, *rest = self.worth
        found = Quality(
            measure=self.appraiser.measure, whole=whole, **dict(zip(("narrowed", "compensated"), rest, strict=False))
        )
        if whole is not None and found.score is not None:
            self.appraiser.check_alive(whole, found.score, _advice(self.recipe))
        return found

    def _evidence(self) -> Evidence:
        rounds = [found.evidence for found in self.found]
        last = replace(rounds[-1], quality=self._quality())
        return replace(last, rounds=tuple(rounds)) if len(rounds) > 1 else last

    def _compensator(self, tell: Tell) -> Compensating | None:
        method = self.recipe.compensate
        if method == "none" or not self.has_data:
            return None
        return self.working.compensator(
            method, ridge=self.recipe.ridge, samples=self.recipe.calibration_samples, tell=within(tell, 0.0, 0.1)
        )


def _as_free_as(first: Width | None, now: Width, names: Renaming) -> Width:
    """A width as it is now, with no more freedom than it had in the first round."""
    if now.frozen is not None or first is None or first.frozen is not None:
        return now.whole("it was not free in the first round")
    used = {(names(use.tensor), use.axis) for use in first.uses if names(use.tensor) is not None}
    # what the example happens to reach may be tied to other things now
    if {(use.tensor, use.axis) for use in now.uses} != used:
        return now.whole("it is not made of what it was in the first round")
    # where a size of one is gone, more seems possible
    outer = now.outer if first.outer and now.outer == names(first.outer) else None
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


def within(tell: Tell, start: float, end: float) -> Tell:
    return lambda share, word: tell(start + (end - start) * share, word)
