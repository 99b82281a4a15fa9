"""Widths that have one size in a configuration: the same width of every block of a stack.

    model.layers.0.mlp.up.out_features ─┐
    model.layers.1.mlp.up.out_features ─┼─ model.layers.*.mlp.up.out_features      as many of each, other indices each
    model.layers.2.mlp.up.out_features ─┘

A width is tied to those that have its name but for the numbers in it, its kind and its size.

Invariant: each free width of a `uniform` graph is in one tie, no two ties have one name, and every choice of a tie is one of
all its widths.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from secateur.core.depth import LAYERS, inside
from secateur.core.graph import Graph, Width
from secateur.core.layout import alongs_of
from secateur.core.plan import Plan

Count = TypeVar("Count")  # an int, or an array of them for many networks at once
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """Widths that keep equally many units; ``name`` has a star for each number.

    Of a `bound` tie each width keeps so many units (``each``) for every one of the tie's; of a tie of layers, ``each`` says from
    how many on a block is there. ``fields`` of a configuration are in proportion to it.
    """

    name: str
    kind: str
    size: int
    choices: tuple[int, ...]
    widths: tuple[str, ...]
    each: Mapping[str, int] = field(default_factory=dict)
    fields: tuple[str, ...] = ()


def pattern_of(name: str) -> str:
    """A name without the numbers of the blocks it is in.

    >>> pattern_of("model.layers.11.self_attn.num_heads")
    'model.layers.*.self_attn.num_heads'
    """
    return _NUMBER.sub("*", name)


def ties_of(graph: Graph) -> tuple[Tie, ...]:
    """The ties of a graph's free widths, in order of first appearance; of those with a frozen sibling there are none."""
    together: dict[tuple[str, str, int], list[Width]] = {}
    for width in (width for width in graph.widths if width.kind != LAYERS):  # of equals some may go
        together.setdefault(_likeness(width), []).append(width)
    free = [members for members in together.values() if all(w.frozen is None for w in members)]
    several = Counter(pattern_of(members[0].name) for members in together.values() if len(members) > 1)
    return tuple(_tie(members, told_apart=several[pattern_of(members[0].name)] > 1) for members in free)


def uniform(graph: Graph) -> Graph:
    """The graph in which tied widths have the same choices, and none is free where a sibling is not."""
    ties = ties_of(graph)
    choices = {name: tie.choices for tie in ties for name in tie.widths}
    frozen = {_likeness(w): w for w in reversed(graph.widths) if w.frozen is not None}

    def tied(width: Width) -> Width:
        if width.frozen is not None or width.kind == LAYERS:
            return width
        if width.name not in choices:
            sibling = frozen[_likeness(width)]
            return width.whole(f"it is tied to {sibling.name}, which is left whole: {sibling.frozen}")
        return replace(width, choices=choices[width.name])

    return graph.with_widths(tied(width) for width in graph.widths)


def counts_of(chosen: Mapping[str, Count], ties: Iterable[Tie]) -> dict[str, Count]:
    """The counts of all widths from those of the ties, by name."""
    counts: dict[str, Count] = {}
    for tie in (tie for tie in ties if tie.name in chosen):
        count = chosen[tie.name]
        for n in tie.widths:
            of_each = tie.each.get(n, 1)
            counts[n] = (count >= of_each) * 1 if tie.kind == LAYERS else count * of_each  # type: ignore[operator,assignment]
    return counts


def bound(ties: Sequence[Tie]) -> Tie:
    """One tie whose widths all keep the same share: heads × head width = hidden, with the head width as it is."""
    size = math.gcd(*(tie.size for tie in ties))
    each = {name: tie.size // size * tie.each.get(name, 1) for tie in ties for name in tie.widths}
    shares = [range(1, size + 1), *({c * size // t.size for c in t.choices if c * size % t.size == 0} for t in ties)]
    return Tie(
        name=" & ".join(tie.name for tie in ties),
        kind=ties[0].kind,
        size=size,
        choices=tuple(sorted(set(shares[0]).intersection(*shares[1:]))) or (size,),
        widths=tuple(each),
        each=each,
    )


def uneven(plan: Plan) -> str | None:
    """The first tie, by its pattern, whose widths have different sizes after a plan; None where all have one size."""
    axes = {axis for name, layout in plan.layouts.items() if not inside(name, plan.drops) for axis in layout}
    size = {along.width: along.size for axis in axes for along in alongs_of(axis)}
    found: dict[tuple[str, int], int] = {}
    for name in sorted(size):
        key = (pattern_of(name), size[name])
        if found.setdefault(key, plan.sizes[name]) != plan.sizes[name]:
            return key[0]
    return None


def _likeness(width: Width) -> tuple[str, str, int]:
    return pattern_of(width.name), width.kind, width.size


def _tie(members: list[Width], *, told_apart: bool) -> Tie:
    """The tie of these; its name has their size and kind where others have the same pattern."""
    first = members[0]
    pattern = f"{pattern_of(first.name)} ({first.size} {first.kind})" if told_apart else pattern_of(first.name)
    common = set(first.choices).intersection(*(w.choices for w in members[1:]))
    return Tie(
        name=pattern if len(members) > 1 else first.name,
        kind=first.kind,
        size=first.size,
        choices=tuple(sorted(common | ({first.size} if not common else set()))),
        widths=tuple(w.name for w in members),
    )
