"""What a network costs as a function of its widths, and which module pays for it.

    macs of conv1 = 1·h·w·9 × in × out          one term an operator, written while tracing, under the module it ran in

A `Cost` is a protocol: a value for a candidate or for thousands of them at once, and the share of each module. A candidate
is ``{width: kept}``, a batch of candidates is ``{width: integer array}``. Two come with Secateur: a `Polynomial` sums
coefficient × product of axis sizes, a `Peak` is the largest running total of allocations and releases.

Invariant: evaluated on a plan, a cost equals, to the integer, what a trace of the narrowed model counts; the shares of the
modules sum to the value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from secateur.core.layout import Axis, Product, Whole, settled, size_of, widths_of
from secateur.core.tape import Counts, Integers, Tape

Axes = tuple[Axis, ...]
Amount = int | float | NDArray[np.int64] | NDArray[np.float64]  # of one candidate, or of a batch of them


@runtime_checkable
class Cost(Protocol):
    """What a network costs: anything with these three. Measured times fit in as well as counted operations."""

    @property
    def monotone(self) -> bool:
        """Whether a wider network never costs less. A search relies on it, and a cost that is not cannot be a budget."""
        ...

    def value(self, counts: Counts) -> Amount:
        """The cost at these counts; a width not named is whole. Arrays of counts give an array of costs."""
        ...

    def by_module(self, counts: Mapping[str, int]) -> dict[str, int] | dict[str, float]:
        """The share of each module, by dotted name, in one network; together they are its value."""
        ...


class Term(NamedTuple):
    """Coefficient × product of axis sizes, paid for by a module (``""`` is the whole model)."""

    coefficient: int
    axes: Axes
    module: str = ""


Monomial = tuple[int, Axes] | tuple[int, Axes, str]  # a Term as it is written down


@dataclass(frozen=True)
class Polynomial:
    """Sum of terms, each module's in lowest terms."""

    terms: tuple[Term, ...]

    @classmethod
    def of(cls, monomials: Iterable[Monomial]) -> Polynomial:
        """Collect the like terms of each module."""
        collected: dict[tuple[Axes, str], int] = {}
        for coefficient, axes, module in _simplified(monomials):
            collected[axes, module] = collected.get((axes, module), 0) + coefficient
        return cls(tuple(Term(number, axes, module) for (axes, module), number in collected.items() if number))

    @property
    def monotone(self) -> bool:
        """Sizes are never negative, so it is where no coefficient is."""
        return all(term.coefficient >= 0 for term in self.terms)

    @cached_property
    def _sum(self) -> tuple[list[int], Tape]:
        """Coefficients and distinct products: who pays plays no part in a value, so modules share their products."""
        collected: dict[Axes, int] = {}
        for coefficient, axes, _ in self.terms:
            collected[axes] = collected.get(axes, 0) + coefficient
        return list(collected.values()), Tape.of(list(collected))

    def value(self, counts: Counts) -> Integers:
        """The value at these widths: an int, or an int64 array where the counts are arrays."""
        coefficients, tape = self._sum
        total: Integers = 0
        for coefficient, size in zip(coefficients, tape(counts), strict=True):
            total = total + coefficient * size
        return total

    def at(self, sizes: Mapping[str, int]) -> Polynomial:
        """The same cost where these widths have these sizes and are no widths any more."""
        return Polynomial.of(
            (n, tuple(settled(axis, sizes) for axis in axes), module) for n, axes, module in self.terms
        )

    def by_module(self, counts: Mapping[str, int]) -> dict[str, int]:
        """What the terms of each module sum to."""
        return _totals((term.module, _at(term, counts)) for term in self.terms)


@dataclass(frozen=True)
class Peak:
    """Largest running total of events; each event adds or releases coefficient × product of sizes."""

    terms: tuple[Term, ...]

    @classmethod
    def of(cls, monomials: Iterable[Monomial]) -> Peak:
        """Keep the order, which is what a peak is about; an event of no bytes is none."""
        return cls(tuple(term for term in _simplified(monomials) if term.coefficient))

    @property
    def monotone(self) -> bool:
        """It is where no running total has a product that more was released of than allocated."""
        return bool((self._tops[1] >= 0).all())

    @cached_property
    def _tops(self) -> tuple[Tape, NDArray[np.int64]]:
        """The distinct products, and their coefficients in each running total that can be the largest."""
        column = {axes: i for i, axes in enumerate(dict.fromkeys(term.axes for term in self.terms))}
        running = np.zeros(len(column), dtype=np.int64)
        tops: list[NDArray[np.int64]] = []
        for i, (coefficient, axes, _) in enumerate(self.terms):
            running[column[axes]] += coefficient
            falls_next = i + 1 == len(self.terms) or self.terms[i + 1].coefficient < 0
            if coefficient > 0 and falls_next:
                tops.append(running.copy())
        return Tape.of(list(column)), _undominated(np.array(tops, dtype=np.int64).reshape(len(tops), len(column)))

    def value(self, counts: Counts) -> Integers:
        """The value at these widths: an int, or an int64 array where the counts are arrays."""
        tape, tops = self._tops
        sizes = tape(counts)
        if any(isinstance(size, np.ndarray) for size in sizes):
            sizes = np.broadcast_arrays(*sizes)
        highest = (tops @ np.array(sizes, dtype=np.int64)).max(axis=0, initial=0)
        return highest if highest.ndim else int(highest)

    def by_module(self, counts: Mapping[str, int]) -> dict[str, int]:
        """What each module holds at the moment of the peak."""
        changes = [_at(term, counts) for term in self.terms]
        running = list(accumulate(changes, initial=0))
        top = running.index(max(running))
        held = _totals((term.module, change) for term, change in zip(self.terms[:top], changes, strict=False))
        return {module: amount for module, amount in held.items() if amount}


def _at(term: Term, counts: Mapping[str, int]) -> int:
    return math.prod((size_of(axis, counts) for axis in term.axes), start=term.coefficient)


def _totals(amounts: Iterable[tuple[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for module, amount in amounts:
        totals[module] = totals.get(module, 0) + amount
    return totals


def _simplified(monomials: Iterable[Monomial]) -> Iterator[Term]:
    """Constants folded into coefficients, products into their factors, factors in a canonical order."""
    seen: dict[tuple[int, ...], tuple[int, Axes]] = {}  # by identity: what is allocated is released, of the same axes
    order: dict[Axis, int] = {}
    held: list[Axes] = []  # so that an identity stays theirs
    for monomial in monomials:
        coefficient, axes, module = Term(monomial[0], monomial[1], *monomial[2:])
        key = tuple(map(id, axes))
        if key not in seen:
            held.append(axes)
            seen[key] = _canonical(axes, order)
        number, kept = seen[key]
        yield Term(coefficient * number, kept, module)


def _canonical(axes: Axes, order: dict[Axis, int]) -> tuple[int, Axes]:
    number, kept = 1, []
    for axis in axes:
        constant, factors = _factors(axis)
        number *= constant
        kept.extend(factors)
    for axis in kept:
        order.setdefault(axis, len(order))
    return number, tuple(sorted(kept, key=order.__getitem__)) if len(kept) > 1 else tuple(kept)


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
