"""Integers that remember where they came from.

    self.num_heads * self.head_dim   ->   Sized(768, ("*", attribute num_heads, attribute head_dim))

A `Sized` is an ``int`` that carries its expression through ``+ - * // %``, without what cancels. Where it arrives as the size
of a dimension, the tracer records an equation.

Invariant: a Sized compares, hashes, prints and pickles as the plain integer it is.
"""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import numpy as np

from secateur.core.equations import OPERATORS
from secateur.core.messages import is_message
from secateur.core.space import Space, is_frozen
from secateur.core.terms import put_together

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_LOOKUPS = frozenset({"CONTAINS_OP", "BINARY_SUBSCR", "BINARY_OP"})

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

    def branched(self, a: Origin, symbol: str, b: Origin, *, outcome: bool) -> None:
        """The code asked how a size compares with a number, and may have gone one way because of the answer."""
        ...

    def lost(self, origin: Origin, how: str) -> None:
        """The number went where its way cannot be followed: into text, bits, a key."""
        ...


class Sized(int):
    """An integer with its origin. ``listener`` is told when the number leaves the integers or equals another Sized."""

    origin: Origin
    listener: Listener

    def __new__(cls, value: int, origin: Origin = None, listener: Listener | None = None) -> Any:
        if listener is None:  # code that makes "another of the same type": statistics.mean does
            return int(value)
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
            if same:
                self.listener.branched(self.origin, "==", other.origin, outcome=True)
        elif isinstance(other, (int, float)):
            self.listener.branched(self.origin, "==", other, outcome=same)
        return same

    def __ne__(self, other: object) -> bool:
        return not self.__eq__(other)

    def __hash__(self) -> int:
        frame = sys._getframe(1)
        if frame.f_code.co_name == "_apply_recipe" and frame.f_globals.get("__name__") == "einops.einops":
            raise TypeError("a symbol")  # einops then calculates with it, where it would ask its cache
        if _looks_up(frame):
            self.listener.lost(self.origin, "it is looked up in a table")
        return int.__hash__(self)

    def __bool__(self) -> bool:
        outcome = int.__bool__(self)
        self.listener.branched(self.origin, "==", 0, outcome=not outcome)
        return outcome

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
        self.float_use()
        return getattr(function, method)(*map(_plain, inputs), **options)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        self.float_use()
        return np.asarray(int.__index__(self), dtype=dtype)

    def __format__(self, how: str) -> str:
        if not is_message(sys._getframe(1)):
            self.listener.lost(self.origin, "text is made of it")
        return format(int.__index__(self), how)

    def __str__(self) -> str:
        if not is_message(sys._getframe(1)):
            self.listener.lost(self.origin, "text is made of it")
        return int.__repr__(self)

    def bit_length(self) -> int:
        self.listener.lost(self.origin, "its bits are read")
        return int.bit_length(self)

    def __pos__(self) -> Sized:
        return self

    __floor__ = __ceil__ = __trunc__ = __pos__

    def __abs__(self) -> Sized:
        return self if self >= 0 else -self

    def __round__(self, digits: Any = None, /) -> int:
        if digits is not None and digits < 0:
            self.listener.lost(self.origin, "it is rounded")
            return int.__round__(self, digits)
        return self

    def __neg__(self) -> Sized:
        return Sized(-int.__index__(self), ("-", 0, self.origin), self.listener)


class SizedNumber(Sized):
    """One that stands for an integer of NumPy's, and can what such a one can."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        self.listener.lost(self.origin, "it is taken as a number of NumPy's")
        return getattr(np.int64(int.__index__(self)), name)


def _looks_up(frame: FrameType) -> bool:
    """Whether a frame is about to look something up: it may miss, and then nothing is compared. What a cache does is no
    part of the code's course, so calls are none, but those of ``table.get(size)``."""
    module = str(frame.f_globals.get("__name__")).partition(".")[0]
    if module in ("torch", "secateur"):
        return False
    instruction = dis.opname[frame.f_code.co_code[frame.f_lasti]]
    return instruction in _LOOKUPS or ("CALL" in instruction and "get" in frame.f_code.co_names)


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
        return Sized(value, put_together(symbol, self.origin, origin_of(other)), self.listener)

    def backward(self: Sized, other: object) -> Any:
        if type(other) is float:
            self.float_use()
            return compute(other, int.__index__(self))  # type: ignore[arg-type]
        if not isinstance(other, int):
            return NotImplemented
        value = compute(int.__index__(other), int.__index__(self))
        return Sized(value, put_together(symbol, origin_of(other), self.origin), self.listener)

    setattr(Sized, f"__{method}__", forward)
    setattr(Sized, f"__r{method}__", backward)


for _symbol, _method in (("+", "add"), ("-", "sub"), ("*", "mul"), ("//", "floordiv"), ("%", "mod")):
    _install(_symbol, _method)


def _install_comparison(symbol: str, method: str) -> None:
    compute = COMPARISONS[symbol]

    def compare(self: Sized, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        outcome = bool(compute(int.__index__(self), _plain(other)))
        to = other if isinstance(other, float) else origin_of(other)
        self.listener.branched(self.origin, symbol, to, outcome=outcome)
        return outcome

    setattr(Sized, f"__{method}__", compare)


def _install_bits(method: str) -> None:
    def forward(self: Sized, other: Any) -> Any:
        self.listener.lost(self.origin, "its bits are read")
        return getattr(int, f"__{method}__")(int.__index__(self), _plain(other))

    def backward(self: Sized, other: Any) -> Any:
        self.listener.lost(self.origin, "its bits are read")
        return getattr(int, f"__{method}__")(_plain(other), int.__index__(self))

    setattr(Sized, f"__{method}__", forward)
    setattr(Sized, f"__r{method}__", backward)


for _symbol, _method in (("<", "lt"), ("<=", "le"), (">", "gt"), (">=", "ge")):
    _install_comparison(_symbol, _method)
for _method in ("and", "or", "xor", "lshift", "rshift"):
    _install_bits(_method)


def spaces_in(origin: Origin) -> list[Space]:
    """The spaces an expression reads directly."""
    if isinstance(origin, Space):
        return [origin]
    if isinstance(origin, tuple):
        return spaces_in(origin[1]) + spaces_in(origin[2])
    return []


def is_of_input(value: object) -> bool:
    """Whether a number is made of sizes that no plan changes: another input may bring another number."""
    said = spaces_in(value.origin) if isinstance(value, Sized) else []
    return bool(said) and all(map(is_frozen, said))
