"""Where in an axis each unit of a width is.

    qkv.weight axis 0 = Product(3, heads=2, dim=2)   positions of heads:  [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]

A vector over the axis is folded by summing it over these positions: one value a unit. A width whose kept set may differ
under each index of the width outside it gets one row for each of these.

Invariant: every position of an axis occurs exactly once for each width that it depends on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from secateur.core.layout import Along, Axis, Indices, Layout, Product, Sum, Whole, widths_of

Outer = Mapping[str, str]  # ragged width -> the width just outside it


def places(axis: Axis, outer: Outer) -> Iterator[tuple[str, Indices]]:
    """For each occurrence of a width the positions of its units: ``[size, m]``, or ``[outer, size, m]``."""
    yield from _walk(axis, np.arange(axis.size)[:, None], outer)


def crossed(layout: Layout, outer: Outer) -> Iterator[tuple[str, int, int]]:
    """The ragged widths whose outer width is on another axis of the tensor: (width, outer axis, own axis)."""
    for own, axis in enumerate(layout):
        for width in dict.fromkeys(widths_of(axis)):
            around = outer.get(width, "")
            beside = [i for i, other in enumerate(layout) if i != own and around in widths_of(other)]
            if beside and around not in widths_of(axis):
                yield width, beside[0], own


def _walk(axis: Axis, positions: Indices, outer: Outer) -> Iterator[tuple[str, Indices]]:
    match axis:
        case Along():
            yield axis.width, positions
        case Sum():
            start = 0
            for part in axis.parts:
                yield from _walk(part, positions[start : start + part.size], outer)
                start += part.size
        case Product():
            yield from _walk_factors(flat(axis), positions, outer)
        case Whole():
            return


def _walk_factors(factors: tuple[Axis, ...], positions: Indices, outer: Outer) -> Iterator[tuple[str, Indices]]:
    cube = positions.reshape(*(f.size for f in factors), -1)
    for k, factor in enumerate(factors):
        around = [i for i in range(k) if _is_outer(factors[i], factor, outer)]
        if around and isinstance(factor, Along):
            pair = np.moveaxis(cube, (around[-1], k), (0, 1))
            yield factor.width, pair.reshape(*pair.shape[:2], -1)
        elif not isinstance(factor, Whole):
            yield from _walk(factor, np.moveaxis(cube, k, 0).reshape(factor.size, -1), outer)


def _is_outer(candidate: Axis, factor: Axis, outer: Outer) -> bool:
    return isinstance(factor, Along) and isinstance(candidate, Along) and outer.get(factor.width) == candidate.width


def flat(axis: Axis) -> tuple[Axis, ...]:
    """The factors of an axis, products inside products opened."""
    return tuple(f for factor in axis.factors for f in flat(factor)) if isinstance(axis, Product) else (axis,)


def finest(axis: Axis) -> tuple[str, ...]:
    """The names of these widths, each once."""
    match axis:
        case Along():
            return (axis.width,)
        case Sum():
            return tuple(dict.fromkeys(name for part in axis.parts for name in finest(part)))
        case Product():
            inner = [factor for factor in axis.factors if any(True for _ in widths_of(factor))]
            return finest(inner[-1]) if inner else ()
        case _:
            return ()
