"""All widths as ladders of allowed counts, and one order in which to climb them.

    conv1   8 ── 16 ── 24 ── 32        a step is worth the mean level of the units it adds;
    conv2   8 ── 16 ── … ── 64         steps of all ladders, best first:  conv2→16, conv1→16, conv1→24, …

A position is the number of steps taken on each ladder. Any first part of the order is a position.

Invariant: within a ladder steps are ordered from the bottom up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.core.graph import Width

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ladders:
    """``rungs`` are the allowed counts of each width; ``owner`` and ``level`` describe the steps, best first.

    The first ``num_soft`` steps lead up to the soft floor of their width and come before all others.
    """

    names: tuple[str, ...]
    rungs: tuple[Ints, ...]
    owner: Ints
    level: Floats
    num_soft: int

    @classmethod
    def of(cls, widths: Sequence[Width], levels: Sequence[Floats], soft_floor: float) -> Ladders:
        """Ladders of these widths from the levels of their units, best unit first; ties climb evenly, then by index."""
        rungs = [_rungs(width) for width in widths]
        level = np.concatenate([np.zeros(0), *map(_step_levels, rungs, levels)])
        owner = np.repeat(np.arange(len(widths)), [len(r) - 1 for r in rungs])
        share = np.concatenate([np.zeros(0), *(r[1:] / w.size for r, w in zip(rungs, widths, strict=True))])
        floors = [(r[1:] <= math.ceil(soft_floor * w.size)) & (r[0] > 0) for r, w in zip(rungs, widths, strict=True)]
        soft = np.concatenate([np.zeros(0, bool), *floors])
        order = np.concatenate([_best_first(level, share, np.flatnonzero(part)) for part in (soft, ~soft)])
        return cls(tuple(w.name for w in widths), tuple(rungs), owner[order], level[order], int(soft.sum()))

    def counts(self, position: Ints) -> dict[str, int]:
        """The count of each width at a position."""
        return {name: int(r[i]) for name, r, i in zip(self.names, self.rungs, position.tolist(), strict=True)}

    def batch(self, positions: Ints) -> dict[str, Ints]:
        """The counts of each width at many positions, ``[candidate, width]``."""
        return {name: r[positions[:, i]] for i, (name, r) in enumerate(zip(self.names, self.rungs, strict=True))}

    def climb(self, position: Ints, steps: Ints) -> Ints:
        """The position after these steps, given by the widths that take them."""
        return position + np.bincount(steps, minlength=len(self.names))

    @property
    def heights(self) -> Ints:
        """For each step how many steps of its own ladder come before it."""
        by_width = np.argsort(self.owner, kind="stable")
        heights = np.empty(len(self.owner), dtype=np.int64)
        heights[by_width] = np.arange(len(self.owner)) - np.repeat(np.cumsum(self.tops) - self.tops, self.tops)
        return heights

    @property
    def tops(self) -> Ints:
        """The highest position."""
        return np.array([len(r) - 1 for r in self.rungs], dtype=np.int64)


def _rungs(width: Width) -> Ints:
    if len(width.choices) == width.size and width.choices[0] == 1:  # that of a block to go is 0
        return np.arange(1, width.size + 1)
    return np.array(width.choices, dtype=np.int64)


def _step_levels(rungs: Ints, level: Floats) -> Floats:
    """The mean level of the units that each step adds."""
    if len(rungs) < 2:
        return np.zeros(0)
    if len(rungs) == rungs[-1]:
        return np.minimum.accumulate(level[1 : len(rungs)])
    sums = np.add.reduceat(level[: rungs[-1]], rungs[:-1])
    return np.minimum.accumulate(sums / np.diff(rungs))


def _best_first(level: Floats, share: Floats, steps: Ints) -> Ints:
    order = steps[np.argsort(-level[steps])]
    if (np.diff(level[order]) == 0).any():
        order = steps[np.lexsort((share[steps], -level[steps]))]
    return order
