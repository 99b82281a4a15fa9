"""What narrowing each width alone costs in score, and the curves of loss over count that this gives.

    loss │ ●
         │   ╲ ●        ● measured, the others whole
         │     ╲        ╲ read off the line between
         └───────╲─●─ whole: no loss

Invariant: losses are not negative (a better score is no damage) and never fall as units go.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.core.graph import Graph, Width
from secateur.search.threshold import monotone

Floats = NDArray[np.float64]
Drops = Mapping[str, Mapping[int, float]]  # for each width the measured losses by count

EVENNESS = 0.25
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

    @property
    def worst(self) -> float:
        """A loss that no network is thought to exceed: all of the score, or the largest finite drop."""
        finite = (drop for drops in self.drops.values() for drop in drops.values() if drop < WORST)
        return max(abs(self.whole), *finite, NO_LOSS)

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


def curves(search_space: Graph, sensitivity: Sensitivity, evenness: float = 0.0) -> dict[str, dict[int, float]]:
    """The loss at every choice of every free width: lines between what was measured.

    Nothing is known below the smallest count that was measured, or of a width that was not measured at all: the worst is
    taken to lie there, all the score gone when all units are. ``evenness`` adds so much of the worst with the square of what
    a width gives up: what each can spare alone, they cannot all spare together.
    """
    drops, worst = sensitivity.drops, sensitivity.worst
    found: dict[str, dict[int, float]] = {}
    for width in search_space.free:
        steady = beyond(known_losses(width, drops), width.choices, worst)
        counts = np.array(width.choices)
        at = np.interp(counts, list(steady), list(steady.values()))
        at = at + evenness * worst * np.square(1 - counts / width.size)
        found[width.name] = dict(zip(width.choices, at.tolist(), strict=True))
    return found


def known_losses(width: Width, drops: Drops) -> dict[int, float]:
    """What is known of a width, ascending and never rising; the whole width loses nothing."""
    measured = {count: drop if drop >= NO_LOSS else 0.0 for count, drop in drops.get(width.name, {}).items()}
    return monotone({**measured, width.size: 0.0})


def beyond(known: Mapping[int, float], counts: Iterable[int], worst: float) -> dict[int, float]:
    """What is known, and below the smallest known count a line that ends in the worst where no unit is left."""
    lowest = min(known)
    steep = max(worst - known[lowest], 0.0) / max(lowest, 1)  # a block may keep nothing, and nothing lies below
    return monotone({**known, **{n: known[lowest] + steep * (lowest - n) for n in counts if n < lowest}})


def _drop(whole: float, score: float | None) -> float:
    return WORST if score is None else whole - score


def _relative_drop(whole: float, score: float | None, scale: float) -> float:
    return WORST if score is None or not math.isfinite(score) else max((whole - score) / scale, 0.0)


def _smallest(width: Width, losses: Floats, threshold: float) -> int:
    return next((choice for choice in width.choices if losses[choice] <= threshold + 1e-9), width.choices[-1])
