"""Products of axis sizes, written out once as additions and multiplications.

    in × out, (a + b) × out, (a + b + c) × out   ->   a+b, (a+b)+c, three products: every intermediate once

The same tape runs on ints (one candidate, exact at any size) and on int64 arrays (thousands of candidates at once).

Invariant: a value is computed once, however often it occurs; concatenations share their beginnings.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.core.layout import Along, Axis, Product, Sum, Whole
from secateur.errors import InputError

Integers = int | NDArray[np.int64]  # of one candidate, or of a batch of them
Counts = Mapping[str, int | NDArray[np.integer]]  # width name -> how many units it keeps


@dataclass(frozen=True, slots=True)
class Tape:
    """Slots hold first the constants, then the widths, then the result of each step; ``outputs`` are slots."""

    constants: tuple[int, ...]
    inputs: tuple[tuple[str, int], ...]
    steps: tuple[tuple[bool, int, int], ...]  # (multiply?, slot, slot)
    outputs: tuple[int, ...]

    @classmethod
    def of(cls, products: Sequence[Sequence[Axis]]) -> Tape:
        """The tape whose outputs are the sizes of these products of axes."""
        return _Writer().write(products)

    def __call__(self, counts: Counts) -> list[Integers]:
        """The outputs at these counts; a width not named is whole. Raises InputError for what is no integer."""
        values: list[Integers] = [*self.constants]
        values.extend(_integer(name, counts[name]) if name in counts else size for name, size in self.inputs)
        for multiply, a, b in self.steps:
            values.append(values[a] * values[b] if multiply else values[a] + values[b])
        return [values[slot] for slot in self.outputs]


def _integer(name: str, count: object) -> Integers:
    if type(count) is int:
        return count
    if isinstance(count, np.ndarray) and count.dtype.kind in "iu":
        return count.astype(np.int64, copy=False)
    try:
        return operator.index(count)  # type: ignore[arg-type]  what has no index is told so below
    except TypeError:
        raise InputError(f"{name}: a count must be an integer or an integer array, not {count!r:.80}") from None


class _Writer:
    """Numbers each distinct value; a class because writing one product adds to what the next one may share."""

    def __init__(self) -> None:
        self.constants: dict[int, int] = {}
        self.inputs: dict[tuple[str, int], int] = {}
        self.steps: dict[tuple[bool, int, int], int] = {}
        self.known: dict[Axis, int] = {}

    def write(self, products: Sequence[Sequence[Axis]]) -> Tape:
        outputs = [self._fold([self._axis(axis) for axis in axes], multiply=True) for axes in products]
        numbers = [*self.constants.values(), *self.inputs.values(), *self.steps.values()]
        slot = {number: i for i, number in enumerate(numbers)}
        return Tape(
            constants=tuple(self.constants),
            inputs=tuple(self.inputs),
            steps=tuple((multiply, slot[a], slot[b]) for multiply, a, b in self.steps),
            outputs=tuple(slot[number] for number in outputs),
        )

    @property
    def _next(self) -> int:
        return len(self.constants) + len(self.inputs) + len(self.steps)

    def _axis(self, axis: Axis) -> int:
        if axis not in self.known:
            self.known[axis] = self._new(axis)
        return self.known[axis]

    def _new(self, axis: Axis) -> int:
        match axis:
            case Whole():
                return self.constants.setdefault(axis.size, self._next)
            case Along():
                return self.inputs.setdefault((axis.width, axis.size), self._next)
            case Product():
                return self._fold([self._axis(factor) for factor in axis.factors], multiply=True)
            case Sum():
                return self._fold([self._axis(part) for part in axis.parts], multiply=False)

    def _fold(self, numbers: list[int], *, multiply: bool) -> int:
        if not numbers:
            return self.constants.setdefault(1 if multiply else 0, self._next)
        total, *rest = numbers
        for number in rest:
            total = self.steps.setdefault((multiply, total, number), self._next)
        return total
