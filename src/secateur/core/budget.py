"""How large the result may be: upper bounds on costs, several at once.

    {"macs": "60%", "params": 3e6}   ->   macs ≤ 2.75G (60% of 4.59G), params ≤ 3.00M (12% of 25.56M)

A share is taken of the whole graph when the budget is made, so that it means the same in every later round. ``flops``
are 2 × MACs, whatever others call them.

Invariant: bounds are integers, as costs are; a budget is met or it is not, with no tolerance.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.core.cached import KV_CACHE, check_cache_name, is_of_cache, sized
from secateur.core.text import human
from secateur.errors import ConfigError, InputError, nearest

if TYPE_CHECKING:
    from secateur.core.cost import Counts
    from secateur.core.graph import Graph

LATENCY = "latency_ms"  # a bound beside those on costs: it is measured
COSTS = (
    "macs",
    "params",
    "params_without_batchnorm",
    "weight_bytes",
    KV_CACHE,
    "peak_activation_bytes",
    "peak_memory_bytes",
)
_TIMES = {"flops": ("macs", 2)}  # metrics that are a multiple of another one
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,3})?)\s*([%kKMGT]?)\s*")
_MOST_DIGITS, _LARGEST = 40, 10**30  # text to read, and what to make of it: a power of ten costs its own length
_SCALE = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """An upper bound on one metric; ``whole`` is what the whole network costs."""

    metric: str
    most: int
    whole: int

    def __str__(self) -> str:
        share = f" ({100 * self.most / self.whole:.3g}% of {human(self.whole)})" if self.whole else ""
        return f"{self.metric} ≤ {human(self.most)}{share}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Upper bounds that hold together, at most one for each metric."""

    entries: tuple[Bound, ...]

    @classmethod
    def of(cls, budget: Budget | Mapping[str, Any], graph: Graph) -> Budget:
        """Read ``{"macs": "60%", "params": 3e6, "weight_bytes": "10M"}``; a Budget is returned as it is.

        Raises ConfigError for an unknown metric or a bound that is no positive number, InputError for no mapping.
        """
        if isinstance(budget, Budget):
            for bound in budget.entries:
                _check_metric(bound.metric, graph)
            return budget
        if not isinstance(budget, Mapping):
            raise InputError(f'a budget is written as {{"macs": "60%"}}, not as {type(budget).__name__}')
        if not budget:
            raise InputError('a budget needs at least one bound, for example {"macs": "60%"}')
        return cls(entries=tuple(_bound(metric, bound, graph) for metric, bound in budget.items()))

    @property
    def bounds(self) -> dict[str, int]:
        """The largest value each metric may take."""
        return {bound.metric: bound.most for bound in self.entries}

    def costs(self, graph: Graph, counts: Counts | None = None) -> dict[str, Any]:
        """What these counts cost in every metric of this budget: ints, or integer arrays for arrays of candidates."""
        return {bound.metric: measure(graph, bound.metric, counts) for bound in self.entries}

    def satisfied(self, costs: Mapping[str, Any]) -> Any:
        """Whether every bound holds: a bool, or a boolean array for arrays of candidates."""
        met = [costs[bound.metric] <= bound.most for bound in self.entries]
        return np.logical_and.reduce(met) if any(isinstance(m, np.ndarray) for m in met) else all(met)

    def fullness(self, costs: Mapping[str, Any]) -> Any:
        """The largest used share of any bound: 1.0 is exactly full, above it is too much."""
        used = [costs[bound.metric] / bound.most for bound in self.entries]
        return np.maximum.reduce(used) if any(isinstance(u, np.ndarray) for u in used) else max(used)

    def to_json(self) -> dict[str, dict[str, int]]:
        """``{"macs": {"bound": 2753416396, "whole": 4589027328}}``."""
        return {bound.metric: {"bound": bound.most, "whole": bound.whole} for bound in self.entries}

    @classmethod
    def from_json(cls, data: object) -> Budget:
        """The budget that `to_json` wrote. Raises ConfigError for anything else."""
        entries = []
        for metric, entry in data.items() if isinstance(data, dict) else ():
            match entry:
                case {"bound": int() as bound, "whole": int() as whole} if len(entry) == 2 and bound > 0 <= whole:
                    entries.append(Bound(metric=str(metric), most=bound, whole=whole))
                case _:
                    raise ConfigError(f"not a budget: {metric!r} needs a positive bound and a whole")
        if not entries:
            raise ConfigError(f"not a budget: {str(data)[:80]}")
        return cls(entries=tuple(entries))

    def __str__(self) -> str:
        return ", ".join(map(str, self.entries))


def measure(graph: Graph, metric: str, counts: Counts | None = None) -> Any:
    """A cost of the graph, derived metrics (flops) included."""
    if metric in graph.costs or metric not in _TIMES:
        return graph.cost(metric, counts)
    base, times = _TIMES[metric]
    return times * graph.cost(base, counts)


def check_bounds(bounds: Mapping[str, Any]) -> None:
    """Raise ConfigError for what no network can be bounded by: an unknown cost, a bound that is no positive number."""
    for metric, bound in bounds.items():
        _check_name(metric, (*COSTS, *_TIMES, LATENCY))
        _checked(metric, bound)


def _bound(metric: str, bound: object, graph: Graph) -> Bound:
    _check_metric(metric, graph)
    whole = int(measure(graph, metric))
    number, is_share = _checked(metric, bound)
    value = math.floor(whole * number if is_share else number)
    if value < 1:
        raise ConfigError(f"{metric}: {bound!r} of {whole} leaves nothing")
    return Bound(metric=metric, most=value, whole=whole)


def _check_metric(metric: str, graph: Graph) -> None:
    if is_of_cache(metric):
        sized(graph.costs, metric)
        return
    known = [*graph.costs, *(name for name, (base, _) in _TIMES.items() if base in graph.costs)]
    if metric == LATENCY and metric not in known:
        raise ConfigError(
            f"{metric} is measured, which secateur.prune does: prune under it, or bound what is counted, such as macs"
        )
    _check_name(metric, known)
    if metric in graph.costs and not graph.costs[metric].monotone:
        raise ConfigError(
            f"{metric} cannot be bounded: a wider network may cost less of it, and a search relies on more"
        )


def _check_name(metric: str, known: Collection[str]) -> None:
    if is_of_cache(metric):
        check_cache_name(metric)
    elif metric not in known:
        told = sorted({*known, KV_CACHE, f"{KV_CACHE}@8x4096"})
        raise ConfigError(f"no cost is called {metric!r}.{nearest(metric, known)} Known are {', '.join(told)}.")


def _checked(metric: str, bound: object) -> tuple[Fraction, bool]:
    """The number, and whether it is a share; it is one that a network can have."""
    number, is_share = _read(metric, bound)
    if is_share and not 0 < number <= 1:
        raise ConfigError(f"{metric}: {bound!r} is no share of the network; write more than 0% and at most 100%")
    if not is_share and number < 1:
        way_out = f" For a share of the network write '{100 * float(number):g}%'." if number > 0 else ""
        raise ConfigError(f"{metric}: a bound must be at least 1, not {bound!r}.{way_out}")
    return number, is_share


def _read(metric: str, bound: object) -> tuple[Fraction, bool]:
    """The number, exactly as written, and whether it is a share."""
    if isinstance(bound, str):
        found = _NUMBER.fullmatch(bound) if len(bound) <= _MOST_DIGITS else None
        if found is not None and abs(float(found[1])) > _LARGEST:
            raise ConfigError(f"{metric}: {bound!r} is beyond all networks; write at most {_LARGEST:.0e}")
        if found is None:
            raise ConfigError(f"{metric}: cannot read {bound[:_MOST_DIGITS]!r}; write a number, '60%' or '3M'")
        number, unit = Fraction(found[1]), found[2]
        return (number / 100, True) if unit == "%" else (number * _SCALE[unit], False)
    if isinstance(bound, bool) or not isinstance(bound, int | float | np.integer | np.floating):
        raise ConfigError(f"{metric}: a bound is a number or a share such as '60%', not {type(bound).__name__}")
    if not abs(bound) <= _LARGEST:  # NaN is not either
        shown = "NaN" if bound != bound else f"{'-' if bound < 0 else ''}{_LARGEST:.0e} and beyond"
        raise ConfigError(f"{metric}: a bound must be a finite number that a network can have, not {shown}")
    return Fraction(float(bound) if isinstance(bound, float | np.floating) else int(bound)), False
