"""How many units each width may keep: the search space, and what narrows it.

    every count 1…64   ──multiple_of=16──►   16, 32, 48, 64   ──floor=0.5──►   32, 48, 64

`restrict` returns a graph with fewer choices; a width that is left with its own size alone is frozen, and says why.

Invariant: choices are ascending counts in 1…size, never none; a frozen width stays frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from secateur.core.graph import Graph, Width
from secateur.errors import InputError
from secateur.search.limit_rules import (
    Span,
    Spec,
    check_fractions,
    check_multiple,
    check_span,
    read_rules,
    winning_rules,
)
from secateur.search.matching import Names

Spans = Span | Mapping[str, Span]  # for all widths, or by name or pattern: the last one that matches counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What narrows a search space.

    ``exclude`` leaves the matching widths whole, ``only`` all but the matching ones. ``multiple_of`` counts positions: any
    number of heads of 64 satisfies 32. ``ratios`` are shares of the size, rounded to the multiple. ``floor`` and
    ``ceiling`` are shares (floats up to 1.0) or counts (ints). ``rules`` says all this by module type and name.
    """

    multiple_of: int = 1
    exclude: Collection[str] = ()
    only: Collection[str] = ()
    ratios: tuple[float, ...] = ()
    floor: Spans | None = None
    ceiling: Spans | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)


def restrict(graph: Graph, limits: Limits) -> Graph:
    """The graph with these limits on its search space.

    Raises InputError for a limit that cannot be read, matches nothing or leaves a width no choice.
    """
    check_multiple(limits.multiple_of, "multiple_of")
    check_fractions(limits.ratios, "ratios")
    if limits == Limits():
        return graph
    names, rules = Names.of(graph), read_rules(limits.rules, graph)
    frozen = {**_left_out(names, limits.only), **_excluded(names, limits.exclude)}
    floor, ceiling = _spans(names, limits.floor, "floor"), _spans(names, limits.ceiling, "ceiling")

    def narrowed(width: Width) -> Width:
        if width.frozen is not None:
            return width
        ruled = list(winning_rules(rules, graph, width))
        alone = [f"left alone by {where}" for where, rule in ruled if rule is None]
        if width.name in frozen or alone:
            return _freeze(width, frozen.get(width.name) or alone[0])
        general = Spec(multiple_of=limits.multiple_of, ratios=limits.ratios, floor=floor(width), ceiling=ceiling(width))
        specs = {where: rule for where, rule in [*ruled, (general.said, general)] if rule and not rule.is_empty}
        return _apply(width, list(specs.values()), ", ".join(specs)) if specs else width

    widths = tuple(narrowed(width) for width in graph.widths)
    return graph if widths == graph.widths else graph.with_widths(widths)


def _freeze(width: Width, reason: str) -> Width:
    return replace(width, choices=(width.size,), frozen=reason)


def _apply(width: Width, specs: Sequence[Spec], said: str) -> Width:
    """A width with the choices that all of these leave, frozen if that is only its own size."""
    allowed: Sequence[int] = width.choices
    for spec in specs:
        allowed = spec.among(allowed, width)
    if tuple(allowed) == (width.size,):
        return _freeze(width, f"no other choice than all {width.size} ({said})") if len(width.choices) > 1 else width
    spans = [spec.span(width.size) for spec in specs]
    least, most = max(low for low, _ in spans), min(high for _, high in spans)
    # The whole width stays a choice, except above a ceiling.
    inside = tuple(c for c in allowed if (least <= c or c == width.size) and c <= most)
    if not inside:
        raise InputError(
            f"{width.name}: no choice of at most {most} ({said}); the smallest is {min(allowed or width.choices)} of "
            f"{width.size}. Raise the ceiling, lower multiple_of, or say by name which widths the ceiling is for."
        )
    if inside == (width.size,):
        return _freeze(width, f"no other choice than all {width.size} ({said})")
    return replace(width, choices=inside) if inside != width.choices else width


def _excluded(names: Names, patterns: Collection[str]) -> dict[str, str]:
    return {name: f"excluded ({p})" for p in _patterns(patterns, "exclude") for name in names.matching(p, "exclude")}


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
