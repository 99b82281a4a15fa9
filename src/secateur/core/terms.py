"""Sums and products of sizes, without what cancels.

    (i + 1) * dh - i * dh   ──►   dh          1 * d   ──►   d          (a + b) - a   ──►   b          (h * dh) // h   ──►   dh

A slice in a loop over heads is as long as one head, whichever head it is.

Invariant: what comes out is equal to what was put together, whatever sizes its parts have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Origin = Any  # an int, an Attribute, a Space, or (symbol, left, right)
_Product = tuple[int, ...]  # of atoms by number, in order, each as often as it is a factor

_MOST = 32  # products in a sum: of more, nothing is simplified


@dataclass(frozen=True, slots=True)
class _Sum:
    """Products of atoms, and how many times each."""

    times: Mapping[_Product, int]


def put_together(symbol: str, left: Origin, right: Origin) -> Origin:
    """``left symbol right``, simplified where something cancels."""
    plain = (symbol, left, right)
    if isinstance(left, int) and isinstance(right, int):
        return plain
    if symbol == "*":
        return left if _is_one(right) else right if _is_one(left) else plain
    atoms = _Atoms()
    if symbol == "//":
        return _quotient(atoms, plain)
    one, other = atoms.sum_of(left), atoms.sum_of(right)
    if symbol == "%" or one is None or other is None:
        return plain
    sign = 1 if symbol == "+" else -1
    whole = dict(one.times)
    for product, times in other.times.items():
        whole[product] = whole.get(product, 0) + sign * times
    whole = {product: times for product, times in whole.items() if times}
    added = sum(map(abs, (*one.times.values(), *other.times.values())))
    return atoms.written(_Sum(whole)) if sum(map(abs, whole.values())) < added else plain


def _is_one(origin: Origin) -> bool:
    return isinstance(origin, int) and origin == 1


def _quotient(atoms: _Atoms, plain: tuple[str, Origin, Origin]) -> Origin:
    _, left, right = plain
    one, other = atoms.sum_of(left), atoms.sum_of(right)
    if one is None or other is None or len(other.times) != 1:
        return plain
    ((divisor, count),) = other.times.items()
    rest: dict[_Product, int] = {}
    for product, times in one.times.items():
        left_over = _without(product, divisor)
        if left_over is None or count <= 0 or times % count:
            return plain
        rest[left_over] = times // count
    return atoms.written(_Sum(rest))


def _without(product: _Product, divisor: _Product) -> _Product | None:
    left = list(product)
    for factor in divisor:
        if factor not in left:
            return None
        left.remove(factor)
    return tuple(left)


class _Atoms:
    """What is neither sum nor product, by number. State, because expressions are read one after the other."""

    def __init__(self) -> None:
        self.found: list[Origin] = []
        self.number: dict[Any, int] = {}

    def sum_of(self, origin: Origin) -> _Sum | None:
        """An expression as a sum of products; None where that is too long."""
        if isinstance(origin, int):
            return _Sum({(): int(origin)} if origin else {})
        if not isinstance(origin, tuple) or origin[0] not in ("+", "-", "*"):
            return _Sum({(self._number_of(origin),): 1})
        left, right = self.sum_of(origin[1]), self.sum_of(origin[2])
        if left is None or right is None or len(left.times) * len(right.times) > _MOST:
            return None
        found: dict[_Product, int] = {}
        if origin[0] == "*":
            for one, times in left.times.items():
                for other, more in right.times.items():
                    product = tuple(sorted((*one, *other)))
                    found[product] = found.get(product, 0) + times * more
        else:
            found.update(left.times)
            for other, more in right.times.items():
                found[other] = found.get(other, 0) + (more if origin[0] == "+" else -more)
        return _Sum({product: times for product, times in found.items() if times}) if len(found) <= _MOST else None

    def written(self, total: _Sum) -> Origin:
        """A sum as an expression again."""
        plus = [self._product(product, times) for product, times in total.times.items() if times > 0]
        minus = [self._product(product, -times) for product, times in total.times.items() if times < 0]
        found: Origin = 0 if not plus else plus[0]
        for term in plus[1:]:
            found = ("+", found, term)
        for term in minus:
            found = ("-", found, term)
        return found

    def _product(self, product: _Product, times: int) -> Origin:
        if not product:
            return times
        found = self.found[product[0]]
        for factor in product[1:]:
            found = ("*", found, self.found[factor])
        return found if times == 1 else ("*", times, found)

    def _number_of(self, atom: Origin) -> int:
        key = _key(atom)
        if key not in self.number:
            self.number[key] = len(self.found)
            self.found.append(atom)
        return self.number[key]


def _key(origin: Origin) -> Any:
    """What two equal atoms have in common."""
    if isinstance(origin, tuple):
        return (origin[0], _key(origin[1]), _key(origin[2]))
    root = getattr(origin, "root", None)
    return ("a space", id(root())) if root is not None else origin
