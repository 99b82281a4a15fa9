"""`plan`: from a graph, a criterion and a budget to what is kept.

    Graph ──limits──► search space ──score──► scores ──allocate──► kept indices ──► Plan

Invariant: a plan meets its budget, or there is none; what it was made with stands in its provenance.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.core.budget import Budget
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.profile import maximum
from secateur.errors import InputError, nearest
from secateur.search.allocate import allocate, keep_best
from secateur.search.allocations import ALLOCATIONS
from secateur.search.limits import Limits, Spans, restrict
from secateur.search.ranked import description, plain, unless_coincident
from secateur.torch.criteria.protocol import Criterion, make

Scores = Mapping[str, NDArray[Any]]


def plan(
    graph: Graph,
    criterion: str | Criterion | Scores = "l1",
    budget: Budget | Mapping[str, Any] | None = None,
    *,
    allocation: str = "global",
    sizes: Mapping[str, int] | None = None,
    multiple_of: int = 1,
    exclude: Collection[str] = (),
    only: Collection[str] = (),
    floor: Spans | None = None,
    ceiling: Spans | None = None,
    rules: Mapping[str, Any] | None = None,
) -> Plan:
    """Choose what to keep of each width so that the budget is met.

    ``criterion`` is a name, an object, or scores made before. ``budget`` is ``{"macs": "60%"}`` or several bounds;
    ``sizes`` fixes the counts of some widths by hand, with or without a budget for the others. ``allocation`` is
    "global", "local", "uniform" or "per_cost". The rest narrows the search space as `Limits` says.

    Raises InputError for an argument that cannot be used, Infeasible where no network is small enough.
    """
    _ = ALLOCATIONS[allocation]
    limits = Limits(
        multiple_of=multiple_of, exclude=exclude, only=only, floor=floor, ceiling=ceiling, rules=rules or {}
    )
    space = _pinned(restrict(graph, limits), sizes or {})
    bounds = None if budget is None else Budget.of(budget, graph)
    if bounds is None and not sizes:
        raise InputError(
            'what to keep? Give a budget such as {"macs": "60%"}, or sizes such as {"conv1.out_channels": 32}'
        )
    scores, made_by = _scores(space, criterion)
    space, not_scored = _only_scored(space, scores, made_by)
    found = _allocated(graph, space, scores, bounds, allocation)
    record = {
        "criterion": made_by,
        "not_scored": not_scored,
        "allocation": allocation,
        "budget": None if bounds is None else bounds.to_json(),
        "sizes": {name: int(count) for name, count in (sizes or {}).items()},
        "limits": plain(asdict(limits)),
        "costs": {metric: int(graph.cost(metric, found.sizes)) for metric in graph.costs},
    }
    return replace(found, provenance=record)


def _allocated(graph: Graph, space: Graph, scores: Scores, bounds: Budget | None, allocation: str) -> Plan:
    """Allocate; again without a choice where two sizes would coincide."""

    def kept_of(space: Graph) -> Mapping[str, Any]:
        if bounds is None:
            return keep_best(space, scores, maximum(space))
        return allocate(space, scores, bounds, allocation=allocation)

    return unless_coincident(graph, space, kept_of)


def _pinned(space: Graph, sizes: Mapping[str, int]) -> Graph:
    """The search space with these counts as the only choice of their widths."""
    for name, count in sizes.items():
        _check_size(space, name, count)
    return space.with_widths(replace(w, choices=(int(sizes[w.name]),)) if w.name in sizes else w for w in space.widths)


def _check_size(space: Graph, name: str, count: Any) -> None:
    known = {width.name: width for width in space.widths}
    if name not in known:
        raise InputError(f"sizes: no width is called {name!r}.{nearest(str(name), known)}")
    width = known[name]
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        raise InputError(f"sizes: {name}: a count is a whole number, not {count!r}")
    if width.frozen is not None and count != width.size:
        raise InputError(f"sizes: {name} cannot have {count} of its {width.size} units: {width.frozen}")
    if width.frozen is None and count not in width.choices:
        closest = min(width.choices, key=lambda choice: abs(choice - count))
        raise InputError(
            f"sizes: {name} cannot have {count} of its {width.size} units; the nearest choice is {closest}"
        )


def _scores(space: Graph, criterion: str | Criterion | Scores) -> tuple[Scores, Any]:
    """The scores, and what they are called in the provenance."""
    if isinstance(criterion, Mapping):
        strange = [name for name in criterion if name not in {width.name for width in space.widths}]
        if strange:
            names = [width.name for width in space.widths]
            raise InputError(f"scores for {strange[0]!r}, but no width is called so.{nearest(str(strange[0]), names)}")
        return criterion, "scores"
    judge = make(criterion)
    model = getattr(space.example, "model", None)
    if model is None:
        raise InputError("this graph was read from a file and has no model to judge; trace the model, or give scores")
    return judge(space, model), description(judge)


def _only_scored(space: Graph, scores: Scores, made_by: Any) -> tuple[Graph, list[str]]:
    """The search space without the free widths that have no scores, and the names of these."""
    missing = [width.name for width in space.free if width.name not in scores]
    called = made_by if isinstance(made_by, str) else made_by["name"]
    if missing and len(missing) == len(space.free):
        raise InputError(f"{called} gives no scores for any free width; the first is {missing[0]}")
    pinned = [w.name for w in space.free if w.name in missing and w.choices[-1] < w.size]
    if pinned:
        raise InputError(f"{called} gives no scores for {pinned[0]}, which must get smaller; use another criterion")
    if not missing:
        return space, []
    reason = f"not judged by {called}"
    return space.with_widths(
        replace(w, frozen=reason, choices=(w.size,)) if w.name in missing else w for w in space.widths
    ), missing
