"""From a graph, a judge and a budget to a plan, scored once and allocated once.

    Graph ──limits, sizes──► search space ──judge──► scores ──allocate──► kept indices ──► Plan

Invariant: a plan meets its budget, or there is none; what it was made with stands in its provenance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from secateur.core.budget import Budget
from secateur.core.cost import Peak, Polynomial
from secateur.core.graph import Graph
from secateur.core.layout import Indices, widths_of
from secateur.core.plan import Plan
from secateur.core.profile import maximum
from secateur.errors import InputError, nearest
from secateur.search.allocate import allocate, keep_best
from secateur.search.allocations import ALLOCATIONS
from secateur.search.blocks import check_some_stay
from secateur.search.limits import NO_LIMITS, Limits, restrict
from secateur.search.ranked import Judge, plain, plan_within, scored


def plan_for(
    graph: Graph,
    judge: Judge,
    budget: Budget | None,
    *,
    allocation: str = "global",
    sizes: Mapping[str, int] | None = None,
    limits: Limits = NO_LIMITS,
) -> Plan:
    """Choose what to keep of each width, so that the budget is met and the widths in ``sizes`` have these counts.

    Raises InputError for what cannot be used, Infeasible where no network is small enough.
    """
    _ = ALLOCATIONS[allocation]
    if not isinstance(sizes, Mapping | None):
        raise InputError(f'sizes are written {{"conv1.out_channels": 32}}, not {sizes!r:.60}')
    sizes = sizes or {}
    search_space = _pinned(restrict(graph, limits), sizes)
    if budget is None and not sizes:
        raise InputError(
            'what to keep? Give constraints such as {"macs": "60%"}, or sizes such as {"conv1.out_channels": 32}'
        )
    ranked = scored(search_space if budget is None else _that_saves(search_space, budget), judge)

    def kept_of(search_space: Graph) -> Mapping[str, Indices]:
        if budget is None:
            return keep_best(search_space, ranked.scores, maximum(search_space))
        return allocate(search_space, ranked.scores, budget, allocation=allocation)

    found = plan_within(graph, ranked.search_space, kept_of)
    record = {
        "criterion": ranked.made_by,
        "not_scored": list(ranked.not_scored),
        "allocation": allocation,
        "budget": None if budget is None else budget.to_json(),
        "sizes": {name: int(count) for name, count in sizes.items()},
        "limits": plain(dict(limits)),
        "costs": {metric: int(graph.cost(metric, found.sizes)) for metric in graph.costs},
    }
    return replace(found, provenance=record)


def _pinned(search_space: Graph, sizes: Mapping[str, int]) -> Graph:
    """The search space with these counts as the only choice of their widths."""
    for name, count in sizes.items():
        _check_size(search_space, name, count)
    check_some_stay(search_space, {name for name, count in sizes.items() if not count})
    return search_space.with_widths(
        replace(w, choices=(int(sizes[w.name]),)) if w.name in sizes else w for w in search_space.widths
    )


def _that_saves(search_space: Graph, budget: Budget) -> Graph:
    """The search space without widths that no bounded cost has a term of (a cache is not smaller for fewer experts), unless fewer
    were asked for.
    """
    costs = [search_space.costs.get(bound.metric) for bound in budget.entries]
    known = [cost for cost in costs if isinstance(cost, Polynomial | Peak)]
    if not known or len(known) < len(costs):  # of a cost made elsewhere nobody knows what it depends on
        return search_space
    counted = {
        name for cost in known for axes in {term.axes for term in cost.terms} for a in axes for name in widths_of(a)
    }
    reason = f"nothing of {', '.join(bound.metric for bound in budget.entries)} is saved by it"
    return search_space.with_widths(
        w if w.name in counted or w.choices[-1] < w.size else w.whole(reason) for w in search_space.widths
    )


def _check_size(search_space: Graph, name: str, count: object) -> None:
    known = {width.name: width for width in search_space.widths}
    if name not in known:
        raise InputError(f"sizes: no width is called {name!r}.{nearest(name, known)}")
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
