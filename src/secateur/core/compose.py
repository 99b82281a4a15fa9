"""One plan from several that were applied one after another, and what things are called on the way.

    [0 … 63] ── keep 48 of 64 ──► [0 … 47] ── keep 32 of 48 ──► 32 of the original 64

Invariant: applying the composed plan to the original leaves the same units as applying the plans in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from secateur.core.depth import Passes, Renaming, standing
from secateur.core.graph import Graph
from secateur.core.layout import Indices
from secateur.core.plan import Edit, Plan


def name_after(name: str, plans: Iterable[Plan]) -> str | None:
    """What a tensor or module is called after these plans; None where it went with a block."""
    for plan in plans:
        found = plan.renamed(name)
        if found is None:
            return None
        name = found
    return name


def name_before(name: str, plans: Sequence[Plan]) -> str:
    """What a tensor or module that is there after these plans was called before them."""
    for plan in reversed(plans):
        name = plan.renamed.back(name)
    return name


def as_one(plans: Sequence[Plan]) -> tuple[list[Edit], dict[str, Passes | None]]:
    """The edits of several plans, and what stands instead of blocks that go, under the names that all had at first."""
    edits: list[Edit] = []
    drops: dict[str, Passes | None] = {}
    for number, plan in enumerate(plans):
        edits += [replace(e, module=name_before(e.module, plans[:number])) for e in plan.edits]
        drops |= {name_before(name, plans[:number]): passes for name, passes in plan.instead.items()}
    return edits, drops


def composed(graph: Graph, first: Mapping[str, Indices], second: Plan) -> dict[str, Indices]:
    """What is kept of the widths of ``graph`` when ``second`` is applied to what ``first`` left of it."""
    kept = dict(first)
    gone = {name for name, array in first.items() if not array.size}
    names = Renaming.without(gone, standing(graph.stacks))
    later = {names.back(name): array for name, array in second.arrays.items()}
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
