"""Which evaluations tell most about a network, and the curves of loss over count that they give.

    loss │ ●            ● measured: first the middle of each width, the costliest width first, then the end of what is
         │   ╲            known where most is at stake, then the middle of the interval with the largest
         │     ○          drop × share of the cost; at most a few counts of a width, evenly spaced
         │       ╲ ●    ○ read off the line between
         └────────────●─ whole: no loss

Between two counts of equal loss nothing is measured: the curve cannot rise there.

Invariant: what is measured next depends on the space and on what was measured so far, on nothing else. So a search that was
killed goes on as if it had not been, and a larger allowance begins with the very evaluations of a smaller one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from secateur.core.graph import Graph, Width
from secateur.search.threshold import monotone

NO_LOSS = 1e-5  # a smaller drop of the score counts as none
_METRICS = ("macs", "params")

Drops = Mapping[str, Mapping[int, float]]  # for each width the measured losses by count


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What there is to measure: for each width counts, ascending, and what share of the network each of them costs."""

    space: Graph
    points: Mapping[str, tuple[int, ...]]
    shares: Mapping[str, Mapping[int, float]]

    @classmethod
    def of(cls, space: Graph, *, most: int) -> Survey:
        """At most this many counts of each width with a choice, always the smallest, never the whole width."""
        points = {width.name: _points(width, most) for width in space.configurable}
        shares = {name: _shares(space, name, counts) for name, counts in points.items()}
        return cls(space=space, points=points, shares=shares)

    def without(self, name: str, count: int) -> Survey:
        """The same survey when this count cannot be measured."""
        return replace(self, points={**self.points, name: tuple(c for c in self.points[name] if c != count)})

    @property
    def num_points(self) -> int:
        """How many evaluations there are at most."""
        return sum(map(len, self.points.values()))


def next_point(survey: Survey, drops: Drops) -> tuple[str, int] | None:
    """The width and count to measure next, or None where nothing more can be learnt."""
    begun = {name: _known(survey, name, drops) for name in survey.points if drops.get(name)}
    fresh = [name for name, points in survey.points.items() if points and name not in begun]
    if fresh:
        name = max(fresh, key=lambda n: survey.shares[n][survey.space[n].size] - min(survey.shares[n].values()))
        return name, survey.points[name][len(survey.points[name]) // 2]
    steepness = _steepness(survey, begun)
    best: tuple[float, str, int] | None = None
    for name, known in begun.items():
        for stake, count in _open(survey, name, known, steepness):
            if best is None or stake > best[0]:
                best = stake, name, count
    return None if best is None else best[1:]


def curves(survey: Survey, drops: Drops) -> dict[str, dict[int, float]]:
    """The loss at every choice of every free width: lines between what was measured.

    Below the smallest count that was measured, the loss goes on with the square of the share that is removed, as steeply
    as that of the median width at least.
    """
    known = {name: _known(survey, name, drops) for name in survey.points}
    steepness = _steepness(survey, {name: losses for name, losses in known.items() if len(losses) > 1})
    found: dict[str, dict[int, float]] = {}
    for width in survey.space.free:
        losses = dict(known.get(width.name, {width.size: 0.0}))
        for count in [c for c in width.choices if c < min(losses)]:
            losses[count] = _continued(known[width.name], count, width.size, steepness)
        steady = monotone(losses)
        at = np.interp(width.choices, list(steady), list(steady.values()))
        found[width.name] = dict(zip(width.choices, at.tolist(), strict=True))
    return found


def _points(width: Width, most: int) -> tuple[int, ...]:
    counts = [c for c in width.choices if c < width.size]
    places = np.linspace(0, len(counts) - 1, min(most, len(counts))).round().astype(int)
    return tuple(counts[i] for i in dict.fromkeys(places.tolist()))


def _shares(space: Graph, name: str, counts: tuple[int, ...]) -> dict[int, float]:
    """The cost with this width at each count and all others whole, as a share of the whole: the mean over metrics."""
    every = (*counts, space[name].size)
    batch: dict[str, Any] = {name: np.array(every, dtype=np.int64)}
    parts = [np.broadcast_to(space.cost(m, batch), len(every)) / max(space.cost(m), 1) for m in _METRICS]
    return dict(zip(every, np.mean(parts, axis=0).tolist(), strict=True))


def _known(survey: Survey, name: str, drops: Drops) -> dict[int, float]:
    """What is known of a width, ascending and never rising; the whole width loses nothing."""
    measured = {count: drop if drop >= NO_LOSS else 0.0 for count, drop in drops.get(name, {}).items()}
    return monotone({**measured, survey.space[name].size: 0.0})


def _open(survey: Survey, name: str, known: Mapping[int, float], steepness: float) -> list[tuple[float, int]]:
    """For each interval in which something can be learnt: what is at stake there, and the count to measure."""
    shares, size = survey.shares[name], survey.space[name].size
    places = sorted(known)
    points = [count for count in survey.points[name] if count not in known]
    found: list[tuple[float, int]] = []
    if points and points[0] < places[0]:
        drop = _continued(known, points[0], size, steepness) - known[places[0]]
        found.append((drop * (shares[places[0]] - shares[points[0]]), points[0]))
    for low, high in itertools.pairwise(places):
        inside = [count for count in points if low < count < high]
        drop = known[low] - known[high]
        if inside and drop > 0:
            found.append((drop * (shares[high] - shares[low]), inside[len(inside) // 2]))
    return found


def _steepness(survey: Survey, known: Mapping[str, Mapping[int, float]]) -> float:
    """The loss of the median width if all of it went, by the square law; one where nothing is known."""
    found = []
    for name, losses in known.items():
        lowest, size = min(losses), survey.space[name].size
        found.append(losses[lowest] / (1 - lowest / size) ** 2)
    return median(found) if found else 1.0


def _continued(known: Mapping[int, float], count: int, size: int, steepness: float) -> float:
    """The loss below the smallest known count."""
    lowest = min(known)
    removed = 1 - lowest / size
    own = known[lowest] / removed**2 if removed > 0 else 0.0
    return max(known[lowest], max(own, steepness) * (1 - count / size) ** 2)
