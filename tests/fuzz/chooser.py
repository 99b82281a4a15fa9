"""Where the generator's decisions come from.

    random.Random(seed) ──┐
                          ├── Chooser.integer(low, high) ── pick, chance ── the whole network
    Hypothesis' draw   ───┘

Everything that is decided is an integer from a small range, and low numbers mean the simpler thing (the first
option, "no", a small width). That is what makes a failing network shrink to a short one under Hypothesis.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Chooser(ABC):
    """The one source of decisions while a network is built."""

    @abstractmethod
    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]."""

    def pick(self, options: Sequence[T]) -> T:
        """One of the options; the first is the simplest."""
        return options[self.integer(0, len(options) - 1)]

    def chance(self, percent: int) -> bool:
        """True in about `percent` of a hundred cases; False is the simpler answer."""
        return self.integer(0, 99) >= 100 - percent

    def span(self, decide: Callable[[], T]) -> T:
        """Run `decide`, whose decisions belong together (and can be left out together)."""
        return decide()


class RandomChooser(Chooser):
    """Decisions from a seeded pseudo-random generator."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)


class DrawChooser(Chooser):
    """Decisions drawn (and therefore shrunk) by Hypothesis."""

    def __init__(self, draw: Callable[..., Any]) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return low if low == high else self._draw(st.integers(low, high))

    def span(self, decide: Callable[[], T]) -> T:
        return self._draw(st.builds(decide))
