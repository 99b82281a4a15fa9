"""From masked rows to removed units.

    rows masked in every configured tensor that carries the unit   ->   the unit goes, everywhere
    rows masked, but their unit stays                              ->   they stay zero, and are told of, with the reason

Invariant: the kept sets make a plan; a row that is not masked is never part of a removed unit of its own tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.core.coincidence import Avoided, unless_coincident
from secateur.core.graph import Graph, Width
from secateur.core.layout import Indices, kept_indices, widths_of
from secateur.core.plan import Plan
from secateur.core.positions import places
from secateur.torch.pruners.sparsifier.entries import Entry

Dead = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Rows of a tensor that are masked while their units stay."""

    tensor: str
    count: int
    reason: str

    def __str__(self) -> str:
        return f"{self.tensor}: {self.count} masked rows stay, as zeros: {self.reason}"


def plan_of_masks(entries: Sequence[Entry], graph: Graph) -> Plan:
    """The plan that removes every unit whose rows are masked in all configured tensors that carry it."""
    dead = dict(_dead_units(entries, graph))

    def keeping(avoided: Avoided) -> Plan:  # where two sizes would coincide, a unit more stays, zeroed
        kept = {
            name: _kept(graph[name], units, dead.get(graph[name].outer or ""), avoided.get(name, set()))
            for name, units in dead.items()
        }
        return graph.plan(kept)

    return unless_coincident(keeping)


def leftovers(entries: Sequence[Entry], plan: Plan) -> list[Leftover]:
    """What is masked and stays."""
    arrays, staying = plan.arrays, []
    for entry in entries:
        stays = np.zeros(entry.axis.size, dtype=bool)
        stays[kept_indices(entry.axis, arrays)] = True
        count = int((stays & ~entry.mask.cpu().numpy()).sum())
        if count:
            staying.append(Leftover(tensor=entry.fqn, count=count, reason=_reason(entry, entries)))
    return staying


def _reason(entry: Entry, entries: Sequence[Entry]) -> str:
    if entry.frozen is not None:
        return entry.frozen
    if not entry.leaves_nothing:
        return f"prune_bias=False leaves their units the constants of {entry.bias}, and {entry.constant}"
    widths = set(widths_of(entry.axis))
    others = [e.fqn for e in entries if e is not entry and widths & set(widths_of(e.axis))]
    if others:
        return f"their units are not masked in {', '.join(others[:3])} too, or are the last of their width"
    return "they are not all the rows of a unit (gates, groups), or the last of their width"


def _dead_units(entries: Sequence[Entry], graph: Graph) -> Iterator[tuple[str, Dead]]:
    outer = {w.name: w.outer for w in graph.widths if w.outer is not None}
    dead_rows: dict[str, list[Dead]] = {}
    for entry in entries:
        rows = ~entry.mask.cpu().numpy() & entry.leaves_nothing
        for name, positions in places(entry.axis, outer):
            dead_rows.setdefault(name, []).append(np.asarray(rows[positions].all(-1)))
    for name, tensors in dead_rows.items():
        width = graph[name]
        shape = (graph[width.outer].size, width.size) if width.outer else (width.size,)
        dead = np.ones(shape, dtype=bool)
        for units in tensors:
            dead &= units
        if dead.any():
            yield name, dead


def _kept(width: Width, dead: Dead, outer_dead: Dead | None, avoided: set[int]) -> Indices:
    """The kept set: as many go as are dead under every outer index that stays, and as the choices allow."""
    if dead.ndim == 1:
        return _alive_first(width, dead[None], avoided)[0]
    counted = dead if outer_dead is None or outer_dead.ndim > 1 or outer_dead.all() else dead[~outer_dead]
    num_dead = int(counted.sum(1).min())
    level = np.stack([row & (np.cumsum(row) <= num_dead) for row in dead])
    short = level.sum(1) < num_dead  # under an outer index that goes itself: any units do
    level[short] = np.arange(width.size) < num_dead
    return _alive_first(width, level, avoided)


def _alive_first(width: Width, dead: Dead, avoided: set[int]) -> Indices:
    alive = width.size - int(dead[0].sum())
    count = min((c for c in width.choices if c >= max(alive, 1) and c not in avoided), default=width.size)
    return np.sort(np.argsort(dead, axis=1, kind="stable")[:, :count], axis=1).astype(np.int64)
