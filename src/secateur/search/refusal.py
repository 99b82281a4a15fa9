"""Why a budget cannot be met, and what would help.

    cannot reach macs ≤ 1.00G: the smallest network in the search space has 1.31G. Allow layer1.0.conv1 fewer than 32 of
    its 64 units, or free fc.in_features (excluded (fc)).

Invariant: the value named as reachable is the cost of a network that the search space holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from secateur.core.budget import Bound, Budget, measure
from secateur.core.graph import Graph, Width
from secateur.core.profile import minimum
from secateur.core.text import human
from secateur.errors import Infeasible


def check_reachable(graph: Graph, budget: Budget) -> None:
    """Raise `Infeasible` if the smallest network of the search space is above a bound."""
    costs = budget.costs(graph, minimum(graph))
    missed = [bound for bound in budget.entries if costs[bound.metric] > bound.most]
    if not missed:
        return
    bound = max(missed, key=lambda m: costs[m.metric] / m.most)
    reachable = int(costs[bound.metric])
    raise Infeasible(
        f"cannot reach {bound.metric} ≤ {human(bound.most)}: the smallest network in the search space has "
        f"{human(reachable)}. {_way_out(graph, bound)}{_percent(bound)}",
        metric=bound.metric,
        bound=bound.most,
        reachable=reachable,
    )


def _percent(bound: Bound) -> str:
    """``{"macs": 50}`` is fifty multiplications."""
    share = f"{int(bound.most)}%"
    return f' A share of the whole is written "{share}", in quotes.' if 1 <= bound.most <= 100 else ""


def check_within(graph: Graph, budget: Budget, sizes: Mapping[str, int], *, chosen_by: str, way_out: str) -> None:
    """Raise `Infeasible` where sizes that an option says, and no search chose, cost more than a bound."""
    bounds = budget.bounds
    for metric, cost in budget.costs(graph, sizes).items():
        if cost > bounds[metric]:
            raise Infeasible(
                f"{chosen_by} leaves {metric} = {int(cost):,}, more than the bound {int(bounds[metric]):,}. {way_out}",
                metric=metric,
                bound=bounds[metric],
                reachable=int(cost),
            )


def _way_out(graph: Graph, bound: Bound) -> str:
    """The free and the frozen width that would save most if they could have one unit."""
    free = _most_saving(graph, bound, [w for w in graph.free if w.choices[0] > 1])
    frozen = _most_saving(graph, bound, _kept_whole(graph))
    hints = []
    if free is not None:
        hints.append(f"allow {free.name} fewer than {free.choices[0]} of its {free.size} units")
    if frozen is not None:
        hints.append(f"free {frozen.name} ({frozen.frozen})")
    hint = ", or ".join(hints) or (
        "ask for a larger bound: nothing else can be narrowed, and print(secateur.trace(model, dummy_input)) says why"
    )
    if not hints and (widest := max(_kept_whole(graph), key=lambda w: w.size, default=None)) is not None:
        hint += f". The widest of what is kept whole is {widest.name}, {widest.size} units ({widest.frozen})"
    if not graph.free:
        reasons = Counter(w.frozen for w in graph.widths if w.frozen is not None)
        whole = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(4))
        return f"No width of it can be narrowed ({whole}). {hint[0].upper()}{hint[1:]}."
    return f"{hint[0].upper()}{hint[1:]}."


def _kept_whole(graph: Graph) -> list[Width]:
    return [w for w in graph.widths if w.frozen is not None and w.size > 1]


def _most_saving(graph: Graph, bound: Bound, widths: Sequence[Width]) -> Width | None:
    if not widths:
        return None
    batch: dict[str, Any] = {name: np.full(len(widths), count) for name, count in minimum(graph).items()}
    for i, width in enumerate(widths):
        batch[width.name][i] = 1
    costs = np.broadcast_to(measure(graph, bound.metric, batch), (len(widths),))
    best = int(np.argmin(costs))
    return widths[best] if costs[best] < measure(graph, bound.metric, minimum(graph)) else None
