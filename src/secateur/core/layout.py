"""What an axis of a tensor is made of, once the trace is over, and which of its indices a plan keeps.

    qkv.weight axis 0  =  Product(Whole(3), Along("attn.num_heads"), Along("attn.head_dim"))

An axis is a `Whole` (never narrowed), a `Along` (one width), a `Product` (row-major) or a `Sum` (concatenated). Kept sets
are sorted integer arrays; an inner width may keep another set under each index of the width just outside it, then its
kept set is a matrix ``[outer size, kept]``.

Invariant: ``len(kept_indices(axis, kept)) == size_of(axis, {width: number kept})``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.core.json import Json

Indices = NDArray[np.int64]


Kept = Mapping[str, Indices]


@dataclass(frozen=True, slots=True)
class Whole:
    """A dimension that is never narrowed."""

    size: int


@dataclass(frozen=True, slots=True)
class Along:
    """A dimension that is exactly one width."""

    width: str
    size: int


@dataclass(frozen=True, slots=True)
class Product:
    """Row-major product of dimensions, outermost first."""

    factors: tuple[Axis, ...]

    @property
    def size(self) -> int:
        return math.prod(f.size for f in self.factors)


@dataclass(frozen=True, slots=True)
class Sum:
    """Concatenation of dimensions."""

    parts: tuple[Axis, ...]

    @property
    def size(self) -> int:
        return sum(p.size for p in self.parts)


Axis = Whole | Along | Product | Sum


Layout = tuple[Axis, ...]


def alongs_of(axis: Axis) -> Iterator[Along]:
    """The units in an axis, outermost first, repeated where they repeat."""
    match axis:
        case Along():
            yield axis
        case Product():
            for factor in axis.factors:
                yield from alongs_of(factor)
        case Sum():
            for part in axis.parts:
                yield from alongs_of(part)
        case Whole():
            return


def widths_of(axis: Axis) -> Iterator[str]:
    """The names of the widths in an axis, outermost first, repeated where they repeat."""
    return (unit.width for unit in alongs_of(axis))


def has_widths(layout: Layout) -> bool:
    """Whether any axis of a tensor is made of widths: only then can a plan narrow it."""
    return any(True for axis in layout for _ in widths_of(axis))


def size_of(axis: Axis, counts: Mapping[str, int]) -> int:
    """The size of an axis when each width keeps this many; widths not named keep all. For many candidates see `Tape`."""
    match axis:
        case Whole():
            return axis.size
        case Along():
            return counts.get(axis.width, axis.size)
        case Product():
            return math.prod(size_of(factor, counts) for factor in axis.factors)
        case Sum():
            return sum(size_of(part, counts) for part in axis.parts)


def settled(axis: Axis, sizes: Mapping[str, int]) -> Axis:
    """The axis with these sizes written in where their widths were."""
    match axis:
        case Along() if axis.width in sizes:
            return Whole(sizes[axis.width])
        case Product():
            return Product(tuple(settled(factor, sizes) for factor in axis.factors))
        case Sum():
            return Sum(tuple(settled(part, sizes) for part in axis.parts))
        case _:
            return axis


def kept_indices(axis: Axis, kept: Kept) -> Indices:
    """The indices of an axis that survive, in order, as a vector."""
    match axis:
        case Whole():
            return np.arange(axis.size)
        case Along():
            found = kept.get(axis.width)
            if found is None:
                return np.arange(axis.size)
            return found if found.ndim == 1 else np.unique(found)
        case Product():
            return _kept_of_product(axis, kept)
        case Sum():
            pieces, start = [], 0
            for part in axis.parts:
                pieces.append(kept_indices(part, kept) + start)
                start += part.size
            return np.concatenate(pieces)


def touches(axis: Axis, kept: Kept) -> bool:
    """Whether any width of this axis is narrowed by these kept sets."""
    return any(name in kept for name in widths_of(axis))


def _kept_of_product(axis: Product, kept: Kept) -> Indices:
    combined = np.zeros(1, dtype=np.int64)
    outer: Indices | None = None  # the index of the factor just outside, for each combination so far
    for factor in axis.factors:
        ragged = kept.get(factor.width) if isinstance(factor, Along) else None
        if ragged is not None and ragged.ndim == 2 and outer is not None and len(ragged) > outer.max(initial=-1):
            inner = ragged[outer]
        else:
            inner = np.broadcast_to(kept_indices(factor, kept), (len(combined), len(kept_indices(factor, kept))))
        combined = (combined[:, None] * factor.size + inner).reshape(-1)
        outer = inner.reshape(-1)
    return combined


def to_json(axis: Axis) -> Json:
    """Compact and readable: ``3``, ``["w", 64]``, ``["*", …]``, ``["+", …]``."""
    match axis:
        case Whole():
            return axis.size
        case Along():
            return [axis.width, axis.size]
        case Product():
            return ["*", *map(to_json, axis.factors)]
        case Sum():
            return ["+", *map(to_json, axis.parts)]


def from_json(data: object) -> Axis:
    """The axis that `to_json` wrote. Raises ValueError for anything else."""
    match data:
        case bool():
            pass
        case int() if data >= 0:
            return Whole(data)
        case ["*", *factors] if len(factors) > 1:
            return Product(tuple(map(from_json, factors)))
        case ["+", *parts] if len(parts) > 1:
            return Sum(tuple(map(from_json, parts)))
        case [str() as width, int() as size] if size > 0 and size is not True and width not in ("*", "+"):
            return Along(width, size)
        case _:
            pass
    raise ValueError(f"not an axis: {str(data)[:80]}")


Values = NDArray[np.float64]
