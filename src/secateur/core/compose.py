"""One plan from several that were applied one after another.

    [0 … 63] ── keep 48 of 64 ──► [0 … 47] ── keep 32 of 48 ──► 32 of the original 64

Invariant: applying the composed plan to the original leaves the same units as applying the plans in turn.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from secateur.core.graph import Graph
from secateur.core.layout import Indices
from secateur.core.plan import Plan


def composed(graph: Graph, first: Mapping[str, Indices], second: Plan) -> dict[str, Indices]:
    """What is kept of the widths of ``graph`` when ``second`` is applied to what ``first`` left of it."""
    kept = dict(first)
    later = second.arrays
    for name, chosen in later.items():
        width = graph[name]
        before = first.get(name, np.arange(width.size))
        if chosen.ndim == before.ndim == 1:
            kept[name] = before[chosen]
            continue
        assert width.outer is not None
        rows = np.broadcast_to(before, (graph[width.outer].size, before.shape[-1]))
        outer = first.get(width.outer, np.arange(len(rows)))
        whole = rows[:, : chosen.shape[-1]].copy()  # rows of outer units that are gone may hold anything
        whole[outer] = np.take_along_axis(rows[outer], np.broadcast_to(chosen, (len(outer), chosen.shape[-1])), axis=1)
        kept[name] = whole
    return kept
