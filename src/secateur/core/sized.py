"""Integers that remember where they came from.

    self.num_heads * self.head_dim   ->   Sized(768, ("*", attribute num_heads, attribute head_dim))

A `Sized` is an ``int`` that carries its expression through ``+ - * // %``. Where it arrives as the size of a dimension, the
tracer records an equation.

Invariant: a Sized compares, hashes, prints and pickles as the plain integer it is.
"""

from __future__ import annotations

from typing import Any, Protocol

from secateur.core.equations import OPERATORS
from secateur.core.space import Space

# An int, an Attribute, a Space, or (symbol, left, right).
Origin = Any


class Listener(Protocol):
    """Who wants to know what the code does with its integers."""

    def float_use(self, origin: Origin) -> None:
        """The number was used as a number: divided, raised, turned into a float."""
        ...

    def compared(self, a: Origin, b: Origin, *, equal: bool) -> None:
        """The code compared two sizes."""
        ...


class Sized(int):
    """An integer with its origin. ``listener`` is told when the number leaves the integers or equals another Sized."""

    origin: Origin
    listener: Listener

    def __new__(cls, value: int, origin: Origin, listener: Listener) -> Sized:
        made = super().__new__(cls, value)
        made.origin = origin
        made.listener = listener
        return made

    def float_use(self) -> None:
        self.listener.float_use(self.origin)

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, (int.__index__(self),))

    def __copy__(self) -> int:
        return int.__index__(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> int:
        return int.__index__(self)

    def __float__(self) -> float:
        self.float_use()
        return int.__float__(self)

    def __truediv__(self, other: object) -> Any:
        self.float_use()
        return int.__truediv__(int.__index__(self), _plain(other))

    def __rtruediv__(self, other: object) -> Any:
        self.float_use()
        return _plain(other) / int.__index__(self)

    def __pow__(self, other: object, modulus: object = None) -> Any:
        self.float_use()
        return pow(int.__index__(self), _plain(other))

    def __eq__(self, other: object) -> bool:
        same = int.__eq__(self, other)
        if isinstance(other, Sized):
            self.listener.compared(self.origin, other.origin, equal=same)
        return same

    def __ne__(self, other: object) -> bool:
        return not self.__eq__(other)

    __hash__ = int.__hash__

    def __neg__(self) -> Sized:
        return Sized(-int.__index__(self), ("-", 0, self.origin), self.listener)


def origin_of(value: int) -> Origin:
    """The expression an integer stands for; a plain integer stands for itself."""
    return value.origin if isinstance(value, Sized) else int(value)


def _plain(value: object) -> Any:
    return int.__index__(value) if isinstance(value, Sized) else value


def _install(symbol: str, method: str) -> None:
    compute = OPERATORS[symbol]

    def forward(self: Sized, other: object) -> Any:
        if type(other) is float:
            self.float_use()
        if not isinstance(other, int):
            return (
                getattr(int.__index__(self), f"__{method}__")(other)
                if not isinstance(other, float)
                else compute(
                    int.__index__(self),
                    other,  # type: ignore[arg-type]
                )
            )
        value = compute(int.__index__(self), int.__index__(other))
        return Sized(value, (symbol, self.origin, origin_of(other)), self.listener)

    def backward(self: Sized, other: object) -> Any:
        if type(other) is float:
            self.float_use()
            return compute(other, int.__index__(self))  # type: ignore[arg-type]
        if not isinstance(other, int):
            return NotImplemented
        value = compute(int.__index__(other), int.__index__(self))
        return Sized(value, (symbol, origin_of(other), self.origin), self.listener)

    setattr(Sized, f"__{method}__", forward)
    setattr(Sized, f"__r{method}__", backward)


for _symbol, _method in (("+", "add"), ("-", "sub"), ("*", "mul"), ("//", "floordiv"), ("%", "mod")):
    _install(_symbol, _method)


def spaces_in(origin: Origin) -> list[Space]:
    """The spaces an expression reads directly."""
    if isinstance(origin, Space):
        return [origin]
    if isinstance(origin, tuple):
        return spaces_in(origin[1]) + spaces_in(origin[2])
    return []
