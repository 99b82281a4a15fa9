"""A check: one claim, with its name, to be called by whatever test runner you use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One claim about what is checked; calling it raises AssertionError where the claim does not hold."""

    name: str
    run: Callable[[], None]

    def __call__(self) -> None:
        self.run()

    def __str__(self) -> str:
        return self.name
