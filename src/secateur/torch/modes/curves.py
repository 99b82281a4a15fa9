"""From curves of loss to a plan: the step that every mode with a threshold shares.

    search space, unit scores, {width: {count: loss}} ──threshold──► counts ──best units──► Plan

Invariant: the plan meets the budget, or Infeasible was raised before anything was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from secateur.core.choices import restrict
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.errors import Coincidence, ConfigError, InputError
from secateur.search.allocate import Scores, check_scores, keep_best
from secateur.search.refusal import check_reachable
from secateur.search.threshold import Curves, Objective, choose
from secateur.torch.criteria.protocol import Criterion
from secateur.torch.modes.mode import Mode, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A search space whose free widths all have scores, and what these were made by."""

    space: Graph
    scores: Scores
    made_by: Mapping[str, Any]

    @classmethod
    def of(cls, task: Task, mode: Mode, criterion: Criterion) -> Ranked:
        """Score the units of the search space; a width without scores stays whole.

        Raises Infeasible, before any scoring, where the smallest network is above a bound.
        """
        space = restrict(task.graph, mode.limits())
        check_reachable(space, task.budget)
        scores = criterion(space, task.model)
        judged = [
            w
            if w.frozen or w.name in scores
            else replace(w, frozen=f"not judged by {criterion.name}", choices=(w.size,))
            for w in space.widths
        ]
        space = space.with_widths(judged)
        check_reachable(space, task.budget)
        if not space.configurable:
            raise InputError(f"nothing can be narrowed: {criterion.name} judges no width that has a choice")
        scores = {width.name: check_scores(space, width, scores) for width in space.free}
        return cls(space=space, scores=scores, made_by={"name": criterion.name, **_plain(_settings(criterion))})

    def without(self, name: str, count: int) -> Ranked:
        """The same with one choice of one width taken away."""
        widths = [_without(w, count) if w.name == name else w for w in self.space.widths]
        return replace(self, space=self.space.with_widths(widths))

    def kept(self, counts: Mapping[str, int]) -> dict[str, Any]:
        """The best units of each width at these counts; a width not named stays whole."""
        return keep_best(self.space, self.scores, counts)


def plan_under(
    ranked: Ranked, curves: Callable[[Graph], Curves], task: Task, objective: Objective, record: Mapping[str, Any]
) -> Plan:
    """The plan with the smallest loss, largest or sum of all, that meets the budget.

    Where two sizes would coincide that the code tells apart, that choice goes and the counts are chosen again.
    """
    while True:
        counts = choose(ranked.space, curves(ranked.space), task.budget, objective)
        try:
            plan = task.graph.plan(ranked.kept(counts))
        except Coincidence as coincidence:
            if len(ranked.space[coincidence.width].choices) == 1:
                raise
            ranked = ranked.without(coincidence.width, coincidence.count)
            continue
        costs = {metric: int(task.graph.cost(metric, plan.sizes)) for metric in task.graph.costs}
        made = {
            "criterion": ranked.made_by,
            "budget": task.budget.to_json(),
            "objective": objective,
            "costs": costs,
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


def _settings(criterion: Any) -> dict[str, Any]:
    """What a criterion shows of itself: data and functions are not recorded."""
    return {f.name: getattr(criterion, f.name) for f in fields(criterion) if f.repr} if is_dataclass(criterion) else {}


def _without(width: Any, count: int) -> Any:
    return replace(width, choices=tuple(c for c in width.choices if c != count))


def _plain(value: Any) -> Any:
    """JSON's own types: tuples and sets as lists, what has no JSON form by its name."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
