"""What narrowing each width alone costs in score, and the curves of loss over count that this gives.

    loss │ ●
         │   ╲ ●        ● measured, the others whole
         │     ╲        ╲ read off the line between
         └───────╲─●─ whole: no loss

Invariant: losses are not negative (a better score is no damage) and never fall as units go.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from secateur.core.graph import Graph, Width
from secateur.search.threshold import monotone

Floats = NDArray[np.float64]
Drops = Mapping[str, Mapping[int, float]]  # for each width the measured losses by count

WORST = 1e6  # the loss of a network that has no score at all (NaN)
NO_LOSS = 1e-5  # a smaller drop of the score counts as none


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Scores measured with one width narrowed at a time.

    ``whole`` is the whole network's score; ``scores`` maps each width to the score at each count (None: not a number).
    """

    whole: float
    scores: Mapping[str, Mapping[int, float | None]]

    @property
    def drops(self) -> dict[str, dict[int, float]]:
        """By how much each score is below that of the whole network."""
        return {name: {n: _drop(self.whole, score) for n, score in at.items()} for name, at in self.scores.items()}

    def losses(self, width: Width) -> Floats:
        """Relative loss of score when a width keeps 0, 1, … all of its units, between measured counts interpolated."""
        size, scale = width.size, max(abs(self.whole), 1e-12)
        scores = self.scores.get(width.name, {})
        counts = sorted(scores)
        known = np.array([*(_relative_drop(self.whole, scores[count], scale) for count in counts), 0.0])
        rising = np.maximum.accumulate(known[::-1])[::-1]
        found = np.interp(np.arange(size + 1), [*counts, size], rising)
        lowest = counts[0] if counts else size
        found[:lowest] += np.arange(lowest, 0, -1)  # beyond what was measured: last of all
        return found

    def curves(self, widths: Sequence[Width]) -> dict[str, dict[int, float]]:
        """The loss at every choice of these widths, as `secateur.search.threshold.choose` takes it."""
        losses = {w.name: self.losses(w) for w in widths}
        return {w.name: {choice: float(losses[w.name][choice]) for choice in w.choices} for w in widths}

    def counts(self, widths: Sequence[Width], threshold: float) -> dict[str, int]:
        """Of each width the smallest count that loses at most ``threshold``; its largest choice where none does."""
        return {w.name: _smallest(w, self.losses(w), threshold) for w in widths}

    def threshold(self, widths: Sequence[Width], counts: Mapping[str, int]) -> float:
        """The largest loss that any of these widths has at these counts."""
        return max((float(self.losses(w)[counts[w.name]]) for w in widths if w.name in self.scores), default=0.0)

    def __str__(self) -> str:
        rows = [f"whole: {self.whole:.4g}"]
        for name, scores in self.scores.items():
            shown = (f"{count}: {'nan' if s is None else format(s, '.4g')}" for count, s in sorted(scores.items()))
            rows.append(f"{name}  {'  '.join(shown)}")
        return "\n".join(rows)


def curves(search_space: Graph, drops: Drops) -> dict[str, dict[int, float]]:
    """The loss at every choice of every free width: lines between what was measured.

    Below the smallest count that was measured, the loss goes on with the square of the share that is removed, as steeply
    as that of the median width at least.
    """
    known = {width.name: known_losses(width, drops) for width in search_space.configurable}
    steep = steepness(search_space, {name: losses for name, losses in known.items() if len(losses) > 1})
    found: dict[str, dict[int, float]] = {}
    for width in search_space.free:
        losses = dict(known.get(width.name, {width.size: 0.0}))
        for count in [c for c in width.choices if c < min(losses)]:
            losses[count] = continued(known[width.name], count, width.size, steep)
        steady = monotone(losses)
        at = np.interp(width.choices, list(steady), list(steady.values()))
        found[width.name] = dict(zip(width.choices, at.tolist(), strict=True))
    return found


def known_losses(width: Width, drops: Drops) -> dict[int, float]:
    """What is known of a width, ascending and never rising; the whole width loses nothing."""
    measured = {count: drop if drop >= NO_LOSS else 0.0 for count, drop in drops.get(width.name, {}).items()}
    return monotone({**measured, width.size: 0.0})


def steepness(search_space: Graph, known: Drops) -> float:
    """The loss of the median width if all of it went, by the square law; one where nothing is known."""
    found = []
    for name, losses in known.items():
        lowest, size = min(losses), search_space[name].size
        found.append(losses[lowest] / (1 - lowest / size) ** 2)
    return median(found) if found else 1.0


def continued(known: Mapping[int, float], count: int, size: int, steepness: float) -> float:
    """The loss below the smallest known count."""
    lowest = min(known)
    removed = 1 - lowest / size
    own = known[lowest] / removed**2 if removed > 0 else 0.0
    return max(known[lowest], max(own, steepness) * (1 - count / size) ** 2)


def _drop(whole: float, score: float | None) -> float:
    return WORST if score is None else whole - score


def _relative_drop(whole: float, score: float | None, scale: float) -> float:
    return WORST if score is None or not math.isfinite(score) else max((whole - score) / scale, 0.0)


def _smallest(width: Width, losses: Floats, threshold: float) -> int:
    return next((choice for choice in width.choices if losses[choice] <= threshold + 1e-9), width.choices[-1])
