"""Which ties a model's configuration can say, and which only together: heads × head width = hidden, for one.

    each tie alone at about half ──said?──► a tie of the search
         │ no
    ties of one kind and size ─► with the stream ─► with all heads and the stream ──said?──► one bound tie
         │ no
    left whole, with the reason

Asked for by trying: the front-end says of a plan why no configuration describes its network, or that one does.

Invariant: a bound tie keeps one share of all its widths, so that what its configuration relates stays related.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, islice

import numpy as np

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.errors import PlanError
from secateur.search.roles import hidden_width
from secateur.search.ties import Tie, bound, counts_of, ties_of

Says = Callable[[Plan], tuple[Mapping[str, object], str | None]]  # fields of the configuration, or why there are none

_MOST_PAIRS = 10
_HEADS = ("heads", "query_groups", "queries_per_group", "channels")


def sayable(search_space: Graph, says: Says) -> tuple[tuple[Tie, ...], dict[str, str]]:
    """The ties that a configuration can say, some of them bound; and the widths of the others with the reason."""
    alone: list[Tie] = []
    rest: list[Tie] = []
    reasons: dict[str, str] = {}
    for tie in ties_of(search_space):
        if len(tie.choices) > 1:
            said, reason = _said([tie], search_space, says)
            (rest if said is None else alone).append(said or tie)
            reasons |= dict.fromkeys(tie.widths, reason) if said is None else {}
    found = (*alone, *_together(rest, search_space, says))
    for name in (name for tie in found for name in tie.widths):
        reasons.pop(name, None)
    return found, reasons


def ties_of_field(name: str, search_space: Graph, says: Says) -> tuple[Tie, ...]:
    """The ties whose count a field of the configuration with this name is."""

    def is_said(tie: Tie) -> bool:
        said = _said([tie], search_space, lambda plan: _counting(name, tie, plan, says))[0]
        return said is not None and bool(said.fields)

    return tuple(tie for tie in ties_of(search_space) if is_said(tie))


def _counting(name: str, tie: Tie, plan: Plan, says: Says) -> tuple[Mapping[str, object], str | None]:
    """Of the fields that say a plan those of this name that say how many units the plan leaves of a tie."""
    fields, problem = says(plan)
    left = plan.sizes[tie.widths[0]]
    return {path: value for path, value in fields.items() if path.rpartition(".")[2] == name and value == left}, problem


def ratios(chosen: Mapping[str, int], ties: Sequence[Tie]) -> dict[str, Fraction]:
    """By which share each field of the configuration changes at these counts of ties."""
    found: dict[str, Fraction] = {}
    for tie in ties:
        for name in tie.fields:
            found[name] = found.get(name, Fraction(1)) * Fraction(chosen[tie.name], tie.size)
    return found


def _together(rest: Sequence[Tie], graph: Graph, says: Says) -> list[Tie]:
    """Bound ties that a configuration can say."""
    groups: dict[tuple[str, int], list[Tie]] = {}
    stream = [tie for tie in rest if hidden_width(graph) in tie.widths]
    for tie in rest:
        if tie not in stream:
            groups.setdefault((tie.kind, tie.size), []).append(tie)
    found: list[Tie] = []
    left: list[list[Tie]] = []
    for group in groups.values():
        said = _said(group, graph, says)[0] if len(group) > 1 else None
        if said is not None:
            found.append(said)
        else:
            left.append(group)
    tries = _with_the_stream(stream, left) if stream else []
    first = next((said for one in tries if (said := _said(one, graph, says)[0]) is not None), None)
    return found if first is None else [*found, first]


def _with_the_stream(stream: list[Tie], left: list[list[Tie]]) -> Iterator[list[Tie]]:
    """What the stream may be bound to: one sort of widths, all heads, two sorts."""
    in_order = sorted(left, key=lambda g: _HEADS.index(g[0].kind) if g[0].kind in _HEADS else len(_HEADS))
    yield from ([*stream, *group] for group in in_order)
    yield [*stream, *(tie for group in in_order if group[0].kind in _HEADS for tie in group)]
    yield from ([*stream, *one, *other] for one, other in islice(combinations(in_order, 2), _MOST_PAIRS))


def _said(ties: Sequence[Tie], graph: Graph, says: Says) -> tuple[Tie | None, str]:
    """These ties as one with its fields, if a configuration describes them with the same share each; else why not."""
    tie = ties[0] if len(ties) == 1 else bound(ties)
    if len(tie.choices) < 2:
        return None, "it would have to lose the same share as others, and cannot"
    reason = ""
    middle = tie.choices[(len(tie.choices) - 1) // 2]
    # alone at the middle only: near the whole a rounded quotient may agree by chance
    for chosen in [middle] if len(ties) == 1 else dict.fromkeys((middle, tie.choices[-2])):
        counts = counts_of({tie.name: chosen}, [tie])
        try:
            fields, problem = says(graph.plan({name: np.arange(count) for name, count in counts.items()}))
        except PlanError as error:
            fields, problem = {}, str(error)
        if problem is None:
            return replace(tie, fields=tuple(fields)), ""
        reason = reason or problem
    return None, reason
