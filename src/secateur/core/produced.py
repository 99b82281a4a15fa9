"""Which widths an axis is pruned by: the finest that it is made of.

    Product(groups, channels of a group)  ->  channels of a group        Sum(a, b)  ->  a, b

Invariant: taking units of these widths alone can reach any share of the axis, to within a unit.
"""

from __future__ import annotations

from secateur.core.layout import Axis, Product, Sum, Unit, widths_of


def finest(axis: Axis) -> tuple[str, ...]:
    """The names of these widths, each once."""
    match axis:
        case Unit():
            return (axis.width,)
        case Sum():
            return tuple(dict.fromkeys(name for part in axis.parts for name in finest(part)))
        case Product():
            inner = [factor for factor in axis.factors if any(True for _ in widths_of(factor))]
            return finest(inner[-1]) if inner else ()
        case _:
            return ()
