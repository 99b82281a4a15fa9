"""Mask rules that rank: a score for each row, the lowest share goes.

    SaliencyRule   Σ |w| of the row              FPGMRule   Σ of distances to the other rows
    LSTMSaliencyRule                             the same as saliency: the rows of a unit's four gates are added up

Where several rows stand for one unit (gates; tensors that a residual adds), scores are summed over them and the smallest
``sparsity_level`` counts, so that all of them mask the same units. What was masked before stays masked.

Invariant: ``floor(level × size)`` units of every width that a configured tensor produces are masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from secateur.core.graph import Graph
from secateur.core.layout import Indices, Values
from secateur.core.positions import finest, places
from secateur.errors import ConfigError, InputError, nearest
from secateur.torch.criteria.fpgm import sum_of_distances
from secateur.torch.pruners.sparsifier.entries import Entry
from secateur.torch.running.describing import described

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


_KEYS = ("tensor_fqn", "sparsity_level", "prune_bias")


@runtime_checkable
class RowScores(Protocol):
    """A rule that ranks. ``sparsity_level`` holds where a configuration has none."""

    @property
    def sparsity_level(self) -> float: ...

    def scores(self, weight: torch.Tensor) -> torch.Tensor:
        """The score of each row of a weight, ``[rows]``: the lowest go first."""
        ...


@dataclass(frozen=True, kw_only=True)
class SaliencyRule:
    """The L1 norm of each row."""

    sparsity_level: float = 0.5

    def scores(self, weight: torch.Tensor) -> torch.Tensor:
        """Σ |w| of each row."""
        return weight.flatten(1).abs().sum(1) if weight.dim() > 1 else weight.abs()


@dataclass(frozen=True, kw_only=True)
class LSTMSaliencyRule(SaliencyRule):
    """The L1 norm of the rows of all four gates of a unit: a unit leaves an LSTM only as a whole."""


@dataclass(frozen=True, kw_only=True)
class FPGMRule:
    """Filter pruning via the geometric median: the sum of each row's distances to all rows.

    ``dist`` is 1 or 2 for that norm, or a function of two matrices ``[rows, m]`` that gives distances ``[rows, rows]``.
    """

    sparsity_level: float = 0.5
    dist: int | Distance = 2

    def __post_init__(self) -> None:
        if not callable(self.dist) and self.dist not in (1, 2):
            raise ConfigError(f"dist is 1, 2 or a function of two matrices, not {self.dist!r}")

    def scores(self, weight: torch.Tensor) -> torch.Tensor:
        """How far each row is from all the others together."""
        rows = weight.flatten(1) if weight.dim() > 1 else weight.unsqueeze(1)
        if callable(self.dist):
            return self.dist(rows, rows).sum(1)
        return sum_of_distances(rows) if self.dist == 2 else torch.cdist(rows, rows, p=1).sum(1)


@torch.no_grad()
def mask_lowest(rule: RowScores, entries: Sequence[Entry], graph: Graph) -> None:
    """Set the row masks of all entries by their rule."""
    outer = {w.name: w.outer for w in graph.widths if w.outer is not None}
    ranked: dict[str, list[tuple[Entry, Indices, Values, float]]] = {}
    for entry in entries:
        level = float(rule.sparsity_level if entry.level is None else entry.level)
        scores = _scores(rule, entry).cpu().double().masked_fill(~entry.mask.cpu(), -math.inf).numpy()
        targets = set(finest(entry.axis))
        for name, positions in places(entry.axis, outer):
            if name in targets:
                ranked.setdefault(name, []).append((entry, positions, scores[positions].sum(-1), level))
        if not targets:
            entry.mask[torch.from_numpy(_lowest(scores, level))] = False
    for parts in ranked.values():
        level = min(level for _, _, _, level in parts)
        gone = _lowest(np.sum([scores for _, _, scores, _ in parts], axis=0), level)
        for entry, positions, _, _ in parts:
            entry.mask[torch.from_numpy(_rows(positions, gone))] = False


def _scores(rule: RowScores, entry: Entry) -> torch.Tensor:
    """One number for each row. Raises InputError for anything else: NaN would go or stay by chance."""
    found: object = rule.scores(entry.weight)
    if not isinstance(found, torch.Tensor) or found.shape != entry.mask.shape or bool(found.isnan().any()):
        what = described(found) if not isinstance(found, torch.Tensor) or found.shape != entry.mask.shape else "NaN"
        raise InputError(
            f"{entry.fqn}: scores of {type(rule).__name__} is a tensor with a number for each of the {len(entry.mask)} rows, "
            f"not {what}"
        )
    return found


def check_ranked(config: Mapping[str, object], rule: RowScores) -> None:
    """Raise ConfigError for a key that ranking would not read, and for a level that is none, be it the rule's own."""
    level = config.get("sparsity_level")
    level = rule.sparsity_level if level is None else level
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 <= level <= 1:
        raise ConfigError(f"config: {config['tensor_fqn']}: sparsity_level is a share from 0 to 1, not {level!r}")
    for key in config:
        if key not in _KEYS:
            raise ConfigError(
                f"config: {config['tensor_fqn']}: this rule reads no key {key!r}.{nearest(key, _KEYS)} "
                f"It knows {', '.join(_KEYS)}."
            )


def _rows(positions: Indices, gone: Indices) -> Indices:
    if gone.ndim == 1:
        return np.unique(positions.reshape(-1, *positions.shape[-2:])[:, gone])
    spread = np.broadcast_to(positions, (len(gone), *positions.shape[-2:]))
    return np.unique(np.take_along_axis(spread, gone[:, :, None], axis=1))


def _lowest(scores: Values, level: float) -> Indices:
    """The lowest share along the last axis; ties go by index."""
    count = math.floor(scores.shape[-1] * level + 1e-9)
    return np.sort(np.argsort(scores, axis=-1, kind="stable")[..., :count], axis=-1)
