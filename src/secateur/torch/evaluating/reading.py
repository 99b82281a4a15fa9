"""What a user's ``score_func`` gave: a number, or a generator of (share of the data, score so far).

Invariant: a generator is abandoned only where it is behind the median of its rivals at the same share of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from types import GeneratorType
from typing import Any

import torch
from torch import nn

from secateur.errors import InputError
from secateur.search.measured import Evaluation, Running

ScoreFunc = Callable[[nn.Module], Any]  # a number, a tensor of one, or a generator of pairs

FEWEST_RIVALS = 3  # finished candidates before any is abandoned


def check_score_func(given: object) -> None:
    """Raise InputError for what cannot be called."""
    if not callable(given):
        raise InputError(
            f"score_func is called as score_func(model) and gives a number, higher is better; not {given!r:.60}"
        )


def evaluation_of(given: object, rivals: Sequence[Running] = ()) -> Evaluation:
    """Read what a score function gave. Raises InputError where that is neither a number nor pairs of numbers."""
    if not isinstance(given, GeneratorType):
        return Evaluation(value=_finite(_number(given)))
    running: list[tuple[float, float]] = []
    for entry in given:
        share, value = _pair(entry)
        if _finite(value) is None:
            return Evaluation(value=None, running=tuple(running))
        running.append((share, value))
        if share < 1 and _is_behind(share, value, rivals):
            given.close()
            return Evaluation(value=value, share=share, running=tuple(running))
    if not running:
        raise InputError("score_func is a generator that yielded nothing: yield (share of the data, score so far)")
    return Evaluation(value=running[-1][1], running=tuple(running))


def _is_behind(share: float, value: float, rivals: Sequence[Running]) -> bool:
    reached = [[v for s, v in running if s <= share + 1e-9] for running in rivals]
    at_share = [values[-1] for values in reached if values]
    return len(at_share) >= FEWEST_RIVALS and value < median(at_share)


def _pair(entry: object) -> tuple[float, float]:
    if not isinstance(entry, tuple | list) or len(entry) != 2:
        raise InputError(f"score_func yields (share of the data, score so far), not {str(entry)[:60]}")
    share, value = map(_number, entry)
    if not 0 < share <= 1 + 1e-9:
        raise InputError(f"score_func yields the share of the data seen, more than 0 and at most 1, not {share!r}")
    return min(share, 1.0), value


def _number(given: Any) -> float:
    if isinstance(given, torch.Tensor) and given.numel() == 1:
        return float(given.detach())
    if isinstance(given, str) or not hasattr(given, "__float__") or getattr(given, "size", 1) != 1:
        raise InputError(
            f"score_func gives one number, higher is better, not {type(given).__name__}: {str(given)[:60]}. "
            "Return the number to rank by"
        )
    return float(given)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
