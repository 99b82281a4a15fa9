"""Which evaluations tell most about a network: each width alone, at some counts, those first where most is at stake.

    1. the middle of each width, the costliest width first
    2. where the drop × the share of the cost is largest: the end of what is known of a width, or the middle of an interval

Between two counts of equal loss nothing is measured: the curve cannot rise there.

Invariant: what is measured next depends on the space and on what was measured so far, on nothing else. So a search that was
killed goes on as if it had not been, and a larger allowance begins with the very evaluations of a smaller one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from secateur.core.graph import Graph, Width
from secateur.core.text import visible
from secateur.progress import Tell
from secateur.search.alive import number_of
from secateur.search.measured import Measured
from secateur.search.ranked import Ranked, alone
from secateur.search.sensitivity import Sensitivity, beyond, known_losses

WHOLE = "whole"  # the key of the whole network
_METRICS = ("macs", "params")

Point = tuple[str, int]  # a width and a count of it
NextPoint = Callable[["Grid", Sensitivity], Point | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What there is to measure: for each width counts, ascending, and what share of the network each of them costs."""

    search_space: Graph
    points: Mapping[str, tuple[int, ...]]
    shares: Mapping[str, Mapping[int, float]]

    @classmethod
    def evenly(cls, search_space: Graph, *, most: int) -> Grid:
        """At most this many counts of each width with a choice, evenly spaced with the smallest, never the whole."""
        return cls._of(search_space, lambda width: _evenly(width, most))

    @classmethod
    def nearest_to(cls, search_space: Graph, ratios: Iterable[float]) -> Grid:
        """The choices nearest to these removal ratios."""
        wanted = tuple(ratios)
        return cls._of(search_space, lambda width: _nearest_to(width, wanted))

    @classmethod
    def _of(cls, search_space: Graph, points_of: Callable[[Width], tuple[int, ...]]) -> Grid:
        points = {width.name: points_of(width) for width in search_space.configurable}
        shares = {name: _shares(search_space, name, counts) for name, counts in points.items()}
        return cls(search_space=search_space, points=points, shares=shares)

    def without(self, name: str, count: int) -> Grid:
        """The same grid when this count is not to be asked for again."""
        return replace(self, points={**self.points, name: tuple(c for c in self.points[name] if c != count)})

    def share(self, name: str, count: int) -> float:
        """The cost with this width at a count and all others whole, as a share of the whole."""
        known = self.shares[name]
        return known[count] if count in known else _shares(self.search_space, name, (count,))[count]

    @property
    def num_points(self) -> int:
        """How many evaluations there are at most."""
        return sum(map(len, self.points.values()))


def surveyed(
    ranked: Ranked, grid: Grid, next_point: NextPoint, measured: Measured, *, most: int | None = None, tell: Tell
) -> Sensitivity:
    """Measure the whole network, then point after point, until there is none or ``most`` are done.

    Raises InputError where the whole network has no score.
    """
    whole = number_of(measured({WHOLE: grid.search_space.plan({})})[WHOLE].value)
    total = grid.num_points if most is None else min(most, grid.num_points)
    scores: dict[str, dict[int, float | None]] = {}
    for number in range(total):
        point = next_point(grid, Sensitivity(whole=whole, scores=scores))
        if point is None:
            break
        name, count = point
        tell(number / total, f"{visible(name)} = {count}")
        plan = alone(ranked, name, count)
        grid = grid.without(name, count)  # the count itself, where the code takes only a larger one
        scores.setdefault(name, {})[plan.sizes[name]] = measured({key_of(point): plan})[key_of(point)].value
    return Sensitivity(whole=whole, scores=scores)


def key_of(point: Point) -> str:
    """How a journal calls a point."""
    return f"{point[0]}={point[1]}"


def in_turn(grid: Grid, sensitivity: Sensitivity) -> Point | None:
    """Width after width, the largest count first."""
    return next(((name, counts[-1]) for name, counts in grid.points.items() if counts), None)


def most_telling(grid: Grid, sensitivity: Sensitivity) -> Point | None:
    """The width and count where most is at stake, or None where nothing more can be learnt."""
    space, drops, worst = grid.search_space, sensitivity.drops, sensitivity.worst
    begun = {name: known_losses(space[name], drops) for name in grid.points if drops.get(name)}
    fresh = [name for name, points in grid.points.items() if points and name not in begun]
    if fresh:
        name = max(fresh, key=lambda n: grid.shares[n][space[n].size] - min(grid.shares[n].values()))
        return name, grid.points[name][len(grid.points[name]) // 2]
    best: tuple[float, str, int] | None = None
    for name, known in begun.items():
        for stake, count in _open(grid, name, known, worst):
            if best is None or stake > best[0]:
                best = stake, name, count
    return None if best is None else best[1:]


def _evenly(width: Width, most: int) -> tuple[int, ...]:
    counts = [c for c in width.choices if c < width.size]
    places = np.linspace(0, len(counts) - 1, min(most, len(counts))).round().astype(int)
    return tuple(counts[i] for i in dict.fromkeys(places.tolist()))


def _nearest_to(width: Width, ratios: tuple[float, ...]) -> tuple[int, ...]:
    smaller = [choice for choice in width.choices if choice < width.size]
    wanted = ((1 - ratio) * width.size for ratio in ratios)
    return tuple(sorted({min(smaller, key=lambda c: (abs(c - count), c)) for count in wanted})) if smaller else ()


def _shares(search_space: Graph, name: str, counts: tuple[int, ...]) -> dict[int, float]:
    """The cost with this width at each count and all others whole, as a share of the whole: the mean over metrics."""
    every = (*counts, search_space[name].size)
    batch: dict[str, Any] = {name: np.array(every, dtype=np.int64)}
    whole = {metric: max(search_space.cost(metric), 1) for metric in _METRICS}
    parts = [np.broadcast_to(search_space.cost(m, batch), len(every)) / whole[m] for m in _METRICS]
    return dict(zip(every, np.mean(parts, axis=0).tolist(), strict=True))


def _open(grid: Grid, name: str, known: Mapping[int, float], worst: float) -> list[tuple[float, int]]:
    """For each interval in which something can be learnt: what is at stake there, and the count to measure."""
    places = sorted(known)
    points = [count for count in grid.points[name] if count not in known]
    found: list[tuple[float, int]] = []
    if points and points[0] < places[0]:
        drop = beyond(known, points[:1], worst)[points[0]] - known[places[0]]
        found.append((drop * (grid.share(name, places[0]) - grid.share(name, points[0])), points[0]))
    for low, high in itertools.pairwise(places):
        inside = [count for count in points if low < count < high]
        drop = known[low] - known[high]
        if inside and drop > 0:
            found.append((drop * (grid.share(name, high) - grid.share(name, low)), inside[len(inside) // 2]))
    return found
