"""Candidates for a search that measures whole networks: each fills the budget, and later ones learn from earlier ones.

    removal ratios of all widths      ──scale until the budget is full──►   counts
    0: all the same                   1, 2, …: random (EagleEye, ECCV 2020)
    later: from one of the best in the direction that a line through all scores says is up; each fourth crosses two of the
    best and mutates the child

Nothing is rejected: the scale is solved for. A round of candidates depends on the scores of the rounds before it alone,
so that the members of a round can be measured at the same time and in any order.

Invariant: the same seed, graph, budget and scores give the same candidates, whatever the number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.core.budget import Budget
from secateur.core.graph import Graph
from secateur.core.profile import maximum
from secateur.search.allocate import TOLERANCE
from secateur.search.fill import Room, fill
from secateur.search.ladder import Ladders
from secateur.search.refusal import check_reachable

Floats = NDArray[np.float64]
Counts = Mapping[str, int]

ROUND = 8  # candidates that do not wait for each other
RANDOM_ROUNDS = 2  # before anything is learnt
CROSSED = 4  # in later rounds each fourth candidate is a child of two
ELITE = 4  # candidates that others come from
MUTATED, SPREAD = 0.3, 0.15  # share of a child's widths that change, and the standard deviation, as a removal ratio
STEP, JITTER = 0.3, 0.07  # standard deviation of the step upwards, and around it in each width
RIDGE = 0.2
MOST, LEAST = 0.9, 0.02  # removal ratios
ATTEMPTS = 20  # at a candidate that is new, the second half of them anywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposer:
    """Where candidates come from. ``removal_ratio`` is what random ratios are spread around."""

    graph: Graph
    budget: Budget
    removal_ratio: float
    seed: int = 0

    def propose(self, index: int, earlier: Sequence[Counts], scores: Sequence[float | None]) -> dict[str, int] | None:
        """Candidate number ``index``; None where no network that was not proposed before is found.

        ``earlier`` are all candidates before it, ``scores`` those of the rounds before its round, None for the abandoned.
        """
        rng = np.random.default_rng([self.seed, index])
        seen = {_key(counts) for counts in earlier}
        draw = self._source(index, earlier, scores, rng)
        for attempt in range(ATTEMPTS):
            ratios = draw() if attempt < ATTEMPTS // 2 else rng.uniform(LEAST, MOST, len(self.graph.free))
            counts = fitted(self.graph, ratios, self.budget)
            if _key(counts) not in seen:
                return counts
        return None

    def _source(
        self, index: int, earlier: Sequence[Counts], scores: Sequence[float | None], rng: np.random.Generator
    ) -> Callable[[], Floats]:
        num_widths = len(self.graph.free)
        if index == 0:
            return lambda: np.full(num_widths, self.removal_ratio)
        finished = [i for i, score in enumerate(scores) if score is not None]
        if index < RANDOM_ROUNDS * ROUND or not finished:
            return lambda: random_ratios(rng, num_widths, self.removal_ratio)
        ratios = np.array([[1 - earlier[i][w.name] / w.size for w in self.graph.free] for i in finished])
        values = np.array([score for score in scores if score is not None])
        rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
        best = ratios[rank >= len(finished) - ELITE]
        if index % CROSSED == 0:
            return lambda: child(rng, best)
        upwards = direction(ratios, rank.astype(np.float64))
        return lambda: climber(rng, best, upwards)


def round_of(index: int) -> range:
    """The candidates that are measured side by side with this one."""
    first = index - index % ROUND
    return range(first, first + ROUND)


def random_ratios(rng: np.random.Generator, num_widths: int, removal_ratio: float) -> Floats:
    """Removal ratios around a mean that is itself drawn, more or less alike."""
    low, high = (removal_ratio / 2, removal_ratio) if removal_ratio >= 0.5 else (0.0, removal_ratio / 2)
    return np.clip(rng.normal(rng.uniform(low, high), rng.uniform(0, 0.3), num_widths), 0.05, MOST)


def child(rng: np.random.Generator, parents: Floats) -> Floats:
    """Each width's removal ratio from one of two parents ``[parent, width]``, some of them changed."""
    pair = parents[rng.integers(len(parents), size=2)]
    num_widths = parents.shape[1]
    mixed = np.where(rng.random(num_widths) < 0.5, pair[0], pair[1])
    changed = rng.random(num_widths) < MUTATED
    changed[rng.integers(num_widths)] = True
    return np.clip(mixed + changed * rng.normal(0, SPREAD, num_widths), LEAST, MOST)


def climber(rng: np.random.Generator, parents: Floats, upwards: Floats) -> Floats:
    """One of the parents' removal ratios, some way along a direction."""
    start = parents[rng.integers(len(parents))]
    step = abs(rng.normal(0, STEP)) * upwards
    return np.clip(start + step + rng.normal(0, JITTER, len(start)), LEAST, MOST)


def direction(ratios: Floats, values: Floats) -> Floats:
    """The unit vector along which values rise with removal ratios ``[candidate, width]``, by ridge regression."""
    centred, target = ratios - ratios.mean(axis=0), values - values.mean()
    scale = max(float(values.std()), 1e-9)
    shrink = RIDGE * len(ratios) * max(float(centred.var(axis=0).mean()), 1e-9)
    slope = np.linalg.solve(centred.T @ centred + shrink * np.eye(centred.shape[1]), centred.T @ (target / scale))
    return slope / max(float(np.linalg.norm(slope)), 1e-9)


def fitted(graph: Graph, ratios: Floats, budget: Budget) -> dict[str, int]:
    """Counts whose removal ratios are these times one scale, the smallest scale that meets the budget; then filled up.

    Raises Infeasible if the smallest network is above a bound.
    """
    if budget.satisfied(budget.costs(graph, maximum(graph))):
        return {width.name: width.choices[-1] for width in graph.free}
    check_reachable(graph, budget)
    levels = [  # the scale from which on a unit is gone
        (1 - np.arange(width.size) / width.size) / max(float(ratio), LEAST)
        for width, ratio in zip(graph.free, ratios, strict=True)
    ]
    ladders = Ladders.of(graph.free, levels, soft_floor=1 - MOST)
    return ladders.counts(fill(Room(graph, budget, ladders), TOLERANCE))


def _key(counts: Counts) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items()))
