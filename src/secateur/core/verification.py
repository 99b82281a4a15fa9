"""What was compared when a narrowed model was checked, and how closely it agreed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The outcome of comparing narrowed with masked.

    ``max_difference`` is relative to the largest masked output; ``compared`` and ``not_compared`` name the narrowed widths
    that are exact (compared) and inexact (a statistic runs over them: the narrowed model is another function by design).
    """

    max_difference: float
    tolerance: float
    dtype: str
    compared: tuple[str, ...]
    not_compared: tuple[str, ...]
    seconds: float
    skipped: str | None = None

    @classmethod
    def none_made(cls, reason: str) -> Verification:
        """No comparison was made, for this reason."""
        return cls(
            max_difference=float("nan"),
            tolerance=0.0,
            dtype="",
            compared=(),
            not_compared=(),
            seconds=0.0,
            skipped=reason,
        )

    @property
    def passed(self) -> bool:
        """Whether a comparison was made and agreed."""
        return self.skipped is None and self.max_difference <= self.tolerance

    def __str__(self) -> str:
        if self.skipped is not None:
            return f"not verified: {self.skipped}"
        verdict = "verified" if self.passed else "WRONG"
        rest = f"; {len(self.not_compared)} inexact by design, seen to run" if self.not_compared else ""
        return (
            f"{verdict}: narrowed = masked on {len(self.compared)} exact widths, max difference {self.max_difference:.1e} "
            f"(bound {self.tolerance:.0e}, {self.dtype}){rest}"
        )
