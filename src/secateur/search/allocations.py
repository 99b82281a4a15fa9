"""What makes a unit of one width worth as much as a unit of another.

An allocation gives each unit of a width a *level*; units of all widths are then kept in the order of their levels until
the budget is full.

    uniform    level = place in its own width              every width keeps the same fraction
    local      level = share of its width's score in it    every width gives up the same share of its own score
               and all that rank below it
    global     level = score                               the weakest units of the whole network go
    per_cost   level = score / what the unit costs         the same, but what is expensive must be worth it

Invariant: levels never rise with rank, so a width always keeps its best units.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secateur.core.registry import Registry

Floats = NDArray[np.float64]


class Allocation(Protocol):
    """Levels of a width's units, best unit first, from their scores and the share of the budget that one unit takes."""

    def __call__(self, ranked: Floats, unit_cost: float) -> Floats: ...


ALLOCATIONS: Registry[Allocation] = Registry("allocation")


@ALLOCATIONS.add("uniform")
def uniform(ranked: Floats, unit_cost: float) -> Floats:
    """One level for one place: half of the units of every width lie above 0.5."""
    return 1 - (np.arange(len(ranked)) + 0.5) / len(ranked)


@ALLOCATIONS.add("local")
def local(ranked: Floats, unit_cost: float) -> Floats:
    """The share of the width's score that goes if this unit and all below go; negative scores count from the lowest."""
    above = ranked - min(ranked[-1], 0.0)
    total = above.sum()
    return np.cumsum(above[::-1])[::-1] / total if total > 0 else np.zeros_like(ranked)


@ALLOCATIONS.add("global")
def ranked_globally(ranked: Floats, unit_cost: float) -> Floats:
    """The score itself: it is the criterion's normaliser that makes widths comparable."""
    return ranked


@ALLOCATIONS.add("per_cost")
def ranked_by_cost(ranked: Floats, unit_cost: float) -> Floats:
    """The score per cost saved; a width that saves nothing is pruned last."""
    return (ranked - min(ranked[-1], 0.0)) / max(unit_cost, 1e-12)
