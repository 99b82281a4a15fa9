"""From scores and a budget to kept indices.

    scores {width: [size]}  ──rank──►  best units first  ──climb──►  counts  ──►  kept {width: sorted indices}

Never above a bound; within one per cent below the tightest one wherever the choices allow it.

Invariant: the same graph, scores and budget give the same indices on every machine; ties go to the lower index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.core.budget import Budget
from secateur.core.graph import Graph, Width
from secateur.core.layout import Indices
from secateur.core.profile import maximum, minimum
from secateur.errors import InputError, nearest
from secateur.search.allocations import ALLOCATIONS, Floats
from secateur.search.fill import Room, fill
from secateur.search.ladder import Ladders
from secateur.search.refusal import check_reachable

SOFT_FLOOR = 0.1
TOLERANCE = 0.01

Scores = Mapping[str, NDArray[Any]]  # for each free width [size], or [outer, size] where it has an outer width


def allocate(
    graph: Graph,
    scores: Scores,
    budget: Budget,
    *,
    allocation: str = "global",
    soft_floor: float = SOFT_FLOOR,
) -> dict[str, Indices]:
    """The units to keep of every width that gets narrower, as sorted indices (one row for each outer index where 2-D).

    Each width keeps at least ``soft_floor`` of its units as long as the budget can be met so; the choices of the graph
    always hold.

    Raises Infeasible if the smallest network is above a bound, InputError for scores that are missing, misshapen or not
    finite.
    """
    rankings = {width.name: _rank(graph, width, scores) for width in graph.free}
    levels_of = ALLOCATIONS[allocation]
    if budget.satisfied(budget.costs(graph, maximum(graph))):
        return keep_best(graph, scores, maximum(graph))
    check_reachable(graph, budget)
    unit_costs = _unit_costs(graph, budget)
    levels = [
        levels_of(_by_rank(scores[w.name], rankings[w.name]), unit_costs[w.name] / _num_rows(rankings[w.name]))
        for w in graph.free
    ]
    ladders = Ladders.of(graph.free, levels, soft_floor)
    counts = ladders.counts(fill(Room(graph, budget, ladders), TOLERANCE))
    return _keep(graph, rankings, counts)


def keep_best(graph: Graph, scores: Scores, counts: Mapping[str, int]) -> dict[str, Indices]:
    """The best units of each free width at these counts; widths that stay whole are left out.

    Raises InputError for scores that are missing, misshapen or not finite.
    """
    narrowed = [width for width in graph.free if counts.get(width.name, width.size) < width.size]
    return _keep(graph, {width.name: _rank(graph, width, scores) for width in narrowed}, counts)


def _keep(graph: Graph, rankings: Mapping[str, Indices], counts: Mapping[str, int]) -> dict[str, Indices]:
    kept = {name: np.sort(ranking[..., : counts.get(name, None)], axis=-1) for name, ranking in rankings.items()}
    return {name: indices for name, indices in kept.items() if indices.shape[-1] < graph[name].size}


def _rank(graph: Graph, width: Width, scores: Scores) -> Indices:
    """The indices of a width's units, best first."""
    negated = -check_scores(graph, width, scores)
    ranking = np.argsort(negated, axis=-1)  # several times faster than a stable sort, which only ties need
    tied = (np.diff(np.take_along_axis(negated, ranking, axis=-1), axis=-1) == 0).any()
    return np.argsort(negated, axis=-1, kind="stable") if tied else ranking


def check_scores(graph: Graph, width: Width, scores: Scores) -> Floats:
    """The scores of a width as float64, or InputError with what is wrong with them."""
    if width.name not in scores:
        raise InputError(f"there are no scores for the width {width.name!r}.{nearest(width.name, scores)}")
    found = np.asarray(scores[width.name])
    shapes: list[Sequence[int]] = [(width.size,)]
    if width.outer is not None:
        shapes.append((graph[width.outer].size, width.size))
    if found.shape not in shapes:
        raise InputError(
            f"the scores of {width.name} have shape {found.shape}; {' or '.join(map(str, shapes))} is needed"
        )
    if found.dtype.kind not in "fiub" or not np.isfinite(found).all():
        raise InputError(
            f"the scores of {width.name} are not all finite numbers; look for NaN in what they were made of"
        )
    return found.astype(np.float64)


def _by_rank(scores: NDArray[Any], ranking: Indices) -> Floats:
    """Scores best first; where each outer index ranks its own, the mean over these at each rank."""
    ranked = np.take_along_axis(np.asarray(scores, dtype=np.float64), ranking, axis=-1)
    return ranked if ranked.ndim == 1 else ranked.mean(axis=0)


def _num_rows(ranking: Indices) -> int:
    """How many units one rank stands for: one of each outer index where these rank their own."""
    return 1 if ranking.ndim == 1 else len(ranking)


def _unit_costs(graph: Graph, budget: Budget) -> dict[str, float]:
    """The share of the budget that one unit of each width takes in the largest network, added up over the bounds."""
    largest, smallest = maximum(graph), minimum(graph)
    names = [width.name for width in graph.free]
    batch: dict[str, Any] = {name: np.full(len(names) + 1, count) for name, count in largest.items()}
    for i, name in enumerate(names):
        batch[name][i] = smallest[name]
    used: Any = sum(cost / budget.bounds[metric] for metric, cost in budget.costs(graph, batch).items())
    used = np.broadcast_to(used, (len(names) + 1,))
    steps = [max(largest[name] - smallest[name], 1) for name in names]
    return {name: float(used[-1] - used[i]) / steps[i] for i, name in enumerate(names)}
