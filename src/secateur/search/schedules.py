"""How a target is approached in several rounds.

    what remains, target 0.3 in 4 rounds      linear     0.825  0.65  0.475  0.3     the same amount each time
                                              agp        0.595  0.387 0.311  0.3     much at first, ever less later
                                              geometric  0.740  0.548 0.405  0.3     the same share of what is left

Invariant: shares never rise, and the last one is the target itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from secateur.core.options import whole_number
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


def schedule(name: str, steps: int, constraints: Mapping[str, str]) -> list[dict[str, str]]:
    """Constraints on the way to these, the last of them: what to ask of each round of an iterative pruner.

    >>> schedule("linear", 4, {"macs": "20%"})
    [{'macs': '80%'}, {'macs': '60%'}, {'macs': '40%'}, {'macs': '20%'}]

    Raises ConfigError for an unknown name, InputError for a constraint that is no share, and unless steps ≥ 1.
    """
    if not isinstance(constraints, Mapping):
        raise InputError(f'the constraints of a schedule are written {{"macs": "30%"}}, not {constraints!r:.60}')
    steps = whole_number(steps)
    shares = {metric: SCHEDULES[name](_share(metric, bound), steps) for metric, bound in constraints.items()}
    rounds = [{metric: f"{100 * at[step]:.10g}%" for metric, at in shares.items()} for step in range(steps)]
    return [*rounds[:-1], dict(constraints)]


def _share(metric: str, bound: str) -> float:
    try:
        return float(bound.removesuffix("%")) / 100 if bound.endswith("%") else float("nan")
    except (ValueError, AttributeError):
        raise InputError(f"{metric}: a schedule leads to a share such as '60%', not {bound!r}") from None


def _shares(target: float, steps: int, at: Callable[[float], float]) -> tuple[float, ...]:
    if not 0 < target <= 1:
        raise InputError(f"what remains at the end of a schedule is more than 0 and at most 1, not {target!r}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"a schedule has at least one step, a whole number, not {steps!r}")
    return (*(at(step / steps) for step in range(1, steps)), target)
