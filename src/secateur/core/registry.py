"""Things with a name that others may add to: criteria, allocations, modes.

    CRITERIA = Registry("criterion")
    @CRITERIA.add("l1")
    class L1: ...

Invariant: a name has one owner; a second one is refused, and both are named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, cast

from secateur.errors import ConfigError, InputError, nearest

T = TypeVar("T")
U = TypeVar("U")


class Registry(Generic[T]):
    """A dictionary that only grows; state, because modules add to it while they are imported."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, T] = {}

    def add(self, name: str) -> Callable[[U], U]:
        """A decorator that registers what it decorates, and keeps its type. Raises InputError if the name is taken."""

        def register(entry: U) -> U:
            holder = self._entries.get(name)
            if holder is not None and _owner(holder) != _owner(entry):
                raise InputError(
                    f"{self.what} {name!r} is {_owner(holder)} already; {_owner(entry)} needs another name"
                )
            self._entries[name] = cast(T, entry)
            return entry

        return register

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            known = ", ".join(sorted(self._entries))
            close = nearest(name, self._entries)
            raise ConfigError(f"no {self.what} is called {name!r}.{close} Known are {known}.")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))


def _owner(entry: object) -> str:
    kind = entry if hasattr(entry, "__qualname__") else type(entry)
    return f"{getattr(kind, '__module__', '?')}.{getattr(kind, '__qualname__', kind)}"
