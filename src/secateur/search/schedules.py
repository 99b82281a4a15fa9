"""How a target is approached in several rounds.

    what remains, target 0.3 in 4 rounds      linear     0.825  0.65  0.475  0.3     the same amount each time
                                              agp        0.595  0.387 0.311  0.3     much at first, ever less later
                                              geometric  0.740  0.548 0.405  0.3     the same share of what is left

Invariant: shares never rise, and the last one is the target itself.
"""

from __future__ import annotations

from collections.abc import Callable

from secateur.core.registry import Registry
from secateur.errors import InputError

Schedule = Callable[[float, int], tuple[float, ...]]

SCHEDULES: Registry[Schedule] = Registry("schedule")


@SCHEDULES.add("linear")
def linear(target: float, steps: int) -> tuple[float, ...]:
    """Remaining shares that fall by the same amount in each step."""
    return _shares(target, steps, lambda progress: 1 - (1 - target) * progress)


@SCHEDULES.add("agp")
def agp(target: float, steps: int) -> tuple[float, ...]:
    """Remaining shares on a cubic curve (Zhu and Gupta, "To prune, or not to prune", 2017)."""
    return _shares(target, steps, lambda progress: target + (1 - target) * (1 - progress) ** 3)


@SCHEDULES.add("geometric")
def geometric(target: float, steps: int) -> tuple[float, ...]:
    """Remaining shares of which each is the same part of the one before."""
    return _shares(target, steps, lambda progress: target**progress)


def schedule(name: str, steps: int, final: float) -> list[float]:
    """Cumulative removal ratios, the last of them ``final``: what to ask of each round of an iterative pruner.

    >>> schedule("linear", 4, 0.8)
    [0.2, 0.4, 0.6, 0.8]

    Raises ConfigError for an unknown name, InputError unless 0 ≤ final < 1 and steps ≥ 1.
    """
    shares = SCHEDULES[name](1 - final, steps)
    return [*(round(1 - share, 12) for share in shares[:-1]), final]


def _shares(target: float, steps: int, remaining: Callable[[float], float]) -> tuple[float, ...]:
    if not 0 < target <= 1:
        raise InputError(f"what remains at the end of a schedule is more than 0 and at most 1, not {target!r}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"a schedule has at least one step, a whole number, not {steps!r}")
    return (*(remaining(step / steps) for step in range(1, steps)), target)
