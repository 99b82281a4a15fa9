"""Climbing the ladders until the budget is full.

    1. as many steps of the common order as fit
    2. of what remains, the steps that still fit, best first, until none does
    3. if that left more than the tolerance: exchanges of steps between widths, or all combinations where there are few

Invariant: nothing returned exceeds a bound. Costs never fall as counts rise, so a step that does not fit never will.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.core.budget import Budget
from secateur.core.graph import Graph
from secateur.search.ladder import Ints, Ladders

FULL = 0.999  # used share of the budget from which filling up further changes nothing that matters
MOST_CANDIDATES = 20_000  # weighed at once when steps are exchanged
MOST_GROUPS = 8  # groups of widths that are tried one after the other
MOST_FORCED = 16  # widths that are held in turn
ROUNDS = 4  # of exchanges


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
    position = _climb(room, np.zeros(len(ladders.names), dtype=np.int64), ladders.owner)
    stuck = room.fullness(position) < 1 - tolerance and (position < ladders.tops).any()
    return _exchange(room, position, tolerance) if stuck else position


def _climb(room: Room, position: Ints, steps: Ints) -> Ints:
    """Take these steps in order, leaving out those that do not fit."""
    while len(steps):
        taken = _largest_prefix(room, position, steps)
        position, steps = room.ladders.climb(position, steps[:taken]), steps[taken:]
        if room.fullness(position) >= FULL:
            break
        steps = steps[_may_grow(room, position)[steps]]
    return position


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
    """Near a position the most worthwhile one that fills the budget to the tolerance; failing that, the fullest."""
    ladders = room.ladders
    worth = _worth(ladders, position)
    if math.prod((ladders.tops + 1).tolist()) <= MOST_CANDIDATES:
        candidates = _all_positions(ladders.tops)
        fits, fullness = room.weigh(candidates)
        enough = 1 - tolerance if fullness[fits].max() >= 1 - tolerance else fullness[fits].max() - tolerance
        return _most_worth(candidates[fits & (fullness >= enough)], position, worth)
    for _ in range(ROUNDS):
        fullest, used = position, room.fullness(position)
        for candidates in _nearby(room, position):
            fits, fullness = room.weigh(candidates)
            close = fits & (fullness >= 1 - tolerance)
            if close.any():
                return _most_worth(candidates[close], position, worth)
            best = int(np.argmax(np.where(fits, fullness, -1.0)))
            if fits[best] and fullness[best] > used:
                fullest, used = candidates[best], fullness[best]
        if fullest is position:
            break
        position = fullest
    return position


def _most_worth(candidates: Ints, position: Ints, worth: list[NDArray[np.float64]]) -> Ints:
    """The candidate of most worth; of several the one nearest to the position, then the first."""
    gain = sum((table[candidates[:, i]] for i, table in enumerate(worth)), np.zeros(len(candidates)))
    distance = np.square((candidates - position) / np.maximum(position, 1)).sum(axis=1)
    return candidates[np.lexsort((distance, -np.round(gain, 12)))[0]]


def _worth(ladders: Ladders, position: Ints) -> list[NDArray[np.float64]]:
    """What each position of a width is worth: how far its steps' levels lie above the best one not taken, in sum."""
    outside = ladders.heights >= position[ladders.owner]
    gain = ladders.level - ladders.level[outside].max()
    gain[: ladders.num_soft] = 1 + np.abs(gain).sum()  # the soft floor gives way last
    return [np.concatenate([[0.0], np.cumsum(gain[ladders.owner == w])]) for w in range(len(ladders.names))]


def _nearby(room: Room, position: Ints) -> Iterator[Ints]:
    """Batches of positions, from few changes to many."""
    tops = room.ladders.tops
    movable = np.flatnonzero(tops > 0)
    yield _pairs(movable[: math.isqrt(MOST_CANDIDATES)], position, tops)
    yield _forced(room, position)
    group = math.floor(math.log(MOST_CANDIDATES, 3))
    for start in range(0, min(len(movable), MOST_GROUPS * group), group):
        some = movable[start : start + group]
        steps = np.indices((3,) * len(some)).reshape(len(some), -1).T - 1
        candidates = np.repeat(position[None], len(steps), axis=0)
        candidates[:, some] += steps
        yield candidates[((candidates >= 0) & (candidates <= tops)).all(axis=1)]


def _forced(room: Room, position: Ints) -> Ints:
    """Positions reached anew with one width held a step higher, or a step lower, than it is: room for many others."""
    ladders, heights = room.ladders, room.ladders.heights
    found = [position]
    for width in np.flatnonzero(position < ladders.tops)[:MOST_FORCED]:
        base = np.zeros_like(position)
        base[width] = position[width] + 1
        if room.fits(base):
            found.append(_climb(room, base, ladders.owner[(ladders.owner != width) | (heights > position[width])]))
    for width in np.flatnonzero(position > 0)[:MOST_FORCED]:
        allowed = (ladders.owner != width) | (heights < position[width] - 1)
        found.append(_climb(room, np.zeros_like(position), ladders.owner[allowed]))
    return np.array(found)


def _all_positions(tops: Ints) -> Ints:
    movable = np.flatnonzero(tops > 0)
    moved = np.indices(tuple(tops[movable] + 1)).reshape(len(movable), -1)
    positions = np.zeros((moved.shape[1], len(tops)), dtype=np.int64)
    positions[:, movable] = moved.T
    return positions


def _pairs(movable: Ints, position: Ints, tops: Ints) -> Ints:
    """Positions with one of these widths lower and another one higher."""
    depth = max(1, min(8, math.isqrt(MOST_CANDIDATES) // len(movable)))
    down, up, lower, higher = np.indices((len(movable), len(movable), depth, depth)).reshape(4, -1)
    down, up, lower, higher = movable[down], movable[up], lower + 1, higher + 1
    valid = (down != up) & (position[down] >= lower) & (position[up] + higher <= tops[up])
    down, up, lower, higher = (column[valid] for column in (down, up, lower, higher))
    candidates = np.repeat(position[None], len(down) + 1, axis=0)  # the last one is the position itself
    rows = np.arange(len(down))
    candidates[rows, down] -= lower
    candidates[rows, up] += higher
    return candidates
