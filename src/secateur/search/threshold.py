"""How many units each width keeps, from what narrowing it costs: the smallest loss that every width can afford.

    loss │ conv1 ╲                 one threshold for all; each width goes down to the smallest count whose loss
         │ conv2  ╲╲___            is not above it; the budget decides how high the threshold must be,
       t ┼─────────╲──╲──          and what it leaves over lets widths go up again
         └──────────┴──┴── count

That makes the largest loss small. The other objective makes the sum of all losses small: the budget has a price, and each
width the count at which its loss and what it pays are least together.

Invariant: what is chosen meets every bound, and no smaller threshold would. Both ends, the smallest and the largest
network, are among the candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from secateur.core.budget import Budget
from secateur.core.graph import Graph, Width
from secateur.core.profile import maximum
from secateur.errors import InputError, nearest
from secateur.search.refusal import check_reachable

Curves = Mapping[str, Mapping[int, float]]  # for each free width the loss at each of its choices
Objective = Literal["largest", "sum"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ROUNDS = 4  # of prices
PRICES = (-100.0, 100.0)  # powers of two
MOST_STEPS = 32  # heights of one width that are weighed against each other at once


def monotone(curve: Mapping[int, float]) -> dict[int, float]:
    """The curve that never rises with the count: from the largest count down, the largest loss so far.

    >>> monotone({8: 0.0, 6: 0.2, 4: 0.1, 2: 0.5})
    {2: 0.5, 4: 0.2, 6: 0.2, 8: 0.0}
    """
    counts = sorted(curve)
    losses = np.maximum.accumulate([curve[count] for count in reversed(counts)])[::-1]
    return dict(zip(counts, losses.tolist(), strict=True))


def choose(search_space: Graph, curves: Curves, budget: Budget, objective: Objective = "largest") -> dict[str, int]:
    """The count of every width under the smallest threshold that meets the budget, with what is left over used up.

    ``curves`` has a loss for every choice of every free width; they are made `monotone` here. ``objective="sum"`` makes the
    sum of the losses small in place of the largest.

    Raises Infeasible if the smallest network is above a bound, InputError for a curve that is missing or has gaps.
    """
    slopes = [_Slope.of(width, curves) for width in search_space.free]
    check_reachable(search_space, budget)
    if budget.satisfied(budget.costs(search_space, maximum(search_space))):
        return maximum(search_space)
    bounded = _Bounded(search_space, budget, slopes)
    found = [_filled(bounded, _threshold(bounded))]
    if objective == "sum":
        found += _balanced(bounded)
    return {**maximum(search_space), **bounded.counts(min(found, key=bounded.loss))}


def _threshold(bounded: _Bounded) -> Ints:
    """The position under the smallest threshold that fits."""
    slopes = bounded.slopes
    thresholds = np.unique(np.concatenate([slope.losses for slope in slopes]))
    too_low, enough = -1, len(thresholds) - 1
    while enough - too_low > 1:
        middle = (too_low + enough) // 2
        if bounded.fits(_below(slopes, thresholds[middle])):
            enough = middle
        else:
            too_low = middle
    return _below(slopes, thresholds[enough])


@dataclass(frozen=True, slots=True)
class _Slope:
    """The choices of one width, ascending, and the loss at each, never rising."""

    name: str
    counts: Ints
    losses: Floats

    @classmethod
    def of(cls, width: Width, curves: Curves) -> _Slope:
        if width.name not in curves:
            raise InputError(f"there is no curve for the width {width.name!r}.{nearest(width.name, curves)}")
        curve = curves[width.name]
        missing = [count for count in width.choices if count not in curve]
        if missing or not np.isfinite([curve[count] for count in width.choices]).all():
            what = f"no loss for {missing[0]} units" if missing else "a loss that is no finite number"
            raise InputError(
                f"the curve of {width.name} has {what}; each of its {len(width.choices)} choices needs one"
            )
        steady = monotone({count: curve[count] for count in width.choices})
        return cls(width.name, np.array(list(steady), dtype=np.int64), np.array(list(steady.values())))


@dataclass(frozen=True, slots=True)
class _Bounded:
    """What fits. A position holds for each width the place of its count among its choices."""

    search_space: Graph
    budget: Budget
    slopes: list[_Slope]

    def counts(self, position: Ints) -> dict[str, int]:
        return {s.name: int(s.counts[i]) for s, i in zip(self.slopes, position.tolist(), strict=True)}

    def loss(self, position: Ints) -> float:
        return float(sum(s.losses[i] for s, i in zip(self.slopes, position.tolist(), strict=True)))

    def fits(self, position: Ints) -> bool:
        return bool(self.budget.satisfied(self.budget.costs(self.search_space, self.counts(position))))

    def weigh(self, position: Ints, which: Ints, places: Ints) -> tuple[NDArray[np.bool_], Floats]:
        """For each move of one width to another place: whether it fits, and what it adds to the used shares."""
        batch: dict[str, Any] = {n: np.full(len(which) + 1, c) for n, c in self.counts(position).items()}
        for row, (i, place) in enumerate(zip(which.tolist(), places.tolist(), strict=True)):
            batch[self.slopes[i].name][row] = self.slopes[i].counts[place]
        costs = self.budget.costs(self.search_space, batch)
        used: Any = sum(np.broadcast_to(cost, len(which) + 1) / self.budget.bounds[m] for m, cost in costs.items())
        return np.broadcast_to(self.budget.satisfied(costs), len(which) + 1)[:-1], used[:-1] - used[-1]


def _balanced(bounded: _Bounded) -> list[Ints]:
    """Positions where a further share of the budget would save the same loss in every width.

    What a unit of one width costs depends on all others: the price is taken at the whole network first, then at what was
    found.
    """
    found: list[Ints] = []
    position = np.array([len(slope.counts) - 1 for slope in bounded.slopes], dtype=np.int64)
    for _ in range(ROUNDS):
        priced = _at_price(bounded, _unit_costs(bounded, position))
        if priced is None or any((priced == earlier).all() for earlier in found):
            break
        found.append(priced)
        position = priced
    return [_filled(bounded, position) for position in found]


def _unit_costs(bounded: _Bounded, position: Ints) -> Floats:
    """The used shares that one unit of each width adds, the other widths as they are."""
    every = np.arange(len(bounded.slopes))
    lasts = np.array([len(slope.counts) - 1 for slope in bounded.slopes], dtype=np.int64)
    _, extra = bounded.weigh(position, np.tile(every, 2), np.concatenate([lasts, 0 * lasts]))
    steps = np.array([max(int(s.counts[-1] - s.counts[0]), 1) for s in bounded.slopes])
    return (extra[: len(every)] - extra[len(every) :]) / steps


def _at_price(bounded: _Bounded, unit_costs: Floats) -> Ints | None:
    """The position at the lowest price of the budget that fits: each width has the least loss + price × cost."""

    def at(exponent: float) -> Ints:
        price = 2.0**exponent * unit_costs
        return np.array([np.argmin(s.losses + u * s.counts) for s, u in zip(bounded.slopes, price, strict=True)])

    low, high = PRICES
    if not bounded.fits(at(high)):
        return None
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if bounded.fits(at(middle)) else (middle, high)
    return at(high)


def _below(slopes: list[_Slope], threshold: float) -> Ints:
    """The place of the smallest count of each width whose loss is not above the threshold."""
    places = [min(int(np.searchsorted(-s.losses, -threshold)), len(s.losses) - 1) for s in slopes]
    return np.array(places, dtype=np.int64)


def _filled(bounded: _Bounded, position: Ints) -> Ints:
    """Let widths go up as long as one fits: first where it saves most loss for its cost, then where it uses most."""
    while True:
        which, places = _higher(bounded.slopes, position)
        if not len(which):
            return position
        fits, extra = bounded.weigh(position, which, places)
        if not fits.any():
            return position
        losses = [bounded.slopes[i].losses for i in which]
        saved = np.array([at[position[i]] - at[p] for at, i, p in zip(losses, which, places, strict=True)])
        worth = np.where(fits, np.round(saved / np.maximum(extra, 1e-12), 9), -1.0)
        best = np.lexsort((-extra, -worth))[0]
        position = position.copy()
        position[which[best]] = places[best]


def _higher(slopes: list[_Slope], position: Ints) -> tuple[Ints, Ints]:
    """Moves upwards: to the next place of each width, and to some of those above it up to the last."""
    places = []
    for slope, at in zip(slopes, position.tolist(), strict=True):
        above = np.arange(at + 1, len(slope.counts))
        some = np.linspace(0, max(len(above) - 1, 0), MOST_STEPS).astype(np.int64)
        places.append(above if len(above) <= MOST_STEPS else above[np.unique(some)])
    which = np.repeat(np.arange(len(slopes)), [len(p) for p in places])
    return which, np.concatenate(places) if places else np.zeros(0, dtype=np.int64)
