"""What a network costs, as a function of its widths.

    macs(conv) = 1·h·w·9 × in × out          one term an operator, written while tracing

A `Polynomial` sums coefficient × product of axis sizes. A `Peak` is the largest running total of allocations and
releases. Both are evaluated for thousands of candidates at once: a candidate is ``{width: kept}``, a batch of
candidates is ``{width: integer array}``.

Invariant: evaluated on a plan, a cost equals, to the integer, what a trace of the narrowed model counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.core.layout import Axis, Product, Whole, size_of, widths_of
from secateur.core.tape import Tape

Counts = Mapping[str, Any]  # width name -> int or integer array
Axes = tuple[Axis, ...]
Monomial = tuple[int, Axes]


@dataclass(frozen=True)
class Polynomial:
    """Sum of coefficient × product of axis sizes, in lowest terms."""

    terms: tuple[Monomial, ...]

    @classmethod
    def of(cls, monomials: Iterable[Monomial]) -> Polynomial:
        """Collect like terms."""
        collected: dict[Axes, int] = {}
        for coefficient, axes in _simplified(monomials):
            collected[axes] = collected.get(axes, 0) + coefficient
        return cls(tuple((number, axes) for axes, number in collected.items() if number))

    @cached_property
    def _tape(self) -> Tape:
        return Tape.of([axes for _, axes in self.terms])

    def __call__(self, counts: Counts) -> Any:
        """The value at these widths: an int, or an int64 array where the counts are arrays."""
        total: Any = 0
        for (coefficient, _), value in zip(self.terms, self._tape(counts), strict=True):
            total = total + coefficient * value
        return total


@dataclass(frozen=True)
class Peak:
    """Largest running total of events; each event adds or releases coefficient × product of sizes."""

    events: tuple[Monomial, ...]

    @classmethod
    def of(cls, monomials: Iterable[Monomial]) -> Peak:
        """Keep the order, which is what a peak is about."""
        return cls(tuple(_simplified(monomials)))

    @cached_property
    def _tops(self) -> tuple[Tape, NDArray[np.int64]]:
        """The distinct products, and their coefficients in each running total that can be the largest."""
        column = {axes: i for i, axes in enumerate(dict.fromkeys(axes for _, axes in self.events))}
        running = np.zeros(len(column), dtype=np.int64)
        tops: list[NDArray[np.int64]] = []
        for i, (coefficient, axes) in enumerate(self.events):
            running[column[axes]] += coefficient
            falls_next = i + 1 == len(self.events) or self.events[i + 1][0] < 0
            if coefficient > 0 and falls_next:
                tops.append(running.copy())
        return Tape.of(list(column)), _undominated(np.array(tops, dtype=np.int64).reshape(len(tops), len(column)))

    def __call__(self, counts: Counts) -> Any:
        """The value at these widths: an int, or an int64 array where the counts are arrays."""
        tape, tops = self._tops
        values = tape(counts)
        if any(isinstance(value, np.ndarray) for value in values):
            values = np.broadcast_arrays(*values)
        highest = (tops @ np.array(values, dtype=np.int64)).max(axis=0, initial=0)
        return highest if highest.ndim else int(highest)


Cost = Polynomial | Peak


def _simplified(monomials: Iterable[Monomial]) -> Iterable[Monomial]:
    """Constants folded into coefficients, products into their factors, factors in a canonical order."""
    seen: dict[Axis, tuple[int, Axes]] = {}
    order: dict[Axis, int] = {}
    for coefficient, axes in monomials:
        kept: list[Axis] = []
        for axis in axes:
            if axis not in seen:
                seen[axis] = _factors(axis)
            number, factors = seen[axis]
            coefficient *= number
            kept.extend(factors)
        for axis in kept:
            order.setdefault(axis, len(order))
        yield coefficient, tuple(sorted(kept, key=order.__getitem__))


def _factors(axis: Axis) -> tuple[int, Axes]:
    """A size as a constant and the factors that can change."""
    if isinstance(axis, Whole) or next(widths_of(axis), None) is None:
        return size_of(axis, {}), ()
    if not isinstance(axis, Product):
        return 1, (axis,)
    number, kept = 1, ()
    for factor in axis.factors:
        inner, more = _factors(factor)
        number, kept = number * inner, kept + more
    return number, kept


def _undominated(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows that no other row exceeds everywhere: sizes are never negative, so the others are never the largest."""
    largest_first = np.argsort(-rows.sum(axis=1, dtype=np.float64), kind="stable")
    kept = rows[:0]
    for row in rows[largest_first]:
        if not (kept >= row).all(axis=1).any():
            kept = np.vstack([kept, row])
    return kept
