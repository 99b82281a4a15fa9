"""From curves of loss to a plan: the step that every mode with a threshold shares.

    search space, unit scores, {width: {count: loss}} ──threshold──► counts ──best units──► Plan

Invariant: the plan meets the budget, or Infeasible was raised before anything was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from secateur.core.choices import restrict
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.errors import ConfigError
from secateur.search.refusal import check_reachable
from secateur.search.threshold import Curves, Objective, choose
from secateur.torch.choosing import Ranked, judged, planned
from secateur.torch.criteria.protocol import Criterion
from secateur.torch.modes.mode import Mode, Task


def ranked_for(task: Task, mode: Mode, criterion: Criterion) -> Ranked:
    """The mode's search space with scores; a width that the criterion does not judge stays whole.

    Raises Infeasible, before any scoring, where the smallest network is above a bound.
    """
    space = restrict(task.graph, mode.limits())
    check_reachable(space, task.budget)
    ranked = judged(space, criterion, task.model)
    check_reachable(ranked.space, task.budget)
    return ranked


def plan_under(
    ranked: Ranked, curves: Callable[[Graph], Curves], task: Task, objective: Objective, record: Mapping[str, Any]
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


def modelopt_spelling(config: Any) -> Any:
    """Options as ModelOpt's users write them: module types beside the options, and ``max_iter_data_loader``."""
    if not isinstance(config, Mapping):
        return config
    ours = {key: value for key, value in config.items() if "." not in str(key)}
    types = {key: value for key, value in config.items() if "." in str(key)}
    if types:
        if not isinstance(ours.get("rules", {}), Mapping):
            return config
        ours["rules"] = {**ours.get("rules", {}), **types}
    if "max_iter_data_loader" in ours:
        if "num_batches" in ours:
            raise ConfigError("config: num_batches and max_iter_data_loader say the same thing; keep one of them")
        ours["num_batches"] = ours.pop("max_iter_data_loader")
    return ours
