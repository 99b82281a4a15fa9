"""Climbing the ladders until the budget is full.

    1. as many steps of the common order as fit
    2. of what remains, the steps that still fit, best first, until none does
    3. if that left more than the tolerance: exchanges of steps between widths, or all combinations where they are few

Invariant: nothing returned exceeds a bound. Costs never fall as counts rise, so a step that does not fit never will.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.core.budget import Budget
from secateur.core.graph import Graph
from secateur.search.ladder import Ints, Ladders

FULL = 0.999  # used share of the budget from which filling up further changes nothing that matters
MOST_CANDIDATES = 20_000  # weighed at once when steps are exchanged


@dataclass(frozen=True, slots=True)
class Room:
    """What fits: ladders, and the budget that they share."""

    graph: Graph
    budget: Budget
    ladders: Ladders

    def fits(self, position: Ints) -> bool:
        """Whether one position is within every bound."""
        return bool(self.budget.satisfied(self.budget.costs(self.graph, self.ladders.counts(position))))

    def weigh(self, positions: Ints) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """For many positions, whether they fit and how full the budget then is."""
        costs = self.budget.costs(self.graph, self.ladders.batch(positions))
        shape = (len(positions),)
        fits, fullness = self.budget.satisfied(costs), self.budget.fullness(costs)
        return np.broadcast_to(fits, shape), np.broadcast_to(fullness, shape)

    def fullness(self, position: Ints) -> float:
        """The largest used share of any bound."""
        return float(self.budget.fullness(self.budget.costs(self.graph, self.ladders.counts(position))))


def fill(room: Room, tolerance: float) -> Ints:
    """The position that keeps the best steps within the budget; the bottom of all ladders must fit."""
    ladders = room.ladders
    position, steps = np.zeros(len(ladders.names), dtype=np.int64), ladders.owner
    while len(steps):
        taken = _largest_prefix(room, position, steps)
        position, steps = ladders.climb(position, steps[:taken]), steps[taken:]
        if room.fullness(position) >= FULL:
            break
        steps = steps[_may_grow(room, position)[steps]]
    stuck = room.fullness(position) < 1 - tolerance and (position < ladders.tops).any()
    return _exchange(room, position, tolerance) if stuck else position


def _largest_prefix(room: Room, position: Ints, steps: Ints) -> int:
    """How many of these steps fit when they are taken in order."""
    fitting, too_many = 0, len(steps) + 1
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if room.fits(room.ladders.climb(position, steps[:middle])):
            fitting = middle
        else:
            too_many = middle
    return fitting


def _may_grow(room: Room, position: Ints) -> NDArray[np.bool_]:
    """Which widths have a next step that fits."""
    up = np.minimum(position + np.eye(len(position), dtype=np.int64), room.ladders.tops)
    return room.weigh(up)[0] & (position < room.ladders.tops)


def _exchange(room: Room, position: Ints, tolerance: float) -> Ints:
    """Among neighbouring positions the best one that fills the budget to the tolerance, or the fullest there is."""
    tops = room.ladders.tops
    worth = _worth(room.ladders, position)
    everything = math.prod((tops + 1).tolist()) <= MOST_CANDIDATES
    for _ in range(len(tops)):
        candidates = _all_positions(tops) if everything else _neighbours(position, tops)
        fits, fullness = room.weigh(candidates)
        close = np.flatnonzero(fits & (fullness >= 1 - tolerance))
        if len(close):
            gain = sum((table[candidates[close, i]] for i, table in enumerate(worth)), np.zeros(len(close)))
            return candidates[close[np.argmax(gain)]]
        best = int(np.argmax(np.where(fits, fullness, -1.0))) if len(candidates) else 0
        if everything or not len(candidates) or fullness[best] <= room.fullness(position) or not fits[best]:
            break
        position = candidates[best]
    return position


def _worth(ladders: Ladders, position: Ints) -> list[NDArray[np.float64]]:
    """What each position of a width is worth: how far its steps' levels lie above the best one not taken, in sum."""
    rank = np.zeros(len(ladders.owner), dtype=np.int64)
    for width in range(len(ladders.names)):
        mine = ladders.owner == width
        rank[mine] = np.arange(mine.sum())
    outside = rank >= position[ladders.owner]
    gain = ladders.level - ladders.level[outside].max()
    gain[: ladders.num_soft] = 1 + np.abs(gain).sum()  # the soft floor gives way last
    return [np.concatenate([[0.0], np.cumsum(gain[ladders.owner == w])]) for w in range(len(ladders.names))]


def _all_positions(tops: Ints) -> Ints:
    return np.indices(tuple(tops + 1)).reshape(len(tops), -1).T


def _neighbours(position: Ints, tops: Ints) -> Ints:
    """Positions with some width lower and another one higher, by up to a few steps."""
    movable = np.flatnonzero(tops > 0)[: math.isqrt(MOST_CANDIDATES)]
    depth = max(1, min(8, math.isqrt(MOST_CANDIDATES) // len(movable)))
    down, up, lower, higher = np.indices((len(movable), len(movable), depth, depth)).reshape(4, -1)
    down, up, lower, higher = movable[down], movable[up], lower + 1, higher + 1
    valid = (down != up) & (position[down] >= lower) & (position[up] + higher <= tops[up])
    down, up, lower, higher = (column[valid] for column in (down, up, lower, higher))
    candidates = np.repeat(position[None], len(down), axis=0)
    rows = np.arange(len(down))
    candidates[rows, down] -= lower
    candidates[rows, up] += higher
    return candidates
