"""Rules of a search space by module type and name.

    {"nn.Conv2d": {"*":          {"multiple_of": 32, "ratios": [0.25, 0.5, 1.0], "floor": 0.1},
                   "backbone.*": None}}

Of the patterns that match a module the last one counts; ``None`` leaves the module alone. A width that lives in several
modules obeys all of their rules.

Invariant: every key is known, or refused by name.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.core.graph import Graph, Width
from secateur.errors import ConfigError, InputError, nearest
from secateur.search.matching import any_match, owners

Span = int | float  # a count, or a share of the size


Rules = tuple[tuple[str, str, "Spec | None"], ...]  # (module type, name pattern, what holds there)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a width's choices must satisfy."""

    multiple_of: int = 1
    ratios: tuple[float, ...] = ()
    floor: Span | None = None
    ceiling: Span | None = None

    @property
    def is_empty(self) -> bool:
        """Whether this allows everything."""
        return self.multiple_of == 1 and not self.ratios and self.floor is None and self.ceiling is None

    @property
    def said(self) -> str:
        """The options that are set, as they were written."""
        options = {"multiple_of": self.multiple_of if self.multiple_of > 1 else None, "ratios": self.ratios or None}
        options |= {"floor": self.floor, "ceiling": self.ceiling}
        shown = {"ratios": f"{len(self.ratios)} of them"}
        return ", ".join(f"{key}={shown.get(key, value)}" for key, value in options.items() if value is not None)

    def among(self, counts: Sequence[int], width: Width) -> list[int]:
        """Those of these counts that are multiples and ratios as wanted; the whole width always is."""
        divisor = self.multiple_of // math.gcd(self.multiple_of, width.multiplier)
        wanted = {make_divisible(ratio * width.size, divisor) for ratio in self.ratios}
        return [n for n in counts if (n % divisor == 0 and (not wanted or n in wanted)) or n == width.size]

    def span(self, size: int) -> tuple[int, int]:
        """The least and the largest count of a width of this size."""
        least = 1 if self.floor is None else _count(self.floor, size, math.ceil)
        return least, size if self.ceiling is None else max(1, _count(self.ceiling, size, math.floor))


def read_rules(rules: Mapping[str, Any] | None, graph: Graph) -> Rules:
    """Check rules and put them in one list. A type that the model does not have is a warning: rules serve many models.

    Raises ConfigError for an unknown key or value, InputError for a name pattern without a match.
    """
    if not rules:
        return ()
    if not isinstance(rules, Mapping):
        raise InputError(f'rules are written as {{"nn.Conv2d": {{"*": {{…}}}}}}, not as {type(rules).__name__}')
    read: list[tuple[str, str, Spec | None]] = []
    for kind, by_name in rules.items():
        modules = [name for name, types in graph.module_types.items() if kind in types]
        _check_spelling(kind, modules, graph)
        if not modules:
            warnings.warn(f"rules: the model has no {kind}, so what is said of it has no effect", stacklevel=4)
        for pattern, options in _by_name(kind, by_name).items():
            if modules and not any_match(pattern, modules):
                raise InputError(f"rules: no {kind} is called {pattern!r}.{nearest(pattern, modules)}")
            read.append((kind, pattern, None if options is None else _spec(f"rules: {kind}: {pattern}", options)))
    return tuple(read)


def winning_rules(rules: Rules, graph: Graph, width: Width) -> Iterator[tuple[str, Spec | None]]:
    """For each module that holds a width the rule that counts there, and its place as people write it."""
    for module in owners(graph, width) if rules else ():
        types = graph.module_types.get(module, ())
        found = [rule for rule in rules if rule[0] in types and any_match(rule[1], (module,))]
        if found:
            kind, pattern, spec = found[-1]
            yield f"rules[{kind!r}][{pattern!r}] at {module}", spec


def make_divisible(value: float, divisor: int) -> int:
    """The nearest multiple of a divisor, at least one of it, and not below nine tenths of the value.

    >>> [make_divisible(r * 64, 32) for r in (0.05, 0.7, 0.75, 1.0)]
    [32, 64, 64, 64]
    """
    nearest = max(divisor, int((value + divisor / 2) // divisor) * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest


def check_multiple(value: object) -> int:
    """A divisor, or ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"a whole number of at least 1 is needed, not {value!r}")
    return value


def check_fractions(values: object) -> tuple[float, ...]:
    """Ratios, or ConfigError."""
    if isinstance(values, str) or not isinstance(values, Collection):
        raise ConfigError(f"a list of shares is needed, not {values!r}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise ConfigError(f"a share is above 0 and at most 1, not {value!r}")
    return tuple(float(value) for value in values)


def check_span(value: Any) -> Span | None:
    """A floor or ceiling, or ConfigError."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and value > 0 and (isinstance(value, int) or value <= 1)):
        raise ConfigError(f"a share (0.25) or a count (16) is needed, not {value!r}")
    return value


def _count(span: Span, size: int, rounding: Any) -> int:
    """A count from a count or a share; a share is rounded as if it were exact."""
    return min(span, size) if isinstance(span, int) else int(rounding(round(span * size, 9)))


def _check_spelling(kind: object, modules: list[str], graph: Graph) -> None:
    known = {name for types in graph.module_types.values() for name in types}
    alike = [name for name in known if str(name).lower() == str(kind).lower()]
    if not isinstance(kind, str) or (alike and not modules):
        raise ConfigError(f"rules: no module type is called {kind!r}.{nearest(kind, known)}")


def _by_name(kind: str, by_name: object) -> Mapping[str, Any]:
    if by_name is None:
        return {"*": None}
    if not isinstance(by_name, Mapping):
        raise ConfigError(f'rules: {kind}: write {{"*": {{…}}}} or {{"*": None}}, not {by_name!r:.60}')
    return by_name


def _spec(where: str, options: object) -> Spec:
    if not isinstance(options, Mapping):
        raise ConfigError(f"{where}: a mapping of options or None is needed, not {options!r:.60}")
    strange = next((key for key in options if key not in _CHECKS), None)
    if strange is not None:
        raise ConfigError(f"{where}: no option is called {strange!r}.{nearest(strange, _CHECKS)}")
    try:
        return Spec(**{key: _CHECKS[key](value) for key, value in options.items()})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "multiple_of": check_multiple,
    "ratios": check_fractions,
    "floor": check_span,
    "ceiling": check_span,
}
