"""What narrowing each width alone costs in score.

    conv2.out   64 units: 0.95    32: 0.94    16: 0.80    ──►  relative loss at 64, 63, … 0
                   0.00               0.01        0.16         read off the lines between what was measured

Invariant: losses are not negative (a better score is no damage) and never fall as units go.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.core.graph import Width

Floats = NDArray[np.float64]
WORST = 1e6  # the relative loss of a network that has no score at all (NaN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Scores measured with one width narrowed at a time.

    ``baseline`` is the whole network's score; ``scores`` maps each width to the score at each count (None: not a number).
    """

    baseline: float
    scores: Mapping[str, Mapping[int, float | None]]

    def losses(self, width: Width) -> Floats:
        """Relative loss of score when a width keeps 0, 1, … all of its units, between measured counts interpolated."""
        size, scale = width.size, max(abs(self.baseline), 1e-12)
        scores = self.scores.get(width.name, {})
        counts = sorted(scores)
        known = np.array([*(_drop(self.baseline, scores[count], scale) for count in counts), 0.0])
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
        rows = [f"whole: {self.baseline:.4g}"]
        for name, scores in self.scores.items():
            shown = (f"{count}: {'nan' if s is None else format(s, '.4g')}" for count, s in sorted(scores.items()))
            rows.append(f"{name}  {'  '.join(shown)}")
        return "\n".join(rows)


def measured_counts(width: Width, ratios: Iterable[float]) -> tuple[int, ...]:
    """The counts to measure of a width: the choices nearest to these removal ratios, the largest first."""
    smaller = [choice for choice in width.choices if choice < width.size]
    wanted = ((1 - ratio) * width.size for ratio in ratios)
    found = {min(smaller, key=lambda c: (abs(c - count), c)) for count in wanted} if smaller else set()
    return tuple(sorted(found, reverse=True))


def _drop(baseline: float, score: float | None, scale: float) -> float:
    return WORST if score is None or not math.isfinite(score) else max((baseline - score) / scale, 0.0)


def _smallest(width: Width, losses: Floats, threshold: float) -> int:
    return next((choice for choice in width.choices if losses[choice] <= threshold + 1e-9), width.choices[-1])
