"""Integers that remember where they came from.

    self.num_heads * self.head_dim   ->   Sized(768, ("*", attribute num_heads, attribute head_dim))

While tracing, the integers a module holds and the sizes read from tensors are `Sized`: an ``int`` that carries its
expression through ``+ - * // %``. Where such an integer arrives as a size, the tracer records an equation.

Invariant: a Sized compares, hashes, prints and pickles as the plain integer it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any, Protocol

from torch import nn

from secateur.core.equations import OPERATORS, Attribute
from secateur.core.space import Space

# An int, an Attribute, a Space, or (symbol, left, right).
Origin = Any

TORCH_SIZES = frozenset(
    [
        "groups",
        "num_groups",
        "normalized_shape",
        "embed_dim",
        "num_heads",
        "head_dim",
        "kdim",
        "vdim",
        "hidden_size",
        "unflattened_size",
    ]
)
CONFIG_NAMES = frozenset({"config", "cfg", "args", "hparams", "opt", "options"})
CONFIG_SUFFIXES = ("Config", "Args", "Namespace", "Params")


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

    def __truediv__(self, other: Any) -> Any:
        self.float_use()
        return int.__truediv__(int.__index__(self), _plain(other))

    def __rtruediv__(self, other: Any) -> Any:
        self.float_use()
        return _plain(other) / int.__index__(self)

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        self.float_use()
        return pow(int.__index__(self), _plain(other))

    def __eq__(self, other: Any) -> bool:
        same = int.__eq__(self, other)
        if isinstance(other, Sized):
            self.listener.compared(self.origin, other.origin, equal=same)
        return same

    def __ne__(self, other: Any) -> bool:
        return not self.__eq__(other)

    __hash__ = int.__hash__

    def __neg__(self) -> Sized:
        return Sized(-int.__index__(self), ("-", 0, self.origin), self.listener)


def origin_of(value: int) -> Origin:
    """The expression an integer stands for; a plain integer stands for itself."""
    return value.origin if isinstance(value, Sized) else int(value)


def _plain(value: Any) -> Any:
    return int.__index__(value) if isinstance(value, Sized) else value


def _install(symbol: str, method: str) -> None:
    compute = OPERATORS[symbol]

    def forward(self: Sized, other: Any) -> Any:
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

    def backward(self: Sized, other: Any) -> Any:
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


@contextmanager
def sized_attributes(model: nn.Module, listener: Listener) -> Iterator[dict[Attribute, int]]:
    """Replace the integers that modules hold by Sized ones; yields their values. Everything is put back by the caller's
    snapshot (see `secateur.torch.untouched`)."""
    values: dict[Attribute, int] = {}

    def wrap(value: Any, module: str, path: str, depth: int) -> Any:
        if type(value) is int and value > 1:
            attribute = Attribute(module, path)
            values[attribute] = value
            return Sized(value, attribute, listener)
        if isinstance(value, (tuple, list)) and type(value) in (tuple, list) and _few_integers(value):
            return type(value)(wrap(v, module, f"{path}[{i}]", depth) for i, v in enumerate(value))
        if depth < 2 and _is_config(path.rpartition(".")[2], value):
            twin = shallow_copy(value)
            twin.__dict__.update(
                {k: wrap(v, module, f"{path}.{k}", depth + 1) for k, v in vars(value).items() if isinstance(k, str)}
            )
            return twin
        return value

    for name, module in model.named_modules():
        builtin = type(module).__module__.startswith("torch.nn.modules")
        for key, value in list(vars(module).items()):
            if builtin and key not in TORCH_SIZES:
                continue
            if key.startswith("_") and key[1:2] != "" and type(value) is not int:
                continue
            wrapped = wrap(value, name, key, 0)
            if wrapped is not value:
                module.__dict__[key] = wrapped
    yield values


def _few_integers(values: Sequence[Any]) -> bool:
    return 0 < len(values) <= 8 and all(type(v) is int for v in values)


def shallow_copy(value: Any) -> Any:
    """Another object with the same attributes; no constructor is run where that can be avoided."""
    try:
        made = object.__new__(type(value))
    except TypeError:
        return copy.copy(value)
    made.__dict__.update(vars(value))
    return made


def _is_config(name: str, value: Any) -> bool:
    if isinstance(value, (nn.Module, type)) or not hasattr(value, "__dict__") or callable(value):
        return False
    return name in CONFIG_NAMES or type(value).__name__.endswith(CONFIG_SUFFIXES) or is_dataclass(value)


def spaces_in(origin: Origin) -> list[Space]:
    """The spaces an expression reads directly."""
    if isinstance(origin, Space):
        return [origin]
    if isinstance(origin, tuple):
        return spaces_in(origin[1]) + spaces_in(origin[2])
    return []
