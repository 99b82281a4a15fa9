"""Several processes that search together: what a search asks of them.

Invariant: every rank calls the same methods in the same order; where there is one process, `ALONE`, nothing is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from secateur.core.plan import Plan


class Ranks(Protocol):
    """The processes of one search."""

    @property
    def number(self) -> int:
        """Which of them this is, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Each number, added up over all ranks."""
        ...

    def agree(self, what: str, held: str | Plan) -> None:
        """Raise SecateurError, on every rank, unless all of them hold the same text or plan."""
        ...


class _Alone:
    number, size = 0, 1

    def sum(self, numbers: Sequence[float]) -> list[float]:
        return list(numbers)

    def agree(self, what: str, held: str | Plan) -> None:
        """One process agrees with itself."""


ALONE: Ranks = _Alone()
