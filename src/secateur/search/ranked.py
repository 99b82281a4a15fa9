"""From a criterion and a rule for counts to a plan; and how a plan binds the plans after it.

    judged(space, criterion, model)  ──►  Ranked(space, scores)  ──counts_of(space)──►  planned: a plan
                                               └── within(ranked, earlier plan)      only what is alive may go

Invariant: a plan made `within` another keeps no unit that the other removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.core.budget import Budget, Limit
from secateur.core.graph import Graph, Width
from secateur.core.layout import Indices, Values
from secateur.core.plan import Plan
from secateur.errors import Coincidence, InputError
from secateur.search.allocate import check_scores, keep_best
from secateur.torch.criteria.protocol import Criterion


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A search space, the scores that say which units of each free width stay, and what made these."""

    space: Graph
    scores: Mapping[str, Values]
    made_by: Mapping[str, Any]

    def kept(self, counts: Mapping[str, int]) -> dict[str, Indices]:
        """The best units of each width at these counts; a width not named stays whole."""
        return keep_best(self.space, self.scores, counts)


def judged(space: Graph, criterion: Criterion, model: nn.Module) -> Ranked:
    """The space of the widths that the criterion judges. Raises InputError where nothing of it can be pruned."""
    scores = criterion(space, model)
    space = frozen_unless(space, scores, f"not judged by {criterion.name}")
    if not space.configurable:
        reasons = sorted({w.frozen for w in space.widths if w.frozen is not None})
        raise InputError(f"nothing can be pruned: every width is left whole ({'; '.join(reasons[:3]) or 'none found'})")
    scores = {width.name: check_scores(space, width, scores) for width in space.free}
    return Ranked(space=space, scores=scores, made_by=description(criterion))


def description(criterion: Criterion) -> dict[str, Any]:
    """What a criterion shows of itself in JSON's own types; data and functions it keeps to itself."""
    criterion = getattr(criterion, "described_as", criterion)
    settings = {}
    if is_dataclass(criterion):
        settings = {f.name: plain(getattr(criterion, f.name)) for f in fields(criterion) if f.repr}
    return {"name": criterion.name, **settings}


def plain(value: Any) -> Any:
    """JSON's own types: tuples and sets as lists, what has no JSON form by its name."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def frozen_unless(space: Graph, names: Collection[str], reason: str) -> Graph:
    """The space in which no other widths than these are free."""
    return space.with_widths(
        w if w.frozen is not None or w.name in names else replace(w, frozen=reason, choices=(w.size,))
        for w in space.widths
    )


def planned(ranked: Ranked, counts_of: Callable[[Graph], Mapping[str, int]], graph: Graph | None = None) -> Plan:
    """The plan of the best units at the counts chosen, as one of ``graph`` (the search space by default)."""
    return unless_coincident(graph or ranked.space, ranked.space, lambda s: keep_best(s, ranked.scores, counts_of(s)))


def unless_coincident(graph: Graph, space: Graph, kept_of: Callable[[Graph], Mapping[str, Any]]) -> Plan:
    """The plan of what is chosen in a space; where two sizes coincide that the code tells apart, without that choice.

    Raises Coincidence where a width has no other choice.
    """
    while True:
        try:
            return graph.plan(kept_of(space))
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
    return replace(ranked, space=ranked.space.with_widths(widths), scores=scores)


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
