"""Every uniform network under a budget, from the shape of its costs: no network is built, none is run.

    ties × their choices ──► costs of all combinations at once ──► those that fit ──► best predicted quality first

What a width keeps of its score predicts quality: the logarithm of the share, once for each place where the width is used.

Invariant: what is proposed meets the budget, and nothing in the grid that meets it has a better prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from secateur.core.budget import Budget
from secateur.core.depth import LAYERS
from secateur.core.graph import Graph
from secateur.search.allocate import Scores
from secateur.search.depths import kept_of_depth, places_in
from secateur.search.ties import Tie, counts_of

MOST = 200_000  # networks that are weighed at once
MOST_ASKED = 20_000  # of them, whether their sizes go together

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def proposed(
    graph: Graph,
    ties: Sequence[Tie],
    scores: Scores,
    budget: Budget,
    *,
    top: int,
    admits: Callable[[Mapping[str, int]], bool] = lambda chosen: True,
) -> list[dict[str, int]]:
    """Counts of ties of the ``top`` best networks that meet the budget; none where none in the grid does.

    ``admits`` says whether such counts go together.
    """
    grids = _grids(ties)
    chosen = _combinations(ties, grids)
    costs = budget.costs(graph, counts_of(chosen, ties))
    fits = np.flatnonzero(np.broadcast_to(budget.satisfied(costs), _length(chosen)))
    kept = {tie.name: kept_share(graph, tie, scores) for tie in ties}
    quality = sum(
        (np.log(kept[t.name])[_places(t, chosen[t.name])] * weight(graph, t) for t in ties), np.zeros(_length(chosen))
    )
    order = fits[np.argsort(-quality[fits], kind="stable")][:MOST_ASKED]
    named = ({t.name: int(chosen[t.name][i]) for t in ties} for i in order)
    unique: dict[tuple[int, ...], dict[str, int]] = {}
    for one in islice(filter(admits, named), 40 * top):
        if len(unique) < top:
            grown = _grown(graph, ties, kept, budget, one, admits)
            unique.setdefault(tuple(grown.values()), grown)
    ordered = sorted(unique.values(), key=lambda one: -_quality(graph, ties, kept, one))
    return ordered[:top]


def kept_share(graph: Graph, tie: Tie, scores: Scores) -> Floats:
    """The share of its squared score that a tie keeps at each of its choices, the mean over its widths (geometric)."""
    if tie.kind == LAYERS:
        return kept_of_depth(tie, scores)
    counts = {name: np.array(tie.choices) * tie.each.get(name, 1) for name in tie.widths if name in scores}
    logs = [_log_shares(np.asarray(scores[name], dtype=np.float64), at) for name, at in counts.items()]
    return np.exp(np.mean(logs, axis=0)) if logs else np.ones(len(tie.choices))


def weight(graph: Graph, tie: Tie) -> int:
    """In how many places the widths of a tie are used, or those inside its blocks."""
    if tie.kind == LAYERS:
        return places_in(graph, tie)
    return sum(len(graph[name].uses) for name in tie.widths)


def _log_shares(score: Floats, counts: Ints) -> Floats:
    ranked = -np.sort(-np.square(score - min(float(score.min()), 0.0)), axis=-1)
    sums = np.cumsum(ranked, axis=-1)
    sums = sums if sums.ndim == 1 else sums.mean(axis=0)
    shares = sums[counts - 1] / max(float(sums[-1]), 1e-30)
    return np.log(np.maximum(shares, 1e-12))


def _grids(ties: Sequence[Tie]) -> list[Ints]:
    """The choices of each tie, thinned out where there would be too many combinations."""
    grids = [np.array(tie.choices, dtype=np.int64) for tie in ties]
    while math.prod(map(len, grids)) > MOST and max(map(len, grids)) > 2:
        longest = max(range(len(grids)), key=lambda i: len(grids[i]))
        some = np.linspace(0, len(grids[longest]) - 1, max(len(grids[longest]) * 2 // 3, 2)).round().astype(int)
        grids[longest] = grids[longest][np.unique(some)]
    return grids


def _combinations(ties: Sequence[Tie], grids: Sequence[Ints]) -> dict[str, Ints]:
    """All combinations; where even two choices a tie are too many, so many drawn at random, both ends among them."""
    lengths = [len(grid) for grid in grids]
    total = math.prod(lengths)
    if total <= MOST:
        places = np.unravel_index(np.arange(total), lengths) if lengths else ()
    else:
        generator = np.random.default_rng(0)
        places = tuple(np.concatenate([[0, n - 1], generator.integers(0, n, MOST)]) for n in lengths)
    return {tie.name: grid[at] for tie, grid, at in zip(ties, grids, places, strict=True)}


def _length(chosen: Mapping[str, Ints]) -> int:
    return len(next(iter(chosen.values()), np.zeros(1)))


def _places(tie: Tie, counts: Ints) -> Ints:
    return np.searchsorted(np.array(tie.choices), counts)


def _quality(graph: Graph, ties: Sequence[Tie], kept: Mapping[str, Floats], chosen: Mapping[str, int]) -> float:
    return sum(float(np.log(kept[tie.name][tie.choices.index(chosen[tie.name])])) * weight(graph, tie) for tie in ties)


def _grown(
    graph: Graph,
    ties: Sequence[Tie],
    kept: Mapping[str, Floats],
    budget: Budget,
    chosen: dict[str, int],
    admits: Callable[[Mapping[str, int]], bool],
) -> dict[str, int]:
    """Let ties go up, one choice at a time where it helps most, as long as the budget holds."""
    while True:
        best, gained = None, -1.0
        for tie in ties:
            at = tie.choices.index(chosen[tie.name]) + 1
            if at < len(tie.choices):
                higher = {**chosen, tie.name: tie.choices[at]}
                gain = weight(graph, tie) * float(np.log(kept[tie.name][at]) - np.log(kept[tie.name][at - 1]))
                fits = gain > gained and budget.satisfied(budget.costs(graph, counts_of(higher, ties)))
                if fits and admits(higher):
                    best, gained = higher, gain
        if best is None:
            return chosen
        chosen = best
