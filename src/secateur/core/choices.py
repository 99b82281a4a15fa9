"""How many units each width may keep: the search space, and what narrows it.

    every count 1…64   ──multiple_of=16──►   16, 32, 48, 64   ──floor=0.5──►   32, 48, 64

`restrict` returns a graph with fewer choices; widths that are left with their own size alone become frozen, and say why.

Invariant: choices are ascending counts in 1…size, never none; a frozen width stays frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from secateur.core.graph import Graph, Width
from secateur.core.matching import Names
from secateur.core.rules import Span, Spec, check_fractions, check_multiple, check_span, read_rules, winning_rules
from secateur.errors import InputError

Spans = Span | Mapping[str, Span]  # for all widths, or by name or pattern: the last one that matches counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What narrows a search space.

    ``keep`` leaves the matching widths whole, ``only`` all but the matching ones. ``multiple_of`` counts positions: eight
    heads of 64 satisfy 32 at any number of heads. ``ratios`` are shares of the size, rounded to the multiple. ``floor`` and
    ``ceiling`` are shares (floats up to 1.0) or counts (ints). ``rules`` says these by module type and name, see `read_rules`.
    """

    multiple_of: int = 1
    keep: Collection[str] = ()
    only: Collection[str] = ()
    ratios: tuple[float, ...] = ()
    floor: Spans | None = None
    ceiling: Spans | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)


def restrict(graph: Graph, limits: Limits) -> Graph:
    """The graph with these limits on its search space. Raises InputError for a limit that cannot be read or matches nothing."""
    check_multiple(limits.multiple_of, "multiple_of")
    check_fractions(limits.ratios, "ratios")
    names, rules = Names.of(graph), read_rules(limits.rules, graph)
    frozen = {**_left_out(names, limits.only), **_kept(names, limits.keep)}
    floor, ceiling = _spans(names, limits.floor, "floor"), _spans(names, limits.ceiling, "ceiling")

    def narrowed(width: Width) -> Width:
        if width.frozen is not None:
            return width
        if width.name in frozen:
            return _freeze(width, frozen[width.name])
        spec = Spec(multiple_of=limits.multiple_of, ratios=limits.ratios, floor=floor(width), ceiling=ceiling(width))
        for where, rule in winning_rules(rules, graph, width):
            if rule is None:
                return _freeze(width, f"left alone by {where}")
            width = _apply(width, rule, where)
        return _apply(width, spec, spec.said)

    widths = tuple(narrowed(width) for width in graph.widths)
    return graph if widths == graph.widths else graph.with_widths(widths)


def make_divisible(value: float, divisor: int) -> int:
    """The nearest multiple of a divisor, at least one of it, and not below nine tenths of the value.

    >>> [make_divisible(r * 64, 32) for r in (0.05, 0.7, 0.75, 1.0)]
    [32, 64, 64, 64]
    """
    nearest = max(divisor, int((value + divisor / 2) // divisor) * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest


def search_space_size(graph: Graph) -> int:
    """How many networks there are to choose from."""
    return math.prod(len(width.choices) for width in graph.configurable)


def minimum(graph: Graph) -> dict[str, int]:
    """The smallest network of the search space."""
    return _subnet(graph, lambda choices: choices[0])


def centroid(graph: Graph) -> dict[str, int]:
    """The network in the middle: of each width the choice nearest the median of its choices, the smaller on a tie."""
    return _subnet(graph, _central)


def maximum(graph: Graph) -> dict[str, int]:
    """The largest network of the search space."""
    return _subnet(graph, lambda choices: choices[-1])


def _central(choices: tuple[int, ...]) -> int:
    middle = median(choices)
    return min(choices, key=lambda choice: (abs(choice - middle), choice))


def _subnet(graph: Graph, pick: Callable[[tuple[int, ...]], int]) -> dict[str, int]:
    return {w.name: w.size if w.frozen is not None else pick(w.choices) for w in graph.widths}


def _freeze(width: Width, reason: str) -> Width:
    return replace(width, choices=(width.size,), frozen=reason)


def _apply(width: Width, spec: Spec, source: str) -> Width:
    """A width with the choices that a spec leaves, frozen if that is only its own size."""
    if spec.is_empty or width.frozen is not None:
        return width
    divisor = spec.multiple_of // math.gcd(spec.multiple_of, width.multiplier)
    least, most = spec.span(width.size)
    allowed = [choice for choice in width.choices if choice % divisor == 0 or choice == width.size]
    if spec.ratios:
        wanted = {make_divisible(ratio * width.size, divisor) for ratio in spec.ratios} | {width.size}
        allowed = [choice for choice in allowed if choice in wanted]
    if allowed == [width.size] and len(width.choices) > 1:
        return _freeze(width, f"no other choice than all {width.size} ({source})")
    # The whole width stays a choice, except above a ceiling.
    inside = tuple(c for c in allowed if (least <= c or c == width.size) and c <= most)
    if not inside:
        smallest = min(allowed, default=width.choices[0])
        raise InputError(
            f"{width.name}: no choice of at most {most} ({source}); the smallest is {smallest} of {width.size}. "
            "Raise the ceiling, lower multiple_of, or say by name which widths the ceiling is for."
        )
    if inside == (width.size,) and len(width.choices) > 1:
        return _freeze(width, f"no other choice than all {width.size} ({source})")
    return replace(width, choices=inside) if inside != width.choices else width


def _kept(names: Names, patterns: Collection[str]) -> dict[str, str]:
    return {name: f"kept ({p})" for p in _patterns(patterns, "keep") for name in names.matching(p, "keep")}


def _left_out(names: Names, patterns: Collection[str]) -> dict[str, str]:
    if not patterns:
        return {}
    chosen: set[str] = set()
    for pattern in _patterns(patterns, "only"):
        found = names.matching(pattern, "only")
        if not found:
            raise InputError(f"only: nothing of {pattern!r} has a width of its own, so nothing would be pruned")
        chosen.update(found)
    return {name: f"not in only={list(patterns)}" for name in names.of_width if name not in chosen}


def _patterns(patterns: Collection[str], option: str) -> Collection[str]:
    if isinstance(patterns, str):
        raise InputError(f"{option}: write a list, [{patterns!r}]")
    return patterns


def _spans(names: Names, spans: Spans | None, option: str) -> Callable[[Width], Span | None]:
    """The floor or ceiling of each width."""
    if not isinstance(spans, Mapping):
        check_span(spans, option)
        return lambda width: spans
    found: dict[str, Span] = {}
    for pattern, span in spans.items():
        check_span(span, option)
        found.update(dict.fromkeys(names.matching(pattern, option), span))
    return lambda width: found.get(width.name)
