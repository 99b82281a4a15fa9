"""From a criterion and a rule for counts to a plan; and how a plan binds the plans after it.

    judged(space, criterion, model)  ──►  Ranked(space, scores)  ──counts_of(space)──►  plan
                                               └── within(ranked, earlier plan)      only what is alive may go

Invariant: a plan made `within` another keeps no unit that the other removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.core.budget import Budget, Limit
from secateur.core.graph import Graph, Width
from secateur.core.plan import Plan
from secateur.errors import Coincidence, InputError
from secateur.search.allocate import keep_best
from secateur.torch.criteria.protocol import Criterion, Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A search space, and the scores that say which units of each free width stay."""

    space: Graph
    scores: Mapping[str, Values]


def judged(space: Graph, criterion: Criterion, model: nn.Module) -> Ranked:
    """The space of the widths that the criterion judges. Raises InputError where nothing of it can be pruned."""
    scores = criterion(space, model)
    space = frozen_unless(space, scores, f"not judged by {criterion.name}")
    if not space.configurable:
        reasons = sorted({w.frozen for w in space.widths if w.frozen is not None})
        raise InputError(f"nothing can be pruned: every width is left whole ({'; '.join(reasons[:3]) or 'none found'})")
    return Ranked(space=space, scores=scores)


def frozen_unless(space: Graph, names: Collection[str], reason: str) -> Graph:
    """The space in which no other widths than these are free."""
    return space.with_widths(
        w if w.frozen is not None or w.name in names else replace(w, frozen=reason, choices=(w.size,))
        for w in space.widths
    )


def planned(ranked: Ranked, counts_of: Callable[[Graph], Mapping[str, int]]) -> Plan:
    """The plan at the counts chosen; where two sizes coincide that the code tells apart, without that choice."""
    space = ranked.space
    while True:
        try:
            return space.plan(keep_best(space, ranked.scores, counts_of(space)))
        except Coincidence as coincidence:
            width = space[coincidence.width]
            rest = tuple(choice for choice in width.choices if choice != coincidence.count)
            if not rest:
                raise
            space = space.with_widths(replace(w, choices=rest) if w is width else w for w in space.widths)


def within(ranked: Ranked, plan: Plan) -> Ranked:
    """The space and scores under which no unit comes back that the plan removed."""
    scores = dict(ranked.scores)
    widths: list[Width] = []
    for width in ranked.space.widths:
        count = plan.sizes[width.name]
        if count < width.size:
            alive = kept_mask(width, plan)
            found = np.asarray(scores[width.name]) if width.frozen is None else np.zeros(width.size)
            scores[width.name] = np.where(alive, found, float(found.min()) - 1.0)
            smaller = [choice for choice in width.choices if choice < count]
            width = replace(width, choices=(*smaller, count), frozen=None)
        widths.append(width)
    return Ranked(space=ranked.space.with_widths(widths), scores=scores)


def gives_back(plan: Plan, earlier: Plan) -> bool:
    """Whether a plan keeps a unit that an earlier plan of the same graph removed."""
    assert plan.graph is not None
    return any((kept_mask(w, plan) & ~kept_mask(w, earlier)).any() for w in plan.graph.free)


def kept_mask(width: Width, plan: Plan) -> NDArray[np.bool_]:
    """True for each unit that stays: ``[size]``, or ``[outer, size]`` where outer indices keep their own."""
    kept = np.asarray(plan.kept[width.name], dtype=np.int64)
    alive = np.zeros((*kept.shape[:-1], width.size), dtype=bool)
    np.put_along_axis(alive, kept, True, axis=-1)
    return alive


def budget_of(removal_ratio: Any, graph: Graph) -> Budget:
    """At most what remains of the MACs. Raises InputError unless the ratio lies between 0 and 1."""
    if isinstance(removal_ratio, bool) or not isinstance(removal_ratio, int | float) or not 0 < removal_ratio < 1:
        raise InputError(f"removal_ratio is the share of MACs to remove, between 0 and 1, not {removal_ratio!r}")
    bound = math.floor(graph.macs * (1 - Fraction(str(removal_ratio))))
    return Budget(limits=(Limit(metric="macs", bound=max(bound, 1), whole=graph.macs),))
