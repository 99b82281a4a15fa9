"""Products of axis sizes, written out once as additions and multiplications.

    in × out, (a + b) × out, (a + b + c) × out   ->   a+b, (a+b)+c, three products: every intermediate once

The same tape runs on ints (one candidate, exact at any size) and on int64 arrays (thousands of candidates at once).

Invariant: a value is computed once, however often it occurs; concatenations share their beginnings.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.core.layout import Along, Axis, Product, Sum, Whole
from secateur.errors import InputError


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

    def __call__(self, counts: Mapping[str, Any]) -> list[Any]:
        """The outputs at these counts; a width not named is whole. Raises InputError for what is no integer."""
        values: list[Any] = [*self.constants]
        values.extend(_integer(name, counts[name]) if name in counts else size for name, size in self.inputs)
        for multiply, a, b in self.steps:
            values.append(values[a] * values[b] if multiply else values[a] + values[b])
        return [values[slot] for slot in self.outputs]


def _integer(name: str, count: Any) -> Any:
    if type(count) is int:
        return count
    if isinstance(count, np.ndarray) and count.dtype.kind in "iu":
        return count.astype(np.int64, copy=False)
    try:
        return operator.index(count)
    except TypeError:
        raise InputError(f"{name}: a count must be an integer or an integer array, not {count!r:.80}") from None


Node = tuple[Any, ...]  # ("constant", n), ("width", name, size), ("+" or "×", node number, node number)


class _Writer:
    """Numbers each distinct value; a class because writing one product adds to what the next one may share."""

    def __init__(self) -> None:
        self.nodes: dict[Node, int] = {}
        self.known: dict[Axis, int] = {}

    def write(self, products: Sequence[Sequence[Axis]]) -> Tape:
        outputs = [self._fold("×", [self._axis(axis) for axis in axes], 1) for axes in products]
        kinds = {"constant": 0, "width": 1, "+": 2, "×": 2}
        ordered = sorted(self.nodes, key=lambda node: (kinds[node[0]], self.nodes[node]))
        slot = {self.nodes[node]: i for i, node in enumerate(ordered)}
        return Tape(
            constants=tuple(node[1] for node in ordered if node[0] == "constant"),
            inputs=tuple((node[1], node[2]) for node in ordered if node[0] == "width"),
            steps=tuple((n[0] == "×", slot[n[1]], slot[n[2]]) for n in ordered if n[0] in "+×"),
            outputs=tuple(slot[number] for number in outputs),
        )

    def _node(self, node: Node) -> int:
        return self.nodes.setdefault(node, len(self.nodes))

    def _axis(self, axis: Axis) -> int:
        if axis not in self.known:
            self.known[axis] = self._new(axis)
        return self.known[axis]

    def _new(self, axis: Axis) -> int:
        match axis:
            case Whole():
                return self._node(("constant", axis.size))
            case Along():
                return self._node(("width", axis.width, axis.size))
            case Product():
                return self._fold("×", [self._axis(factor) for factor in axis.factors], 1)
            case Sum():
                return self._fold("+", [self._axis(part) for part in axis.parts], 0)

    def _fold(self, symbol: str, numbers: list[int], neutral: int) -> int:
        if not numbers:
            return self._node(("constant", neutral))
        total, *rest = numbers
        for number in rest:
            total = self._node((symbol, total, number))
        return total
