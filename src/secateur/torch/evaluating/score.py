"""What a user's ``eval_fn`` says of a network, and what that depends on.

    def eval_fn(model, loader): return accuracy                              a number (or tensor of one), higher is better

    def eval_fn(model, loader):                                              or a generator of (share of the data, score
        for seen, batch in enumerate(loader, 1):                             so far): a search may then stop early
            …
            yield seen / len(loader), correct / total

Invariant: a network is judged without gradients and with random numbers of its own, so that neither the order of
evaluations nor the process they run in changes a score; the caller's random state is as before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from types import GeneratorType
from typing import Any

import torch
from torch import nn

from secateur.errors import InputError
from secateur.torch.running.randomness import seeded

EvalFn = Callable[..., Any]


Running = tuple[tuple[float, float], ...]  # (share of the data, score so far), shares ascending


FEWEST_RIVALS = 3  # finished candidates before any is abandoned


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """``value`` over ``share`` of the data (1.0 unless abandoned), None where it is not a number."""

    value: float | None
    share: float = 1.0
    running: Running = ()


def score_of(eval_fn: EvalFn, model: nn.Module, args: Sequence[Any], *, rivals: Sequence[Running] = ()) -> Score:
    """Judge a model. A generator is abandoned once its score is below the median of its rivals' at the same share.

    Raises InputError where ``eval_fn`` gives something other than a number or pairs of numbers.
    """
    given = eval_fn(model, *args)
    if not isinstance(given, GeneratorType):
        return Score(value=_finite(_number(given)))
    running: list[tuple[float, float]] = []
    for entry in given:
        share, value = _pair(entry)
        if _finite(value) is None:
            return Score(value=None, running=tuple(running))
        running.append((share, value))
        if share < 1 and _is_behind(share, value, rivals):
            given.close()
            return Score(value=value, share=share, running=tuple(running))
    if not running:
        raise InputError("eval_fn is a generator that yielded nothing: yield (share of the data, score so far)")
    return Score(value=running[-1][1], running=tuple(running))


def check_args(args: Any, name: str) -> None:
    """Raise InputError unless these are arguments that follow the model in a call."""
    if not isinstance(args, tuple | list):
        raise InputError(f"{name} is a tuple of what follows the model in the call: write ({type(args).__name__},)")


@contextmanager
def judging(seed: int) -> Iterator[None]:
    """No gradients, and random numbers from ``seed`` for the length of the block."""
    with torch.no_grad(), seeded(seed):
        yield


def _is_behind(share: float, value: float, rivals: Sequence[Running]) -> bool:
    reached = [[v for s, v in running if s <= share + 1e-9] for running in rivals]
    at_share = [values[-1] for values in reached if values]
    return len(at_share) >= FEWEST_RIVALS and value < median(at_share)


def _pair(entry: Any) -> tuple[float, float]:
    if not isinstance(entry, tuple | list) or len(entry) != 2:
        raise InputError(f"eval_fn yields (share of the data, score so far), not {str(entry)[:60]}")
    share, value = map(_number, entry)
    if not 0 < share <= 1 + 1e-9:
        raise InputError(f"eval_fn yields the share of the data seen, more than 0 and at most 1, not {share!r}")
    return min(share, 1.0), value


def _number(given: Any) -> float:
    if isinstance(given, torch.Tensor) and given.numel() == 1:
        return float(given.detach())
    if isinstance(given, str) or not hasattr(given, "__float__") or getattr(given, "size", 1) != 1:
        raise InputError(
            f"eval_fn gives one number, higher is better, not {type(given).__name__}: {str(given)[:60]}. "
            "Return the number to rank by"
        )
    return float(given)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
