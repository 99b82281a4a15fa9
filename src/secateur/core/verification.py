"""What was compared when a narrowed model was checked, and how closely it agreed.

    the example, in evaluation                 logits           2.2e-15 of its largest number      bound 1e-12   float64
    fresh inputs, in training, with gradients  logits and 161   8.1e-07                            bound 4e-06   float32

Invariant: what passed was compared; where nothing could be, ``skipped`` says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One run of the masked and one of the narrowed network, on the same inputs and in the same mode.

    ``outputs`` names what was compared, by its place in the output; ``gradients`` counts the parameters whose gradients
    were. ``difference`` is relative to the largest number of the output or gradient that differs most for its ``bound``,
    which follows how much of the last place of the weights comes through. ``second``: how a second call in a row, for which
    the first left something, failed as it does before any narrowing. ``expected``: random
    numbers had their expected value in both networks, since one that is narrower draws fewer.
    """

    inputs: str
    mode: str
    dtype: str
    outputs: tuple[str, ...]
    gradients: int
    difference: float
    bound: float
    second: str = ""
    expected: bool = False

    @property
    def passed(self) -> bool:
        """Whether the two agreed."""
        return self.difference <= self.bound

    def __str__(self) -> str:
        gradients = f" with the gradients of {self.gradients} parameters" if self.gradients else ""
        return (
            f"{self.inputs} in {self.mode}{gradients}: {self.difference:.1e} (bound {self.bound:.0e}, {self.dtype}) "
            f"over {listed(self.outputs)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The outcome of comparing narrowed with masked.

    ``compared`` and ``not_compared`` name the narrowed widths that are exact (compared) and inexact (a statistic runs over
    them: the narrowed model is another function by design, but no unit may have a number of its own: another order of them
    was seen to change nothing). ``notes`` say what else could not be compared, and why;
    ``frozen`` which widths were left whole because narrowing them changed what the network computes.
    """

    comparisons: tuple[Comparison, ...] = ()
    compared: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    frozen: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: str | None = None

    @classmethod
    def none_made(cls, reason: str) -> Verification:
        """No comparison was made, for this reason."""
        return cls(skipped=reason)

    @property
    def passed(self) -> bool:
        """Whether a comparison was made, and all agreed."""
        return self.skipped is None and bool(self.comparisons) and all(one.passed for one in self.comparisons)

    @property
    def closest(self) -> Comparison | None:
        """The comparison with the narrowest bound."""
        return min(self.comparisons, key=lambda one: one.bound, default=None)

    @property
    def max_difference(self) -> float:
        """The difference in the closest comparison; NaN where there was none."""
        return self.closest.difference if self.closest is not None else float("nan")

    @property
    def tolerance(self) -> float:
        """The bound of the closest comparison."""
        return self.closest.bound if self.closest is not None else 0.0

    @property
    def dtype(self) -> str:
        """The numbers that the closest comparison was made with."""
        return self.closest.dtype if self.closest is not None else ""

    @property
    def lines(self) -> tuple[str, ...]:
        """The verdict, then a line for each comparison and what could not be compared."""
        if self.skipped is not None:
            return (f"not verified: {self.skipped}",)
        rest = f"; {len(self.not_compared)} inexact by design, seen to run" if self.not_compared else ""
        return (
            f"{'verified' if self.passed else 'WRONG'}: narrowed = masked on {len(self.compared)} exact widths{rest}",
            *map(str, self.comparisons),
            *(f"left whole: {name}: {reason}" for name, reason in self.frozen.items()),
            *(f"not compared: {note}" for note in self.notes),
        )

    def __str__(self) -> str:
        return "\n  ".join(self.lines)


def listed(names: tuple[str, ...]) -> str:
    """The first names, and how many more there are.

    >>> listed(("logits", "hidden[0]", "hidden[1]", "hidden[2]", "hidden[3]"))
    'logits, hidden[0], hidden[1] and 2 more'
    """
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
