"""How many units each width may keep: the search space, and what narrows it.

    every count 1…64   ──multiple_of=16──►   16, 32, 48, 64   ──floor=0.5──►   32, 48, 64

`restrict` returns a graph with fewer choices; a width that is left with its own size alone is frozen, and says why.

Invariant: choices are ascending counts in 1…size, never none; a frozen width stays frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from secateur.core.depth import LAYERS
from secateur.core.graph import Graph, Width
from secateur.core.options import Options
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
from secateur.search.matching import Vocabulary

Fastest = Literal["fastest"]
FASTEST: Fastest = "fastest"  # `secateur.prune` measures which multiple that is

Spans = Span | Mapping[str, Span]  # for all widths, or by name or pattern: the last one that matches counts


def _checked_patterns(patterns: Collection[str]) -> Collection[str]:
    if isinstance(patterns, str) or not isinstance(patterns, Collection):
        raise InputError(f"write a list, [{patterns!r}]")
    return tuple(patterns)


def _checked_spans(spans: Spans | None) -> Spans | None:
    for span in spans.values() if isinstance(spans, Mapping) else [spans]:
        check_span(span)
    return spans


def _checked_only(patterns: Collection[str] | None) -> Collection[str] | None:
    if patterns is None:
        return None
    if not (checked := _checked_patterns(patterns)):
        raise InputError("the list is empty, so nothing would be pruned: leave only away to prune everything")
    return checked


def _checked_multiple(given: object) -> int | Fastest:
    if isinstance(given, str) and given != FASTEST:
        raise InputError(f"a whole number is needed, or {FASTEST!r}, which is measured; not {given!r:.60}")
    return FASTEST if given == FASTEST else check_multiple(given)


Patterns = Annotated[Collection[str], PlainValidator(_checked_patterns)]
SpansOption = Annotated[Spans | None, PlainValidator(_checked_spans)]


class Limits(Options):
    """What narrows a search space: which counts a width may take. ``rules`` says the rest by module type and name."""

    called = "limits"

    multiple_of: Annotated[int | Fastest, PlainValidator(_checked_multiple)] = 1
    """Counts are multiples of this, in positions: any number of heads of 64 satisfies 32. `prune` measures "fastest" first."""
    exclude: Patterns = ()
    """What stays whole: widths, tensors, modules, type names, or patterns of them."""
    only: Annotated[Collection[str] | None, PlainValidator(_checked_only)] = None
    """What may be narrowed, written in the same way; all the rest stays whole."""
    ratios: Annotated[tuple[float, ...], PlainValidator(check_fractions)] = ()
    """The shares of its size that a width may keep, rounded to the multiple."""
    floor: SpansOption = None
    """The least that a width keeps, a share (float up to 1.0) or a count (int); for all, or by name or pattern."""
    ceiling: SpansOption = None
    """The most that a width keeps, written in the same way."""
    rules: Mapping[str, Any] = Field(default_factory=dict)
    """All of these by module type and name; the last that matches counts, None leaves alone."""

    def limits(self) -> Limits:
        """These limits alone, where there are other options beside them."""
        return Limits(**{name: getattr(self, name) for name in Limits.model_fields})


NO_LIMITS = Limits()


def restrict(graph: Graph, limits: Limits) -> Graph:
    """The graph with these limits on its search space.

    Raises InputError for a limit that matches nothing or leaves a width no choice.
    """
    if limits == NO_LIMITS:
        return graph
    multiple = limits.multiple_of
    if multiple == FASTEST:
        raise InputError('multiple_of="fastest" is measured, which secateur.prune does: give a number here')
    vocabulary, rules = Vocabulary.of(graph), read_rules(limits.rules, graph)
    frozen = {**_left_out(vocabulary, limits.only), **_excluded(vocabulary, limits.exclude)}
    floor, ceiling = _spans(vocabulary, limits.floor, "floor"), _spans(vocabulary, limits.ceiling, "ceiling")

    def narrowed(width: Width) -> Width:
        if width.frozen is not None:
            return width
        ruled = list(winning_rules(rules, graph, width))
        alone = [f"left alone by {where}" for where, rule in ruled if rule is None]
        if width.name in frozen or alone:
            return width.whole(frozen.get(width.name) or alone[0])
        if width.kind == LAYERS:  # it goes whole or stays whole: multiples and shares are about units
            return width
        general = Spec(multiple_of=multiple, ratios=limits.ratios, floor=floor(width), ceiling=ceiling(width))
        specs = {where: rule for where, rule in [*ruled, (general.said, general)] if rule and not rule.is_empty}
        return _apply(width, list(specs.values()), ", ".join(specs)) if specs else width

    widths = tuple(narrowed(width) for width in graph.widths)
    return graph if widths == graph.widths else graph.with_widths(widths)


def _apply(width: Width, specs: Sequence[Spec], said: str) -> Width:
    """A width with the choices that all of these leave, frozen if that is only its own size."""
    allowed: Sequence[int] = width.choices
    for spec in specs:
        allowed = spec.among(allowed, width)
    if tuple(allowed) == (width.size,):
        return width.whole(f"no other choice than all {width.size} ({said})") if len(width.choices) > 1 else width
    spans = [spec.span(width.size) for spec in specs]
    least, most = max(low for low, _ in spans), min(high for _, high in spans)
    if least > most:
        raise InputError(
            f"{width.name}: the floor is above the ceiling: at least {least} and at most {most} of {width.size} ({said}). "
            "Lower the floor, raise the ceiling, or say by name which widths each is for."
        )
    # The whole width stays a choice, except above a ceiling.
    inside = tuple(c for c in allowed if (least <= c or c == width.size) and c <= most)
    if not inside:
        raise InputError(
            f"{width.name}: no choice of at most {most} ({said}); the smallest is {min(allowed or width.choices)} of "
            f"{width.size}. Raise the ceiling, lower multiple_of, or say by name which widths the ceiling is for."
        )
    if inside == (width.size,):
        return width.whole(f"no other choice than all {width.size} ({said})")
    return replace(width, choices=inside) if inside != width.choices else width


def _excluded(vocabulary: Vocabulary, patterns: Collection[str]) -> dict[str, str]:
    return {name: f"excluded ({p})" for p in patterns for name in vocabulary.matching(p, "exclude")}


def _left_out(vocabulary: Vocabulary, patterns: Collection[str] | None) -> dict[str, str]:
    if not patterns:
        return {}
    chosen: set[str] = set()
    for pattern in patterns:
        found = vocabulary.matching(pattern, "only")
        if not found:
            raise InputError(f"only: nothing of {pattern!r} has a width of its own, so nothing would be pruned")
        chosen.update(found)
    return {name: f"not in only={list(patterns)}" for name in vocabulary.of_width if name not in chosen}


def _spans(vocabulary: Vocabulary, spans: Spans | None, option: str) -> Callable[[Width], Span | None]:
    """The floor or ceiling of each width."""
    if not isinstance(spans, Mapping):
        return lambda width: spans
    found: dict[str, Span] = {}
    for pattern, span in spans.items():
        found.update(dict.fromkeys(vocabulary.matching(pattern, option), span))
    return lambda width: found.get(width.name)
