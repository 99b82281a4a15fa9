"""From scores and a rule for counts to a plan; and how a plan binds the plans after it.

    scored(search space, judge)  ──►  Ranked  ──counts_of(search space)──►  planned: a plan
                                         └── within(ranked, earlier plan)      only what is alive may go

Invariant: a plan made `within` another keeps no unit that the other removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secateur.core.coincidence import Avoided, unless_coincident
from secateur.core.graph import Graph, Width
from secateur.core.layout import Indices
from secateur.core.plan import Plan
from secateur.errors import InputError, nearest
from secateur.search.allocate import Scores, check_scores, keep_best
from secateur.search.blocks import one_left


class Judge(Protocol):
    """A criterion, bound to the network that it judges."""

    @property
    def described(self) -> Mapping[str, Any]:
        """Its name and what else it shows of itself, in JSON's own types."""
        ...

    def __call__(self, search_space: Graph) -> Scores:
        """Scores for the units of each free width; a width left out is not judged."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """Scores that were made before, as a judge. Raises InputError for a width that the network does not have."""

    scores: Scores

    @property
    def described(self) -> Mapping[str, Any]:
        return {"name": "scores"}

    def __call__(self, search_space: Graph) -> Scores:
        names = [width.name for width in search_space.widths]
        strange = next((name for name in self.scores if name not in names), None)
        if strange is not None:
            raise InputError(f"scores for {strange!r}, but no width is called so.{nearest(strange, names)}")
        return self.scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A search space, the scores that say which units of each free width stay, and what made these.

    ``not_scored`` are widths that were free and are left whole, since they were not judged.
    """

    search_space: Graph
    scores: Scores
    made_by: Mapping[str, Any]
    not_scored: tuple[str, ...] = ()

    def kept(self, counts: Mapping[str, int]) -> dict[str, Indices]:
        """The best units of each width at these counts; a width not named stays whole."""
        return keep_best(self.search_space, self.scores, counts)


def scored(search_space: Graph, judge: Judge) -> Ranked:
    """The search space of the widths that are judged.

    Raises InputError where none is, where one is not that has to get smaller, and for scores that cannot be used.
    """
    scores, called = judge(search_space), judge.described["name"]
    missing = [width for width in search_space.free if width.name not in scores]
    if missing and len(missing) == len(search_space.free):
        raise InputError(
            f"{called} gives no scores for any free width, the first of which is {missing[0].name}: it sees nothing that reads "
            'or gives their units (code inside torch.func.vmap is not seen). Use another criterion; "l2" judges weights'
        )
    pinned = next((width for width in missing if width.choices[-1] < width.size), None)
    if pinned is not None:
        raise InputError(f"{called} gives no scores for {pinned.name}, which must get smaller; use another criterion")
    names = tuple(width.name for width in missing)
    search_space = search_space.frozen(names, f"not judged by {called}") if names else search_space
    search_space = one_left(search_space, scores)
    checked = {width.name: check_scores(search_space, width, scores) for width in search_space.free}
    return Ranked(search_space=search_space, scores=checked, made_by=judge.described, not_scored=names)


def judged(search_space: Graph, judge: Judge) -> Ranked:
    """As `scored`, for a search that needs something to choose. Raises InputError where nothing can be pruned."""
    ranked = scored(search_space, judge)
    if not ranked.search_space.configurable:
        reasons = sorted({w.frozen for w in ranked.search_space.widths if w.frozen is not None})
        raise InputError(f"nothing can be pruned: every width is left whole ({'; '.join(reasons[:3]) or 'none found'})")
    return ranked


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str: ...


def description(criterion: Named) -> dict[str, Any]:
    """What a criterion shows of itself in JSON's own types; data and functions it keeps to itself."""
    shown = [each.name for each in fields(criterion) if each.repr] if is_dataclass(criterion) else []
    return {"name": criterion.name, **{name: plain(getattr(criterion, name)) for name in shown}}


def plain(value: object) -> Any:
    """JSON's own types: tuples and sets as lists, what has no JSON form by its name."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def planned(ranked: Ranked, counts_of: Callable[[Graph], Mapping[str, int]], graph: Graph | None = None) -> Plan:
    """The plan of the best units at the counts chosen, as one of ``graph`` (the search space by default)."""
    space = ranked.search_space
    return plan_within(graph or space, space, lambda space: keep_best(space, ranked.scores, counts_of(space)))


def plan_within(graph: Graph, search_space: Graph, kept_of: Callable[[Graph], Mapping[str, Indices]]) -> Plan:
    """The plan, as one of ``graph``, of what is chosen in a search space; without choices that coincide."""
    return unless_coincident(lambda avoided: graph.plan(kept_of(_without(search_space, avoided))))


def _without(search_space: Graph, avoided: Avoided) -> Graph:
    """The search space without these choices; a width that has no other keeps them."""
    if not avoided:
        return search_space
    rest = {name: tuple(c for c in search_space[name].choices if c not in counts) for name, counts in avoided.items()}
    return search_space.with_widths(
        replace(w, choices=rest[w.name]) if rest.get(w.name) else w for w in search_space.widths
    )


def alone(ranked: Ranked, name: str, count: int) -> Plan:
    """The plan with one width narrowed; to the next count upwards where the code cannot take this one."""
    search_space = ranked.search_space
    others = [width.name for width in search_space.free if width.name != name]
    width = search_space[name]
    larger = replace(width, choices=tuple(choice for choice in width.choices if choice >= count))
    single = search_space.frozen(others, "measured alone")
    single = single.with_widths(larger if w.name == name else w for w in single.widths)
    return planned(replace(ranked, search_space=single), lambda space: {name: space[name].choices[0]}, search_space)


def within(ranked: Ranked, plan: Plan) -> Ranked:
    """The space and scores under which no unit comes back that the plan removed."""
    scores = dict(ranked.scores)
    widths: list[Width] = []
    for width in ranked.search_space.widths:
        count = plan.sizes[width.name]
        if count < width.size:
            alive = kept_mask(width, plan)
            found = np.asarray(scores[width.name]) if width.frozen is None else np.zeros(width.size)
            scores[width.name] = np.where(alive, found, float(found.min()) - 1.0)
            smaller = [choice for choice in width.choices if choice < count]
            width = replace(width, choices=(*smaller, count), frozen=None)
        widths.append(width)
    return replace(ranked, search_space=ranked.search_space.with_widths(widths), scores=scores)


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
