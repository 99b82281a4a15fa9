"""From curves of loss to a plan: the step that every mode with a threshold shares.

    search space, unit scores, {width: {count: loss}} ──threshold──► counts ──best units──► Plan

Invariant: the plan meets the budget, or Infeasible was raised before anything was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.modes.task import Mode, Task
from secateur.search.allocate import allocate
from secateur.search.limits import restrict
from secateur.search.ranked import Judge, Ranked, judged, plan_within, planned
from secateur.search.refusal import check_reachable
from secateur.search.threshold import Curves, Objective, choose


def ranked_for(task: Task, mode: Mode, judge: Judge) -> Ranked:
    """The mode's search space with scores; a width that the criterion does not judge stays whole.

    Raises Infeasible, before any scoring, where the smallest network is above a bound.
    """
    search_space = restrict(task.graph, mode.limits())
    check_reachable(search_space, task.budget)
    ranked = judged(search_space, judge)
    check_reachable(ranked.search_space, task.budget)
    return ranked


def allocated_under(ranked: Ranked, task: Task, allocation: str) -> Plan:
    """The plan of the criterion alone, as the magnitude mode would make it."""
    plan = plan_within(
        task.graph,
        ranked.search_space,
        lambda space: allocate(space, ranked.scores, task.budget, allocation=allocation),
    )
    made = {"criterion": ranked.made_by, "budget": task.budget.to_json(), "allocation": allocation}
    costs = {metric: int(task.graph.cost(metric, plan.sizes)) for metric in task.graph.costs}
    return replace(plan, provenance={**made, "costs": costs})


def plan_under(
    ranked: Ranked, curves: Callable[[Graph], Curves], task: Task, objective: Objective, record: Mapping[str, object]
) -> Plan:
    """The plan with the smallest loss, largest or sum of all, that meets the budget."""
    plan = planned(ranked, lambda space: choose(space, curves(space), task.budget, objective), task.graph)
    made = {
        "criterion": ranked.made_by,
        "budget": task.budget.to_json(),
        "objective": objective,
        "costs": {metric: int(task.graph.cost(metric, plan.sizes)) for metric in task.graph.costs},
        **record,
    }
    return replace(plan, provenance=made)
